//! Step db_config: writes our keys of `db.yaml`, and creates an empty VM database if there is none.
//!
//! Other programs have keys in this file, and people edit it: only our keys change, and everything else is kept as
//! written ([`crate::plan::yaml_keys`]).

use super::terraform_folder::by_blockhost;
use super::{Setup, pool_choice, sandbox};
use crate::host::Host;
use crate::host::replace_file::{self, PRIVATE};
use crate::operation::Context;
use crate::operation::create::traces_of_vms;
use crate::plan::address_proposal::narrowed;
use crate::plan::db_yaml::{self, DbYaml};
use crate::plan::yaml_keys;
use crate::store::document::Document;
use crate::tool::ip;
use crate::value::address::Ipv4Pool;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
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
    // Written first: a writable directory that is not used yet does no harm; the other way round, gc would fail.
    sandbox::write(setup, &sandbox::places(setup)?, None)?;
    replace_file::make_folder(setup.host.doors, &setup.host.config_dirs[0], 0o755)?;
    replace_file::replace_as(
        setup.host.doors,
        &path,
        new.as_bytes(),
        PRIVATE,
        setup.configuration_owner(),
        "db-yaml",
    )?;
    setup.host.step("setup.db_config.written")?;
    by_blockhost(setup, DATABASE_STEP, &json!(Work { first_vmid: Some(setup.choices.vmids.start.get()) }))
}

/// Input of the hidden step.
#[derive(Default, Serialize, Deserialize)]
struct Work {
    first_vmid: Option<u32>,
}

/// The hidden step: creates the VM database if it is missing, with the privileges of whoever runs it.
pub fn database(host: &Host, input: &str) -> anyhow::Result<()> {
    let work: Value = serde_json::from_str(input).context("the work is not JSON")?;
    let Work { first_vmid } = serde_json::from_value(work).unwrap_or_default();
    let first = first_vmid.context("the work has no first_vmid")?;
    let ctx = Context::open(host, false)?;
    ctx.database.make_if_missing(first, || traces_of_vms(&ctx))
}

/// Returns the chosen pool, without addresses of this host at its ends (H55).
fn free_pool(setup: &Setup<'_>) -> anyhow::Result<Ipv4Pool> {
    let chosen = setup
        .choices
        .pool
        .context("no addresses for VMs: ip_network, ip_start, ip_end and gateway are required")?;
    let network = ip::network(setup.host, setup.host.deadline(LOOK))
        .context("cannot check the pool against this host's own addresses")?;
    let (pool, held) = narrowed(&chosen, &pool_choice::taken(&network))?;
    if !held.is_empty() {
        let held: Vec<String> = held.iter().map(ToString::to_string).collect();
        let narrowed = if pool == chosen {
            String::new()
        } else {
            format!("; narrowed the pool to {}-{}", pool.start, pool.end)
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

/// Returns our keys with their values.
fn keys(
    setup: &Setup<'_>,
    document: &Document,
    pool: Ipv4Pool,
) -> anyhow::Result<Vec<(&'static str, Value)>> {
    let choices = &setup.choices;
    let mut present = Vec::new();
    for key in db_yaml::ASKED {
        if document.value(key)?.is_some() {
            present.push(key);
        }
    }
    Ok(DbYaml {
        db_file: &db_file(setup, document)?,
        terraform_dir: &choices.terraform_dir,
        bridge: &choices.bridge,
        vmids: choices.vmids,
        pool,
        gc_grace_days: choices.gc_grace_days,
        template: choices.template,
    }
    .keys(&present))
}

/// Returns the path where engines and the shared library expect the database; an existing database elsewhere already
/// has VMs, and stays there.
pub(super) fn db_file(setup: &Setup<'_>, document: &Document) -> anyhow::Result<PathBuf> {
    let usual = setup.host.state_dir.join("vms.json");
    let found = document.text("db_file")?.map(PathBuf::from).filter(|path| *path != usual && path.exists());
    if let Some(path) = &found {
        tracing::info!("keeping the VM database at {}", path.display());
    }
    Ok(found.unwrap_or(usual))
}
