//! The addresses that this host uses or needs ([`crate::plan::address_proposal`]).

use crate::plan::address_proposal;
use crate::store::side_files::host_name_servers;
use crate::value::host_network::Network;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Files with the host's name servers, including those behind a local resolver.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Returns every IPv4 address that the host uses or needs.
pub(super) fn taken(network: &Network) -> BTreeSet<Ipv4Addr> {
    let servers = RESOLVERS
        .iter()
        .flat_map(|path| host_name_servers(&crate::host::read_file::text(path).unwrap_or_default()));
    address_proposal::taken(network, servers)
}
