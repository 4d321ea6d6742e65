//! A word now and then during a long wait, so that whoever looks on knows that it goes on, and for what.

use super::clock::Stopwatch;
use super::doors::Doors;
use std::time::Duration;

/// Silence before the first word.
const FIRST: Duration = Duration::from_secs(15);
/// And between words.
const THEN: Duration = Duration::from_secs(30);

/// One wait.
#[derive(Debug)]
pub struct Patience {
    begun: Stopwatch,
    next: Duration,
}

impl Patience {
    /// The wait begins now.
    pub fn new(doors: Doors) -> Patience {
        Patience { begun: doors.stopwatch(), next: doors.limit("patience", FIRST) }
    }

    /// To be called at each look: says what is waited for, and since when, if it is time for a word.
    pub fn still(&mut self, what: impl FnOnce() -> String) {
        let waited = self.begun.elapsed();
        if waited >= self.next {
            self.next = waited + THEN;
            tracing::info!("{} ({} s so far)", what(), waited.as_secs());
        }
    }
}
