//! `qm set`, `create`, `unlock`, `disk import`.

use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::ToolOutput;
use super::getopt::{Parsed, Takes, parse};
use super::qm::{Exit, foreground, only_vmid, vmid};
use crate::node::access::Caller;
use crate::node::change::{self, Change};
use crate::node::config_options::names;
use crate::node::refusal::{Outcome, Refusal};
use crate::node::{Shared, disks, existence};

fn options(more: &[(&'static str, Takes)]) -> Vec<(String, Takes)> {
    let own =
        names().into_iter().map(|(name, boolean)| (name, if boolean { Takes::Flag } else { Takes::Value }));
    own.chain(more.iter().map(|(name, takes)| ((*name).to_owned(), *takes))).collect()
}

fn read(argv: &[String], more: &[(&'static str, Takes)]) -> Outcome<Parsed> {
    let options = options(more);
    let known: Vec<(&str, Takes)> = options.iter().map(|(name, takes)| (name.as_str(), *takes)).collect();
    parse(argv, &known)
}

/// An option's value as the API has it: on the command line `sshkeys` names a file, and a bare boolean is 1.
fn value(name: &str, text: &str, cwd: &str) -> Outcome<String> {
    if name == "sshkeys" {
        let path = Path::new(cwd).join(text);
        let keys = std::fs::read_to_string(&path)
            .map_err(|error| Refusal::die(format!("unable to open file '{text}' - {error}")))?;
        return Ok(utf8_percent_encode(&keys, NON_ALPHANUMERIC).to_string());
    }
    let bare = text.is_empty() && names().iter().any(|(own, boolean)| own == name && *boolean);
    Ok(if bare { "1".into() } else { text.to_owned() })
}

/// `qm set`: in the calling process; says what it changes before it does.
pub(super) async fn set(node: &Shared, argv: &[String], cwd: &str) -> Outcome<ToolOutput> {
    let parsed = read(
        argv,
        &[
            ("delete", Takes::Value),
            ("digest", Takes::Value),
            ("skiplock", Takes::Flag),
            ("force", Takes::Flag),
            ("revert", Takes::Value),
        ],
    )?;
    let vmid = only_vmid(&parsed)?;
    let mut change = Change { skip_lock: parsed.flag("skiplock"), ..Change::default() };
    let mut said = std::collections::BTreeMap::new();
    for (name, text) in &parsed.options {
        match name.as_str() {
            "delete" => change.delete.extend(crate::api::split_list(text)),
            "digest" => change.digest = Some(text.clone()),
            "revert" => change.revert.extend(crate::api::split_list(text)),
            "skiplock" | "force" => continue,
            _ => change.set.push((name.clone(), value(name, text, cwd)?)),
        }
        said.insert(name.clone(), text.clone());
    }
    if change.set.is_empty() && change.delete.is_empty() && change.revert.is_empty() {
        return Err(Refusal::with_code(400, "no options specified"));
    }
    let warnings = change::change(node, &Caller::Root, &node.options.node, vmid, change).await?;
    let said: String = said.iter().map(|(name, text)| format!(" -{name} {text}")).collect();
    Ok(ToolOutput {
        stdout: format!("update VM {vmid}:{said}\n"),
        stderr: warnings.iter().map(|warning| format!("{warning}\n")).collect(),
        code: 0,
        kill: false,
    })
}

/// `qm create`.
pub(super) async fn create(node: &Shared, argv: &[String], cwd: &str) -> Outcome<ToolOutput> {
    let parsed = read(
        argv,
        &[
            ("pool", Takes::Value),
            ("storage", Takes::Value),
            ("start", Takes::Flag),
            ("force", Takes::Flag),
            ("unique", Takes::Flag),
            ("archive", Takes::Value),
        ],
    )?;
    let vmid = only_vmid(&parsed)?;
    let mut wanted = Vec::new();
    for (name, text) in &parsed.options {
        if !["storage", "start", "force", "unique", "archive"].contains(&name.as_str()) {
            wanted.push((name.clone(), value(name, text, cwd)?));
        }
    }
    let start = parsed.flag("start");
    let upid = existence::create(node, &Caller::Root, &node.options.node, vmid, wanted, start).await?;
    Ok(foreground(node, &upid, Exit::Tells).await)
}

/// `qm unlock`.
pub(super) async fn unlock(node: &Shared, argv: &[String]) -> Outcome<ToolOutput> {
    let vmid = only_vmid(&parse(argv, &[])?)?;
    node.state().guest(&node.options.node, vmid)?;
    let _lock = node.locks.exclusive(vmid, node.timing().lock_wait).await?;
    let mut state = node.state();
    state.guest_mut(&node.options.node, vmid)?.config.remove("lock");
    state.changed(vmid);
    Ok(ToolOutput::default())
}

/// `qm disk import`: the wording of its result changed with qemu-server 8.2.7, which is PVE 8.3.
pub(super) async fn import(node: &Shared, argv: &[String], cwd: &str) -> Outcome<ToolOutput> {
    let parsed = parse(argv, &[("format", Takes::Value), ("target-disk", Takes::Value)])?;
    parsed.expect(3)?;
    let number = vmid(&parsed.words[0])?;
    let (file, storage) = (&parsed.words[1], &parsed.words[2]);
    let source = Path::new(cwd).join(file);
    let target = parsed.get("target-disk");
    let imported = disks::import(node, &node.options.node, number, &source, storage, target).await?;
    let mib = imported.size as f64 / f64::from(1u32 << 20);
    let mut text = format!("importing disk '{file}' to VM {number} ...\n");
    let name = imported.volume.split(':').nth(1).unwrap_or_default();
    text.push_str(&format!("  Logical volume \"{name}\" created.\n"));
    for percent in [0.0, 50.0, 100.0] {
        text.push_str(&format!(
            "transferred {:.1} MiB of {mib:.1} MiB ({percent:.2}%)\n",
            mib * percent / 100.0
        ));
    }
    text.push_str(&match (node.options.pve, target) {
        (8, None) => format!("Successfully imported disk as '{}:{}'\n", imported.key, imported.volume),
        _ => format!("{}: successfully imported disk '{}'\n", imported.key, imported.volume),
    });
    Ok(ToolOutput::text(text))
}
