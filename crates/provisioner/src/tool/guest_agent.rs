//! Runs commands in a guest through the root agent and QEMU's guest agent (`facts/proxmox.md`, section 1; hazard H25).

//!
//! The guest agent reports the end of a command only once, and each query costs one start of `qm` in the root agent's
//! single lane. So the root agent itself queries once after starting the command, which is enough for a quick command
//! (a start of `qm` takes longer than the command). A command that is still running is polled, with pauses that grow
//! with the cost of a poll (hazard H20).

use super::node::{Asked, Node};
use crate::host::clock::Deadline;
use crate::host::root_agent::{AgentError, with_way_out};
use crate::plan::guest_command;
use crate::value::identity::Identity;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use base64::Engine as _;
use serde_json::{Map, Value};
use std::time::Duration;

/// How long, in seconds, the root agent itself waits for a quick command; saves a second request.
const QUICK: f64 = 1.0;
/// Shortest and longest pause between polls of a running command.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1000));
/// A pause is at least this many times as long as the last poll took.
const SHARE: u32 = 2;

/// Pause before trying again a command that certainly was not started.
const AGAIN: Duration = Duration::from_secs(1);
/// How many times to try again if the guest agent does not answer.
const SILENT_TRIES: u32 = 1;
/// Start of an error message if nothing was started.
const NOT_RUN: &str = "could not run the command";

/// A command that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; 128 + N if it was killed by signal N.
    pub exit_code: u8,
    /// Its standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Its standard error, byte for byte.
    pub stderr: Vec<u8>,
    /// Whether some of the output is missing: the agent keeps 16 MiB of each stream, and the root agent passes on 1
    /// MiB.
    pub truncated: bool,
}

/// Runs `command` in the guest and waits for its end; `Ok(None)`: it was started, but the deadline came first. To find
/// out whether it was started at all, waits up to `grace` longer, because the caller must know that.
pub fn run(
    node: &Node,
    vmid: Vmid,
    identity: &Identity,
    command: &str,
    deadline: Deadline,
    grace: Duration,
) -> anyhow::Result<Option<Ended>> {
    let begin = node.doors.deadline(deadline.left() + grace);
    let command = guest_command::for_guest(command).context(NOT_RUN)?;
    let asked = node.doors.stopwatch();
    let mut patience = Some(SILENT_TRIES);
    loop {
        let quick = QUICK.min(deadline.left().as_secs_f64() / 2.0);
        let begun = node.guest_exec(vmid, identity, &command, quick, begin);
        let begun = begun.and_then(|answer| until_begun(node, vmid, identity, answer, begin));
        match begun {
            Ok(answer) if is_job(&answer) => {
                anyhow::bail!(
                    "it is unknown whether the command was run: the node is busy, and qm did not answer within {} s",
                    asked.elapsed().as_secs()
                );
            }
            Ok(answer) => return end_of(node, vmid, identity, &answer, deadline),
            Err(error) if may_begin_again(&error, &mut patience) && deadline.left() > AGAIN * 2 => {
                tracing::debug!("{error}; nothing was started; trying again");
                node.pause(AGAIN)?;
            }
            Err(error) if error.outcome_unknown() => {
                return Err(plain(error)).context("it is unknown whether the command was run");
            }
            Err(error) => return Err(plain(error)).context(NOT_RUN),
        }
    }
}

/// Waits for the end of the command in an answer of `qm-guest-exec` or `qm-update-gecos`; `Ok(None)` if the deadline
/// came first.
pub fn end_of(
    node: &Node,
    vmid: Vmid,
    identity: &Identity,
    answer: &Map<String, Value>,
    deadline: Deadline,
) -> anyhow::Result<Option<Ended>> {
    if let Some(ended) = ended(answer)? {
        return Ok(Some(ended));
    }
    let pid = answer.get("pid").and_then(Value::as_u64);
    let pid = pid.context("the guest agent returned neither an exit status nor a process ID")?;
    wait_for(node, vmid, identity, pid, job_of(answer), deadline)
}

/// Returns the job of a `qm` that has not answered yet.
fn job_of(answer: &Map<String, Value>) -> Option<u64> {
    answer.get("job").and_then(Value::as_u64)
}

/// Whether it is still unknown whether the command was started, because the node's `qm` has not answered.
pub fn is_job(answer: &Map<String, Value>) -> bool {
    answer.get("pid").is_none() && job_of(answer).is_some()
}

/// Waits until a slow `qm` has reported whether the command was started.
pub fn until_begun(
    node: &Node,
    vmid: Vmid,
    identity: &Identity,
    mut answer: Map<String, Value>,
    deadline: Deadline,
) -> Result<Map<String, Value>, AgentError> {
    while is_job(&answer) && deadline.left() > PAUSES.1 {
        // A signal ends the wait at once; it stays unknown whether the command was started.
        if node.pause(PAUSES.0 * 4).is_err() {
            break;
        }
        let asked = Asked::Job(job_of(&answer).unwrap_or_default());
        answer = node.guest_exec_status(vmid, identity, asked, deadline)?;
    }
    Ok(answer)
}

/// Whether the command certainly was not started and the cause may go away: a guest frozen for a backup, or an agent
/// that misses the ping before the command (tried again once, since usually the agent is simply not running).
fn may_begin_again(error: &AgentError, patience: &mut Option<u32>) -> bool {
    let AgentError::Said { error: words, unknown: false, .. } = error else { return false };
    if is_frozen(words) {
        return true;
    }
    *patience = patience.and_then(|left| left.checked_sub(1));
    words.contains("QEMU guest agent is not running") && patience.is_some()
}

/// Whether this is the agent's refusal: between freeze and thaw it allows only a few commands.
fn is_frozen(words: &str) -> bool {
    words.contains("frozen")
}

/// The output of a tool on the node. It may repeat the command or its output, so the audit trail leaves it out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ToolWords(String);

/// Turns a refusal into an error with the tool's own words.
fn plain(error: AgentError) -> anyhow::Error {
    match error {
        AgentError::Said { error, .. } => ToolWords(with_way_out(&error)).into(),
        other => other.into(),
    }
}

/// Polls a process of the guest until it has ended. A failed poll is repeated, because a busy or frozen guest refuses
/// it while the command goes on; but not if the agent has forgotten the process or the guest is off.
fn wait_for(
    node: &Node,
    vmid: Vmid,
    identity: &Identity,
    pid: u64,
    mut job: Option<u64>,
    deadline: Deadline,
) -> anyhow::Result<Option<Ended>> {
    let (mut pause, longest) = PAUSES;
    loop {
        if deadline.left() <= pause {
            return Ok(None);
        }
        node.pause(pause)?;
        let begun = node.doors.stopwatch();
        let asked = job.take().map_or(Asked::Process(pid), Asked::Job);
        match node.guest_exec_status(vmid, identity, asked, deadline) {
            Ok(answer) => {
                if let Some(ended) = ended(&answer)? {
                    return Ok(Some(ended));
                }
                job = job_of(&answer);
            }
            // The deadline itself cut this poll short.
            Err(error) if deadline.passed() => {
                tracing::debug!("{error}");
                return Ok(None);
            }
            Err(error) if is_lost(node, vmid, &error, deadline) => {
                return Err(plain(error)).context("the command was started, but its exit status is unknown");
            }
            Err(AgentError::Said { error, .. }) if is_frozen(&error) => {
                tracing::debug!("{error}; asking again");
            }
            Err(error) if deadline.left() < Duration::from_secs(1) => {
                return Err(plain(error)).context("the command was started, but the guest agent was lost");
            }
            Err(error) => tracing::debug!("{error}; asking again"),
        }
        pause = (pause * 2).min(longest).max(begun.elapsed() * SHARE);
    }
}

/// Whether polling again is useless: a different VM, a process that the agent does not know or no longer knows, or a
/// guest that is off, where no command can be running.
fn is_lost(node: &Node, vmid: Vmid, error: &AgentError, deadline: Deadline) -> bool {
    let AgentError::Said { error: words, code, .. } = error else { return false };
    matches!(code.as_str(), "identity" | "missing" | "range" | "elsewhere")
        || (words.contains("Agent error:") && !is_frozen(words))
        || node.state(vmid, None, deadline).is_ok_and(|state| !state.running)
}

/// Reads an answer; `None` while the command is running. Only `exited` with an exit code or a signal is an end.
fn ended(answer: &Map<String, Value>) -> anyhow::Result<Option<Ended>> {
    let has_ended = answer.get("exited").is_none_or(|e| e.as_bool() == Some(true) || e.as_u64() == Some(1));
    let number = |key: &str| answer.get(key).and_then(Value::as_u64);
    let exit_code = match (number("exitcode"), number("signal")) {
        _ if !has_ended => return Ok(None),
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(1),
        (None, Some(signal)) => u8::try_from(128 + (signal & 0x7f)).unwrap_or(1),
        (None, None) => return Ok(None),
    };
    let truncated =
        ["out_truncated", "err_truncated"].iter().any(|key| answer.get(*key) == Some(&Value::Bool(true)));
    Ok(Some(Ended {
        exit_code,
        stdout: output(answer, "stdout")?,
        stderr: output(answer, "stderr")?,
        truncated,
    }))
}

/// Output that is not text comes as base64, in addition to a readable beginning.
fn output(answer: &Map<String, Value>, key: &str) -> anyhow::Result<Vec<u8>> {
    let text = |key: &str| answer.get(key).and_then(Value::as_str);
    match text(&format!("{key}_base64")) {
        Some(encoded) => base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .with_context(|| format!("the command has finished, but the root agent garbled its {key}")),
        None => Ok(text(key).unwrap_or_default().as_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(answer: Value) -> Option<Ended> {
        ended(answer.as_object().unwrap()).unwrap()
    }

    #[test]
    fn h25_a_pid_is_no_success_and_a_signal_is_128_and_its_number() {
        assert_eq!(read(json!({"ok": true, "pid": 7})), None);
        assert_eq!(read(json!({"ok": true, "exited": false})), None);
        assert_eq!(
            read(json!({"ok": true, "exited": true, "exitcode": 3, "stdout": "a"})).unwrap().exit_code,
            3
        );
        assert_eq!(read(json!({"ok": true, "exited": true, "signal": 9})).unwrap().exit_code, 137);
        assert_eq!(
            read(json!({"ok": true, "exitcode": 0, "stdout": "", "out_truncated": true})).unwrap().exit_code,
            0
        );
        assert!(read(json!({"ok": true, "exitcode": 0, "out_truncated": true})).unwrap().truncated);
    }

    #[test]
    fn output_is_bytes() {
        let both =
            json!({"exited": true, "exitcode": 0, "stdout": "é", "stderr": "?", "stderr_base64": "/wA="});
        let ended = read(both).unwrap();
        assert_eq!((ended.stdout.as_slice(), ended.stderr.as_slice()), ("é".as_bytes(), &[255, 0][..]));
        let garbled = json!({"exited": true, "exitcode": 0, "stdout_base64": "!"});
        assert!(super::ended(garbled.as_object().unwrap()).is_err());
    }
}
