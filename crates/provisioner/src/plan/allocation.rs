//! Decides which VMID and addresses the next VM gets (`facts/contract/database.md#allocation`).

use crate::value::address::{Ipv4Pool, Ipv6Pool};
use crate::value::allocation::{Allocation, Held, Wish};
use crate::value::vmid::{Vmid, VmidRange};

/// Nothing can be allocated; nothing was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// No VMID is free.
    #[error(
        "no VMID is free: {held} of {range} are reserved or in use on the node; widen vmid_range in db.yaml or \
         destroy VMs that are no longer needed"
    )]
    Vmids {
        /// The range.
        range: String,
        /// How many VMIDs of the range are not free.
        held: usize,
    },
    /// No IPv4 address is free.
    #[error(
        "IP pool exhausted: {held} of {held} addresses of {pool} are in use; widen ip_pool in db.yaml or destroy VMs that are no longer needed"
    )]
    Ipv4 {
        /// The pool.
        pool: String,
        /// How many of its addresses are held.
        held: usize,
    },
    /// No IPv6 address is free.
    #[error(
        "IPv6 pool exhausted: {held} of {held} addresses of {pool} are in use; widen ipv6_pool in db.yaml or destroy VMs that are no longer needed"
    )]
    Ipv6 {
        /// The pool.
        pool: String,
        /// How many of its addresses are held.
        held: usize,
    },
    /// The requested VMID or address is not free.
    #[error("{0}")]
    Wish(String),
    /// The requested VMID or address can never be allocated, free or not: the argument itself is wrong.
    #[error("{0}")]
    NotOurs(String),
}

/// Checks that the requested VMID and addresses are in the ranges and networks used for VMs.
pub fn check_wish(
    wish: Wish,
    vmids: VmidRange,
    ipv4: &Ipv4Pool,
    ipv6: Option<&Ipv6Pool>,
) -> Result<(), Exhausted> {
    let refuse = |why: String| Err(Exhausted::NotOurs(why));
    if let Some(vmid) = wish.vmid.filter(|vmid| !vmids.contains(*vmid)) {
        return refuse(format!("--vmid {vmid} is outside vmid_range {vmids} of db.yaml"));
    }
    if let Some(ip) = wish.ipv4.filter(|ip| !ipv4.usable(*ip) && *ip != ipv4.gateway) {
        let network = ipv4.network;
        return refuse(match network.contains(ip) {
            true => format!("--ip {ip} is not a usable guest address in the guest network {network}"),
            false => format!("--ip {ip} is not in the guest network {network}"),
        });
    }
    match (wish.ipv6, ipv6) {
        (Some(ip), None) => {
            Err(Exhausted::Wish(format!("--ipv6 {ip}: this host has no broker-allocation.json")))
        }
        (Some(ip), Some(pool)) if !pool.prefix.contains(ip) || pool.prefix.at(0) == Some(ip) => {
            refuse(format!("--ipv6 {ip} is not a usable guest address in the guest network {}", pool.prefix))
        }
        _ => Ok(()),
    }
}

/// Chooses the VMID, counting up from `next_vmid` and wrapping once, and the lowest free addresses.
pub fn choose(
    held: &Held,
    next_vmid: Option<u32>,
    vmids: VmidRange,
    ipv4: &Ipv4Pool,
    ipv6: Option<&Ipv6Pool>,
    wish: Wish,
) -> Result<Allocation, Exhausted> {
    check_wish(wish, vmids, ipv4, ipv6)?;
    let free = |vmid: Vmid| !held.vmids.contains(&vmid.get()) && !held.foreign_vmids.contains(&vmid.get());
    let vmid = match wish.vmid {
        Some(vmid) if !free(vmid) => return Err(Exhausted::Wish(format!("VMID {vmid} is taken"))),
        Some(vmid) => vmid,
        None => {
            let first = next_vmid.and_then(|n| Vmid::new(u64::from(n)).ok()).unwrap_or(vmids.start);
            vmids.from(first).find(|v| free(*v)).ok_or_else(|| Exhausted::Vmids {
                range: vmids.to_string(),
                held: vmids.from(vmids.start).filter(|v| !free(*v)).count(),
            })?
        }
    };
    let ipv4 = match wish.ipv4 {
        Some(ip) if ip == ipv4.gateway => {
            return Err(Exhausted::Wish(format!("--ip {ip} is the gateway of the guest network")));
        }
        Some(ip) if held.ipv4.contains(&ip) => {
            return Err(Exhausted::Wish(format!("IP address {ip} is taken")));
        }
        Some(ip) => ip,
        None => ipv4.addresses().find(|ip| !held.ipv4.contains(ip)).ok_or_else(|| Exhausted::Ipv4 {
            pool: ipv4.to_string(),
            held: ipv4.addresses().filter(|ip| held.ipv4.contains(ip)).count(),
        })?,
    };
    let ipv6 = match (wish.ipv6, ipv6) {
        (Some(ip), Some(pool)) if ip == pool.gateway => {
            return Err(Exhausted::Wish(format!("--ipv6 {ip} is the gateway of the guest network")));
        }
        (Some(ip), _) if held.ipv6.contains(&ip) => {
            return Err(Exhausted::Wish(format!("IPv6 address {ip} is taken")));
        }
        (Some(ip), _) => Some(ip),
        (None, None) => None,
        (None, Some(pool)) => {
            Some(pool.addresses().find(|ip| !held.ipv6.contains(ip)).ok_or_else(|| Exhausted::Ipv6 {
                pool: pool.to_string(),
                held: pool.addresses().filter(|ip| held.ipv6.contains(ip)).count(),
            })?)
        }
    };
    Ok(Allocation { vmid, ipv4, ipv6 })
}

/// Returns the value of `next_vmid` after `vmid` was allocated.
pub fn next_after(vmid: Vmid, range: VmidRange) -> u32 {
    if vmid >= range.end || !range.contains(vmid) { range.start.get() } else { vmid.get() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::address::{Ipv4Network, Ipv6Prefix};
    use proptest::prelude::*;

    fn vmid(n: u64) -> Vmid {
        Vmid::new(n).unwrap()
    }
    fn range() -> VmidRange {
        VmidRange { start: vmid(100), end: vmid(104) }
    }
    fn pool() -> Ipv4Pool {
        let network = Ipv4Network::parse("10.0.0.0/24").unwrap();
        let at = |t: &str| network.pool_end(t).unwrap();
        Ipv4Pool { network, start: at("1"), end: at("4"), gateway: at("1") }
    }
    fn pool6() -> Ipv6Pool {
        let prefix = Ipv6Prefix::parse("fd00::/120").unwrap();
        Ipv6Pool { prefix, start: 2, end: 4, gateway: prefix.at(1).unwrap() }
    }

    #[test]
    fn the_first_vm_gets_the_first_of_everything() {
        let got = choose(&Held::default(), None, range(), &pool(), Some(&pool6()), Wish::default()).unwrap();
        assert_eq!(
            (got.vmid, got.ipv4.to_string(), got.ipv6.unwrap().to_string()),
            (vmid(100), "10.0.0.2".into(), "fd00::2".into())
        );
    }

    #[test]
    fn h01_a_vmid_that_exists_on_the_node_is_not_taken() {
        let held = Held { foreign_vmids: [100, 101].into(), ..Held::default() };
        assert_eq!(
            choose(&held, Some(100), range(), &pool(), None, Wish::default()).unwrap().vmid,
            vmid(102)
        );
    }

    #[test]
    fn h13_vmids_and_addresses_come_back_and_the_end_is_said() {
        let mut held = Held { vmids: [103, 104].into(), ..Held::default() };
        assert_eq!(
            choose(&held, Some(103), range(), &pool(), None, Wish::default()).unwrap().vmid,
            vmid(100)
        );
        held.vmids = (100..=104).collect();
        let error = choose(&held, None, range(), &pool(), None, Wish::default()).unwrap_err().to_string();
        assert!(error.contains("5 of 100-104"), "{error}");
        let held = Held { ipv4: pool().addresses().collect(), ..Held::default() };
        let error = choose(&held, None, range(), &pool(), None, Wish::default()).unwrap_err().to_string();
        assert!(
            error.starts_with("IP pool exhausted: 3 of 3 addresses of 10.0.0.1-10.0.0.4 of 10.0.0.0/24"),
            "{error}"
        );
        assert_eq!(next_after(vmid(104), range()), 100);
        assert_eq!(next_after(vmid(102), range()), 103);
    }

    #[test]
    fn wishes_are_granted_only_where_free_and_ours() {
        let held =
            Held { vmids: [101].into(), ipv4: ["10.0.0.3".parse().unwrap()].into(), ..Held::default() };
        let ask = |wish: Wish| choose(&held, None, range(), &pool(), Some(&pool6()), wish);
        assert!(ask(Wish { vmid: Some(vmid(101)), ..Wish::default() }).is_err());
        assert!(ask(Wish { vmid: Some(vmid(200)), ..Wish::default() }).is_err());
        assert!(ask(Wish { ipv4: "10.0.0.3".parse().ok(), ..Wish::default() }).is_err());
        assert!(ask(Wish { ipv4: "10.0.0.1".parse().ok(), ..Wish::default() }).is_err());
        assert!(ask(Wish { ipv4: "10.0.1.9".parse().ok(), ..Wish::default() }).is_err());
        assert!(ask(Wish { ipv6: "fd00::1".parse().ok(), ..Wish::default() }).is_err());
        assert!(ask(Wish { ipv6: "fd01::9".parse().ok(), ..Wish::default() }).is_err());
        let got =
            ask(Wish { vmid: Some(vmid(104)), ipv4: "10.0.0.9".parse().ok(), ipv6: "fd00::9".parse().ok() })
                .unwrap();
        assert_eq!((got.vmid, got.ipv4.to_string()), (vmid(104), "10.0.0.9".into()));
    }

    proptest! {
        #[test]
        fn what_is_chosen_was_free(next in 0u32..300, held in proptest::collection::hash_set(100u32..105, 0..5), foreign in proptest::collection::hash_set(100u32..105, 0..3)) {
            let all = Held { vmids: held.clone(), foreign_vmids: foreign.clone(), ..Held::default() };
            match choose(&all, Some(next), range(), &pool(), None, Wish::default()) {
                Ok(got) => prop_assert!(range().contains(got.vmid) && !held.contains(&got.vmid.get()) && !foreign.contains(&got.vmid.get())),
                Err(_) => prop_assert_eq!(held.union(&foreign).count(), 5),
            }
        }
    }
}
