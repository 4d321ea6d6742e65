//! Who else holds VMIDs and addresses, besides the database and the journal (hazards H55, H63, H57): the VMs' terraform
//! directories, the guests of the cluster, the host itself, withheld VMIDs, and whoever answers for an address.
//!
//! Gathered before the database is locked; terraform directories that appear meanwhile are read under the lock.

use super::Request;
use crate::host::Host;
use crate::host::{probe_address, read_file};
use crate::operation::Context;
use crate::plan::create_vm::Facts;
use crate::store::side_files;
use crate::store::vm_database::Contents;
use crate::store::withheld_vmids::{Withheld, WithheldVmids};
use crate::tool::ip;
use crate::tool::terraform_files::{Described, TerraformFiles};
use crate::value::allocation::{Allocation, Held};
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

/// Time limit of a query to the kernel or the node.
const LOOK: Duration = Duration::from_secs(15);
/// How long a device on the local network may take to answer: the kernel asks once per second, and answers take
/// milliseconds.
const ANSWER: Duration = Duration::from_millis(1200);
/// For a stale entry of the neighbour table the kernel sends its queries only after 5 s, three of them, one per second.
const OLD_ENTRY: Duration = Duration::from_secs(9);

/// What these holders have. Empty by default, for a mock.
#[derive(Debug, Default)]
pub struct Holders {
    files: Option<TerraformFiles>,
    asks_network: bool,
    guests_vmids: Vec<u32>,
    guests_addresses: Vec<IpAddr>,
    host: HashSet<IpAddr>,
    withheld: Vec<Withheld>,
    /// Addresses for which a probe got no answer.
    silent: HashSet<IpAddr>,
    /// Addresses for which somebody answered.
    answering: HashSet<IpAddr>,
}

impl Holders {
    /// Gathers them. With `ask_node`, includes the guests' configurations; a preview does not query the node for them.
    pub fn gather(ctx: &Context<'_>, facts: &Facts, ask_node: bool) -> anyhow::Result<Holders> {
        let mut files = TerraformFiles::default();
        files.read_new(&ctx.settings);
        let mut holders = Holders {
            files: Some(files),
            asks_network: ctx.settings.probe_addresses,
            withheld: WithheldVmids::new(ctx.host).all(),
            ..Holders::default()
        };
        // The guests' name servers and the host's own, as some are in the guests' network.
        let own = read_file::text("/etc/resolv.conf").unwrap_or_default();
        holders.host.extend(side_files::host_name_servers(&own));
        holders.host.extend(&facts.dns_servers);
        match ip::host_addresses(ctx.host, ctx.host.deadline(LOOK)) {
            Ok(addresses) => holders.host.extend(addresses),
            Err(error) => {
                tracing::warn!(
                    "cannot read the host's own addresses, so one of them may be assigned to a VM: \
                    {error:#}"
                )
            }
        }
        if ask_node {
            match ctx.node().guests(ctx.host.deadline(LOOK))? {
                Some(guests) => {
                    holders.guests_vmids = guests.vmids;
                    holders.guests_addresses = guests.addresses;
                }
                None => tracing::debug!("the root agent's plugin is too old to list the guests' addresses"),
            }
        }
        Ok(holders)
    }

    /// Adds what these holders have to what the database has.
    pub fn add_to(&mut self, ctx: &Context<'_>, db: &Contents<'_>, held: &mut Held) {
        if let Some(files) = &mut self.files {
            files.read_new(&ctx.settings);
        }
        for described in self.files.iter().flat_map(|files| &files.found) {
            let is_new = described.vmid.is_some_and(|vmid| !held.vmids.contains(&vmid.get()))
                || described.addresses.iter().any(|address| !holds(held, *address));
            // Files that a destroy could not remove hold nothing: the record says that the VM is destroyed.
            if is_new && !is_destroyed(db, described) {
                held.vmids.extend(described.vmid.map(|vmid| vmid.get()));
                described.addresses.iter().for_each(|address| hold(held, *address));
            }
        }
        held.foreign_vmids.extend(self.guests_vmids.iter().copied());
        let others = self.guests_addresses.iter().chain(&self.host).chain(&self.answering);
        others.for_each(|address| hold(held, *address));
    }

    /// Returns VMIDs that must not be assigned because a VM may still appear there.
    pub fn watched(&self) -> impl Iterator<Item = u32> + '_ {
        self.withheld.iter().filter(|one| one.late.is_some()).map(|one| one.vmid)
    }

    /// Returns VMIDs that failed recently, to be used only if no others are left.
    pub fn unusable(&self) -> impl Iterator<Item = u32> + '_ {
        self.withheld.iter().filter(|one| one.late.is_none()).map(|one| one.vmid)
    }

    /// Why a requested address cannot be assigned, where the reason is not a VM that has it.
    pub fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        if self.host.contains(&address) {
            Some("it is an address of this host, its router or its name server")
        } else if self.guests_addresses.contains(&address) {
            Some("a guest or a node of the cluster uses it")
        } else if self.answering.contains(&address) {
            Some("a device on the network answers for it")
        } else {
            None
        }
    }

    /// Returns the addresses of an allocation that have not been probed yet.
    pub fn not_probed(&self, allocation: Allocation) -> Vec<IpAddr> {
        if !self.asks_network {
            return Vec::new();
        }
        let both = [Some(allocation.ipv4.into()), allocation.ipv6.map(IpAddr::from)];
        both.into_iter().flatten().filter(|address| !self.silent.contains(address)).collect()
    }

    /// Probes the network for these addresses; one that answers counts as held from now on.
    pub fn probe(
        &mut self,
        ctx: &Context<'_>,
        request: &Request,
        addresses: &[IpAddr],
    ) -> anyhow::Result<()> {
        for address in addresses {
            ctx.host.interrupt.check()?;
            let Some(who) = who_answers(ctx.host, *address) else {
                self.silent.insert(*address);
                continue;
            };
            self.answering.insert(*address);
            let name = &request.name;
            let is_wish = [request.wish.ipv4.map(IpAddr::from), request.wish.ipv6.map(IpAddr::from)];
            anyhow::ensure!(
                !is_wish.contains(&Some(*address)),
                "VM {name}: {address} is in use: {who} answers for it on the network; choose another address, or set \
                 probe_addresses: false in db.yaml if this is intended"
            );
            tracing::warn!(
                "VM {name}: skipping {address}: no VM has it, but {who} answers for it on the network; find that \
                 device, or remove the address from the pool in db.yaml"
            );
        }
        Ok(())
    }
}

fn is_destroyed(db: &Contents<'_>, described: &Described) -> bool {
    let Some(Ok(record)) = db.record(&described.name) else { return false };
    !record.is_live() && described.uuid.is_none_or(|uuid| record.smbios_uuid == Some(uuid))
}

/// Whether an address is held.
pub fn holds(held: &Held, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => held.ipv4.contains(&address),
        IpAddr::V6(address) => held.ipv6.contains(&address),
    }
}

fn hold(held: &mut Held, address: IpAddr) {
    match address {
        IpAddr::V4(address) => held.ipv4.insert(address),
        IpAddr::V6(address) => held.ipv6.insert(address),
    };
}

/// Returns the hardware address that answers for `address`. An address on none of the host's links has no entry in the
/// neighbour table, so nobody answers for it. A failed query counts as no answer, as the other holders have been
/// checked.
fn who_answers(host: &Host, address: IpAddr) -> Option<String> {
    if let Err(error) = probe_address::knock(address) {
        tracing::debug!("{address}: {error}");
    }
    let mut deadline = host.deadline_of("probe-address", ANSWER);
    let mut is_old = false;
    loop {
        let entry = ip::neighbour(host, address, host.deadline(LOOK));
        let entry = entry.map_err(|error| tracing::debug!("{address}: {error:#}")).ok()??;
        if entry.is(&["FAILED"]) {
            return None;
        }
        if entry.lladdr.is_some() && (entry.is(&["REACHABLE", "PERMANENT", "NOARP"]) || deadline.passed()) {
            return entry.lladdr;
        }
        if deadline.passed() {
            return None;
        }
        if entry.lladdr.is_some() && !is_old {
            is_old = true;
            deadline = host.deadline_of("probe-address", OLD_ENTRY);
        }
        host.doors.sleep(Duration::from_millis(100));
    }
}
