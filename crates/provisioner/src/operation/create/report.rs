//! The last phase: connects the registered VM and reports it to the caller. From registration on, a signal no longer
//! stops us: the VM exists and is paid for.

use super::attempt::Registered;
use super::{Created, Request, VmResult};
use crate::operation::locked_vm::LockedVm;
use crate::operation::{machine, network, recovery};
use crate::store::journal::Entry;
use crate::store::provisioning_queue::Ticket;
use crate::tool::node::Node;
use crate::value::allocation::Allocation;
use anyhow::Context as _;
use std::time::Duration;

/// Callback that prints the result.
pub type OnResult<'a> = &'a mut dyn FnMut(&VmResult) -> anyhow::Result<()>;

/// Sets the route, isolates the port, reports the result, then removes the journal entry. Returns warnings about what
/// could not be done for the VM.
pub fn registered(
    vm: &LockedVm<'_, '_>,
    registered: &Registered,
    report: OnResult<'_>,
) -> anyhow::Result<Vec<String>> {
    let (ctx, name) = (vm.ctx(), vm.name());
    vm.host.reached("create.registered")?;
    let node: Node = ctx.node_uninterrupted();
    let deadline = vm.host.deadline(Duration::from_secs(90));
    let allocation = registered.allocation;
    let addresses = (Some(allocation.ipv4), allocation.ipv6);
    let decision = network::decision(ctx, addresses, Some(ctx.settings.anti_spoofing));
    let warnings = network::connect(ctx, &node, (allocation.vmid, &registered.identity), &decision, deadline);
    for warning in &warnings {
        tracing::warn!("VM {name}: {warning}");
    }
    vm.host.reached("create.connected")?;
    report(&registered.result)
        .context("the VM is created, but printing its result failed; run the same command again")?;
    vm.host.reached("create.reported")?;
    close_entry(vm)?;
    Ok(warnings)
}

/// Completes a create of this name that was registered but never reported; the same wallet gets its result now.
pub fn unreported(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    entry: &Entry,
    report: OnResult<'_>,
) -> anyhow::Result<Created> {
    let (ctx, name) = (vm.ctx(), vm.name());
    recovery::put_record_back(vm, entry)?;
    let record = ctx.live_record(name)?;
    let wallet = request.owner_wallet.as_ref().map(|w| w.as_str().to_string());
    anyhow::ensure!(
        entry.wallet_address == wallet,
        "VM {name} already exists and belongs to another wallet (status {})",
        record.status
    );
    // What is reported must exist: the caller relies on it, having been paid for it.
    let deadline = vm.host.deadline(Duration::from_secs(30));
    let place = machine::locate(ctx, &record, deadline)?;
    let state = ctx.node().state(place.vmid, Some(&place.identity), deadline);
    let state = state.with_context(|| format!("VM {name} (VMID {}): cannot query the node", place.vmid))?;
    anyhow::ensure!(
        state.exists && state.is(&place.identity, name),
        "VM {name} (VMID {}): it was created earlier but never reported, and now the node has {}: remove its record \
         with blockhost-vm-destroy {name}, then create it again",
        place.vmid,
        if state.exists { state.description() } else { "no such VM".to_owned() }
    );
    tracing::info!("VM {name}: it was created earlier but never reported; finishing that");
    // No turn is waited for; taking and dropping our ticket also removes the dead create's.
    let _ticket = Ticket::draw(ctx.host, name.as_str())?;
    let result = VmResult::of_record(&record);
    let ipv4 = record.ipv4.or(entry.ipv4).context("the record has no IPv4 address")?;
    let allocation = Allocation { vmid: record.vmid, ipv4, ipv6: record.ipv6 };
    let warnings = registered(vm, &Registered { result, allocation, identity: place.identity }, report)?;
    Ok(Created::Reported(warnings))
}

/// Removes the entry, and with it the last copy of the record in the journal. An unlocked writer that read the database
/// before the registration may have written its old copy since, so the record is checked once more (H16).
fn close_entry(vm: &LockedVm<'_, '_>) -> anyhow::Result<()> {
    if let Some(entry) = vm.entry()? {
        recovery::put_record_back(vm, &entry)?;
    }
    vm.remove_entry()
}
