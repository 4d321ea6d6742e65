//! A message now and then during a long wait, so that whoever watches knows that it goes on, and for what.

use super::clock::Stopwatch;
use super::doors::Doors;
use std::time::Duration;

/// Silence before the first message.
const FIRST: Duration = Duration::from_secs(15);
/// Silence between later messages.
const THEN: Duration = Duration::from_secs(30);

/// A single wait.
#[derive(Debug)]
pub struct Patience {
    begun: Stopwatch,
    next: Duration,
}

impl Patience {
    /// Starts the wait now.
    pub fn new(doors: Doors) -> Patience {
        Patience { begun: doors.stopwatch(), next: doors.limit("patience", FIRST) }
    }

    /// To be called at each check: when a message is due, logs what is waited for and for how long.
    pub fn still(&mut self, what: impl FnOnce() -> String) {
        let waited = self.begun.elapsed();
        if waited >= self.next {
            self.next = waited + THEN;
            tracing::info!("{} ({} s so far)", what(), waited.as_secs());
        }
    }
}
