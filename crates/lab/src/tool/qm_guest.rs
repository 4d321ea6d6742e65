//! `qm guest`: the exit code says nothing about the command in the guest.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::getopt::{Takes, parse};
use super::qm::vmid;
use super::{ToolOutput, pretty};
use crate::node::refusal::{Outcome, Refusal};
use crate::node::{Shared, guest_agent};

/// `qm guest cmd <id> <command>`.
pub(super) async fn command(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[])?;
    parsed.expect(2)?;
    let number = vmid(&parsed.words[0])?;
    let on = &node.options.node;
    match parsed.words[1].as_str() {
        "ping" => {
            guest_agent::check(node, on, number).await?;
            Ok(ToolOutput::default())
        }
        "network-get-interfaces" => {
            let value = guest_agent::interfaces(node, on, number).await?;
            Ok(ToolOutput::text(pretty::print(&value["result"])))
        }
        "get-fsinfo" => {
            let value = guest_agent::file_systems(node, on, number).await?;
            Ok(ToolOutput::text(pretty::print(&value["result"])))
        }
        // `guest cmd` does not look whether the agent's answer is an error.
        other => {
            guest_agent::check(node, on, number).await?;
            let desc = format!("The command guest-{other} has not been found");
            Ok(ToolOutput::text(pretty::print(&json!({"error": {"class": "CommandNotFound", "desc": desc}}))))
        }
    }
}

/// `qm guest exec <id> [options] -- program arguments`.
pub(super) async fn exec(node: &Shared, argv: &[String], stdin: &str) -> Outcome<ToolOutput> {
    let parsed =
        parse(argv, &[("timeout", Takes::Value), ("pass-stdin", Takes::Flag), ("synchronous", Takes::Flag)])?;
    let (number, command) =
        parsed.words.split_first().ok_or_else(|| Refusal::with_code(400, "400 not enough arguments"))?;
    let number = vmid(number)?;
    let input = match parsed.flag("pass-stdin") {
        true => STANDARD.decode(stdin).unwrap_or_default(),
        false => Vec::new(),
    };
    let on = &node.options.node;
    let pid = guest_agent::exec(node, on, number, command, input).await?;
    if parsed.get("synchronous").is_some() && !parsed.flag("synchronous") {
        return Ok(ToolOutput::text(pretty::print(&json!({"pid": pid}))));
    }
    let limit = match parsed.number("timeout")?.unwrap_or(30) {
        0 => Duration::from_secs(u64::from(u32::MAX)),
        seconds => Duration::from_secs(seconds),
    };
    if !guest_agent::wait(node, pid, limit).await {
        return Ok(ToolOutput {
            stdout: pretty::print(&json!({"pid": pid})),
            stderr: "timeout reached, returning pid\n".into(),
            code: 0,
            kill: false,
        });
    }
    let status = guest_agent::exec_status(node, on, number, pid).await?;
    Ok(ToolOutput::text(pretty::print(&status)))
}

/// `qm guest exec-status <id> <pid>`.
pub(super) async fn exec_status(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[])?;
    parsed.expect(2)?;
    let number = vmid(&parsed.words[0])?;
    let pid = parsed.words[1].parse().map_err(|_| {
        Refusal::parameter("pid", format!("type check ('integer') failed - got '{}'", parsed.words[1]))
    })?;
    let status = guest_agent::exec_status(node, &node.options.node, number, pid).await?;
    Ok(ToolOutput::text(pretty::print(&status)))
}
