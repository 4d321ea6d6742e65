//! How many VMIDs and addresses can still be handed out: what nobody holds, whoever it is (hazard H55).

use crate::operation::Context;
use crate::plan::capacity::{Numbers, supplies};
use crate::store::side_files;
use crate::store::withheld_vmids::WithheldVmids;
use crate::tool::node::Guests;
use crate::tool::terraform_files::TerraformFiles;
use crate::value::allocation::Held;
use std::collections::HashSet;
use std::net::IpAddr;

/// What can be handed out.
#[derive(Debug, Clone, PartialEq)]
pub struct Supplies {
    /// VMIDs.
    pub vmids: Numbers,
    /// IPv4 addresses.
    pub ipv4: Numbers,
    /// IPv6 addresses.
    pub ipv6: Numbers,
}

impl Supplies {
    /// Nothing is known.
    pub const UNKNOWN: Supplies =
        Supplies { vmids: Numbers::Unknown, ipv4: Numbers::Unknown, ipv6: Numbers::Unknown };
}

/// The host's own addresses and its guests' name servers, which no VM gets.
pub fn of_host(ctx: &Context<'_>, addresses: impl IntoIterator<Item = IpAddr>) -> HashSet<IpAddr> {
    let mut own: HashSet<IpAddr> = addresses.into_iter().collect();
    own.extend(side_files::name_servers(&ctx.settings).unwrap_or_default());
    own.retain(|address| !address.is_loopback());
    own
}

/// All that is held by records, journal, directories, guests, and the host itself. An error: the database cannot be read.
pub fn held(ctx: &Context<'_>, guests: &Option<Guests>, own: &HashSet<IpAddr>) -> anyhow::Result<Held> {
    let mut held = match ctx.database.path().exists() {
        true => ctx.database.inspect(|db| db.held(&mut |_| {}).map_err(anyhow::Error::msg))?,
        false => Held::default(),
    };
    let mut hold = |address: &IpAddr| match address {
        IpAddr::V4(address) => drop(held.ipv4.insert(*address)),
        IpAddr::V6(address) => drop(held.ipv6.insert(*address)),
    };
    own.iter().for_each(&mut hold);
    let mut files = TerraformFiles::default();
    files.read_new(&ctx.settings);
    files.found.iter().flat_map(|found| &found.addresses).for_each(&mut hold);
    guests.iter().flat_map(|guests| &guests.addresses).for_each(&mut hold);
    for entry in
        ctx.journal().names().unwrap_or_default().iter().filter_map(|name| ctx.journal().read(name).ok()?)
    {
        held.vmids.insert(entry.vmid);
        held.ipv4.extend(entry.ipv4);
        held.ipv6.extend(entry.ipv6);
    }
    held.foreign_vmids.extend(guests.iter().flat_map(|guests| &guests.vmids));
    let withheld = WithheldVmids::new(ctx.host).as_they_are();
    held.foreign_vmids.extend(withheld.into_iter().filter_map(|(_, one)| Some(one.ok()?.vmid)));
    Ok(held)
}

/// Counts what is left. What db.yaml or broker-allocation.json do not say, or say wrongly, goes to `not_known`.
pub fn count(ctx: &Context<'_>, held: &Held, not_known: &mut Vec<String>) -> Supplies {
    let mut unknown = |what: &str, error: anyhow::Error| {
        not_known.push(format!("{what}: {error:#}"));
        Numbers::Unknown
    };
    let vmids = match ctx.settings.vmid_range() {
        Ok(range) => Numbers::Counted(range.to_string(), supplies::vmids(range, held)),
        Err(error) => unknown("VMIDs", error),
    };
    let ipv4 = match ctx.settings.ipv4_pool() {
        Ok(pool) => Numbers::Counted(pool.to_string(), supplies::ipv4(&pool, held)),
        Err(error) => unknown("IPv4 addresses", error),
    };
    let ipv6 = match ctx.settings.broker(ctx.host) {
        Ok(Some(broker)) => {
            let supply = supplies::ipv6(&broker.pool, held);
            Numbers::Counted(broker.pool.to_string(), supply)
        }
        Ok(None) => Numbers::None,
        Err(error) => unknown("IPv6 addresses", error),
    };
    Supplies { vmids, ipv4, ipv6 }
}
