//! `pvesh`: the API on the command line, as root. And `pvesm status`.
//!
//! Text output is JSON here unless the answer is one word: callers that read it ask for `--output-format json`.

use serde_json::Value;

use super::getopt::{Takes, parse};
use super::{ToolOutput, pretty};
use crate::api::{self, Params};
use crate::node::access::Caller;
use crate::node::refusal::{Outcome, Refusal};
use crate::node::{Shared, tasks};

/// Runs `pvesh`.
pub(crate) async fn run(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let (command, rest) = argv.split_first().ok_or_else(|| Refusal::die("ERROR: no command specified"))?;
    let method = match command.as_str() {
        "get" => "GET",
        "create" => "POST",
        "set" => "PUT",
        "delete" => "DELETE",
        other => return Err(Refusal::die(format!("ERROR: unknown command 'pvesh {other}'"))),
    };
    let (path, options) =
        rest.split_first().ok_or_else(|| Refusal::with_code(400, "400 not enough arguments"))?;
    let mut format = "text".to_owned();
    let mut params = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let name = word
            .strip_prefix("--")
            .or_else(|| word.strip_prefix('-'))
            .ok_or_else(|| Refusal::with_code(400, "400 too many arguments"))?;
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (name, words.next().cloned().unwrap_or_else(|| "1".into())),
        };
        match name {
            "output-format" => format = value,
            "noborder" | "noheader" | "human-readable" | "quiet" => {}
            _ => params.push((name.to_owned(), value)),
        }
    }
    let data = match api::dispatch(node, &Caller::Root, method, path, &Params::of(params)).await {
        Ok(data) => data,
        Err(refusal) if refusal.code == 501 => {
            return Err(Refusal::die(format!("No '{command}' handler defined for '{path}'")));
        }
        Err(refusal) => return Err(refusal),
    };
    Ok(show(node, &data, &format).await)
}

async fn show(node: &Shared, data: &Value, format: &str) -> ToolOutput {
    let mut output = ToolOutput::default();
    if let Some(upid) = data.as_str().filter(|text| text.starts_with("UPID:")) {
        // The worker runs in the foreground, and what becomes of it does not reach the exit code.
        let ended = tasks::wait(node, upid).await;
        let lines = ended.log.iter().filter(|line| !line.starts_with("TASK "));
        output.stdout = lines.map(|line| format!("{line}\n")).collect();
        output.stderr = ended.complaints.iter().map(|line| format!("{line}\n")).collect();
        if !ended.good() {
            output.stderr.push_str(&format!("{}\n", ended.exit));
        }
    }
    output.stdout.push_str(&match (format, data) {
        ("json", data) => format!("{data}\n"),
        (_, Value::Null) => String::new(),
        ("text", Value::String(text)) => format!("{text}\n"),
        (_, data) => pretty::print(data),
    });
    output
}

/// Runs `pvesm`.
pub(crate) fn pvesm(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let (command, rest) = argv.split_first().ok_or_else(|| Refusal::die("ERROR: no command specified"))?;
    match command.as_str() {
        "status" => pvesm_status(node, rest),
        "list" => pvesm_list(node, rest),
        "set" => pvesm_set(node, rest),
        "free" => {
            let parsed = parse(rest, &[("storage", Takes::Value), ("delay", Takes::Value)])?;
            parsed.expect(1)?;
            let volid = &parsed.words[0];
            node.state().storages.free(volid)?;
            Ok(ToolOutput::text(format!("Removed volume '{volid}'\n")))
        }
        "path" => {
            let parsed = parse(rest, &[])?;
            parsed.expect(1)?;
            let volid = &parsed.words[0];
            let state = node.state();
            if let Some(name) = volid.strip_prefix("local:snippets/") {
                return Ok(ToolOutput::text(format!("{}\n", state.files.snippets().join(name).display())));
            }
            state
                .storages
                .volume(volid)
                .ok_or_else(|| Refusal::die(format!("volume '{volid}' does not exist")))?;
            Ok(ToolOutput::text(format!("/dev/pve/{}\n", volid.split(':').nth(1).unwrap_or_default())))
        }
        other => Err(Refusal::die(format!("ERROR: unknown command 'pvesm {other}'"))),
    }
}

fn pvesm_status(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(
        argv,
        &[
            ("content", Takes::Value),
            ("enabled", Takes::Flag),
            ("storage", Takes::Value),
            ("target", Takes::Value),
        ],
    )?;
    parsed.expect(0)?;
    let state = node.state();
    if let Some(name) = parsed.get("storage") {
        state.storages.get(name)?;
    }
    let heads = match node.options.pve {
        8 => ["Total", "Used", "Available"],
        _ => ["Total (KiB)", "Used (KiB)", "Available (KiB)"],
    };
    let row = |cells: [&str; 7]| {
        format!(
            "{:<12} {:>10} {:>10} {:>15} {:>15} {:>15} {:>8}\n",
            cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], cells[6]
        )
    };
    let mut text = row(["Name", "Type", "Status", heads[0], heads[1], heads[2], "%"]);
    for (name, storage) in &state.storages.storages {
        let wanted = parsed.get("content").is_none_or(|content| storage.content.contains(&content))
            && parsed.get("storage").is_none_or(|storage| storage == name)
            && (storage.enabled || !parsed.flag("enabled"));
        if !wanted {
            continue;
        }
        let used = if storage.enabled { state.storages.used(name) } else { 0 };
        let total = if storage.enabled { storage.total } else { 0 };
        let percent = match storage.enabled {
            true => format!("{:.2}%", used as f64 * 100.0 / total.max(1) as f64),
            false => "N/A".into(),
        };
        let kib = |bytes: u64| (bytes >> 10).to_string();
        let status = if storage.enabled { "active" } else { "disabled" };
        let cells = [kib(total), kib(used), kib(total - used.min(total))];
        text.push_str(&row([name, storage.kind, status, &cells[0], &cells[1], &cells[2], &percent]));
    }
    Ok(ToolOutput::text(text))
}

fn pvesm_list(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("content", Takes::Value), ("vmid", Takes::Value)])?;
    parsed.expect(1)?;
    let state = node.state();
    state.storages.get(&parsed.words[0])?;
    let mut text = format!("{:<40} {:<7} {:<9} {:>13} {}\n", "Volid", "Format", "Type", "Size", "VMID");
    let storage = &parsed.words[0];
    let wants = |content: &str| parsed.get("content").is_none_or(|wanted| wanted == content);
    let mut row = |volid: &str, format: &str, content: &str, size: u64, vmid: &str| {
        text.push_str(&format!("{volid:<40} {format:<7} {content:<9} {size:>13} {vmid}\n"));
    };
    for volume in state.storages.of(storage).filter(|_| wants("images")) {
        let vmid = volume.vmid.to_string();
        if parsed.get("vmid").is_none_or(|wanted| wanted == vmid) {
            row(&volume.volid, &volume.format, "images", volume.size, &vmid);
        }
    }
    // Snippets belong to no VMID, and are listed whichever is asked for.
    if storage == "local" && wants("snippets") {
        let files = std::fs::read_dir(state.files.snippets()).into_iter().flatten().flatten();
        let mut files: Vec<_> = files.collect();
        files.sort_by_key(std::fs::DirEntry::file_name);
        for file in files {
            let size = file.metadata().map_or(0, |data| data.len());
            let volid = format!("local:snippets/{}", file.file_name().to_string_lossy());
            row(&volid, "snippet", "snippets", size, "");
        }
    }
    Ok(ToolOutput::text(text))
}

/// `pvesm set STORAGE --content LIST`: what the storage takes from now on.
fn pvesm_set(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    const KNOWN: [&str; 6] = ["images", "rootdir", "snippets", "iso", "vztmpl", "backup"];
    let parsed = parse(argv, &[("content", Takes::Value), ("disable", Takes::Flag)])?;
    parsed.expect(1)?;
    let mut state = node.state();
    state.storages.get(&parsed.words[0])?;
    let wanted = api::split_list(parsed.get("content").unwrap_or(""));
    let unknown = wanted.iter().find(|content| !KNOWN.contains(&content.as_str()));
    if let Some(unknown) = unknown {
        return Err(Refusal::parameter("content", format!("unknown content type '{unknown}'")));
    }
    if let Some(storage) = state.storages.storages.get_mut(&parsed.words[0]) {
        if !wanted.is_empty() {
            storage.content = KNOWN.into_iter().filter(|known| wanted.iter().any(|w| w == known)).collect();
        }
        storage.enabled &= !parsed.flag("disable");
    }
    Ok(ToolOutput::default())
}
