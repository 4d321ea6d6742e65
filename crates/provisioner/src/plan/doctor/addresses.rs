//! What can still be handed out, and addresses that others use.

use super::Finding;
use super::kinds::*;
use super::vm::label;
use crate::plan::capacity::Supply;
use crate::value::vm_record::VmRecord;
use std::collections::HashSet;
use std::net::IpAddr;

/// So many left, or fewer than a tenth of all, is a warning.
const FEW: usize = 3;

/// Whether a supply runs out. `what`: `IPv4 addresses`; `key`: where it is widened.
pub fn supply(what: &str, key: &str, supply: Supply) -> Option<Finding> {
    let Supply { total, free } = supply;
    let is_vmids = key == "vmid_range";
    let kind = match free {
        0 if is_vmids => &VMIDS_EXHAUSTED,
        0 => &ADDRESSES_EXHAUSTED,
        _ if (free >= FEW && free * 10 >= total) || free == total => return None,
        _ if is_vmids => &VMIDS_NEARLY_EXHAUSTED,
        _ => &ADDRESSES_NEARLY_EXHAUSTED,
    };
    let text = format!("{free} of {total} {what} are free");
    Some(Finding::new(kind, format!("{key} of db.yaml"), text, format!("widen {key} in db.yaml")))
}

/// VMs whose addresses are the host's own, its router's or its name servers'.
pub fn of_host(live: &[VmRecord], host: &HashSet<IpAddr>) -> Vec<Finding> {
    let mut found = Vec::new();
    for record in live {
        let addresses = record.ipv4.map(IpAddr::from).into_iter().chain(record.ipv6.map(IpAddr::from));
        for address in addresses.filter(|address| host.contains(address)) {
            let what = format!("its address {address} is one of this host, its router or its name server");
            let mend = "give the VM another address, in its record and in its guest";
            found.push(Finding::new(&ADDRESS_OF_HOST, label(record), what, mend).of(&record.name));
        }
    }
    found
}

/// Addresses of the pools that no VM has and for which a device answers: `answering` has its hardware address.
pub fn of_others(answering: &[(IpAddr, String)], held: &HashSet<IpAddr>) -> Vec<Finding> {
    let strangers = answering.iter().filter(|(address, _)| !held.contains(address));
    let finding = |(address, lladdr): &(IpAddr, String)| {
        let what = format!("{lladdr} answers for {address}, which no VM has");
        let mend = "find that device, or remove the address from the pool in db.yaml";
        Finding::new(&ADDRESS_USED_BY_OTHERS, "guest network", what, mend)
    };
    strangers.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    #[test]
    fn h13_a_supply_is_told_of_before_it_is_gone() {
        let code =
            |total, free| supply("x", "ip_pool", Supply { total, free }).map(|finding| finding.kind.code);
        assert_eq!(code(50, 5), None);
        assert_eq!(code(50, 4), Some("addresses-nearly-exhausted"));
        assert_eq!(code(8, 2), Some("addresses-nearly-exhausted"));
        assert_eq!(code(2, 2), None, "a small house that is empty");
        assert_eq!(code(50, 0), Some("addresses-exhausted"));
        let vmids = |free| supply("VMIDs", "vmid_range", Supply { total: 100, free }).unwrap().kind.code;
        assert_eq!((vmids(0), vmids(1)), ("vmids-exhausted", "vmids-nearly-exhausted"));
    }

    #[test]
    fn h55_addresses_of_others() {
        let record = record("a", 100);
        let address = IpAddr::from(record.ipv4.unwrap());
        assert_eq!(of_host(std::slice::from_ref(&record), &HashSet::new()), []);
        assert_eq!(of_host(&[record], &HashSet::from([address])).len(), 1);
        let answering = [(address, "bc:24:11:00:00:01".to_string())];
        assert_eq!(of_others(&answering, &HashSet::from([address])), []);
        assert_eq!(of_others(&answering, &HashSet::new())[0].kind.code, "address-used-by-others");
    }
}
