//! Takes VMID and addresses in one locked change of the database, which is in the journal before it is visible
//! (`facts/contract/database.md#allocation`; hazards H01, H05, H13).

use super::Request;
use super::check::Checked;
use super::holders::{self, Holders};
use crate::host::clock::Deadline;
use crate::host::proxmox_api::ApiError;
use crate::operation::Context;
use crate::operation::locked_vm::LockedVm;
use crate::plan::allocation::{self, Exhausted};
use crate::plan::create_vm::Facts;
use crate::store::journal::{Entry, Step};
use crate::store::vm_database::Contents;
use crate::value::allocation::{Allocation, Held};
use crate::value::vmid::{Vmid, VmidRange};
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;
use uuid::Uuid;

/// Time limit of all queries to the node about VMIDs together.
const ASKING: Duration = Duration::from_secs(30);

/// VMID and addresses taken by this create: recorded in the journal and held in the database. Nothing is on the node
/// yet.
pub struct Taken {
    /// The journal entry as written.
    pub entry: Entry,
    /// VMID and addresses in the entry.
    pub allocation: Allocation,
    /// The VM's SMBIOS UUID.
    pub smbios_uuid: Uuid,
}

impl Taken {
    /// The prefix of error messages.
    pub fn label(&self) -> String {
        format!("VM {} (VMID {})", self.entry.name, self.allocation.vmid)
    }
}

/// Takes VMID and addresses for `request` and writes the journal entry.
///
/// The node is queried before the lock is taken, about the VMID that will probably be chosen. The choice is made under
/// the lock; if it is a VMID that the node has not reported free, the node is queried about that one and the choice is
/// made again.
pub fn vmid_and_addresses(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked<'_>,
    not_these: &[Vmid],
) -> anyhow::Result<Taken> {
    let ctx = vm.ctx();
    let smbios_uuid = Uuid::new_v4();
    let range = ctx.settings.vmid_range()?;
    ctx.database.make_if_missing(range.start.get(), || traces_of_vms(ctx))?;
    let deadline = vm.host.deadline(ASKING);
    let mut foreign: Vec<Vmid> = not_these.to_vec();
    let mut free_on_node: Vec<Vmid> = Vec::new();
    let hint = ctx
        .database
        .next_vmid_hint()?
        .and_then(|n| Vmid::new(u64::from(n)).ok())
        .filter(|v| range.contains(*v));
    let mut holders = Holders::gather(ctx, &checked.facts, true)?;
    let mut candidate = request.wish.vmid.or(hint).unwrap_or(range.start);
    loop {
        if free_on_node.contains(&candidate) {
            // Known to be free; only its addresses had to be probed.
        } else if is_free_on_node(checked, candidate, deadline)? {
            free_on_node.push(candidate);
        } else {
            anyhow::ensure!(
                request.wish.vmid.is_none(),
                "VMID {candidate} is taken: a guest with this VMID already exists on the node"
            );
            tracing::debug!("VMID {candidate} already exists on the node");
            foreign.push(candidate);
            foreign.extend(vmids_seen(checked, deadline));
        }
        let taken = ctx.database.update(|db| {
            let entries = ctx.journal().entries()?;
            let allocation = choose(ctx, request, &checked.facts, db, &entries, &foreign, &mut holders)?;
            let not_probed = holders.not_probed(allocation);
            if !free_on_node.contains(&allocation.vmid) || !not_probed.is_empty() {
                return Ok(Err((allocation.vmid, not_probed)));
            }
            // The last check before something is taken.
            vm.folder().check_terraform()?;
            let entry = Entry {
                name: request.name.to_string(),
                step: Step::Taken,
                smbios_uuid: Some(smbios_uuid),
                vmid: allocation.vmid.get(),
                previous_next_vmid: db.next_vmid().map_err(anyhow::Error::msg)?,
                ipv4: Some(allocation.ipv4),
                ipv6: allocation.ipv6,
                wallet_address: request.owner_wallet.as_ref().map(ToString::to_string),
                began_at: vm.host.now(),
                pid: std::process::id(),
                terraform_pid: None,
                record: None,
            };
            vm.write_entry(&entry)?;
            ctx.host.step("create.journalled")?;
            hold(db, allocation, range);
            Ok(Ok(Taken { entry, allocation, smbios_uuid }))
        })?;
        match taken {
            Ok(taken) => return Ok(taken),
            Err((other, not_probed)) => {
                candidate = other;
                holders.probe(ctx, request, &not_probed)?;
            }
        }
        anyhow::ensure!(
            !deadline.passed(),
            "failed to reserve a VMID within {} s: other creates were faster each time",
            ASKING.as_secs()
        );
    }
}

/// Chooses VMID and addresses from what the database, the journal and the node leave free.
pub fn choose(
    ctx: &Context<'_>,
    request: &Request,
    facts: &Facts,
    db: &Contents<'_>,
    entries: &[Entry],
    foreign: &[Vmid],
    holders: &mut Holders,
) -> anyhow::Result<Allocation> {
    let mut skipped = |why: String| tracing::warn!("{}: {why}; skipped", ctx.database.path().display());
    let mut held = db.held(&mut skipped).map_err(anyhow::Error::msg)?;
    held.foreign_vmids = foreign.iter().map(|v| v.get()).collect();
    for entry in entries {
        held.vmids.insert(entry.vmid);
        held.ipv4.extend(entry.ipv4);
        held.ipv6.extend(entry.ipv6);
    }
    // Only requested addresses that none of our VMs holds: for the others, being taken is reason enough.
    let wishes =
        [request.wish.ipv4.map(IpAddr::from), request.wish.ipv6.map(IpAddr::from)].into_iter().flatten();
    let wishes: Vec<IpAddr> = wishes.filter(|address| !holders::holds(&held, *address)).collect();
    holders.add_to(ctx, db, &mut held);
    for address in wishes {
        if let Some(why) = holders.refuses(address) {
            anyhow::bail!("VM {}: IP address {address} cannot be assigned: {why}", request.name);
        }
    }
    held.foreign_vmids.extend(holders.watched());
    // A VMID that failed recently may be requested explicitly, and is used if no other is left.
    let mut wary = held.clone();
    if request.wish.vmid.is_none() {
        wary.foreign_vmids.extend(holders.unusable());
    }
    let range = ctx.settings.vmid_range()?;
    let ipv6 = facts.ipv6_pool.as_ref();
    let next = db.next_vmid().map_err(anyhow::Error::msg)?;
    let choose = |held: &Held| allocation::choose(held, next, range, &facts.ipv4_pool, ipv6, request.wish);
    Ok(match choose(&wary) {
        Err(Exhausted::Vmids { .. }) => choose(&held)?,
        other => other?,
    })
}

/// What the very first VM would get, while there is no database.
pub fn first(ctx: &Context<'_>, request: &Request, facts: &Facts) -> anyhow::Result<Allocation> {
    let range = ctx.settings.vmid_range()?;
    let ipv6 = facts.ipv6_pool.as_ref();
    Ok(allocation::choose(&Held::default(), None, range, &facts.ipv4_pool, ipv6, request.wish)?)
}

/// Writes an allocation into the database.
pub fn hold(db: &mut Contents<'_>, allocation: Allocation, range: VmidRange) {
    db.set_next_vmid(allocation::next_after(allocation.vmid, range));
    db.hold("allocated_ips", &allocation.ipv4.to_string());
    if let Some(ipv6) = allocation.ipv6 {
        db.hold("allocated_ipv6", &ipv6.to_string());
    }
}

/// `nextid?vmid=N` considers all guests of the cluster, whatever our token may see (`facts/proxmox.md`, section 4).
fn is_free_on_node(checked: &Checked<'_>, vmid: Vmid, deadline: Deadline) -> anyhow::Result<bool> {
    match checked.api.get(&format!("/cluster/nextid?vmid={vmid}"), deadline) {
        Ok(_) => Ok(true),
        Err(ApiError::Status { status: 400, message, .. }) if message.contains("already exists") => Ok(false),
        Err(error) => {
            Err(anyhow::Error::from(error)
                .context(format!("cannot query the node whether VMID {vmid} is free")))
        }
    }
}

/// Returns the VMIDs that our token can see: a hint that saves queries, never a proof of absence.
fn vmids_seen(checked: &Checked<'_>, deadline: Deadline) -> Vec<Vmid> {
    let list = checked.api.get("/cluster/resources?type=vm", deadline).unwrap_or_default();
    let guests = list.as_array().cloned().unwrap_or_default();
    guests
        .iter()
        .filter_map(|g| g.get("vmid").and_then(Value::as_u64))
        .filter_map(|n| Vmid::new(n).ok())
        .collect()
}

/// Returns why a missing database must be a lost one, if VMs have left traces.
pub fn traces_of_vms(ctx: &Context<'_>) -> anyhow::Result<Option<String>> {
    if let Some(entry) = ctx.journal().entries()?.first() {
        return Ok(Some(format!("the journal has an entry of VM {}", entry.name)));
    }
    let vms = ctx.settings.terraform_dir.join("vms");
    for folder in std::fs::read_dir(&vms).into_iter().flatten().flatten() {
        if folder.path().join("terraform.tfstate").exists() {
            return Ok(Some(format!(
                "{} is the Terraform state of a VM",
                folder.path().join("terraform.tfstate").display()
            )));
        }
    }
    let shared = ctx.settings.terraform_dir.join("terraform.tfstate");
    if crate::host::read_file::text(&shared).is_ok_and(|text| text.contains("proxmox_virtual_environment_vm"))
    {
        return Ok(Some(format!("{} is a Terraform state with VMs", shared.display())));
    }
    Ok(None)
}
