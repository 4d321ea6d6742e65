//! VMIDs and addresses: how many there are, and how many nobody holds, whoever it is (hazard H55).

use crate::value::address::{Ipv4Pool, Ipv6Pool};
use crate::value::allocation::Held;
use crate::value::vmid::VmidRange;
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Numbers of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply {
    /// How many VMs can have one at once.
    pub total: usize,
    /// How many can be handed out now.
    pub free: usize,
}

/// The VMIDs of `vmid_range`.
pub fn vmids(range: VmidRange, held: &Held) -> Supply {
    let (start, end) = (range.start.get(), range.end.get());
    let total = (end - start + 1) as usize;
    let taken: HashSet<u32> = held.vmids.union(&held.foreign_vmids).copied().collect();
    let taken = taken.iter().filter(|vmid| (start..=end).contains(vmid)).count();
    Supply { total, free: total.saturating_sub(taken) }
}

/// The addresses of `ip_pool` that a guest can have.
pub fn ipv4(pool: &Ipv4Pool, held: &Held) -> Supply {
    let in_pool = |address: &Ipv4Addr| (pool.start..=pool.end).contains(address);
    let unusable = [pool.gateway, pool.network.address(), pool.network.broadcast()];
    let unusable: HashSet<_> = unusable.into_iter().filter(in_pool).collect();
    let all = u32::from(pool.end) - u32::from(pool.start) + 1;
    let total = all as usize - unusable.len();
    let taken = held.ipv4.iter().filter(|address| in_pool(address) && pool.usable(**address)).count();
    Supply { total, free: total.saturating_sub(taken) }
}

/// The addresses of `ipv6_pool` in the broker's prefix.
pub fn ipv6(pool: &Ipv6Pool, held: &Held) -> Supply {
    let size = 1u128 << (128 - u32::from(pool.prefix.length()));
    let end = u128::from(pool.end).min(size - 1);
    let start = u128::from(pool.start);
    let total = usize::try_from((end + 1).saturating_sub(start)).unwrap_or(usize::MAX);
    let base = pool.prefix.at(0).map_or(0, u128::from);
    let is_in = |address: &&Ipv6Addr| {
        let offset = u128::from(**address).wrapping_sub(base);
        (start..=end).contains(&offset)
    };
    Supply { total, free: total.saturating_sub(held.ipv6.iter().filter(is_in).count()) }
}
