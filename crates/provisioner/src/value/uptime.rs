//! A moment by the clock that no one sets.

/// How long a machine has been up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uptime {
    /// Which boot it is counted from; two of different boots cannot be compared.
    pub boot_id: String,
    /// Seconds since then, sleep included (`CLOCK_BOOTTIME`).
    pub seconds: i64,
}
