//! A simulated machine behind the doors of this room, for one thread: the randomised simulation
//! (`tests/simulation`) runs whole operations against it, thousands in a second, with a clock of its own.
//!
//! Debug builds only, like [`super::failpoint`]: in the installed package, a release build, there is never one, and
//! nothing is left of what asks for it. Files, locks and everything above `host/` stay the real ones; what is simulated is what cannot be had
//! quickly or at will: time, the root agent, the node's API, child processes, and the faults of all of them.

use super::doors::Doors;
use super::run_process::{Ended, Program, RunError};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// What stands behind the doors.
pub trait Machine {
    /// The clock that no one sets.
    fn instant(&self) -> Instant;
    /// The wall clock.
    fn wall_clock(&self) -> DateTime<Utc>;
    /// Lets time pass.
    fn sleep(&self, time: Duration);
    /// A named point is passed ([`Doors::reached`]). To die here, it panics by
    /// `std::panic::resume_unwind`: the values of the operation go, and with them its locks, as with a process.
    fn reached(&self, point: &str) -> io::Result<()>;
    /// A file is about to be written; an error is that of the disk.
    fn before_write(&self) -> io::Result<()>;
    /// A shorter time limit ([`Doors::limit`]).
    fn limit(&self, name: &str) -> Option<Duration>;
    /// A connection to the root agent: our end of a pair.
    fn connect(&self) -> io::Result<UnixStream>;
    /// The request has been written; the machine reads it at its own end and answers there.
    fn answer(&self);
    /// A child process runs to its end ([`super::run_process::run`]).
    fn run(&self, program: &Program<'_>) -> Result<Ended, RunError>;
    /// A child process begins. It holds `lock` until its end.
    fn spawn(&self, program: &Program<'_>, output: &Path, lock: File) -> io::Result<Box<dyn Process>>;
    /// A request to the node's API: status and body; or why there was no answer.
    fn api(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Result<(u16, Value), String>;
}

/// A simulated child process.
pub trait Process {
    /// Its PID.
    fn id(&self) -> u32;
    /// How it ended, if it has.
    fn try_wait(&self) -> Option<ExitStatus>;
    /// SIGTERM.
    fn terminate(&self);
}

thread_local! {
    static DOORS: Cell<Doors> = Cell::new(Doors::real());
}

/// Until this value goes, this thread works on the simulated machine.
pub struct Inside(());

/// Enters a simulated machine.
pub fn enter(doors: Doors) -> Inside {
    DOORS.set(doors);
    Inside(())
}

impl Drop for Inside {
    fn drop(&mut self) {
        DOORS.set(Doors::real());
    }
}

impl Doors {
    /// Those of the thread.
    pub(super) fn of_thread() -> Doors {
        DOORS.get()
    }
}

/// The simulated machine of this thread.
pub(super) fn machine() -> Option<&'static (dyn Machine + Sync)> {
    DOORS.get().machine()
}
