//! Reports the progress of long steps. Text lines go through `tracing` as everywhere else; this is for the progress
//! bar.

/// Receives progress reports.
pub trait Progress {
    /// A long step begins: `total` is its size in bytes if known, or 100 for percent.
    fn begin(&mut self, what: &str, total: Option<u64>, unit: Unit);
    /// The amount done so far.
    fn reach(&mut self, done: u64);
    /// The step has ended, successfully or not.
    fn end(&mut self);
}

/// The unit of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Percent.
    Percent,
}

/// Ignores all reports.
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: Option<u64>, _: Unit) {}
    fn reach(&mut self, _: u64) {}
    fn end(&mut self) {}
}
