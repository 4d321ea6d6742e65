//! A simulated machine behind the doors of this room: the randomised simulation (`tests/simulation`) puts one into its
//! [`super::Host`] and runs whole operations on it, thousands in a second, with a clock of its own.
//!
//! Debug builds only, like [`super::failpoint`]: the installed package, a release build, never has a simulated host,
//! and no code that checks for one. Files, locks and everything above `host/` are real. Simulated is what cannot be had
//! quickly or at will: time, the root agent, the node's API, child processes, and faults in all of them.

use super::run_process::{Ended, Program, RunError};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// What a simulated host provides.
pub trait Machine {
    /// The monotonic clock.
    fn instant(&self) -> Instant;
    /// The wall clock.
    fn wall_clock(&self) -> DateTime<Utc>;
    /// Sleeps: moves the simulated clock.
    fn sleep(&self, time: Duration);
    /// A named point is passed ([`super::doors::Doors::reached`]). To die here, it panics by
    /// `std::panic::resume_unwind`: the values of the operation go, and with them its locks, as with a process.
    fn reached(&self, point: &str) -> io::Result<()>;
    /// Called before a file is written; an error counts as the disk's.
    fn before_write(&self) -> io::Result<()>;
    /// A shorter time limit ([`super::doors::Doors::limit`]).
    fn limit(&self, name: &str) -> Option<Duration>;
    /// Connects to the root agent: returns our end of a socket pair.
    fn connect(&self) -> io::Result<UnixStream>;
    /// Called once the request has been written: the simulated host reads it at its own end and answers there.
    fn answer(&self);
    /// Runs a child process to its end ([`super::run_process::run`]).
    fn run(&self, program: &Program<'_>) -> Result<Ended, RunError>;
    /// Starts a child process, which holds `lock` until it ends.
    fn spawn(&self, program: &Program<'_>, output: &Path, lock: File) -> io::Result<Box<dyn Process>>;
    /// Sends a request to the node's API; returns status and body, or why there was no answer.
    fn api(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Result<(u16, Value), String>;
}

/// A simulated child process.
pub trait Process {
    /// Returns its PID.
    fn id(&self) -> u32;
    /// How it ended, if it has ended.
    fn try_wait(&self) -> Option<ExitStatus>;
    /// Delivers SIGTERM.
    fn terminate(&self);
}
