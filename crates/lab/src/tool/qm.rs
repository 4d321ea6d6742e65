//! `qm`: what runs a task, and what tells of guests.

use std::time::Duration;

use super::getopt::{Parsed, Takes, parse};
use super::{ToolCall, ToolOutput, qm_config, qm_guest};
use crate::node::access::Caller;
use crate::node::clone::{self, CloneRequest};
use crate::node::existence::{self, Destroy};
use crate::node::guest::encode_text;
use crate::node::power::{self, Shutdown};
use crate::node::refusal::{Outcome, Refusal};
use crate::node::{Shared, disks, tasks};

/// What a failed task makes of the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// 255, as most commands do.
    Tells,
    /// 0: `template` and `resize` have no exit function.
    Hides,
}

const ROOT: Caller = Caller::Root;

/// Runs `qm`.
pub(crate) async fn run(node: &Shared, call: &ToolCall) -> Outcome<ToolOutput> {
    let words: Vec<&str> = call.argv.iter().map(String::as_str).collect();
    let after = |count: usize| &call.argv[count..];
    match words.as_slice() {
        ["start", ..] => start(node, after(1)).await,
        ["stop", ..] => stop(node, after(1)).await,
        ["shutdown", ..] => shutdown(node, after(1)).await,
        ["reboot" | "reset", ..] => reboot(node, after(1)).await,
        ["suspend", ..] => suspend(node, after(1)).await,
        ["resume", ..] => resume(node, after(1)).await,
        ["wait", ..] => wait(node, after(1)).await,
        ["destroy", ..] => destroy(node, after(1)).await,
        ["clone", ..] => clone_guest(node, after(1)).await,
        ["template", ..] => template(node, after(1)).await,
        ["resize", ..] => resize(node, after(1)).await,
        ["disk", "resize", ..] => resize(node, after(2)).await,
        ["move_disk" | "move-disk", ..] => move_disk(node, after(1)).await,
        ["disk", "move", ..] => move_disk(node, after(2)).await,
        ["importdisk", ..] => qm_config::import(node, after(1), &call.cwd).await,
        ["rescan", ..] => rescan(node, after(1)),
        ["disk", "rescan", ..] => rescan(node, after(2)),
        ["disk", "import", ..] => qm_config::import(node, after(2), &call.cwd).await,
        ["create", ..] => qm_config::create(node, after(1), &call.cwd).await,
        ["set", ..] => qm_config::set(node, after(1), &call.cwd).await,
        ["unlock", ..] => qm_config::unlock(node, after(1)).await,
        ["status", ..] => status(node, after(1)),
        ["config", ..] => config(node, after(1)),
        ["pending", ..] => pending(node, after(1)),
        ["list", ..] => list(node, after(1)),
        ["listsnapshot", ..] => list_snapshots(node, after(1)),
        ["guest", "cmd", ..] => qm_guest::command(node, after(2)).await,
        ["agent", ..] => qm_guest::command(node, after(1)).await,
        ["guest", "exec", ..] => qm_guest::exec(node, after(2), &call.stdin).await,
        ["guest", "exec-status", ..] => qm_guest::exec_status(node, after(2)).await,
        [] => Ok(ToolOutput::failure(255, "ERROR: no command specified\n")),
        [other, ..] => Ok(ToolOutput::failure(255, format!("ERROR: unknown command 'qm {other}'\n"))),
    }
}

/// The VMID of a call with one word.
pub(super) fn only_vmid(parsed: &Parsed) -> Outcome<u32> {
    parsed.expect(1)?;
    vmid(&parsed.words[0])
}

pub(super) fn vmid(text: &str) -> Outcome<u32> {
    let wrong = |why: String| Refusal::parameter("vmid", why);
    let number: u32 =
        text.parse().map_err(|_| wrong(format!("type check ('integer') failed - got '{text}'")))?;
    match number {
        0..100 => Err(wrong("value must have a minimum value of 100".into())),
        1_000_000_000.. => Err(wrong("value must have a maximum value of 999999999".into())),
        number => Ok(number),
    }
}

/// Waits for a task in the foreground: its lines go to stdout, its error to stderr.
pub(super) async fn foreground(node: &Shared, upid: &str, exit: Exit) -> ToolOutput {
    let ended = tasks::wait(node, upid).await;
    let lines = ended.log.iter().filter(|line| !line.starts_with("TASK "));
    let stdout: String = lines.map(|line| format!("{line}\n")).collect();
    let mut stderr: String = ended.complaints.iter().map(|line| format!("{line}\n")).collect();
    if !ended.good() {
        let code = if exit == Exit::Tells { 255 } else { 0 };
        stderr.push_str(&format!("{}\n", ended.exit));
        return ToolOutput { stdout, stderr, code, kill: false };
    }
    if ended.warnings > 0 {
        stderr.push_str(&format!("Task finished with {} warning(s)!\n", ended.warnings));
    }
    ToolOutput { stdout, stderr, code: 0, kill: false }
}

/// Shutdown and reboot look for the guest twice, and say twice that it is missing.
fn said_twice(mut refusal: Refusal) -> Refusal {
    if refusal.message.starts_with("unable to find configuration file") {
        refusal.message = format!("{0}\n{0}", refusal.message);
    }
    refusal
}

async fn start(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed =
        parse(argv, &[("timeout", Takes::Value), ("skiplock", Takes::Flag), ("machine", Takes::Value)])?;
    let vmid = only_vmid(&parsed)?;
    let upid = power::start(node, &ROOT, &node.options.node, vmid).await;
    Ok(foreground(node, &upid, Exit::Tells).await)
}

async fn stop(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(
        argv,
        &[
            ("timeout", Takes::Value),
            ("skiplock", Takes::Flag),
            ("keepActive", Takes::Flag),
            ("overrule-shutdown", Takes::Flag),
        ],
    )?;
    let vmid = only_vmid(&parsed)?;
    let (overrule, skip) = (parsed.flag("overrule-shutdown"), parsed.flag("skiplock"));
    let upid = power::stop(node, &ROOT, &node.options.node, vmid, overrule, skip).await;
    Ok(foreground(node, &upid, Exit::Tells).await)
}

async fn shutdown(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(
        argv,
        &[
            ("timeout", Takes::Value),
            ("forceStop", Takes::Flag),
            ("skiplock", Takes::Flag),
            ("keepActive", Takes::Flag),
        ],
    )?;
    let vmid = only_vmid(&parsed)?;
    let how = Shutdown { timeout: parsed.number("timeout")?, force_stop: parsed.flag("forceStop") };
    let stopped = node.state().find(&node.options.node, vmid).is_some_and(|guest| guest.run.is_none());
    let upid = power::shutdown(node, &ROOT, &node.options.node, vmid, how).await.map_err(said_twice)?;
    let mut output = foreground(node, &upid, Exit::Tells).await;
    if stopped {
        // Noise of the agent's check, not a failure.
        output.stderr = std::mem::take(&mut output.stdout);
    }
    Ok(output)
}

async fn reboot(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("timeout", Takes::Value), ("skiplock", Takes::Flag)])?;
    let vmid = only_vmid(&parsed)?;
    let timeout = parsed.number("timeout")?;
    let upid = power::reboot(node, &ROOT, &node.options.node, vmid, timeout).await.map_err(said_twice)?;
    Ok(foreground(node, &upid, Exit::Tells).await)
}

async fn suspend(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed =
        parse(argv, &[("todisk", Takes::Flag), ("skiplock", Takes::Flag), ("statestorage", Takes::Value)])?;
    let vmid = only_vmid(&parsed)?;
    let upid = power::suspend(node, &ROOT, &node.options.node, vmid, parsed.flag("todisk")).await;
    Ok(foreground(node, &upid, Exit::Tells).await)
}

async fn resume(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("skiplock", Takes::Flag), ("nocheck", Takes::Flag)])?;
    let vmid = only_vmid(&parsed)?;
    let upid = power::resume(node, &ROOT, &node.options.node, vmid).await;
    Ok(foreground(node, &upid, Exit::Tells).await)
}

async fn wait(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("timeout", Takes::Value)])?;
    let vmid = only_vmid(&parsed)?;
    let limit = Duration::from_secs(parsed.number("timeout")?.unwrap_or(u64::from(u32::MAX)));
    node.state().guest(&node.options.node, vmid)?;
    let stopped = async {
        while node.state().find(&node.options.node, vmid).is_some_and(|guest| guest.run.is_some()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(limit, stopped).await {
        Ok(()) => Ok(ToolOutput::default()),
        Err(_) => Err(Refusal::die("wait failed - got timeout")),
    }
}

async fn destroy(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(
        argv,
        &[("purge", Takes::Flag), ("destroy-unreferenced-disks", Takes::Flag), ("skiplock", Takes::Flag)],
    )?;
    let vmid = only_vmid(&parsed)?;
    let how = Destroy {
        purge: parsed.flag("purge"),
        unreferenced: parsed.flag("destroy-unreferenced-disks"),
        skip_lock: parsed.flag("skiplock"),
    };
    let upid = existence::destroy(node, &ROOT, &node.options.node, vmid, how).await?;
    Ok(foreground(node, &upid, Exit::Tells).await)
}

async fn clone_guest(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(
        argv,
        &[
            ("name", Takes::Value),
            ("description", Takes::Value),
            ("pool", Takes::Value),
            ("storage", Takes::Value),
            ("full", Takes::Flag),
            ("format", Takes::Value),
            ("snapname", Takes::Value),
            ("target", Takes::Value),
        ],
    )?;
    parsed.expect(2)?;
    let text = |name: &str| parsed.get(name).map(String::from);
    let request = CloneRequest {
        newid: vmid(&parsed.words[1])?,
        name: text("name"),
        description: text("description"),
        pool: text("pool"),
        storage: text("storage"),
        full: parsed.flag("full"),
    };
    let upid = clone::clone(node, &ROOT, &node.options.node, vmid(&parsed.words[0])?, request).await?;
    Ok(foreground(node, &upid, Exit::Tells).await)
}

async fn template(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("disk", Takes::Value)])?;
    let upid = existence::template(node, &ROOT, &node.options.node, only_vmid(&parsed)?).await?;
    Ok(foreground(node, &upid, Exit::Hides).await)
}

async fn resize(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("digest", Takes::Value), ("skiplock", Takes::Flag)])?;
    parsed.expect(3)?;
    let (disk, size) = (&parsed.words[1], &parsed.words[2]);
    let upid = disks::resize(node, &ROOT, &node.options.node, vmid(&parsed.words[0])?, disk, size).await;
    Ok(foreground(node, &upid, Exit::Hides).await)
}

async fn move_disk(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("delete", Takes::Flag), ("format", Takes::Value), ("digest", Takes::Value)])?;
    parsed.expect(3)?;
    let (disk, storage) = (&parsed.words[1], &parsed.words[2]);
    let delete = parsed.flag("delete");
    let on = &node.options.node;
    let upid = disks::move_disk(node, &ROOT, on, vmid(&parsed.words[0])?, disk, storage, delete).await?;
    Ok(foreground(node, &upid, Exit::Tells).await)
}

/// `qm disk rescan`: sizes of drives as the storages know them.
fn rescan(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("vmid", Takes::Value), ("dryrun", Takes::Flag)])?;
    parsed.expect(0)?;
    let only = parsed.get("vmid").map(vmid).transpose()?;
    let mut state = node.state();
    let here = state.guests.values().filter(|guest| guest.node == node.options.node);
    let all: Vec<u32> =
        here.map(|guest| guest.vmid).filter(|vmid| only.is_none_or(|only| only == *vmid)).collect();
    let mut text = String::from("rescan volumes...\n");
    for vmid in all {
        text.push_str(&disks::rescan(&mut state, vmid, parsed.flag("dryrun")));
    }
    Ok(ToolOutput::text(text))
}

fn status(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("verbose", Takes::Flag)])?;
    let vmid = only_vmid(&parsed)?;
    let state = node.state();
    let guest = state.guest(&node.options.node, vmid)?;
    Ok(ToolOutput::text(format!("status: {}\n", guest.power().word())))
}

fn config(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("current", Takes::Flag), ("snapshot", Takes::Value)])?;
    let vmid = only_vmid(&parsed)?;
    let state = node.state();
    let guest = state.guest(&node.options.node, vmid)?;
    let config = if parsed.flag("current") { guest.config.clone() } else { guest.merged() };
    let mut text = String::new();
    for (key, value) in &config {
        let value = match key.as_str() {
            "description" => encode_text(value),
            "cipassword" => "**********".into(),
            _ => value.clone(),
        };
        text.push_str(&format!("{key}: {value}\n"));
    }
    Ok(ToolOutput::text(text))
}

fn pending(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let vmid = only_vmid(&parse(argv, &[])?)?;
    let state = node.state();
    let guest = state.guest(&node.options.node, vmid)?;
    let mut text = String::new();
    for (key, value) in &guest.config {
        let word = if guest.pending.get(key) == Some(&None) { "del" } else { "cur" };
        text.push_str(&format!("{word} {key}: {}\n", encode_text(value).replace("%3A", ":")));
    }
    for (key, value) in &guest.pending {
        if let Some(value) = value {
            text.push_str(&format!("new {key}: {value}\n"));
        }
    }
    Ok(ToolOutput::text(text))
}

fn list(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("full", Takes::Flag)])?;
    parsed.expect(0)?;
    let full = parsed.flag("full");
    let state = node.state();
    let mut text = String::new();
    for guest in state.guests.values().filter(|guest| guest.node == node.options.node) {
        if text.is_empty() {
            text = format!(
                "{:>10} {:<20} {:<10} {:<10} {:>12} {:<10}\n",
                "VMID", "NAME", "STATUS", "MEM(MB)", "BOOTDISK(GB)", "PID"
            );
        }
        let name = if guest.name().is_empty() { format!("VM {}", guest.vmid) } else { guest.name().into() };
        let status = match (&guest.run, full) {
            (_, true) => guest.power().word(),
            (Some(_), false) => "running",
            (None, false) => "stopped",
        };
        let gib = guest.boot_disk_size() as f64 / f64::from(1u32 << 30);
        let pid = guest.run.as_ref().map_or(0, |run| run.pid);
        text.push_str(&format!(
            "{:>10} {name:<20} {status:<10} {:<10} {gib:>12.2} {pid:<10}\n",
            guest.vmid,
            guest.memory() >> 20
        ));
    }
    Ok(ToolOutput::text(text))
}

fn list_snapshots(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let vmid = only_vmid(&parse(argv, &[])?)?;
    node.state().guest(&node.options.node, vmid)?;
    Ok(ToolOutput::text(format!("`-> {:<23} {:<23} {}\n", "current", "", "You are here!")))
}
