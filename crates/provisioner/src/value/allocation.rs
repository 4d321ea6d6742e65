//! What a VM is given, what was asked for, and what is not to be had.

use super::vmid::Vmid;
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What is held by live records, the database's lists and the journal's entries.
#[derive(Debug, Default, Clone)]
pub struct Held {
    /// VMIDs of live records and of creates in flight.
    pub vmids: HashSet<u32>,
    /// VMIDs known to be taken on the node by somebody else.
    pub foreign_vmids: HashSet<u32>,
    /// IPv4 addresses.
    pub ipv4: HashSet<Ipv4Addr>,
    /// IPv6 addresses.
    pub ipv6: HashSet<Ipv6Addr>,
}

/// What a new VM gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Its VMID.
    pub vmid: Vmid,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, where there is a broker.
    pub ipv6: Option<Ipv6Addr>,
}

/// What the operator asked for by flag.
#[derive(Debug, Default, Clone, Copy)]
pub struct Wish {
    /// `--vmid`
    pub vmid: Option<Vmid>,
    /// `--ip`
    pub ipv4: Option<Ipv4Addr>,
    /// `--ipv6`
    pub ipv6: Option<Ipv6Addr>,
}
