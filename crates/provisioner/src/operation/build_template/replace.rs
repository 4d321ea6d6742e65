//! Replaces an existing template of ours with the complete new VM.
//!
//! ```text
//!   staging VM complete ──▶ noted ──▶ old one destroyed ──▶ staging VM copied ──▶ copy made a template ──▶ grants back
//!                                                                                     ──▶ staging VM gone ──▶ note gone
//! ```
//!
//! Once it is in the journal, only a failure stops the replacement: stopping at a signal would leave the node without a
//! template. Each step first checks the current state, so a run after a kill can continue from anywhere.

use super::journal::{self, Entry, Replacement};
use super::linked::linked_clones;
use super::machine::{self, Removed};
use super::progress::{Progress, Unit};
use super::work_folder::WorkFolder;
use crate::tool::guest_config::GuestConfig;
use crate::tool::proxmox_cli::ProxmoxCli;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use std::path::Path;
use std::time::Duration;

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Finished {
    /// The new template exists.
    Done,
    /// The staging VM was removed again, for this reason; an old template that still existed is kept.
    Abandoned(String),
}

/// How long to wait for another client's clone of the old template.
const WORKER: Duration = Duration::from_secs(600);

/// Continues a build that was replacing a template, from wherever it is.
pub fn finish(
    tools: &ProxmoxCli,
    folder: &WorkFolder,
    entry: &Entry,
    replacing: &Replacement,
    terraform_dir: &Path,
    progress: &mut dyn Progress,
) -> anyhow::Result<Finished> {
    let tools = &tools.uninterrupted();
    let (vmid, staging) = (entry.vmid()?, entry.made_vmid()?);
    let is_new = |config: &GuestConfig| config.description().ends_with(&replacing.build.to_string());
    let done = |config: &GuestConfig| -> anyhow::Result<bool> {
        Ok(is_new(config) && entry.wanted.template_problems(tools, vmid)?.is_empty())
    };
    let found = settled(tools, vmid)?;
    if !found.as_ref().map(done).transpose()?.unwrap_or(false) {
        let abandon = |why: String| abandon(tools, folder, entry, why);
        let complete = tools.config(staging)?.filter(|config| machine::is(config, entry.made.uuid));
        let wrong = complete.map(|config| entry.wanted.problems(&config));
        if wrong != Some(vec![]) {
            return abandon(format!("VM {staging}, which was meant to become the template, is incomplete"));
        }
        match found {
            Some(config) if is_new(&config) => {
                let removed = machine::remove(tools, vmid, &entry.wanted.storage, is_new, false)?;
                if let Removed::Stranger(why) = removed {
                    return abandon(why);
                }
            }
            Some(config) if is_old(&config, replacing) => {
                let linked = linked_clones(tools, vmid, &config, terraform_dir)?;
                if !linked.is_empty() {
                    return abandon(keeps(vmid, &linked));
                }
                if let Some(why) = destroy_old(tools, vmid, &config, replacing)? {
                    return abandon(why);
                }
            }
            Some(config) => {
                return abandon(format!("VMID {vmid} has VM {:?}, which is not ours", config.name()));
            }
            None if !tools.is_free(vmid)? => {
                return abandon(format!("VMID {vmid} is taken elsewhere in the cluster"));
            }
            None => {}
        }
        tools.doors.reached("template.destroyed")?;
        copy(tools, entry, replacing, progress).with_context(|| {
            format!(
                "the old template {vmid} is deleted and the new one is VM {staging}; fix this, then run the command \
                 again"
            )
        })?;
    }
    give_back(tools, vmid, entry)?;
    tools.doors.reached("template.granted")?;
    clear(tools, folder, entry)?;
    Ok(Finished::Done)
}

/// Whether this is the template to be replaced.
fn is_old(config: &GuestConfig, replacing: &Replacement) -> bool {
    config.uuid() == replacing.old_uuid && config.name() == replacing.old_name && config.is_template()
}

/// Explains why a template is kept.
pub fn keeps(vmid: Vmid, linked: &[String]) -> String {
    format!(
        "keeping template {vmid}, because linked clones depend on its disk: {}; destroy them first, or build under \
         another VMID (--template-vmid)",
        linked.join(", ")
    )
}

/// Returns the configuration once no clone of a dead client is being written there.
fn settled(tools: &ProxmoxCli, vmid: Vmid) -> anyhow::Result<Option<GuestConfig>> {
    let deadline = tools.doors.deadline_of("template-worker", WORKER);
    loop {
        let config = tools.config(vmid)?;
        if deadline.passed() || config.as_ref().and_then(GuestConfig::lock) != Some("clone") {
            return Ok(config);
        }
        tools.doors.sleep(Duration::from_millis(300));
    }
}

/// Destroys the old template. Returns the reason if it could not be destroyed and is still intact.
fn destroy_old(
    tools: &ProxmoxCli,
    vmid: Vmid,
    old: &GuestConfig,
    replacing: &Replacement,
) -> anyhow::Result<Option<String>> {
    tracing::info!("removing the old template {vmid} ({})", old.name());
    let destroyed = tools.destroy(vmid, false);
    if let Some(left) = tools.config(vmid)? {
        let whole = is_old(&left, replacing) && volumes_left(tools, vmid, old)?.len() == old.volumes().len();
        let error = destroyed.err().map_or_else(
            || format!("qm destroy {vmid} succeeded, but the old template still exists"),
            |error| format!("{error:#}"),
        );
        anyhow::ensure!(whole, "{error}");
        return Ok(Some(error));
    }
    for volume in volumes_left(tools, vmid, old)? {
        if let Err(error) = tools.free(&volume) {
            tracing::warn!("the old template is deleted, but its volume {volume} remains: {error:#}");
        }
    }
    Ok(None)
}

fn volumes_left(tools: &ProxmoxCli, vmid: Vmid, old: &GuestConfig) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for volume in old.volumes() {
        let storage = volume.split(':').next().unwrap_or_default();
        if tools.volumes(storage, Some(vmid))?.iter().any(|listed| listed.volid == volume) {
            left.push(volume.to_owned());
        }
    }
    Ok(left)
}

/// Makes a full clone of the staging VM and converts it into the template.
fn copy(
    tools: &ProxmoxCli,
    entry: &Entry,
    replacing: &Replacement,
    progress: &mut dyn Progress,
) -> anyhow::Result<()> {
    let (vmid, staging) = (entry.vmid()?, entry.made_vmid()?);
    let description = machine::description(&entry.wanted.name, replacing.build);
    let mut options = vec![("name", entry.wanted.name.as_str()), ("description", &description)];
    options.extend(entry.pool.as_deref().map(|pool| ("pool", pool)));
    progress.begin(&format!("copying VM {staging} to {vmid}"), Some(100), Unit::Percent);
    let cloned = tools.clone_whole(staging, vmid, &options, |percent| progress.reach(percent));
    progress.end();
    cloned?;
    tools.doors.reached("template.cloned")?;
    let config = tools.config(vmid)?.unwrap_or_default();
    let wrong = entry.wanted.problems(&config);
    anyhow::ensure!(wrong.is_empty(), "the copy {vmid} is incomplete: {}", wrong.join("; "));
    machine::convert(tools, vmid, &entry.wanted)
}

/// Restores the permissions that Proxmox dropped when the old template was destroyed.
pub fn give_back(tools: &ProxmoxCli, vmid: Vmid, entry: &Entry) -> anyhow::Result<()> {
    let there = tools.grants(vmid)?;
    for grant in entry.grants.iter().filter(|grant| !there.contains(grant)) {
        tools.grant(vmid, grant).with_context(|| {
            format!(
                "failed to restore the permission of {} {}: {} on /vms/{vmid}",
                grant.kind, grant.ugid, grant.roleid
            )
        })?;
    }
    Ok(())
}

/// Removes the staging VM and the journal entry.
fn clear(tools: &ProxmoxCli, folder: &WorkFolder, entry: &Entry) -> anyhow::Result<()> {
    let staging = entry.made_vmid()?;
    let ours = |config: &GuestConfig| machine::is(config, entry.made.uuid);
    if let Removed::Stranger(why) = machine::remove(tools, staging, &entry.wanted.storage, ours, true)? {
        tracing::warn!("{why}; nothing was removed there");
    }
    tools.doors.reached("template.cleared")?;
    tools.take_away(&entry.remote_folder)?;
    journal::remove(folder)
}

fn abandon(tools: &ProxmoxCli, folder: &WorkFolder, entry: &Entry, why: String) -> anyhow::Result<Finished> {
    clear(tools, folder, entry).with_context(|| why.clone())?;
    Ok(Finished::Abandoned(why))
}
