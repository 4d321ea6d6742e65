//! Start, stop, shutdown, reboot, suspend, resume. The guest's file lock is held for the whole of each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::access::Caller;
use super::guest::{Guest, Run};
use super::guest_system::{self, Resolver};
use super::hook::{self, Phase};
use super::refusal::{Outcome, Refusal};
use super::tasks::{Worker, spawn};
use super::{Node, Shared, State, change, pause};
use crate::model::AgentMode;

/// Parameters of a shutdown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shutdown {
    /// Seconds; 60 without.
    pub timeout: Option<u64>,
    /// Hard stop when the time is over.
    pub force_stop: bool,
}

/// The start task. Everything is checked inside it.
pub(crate) async fn start(node: &Shared, caller: &Caller, on: &str, vmid: u32) -> String {
    let (shared, on) = (node.clone(), on.to_owned());
    spawn(node, caller, "qmstart", vmid, move |worker| async move {
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        check_startable(&shared, &on, vmid)?;
        pause(shared.timing().start).await;
        start_slowly(&shared, Some(&worker), &on, vmid).await
    })
    .await
}

/// As a start goes on a real node: QEMU runs and has its PID file, some time later its taps are ports of their
/// bridges, and only then has it ended. The hook script comes before and after.
pub(crate) async fn start_slowly(node: &Shared, worker: Option<&Worker>, on: &str, vmid: u32) -> Outcome<()> {
    hook::run(node, vmid, Phase::PreStart, worker).await?;
    let pid = run_qemu(node, on, vmid)?;
    pause(node.timing().plug).await;
    plug(node, vmid, pid);
    hook::run_or_complain(node, vmid, Phase::PostStart, worker).await;
    Ok(())
}

fn check_startable(node: &Node, on: &str, vmid: u32) -> Outcome<()> {
    let state = node.state();
    let guest = state.guest(on, vmid)?;
    if guest.flag("template") {
        return Err(Refusal::die("you can't start a vm if it's a template"));
    }
    // A guest suspended to disk is resumed by its start.
    if guest.lock() != Some("suspended") {
        check_lock(guest)?;
    }
    if guest.run.is_some() {
        return Err(Refusal::die(format!("VM {vmid} already running")));
    }
    Ok(())
}

/// A configuration lock refuses.
pub(crate) fn check_lock(guest: &Guest) -> Outcome<()> {
    match guest.lock() {
        Some(lock) => Err(Refusal::die(format!("VM is locked ({lock})"))),
        None => Ok(()),
    }
}

/// A start of which nothing is seen but its end; a hook script is not run.
pub(crate) fn start_now(node: &Node, on: &str, vmid: u32) -> Outcome<()> {
    let pid = run_qemu(node, on, vmid)?;
    plug(node, vmid, pid);
    Ok(())
}

/// The taps become ports of their bridges, unless the guest has ended meanwhile.
fn plug(node: &Node, vmid: u32, pid: u32) {
    let mut state = node.state();
    let guest = state.guests.get(&vmid).filter(|guest| guest.run.as_ref().is_some_and(|run| run.pid == pid));
    let Some(guest) = guest.cloned() else { return };
    let State { network, files, .. } = &mut *state;
    network.plug(files, &guest);
}

/// The first part of a start: pending changes, cloud-init, QEMU, taps. The PID.
fn run_qemu(node: &Node, on: &str, vmid: u32) -> Outcome<u32> {
    let mut state = node.state();
    change::apply_pending(&mut state, on, vmid)?;
    let guest = state.guest(on, vmid)?.clone();
    for (_, drive) in guest.drives() {
        if drive.volume != "none"
            && !drive.volume.contains(":iso/")
            && state.storages.volume(&drive.volume).is_none()
        {
            return Err(Refusal::die(format!("volume '{}' does not exist", drive.volume)));
        }
    }
    for (_, nic) in guest.nics() {
        if let Some(bridge) = nic.bridge().filter(|bridge| !state.network.is_bridge(bridge)) {
            return Err(Refusal::die(format!("bridge '{bridge}' does not exist")));
        }
    }
    let host = Resolver { server: state.resolver.clone(), domain: state.search_domain.clone() };
    let data = guest_system::cloud_init(&guest, &state.files.snippets(), &host)?;
    let pid = state.next_pid();
    let boot = guest.behaviour.boot_ms.unwrap_or(node.timing().boot);
    let folder = node.guest_folder(vmid);
    let now = Instant::now();
    let guest = state.guest_mut(on, vmid)?;
    guest.starts += 1;
    guest.config.remove("lock");
    guest.config.remove("vmstate");
    guest.run = Some(Run {
        pid,
        since: now,
        boot_at: now + Duration::from_millis(boot),
        paused: false,
        agent_stuck: false,
    });
    if guest.behaviour.agent != AgentMode::Never {
        guest_system::boot(&mut guest.system, &folder, data.as_ref());
    }
    let guest = guest.clone();
    let State { network, files, .. } = &mut *state;
    network.make_taps(files, &guest);
    state.changed(vmid);
    Ok(pid)
}

/// QEMU ends; taps and what ran in the guest end with it. The node's daemon hears of it.
pub(crate) fn power_off(node: &Shared, vmid: u32) {
    cut_off(node, vmid);
    hook::clean_up(node, vmid);
}

/// The same where nobody is left to hear of it.
pub(crate) fn cut_off(node: &Node, vmid: u32) {
    let mut state = node.state();
    if let Some(guest) = state.guests.get_mut(&vmid) {
        guest.run = None;
    }
    let State { network, files, .. } = &mut *state;
    network.unplug(files, vmid);
    state.changed(vmid);
    drop(state);
    node.executions.guest_is_off(vmid);
}

/// The stop task. Stopped already is fine; missing is not.
pub(crate) async fn stop(
    node: &Shared,
    caller: &Caller,
    on: &str,
    vmid: u32,
    overrule: bool,
    skip_lock: bool,
) -> String {
    let (shared, on) = (node.clone(), on.to_owned());
    spawn(node, caller, "qmstop", vmid, move |worker| async move {
        if overrule && shared.tasks.abort("qmshutdown", &vmid.to_string()) > 0 {
            worker.line("aborted running shutdown task");
        }
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        stop_locked(&shared, &worker, &on, vmid, skip_lock).await
    })
    .await
}

/// A configuration lock counts only while the guest runs.
async fn stop_locked(node: &Shared, worker: &Worker, on: &str, vmid: u32, skip_lock: bool) -> Outcome<()> {
    {
        let state = node.state();
        let guest = state.find(on, vmid).ok_or_else(|| Refusal::no_such_vm(on, vmid))?;
        if guest.run.is_none() {
            return Ok(());
        }
        if !skip_lock {
            check_lock(guest)?;
        }
    }
    hook::run_or_complain(node, vmid, Phase::PreStop, Some(worker)).await;
    pause(node.timing().stop).await;
    power_off(node, vmid);
    Ok(())
}

/// The shutdown task.
///
/// # Errors
/// Missing or paused: said before the task.
pub(crate) async fn shutdown(
    node: &Shared,
    caller: &Caller,
    on: &str,
    vmid: u32,
    how: Shutdown,
) -> Outcome<String> {
    let paused = {
        let state = node.state();
        let guest = state.find(on, vmid).ok_or_else(|| Refusal::no_such_vm(on, vmid))?;
        guest.run.as_ref().is_some_and(|run| run.paused)
    };
    if paused {
        if !how.force_stop {
            return Err(Refusal::die("VM is paused - cannot shutdown"));
        }
        return Ok(stop(node, caller, on, vmid, false, false).await);
    }
    let (shared, on) = (node.clone(), on.to_owned());
    Ok(spawn(node, caller, "qmshutdown", vmid, move |worker| async move {
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        shutdown_locked(&shared, &worker, &on, vmid, how).await
    })
    .await)
}

async fn shutdown_locked(node: &Shared, worker: &Worker, on: &str, vmid: u32, how: Shutdown) -> Outcome<()> {
    let heeds = {
        let state = node.state();
        let guest = state.find(on, vmid).ok_or_else(|| Refusal::no_such_vm(on, vmid))?;
        if guest.run.is_none() {
            worker.line(format!("VM {vmid} not running"));
            return Ok(());
        }
        check_lock(guest)?;
        // A guest that is still booting hears neither ACPI nor the agent.
        guest.booted() && !guest.behaviour.ignore_shutdown
    };
    hook::run_or_complain(node, vmid, Phase::PreStop, Some(worker)).await;
    let limit = Duration::from_secs(how.timeout.unwrap_or(60));
    let needed = {
        let state = node.state();
        let own = state.guests.get(&vmid).and_then(|guest| guest.behaviour.shutdown_ms);
        Duration::from_millis(own.unwrap_or(node.timing().guest_shutdown))
    };
    let off = heeds && needed <= limit;
    tokio::select! {
        () = worker.aborted() => return Err(Refusal::die("received interrupt")),
        () = tokio::time::sleep(if off { needed } else { limit }) => {}
    }
    if off || how.force_stop {
        power_off(node, vmid);
        return Ok(());
    }
    Err(Refusal::die("VM quit/powerdown failed - got timeout"))
}

/// `qm reboot`: shut down, then start with what was pending; new taps.
///
/// # Errors
/// Missing or not running: said before the task.
pub(crate) async fn reboot(
    node: &Shared,
    caller: &Caller,
    on: &str,
    vmid: u32,
    timeout: Option<u64>,
) -> Outcome<String> {
    {
        let state = node.state();
        let guest = state.find(on, vmid).ok_or_else(|| Refusal::no_such_vm(on, vmid))?;
        if guest.run.is_none() {
            return Err(Refusal::die(format!("VM {vmid} not running")));
        }
    }
    let (shared, on) = (node.clone(), on.to_owned());
    Ok(spawn(node, caller, "qmreboot", vmid, move |worker| async move {
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        shutdown_locked(&shared, &worker, &on, vmid, Shutdown { timeout, force_stop: false }).await?;
        start_slowly(&shared, Some(&worker), &on, vmid).await
    })
    .await)
}

/// Halts the CPUs, or with `to_disk` saves the memory and ends QEMU under the lock `suspended`.
pub(crate) async fn suspend(node: &Shared, caller: &Caller, on: &str, vmid: u32, to_disk: bool) -> String {
    let kind = if to_disk { "qmsuspend" } else { "qmpause" };
    let (shared, on) = (node.clone(), on.to_owned());
    spawn(node, caller, kind, vmid, move |_| async move {
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        {
            let mut state = shared.state();
            state.find(&on, vmid).ok_or_else(|| Refusal::no_such_vm(&on, vmid))?;
            let guest = state.guest_mut(&on, vmid)?;
            check_lock(guest)?;
            let run = guest.run.as_mut().ok_or_else(|| Refusal::die(format!("VM {vmid} not running")))?;
            run.paused = true;
            if to_disk {
                guest.config.insert("lock".into(), "suspended".into());
            }
            state.changed(vmid);
        }
        if to_disk {
            power_off(&shared, vmid);
        }
        Ok(())
    })
    .await
}

/// Lets the CPUs run again.
pub(crate) async fn resume(node: &Shared, caller: &Caller, on: &str, vmid: u32) -> String {
    let (shared, on) = (node.clone(), on.to_owned());
    spawn(node, caller, "qmresume", vmid, move |_| async move {
        let _lock = shared.locks.exclusive(vmid, shared.timing().lock_wait).await?;
        let mut state = shared.state();
        state.find(&on, vmid).ok_or_else(|| Refusal::no_such_vm(&on, vmid))?;
        let guest = state.guest_mut(&on, vmid)?;
        check_lock(guest)?;
        let run = guest.run.as_mut().ok_or_else(|| Refusal::die(format!("VM {vmid} not running")))?;
        run.paused = false;
        state.changed(vmid);
        Ok(())
    })
    .await
}

/// The node goes down and comes up: guests off, routes and taps gone, guests with `onboot` started anew. Their taps
/// are plugged while they run already, as at each start.
pub(crate) fn reboot_node(node: &Shared) {
    let (all, onboot) = {
        let mut state = node.state();
        state.network.routes.clear();
        state.network.tables.clear();
        let here: BTreeMap<u32, bool> = state
            .guests
            .values()
            .filter(|guest| guest.node == node.options.node)
            .map(|guest| {
                (guest.vmid, guest.flag("onboot") && !guest.flag("template") && guest.lock().is_none())
            })
            .collect();
        let onboot: Vec<u32> = here.iter().filter(|(_, onboot)| **onboot).map(|(vmid, _)| *vmid).collect();
        (here.into_keys().collect::<Vec<_>>(), onboot)
    };
    for vmid in all {
        cut_off(node, vmid);
    }
    for vmid in onboot {
        let (on, shared) = (node.options.node.clone(), node.clone());
        let has_script =
            node.state().guests.get(&vmid).is_some_and(|guest| guest.get("hookscript").is_some());
        if has_script {
            tokio::spawn(async move { tell(vmid, start_slowly(&shared, None, &on, vmid).await) });
            continue;
        }
        match run_qemu(node, &on, vmid) {
            Ok(pid) if node.timing().plug == 0 => plug(node, vmid, pid),
            Ok(pid) => {
                tokio::spawn(async move {
                    pause(shared.timing().plug).await;
                    plug(&shared, vmid, pid);
                });
            }
            Err(refusal) => tell(vmid, Err(refusal)),
        }
    }
}

fn tell(vmid: u32, started: Outcome<()>) {
    if let Err(refusal) = started {
        eprintln!("lab: VM {vmid} does not start with the node: {}", refusal.message);
    }
}
