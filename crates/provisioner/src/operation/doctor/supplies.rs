//! How many VMIDs and addresses can still be handed out: what nobody holds, whoever it is (hazard H55).

use crate::operation::Context;
use crate::plan::doctor::Finding;
use crate::plan::doctor::addresses::{self, Supply};
use crate::store::withheld_vmids::WithheldVmids;
use crate::tool::node::Guests;
use crate::tool::terraform_files::TerraformFiles;
use crate::value::allocation::Held;
use std::collections::HashSet;
use std::net::IpAddr;

/// What can be handed out. `None`: db.yaml does not say which, or the host has none of this kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supplies {
    /// VMIDs.
    pub vmids: Option<Supply>,
    /// IPv4 addresses.
    pub ipv4: Option<Supply>,
    /// IPv6 addresses.
    pub ipv6: Option<Supply>,
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

/// Counts what is left.
pub fn count(ctx: &Context<'_>, held: &Held) -> Supplies {
    let vmids = ctx.settings.vmid_range().ok().map(|range| {
        let total = range.end.get() - range.start.get() + 1;
        let taken: HashSet<u32> = held.vmids.union(&held.foreign_vmids).copied().collect();
        let taken = taken.iter().filter(|vmid| (range.start.get()..=range.end.get()).contains(vmid)).count();
        Supply { total: total as usize, free: (total as usize).saturating_sub(taken) }
    });
    let ipv4 = ctx.settings.ipv4_pool().ok().map(|pool| {
        let in_pool = |address: &std::net::Ipv4Addr| (pool.start..=pool.end).contains(address);
        let unusable = [pool.gateway, pool.network.address(), pool.network.broadcast()];
        let unusable: HashSet<_> = unusable.into_iter().filter(in_pool).collect();
        let all = u32::from(pool.end) - u32::from(pool.start) + 1;
        let total = all as usize - unusable.len();
        let taken = held.ipv4.iter().filter(|address| in_pool(address) && pool.usable(**address)).count();
        Supply { total, free: total.saturating_sub(taken) }
    });
    let broker = ctx.settings.broker(ctx.host).ok().flatten();
    let ipv6 = broker.map(|broker| {
        let pool = broker.pool;
        let size = 1u128 << (128 - u32::from(pool.prefix.length()));
        let end = u128::from(pool.end).min(size - 1);
        let start = u128::from(pool.start);
        let total = usize::try_from((end + 1).saturating_sub(start)).unwrap_or(usize::MAX);
        let base = pool.prefix.at(0).map_or(0, u128::from);
        let is_in = |address: &&std::net::Ipv6Addr| {
            let offset = u128::from(**address).wrapping_sub(base);
            (start..=end).contains(&offset)
        };
        Supply { total, free: total.saturating_sub(held.ipv6.iter().filter(is_in).count()) }
    });
    Supplies { vmids, ipv4, ipv6 }
}

/// What runs out, and who uses an address that is nobody's. Nothing where the database cannot be read, which is said elsewhere.
pub fn findings(
    ctx: &Context<'_>,
    guests: &Option<Guests>,
    own: &HashSet<IpAddr>,
    neighbours: &[(IpAddr, String)],
) -> Vec<Finding> {
    let Ok(held) = held(ctx, guests, own) else { return Vec::new() };
    let left = count(ctx, &held);
    let mut found: Vec<Finding> = [
        ("VMIDs", "vmid_range", left.vmids),
        ("IPv4 addresses", "ip_pool", left.ipv4),
        ("IPv6 addresses", "ipv6_pool", left.ipv6),
    ]
    .into_iter()
    .filter_map(|(what, key, supply)| addresses::supply(what, key, supply?))
    .collect();
    let pool = ctx.settings.ipv4_pool().ok();
    let in_pool = |address: &IpAddr| match address {
        IpAddr::V4(address) => pool.is_some_and(|pool| (pool.start..=pool.end).contains(address)),
        IpAddr::V6(_) => false,
    };
    let answering: Vec<(IpAddr, String)> = neighbours.iter().filter(|(a, _)| in_pool(a)).cloned().collect();
    let all: HashSet<IpAddr> = held
        .ipv4
        .iter()
        .map(|a| IpAddr::from(*a))
        .chain(held.ipv6.iter().map(|a| IpAddr::from(*a)))
        .collect();
    found.extend(addresses::of_others(&answering, &all));
    found
}
