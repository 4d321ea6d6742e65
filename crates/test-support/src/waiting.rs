//! Waiting for a condition.

use std::time::{Duration, Instant};

/// What is meant to come at once comes within this time, busy as the machine may be.
pub const SOON: Duration = Duration::from_secs(30);
/// Nothing in a test is meant to take this long: it only ends one that would hang.
pub const LONG: Duration = Duration::from_secs(90);

/// Waits until `seen`; fails with `what` when it does not come.
#[track_caller]
pub fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !seen() {
        assert!(Instant::now() < deadline, "did not come: {what}");
        std::thread::sleep(Duration::from_millis(4));
    }
}
