//! The keys that setup writes to `db.yaml`, with the values chosen.

use crate::value::address::Ipv4Pool;
use crate::value::text::BridgeName;
use crate::value::vmid::{Vmid, VmidRange};
use serde_json::{Value, json};
use std::path::Path;

/// The keys for which [`DbYaml::keys`] must know whether the file has them.
pub const ASKED: [&str; 4] = ["vmid_pool", "default_expiry_days", "gc_grace_days", "template_vmid"];

/// The values chosen.
#[derive(Debug, Clone, Copy)]
pub struct DbYaml<'c> {
    /// The VM database.
    pub db_file: &'c Path,
    /// Terraform's directory.
    pub terraform_dir: &'c Path,
    /// The guests' bridge.
    pub bridge: &'c BridgeName,
    /// The VMIDs of our VMs.
    pub vmids: VmidRange,
    /// The IPv4 addresses of our VMs.
    pub pool: Ipv4Pool,
    /// Days between suspension and destruction; `None`: keep the file's value.
    pub gc_grace_days: Option<u64>,
    /// The template.
    pub template: Vmid,
}

impl DbYaml<'_> {
    /// Returns the keys in the order in which they are written. `present`: those of [`ASKED`] that the file has. Keys
    /// that the wizard does not ask for are set only if they are missing.
    pub fn keys(&self, present: &[&str]) -> Vec<(&'static str, Value)> {
        let range = json!({"start": self.vmids.start.get(), "end": self.vmids.end.get()});
        let pool = json!({
            "network": self.pool.network.to_string(),
            "start": self.pool.start.to_string(),
            "end": self.pool.end.to_string(),
            "gateway": self.pool.gateway.to_string(),
        });
        let mut keys = vec![
            ("db_file", json!(self.db_file)),
            ("terraform_dir", json!(self.terraform_dir)),
            ("bridge", json!(self.bridge.as_str())),
            ("vmid_range", range.clone()),
            ("ip_pool", pool),
        ];
        // An alias of the same key, which older programs read.
        if present.contains(&"vmid_pool") {
            keys.push(("vmid_pool", range));
        }
        if let Some(days) = self.gc_grace_days {
            keys.push(("gc_grace_days", json!(days)));
        }
        for (key, value) in [("default_expiry_days", 30), ("gc_grace_days", 7)] {
            if !present.contains(&key) && !keys.iter().any(|(known, _)| *known == key) {
                keys.push((key, json!(value)));
            }
        }
        // The root agent's template actions trust this file alone.
        if self.template != Vmid::DEFAULT_TEMPLATE || present.contains(&"template_vmid") {
            keys.push(("template_vmid", json!(self.template.get())));
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::address::Ipv4Network;

    #[test]
    fn what_nobody_asked_for_is_set_only_where_it_is_missing() {
        let network = Ipv4Network::parse("192.0.2.0/24").unwrap();
        let at = |text: &str| network.pool_end(text).unwrap();
        let vmid = |number| Vmid::new(number).unwrap();
        let chosen = |gc_grace_days, template| {
            let vmids = VmidRange { start: vmid(100), end: vmid(199) };
            let pool = Ipv4Pool { network, start: at("200"), end: at("250"), gateway: at("1") };
            (vmids, pool, gc_grace_days, vmid(template))
        };
        let bridge = BridgeName::parse("vmbr1").unwrap();
        let five = "db_file terraform_dir bridge vmid_range ip_pool";
        for (days, template, present, more) in [
            (None, 9001, &[][..], " default_expiry_days=30 gc_grace_days=7"),
            (Some(3), 9001, &[], " gc_grace_days=3 default_expiry_days=30"),
            (None, 9001, &["default_expiry_days", "gc_grace_days"], ""),
            (Some(3), 9001, &["default_expiry_days", "gc_grace_days"], " gc_grace_days=3"),
            (None, 9002, &["default_expiry_days", "gc_grace_days"], " template_vmid=9002"),
            (None, 9001, &ASKED, " vmid_pool={\"start\":100,\"end\":199} template_vmid=9001"),
        ] {
            let (vmids, pool, gc_grace_days, template) = chosen(days, template);
            let (db_file, terraform_dir) = (Path::new("/v.json"), Path::new("/t"));
            let all =
                DbYaml { db_file, terraform_dir, bridge: &bridge, vmids, pool, gc_grace_days, template };
            let keys = all.keys(present);
            let shown: String = keys[5..].iter().map(|(key, value)| format!(" {key}={value}")).collect();
            let first: Vec<&str> = keys[..5].iter().map(|(key, _)| *key).collect();
            assert_eq!((first.join(" ").as_str(), shown.as_str()), (five, more), "{days:?} {present:?}");
            let pool = r#"{"network":"192.0.2.0/24","start":"192.0.2.200","end":"192.0.2.250","gateway":"192.0.2.1"}"#;
            assert_eq!(keys[4].1, serde_json::from_str::<Value>(pool).unwrap());
        }
    }
}
