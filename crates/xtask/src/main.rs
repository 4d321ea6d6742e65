//! Development tasks: `cargo xtask test`, `cargo xtask demo`, `cargo xtask man`, `cargo xtask bench`.
#![allow(clippy::disallowed_methods, reason = "a development tool, never packaged")]

mod bench;
mod demo;
mod man;
mod python;
mod roff;
mod sh;
mod test;

use std::process::ExitCode;

const USAGE: &str = "Usage: cargo xtask TASK

  test    rustfmt, clippy, all Rust tests, shellcheck, Python tests; ends with `N passed, N failed`
  demo    builds everything and plays the whole life of a VM on a lab node
  man     makes the man pages and completions in debian/ from the definitions of the flags
  bench   builds for release and measures commands and library on a lab node";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => test::run(),
        ["demo"] => demo::run(),
        // The same without building: the tests play it with the binaries that ship.
        ["demo-here"] => demo::play(),
        ["man"] => man::write(),
        ["bench"] => bench::build_and_run(),
        // The same program built for release, so that it finds the release binaries beside itself.
        ["bench-here"] => bench::run(),
        ["measure", child @ ..] => bench::measure(child),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
