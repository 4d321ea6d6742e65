//! A moment by the uptime clock, which nobody can set.

/// How long a host has been up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uptime {
    /// The boot that it is counted from; times of different boots cannot be compared.
    pub boot_id: String,
    /// Seconds since boot, including sleep (`CLOCK_BOOTTIME`).
    pub seconds: i64,
}
