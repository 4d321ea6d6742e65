//! The database by itself: records that cannot all be true.

use super::Finding;
use super::kinds::*;
use super::vm::label;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vmid::VmidRange;
use std::collections::HashMap;
use std::net::IpAddr;

/// What is wrong with the live records of `path`, taken together. `unreadable`: why a record cannot be read, its key first.
pub fn findings(
    path: &str,
    live: &[VmRecord],
    unreadable: &[(String, String)],
    range: Option<VmidRange>,
) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for (key, why) in unreadable {
        let mend = format!("correct the record in {path}, under its lock: flock {path}.lock …");
        found.push(Finding::new(&RECORD_UNREADABLE, path, why, mend).of(key));
    }
    twins(live, &mut found);
    for record in live {
        let name = &record.name;
        if let Some(range) = range.filter(|range| !range.contains(record.vmid)) {
            let what = format!("its VMID is outside vmid_range {range}");
            let mend = "widen vmid_range in db.yaml";
            found.push(Finding::new(&VMID_OUTSIDE_RANGE, label(record), what, mend).of(name));
        }
        if record.status == Status::Active && record.expires_at.is_none() {
            let what = "its expires_at is missing or no time with a zone";
            let mend = format!("blockhost-vm-resume {name} --until DATE");
            found.push(Finding::new(&RECORD_WITHOUT_EXPIRY, label(record), what, mend).of(name));
        }
    }
    found
}

/// What two live VMs have and only one can.
fn twins(live: &[VmRecord], found: &mut Vec<Finding>) {
    let mut vmids: HashMap<u32, &VmRecord> = HashMap::with_capacity(live.len());
    let mut addresses: HashMap<IpAddr, &VmRecord> = HashMap::with_capacity(live.len() * 2);
    let mut names: HashMap<String, &VmRecord> = HashMap::with_capacity(live.len());
    for record in live {
        let name = &record.name;
        if let Some(other) = vmids.insert(record.vmid.get(), record) {
            let what = format!("VM {} has VMID {} as well", other.name, record.vmid);
            let mend = format!(
                "compare with qm config {}, then close the wrong record: blockhost-vm-destroy NAME --forget",
                record.vmid
            );
            found.push(Finding::new(&VMID_RECORDED_TWICE, label(record), what, mend).of(name));
        }
        for address in record.ipv4.map(IpAddr::from).into_iter().chain(record.ipv6.map(IpAddr::from)) {
            if let Some(other) = addresses.insert(address, record) {
                let what = format!("VM {} has {address} as well", other.name);
                let mend = "give one of them another address, in its record and in its guest";
                found.push(Finding::new(&ADDRESS_RECORDED_TWICE, label(record), what, mend).of(name));
            }
        }
        if let Some(other) = names.insert(name.resource_label().to_ascii_lowercase(), record) {
            let what = format!("VM {} has the same name but for dots, hyphens or capitals", other.name);
            let mend = "create one of them again under another name";
            found.push(Finding::new(&NAME_TWINS, label(record), what, mend).of(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;
    use crate::value::vmid::Vmid;

    #[test]
    fn what_only_one_vm_can_have_is_found() {
        let (a, mut b) = (record("a", 100), record("b", 101));
        let range = VmidRange { start: Vmid::new(100).unwrap(), end: Vmid::new(200).unwrap() };
        let codes = |live: &[VmRecord]| -> Vec<&str> {
            findings("vms.json", live, &[], Some(range)).iter().map(|finding| finding.kind.code).collect()
        };
        assert_eq!(codes(&[a.clone(), b.clone()]), [""; 0]);
        b.vmid = a.vmid;
        assert_eq!(codes(&[a.clone(), b.clone()]), ["vmid-recorded-twice"]);
        b = VmRecord { ipv4: a.ipv4, ..record("b", 201) };
        assert_eq!(codes(&[a.clone(), b]), ["address-recorded-twice", "vmid-outside-range"]);
        assert_eq!(codes(&[record("a.b", 100), record("A-B", 101)]), ["name-twins"]);
        assert_eq!(codes(&[VmRecord { expires_at: None, ..a.clone() }]), ["record-without-expiry"]);
        let suspended = VmRecord { expires_at: None, status: Status::Suspended, ..a };
        assert_eq!(codes(&[suspended]), [""; 0]);
        let bad = [("x".to_string(), "record \"x\": field vmid: found nothing".to_string())];
        assert_eq!(findings("vms.json", &[], &bad, None)[0].kind.code, "record-unreadable");
    }
}
