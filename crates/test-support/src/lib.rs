//! What the tests of several crates share: how a command ended, commands in the background, waiting for a condition,
//! fail points and sweeps over them. Never packaged.
//!
//! ```no_run
//! let mut command = std::process::Command::new("blockhost-vm-status");
//! test_support::run(command.arg("web-1")).fails(&["VM web-1 is unknown"]);
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]

mod ended;
mod files;
mod promtool;
mod running;
pub mod schema;
mod sweep;
mod terminal;
mod waiting;

pub use ended::Ended;
pub use files::{edit, json, read, write};
pub use promtool::promtool;
pub use running::{Running, run, start};
pub use sweep::{points, sweep};
pub use terminal::on_terminal;
pub use waiting::{LONG, SOON, until};

/// A customer's wallet.
pub const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";
