//! The limits of a VM (`facts/contract/commands.md#throttle`), and how its record stores them.
//!
//! The record stores them under the key [`FIELD`], in an object with the keys of [`Limit::key`]; a missing limit is
//! unlimited. Keys of other programs in it are kept.

use serde_json::{Map, Value};

/// The record's key for its limits.
pub const FIELD: &str = "limits";

/// A resource that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Weight among the node's VMs when CPU time is short, 1 to 10000; Proxmox' default is 100.
    CpuShares,
    /// Percent of the VM's own vCPUs, 1 to 100.
    CpuQuota,
    /// Traffic that the guest receives, in kilobits per second.
    BandwidthIn,
    /// Traffic that the guest sends, in kilobits per second.
    BandwidthOut,
    /// Reads per second of each disk.
    IopsRead,
    /// Writes per second of each disk.
    IopsWrite,
}

impl Limit {
    /// All limits, in the order in which they are shown.
    pub const ALL: [Limit; 6] = [
        Limit::CpuShares,
        Limit::CpuQuota,
        Limit::BandwidthIn,
        Limit::BandwidthOut,
        Limit::IopsRead,
        Limit::IopsWrite,
    ];

    /// Returns the name shown to people: the flag without its leading hyphens.
    pub fn name(self) -> &'static str {
        match self {
            Limit::CpuShares => "cpu-shares",
            Limit::CpuQuota => "cpu-quota",
            Limit::BandwidthIn => "bandwidth-in",
            Limit::BandwidthOut => "bandwidth-out",
            Limit::IopsRead => "iops-read",
            Limit::IopsWrite => "iops-write",
        }
    }

    /// Returns its key in the record and in JSON output.
    pub fn key(self) -> &'static str {
        match self {
            Limit::CpuShares => "cpu_shares",
            Limit::CpuQuota => "cpu_quota",
            Limit::BandwidthIn => "bandwidth_in_kbps",
            Limit::BandwidthOut => "bandwidth_out_kbps",
            Limit::IopsRead => "iops_read",
            Limit::IopsWrite => "iops_write",
        }
    }

    /// Returns the highest value that the root agent accepts.
    pub fn highest(self) -> u32 {
        match self {
            Limit::CpuShares => 10_000,
            Limit::CpuQuota => 100,
            Limit::BandwidthIn | Limit::BandwidthOut => 100_000_000,
            Limit::IopsRead | Limit::IopsWrite => 10_000_000,
        }
    }

    /// Whether it is a property of the VM's network card and is not kept in the VM's configuration.
    pub fn is_bandwidth(self) -> bool {
        matches!(self, Limit::BandwidthIn | Limit::BandwidthOut)
    }

    /// Formats a value with its unit, for a person; 0 is unlimited, or the default for CPU shares.
    pub fn in_words(self, value: u32) -> String {
        match (self, value) {
            (Limit::CpuShares, 0) => "default".to_string(),
            (_, 0) => "unlimited".to_string(),
            (Limit::CpuShares, value) => value.to_string(),
            (Limit::CpuQuota, value) => format!("{value} %"),
            (Limit::BandwidthIn | Limit::BandwidthOut, value) => format!("{value} kbit/s"),
            (Limit::IopsRead | Limit::IopsWrite, value) => format!("{value} per second"),
        }
    }
}

/// A value for each limit; 0 means unlimited, and for CPU shares Proxmox' default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits([u32; Limit::ALL.len()]);

impl Limits {
    /// Returns the value of a limit; 0 means unlimited, and for CPU shares Proxmox' default.
    pub fn get(&self, limit: Limit) -> u32 {
        self.0[limit as usize]
    }

    /// Sets the value of a limit.
    pub fn set(&mut self, limit: Limit, value: u32) {
        self.0[limit as usize] = value;
    }

    /// Reads a record's [`FIELD`]; an error names the unusable key.
    pub fn from_record(field: Option<&Value>) -> Result<Limits, String> {
        let mut limits = Limits::default();
        let fields = match field {
            None | Some(Value::Null) => return Ok(limits),
            Some(Value::Object(fields)) => fields,
            Some(other) => return Err(format!("{FIELD}: expected an object, found {}", shortened(other))),
        };
        for limit in Limit::ALL {
            let Some(value) = fields.get(limit.key()).filter(|value| !value.is_null()) else { continue };
            let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= limit.highest());
            let number =
                number.ok_or_else(|| format!("{FIELD}: {}: found {}", limit.key(), shortened(value)))?;
            limits.set(limit, number);
        }
        Ok(limits)
    }

    /// Returns the record's [`FIELD`] with these limits, keeping other keys of the present value; `None` if nothing is
    /// left to store.
    pub fn to_record(&self, present: Option<&Value>) -> Option<Value> {
        let mut fields = present.and_then(Value::as_object).cloned().unwrap_or_default();
        for limit in Limit::ALL {
            match self.get(limit) {
                0 => drop(fields.remove(limit.key())),
                value => drop(fields.insert(limit.key().to_string(), value.into())),
            }
        }
        (!fields.is_empty()).then_some(Value::Object(fields))
    }

    /// Returns all values under their keys; 0 means unlimited.
    pub fn to_json(self) -> Map<String, Value> {
        Limit::ALL.into_iter().map(|limit| (limit.key().to_string(), self.get(limit).into())).collect()
    }
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_keeps_what_is_limited_and_keys_of_others() {
        let mut limits = Limits::default();
        limits.set(Limit::CpuQuota, 50);
        limits.set(Limit::IopsWrite, 300);
        let kept = limits.to_record(Some(&json!({"note": "b", "cpu_shares": 7, "iops_write": 1}))).unwrap();
        assert_eq!(kept, json!({"note": "b", "cpu_quota": 50, "iops_write": 300}));
        assert_eq!(Limits::from_record(Some(&kept)), Ok(limits));
        assert_eq!(Limits::default().to_record(Some(&kept)), Some(json!({"note": "b"})));
        assert_eq!(Limits::default().to_record(Some(&json!({"cpu_quota": 50}))), None);
        assert_eq!(Limits::default().to_record(None), None);
    }

    #[test]
    fn h17_what_cannot_be_a_limit_is_refused_by_name() {
        for none in [None, Some(json!(null)), Some(json!({})), Some(json!({"cpu_quota": null, "other": "x"}))]
        {
            assert_eq!(Limits::from_record(none.as_ref()), Ok(Limits::default()));
        }
        for (field, word) in [
            (json!([]), "expected an object"),
            (json!("50"), "expected an object"),
            (json!({"cpu_quota": 101}), "cpu_quota"),
            (json!({"cpu_shares": -1}), "cpu_shares"),
            (json!({"iops_read": 1.5}), "iops_read"),
            (json!({"bandwidth_in_kbps": "10"}), "bandwidth_in_kbps"),
            (json!({"iops_write": u64::MAX}), "iops_write"),
        ] {
            let why = Limits::from_record(Some(&field)).unwrap_err();
            assert!(why.contains(word), "{field}: {why}");
        }
    }

    #[test]
    fn names_and_keys_are_those_of_the_contract() {
        let names: Vec<_> = Limit::ALL.iter().map(|limit| limit.name()).collect();
        assert_eq!(
            names,
            ["cpu-shares", "cpu-quota", "bandwidth-in", "bandwidth-out", "iops-read", "iops-write"]
        );
        for (index, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, index);
            assert!(limit.key().starts_with(&limit.name().replace('-', "_")));
            assert_eq!(limit.in_words(0) == "unlimited", limit != Limit::CpuShares);
        }
        assert_eq!(Limits::default().to_json().len(), Limit::ALL.len());
    }
}
