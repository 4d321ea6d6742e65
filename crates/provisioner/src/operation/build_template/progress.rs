//! Who is told how far a long part has come. Lines of text go through `tracing` as everywhere; this is for the bar.

/// A listener.
pub trait Progress {
    /// Something long begins: bytes of a known or unknown number, or percent where `total` is 100.
    fn begin(&mut self, what: &str, total: Option<u64>, unit: Unit);
    /// So much is done.
    fn reach(&mut self, done: u64);
    /// It is over, well or not.
    fn end(&mut self);
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Hundredths.
    Percent,
}

/// Nobody listens.
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: Option<u64>, _: Unit) {}
    fn reach(&mut self, _: u64) {}
    fn end(&mut self) {}
}
