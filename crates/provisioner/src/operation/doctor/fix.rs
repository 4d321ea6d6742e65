//! `--fix`: what doctor mends by itself.
//!
//! Each act proves again what it is about, under the VM's lock where it is about a VM: between the look and the act the
//! world has gone on. What is not proven to be ours is never touched.

use crate::host::accounts::{self, Account};
use crate::host::{Host, read_file, replace_file};
use crate::operation::{Context, guard_upkeep, reapply, restore};
use crate::plan::doctor::leftovers::Holder;
use crate::plan::doctor::{Finding, Fix};
use crate::store::audit::{self, Change};
use crate::store::provisioning_queue;
use crate::store::settings::Settings;
use crate::store::withheld_vmids::WithheldVmids;
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// A disk is freed by a tool of Proxmox'.
const FREEING: Duration = Duration::from_secs(30);

/// What can be done about these findings, each once.
pub fn possible(findings: &[Finding]) -> Vec<Fix> {
    findings.iter().filter_map(|finding| finding.fix.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What an act is, for the person who is asked.
pub fn in_words(fix: &Fix) -> String {
    match fix {
        Fix::RestoreRecord(name) => format!("restore the record of VM {name}"),
        Fix::Reconnect(name) => format!("set route, isolation and limits of VM {name}"),
        Fix::TidyQueue => "remove the tickets of creates that died".to_string(),
        Fix::RemoveTemporary(folder) => format!("remove half-written files in {}", folder.display()),
        Fix::SetMode(path, mode) => format!("set the mode of {} to {mode:04o}", path.display()),
        Fix::SetOwner(path) => format!("give {} to user blockhost", path.display()),
        Fix::FreeVolume(volid) => format!("free the leftover disk {volid}"),
        Fix::ClearGuard(vmid, name) => {
            format!("remove what is left of the network guard of VM {name} (VMID {vmid})")
        }
    }
}

/// Does one of them. An error says why it was not done.
pub fn apply(host: &Host, fix: &Fix) -> anyhow::Result<()> {
    let done = match fix {
        Fix::TidyQueue => {
            provisioning_queue::tidy(host);
            Ok(())
        }
        Fix::RemoveTemporary(folder) => {
            replace_file::remove_abandoned(folder);
            Ok(())
        }
        Fix::SetMode(path, mode) => replace_file::set_mode(path, *mode).map_err(Into::into),
        Fix::SetOwner(path) => set_owner(host, path),
        Fix::RestoreRecord(name) => restore_record(&open(host)?, name),
        Fix::Reconnect(name) => reconnect(&open(host)?, name),
        Fix::FreeVolume(volid) => free_volume(&open(host)?, volid),
        Fix::ClearGuard(vmid, name) => clear_guard(&open(host)?, *vmid, name),
    };
    done.with_context(|| format!("cannot {}", in_words(fix)))
}

fn open(host: &Host) -> anyhow::Result<Context<'_>> {
    Ok(Context::to_look(host, Settings::read(host)?))
}

/// The file is written anew: nobody but root can give a file away, and what we cannot read is not ours to copy.
fn set_owner(host: &Host, path: &Path) -> anyhow::Result<()> {
    let owner = accounts::ruler(host, &[])?.unwrap_or_else(Account::own);
    let found = path.symlink_metadata()?;
    anyhow::ensure!(found.is_file(), "it is not a regular file");
    let bytes = read_file::bytes(path)?;
    let mode = std::os::unix::fs::MetadataExt::mode(&found) & 0o770;
    Ok(replace_file::replace_as(host.doors, path, &bytes, mode, owner, "owner")?)
}

fn restore_record(ctx: &Context<'_>, name: &str) -> anyhow::Result<()> {
    let name = VmName::parse(name)?;
    let vm = ctx.try_lock_vm(&name, "doctor")?.context("another operation works on the VM")?;
    let restored = restore::of_vm(&vm)?;
    anyhow::ensure!(restored, "the node no longer has the VM of its Terraform directory");
    Ok(())
}

fn reconnect(ctx: &Context<'_>, name: &str) -> anyhow::Result<()> {
    let failures = reapply::reconnect(ctx, &VmName::parse(name)?)?;
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

fn clear_guard(ctx: &Context<'_>, vmid: u32, name: &str) -> anyhow::Result<()> {
    let cleared = guard_upkeep::clear(ctx, Vmid::new(u64::from(vmid))?, &VmName::parse(name)?)?;
    anyhow::ensure!(cleared, "the VM is there again, or another operation works on it");
    Ok(())
}

/// A disk that a destroy of ours could not free, by the note that it left. The root agent refuses one that a guest of the
/// cluster has or names.
fn free_volume(ctx: &Context<'_>, volid: &str) -> anyhow::Result<()> {
    let withheld = WithheldVmids::new(ctx.host);
    let noted = withheld.as_they_are().into_iter().filter_map(|(_, one)| one.ok());
    let note = noted.into_iter().find(|one| one.reason.contains(&format!("leftover disk {volid};")));
    let note = note.context("no destroy of ours has left a note about it")?;
    let holds = |holder: &Holder| !holder.is_destroyed && holder.vmid == note.vmid;
    let database = super::database::read(ctx);
    anyhow::ensure!(!database.is_blind && !database.holders.values().any(holds), "a record may need it");
    let begun = ctx.host.stopwatch();
    let freed = ctx.node_uninterrupted().free_volume(volid, ctx.host.deadline(FREEING));
    let words = freed.as_ref().map_or_else(|error| error.to_string(), |()| format!("ok; {volid}"));
    audit::write(
        ctx.host,
        &Change {
            verb: "free-volume",
            vm: "",
            vmid: Some(note.vmid),
            before: None,
            after: None,
            result: &words,
            duration: begun.elapsed(),
        },
    );
    freed?;
    withheld.forget(note.vmid);
    Ok(())
}
