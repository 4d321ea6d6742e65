//! Limits of a VM: what to request from the root agent, what is in force by the VM's configuration, and what to write
//! into the record (`facts/contract/commands.md#throttle`, `facts/proxmox.md` section 2; hazard H34).
//!
//! CPU and IOPS limits are in the VM's configuration on the node, which anybody with rights there can change: the node
//! is authoritative, and the record follows. Bandwidth is in no configuration of Proxmox: there the record is
//! authoritative.

use crate::value::limits::{Limit, Limits};
use serde_json::{Map, Value, json};

/// The highest `cpulimit` that Proxmox accepts, in CPUs.
const CPULIMIT_MAX: u32 = 128;

/// What was requested.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitRequest {
    /// Remove every limit that is not named.
    pub reset: bool,
    /// Limits with their new values; 0 means unlimited.
    pub named: Vec<(Limit, u32)>,
}

impl LimitRequest {
    /// Returns the value that a limit should have after the request; `None` if it does not change.
    pub fn wanted(&self, limit: Limit) -> Option<u32> {
        let named = self.named.iter().rev().find(|(named, _)| *named == limit);
        named.map(|(_, value)| *value).or_else(|| self.reset.then_some(0))
    }

    /// Returns the limits to set or remove, in the order in which they are shown.
    pub fn changes(&self) -> impl Iterator<Item = (Limit, u32)> + '_ {
        Limit::ALL.into_iter().filter_map(|limit| Some((limit, self.wanted(limit)?)))
    }

    /// Whether the request changes the VM's configuration.
    pub fn is_about_configuration(&self) -> bool {
        self.changes().any(|(limit, _)| !limit.is_bandwidth())
    }

    /// Whether the request changes the VM's bandwidth.
    pub fn is_about_bandwidth(&self) -> bool {
        self.changes().any(|(limit, _)| limit.is_bandwidth())
    }
}

impl std::fmt::Display for LimitRequest {
    /// Formats the request like `reset cpu-quota=50`, for the audit trail.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reset = self.reset.then(|| "reset".to_string());
        let named = self.named.iter().map(|(limit, value)| format!("{}={value}", limit.name()));
        f.write_str(&reset.into_iter().chain(named).collect::<Vec<_>>().join(" "))
    }
}

/// The quota needs a higher `cpulimit` than Proxmox accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{quota} % of {vcpus} vCPUs are more than the {CPULIMIT_MAX} CPUs to which Proxmox can limit a VM; the highest quota here is {highest} %, and 0 is unlimited"
)]
pub struct QuotaTooHigh {
    quota: u32,
    vcpus: u32,
    highest: u32,
}

/// Returns the limits for `pve-set-throttle`; `None` if the configuration does not change.
pub fn agent_limits(
    request: &LimitRequest,
    node: &NodeLimits,
) -> Result<Option<Map<String, Value>>, QuotaTooHigh> {
    let mut limits = Map::new();
    if request.reset {
        limits.insert("reset".into(), true.into());
    }
    for (limit, value) in &request.named {
        match limit {
            Limit::CpuShares => limits.insert("cpuunits".into(), json!(value)),
            Limit::CpuQuota => limits.insert("cpulimit".into(), json!(node.cpulimit_of(*value)?)),
            Limit::IopsRead => limits.insert("iops_rd".into(), json!(value)),
            Limit::IopsWrite => limits.insert("iops_wr".into(), json!(value)),
            Limit::BandwidthIn | Limit::BandwidthOut => None,
        };
    }
    Ok((!limits.is_empty()).then_some(limits))
}

/// The limits of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The key of the drive, for example `scsi0`.
    pub key: String,
    /// Reads per second; 0 means unlimited.
    pub reads: u32,
    /// Writes per second; 0 means unlimited.
    pub writes: u32,
}

/// The limits in a VM's configuration that are in force now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLimits {
    /// Number of vCPUs; at least 1.
    pub vcpus: u32,
    /// `cpulimit` in hundredths of a CPU; 0 means no limit.
    pub cpulimit: u32,
    /// `cpuunits`; 0 if the configuration has none and Proxmox' default applies.
    pub cpuunits: u32,
    /// Its disks, without CD-ROM and cloud-init drives.
    pub disks: Vec<Disk>,
    /// Those of these keys that have a change which takes effect at the VM's next start.
    pub pending: Vec<String>,
}

/// The state of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InForce {
    /// In force with this value in the contract's unit; 0 means unlimited (for CPU shares: Proxmox' default).
    At(u32),
    /// Different for each disk; says how.
    Mixed(String),
}

/// Returns the keys and values in force now, from the API's `pending` list.
pub fn current_config(items: &Value) -> Map<String, Value> {
    let current = |item: &Value| {
        let key = item.get("key")?.as_str()?.to_string();
        Some((key, item.get("value")?.clone()))
    };
    items.as_array().map(|items| items.iter().filter_map(current).collect()).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

impl NodeLimits {
    /// Reads the limits from the API's `pending` list, which has each key with its current `value`, and with `pending`
    /// or `delete` if a change is pending.
    pub fn of(items: &Value) -> NodeLimits {
        let config = current_config(items);
        let number = |key: &str| config.get(key).and_then(|value| text(value).parse::<f64>().ok());
        let whole = |key: &str| number(key).map(|n| n.max(0.0) as u32);
        let cores = whole("cores").unwrap_or(1).saturating_mul(whole("sockets").unwrap_or(1));
        let disks = config.iter().filter(|(key, _)| is_drive(key)).filter_map(|(key, value)| {
            let drive = text(value);
            let option = |name: &str| {
                let value = drive.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
                value.and_then(|value| value.parse().ok()).unwrap_or(0)
            };
            let volume = drive.split(',').next().unwrap_or_default();
            let holds_data = !drive.contains("media=cdrom") && !volume.contains("cloudinit");
            let disk = Disk { key: key.clone(), reads: option("iops_rd"), writes: option("iops_wr") };
            (holds_data && volume != "none").then_some(disk)
        });
        let waits = |item: &&Value| item.get("pending").is_some() || item.get("delete").is_some();
        let waiting = items.as_array().into_iter().flatten().filter(waits);
        let waiting = waiting.filter_map(|item| item.get("key")?.as_str());
        let is_limit = |key: &&str| is_drive(key) || matches!(*key, "cpulimit" | "cpuunits");
        NodeLimits {
            vcpus: whole("vcpus").unwrap_or(cores).max(1),
            cpulimit: number("cpulimit").map_or(0, |n| (n * 100.0).round().max(0.0) as u32),
            cpuunits: whole("cpuunits").unwrap_or(0),
            disks: disks.collect(),
            pending: waiting.filter(is_limit).map(str::to_string).collect(),
        }
    }

    /// Returns the `cpulimit` for a quota in percent of the VM's own vCPUs; exact, since both are whole numbers.
    fn cpulimit_of(&self, quota: u32) -> Result<f64, QuotaTooHigh> {
        let hundredths = u64::from(quota) * u64::from(self.vcpus);
        if hundredths > u64::from(CPULIMIT_MAX * 100) {
            let highest = CPULIMIT_MAX * 100 / self.vcpus;
            return Err(QuotaTooHigh { quota, vcpus: self.vcpus, highest });
        }
        Ok(hundredths as f64 / 100.0)
    }

    /// Returns the state of a limit in the configuration. Bandwidth is not in the configuration.
    pub fn in_force(&self, limit: Limit) -> InForce {
        match limit {
            Limit::CpuShares => InForce::At(self.cpuunits),
            // A `cpulimit` set by somebody else may not be a whole percentage, but is still a limit.
            Limit::CpuQuota if self.cpulimit == 0 => InForce::At(0),
            Limit::CpuQuota => InForce::At(((self.cpulimit + self.vcpus / 2) / self.vcpus).max(1)),
            Limit::IopsRead => self.of_disks(limit, |disk| disk.reads),
            Limit::IopsWrite => self.of_disks(limit, |disk| disk.writes),
            Limit::BandwidthIn | Limit::BandwidthOut => InForce::At(0),
        }
    }

    fn of_disks(&self, limit: Limit, of: impl Fn(&Disk) -> u32) -> InForce {
        let first = self.disks.first().map_or(0, &of);
        if self.disks.iter().all(|disk| of(disk) == first) {
            return InForce::At(first);
        }
        let each = self.disks.iter().map(|disk| format!("{} {}", disk.key, limit.in_words(of(disk))));
        InForce::Mixed(each.collect::<Vec<_>>().join(", "))
    }

    /// Whether a limit has exactly this value.
    pub fn has(&self, limit: Limit, value: u32) -> bool {
        match limit {
            Limit::CpuQuota => u64::from(self.cpulimit) == u64::from(value) * u64::from(self.vcpus),
            _ => self.in_force(limit) == InForce::At(value),
        }
    }

    /// Describes the current state of a limit, for a person.
    pub fn in_words(&self, limit: Limit) -> String {
        match (limit, self.in_force(limit)) {
            (Limit::CpuQuota, InForce::At(percent)) if percent > 0 => {
                let cpus = format!("{:.2}", f64::from(self.cpulimit) / 100.0);
                let cpus = cpus.trim_end_matches('0').trim_end_matches('.');
                let vcpus = if self.vcpus == 1 { "vCPU" } else { "vCPUs" };
                format!("{} ({cpus} of {} {vcpus})", limit.in_words(percent), self.vcpus)
            }
            (_, InForce::At(value)) => limit.in_words(value),
            (_, InForce::Mixed(each)) => each,
        }
    }

    /// Returns these limits with the changes of a request applied.
    pub fn with(&self, request: &LimitRequest) -> NodeLimits {
        let mut after = self.clone();
        for (limit, value) in request.changes() {
            match limit {
                Limit::CpuShares => after.cpuunits = value,
                Limit::CpuQuota => after.cpulimit = value * self.vcpus,
                Limit::IopsRead => after.disks.iter_mut().for_each(|disk| disk.reads = value),
                Limit::IopsWrite => after.disks.iter_mut().for_each(|disk| disk.writes = value),
                Limit::BandwidthIn | Limit::BandwidthOut => {}
            }
        }
        after
    }

    /// Returns the limits for the record: those of the configuration, and the rest as in `before`.
    pub fn recorded(&self, before: &Limits) -> Limits {
        let mut limits = *before;
        for limit in Limit::ALL.into_iter().filter(|limit| !limit.is_bandwidth()) {
            match self.in_force(limit) {
                InForce::At(value) => limits.set(limit, value.min(limit.highest())),
                // No single number is right; the requested value is the best one available.
                InForce::Mixed(_) => {}
            }
        }
        limits
    }

    /// Describes the differences between record and configuration. A `cpulimit` set by somebody else counts as the
    /// nearest whole percentage.
    pub fn differences(&self, record: &Limits) -> Vec<String> {
        let ours = Limit::ALL.into_iter().filter(|limit| !limit.is_bandwidth());
        let other = ours.filter(|limit| self.in_force(*limit) != InForce::At(record.get(*limit)));
        let told = other.map(|limit| {
            let recorded = limit.in_words(record.get(limit));
            format!("{} is {} on the node, and {recorded} in the record", limit.name(), self.in_words(limit))
        });
        told.collect()
    }
}

/// Whether a key of the configuration is a drive that may contain data.
fn is_drive(key: &str) -> bool {
    let number = ["scsi", "virtio", "sata", "ide"].iter().find_map(|bus| key.strip_prefix(bus));
    number.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(reset: bool, named: &[(Limit, u32)]) -> LimitRequest {
        LimitRequest { reset, named: named.to_vec() }
    }

    fn node(pairs: &[(&str, Value)]) -> NodeLimits {
        let items: Vec<Value> =
            pairs.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        NodeLimits::of(&json!(items))
    }

    fn set(pairs: &[(Limit, u32)]) -> Limits {
        let mut limits = Limits::default();
        pairs.iter().for_each(|(limit, value)| limits.set(*limit, *value));
        limits
    }

    #[test]
    fn h34_what_is_sent_for_which_request() {
        use Limit::{BandwidthIn, CpuQuota, CpuShares, IopsRead, IopsWrite};
        let four = node(&[("cores", json!(2)), ("sockets", json!("2"))]);
        let one = node(&[]);
        for (request, node, sent) in [
            (request(false, &[(CpuShares, 50)]), &one, json!({"cpuunits": 50})),
            (request(false, &[(CpuShares, 0)]), &one, json!({"cpuunits": 0})),
            (request(false, &[(CpuQuota, 50)]), &one, json!({"cpulimit": 0.5})),
            (request(false, &[(CpuQuota, 50)]), &four, json!({"cpulimit": 2.0})),
            (request(false, &[(CpuQuota, 1)]), &one, json!({"cpulimit": 0.01})),
            (request(false, &[(CpuQuota, 33)]), &four, json!({"cpulimit": 1.32})),
            (request(false, &[(CpuQuota, 100)]), &four, json!({"cpulimit": 4.0})),
            (request(false, &[(CpuQuota, 0)]), &four, json!({"cpulimit": 0.0})),
            (
                request(false, &[(IopsRead, 500), (IopsWrite, 0), (BandwidthIn, 9)]),
                &one,
                json!({"iops_rd": 500, "iops_wr": 0}),
            ),
            (request(true, &[]), &one, json!({"reset": true})),
            (request(true, &[(IopsRead, 5)]), &one, json!({"reset": true, "iops_rd": 5})),
        ] {
            let got = agent_limits(&request, node).unwrap().map(Value::Object);
            assert_eq!(got, Some(sent), "{request:?}");
        }
        assert_eq!(agent_limits(&request(false, &[(BandwidthIn, 9)]), &one), Ok(None));
    }

    #[test]
    fn a_quota_beyond_what_proxmox_can_set_is_refused() {
        let huge = node(&[("cores", json!(256))]);
        let refused = agent_limits(&request(false, &[(Limit::CpuQuota, 51)]), &huge).unwrap_err();
        assert!(refused.to_string().contains("highest quota here is 50 %"), "{refused}");
        assert!(agent_limits(&request(false, &[(Limit::CpuQuota, 50)]), &huge).is_ok());
    }

    #[test]
    fn what_is_not_named_stays_and_reset_names_all() {
        let additive = request(false, &[(Limit::IopsRead, 5)]);
        let named: Vec<_> = additive.changes().collect();
        assert_eq!(named, [(Limit::IopsRead, 5)]);
        let all: Vec<_> = request(true, &[(Limit::CpuQuota, 7)]).changes().collect();
        assert_eq!((all.len(), all[1]), (6, (Limit::CpuQuota, 7)));
        assert!(all.iter().filter(|(limit, _)| *limit != Limit::CpuQuota).all(|(_, value)| *value == 0));
        assert!(additive.is_about_configuration() && !additive.is_about_bandwidth());
        assert!(request(true, &[]).is_about_bandwidth());
    }

    #[test]
    fn h34_limits_are_read_from_drives_that_hold_data() {
        let limits = node(&[
            ("cores", json!(4)),
            ("vcpus", json!(2)),
            ("cpulimit", json!("1.5")),
            ("cpuunits", json!(50)),
            ("scsi0", json!("local-lvm:vm-100-disk-0,discard=on,iops_rd=500,iops_rd_max=900,size=20G")),
            ("ide2", json!("local-lvm:vm-100-cloudinit,media=cdrom")),
            ("sata0", json!("none,media=cdrom")),
            ("scsihw", json!("virtio-scsi-pci")),
            ("unused0", json!("local-lvm:vm-100-disk-9,iops_rd=1")),
        ]);
        assert_eq!((limits.vcpus, limits.cpulimit, limits.cpuunits), (2, 150, 50));
        assert_eq!(limits.disks, [Disk { key: "scsi0".into(), reads: 500, writes: 0 }]);
        assert_eq!(limits.in_force(Limit::CpuQuota), InForce::At(75));
        assert_eq!(limits.in_words(Limit::CpuQuota), "75 % (1.5 of 2 vCPUs)");
        assert_eq!(limits.in_words(Limit::IopsWrite), "unlimited");
        let two = node(&[("scsi0", json!("a:b,iops_rd=5,iops_wr=9")), ("virtio1", json!("a:c,iops_wr=9"))]);
        assert_eq!(two.in_words(Limit::IopsRead), "scsi0 5 per second, virtio1 unlimited");
        assert_eq!(two.in_force(Limit::IopsWrite), InForce::At(9));
        assert!(!two.has(Limit::IopsRead, 5) && !two.has(Limit::IopsRead, 0) && two.has(Limit::IopsWrite, 9));
    }

    #[test]
    fn h34_a_change_that_waits_is_known() {
        let items = json!([
            {"key": "scsi0", "value": "a:b,iops_rd=5", "pending": "a:b,ssd=1"},
            {"key": "cpulimit", "value": 1, "delete": 1},
            {"key": "memory", "value": 512, "pending": 1024},
            {"key": "cpuunits", "pending": 7},
        ]);
        let limits = NodeLimits::of(&items);
        assert_eq!(limits.pending, ["scsi0", "cpulimit", "cpuunits"]);
        assert_eq!((limits.disks[0].reads, limits.cpuunits), (5, 0), "what counts is what counts now");
    }

    #[test]
    fn the_record_follows_the_configuration() {
        let limits = node(&[("cores", json!(3)), ("cpulimit", json!(1)), ("scsi0", json!("a:b,iops_rd=5"))]);
        let before = set(&[(Limit::BandwidthIn, 1000), (Limit::CpuShares, 50), (Limit::CpuQuota, 50)]);
        let after = limits.recorded(&before);
        let expected = set(&[(Limit::BandwidthIn, 1000), (Limit::CpuQuota, 33), (Limit::IopsRead, 5)]);
        assert_eq!(after, expected);
        // A third is not a whole percentage.
        assert!(!limits.has(Limit::CpuQuota, 33) && limits.differences(&after).is_empty());
        assert_eq!(
            limits.differences(&before),
            [
                "cpu-shares is default on the node, and 50 in the record",
                "cpu-quota is 33 % (1 of 3 vCPUs) on the node, and 50 % in the record",
                "iops-read is 5 per second on the node, and unlimited in the record"
            ]
        );
    }
}
