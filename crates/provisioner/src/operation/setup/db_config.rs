//! Step db_config: our keys of `db.yaml`, and the empty VM database where there is none.
//!
//! Other programs have keys in this file, and people write into it: only our keys change, and all else keeps its
//! spelling ([`crate::plan::yaml_keys`]).

use super::terraform_folder::by_blockhost;
use super::{Setup, pool_choice, sandbox};
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::replace_file::{self, PRIVATE};
use crate::operation::Context;
use crate::operation::create::traces_of_vms;
use crate::plan::yaml_keys;
use crate::store::document::Document;
use crate::tool::ip;
use crate::value::address::Ipv4Pool;
use crate::value::vmid::Vmid;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

const LOOK: Duration = Duration::from_secs(10);

/// The hidden step's name.
const DATABASE_STEP: &str = "database";

pub(super) fn run(setup: &Setup<'_>) -> anyhow::Result<()> {
    let path = setup.configuration_file("db.yaml");
    let old = match crate::host::read_file::text(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let document = if old.trim().is_empty() { Document::empty(&path) } else { Document::read_yaml(&path)? };
    let keys = keys(setup, &document, free_pool(setup)?)?;
    let keys: Vec<(&str, Value)> = keys.iter().map(|(key, value)| (*key, value.clone())).collect();
    let new = yaml_keys::set(&old, &keys).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    // First: a directory that may be written and is not used yet does no harm, the other way round gc would fail.
    sandbox::write(setup, &sandbox::places(setup)?, None)?;
    replace_file::make_folder(&setup.host.config_dirs[0], 0o755)?;
    replace_file::replace_as(&path, new.as_bytes(), PRIVATE, setup.configuration_owner(), "db-yaml")?;
    setup.host.step("setup.db_config.written")?;
    by_blockhost(setup, DATABASE_STEP, &json!({"first_vmid": setup.choices.vmids.start.get()}))
}

/// The hidden step: makes the VM database where it is missing, with the rights of whoever runs it.
pub fn database(host: &Host, input: &str) -> anyhow::Result<()> {
    let work: Value = serde_json::from_str(input).context("the work is not JSON")?;
    let first = work["first_vmid"].as_u64().and_then(|n| u32::try_from(n).ok());
    let first = first.context("the work has no first_vmid")?;
    let ctx = Context::open(host, false)?;
    ctx.database.make_if_missing(first, || traces_of_vms(&ctx))
}

/// The pool that was chosen, without the addresses of this host at its ends (H55).
fn free_pool(setup: &Setup<'_>) -> anyhow::Result<Ipv4Pool> {
    let chosen = setup
        .choices
        .pool
        .context("the addresses of VMs are not known: ip_network, ip_start, ip_end and gateway are needed")?;
    let network = ip::network(Deadline::after(LOOK))
        .context("cannot check the pool against this host's own addresses")?;
    let (pool, held) = pool_choice::narrowed(&chosen, &pool_choice::taken(&network))?;
    if !held.is_empty() {
        let held: Vec<String> = held.iter().map(ToString::to_string).collect();
        let narrowed = if pool == chosen {
            String::new()
        } else {
            format!("; the pool is narrowed to {}-{}", pool.start, pool.end)
        };
        tracing::warn!(
            "the pool {}-{} contains {}, in use by this host, its router or a name server: no VM gets it{narrowed}",
            chosen.start,
            chosen.end,
            held.join(", ")
        );
    }
    Ok(pool)
}

/// Our keys with their values. What the wizard does not ask for is set only where it is missing.
fn keys(
    setup: &Setup<'_>,
    document: &Document,
    pool: Ipv4Pool,
) -> anyhow::Result<Vec<(&'static str, Value)>> {
    let choices = &setup.choices;
    let range = json!({"start": choices.vmids.start.get(), "end": choices.vmids.end.get()});
    let mut keys = vec![
        ("db_file", json!(db_file(setup, document)?)),
        ("terraform_dir", json!(choices.terraform_dir)),
        ("bridge", json!(choices.bridge.as_str())),
        ("vmid_range", range.clone()),
        (
            "ip_pool",
            json!({
                "network": pool.network.to_string(),
                "start": pool.start.to_string(),
                "end": pool.end.to_string(),
                "gateway": pool.gateway.to_string(),
            }),
        ),
    ];
    // The other name of the same key, which older programs read.
    if document.value("vmid_pool")?.is_some() {
        keys.push(("vmid_pool", range));
    }
    if let Some(days) = choices.gc_grace_days {
        keys.push(("gc_grace_days", json!(days)));
    }
    for (key, value) in [("default_expiry_days", 30), ("gc_grace_days", 7)] {
        if document.value(key)?.is_none() && !keys.iter().any(|(known, _)| *known == key) {
            keys.push((key, json!(value)));
        }
    }
    // The root agent's template actions believe this file alone.
    let template = choices.template;
    if template != Vmid::DEFAULT_TEMPLATE || document.value("template_vmid")?.is_some() {
        keys.push(("template_vmid", json!(template.get())));
    }
    Ok(keys)
}

/// Where engines and the shared library look; a database that is elsewhere already holds VMs, and stays.
pub(super) fn db_file(setup: &Setup<'_>, document: &Document) -> anyhow::Result<PathBuf> {
    let usual = setup.host.state_dir.join("vms.json");
    let found = document.text("db_file")?.map(PathBuf::from).filter(|path| *path != usual && path.exists());
    if let Some(path) = &found {
        tracing::info!("the VM database stays where it is, {}", path.display());
    }
    Ok(found.unwrap_or(usual))
}
