//! The program's only clock.

use super::doors::Doors;
use super::interrupt::Interrupt;
use crate::value::uptime::Uptime;
use chrono::{DateTime, Utc};
use std::time::{Duration, Instant};

impl Doors {
    /// Returns the wall-clock time.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    pub fn now(self) -> DateTime<Utc> {
        self.machine().map_or_else(Utc::now, |machine| machine.wall_clock())
    }

    /// How long the host has been up; `None` if the kernel does not report a boot id.
    pub fn uptime(self) -> Option<Uptime> {
        if self.machine().is_some() {
            return None;
        }
        let boot_id = super::read_file::text("/proc/sys/kernel/random/boot_id").ok()?.trim().to_string();
        let seconds = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
        (!boot_id.is_empty()).then_some(Uptime { boot_id, seconds })
    }

    /// Lets time pass. What should end at a signal sleeps by [`super::Host::sleep`].
    pub fn sleep(self, time: Duration) {
        match self.machine() {
            Some(machine) => machine.sleep(time),
            None => std::thread::sleep(time),
        }
    }

    /// The point in time that is `limit` from now.
    pub fn deadline(self, limit: Duration) -> Deadline {
        Deadline { at: self.instant() + limit, doors: self }
    }

    /// The end of the time limit `name` ([`Doors::limit`]), counted from now.
    pub fn deadline_of(self, name: &str, usual: Duration) -> Deadline {
        self.deadline(self.limit(name, usual))
    }

    /// Counts time from now on.
    pub fn stopwatch(self) -> Stopwatch {
        Stopwatch { begun: self.instant(), doors: self }
    }

    /// The monotonic clock.
    fn instant(self) -> Instant {
        self.machine().map_or_else(Instant::now, |machine| machine.instant())
    }
}

/// Measures elapsed time by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    begun: Instant,
    doors: Doors,
}

impl Stopwatch {
    /// Since it was begun.
    pub fn elapsed(&self) -> Duration {
        self.doors.instant().saturating_duration_since(self.begun)
    }
}

/// A point in time after which an operation gives up (hazard H23), by the clock that no one sets.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    doors: Doors,
}

impl Deadline {
    /// Time left; zero once the deadline has passed.
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(self.doors.instant())
    }

    /// Whether the deadline has passed.
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// The earlier of this deadline and `limit` from now.
    pub fn at_most(&self, limit: Duration) -> Deadline {
        Deadline { at: self.at.min(self.doors.instant() + limit), ..*self }
    }

    /// Lets time pass, but not beyond the deadline.
    pub fn sleep(&self, time: Duration) {
        self.doors.sleep(time.min(self.left()));
    }

    /// The same, but wakes within 20 ms of a signal.
    pub fn sleep_unless(&self, interrupt: &Interrupt, time: Duration) {
        interrupt.sleep(self.doors, time.min(self.left()));
    }
}
