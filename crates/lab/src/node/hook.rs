//! Hook scripts: a program on a snippet storage that the node runs as root before and after a guest's start and stop.
//!
//! `pre-start` (no tap yet; a failure keeps the guest from starting), `post-start` (the tap is a port of its bridge),
//! `pre-stop` (the tap is still there), `post-stop` (it is gone, and QEMU with it). All but the first can only complain.
//! A script that is missing fails like one that ends badly, so without it the guest does not start at all.
//!
//! The script runs with the arguments `VMID PHASE`, in `/`, with little environment. Beside that it has the lab's tools
//! on its PATH and finds the lab's folder in `LAB_DIR`; on a real node it is below `/`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use super::refusal::{Outcome, Refusal};
use super::tasks::Worker;
use super::{Node, Shared, State, pause};

/// When the script is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    PreStart,
    PostStart,
    PreStop,
    PostStop,
}

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Self::PreStart => "pre-start",
            Self::PostStart => "post-start",
            Self::PreStop => "pre-stop",
            Self::PostStop => "post-stop",
        }
    }
}

/// The script's file, which must be there and executable.
///
/// # Errors
/// Why it cannot be run.
pub(crate) fn script(state: &State, volid: &str) -> Result<PathBuf, String> {
    let (storage, rest) = volid.split_once(':').unwrap_or(("", volid));
    state.storages.get(storage).map_err(|refusal| refusal.message)?;
    let name = rest.strip_prefix("snippets/").filter(|name| !name.is_empty() && !name.contains('/'));
    let name = name.ok_or_else(|| format!("unable to parse hookscript volume '{volid}'"))?;
    let path = match storage {
        "local" => state.files.snippets().join(name),
        _ => return Err(format!("storage '{storage}' does not support content-type 'snippets'")),
    };
    let Ok(found) = std::fs::metadata(&path) else {
        return Err(format!("script '{}' does not exist", path.display()));
    };
    if found.permissions().mode() & 0o111 == 0 {
        return Err(format!("script '{}' is not executable", path.display()));
    }
    Ok(path)
}

/// Runs the guest's script, if it has one. What it prints goes where the worker's own words go.
///
/// # Errors
/// In Proxmox' words: it cannot be run, or did not end with 0.
pub(crate) async fn run(node: &Node, vmid: u32, phase: Phase, worker: Option<&Worker>) -> Outcome<()> {
    let found = {
        let state = node.state();
        let volid = state.guests.get(&vmid).and_then(|guest| guest.get("hookscript"));
        volid.map(|volid| script(&state, volid))
    };
    let failed =
        |why: String| Refusal::die(format!("hookscript error for {vmid} on {}: {why}", phase.word()));
    let Some(path) = found.transpose().map_err(failed)? else { return Ok(()) };
    let output = command(node, &path, vmid, phase).output().await;
    let output = output.map_err(|error| failed(format!("command '{}' failed: {error}", path.display())))?;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    for line in String::from_utf8_lossy(&text).lines() {
        worker.inspect(|worker| worker.line(line));
    }
    let what = format!("{vmid} {}", phase.word());
    node.log.add("hook", what.clone(), output.status.code(), json!(String::from_utf8_lossy(&text)));
    let how = match (output.status.code(), output.status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("got signal {}", signal.unwrap_or_default()),
    };
    Err(failed(format!("command '{} {what}' failed: {how}", path.display())))
}

/// The same where a failure is only told.
pub(crate) async fn run_or_complain(node: &Node, vmid: u32, phase: Phase, worker: Option<&Worker>) {
    if let Err(refusal) = run(node, vmid, phase, worker).await {
        match worker {
            Some(worker) => worker.complain(refusal.message),
            None => eprintln!("lab: {}", refusal.message),
        }
    }
}

fn command(node: &Node, script: &Path, vmid: u32, phase: Phase) -> tokio::process::Command {
    let bin = node.dir.join("bin");
    // The helper of this program dies with the lab and then becomes the script.
    let mut command = tokio::process::Command::new(bin.join(".in-guest"));
    command.arg(script).arg(vmid.to_string()).arg(phase.word());
    let path = format!("{}:/sbin:/bin:/usr/sbin:/usr/bin", bin.display());
    command.env_clear().env("PATH", path).env("LAB_DIR", &node.dir);
    command.env(crate::tool::client::NODE_PID, std::process::id().to_string());
    // The last phase is run by the daemon that hears of QEMU's end.
    if phase != Phase::PostStop {
        command.env("HOME", "/root").env("LC_ALL", "C").env("PVE_MIGRATED_FROM", "");
    }
    command.current_dir("/").process_group(0).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// After a guest's QEMU has ended, however it did: what the node's daemon does then. A guest that is on again or gone has
/// no last phase any more.
pub(crate) fn clean_up(node: &Shared, vmid: u32) {
    let has_script = move |state: &State| {
        let guest = state.guests.get(&vmid).filter(|guest| guest.run.is_none());
        guest.is_some_and(|guest| guest.get("hookscript").is_some())
    };
    if !has_script(&node.state()) {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        pause(node.timing().cleanup).await;
        let lock = node.locks.exclusive(vmid, node.timing().lock_wait).await;
        if lock.is_ok() && has_script(&node.state()) {
            run_or_complain(&node, vmid, Phase::PostStop, None).await;
        }
    });
}
