//! `blockhost-vm-metrics`: resource usage of VMs (`facts/contract/commands.md#metrics`; hazards H23, H24, H38, H41).
//!
//! The monitor starts this for every VM every 2 s and waits for the answer. So everything ends at one deadline,
//! whatever hangs, and the load that a call puts on the node matters. In order: the record, `status/current` of the API
//! (live counters), the proof that the VM is the record's, and then, only if the last answer is old, the CPU share and
//! the guest agent. The root agent has a single lane, which a create may occupy for seconds: it is asked here only to
//! explain a failure, and for records whose VMID has to be found.
//!
//! The disaster would be to report the figures of somebody else's VM under the name of one of ours (hazards H02, H41):
//! without a proof no figures are reported.

use super::Context;
use super::machine::{Machine, locate};
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::proxmox_api::{ApiError, ProxmoxApi};
use crate::plan::metrics::{
    Between, Metrics, Named, Reading, RunState, disk_used_mb, figures, listed_counters, live_counters, rates,
    whole,
};
use crate::store::metric_samples::{
    AgentLook, AllSample, AllSamples, CpuShares, MetricSamples, Proof, Sample,
};
use crate::store::vm_database::Fields;
use crate::tool::node::Ours;
use crate::value::identity::Identity;
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use crate::value::vm_state::VmState;
use anyhow::Context as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// The contract's 400 ms, minus what starting and ending a process takes on a busy host.
const LIMIT: Duration = Duration::from_millis(350);
/// How long to keep re-reading a database that is being written in place.
const TORN_READ: Duration = Duration::from_millis(150);
/// With less time left than this, the guest agent is not queried, since it would count as silent.
const AGENT_LEAST: Duration = Duration::from_millis(100);
/// How long a QEMU process proven to be the VM's is not checked again, in milliseconds. The UUID of a process cannot
/// change; the name, which identifies older VMs, can change while it is running.
const PROOF_MS: i64 = 30_000;
/// How much a VM's uptime may differ from the expected one, in milliseconds: both ends are whole seconds.
const UPTIME_SLACK_MS: i64 = 2500;
/// Age in milliseconds up to which a CPU share is used without a new query; the node measures every 10 s.
const CPU_FRESH_MS: i64 = 5_000;
/// Age in milliseconds up to which an older share is still better than none.
const CPU_STALE_MS: i64 = 60_000;
/// How often a responsive agent is queried, and for how long at most a silent one is left alone, in milliseconds: a
/// query to a silent one occupies one of the node's three API workers for seconds.
const AGENT_MS: (i64, i64) = (60_000, 600_000);
/// How long the disk usage is reported although later queries failed, in milliseconds.
const USED_STALE_MS: i64 = 300_000;

/// Opens the settings for a caller that waits 400 ms.
pub fn open(host: &Host, mock: bool) -> anyhow::Result<Context<'_>> {
    let mut ctx = Context::open(host, mock)?;
    ctx.database = ctx.database.giving_up_after(host.limit("metrics-database", TORN_READ));
    Ok(ctx)
}

/// Returns the metrics of one VM. Fails if the VM is unknown or not ours, or if the node cannot be queried.
pub fn metrics(ctx: &Context<'_>, name: &VmName) -> anyhow::Result<Named> {
    let deadline = ctx.host.deadline_of("metrics", LIMIT);
    let record = ctx.live_record(name)?;
    let place = locate(ctx, &record, deadline)?;
    let machine = Machine { record, vmid: place.vmid, identity: place.identity };
    let (access, api) = ctx.api().with_context(|| machine.label())?;
    let folder = format!("/nodes/{}/qemu/{}", access.node, machine.vmid);
    let one = One { ctx, machine: &machine, api, folder, deadline, samples: MetricSamples::new(ctx.host) };
    one.metrics()
}

fn now_ms(host: &Host) -> i64 {
    host.now().timestamp_millis()
}

/// Whether `then` is less than `limit` ago. A time in the future comes from a clock that was wrong.
fn is_fresh(now: i64, then: i64, limit: i64) -> bool {
    (0..limit).contains(&now.saturating_sub(then))
}

/// One measurement of one VM.
struct One<'a> {
    ctx: &'a Context<'a>,
    machine: &'a Machine,
    api: &'a ProxmoxApi,
    folder: String,
    deadline: Deadline,
    samples: MetricSamples<'a>,
}

impl One<'_> {
    fn metrics(&self) -> anyhow::Result<Named> {
        let (name, vmid) = (&self.machine.record.name, self.machine.vmid.get());
        let identity = self.machine.identity.to_string();
        let status = self.api.get(&format!("{}/status/current", self.folder), self.deadline);
        let status = status.map_err(|error| self.explained(error))?;
        let now = now_ms(self.ctx.host);
        let known = self.samples.sample(name, vmid, &identity);
        let proof = self.prove(&status, &known, now)?;

        let state = status.get("qmpstatus").or_else(|| status.get("status")).and_then(Value::as_str);
        let state = RunState::of_qmp(state.unwrap_or_default());
        let uptime = whole(&status, "uptime");
        let wants_agent = state == RunState::Running && whole(&status, "agent") == 1;
        let known_agent = known.agent.filter(|look| look.uptime <= uptime);
        let asks = wants_agent && self.deadline.left() > AGENT_LEAST && is_due(known_agent, now);
        if asks {
            // Callers that arrive meanwhile need not query it too.
            let claimed = Some(claim(known_agent, now, uptime));
            self.samples.note(name, &Sample { agent: claimed, ..known });
        }
        let (said, share) = std::thread::scope(|scope| {
            let agent = asks.then(|| scope.spawn(|| self.ask_agent()));
            let share = if state == RunState::Running { self.cpu_share(&status, uptime, now) } else { 0.0 };
            // A thread that panicked has returned nothing.
            (agent.map(|agent| agent.join().unwrap_or(AgentSaid::Late)), share)
        });

        // Another caller may have written meanwhile: its measurements and its agent's answer are as good as ours.
        let mut sample = self.samples.sample(name, vmid, &identity);
        let look = Reading { at_ms: now, uptime, counters: live_counters(&status) };
        let (rates, is_new) = sample.looks.add(look);
        let agent = match said {
            Some(said) => Some(after(known_agent, said, now, uptime)),
            None => sample.agent.filter(|look| look.uptime <= uptime),
        };
        let is_changed = is_new || sample.agent != agent || sample.proof != proof;
        (sample.agent, sample.proof) = (agent, proof);
        if is_changed {
            self.samples.note(name, &sample);
        }
        let mut metrics = figures(&status, state).with_cpu(share);
        if state.is_up() {
            metrics = metrics.with_rates(&rates);
        }
        let agent = agent.filter(|_| wants_agent);
        metrics.guest_agent_responsive = agent.is_some_and(|look| is_responsive(&look, now));
        metrics.disk_used_mb = agent.and_then(|look| used(&look, now)).unwrap_or(-1);
        Ok(Named {
            name: name.to_string(),
            vmid,
            metrics,
            counters: Some(look.counters),
            agent_asked: agent.is_some(),
        })
    }

    /// Checks that the answer is about the VM of the record: by its configuration, or because it is the same process
    /// that was proven to be the VM's a moment ago.
    fn prove(&self, status: &Value, known: &Sample, now: i64) -> anyhow::Result<Option<Proof>> {
        let (pid, uptime) = (whole(status, "pid"), whole(status, "uptime"));
        let is_same = |proof: &Proof| {
            let since = now.saturating_sub(proof.at_ms);
            let grown = i64::try_from(uptime.saturating_sub(proof.uptime)).unwrap_or(i64::MAX);
            proof.pid == pid && (grown.saturating_mul(1000) - since).abs() <= UPTIME_SLACK_MS
        };
        if pid > 0
            && let Some(proof) = known.proof.filter(|proof| is_fresh(now, proof.at_ms, PROOF_MS))
            && is_same(&proof)
        {
            return Ok(Some(proof));
        }
        let config = self.api.get(&format!("{}/config", self.folder), self.deadline);
        let config = config.map_err(|error| self.explained(error))?;
        self.machine.prove(&state_of(&config, &self.machine.identity))?;
        Ok((pid > 0).then_some(Proof { at_ms: now, pid, uptime }))
    }

    /// Returns the API's error, or the cause behind it: for a VM that does not exist the API answers 403 or 500, and
    /// for one on another node 500 (H39); the root agent knows which.
    fn explained(&self, error: ApiError) -> anyhow::Error {
        if matches!(error, ApiError::Status { .. } | ApiError::Forbidden { .. })
            && let Ok(state) = self.machine.unproven_state(self.ctx, self.deadline)
        {
            if !state.exists {
                return anyhow::anyhow!(
                    "{}: the node has no such VM; blockhost-vm-destroy {} closes its record",
                    self.machine.label(),
                    self.machine.record.name
                );
            }
            if let Err(reason) = self.machine.prove(&state) {
                return reason;
            }
        }
        anyhow::Error::from(error).context(format!("{}: cannot query the node", self.machine.label()))
    }

    /// Returns the share of its CPUs that the VM uses, from the node's own statistics: `status/current` reports 0 on
    /// the first query to each of the node's workers.
    fn cpu_share(&self, status: &Value, uptime: u64, now: i64) -> f64 {
        let vmid = self.machine.vmid.get();
        let mut shares = self.samples.cpu_shares();
        if !is_fresh(now, shares.at_ms, CPU_FRESH_MS) {
            match self.api.get("/cluster/resources?type=vm", self.deadline) {
                Ok(lines) => {
                    shares = shares_in(&lines, now);
                    self.samples.note_cpu_shares(&shares);
                }
                Err(error) => tracing::debug!("CPU shares: {error}"),
            }
        }
        let found = shares.shares.get(&vmid).filter(|_| is_fresh(now, shares.at_ms, CPU_STALE_MS));
        // A longer uptime belongs to an earlier run, or to an earlier owner of the VMID.
        let found = found.filter(|(_, then)| *then <= uptime + 2).map(|(share, _)| *share);
        found.unwrap_or_else(|| status.get("cpu").and_then(Value::as_f64).unwrap_or_default())
    }

    fn ask_agent(&self) -> AgentSaid {
        let deadline = self.deadline.at_most(self.ctx.host.limit("metrics-agent", LIMIT));
        match self.api.get(&format!("{}/agent/get-fsinfo", self.folder), deadline) {
            Ok(data) => AgentSaid::Answered(disk_used_mb(&data)),
            Err(ApiError::Unreachable { .. }) => AgentSaid::Late,
            Err(error @ ApiError::Forbidden { .. }) => {
                tracing::warn!("{}: cannot query its guest agent: {error}", self.machine.label());
                AgentSaid::Silent
            }
            Err(error) => {
                tracing::debug!("{}: guest agent: {error}", self.machine.label());
                AgentSaid::Silent
            }
        }
    }
}

/// Outcome of a query to the guest agent.
#[derive(Debug, Clone, Copy)]
enum AgentSaid {
    /// It answered; contains the MiB used, if reported.
    Answered(Option<i64>),
    /// The node reports that the agent does not answer.
    Silent,
    /// There was no answer in time.
    Late,
}

fn is_due(known: Option<AgentLook>, now: i64) -> bool {
    let Some(look) = known else { return true };
    let (often, seldom) = AGENT_MS;
    let doubled = look.misses.saturating_sub(1).min(10);
    !is_fresh(now, look.asked_ms, (often << doubled).min(seldom))
}

fn claim(known: Option<AgentLook>, now: i64, uptime: u64) -> AgentLook {
    let none = AgentLook { asked_ms: now, uptime, misses: 1, used_mb: None, answered_ms: None };
    known.map_or(none, |look| AgentLook { asked_ms: now, uptime, ..look })
}

fn after(known: Option<AgentLook>, said: AgentSaid, now: i64, uptime: u64) -> AgentLook {
    let asked = AgentLook { asked_ms: now, uptime, misses: 0, used_mb: None, answered_ms: None };
    let misses = known.map_or(0, |look| look.misses).saturating_add(1);
    match (said, known) {
        (AgentSaid::Answered(used_mb), _) => AgentLook { used_mb, answered_ms: Some(now), ..asked },
        (AgentSaid::Silent, _) | (AgentSaid::Late, None) => AgentLook { misses, ..asked },
        // The node is busy: the previous answer still holds.
        (AgentSaid::Late, Some(look)) => AgentLook { asked_ms: now, uptime, misses, ..look },
    }
}

/// One late answer is tolerated.
fn is_responsive(look: &AgentLook, now: i64) -> bool {
    let answered = look.answered_ms.is_some_and(|then| is_fresh(now, then, USED_STALE_MS));
    answered && look.misses <= 1
}

fn used(look: &AgentLook, now: i64) -> Option<i64> {
    look.used_mb.filter(|_| is_responsive(look, now))
}

/// Converts a configuration from the API, as far as it proves a VM's identity.
pub(super) fn state_of(config: &Value, identity: &Identity) -> VmState {
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    let uuid = text("smbios1");
    let uuid = uuid.split(',').find_map(|part| part.strip_prefix("uuid="));
    let uuid = uuid.and_then(|text| Uuid::parse_str(text).ok());
    VmState {
        exists: true,
        name: text("name"),
        // The UUID of somebody else's VM is the key to acting on that VM, and must not appear in an error.
        uuid: uuid.filter(|uuid| matches!(identity, Identity::Uuid(ours) if ours == uuid)),
        description: text("description"),
        template: whole(config, "template") == 1,
        ..VmState::default()
    }
}

/// The VMs among the lines of `cluster/resources`, by VMID.
pub(super) fn lines_of(lines: &Value) -> impl Iterator<Item = (u32, &Value)> {
    let lines = lines.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let lines = lines.filter(|line| line.get("type").and_then(Value::as_str) == Some("qemu"));
    lines.filter_map(|line| Some((u32::try_from(whole(line, "vmid")).ok()?, line)))
}

fn shares_in(lines: &Value, now: i64) -> CpuShares {
    let share = |line: &Value| line.get("cpu").and_then(Value::as_f64).unwrap_or_default();
    let shares = lines_of(lines).map(|(vmid, line)| (vmid, (share(line), whole(line, "uptime"))));
    CpuShares { at_ms: now, shares: shares.collect() }
}

/// Returns the metrics of all VMs whose records are active or suspended, in the order of the database, from one request
/// to the API and one to the root agent. A VM that cannot be proven to be ours is included in state unknown, without
/// figures.
pub fn all_metrics(ctx: &Context<'_>) -> anyhow::Result<Vec<Named>> {
    let deadline = ctx.host.deadline_of("metrics", LIMIT);
    let records = live_records(ctx)?;
    let (_, api) = ctx.api()?;
    let node = ctx.node();
    let (lines, guests) = std::thread::scope(|scope| {
        let guests = scope.spawn(|| node.guests(deadline));
        (api.get("/cluster/resources?type=vm", deadline), guests.join())
    });
    let lines = lines.context("cannot query the node")?;
    let ours = match guests {
        Ok(Ok(guests)) => guests.unwrap_or_default().ours,
        Ok(Err(error)) => {
            tracing::warn!("cannot tell which VMs are ours: {error}");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    let all = All {
        ctx,
        deadline,
        now: now_ms(ctx.host),
        lines: lines_of(&lines).collect(),
        ours: ours.iter().map(|one| (one.vmid, one)).collect(),
        samples: MetricSamples::new(ctx.host),
    };
    let mut before = all.samples.all();
    let mut noted = AllSamples::new();
    let told = records.into_iter().map(|record| all.one(record, &mut before, &mut noted)).collect();
    all.samples.note_all(&noted);
    all.samples.note_cpu_shares(&shares_in(&lines, all.now));
    Ok(told)
}

pub(super) fn live_records(ctx: &Context<'_>) -> anyhow::Result<Vec<VmRecord>> {
    let begin = || (Vec::new(), Vec::new());
    let (records, bad) =
        ctx.database.gather(Fields::All, begin, |(records, bad), view| match view.to_record() {
            Ok(record) if record.is_live() => records.push(record),
            Ok(_) => {}
            Err(why) => bad.push(why),
        })?;
    for why in bad {
        tracing::warn!("{}: {why}; skipped", ctx.database.path().display());
    }
    Ok(records)
}

/// One measurement of all VMs.
struct All<'a> {
    ctx: &'a Context<'a>,
    deadline: Deadline,
    now: i64,
    lines: BTreeMap<u32, &'a Value>,
    ours: BTreeMap<u32, &'a Ours>,
    samples: MetricSamples<'a>,
}

impl All<'_> {
    fn one(&self, record: VmRecord, before: &mut AllSamples, noted: &mut AllSamples) -> Named {
        let (name, vmid) = (record.name.to_string(), record.vmid.get());
        match self.proven(record) {
            Ok((machine, line)) => self.told(&machine, line, before, noted),
            Err(why) => {
                tracing::warn!("{why:#}");
                Named { name, vmid, metrics: Metrics::default(), counters: None, agent_asked: false }
            }
        }
    }

    /// Returns a record's VM and its line in the node's list.
    fn proven(&self, record: VmRecord) -> anyhow::Result<(Machine, &Value)> {
        let place = locate(self.ctx, &record, self.deadline)?;
        let machine = Machine { record, vmid: place.vmid, identity: place.identity };
        let line = self.lines.get(&machine.vmid.get());
        let line = line.with_context(|| {
            format!("{}: the node does not list it, or the API token may not see it", machine.label())
        })?;
        let vmid = machine.vmid.get();
        let name = machine.record.name.as_str();
        let is_proven = match &machine.identity {
            Identity::Uuid(uuid) => {
                self.ours.get(&vmid).is_some_and(|ours| ours.uuid == *uuid && ours.name == name)
            }
            Identity::Name(_) => line.get("name").and_then(Value::as_str) == Some(name),
        };
        if !is_proven {
            // Its description may have been changed; then the configuration decides.
            let state = machine.unproven_state(self.ctx, self.deadline)?;
            anyhow::ensure!(state.exists, "{}: the node has no such VM", machine.label());
            machine.prove(&state)?;
        }
        Ok((machine, line))
    }

    fn told(
        &self,
        machine: &Machine,
        line: &Value,
        before: &mut AllSamples,
        noted: &mut AllSamples,
    ) -> Named {
        let record = &machine.record;
        let (vmid, identity) = (machine.vmid.get(), machine.identity.to_string());
        let named = |metrics, counters, agent_asked| Named {
            name: record.name.to_string(),
            vmid,
            metrics,
            counters,
            agent_asked,
        };
        if line.get("maxmem").is_none() {
            // The node has not measured it yet.
            return named(Metrics::default(), None, false);
        }
        let state = line.get("status").and_then(Value::as_str).unwrap_or_default();
        let state = RunState::of_qmp(state);
        let look =
            Reading { at_ms: self.now, uptime: whole(line, "uptime"), counters: listed_counters(line) };
        let last = before.remove(record.name.as_str());
        let last = last.filter(|last| last.vmid == vmid && last.identity == identity);
        let sample = match last {
            // The node has not measured again since, so the previous rates still hold.
            Some(last) if last.look.uptime == look.uptime && last.look.counters == look.counters => last,
            last => {
                let rates = rates(last.as_ref().map(|last| &last.look), &look, Between::Uptime);
                AllSample { vmid, identity: identity.clone(), look, rates }
            }
        };
        let cpu = line.get("cpu").and_then(Value::as_f64).unwrap_or_default();
        let mut metrics = figures(line, state).with_cpu(if state.is_up() { cpu } else { 0.0 });
        if state.is_up() {
            metrics = metrics.with_rates(&sample.rates);
        }
        noted.insert(record.name.to_string(), sample);
        // Only the calls for a single VM query the agent.
        let agent = (state == RunState::Running).then(|| self.samples.sample(&record.name, vmid, &identity));
        let agent = agent.and_then(|sample| sample.agent);
        metrics.guest_agent_responsive = agent.is_some_and(|agent| is_responsive(&agent, self.now));
        metrics.disk_used_mb = agent.and_then(|agent| used(&agent, self.now)).unwrap_or(-1);
        named(metrics, Some(look.counters), agent.is_some())
    }
}
