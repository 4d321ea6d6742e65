//! SIGTERM and SIGINT: the caller gives up. Operations check the flag between steps and end cleanly.

use super::doors::Doors;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether a signal asked us to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

/// The caller asked us to stop (SIGTERM or SIGINT).
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted by a signal")]
pub struct Interrupted;

impl Interrupt {
    /// Catches SIGTERM and SIGINT from now on. A second signal changes nothing: a rollback must run to its end, and
    /// whoever cannot wait can use SIGKILL, after which the next command recovers.
    pub fn install() -> std::io::Result<Interrupt> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(signal, flag.clone())?;
        }
        Ok(Interrupt(flag))
    }

    /// An interrupt that never arrives: for rollbacks, which must run to their end.
    pub fn never() -> Interrupt {
        Interrupt::default()
    }

    /// Simulates the signal, for tests that have no process of their own to send one to.
    pub fn request(&self, arrived: bool) {
        self.0.store(arrived, Ordering::Relaxed);
    }

    /// Whether the signal has arrived.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails once the signal has arrived.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.requested() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Sleeps, but wakes within 20 ms of a signal.
    pub fn sleep(&self, doors: Doors, mut time: Duration) {
        const SLICE: Duration = Duration::from_millis(20);
        while !time.is_zero() && !self.requested() {
            let slice = time.min(SLICE);
            doors.sleep(slice);
            time -= slice;
        }
    }
}
