//! Proxmox' number for a VM.

use super::Refused;

/// A VMID: 100 to 999999999 (PVE's own limits, pve-common JSONSchema `pve-vmid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vmid(u32);

impl Vmid {
    /// The template's VMID unless another is configured (`facts/contract/installer.md`).
    pub const DEFAULT_TEMPLATE: Vmid = Vmid(9001);

    /// Checks a number.
    pub fn new(number: u64) -> Result<Self, Refused> {
        match u32::try_from(number) {
            Ok(n @ 100..=999_999_999) => Ok(Vmid(n)),
            _ => Err(Refused::new("VMID", &number.to_string(), "it must be between 100 and 999999999")),
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for Vmid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Vmid {
    type Err = Refused;
    fn from_str(text: &str) -> Result<Self, Refused> {
        match text.parse() {
            Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) => Vmid::new(number),
            _ => Err(Refused::new("VMID", text, "it must be a number between 100 and 999999999")),
        }
    }
}

/// The VMIDs that we may allocate (`vmid_range` in db.yaml), both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmidRange {
    /// Our lowest VMID.
    pub start: Vmid,
    /// Our highest VMID.
    pub end: Vmid,
}

impl VmidRange {
    /// Whether `vmid` is in the range.
    pub fn contains(&self, vmid: Vmid) -> bool {
        (self.start..=self.end).contains(&vmid)
    }

    /// Returns all VMIDs, beginning with `first` (or with the start if `first` is outside the range) and wrapping once.
    pub fn from(&self, first: Vmid) -> impl Iterator<Item = Vmid> + use<> {
        let (start, end) = (self.start.0, self.end.0);
        let first = if self.contains(first) { first.0 } else { start };
        (first..=end).chain(start..first).map(Vmid)
    }
}

impl std::fmt::Display for VmidRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_and_signs_are_refused() {
        for bad in ["99", "1000000000", "-100", "+100", "", "1e3", "100 ", "18446744073709551616"] {
            assert!(bad.parse::<Vmid>().is_err(), "{bad}");
        }
        assert_eq!("100".parse::<Vmid>().unwrap().get(), 100);
    }

    #[test]
    fn h13_the_range_wraps_once_and_visits_each_vmid_once() {
        let vmid = |n| Vmid::new(n).unwrap();
        let range = VmidRange { start: vmid(100), end: vmid(104) };
        let all: Vec<u32> = range.from(vmid(103)).map(Vmid::get).collect();
        assert_eq!(all, [103, 104, 100, 101, 102]);
        let outside: Vec<u32> = range.from(vmid(900)).map(Vmid::get).collect();
        assert_eq!(outside, [100, 101, 102, 103, 104]);
    }
}
