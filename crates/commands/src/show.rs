//! `blockhost-vm-show`: one VM on a page, for a person or as JSON.

use crate::audit::cells;
use crate::list::{distance, length};
use crate::terminal::{has_colours, one_line, style_of};
use crate::{OneVm, TextOrJson, answer, answer_data, on_terminal, open};
use chrono::{DateTime, Local, Utc};
use clap::Parser;
use provisioner::operation::mock;
use provisioner::operation::show::{Live, Page, show};
use provisioner::store::audit_trail::AuditLine;
use provisioner::value::timestamp;
use serde_json::Value;
use std::fmt::Write as _;

/// Show everything that is known of one VM
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-show",
    version,
    styles = crate::STYLES,
    after_help = "Changes nothing. Exits 0 also if the node cannot be asked: the page says what is not known.\n\n\
        Examples:\n  blockhost-vm-show web-1\n  blockhost-vm-show web-1 --format json"
)]
pub struct ShowCommand {
    #[command(flatten)]
    vm: OneVm,
    /// Print a page or JSON
    #[arg(long, value_enum, default_value_t = TextOrJson::Text)]
    format: TextOrJson,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: ShowCommand = crate::parse();
    crate::run_vm(&command.vm, |host| {
        let (ctx, name) = (open(host, &command.vm)?, &command.vm.name);
        let page = if command.vm.mock { mock::show(&ctx, name)? } else { show(&ctx, name)? };
        match command.format {
            TextOrJson::Json => answer_data((serde_json::to_string(&page)? + "\n").as_bytes()),
            TextOrJson::Text => answer(&text(&page, host.now(), has_colours(on_terminal()))),
        }
    })
}

/// The page; whatever others wrote is one line each, without commands to a terminal.
fn text(page: &Page, now: DateTime<Utc>, colours: bool) -> String {
    let mut out = String::new();
    let mut line = |name: &str, words: String| {
        if !words.is_empty() {
            let _ = writeln!(out, "{name:<12}  {}", one_line(&words));
        }
    };
    line("VM", page.name.clone());
    line("VMID", page.vmid.map(|vmid| vmid.to_string()).unwrap_or_default());
    line("status", page.status.unwrap_or("no usable record").to_string());
    line("live state", page.live.as_ref().map_or_else(|| "not known".to_string(), live));
    line("failed", page.live.as_ref().and_then(|live| live.failed.clone()).unwrap_or_default());
    line("resources", page.live.as_ref().map(resources).unwrap_or_default());
    line("expires", expiry(page, now));
    line("protected", if page.expiry.protected { "yes".into() } else { "no".into() });
    line("addresses", addresses(page));
    for (index, words) in guard(page).into_iter().enumerate() {
        line(if index == 0 { "guard" } else { "" }, words);
    }
    for (index, words) in limits(page).into_iter().enumerate() {
        line(if index == 0 { "limits" } else { "" }, words);
    }
    for (index, volume) in page.snippets.iter().enumerate() {
        line(if index == 0 { "snippets" } else { "" }, volume.clone());
    }
    line("terraform", folder(page));
    line("unfinished", page.unfinished.clone().unwrap_or_else(|| "nothing".into()));
    if let Some(record) = &page.record {
        out.push_str("\nRecord:\n");
        for (key, value) in record {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            let _ = writeln!(out, "  {:<16}  {}", one_line(key), one_line(&value));
        }
    }
    push_audit(&mut out, page);
    if !page.not_known.is_empty() {
        out.push_str("\nNot known:\n");
        for why in &page.not_known {
            let _ = writeln!(out, "  {}", one_line(why));
        }
    }
    if colours { coloured(&out) } else { out }
}

/// The words about the state in colour: in the first lines alone, where they are ours.
fn coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let is_ours = line.starts_with("status ") || line.starts_with("live state ");
        match line.char_indices().nth(14).filter(|_| is_ours).map(|(at, _)| line.split_at(at)) {
            Some((name, words)) => {
                let end = words.find([' ', ',', '\n']).unwrap_or(words.len());
                let style = style_of(&words[..end]);
                let _ = write!(out, "{name}{style}{}{style:#}{}", &words[..end], &words[end..]);
            }
            None => out.push_str(line),
        }
    }
    out
}

fn live(live: &Live) -> String {
    let mut words = live.state.to_string();
    if let Some(seconds) = live.uptime_seconds.filter(|seconds| *seconds > 0) {
        let _ = write!(words, " for {}", length(seconds));
    }
    let _ = write!(words, ", on node {}", live.node);
    if let Some(lock) = &live.lock {
        let _ = write!(words, ", locked ({lock})");
    }
    match live.starts_with_node {
        Some(true) => words.push_str(", starts with the node"),
        Some(false) => words.push_str(", does not start with the node"),
        None => {}
    }
    if live.node_protection == Some(true) {
        words.push_str(", protected by Proxmox");
    }
    words
}

fn resources(live: &Live) -> String {
    let cpus = live.cpus.map(|cpus| format!("{cpus} vCPU{}", if cpus == 1 { "" } else { "s" }));
    let memory = live.memory_mb.map(|mb| format!("{mb} MB memory"));
    let disk = live.disk_gb.map(|gb| format!("{gb} GB disk"));
    [cpus, memory, disk].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn expiry(page: &Page, now: DateTime<Utc>) -> String {
    let Some(text) = &page.expiry.expires_at else { return "not known".to_string() };
    let local = timestamp::from_text(text).map(|end| {
        let local = end.with_timezone(&Local).format("%Y-%m-%d %H:%M");
        format!("{}, {local} local ({text})", distance(end, now))
    });
    let suspended = page.expiry.suspended_at.as_deref().and_then(timestamp::from_text);
    let suspended = suspended.map(|since| format!("; suspended {}", distance(since, now)));
    local.unwrap_or_else(|| text.clone()) + &suspended.unwrap_or_default()
}

fn addresses(page: &Page) -> String {
    let addresses = [&page.addresses.ipv4, &page.addresses.ipv6].into_iter().flatten();
    let mut words = addresses.cloned().collect::<Vec<_>>().join(", ");
    if words.is_empty() {
        words.push_str("none");
    }
    match page.addresses.connected {
        Some(true) => words.push_str("; its port is on the bridge"),
        Some(false) => words.push_str("; its port is NOT on the bridge"),
        None => {}
    }
    match page.addresses.isolated {
        Some(true) => words.push_str(" and isolated from other guests"),
        Some(false) => words.push_str(" and NOT isolated: other guests can reach it"),
        None => {}
    }
    words
}

/// What guards its network, and what it could not do.
fn guard(page: &Page) -> Vec<String> {
    let Some(guard) = &page.guard else { return Vec::new() };
    let words = match (guard.set, guard.enabled, guard.applied) {
        (false, ..) => "none; blockhost-provisioner-reapply sets it".to_string(),
        (true, false, _) => "set, and off while the VM is suspended".to_string(),
        (true, true, true) => "set and in force".to_string(),
        (true, true, false) if page.live.as_ref().is_some_and(|live| live.state == "stopped") => {
            "set".to_string()
        }
        (true, true, false) => "set, but NOT in force".to_string(),
    };
    let starts = match guard.at_every_start {
        true => "; every start carries it out",
        false if guard.set => "; only starts by blockhost-vm-start carry it out",
        false => "",
    };
    std::iter::once(words + starts).chain(guard.missing.iter().cloned()).collect()
}

/// The limits there are, in a line; each difference in one of its own.
fn limits(page: &Page) -> Vec<String> {
    let Some(limited) = &page.limits else { return vec!["not known".to_string()] };
    let is_set = |words: &str| !["unlimited", "default"].contains(&words);
    let set = limited.words.iter().filter(|(_, words)| is_set(words));
    let set: Vec<String> = set.map(|(limit, words)| format!("{} {words}", limit.name())).collect();
    let mut first = if set.is_empty() { "none".to_string() } else { set.join(", ") };
    if limited.source == "record" {
        first.push_str(" (as recorded; the node was not asked)");
    }
    std::iter::once(first).chain(limited.differences.iter().cloned()).collect()
}

fn folder(page: &Page) -> String {
    let folder = &page.terraform;
    if folder.directory.is_empty() {
        return String::new();
    }
    let shared = if folder.shared { ", files of the older package in the shared directory" } else { "" };
    match folder.exists {
        false => format!("{} does not exist{shared}", folder.directory),
        true => {
            let copy = if folder.record_copy { "a" } else { "no" };
            format!("{} (state {}, {copy} copy of the record){shared}", folder.directory, folder.state)
        }
    }
}

fn push_audit(out: &mut String, page: &Page) {
    if page.audit.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nLast changes (blockhost-vm-audit {} shows all):", page.name);
    for fields in &page.audit {
        let time = fields.get("time").and_then(Value::as_str).and_then(timestamp::from_text);
        let line = AuditLine { time: time.unwrap_or_default(), fields: fields.clone() };
        let [time, _, _, verb, status, by, took, result] = cells(&line);
        let _ = writeln!(out, "  {time}  {verb:<12}  {status:<19}  {by:<16}  {took:>7}  {result}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_words_have_a_colour() {
        let page = Page {
            name: "web-1".into(),
            status: Some("active"),
            live: Some(Live { state: "running", node: "pve\u{1b}[2J".into(), ..Live::default() }),
            not_known: vec!["status        active".into()],
            ..Page::default()
        };
        let shown = text(&page, DateTime::default(), true);
        assert!(shown.contains("status        \u{1b}[32mactive\u{1b}[0m\n"), "{shown:?}");
        assert!(
            shown.contains("live state    \u{1b}[32mrunning\u{1b}[0m, on node pve\\u{1b}[2J\n"),
            "{shown:?}"
        );
        assert_eq!(shown.matches('\u{1b}').count(), 4, "{shown:?}");
    }
}
