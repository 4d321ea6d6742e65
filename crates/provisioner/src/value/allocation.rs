//! What a VM is assigned, what was requested, and what is not available.

use super::vmid::Vmid;
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// VMIDs and addresses held by live records, the database's lists and the journal's entries.
#[derive(Debug, Default, Clone)]
pub struct Held {
    /// VMIDs of live records and of running creates.
    pub vmids: HashSet<u32>,
    /// VMIDs known to be used on the node by somebody else.
    pub foreign_vmids: HashSet<u32>,
    /// IPv4 addresses.
    pub ipv4: HashSet<Ipv4Addr>,
    /// IPv6 addresses.
    pub ipv6: HashSet<Ipv6Addr>,
}

/// What a new VM is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Its VMID.
    pub vmid: Vmid,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address; `None` without a broker.
    pub ipv6: Option<Ipv6Addr>,
}

/// What the operator requested by flags.
#[derive(Debug, Default, Clone, Copy)]
pub struct Wish {
    /// `--vmid`
    pub vmid: Option<Vmid>,
    /// `--ip`
    pub ipv4: Option<Ipv4Addr>,
    /// `--ipv6`
    pub ipv6: Option<Ipv6Addr>,
}
