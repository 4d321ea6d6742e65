//! The only clock.

use crate::value::uptime::Uptime;
use chrono::{DateTime, Utc};
use std::time::{Duration, Instant};

/// The wall clock's time.
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> DateTime<Utc> {
    if let Some(machine) = super::simulated::machine() {
        return machine.wall_clock();
    }
    Utc::now()
}

/// How long the machine has been up; `None` where it does not say which boot this is.
pub fn uptime() -> Option<Uptime> {
    if super::simulated::machine().is_some() {
        return None;
    }
    let boot_id = super::read_file::text("/proc/sys/kernel/random/boot_id").ok()?.trim().to_string();
    let seconds = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    (!boot_id.is_empty()).then_some(Uptime { boot_id, seconds })
}

/// Lets time pass. What should end at a signal sleeps by [`super::interrupt::Interrupt::sleep`].
pub fn sleep(time: Duration) {
    if let Some(machine) = super::simulated::machine() {
        return machine.sleep(time);
    }
    std::thread::sleep(time);
}

/// The clock that no one sets.
fn instant() -> Instant {
    if let Some(machine) = super::simulated::machine() {
        return machine.instant();
    }
    Instant::now()
}

/// Time that passes, by the clock that no one sets.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// From now.
    pub fn start() -> Stopwatch {
        Stopwatch(instant())
    }

    /// Since then.
    pub fn elapsed(&self) -> Duration {
        instant().saturating_duration_since(self.0)
    }
}

/// A point in time after which an operation gives up (hazard H23).
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// `limit` from now, by a clock that no one sets.
    pub fn after(limit: Duration) -> Deadline {
        Deadline(instant() + limit)
    }

    /// What is left; zero when it has passed.
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(instant())
    }

    /// Whether it has passed.
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// The earlier of this deadline and `limit` from now.
    pub fn at_most(&self, limit: Duration) -> Deadline {
        Deadline(self.0.min(instant() + limit))
    }
}
