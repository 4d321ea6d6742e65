//! The attempts of one create: each takes a new VMID and addresses, and a failed one is rolled back before the next
//! begins (hazards H05, H18, H63). Whether another attempt is worthwhile depends on why the last one failed.

use super::attempt::{Failure, Registered, attempt};
use super::check::Checked;
use super::turn::Turn;
use super::{Request, template};
use crate::host::interrupt::Interrupted;
use crate::host::progress;
use crate::host::replace_file;
use crate::operation::locked_vm::LockedVm;
use crate::operation::{Context, recovery};
use crate::plan::create_vm::Facts;
use crate::store::journal::Step;
use crate::store::withheld_vmids::WithheldVmids;
use crate::tool::terraform_events::{FailureKind, volume_of};
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts with different VMIDs.
const ATTEMPTS: u32 = 4;
/// Attempts when the node, or the way to it, was only busy; with the pauses (2, 4, 8, … s) some three minutes.
const PASSING_ATTEMPTS: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the attempts so far have shown.
struct Tries {
    not_these: Vec<Vmid>,
    vmids_tried: u32,
    passing: u32,
    kept_log: KeptLog,
}

/// The log of a failed attempt. Only that of the create's last attempt is kept, as it shows why it failed; none is kept
/// if the create succeeds.
#[derive(Default)]
pub struct KeptLog(Option<PathBuf>);

impl KeptLog {
    /// Replaces the kept log, and removes its file.
    pub fn replace(&mut self, new: Option<PathBuf>) {
        if let Some(old) = std::mem::replace(&mut self.0, new)
            && Some(&old) != self.0.as_ref()
            && let Err(error) = replace_file::remove(&old)
        {
            tracing::debug!("{}: {error}", old.display());
        }
    }

    /// Path of the log, for an error message; only if terraform failed does its log say more.
    fn of(&self, failure: &Failure) -> Option<&Path> {
        self.0.as_deref().filter(|_| failure.vmid.is_some())
    }

    /// The suffix of an error message that says where the log is.
    fn in_words(&self, failure: &Failure) -> String {
        self.of(failure).map_or_else(String::new, |log| format!("; its log is kept in {}", log.display()))
    }
}

/// Makes attempts until there is a registered VM or a reason to give up. Failed attempts leave nothing behind unless
/// the error says so.
pub fn until_registered(
    vm: &LockedVm<'_, '_>,
    request: &Request,
    checked: &Checked<'_>,
    _turn: &Turn<'_>,
) -> anyhow::Result<(Registered, KeptLog)> {
    let (ctx, name) = (vm.ctx(), vm.name());
    let mut tries = Tries { not_these: Vec::new(), vmids_tried: 1, passing: 1, kept_log: KeptLog::default() };
    loop {
        template::wait_until_free(ctx, checked.facts.template).with_context(|| format!("VM {name}"))?;
        let failure = match attempt(vm, request, checked, &tries.not_these) {
            Ok(registered) => return Ok((registered, tries.kept_log)),
            Err(failure) => failure,
        };
        let is_registered = undo(vm, &failure, &mut tries.kept_log)?;
        if let (FailureKind::VmidTaken, Some(vmid)) = (failure.kind, failure.vmid) {
            pass_over(ctx, &checked.facts, name, vmid, &failure.error);
        }
        tries.again_after(vm, request, failure, is_registered)?;
        ctx.host.interrupt.check()?;
    }
}

/// Rolls back an attempt that failed before registration; returns whether it had been registered.
fn undo(vm: &LockedVm<'_, '_>, failure: &Failure, kept_log: &mut KeptLog) -> anyhow::Result<bool> {
    let Some(entry) = vm.entry()? else { return Ok(false) };
    if !matches!(entry.step, Step::Taken | Step::Applying) {
        return Ok(entry.step == Step::Registered);
    }
    tracing::info!("VM {}: rolling back", vm.name());
    progress::now(format_args!("VM {}: rolling back", vm.name()));
    let undone = recovery::undo(vm, &entry, recovery::PATIENT, failure.may_be_late);
    kept_log.replace(undone.kept_log);
    undone.ended.map(|()| false).map_err(|undo| {
        anyhow::anyhow!(
            "{:#}{}; rolling back failed as well: {undo:#}; VMID {} and its addresses stay reserved, and the next \
             create or gc retries",
            failure.error,
            kept_log.in_words(failure),
            entry.vmid
        )
    })
}

impl Tries {
    /// Prepares for another attempt, or returns the create's error.
    fn again_after(
        &mut self,
        vm: &LockedVm<'_, '_>,
        request: &Request,
        failure: Failure,
        is_registered: bool,
    ) -> anyhow::Result<()> {
        match failure.kind {
            FailureKind::VmidTaken if self.vmids_tried < ATTEMPTS && request.wish.vmid.is_none() => {
                self.vmids_tried += 1;
                tracing::warn!("{:#}; trying another VMID", failure.error);
                self.not_these.extend(failure.vmid);
                Ok(())
            }
            FailureKind::Busy if self.passing < PASSING_ATTEMPTS => {
                let pause = Duration::from_secs(1 << self.passing).min(LONGEST_PAUSE);
                self.passing += 1;
                tracing::warn!(
                    "{:#}; trying again in {} s (try {} of {PASSING_ATTEMPTS})",
                    failure.error,
                    pause.as_secs(),
                    self.passing
                );
                vm.ctx().host.sleep(vm.host.limit("create-retry", pause));
                Ok(())
            }
            _ if is_registered => {
                anyhow::bail!(
                    "{:#}; the VM is created: run the same command again to get its result",
                    failure.error
                )
            }
            _ if failure.error.is::<Interrupted>() => {
                anyhow::bail!("VM {}: interrupted by a signal; everything was rolled back", vm.name())
            }
            _ if self.kept_log.of(&failure).is_some() => {
                anyhow::bail!("{:#}{}", failure.error, self.kept_log.in_words(&failure))
            }
            _ => Err(failure.error),
        }
    }
}

/// Remembers a VMID that cannot be used: the next create would choose it too, and fail likewise (H63).
fn pass_over(ctx: &Context<'_>, facts: &Facts, name: &VmName, vmid: Vmid, error: &anyhow::Error) {
    let words = format!("{error:#}");
    let left_over = volume_of(&words, vmid.get()).map(|volume| match volume.contains(':') {
        true => volume,
        false if volume.contains("cloudinit") => format!("{}:{volume}", facts.cloudinit_datastore),
        false => format!("{}:{volume}", facts.disk_datastore),
    });
    let advice = left_over.map_or_else(
        || "check what is left of it on the node".to_string(),
        |volume| format!("leftover volume {volume}; remove it with pvesm free {volume}"),
    );
    tracing::warn!("VM {name}: VMID {vmid} cannot be used and is skipped for a day; {advice}");
    if let Err(error) = WithheldVmids::new(ctx.host).withhold(vmid, &format!("{advice} ({words})"), None) {
        tracing::warn!("VM {name}: VMID {vmid} may be assigned again: {error:#}");
    }
}
