//! The preview: what would be created, without taking anything.

use super::holders::Holders;
use super::{Request, allocate};
use crate::operation::Context;
use crate::plan::create_vm::{Facts, UserData};
use crate::plan::terraform_json;
use crate::value::allocation::Allocation;
use chrono::{DateTime, Utc};
use std::path::Path;

/// Describes for a person what would be created. No line begins with `{`, as engines search for such lines.
pub fn describe(
    ctx: &Context<'_>,
    request: &Request,
    facts: &Facts,
    holders: &mut Holders,
) -> anyhow::Result<String> {
    let allocation = if ctx.database.path().exists() {
        ctx.database.inspect(|db| {
            let entries = ctx.journal().entries()?;
            allocate::choose(ctx, request, facts, db, &entries, &[], holders)
        })?
    } else {
        allocate::first(ctx, request, facts)?
    };
    Ok(in_words(request, facts, allocation, ctx.host.now()))
}

fn in_words(request: &Request, facts: &Facts, allocation: Allocation, now: DateTime<Utc>) -> String {
    let none = || "none".to_string();
    let first_boot = match &facts.user_data {
        UserData::Proxmox => "account made by Proxmox".to_string(),
        UserData::AsIs(_) => {
            format!("file {}", request.cloud_init_content.as_deref().unwrap_or(Path::new("")).display())
        }
        UserData::Template { name, .. } => format!("template {name}"),
    };
    let lines = [
        ("VMID", format!("{} (if still free)", allocation.vmid)),
        ("IPv4 address", format!("{} (if still free)", allocation.ipv4)),
        ("IPv6 address", allocation.ipv6.map_or_else(none, |a| format!("{a} (if still free)"))),
        ("owner wallet", request.owner_wallet.as_ref().map_or_else(none, ToString::to_string)),
        ("user", request.username.to_string()),
        ("expires", expiry(now, facts.expiry_days)),
        ("vCPUs", request.cpu.to_string()),
        ("memory", format!("{} MB", request.memory_mb)),
        ("disk", format!("{} GB on {}", request.disk_gb, facts.disk_datastore)),
        ("template VM", facts.template.to_string()),
        ("node", facts.node.to_string()),
        ("tags", terraform_json::all_tags(&request.tags).join(", ")),
        ("owner", request.owner.as_str().to_string()),
        ("purpose", Some(request.purpose.to_string()).filter(|text| !text.is_empty()).unwrap_or_else(none)),
        ("network mode", facts.network_mode.clone().unwrap_or_else(none)),
        ("first boot", first_boot),
    ];
    let mut text = format!("Would create VM {}:\n", request.name);
    for (key, value) in lines {
        // A path may contain a line break, and any text may contain what a caller would take for a result.
        let value =
            value.replace(char::is_control, "\u{fffd}").replace("BLOCKHOST_RESULT", "BLOCKHOST RESULT");
        text.push_str(&format!("  {key:<14} {value}\n"));
    }
    text.push_str("This was a preview. Run again with --apply to create the VM.\n");
    text
}

/// When a VM created now would expire, for a person. 0 days means at once, not never.
fn expiry(now: DateTime<Utc>, days: u32) -> String {
    let date = now
        .checked_add_days(chrono::Days::new(days.into()))
        .map_or_else(|| "?".to_string(), |at| at.format("%Y-%m-%d").to_string());
    match days {
        0 => format!("{date} (immediately: the next gc run suspends it)"),
        1 => format!("{date} (in 1 day)"),
        _ => format!("{date} (in {days} days)"),
    }
}
