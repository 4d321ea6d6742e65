//! What is under way and what died: the journal, withheld VMIDs, the queue of creates, gc's notes, half-written files.

use crate::host::lock_file::LockFile;
use crate::host::replace_file;
use crate::operation::gc::{last_run, under_way};
use crate::operation::{Context, unfinished};
use crate::plan::doctor::kinds::*;
use crate::plan::doctor::leftovers::{Stage, Work};
use crate::plan::doctor::{Finding, Fix};
use crate::store::journal::{Entry, Step};
use crate::store::provisioning_queue;
use crate::store::withheld_vmids::WithheldVmids;
use crate::tool::terraform_files::vm_folders;
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use chrono::TimeDelta;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use uuid::Uuid;

/// gc's timer runs once a day.
const GC_AT_LEAST: TimeDelta = TimeDelta::hours(50);

/// What it tells.
#[derive(Debug, Default)]
pub struct FromJournal {
    /// Operations in flight, alive or dead.
    pub works: Vec<Work>,
    /// VMs that somebody works on, without an entry.
    pub locked: HashSet<VmName>,
    /// VMIDs that are watched for a late clone.
    pub late: Vec<(u32, Uuid)>,
    /// Disks that a destroy of ours could not free.
    pub noted_volumes: HashSet<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Reads all of it; changes nothing.
pub fn read(ctx: &Context<'_>) -> FromJournal {
    let mut told = FromJournal::default();
    entries(ctx, &mut told);
    withheld(ctx, &mut told);
    queue(ctx, &mut told.findings);
    gc(ctx, &mut told.findings);
    temporary_files(ctx, &mut told.findings);
    let marker = ctx.host.config_file("bridge-under-way");
    if marker.exists() {
        let what = "a run of the bridge step did not end";
        let mend = "blockhost-provisioner-setup bridge";
        told.findings.push(Finding::new(&BRIDGE_STEP_UNFINISHED, marker.display(), what, mend));
    }
    told
}

fn entries(ctx: &Context<'_>, told: &mut FromJournal) {
    let folder = ctx.host.state_dir.join("journal");
    let mut bad = |place: String, error: anyhow::Error| {
        let mend = "find out on the node what it is about, then remove the file";
        told.findings.push(Finding::new(&JOURNAL_UNREADABLE, place, format!("{error:#}"), mend));
    };
    let names = ctx.journal().names().unwrap_or_else(|error| {
        bad(folder.display().to_string(), error);
        Vec::new()
    });
    for name in names {
        // Read the lock's holder first: otherwise the entry read here could belong to an operation that began in
        // between.
        let holder = ctx.journal().holder(&name);
        match ctx.journal().read(&name) {
            Ok(Some(entry)) => told.works.push(work(ctx, &entry, holder)),
            Ok(None) => {}
            Err(error) => bad(folder.join(format!("{name}.json")).display().to_string(), error),
        }
    }
    for file in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let file = file.file_name();
        let name = file.to_str().and_then(|file| VmName::parse(file.strip_suffix(".lock")?).ok());
        let is_held = |name: &VmName| LockFile::holder(&folder.join(format!("{name}.lock"))).is_some();
        told.locked.extend(name.filter(is_held));
    }
}

fn work(ctx: &Context<'_>, entry: &Entry, holder: Option<String>) -> Work {
    let stage = match entry.step {
        Step::Taken | Step::Applying => Stage::Creating,
        Step::Registered => Stage::Registered,
        Step::Destroying => Stage::Destroying,
    };
    let words = unfinished::in_words(entry, holder.as_deref(), ctx.host.now());
    let words = words.split("; run ").next().unwrap_or_default().to_string();
    let addresses = entry.ipv4.map(IpAddr::from).into_iter().chain(entry.ipv6.map(IpAddr::from)).collect();
    Work {
        name: entry.name.clone(),
        stage,
        vmid: entry.vmid,
        uuid: entry.smbios_uuid,
        addresses,
        holder,
        words,
    }
}

fn withheld(ctx: &Context<'_>, told: &mut FromJournal) {
    for (path, read) in WithheldVmids::new(ctx.host).as_they_are() {
        let one = match read {
            Ok(one) => one,
            Err(error) => {
                let mend = format!("rm {}", path.display());
                let what = format!("{error:#}");
                told.findings.push(Finding::new(&WITHHELD_UNREADABLE, path.display(), what, mend));
                continue;
            }
        };
        if let Some((_, disk)) = one.reason.split_once("leftover disk ") {
            told.noted_volumes.extend(disk.split(';').next().map(str::to_string));
        }
        if let Some(late) = &one.late {
            told.late.push((one.vmid, late.smbios_uuid));
        } else if one.is_over(ctx.host) {
            continue;
        }
        let mend = format!("nothing: it comes back by itself; to use it at once: rm {}", path.display());
        let what = format!(
            "VMID {} is not assigned since {}: {}",
            one.vmid,
            timestamp::to_text(one.since),
            one.reason
        );
        told.findings.push(Finding::new(&VMID_WITHHELD, path.display(), what, mend));
    }
}

fn queue(ctx: &Context<'_>, found: &mut Vec<Finding>) {
    let stale = provisioning_queue::stale(ctx.host);
    if !stale.is_empty() {
        let paths: Vec<String> = stale.iter().map(|path| format!("file {}", path.display())).collect();
        let what = "a create that died has left its place in the queue";
        let mend = "blockhost-provisioner-doctor --fix, or the next command of any kind";
        let place = ctx.host.run_dir.join("creates").display().to_string();
        found.push(Finding::new(&QUEUE_STALE, place, what, mend).with(paths).mended_by(Fix::TidyQueue));
    }
}

fn gc(ctx: &Context<'_>, found: &mut Vec<Finding>) {
    let note = ctx.host.state_dir.join("gc-last-run.json").display().to_string();
    let now = ctx.host.now();
    match last_run::read(ctx.host) {
        Ok(Some(last)) if last.at > now + TimeDelta::minutes(2) => {
            let what = format!("gc last ran at {}, which is in the future", timestamp::to_text(last.at));
            found.push(Finding::new(&CLOCK_BEHIND, note, what, "set the clock: timedatectl set-ntp true"));
        }
        Ok(Some(last)) if now - last.at > GC_AT_LEAST => {
            let what = format!("gc last ran at {}", timestamp::to_text(last.at));
            let mend = "systemctl enable --now blockhost-gc.timer; see journalctl -u blockhost-gc";
            found.push(Finding::new(&GC_OVERDUE, note, what, mend));
        }
        Ok(_) => {}
        Err(error) => {
            let mend = format!("rm {note}; the next gc run then suspends only");
            found.push(Finding::new(&GC_NOTE_UNREADABLE, &note, format!("{error:#}"), mend));
        }
    }
    let path = ctx.host.state_dir.join("gc-under-way.json");
    let is_running = || LockFile::holder(&ctx.host.state_dir.join("gc.lock")).is_some();
    match under_way::read(ctx.host) {
        Ok(names) if names.is_empty() || is_running() => {}
        Ok(names) => {
            let names: Vec<&str> = names.iter().map(VmName::as_str).collect();
            let what = format!("a gc run died while it shut down {}", names.join(", "));
            let left = vec![format!("file {}", path.display())];
            let mend = "blockhost-vm-gc --execute";
            found.push(Finding::new(&GC_INTERRUPTED, path.display(), what, mend).with(left));
        }
        Err(error) => {
            let mend = format!("rm {}", path.display());
            found.push(Finding::new(&GC_NOTE_UNREADABLE, path.display(), format!("{error:#}"), mend));
        }
    }
}

/// The directories in which files of ours are written.
pub fn written(ctx: &Context<'_>) -> Vec<PathBuf> {
    let (state, terraform) = (&ctx.host.state_dir, &ctx.settings.terraform_dir);
    let mut all = vec![state.clone(), ctx.host.run_dir.clone(), terraform.clone()];
    all.extend(["journal", "withheld", "failed", "audit", "metrics"].map(|name| state.join(name)));
    all.extend(ctx.settings.db_file.parent().map(PathBuf::from));
    all.extend(vm_folders(&ctx.settings).iter().map(|name| terraform.join("vms").join(name.as_str())));
    all.sort();
    all.dedup();
    all
}

fn temporary_files(ctx: &Context<'_>, found: &mut Vec<Finding>) {
    for folder in written(ctx) {
        let left: Vec<String> =
            replace_file::abandoned(&folder).iter().map(|path| format!("file {}", path.display())).collect();
        if !left.is_empty() {
            let what = "a command that died has left a half-written file";
            let mend = "blockhost-provisioner-doctor --fix, or the next write in this directory";
            let finding = Finding::new(&TEMPORARY_FILE, folder.display(), what, mend).with(left);
            found.push(finding.mended_by(Fix::RemoveTemporary(folder)));
        }
    }
}
