//! `blockhost-vm-show`: everything that is known of one VM, from the database, the node, the disk and the audit trail.
//! Reads only.
//!
//! It is for an operator to whom something is wrong, so each source may fail by itself: what could not be asked is said
//! among `not_known`, and the rest is shown. What the node says is told of a machine that is proven to be the record's
//! alone (hazards H02, H41): by the root agent, and where that is down by the configuration that the API has.

use super::machine::{self, Machine};
use super::throttle::configuration;
use super::unfinished;
use super::{Context, bandwidth};
use crate::host::clock::Deadline;
use crate::host::read_file;
use crate::plan::metrics::{RunState, figures, whole};
use crate::plan::throttle::NodeLimits;
use crate::store::audit_trail::{AuditLine, AuditTrail, Wanted};
use crate::store::record_copy;
use crate::tool::terraform_state::StateFile;
use crate::value::limits::{Limit, Limits};
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use crate::value::vm_state::{GuardReport, VmState};
use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;

/// How long the root agent and the API may take, each: a person waits.
const LIMIT: Duration = Duration::from_secs(5);
/// How many lines of the audit trail are shown.
const LINES: usize = 10;

/// A VM on one page; the form of its JSON is `facts/schema/vm-show.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Page {
    /// Its name.
    pub name: String,
    /// The record's status; `None` without a record that can be read.
    pub status: Option<&'static str>,
    /// Its VMID, by record or unfinished work.
    pub vmid: Option<u32>,
    /// What the node says; `None` where it was not asked, did not answer, or has no such VM of ours.
    pub live: Option<Live>,
    /// Its addresses, and how they are connected.
    pub addresses: Addresses,
    /// What it is limited to; `None` where that is not known.
    pub limits: Option<Limited>,
    /// When its time ends.
    pub expiry: Expiry,
    /// What guards its network; `None` where the root agent did not say.
    pub guard: Option<Guard>,
    /// The volume ids of its cloud-init snippets, as its Terraform file names them.
    pub snippets: Vec<String>,
    /// Its Terraform directory.
    pub terraform: Folder,
    /// A create or destroy that has not ended, in words.
    pub unfinished: Option<String>,
    /// Its record, with fields of others, as it stands; `None` where there is none.
    pub record: Option<Map<String, Value>>,
    /// The last lines of the audit trail, newest first.
    pub audit: Vec<Map<String, Value>>,
    /// What could not be asked or read, one sentence each.
    pub not_known: Vec<String>,
}

/// What the node says of a VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Live {
    /// The node that has the VMID.
    pub node: String,
    /// What its CPUs do.
    pub state: &'static str,
    /// Seconds since its start; `None` where the API did not say.
    pub uptime_seconds: Option<u64>,
    /// Its configuration's lock (`backup`, `clone` …).
    pub lock: Option<String>,
    /// vCPUs.
    pub cpus: Option<u64>,
    /// MiB.
    pub memory_mb: Option<u64>,
    /// GiB, of its first disk.
    pub disk_gb: Option<u64>,
    /// It starts with the node; `None` where the root agent did not say.
    pub starts_with_node: Option<bool>,
    /// Proxmox' own flag against its removal; `None` likewise.
    pub node_protection: Option<bool>,
    /// The root agent's last act on it that failed.
    pub failed: Option<String>,
}

/// Its IPv4 and IPv6 addresses.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Addresses {
    /// As the record has it.
    pub ipv4: Option<String>,
    /// As the record has it.
    pub ipv6: Option<String>,
    /// Whether its card is a port of the bridge; `None` where that is not known, or it is off.
    pub connected: Option<bool>,
    /// Whether that port is isolated from other guests.
    pub isolated: Option<bool>,
}

/// What guards its network (`facts/contract/root-agent.md#the-guard-of-a-vms-network`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guard {
    /// There is a decision for this VM.
    pub set: bool,
    /// The decision is not that of a suspended VM.
    pub enabled: bool,
    /// Every start carries it out, whoever starts the VM.
    pub at_every_start: bool,
    /// It runs, and everything is in place.
    pub applied: bool,
    /// What the last run could not do, one sentence each.
    pub missing: Vec<String>,
}

impl Guard {
    fn of(report: &GuardReport) -> Guard {
        Guard {
            set: report.set,
            enabled: report.enabled,
            at_every_start: report.hook,
            applied: report.applied,
            missing: report.missing.clone(),
        }
    }
}

/// What it is limited to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limited {
    /// `node`: in force there; `record`: what the record says, for the node was not asked.
    pub source: &'static str,
    /// 0 is unlimited.
    #[serde(flatten)]
    pub values: Map<String, Value>,
    /// Differences between record and node.
    pub differences: Vec<String>,
    /// For a person.
    #[serde(skip)]
    pub words: Vec<(Limit, String)>,
}

/// When its time ends.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Expiry {
    /// As the database writes it; `None` where that cannot be read.
    pub expires_at: Option<String>,
    /// Until then; negative once it is over.
    pub seconds_left: Option<i64>,
    /// gc and destroy leave it alone.
    pub protected: bool,
    /// When it was suspended.
    pub suspended_at: Option<String>,
}

/// Its Terraform directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Folder {
    /// Where it is, or would be.
    pub directory: String,
    /// Whether it exists.
    pub exists: bool,
    /// `present`: something is in it; `empty`, `missing`, `torn` (H52) or `unreadable`.
    pub state: &'static str,
    /// Whether it has a copy of the record (H55).
    pub record_copy: bool,
    /// Whether the older package's directory has files of it.
    pub shared: bool,
}

/// What is known of a VM. An error: neither record nor unfinished work nor anything else of this name, or the database
/// cannot be read and nothing else knows it.
pub fn show(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Page> {
    let mut page = off_line(ctx, name)?;
    let Some(record) = note_record(ctx, name, &mut page).filter(VmRecord::is_live) else { return Ok(page) };
    let seen = ask(ctx, record, &mut page);
    page.live = seen;
    Ok(page)
}

/// What is known without the node.
fn off_line(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Page> {
    let mut page = Page { name: name.to_string(), ..Page::default() };
    page.unfinished = unfinished::of_name(ctx, name);
    match ctx.database.inspect(|db| Ok(db.fields(name.as_str()))) {
        Ok(fields) => page.record = fields,
        Err(error) => page.not_known.push(format!("record: {error:#}")),
    }
    page.terraform = folder(ctx, name);
    page.snippets = snippets(ctx, name);
    let of_journal = ctx.journal().read(name);
    page.vmid = of_journal.as_ref().ok().and_then(Option::as_ref).map(|entry| entry.vmid);
    if let Err(error) = of_journal {
        page.not_known.push(format!("unfinished work: {error:#}"));
    }
    let is_known = page.record.is_some() || page.unfinished.is_some() || page.terraform.exists;
    anyhow::ensure!(is_known, "VM {name} is unknown: {}", unknown(ctx, name, &page));
    audit_lines(ctx, name, &mut page);
    Ok(page)
}

fn unknown(ctx: &Context<'_>, name: &VmName, page: &Page) -> String {
    match page.not_known.is_empty() {
        true => ctx.no_record(name),
        false => page.not_known.join("; "),
    }
}

/// The checked record; what is in it goes to the page.
pub(super) fn note_record(ctx: &Context<'_>, name: &VmName, page: &mut Page) -> Option<VmRecord> {
    page.record.as_ref()?;
    let record = match ctx.record(name) {
        Ok(record) => record?,
        Err(error) => {
            page.not_known.push(format!("record: {error:#}"));
            return None;
        }
    };
    page.status = Some(record.status.as_str());
    page.vmid = Some(record.vmid.get());
    page.addresses.ipv4 = record.ipv4.map(|address| address.to_string());
    page.addresses.ipv6 = record.ipv6.map(|address| address.to_string());
    page.expiry = Expiry {
        expires_at: record.expires_at.map(timestamp::to_text),
        seconds_left: record.expires_at.map(|end| (end - ctx.host.now()).num_seconds()),
        protected: record.protected,
        suspended_at: record.suspended_at.map(timestamp::to_text),
    };
    match bandwidth::recorded(ctx, name) {
        Ok(limits) => page.limits = Some(recorded(limits)),
        Err(error) => page.not_known.push(format!("limits: {error:#}")),
    }
    Some(record)
}

fn recorded(limits: Limits) -> Limited {
    let words = Limit::ALL.into_iter().map(|limit| (limit, limit.in_words(limits.get(limit)))).collect();
    Limited { source: "record", values: limits.to_json(), differences: Vec::new(), words }
}

/// Asks root agent and API.
fn ask(ctx: &Context<'_>, record: VmRecord, page: &mut Page) -> Option<Live> {
    let deadline = ctx.host.deadline(LIMIT);
    let machine = match machine::seen(ctx, record, deadline) {
        Ok(machine) => machine,
        Err(error) => {
            page.not_known.push(format!("live state: {error:#}"));
            return None;
        }
    };
    page.vmid = Some(machine.vmid.get());
    let state = match machine.proven_state(ctx, deadline) {
        Ok(state) if !state.exists => {
            page.not_known.push(format!(
                "live state: the node has no such VM; to close its record, run blockhost-vm-destroy {}",
                machine.record.name
            ));
            return None;
        }
        Ok(state) => Some(state),
        // Somebody else's, or on another node: the API would tell the same, or worse.
        Err(error) if error.downcast_ref::<crate::host::root_agent::AgentError>().is_none() => {
            page.not_known.push(format!("live state: {error:#}"));
            return None;
        }
        Err(error) => {
            page.not_known.push(format!("root agent: {error:#}"));
            None
        }
    };
    let answer = of_api(ctx, &machine, ctx.host.deadline(LIMIT));
    let (status, limits) = match answer {
        Ok((status, limits)) => (Some(status), Some(limits)),
        Err(error) => {
            page.not_known.push(format!("Proxmox API: {error:#}"));
            (None, None)
        }
    };
    if let Some(node) = limits {
        compare(ctx, &machine, node, page);
    }
    if let Some(state) = &state {
        (page.addresses.connected, page.addresses.isolated) = (state.connected, state.isolated);
        page.guard = state.guard.as_deref().map(Guard::of);
    }
    live(state, status, ctx)
}

/// `status/current` and the limits in the configuration, which proves whose VM it is.
fn of_api(ctx: &Context<'_>, machine: &Machine, deadline: Deadline) -> anyhow::Result<(Value, NodeLimits)> {
    let limits = configuration(ctx, machine, deadline)?;
    let (access, api) = ctx.api()?;
    let path = format!("/nodes/{}/qemu/{}/status/current", access.node, machine.vmid);
    let status =
        api.get(&path, deadline).with_context(|| format!("{}: cannot query the node", machine.label()))?;
    Ok((status, limits))
}

/// What is in force, and where the record says something else.
fn compare(ctx: &Context<'_>, machine: &Machine, node: NodeLimits, page: &mut Page) {
    let record = bandwidth::recorded(ctx, &machine.record.name).unwrap_or_default();
    let mut differences = node.differences(&record);
    differences
        .extend(node.pending.iter().map(|key| format!("a change of {key} waits for the VM's next start")));
    let words = |limit: Limit| match limit.is_bandwidth() {
        true => limit.in_words(record.get(limit)),
        false => node.in_words(limit),
    };
    page.limits = Some(Limited {
        source: "node",
        values: node.recorded(&record).to_json(),
        differences,
        words: Limit::ALL.into_iter().map(|limit| (limit, words(limit))).collect(),
    });
}

fn live(state: Option<VmState>, status: Option<Value>, ctx: &Context<'_>) -> Option<Live> {
    if state.is_none() && status.is_none() {
        return None;
    }
    let text = |key: &str| status.as_ref()?.get(key)?.as_str().map(str::to_string);
    let of_api = text("qmpstatus").or_else(|| text("status")).map(|word| RunState::of_qmp(&word));
    let of_agent = state.as_ref().map(|state| match (state.running, state.paused) {
        (false, _) => RunState::Stopped,
        (true, Some(true)) => RunState::Paused,
        (true, _) => RunState::Running,
    });
    let run_state = of_api.or(of_agent).unwrap_or(RunState::Unknown);
    let figures = status.as_ref().map(|status| figures(status, run_state));
    let number = |number: i64| u64::try_from(number).unwrap_or_default();
    let node = state.as_ref().map(|state| state.node.clone()).filter(|node| !node.is_empty());
    let own_node = || ctx.api().ok().map(|(access, _)| access.node.to_string());
    Some(Live {
        node: node.or_else(own_node).unwrap_or_default(),
        state: run_state.as_str(),
        uptime_seconds: figures.as_ref().map(|figures| number(figures.uptime_seconds)),
        lock: state
            .as_ref()
            .map(|state| state.lock.clone())
            .or_else(|| text("lock"))
            .filter(|lock| !lock.is_empty()),
        cpus: figures.as_ref().map(|figures| number(figures.cpu_count)),
        memory_mb: figures.as_ref().map(|figures| number(figures.memory_total_mb)),
        disk_gb: status.as_ref().map(|status| whole(status, "maxdisk") >> 30),
        starts_with_node: state.as_ref().map(|state| state.onboot),
        node_protection: state.as_ref().map(|state| state.protection),
        failed: state
            .and_then(|state| state.failed)
            .map(|failed| format!("{}: {}", failed.action, failed.words)),
    })
}

fn folder(ctx: &Context<'_>, name: &VmName) -> Folder {
    let (folder, legacy) = (ctx.folder_of(name), ctx.legacy_folder_of(name));
    Folder {
        directory: folder.path().display().to_string(),
        exists: folder.exists(),
        state: match folder.state() {
            Ok(StateFile::Missing) => "missing",
            Ok(StateFile::Torn) => "torn",
            Ok(StateFile::Holds(resources)) if resources.is_empty() => "empty",
            Ok(StateFile::Holds(_)) => "present",
            Err(_) => "unreadable",
        },
        record_copy: record_copy::exists(&ctx.settings, name),
        shared: legacy.has_file(),
    }
}

/// The volumes that the VM's own file names.
fn snippets(ctx: &Context<'_>, name: &VmName) -> Vec<String> {
    let path: PathBuf = ctx.folder_of(name).path().join(format!("{name}.tf.json"));
    let file = read_file::text(path).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let vms =
        file.as_ref().and_then(|file| file.pointer("/resource/proxmox_virtual_environment_vm")?.as_object());
    let initialization = vms.and_then(|vms| vms.values().next()?.get("initialization"));
    let volume = |key: &str| initialization?.get(key)?.as_str().map(str::to_string);
    ["user_data_file_id", "meta_data_file_id"].into_iter().filter_map(volume).collect()
}

fn audit_lines(ctx: &Context<'_>, name: &VmName, page: &mut Page) {
    match AuditTrail::open(ctx.host, Wanted { vm: Some(name.to_string()), ..Wanted::default() }) {
        Ok(mut trail) => {
            page.audit = trail.by_ref().take(LINES).map(|line: AuditLine| line.fields).collect();
            page.not_known.extend(trail.warnings().into_iter().map(|why| format!("audit trail: {why}")));
        }
        Err(error) => page.not_known.push(format!("audit trail: {error:#}")),
    }
}
