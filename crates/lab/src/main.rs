//! `lab`: see `lab --help`.

#![allow(
    clippy::disallowed_methods,
    reason = "the doors of the product are not the lab's: it is never part of it"
)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lab::main()
}
