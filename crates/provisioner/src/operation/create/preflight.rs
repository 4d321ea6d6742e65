//! Checks what the node can tell before anything is taken, which terraform would find out only late, after a clone. The
//! preview checks the same, so that it does not promise what `--apply` refuses. All requests here are read-only.

use super::check::Checked;
use super::{Request, template};
use crate::host::clock::Deadline;
use crate::host::proxmox_api::{ApiError, ProxmoxApi};
use crate::host::root_agent::AgentError;
use crate::operation::{Context, capacity};
use crate::plan::capacity::storage::refuses;
use crate::plan::capacity::{Memory, Need};
use crate::plan::create_vm::Facts;
use crate::value::cluster_rows::NodeStorage;
use crate::value::text::{PlainName, StorageId};
use anyhow::Context as _;
use serde_json::Value;
use std::time::Duration;

/// Time limit for all queries together.
const LIMIT: Duration = Duration::from_secs(20);

const MIB: u64 = 1 << 20;

/// Queries the node. With `--apply` every failure is an error. In a preview only a definite "no" is one; that the node
/// could not be queried, or that this host is not ready for terraform yet, is returned as a warning.
pub fn preflight(
    ctx: &Context<'_>,
    api: &ProxmoxApi,
    facts: &Facts,
    request: &Request,
) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    if !request.apply
        && let Err(error) = ctx.folder_of(&request.name).check_terraform()
    {
        warnings.push(format!("--apply would be refused: {error:#}"));
    }
    let deadline = ctx.host.deadline_of("preflight", LIMIT);
    match check_node(&Query { ctx, api, facts, deadline }, request) {
        Err(error) if !request.apply && was_not_asked(&error) => {
            warnings.push(format!("not checked against the node: {error:#}"));
        }
        other => other?,
    }
    Ok(warnings)
}

/// Whether there was no answer at all, which differs from a "no".
fn was_not_asked(error: &anyhow::Error) -> bool {
    let by_api = error.downcast_ref::<ApiError>().is_some_and(|error| {
        matches!(
            error,
            ApiError::Unreachable { .. } | ApiError::Overloaded { .. } | ApiError::NotUnderstood(_)
        )
    });
    let by_agent = error.downcast_ref::<AgentError>();
    by_api || by_agent.is_some_and(|error| !matches!(error, AgentError::Said { .. }))
}

/// What to query about what, and until when.
struct Query<'q> {
    ctx: &'q Context<'q>,
    api: &'q ProxmoxApi,
    facts: &'q Facts,
    deadline: Deadline,
}

impl Query<'_> {
    fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.api.get(path, self.deadline)
    }
}

fn check_node(query: &Query<'_>, request: &Request) -> anyhow::Result<()> {
    let facts = query.facts;
    query.get("/version")?;
    let template_mib = template_fits(query, request)?;
    let need = Need::of_disk(request.disk_gb, facts.full_clone, template_mib.map(|mib| mib * MIB));
    let disks = &facts.disk_datastore;
    storage(query, disks, "--disk-datastore", need)?;
    let drive = &facts.cloudinit_datastore;
    if drive != disks {
        storage(query, drive, "--cloudinit-datastore", Need::CLOUD_INIT)?;
    }
    memory(query, request)?;
    snippets(query)?;
    if let Some(pool) = &facts.pool {
        check_pool(query, pool)?;
    }
    Ok(())
}

/// Checks that the template is one and that its disk fits into the requested one. Returns the template's disk size in
/// MiB.
fn template_fits(query: &Query<'_>, request: &Request) -> anyhow::Result<Option<u64>> {
    let (node, template) = (&query.facts.node, query.facts.template);
    // The root agent will be needed anyway and can see every VM. The API answers 403 for a VM that the token may not
    // see, whether it exists or not (H39).
    let exists = match query.ctx.node().state(template, None, query.deadline) {
        Ok(seen) => seen.exists,
        // A template other than the one in the settings: the root agent refuses to answer, so only the API is queried.
        Err(error) if error.code() == "range" => true,
        Err(error) => return Err(error).context("cannot query the node for its template"),
    };
    anyhow::ensure!(
        exists,
        "template VM {template} does not exist on node {node}; build it with blockhost-build-template"
    );
    let config = match query.get(&format!("/nodes/{node}/qemu/{template}/config")) {
        Ok(config) => config,
        Err(ApiError::Status { message, .. }) if message.contains("does not exist") => {
            anyhow::bail!(
                "template VM {template} does not exist on node {node}; build it with blockhost-build-template ({message})"
            )
        }
        Err(error) => {
            return Err(anyhow::Error::from(error).context(format!("cannot query template VM {template}")));
        }
    };
    let is_template =
        config.get("template").is_some_and(|v| v.as_u64() == Some(1) || v.as_str() == Some("1"));
    anyhow::ensure!(
        is_template,
        "VM {template} on node {node} is not a template; build one with blockhost-build-template"
    );
    let config = config.as_object().context("the template's configuration is not a JSON object")?;
    template::check_disks(template, config)?;
    let size = disk_size_mib(config.get("scsi0").and_then(Value::as_str).unwrap_or_default());
    if let Some(size) = size {
        anyhow::ensure!(
            u64::from(request.disk_gb) * 1024 >= size,
            "--disk {} GB is smaller than the template's disk ({size} MiB); a disk cannot shrink",
            request.disk_gb
        );
    }
    Ok(size)
}

/// Checks that the node has memory left to promise, where db.yaml says how much that is. Nothing is asked otherwise, and an
/// answer that does not say it refuses nothing.
fn memory(query: &Query<'_>, request: &Request) -> anyhow::Result<()> {
    let Some(factor) = query.ctx.settings.overcommit_memory else { return Ok(()) };
    let rows = match capacity::resources(query.api, query.deadline) {
        Ok(rows) => rows,
        Err(ApiError::Status { .. } | ApiError::NotUnderstood(_)) => return Ok(()),
        Err(error) => return Err(anyhow::Error::from(error).context("cannot query the node's memory")),
    };
    let memory = Memory::of(query.facts.node.as_str(), Some(&rows), Some(factor));
    memory.refuses(request.memory_mb).map_or(Ok(()), |why| Err(anyhow::Error::msg(why)))
}

/// Checks the memory once more, after other creates have taken theirs: a hundred may have waited for their turn since
/// the first check.
pub fn still_fits(ctx: &Context<'_>, checked: &Checked<'_>, request: &Request) -> anyhow::Result<()> {
    let deadline = ctx.host.deadline_of("preflight", LIMIT);
    memory(&Query { ctx, api: checked.api, facts: &checked.facts, deadline }, request)
}

/// Checks that the token may use the storage, and that it accepts disk images, is active on the node and is large
/// enough.
fn storage(query: &Query<'_>, storage: &StorageId, flag: &str, need: Need) -> anyhow::Result<()> {
    let node = &query.facts.node;
    let path = format!("/nodes/{node}/storage/{storage}/status");
    let status = match query.get(&path) {
        Ok(status) => status,
        // The API checks privileges before existence (H39).
        Err(ApiError::Forbidden { message, .. }) => anyhow::bail!(
            "storage {storage} ({flag}): HTTP 403: {message}; either it does not exist on node {node} (pvesm status lists those that do) or the API token has no rights on it (blockhost-provisioner-setup token)"
        ),
        Err(ApiError::Status { message, .. })
            if message.contains("does not exist") || message.contains("No such storage") =>
        {
            anyhow::bail!(
                "storage {storage} ({flag}) does not exist on node {node}: {message}; pvesm status lists those that do"
            )
        }
        // An unclear answer to this one request is no reason to refuse; terraform will report a real problem.
        Err(ApiError::Status { .. } | ApiError::NotUnderstood(_)) => return Ok(()),
        Err(error) => {
            return Err(anyhow::Error::from(error).context(format!("cannot query storage {storage}")));
        }
    };
    let room = Some((need, query.ctx.settings.storage_reserve_percent));
    judge(&status, room).map_err(|why| anyhow::anyhow!("storage {storage} ({flag}) on node {node} {why}"))
}

/// What `GET …/storage/N/status` says against what is needed there, with the percentage that is to stay free. A missing
/// key says nothing.
fn judge(status: &Value, room: Option<(Need, u32)>) -> Result<(), String> {
    let off =
        |key: &str| matches!(number(status, key), Some(0)) || status.get(key) == Some(&Value::Bool(false));
    if off("enabled") {
        return Err("is disabled; enable it (pvesm set) or choose another one (pvesm status)".into());
    }
    if off("active") {
        return Err("is not active; check pvesm status".into());
    }
    let Some((need, reserve)) = room else {
        return Ok(());
    };
    if let Some(content) = status.get("content").and_then(Value::as_str)
        && !content.split(',').any(|kind| kind.trim() == "images")
    {
        return Err(format!(
            "does not accept disk images (its content: {content}); choose another one (pvesm status --content images) or allow images on it (pvesm set --content)"
        ));
    }
    let row: NodeStorage = serde_json::from_value(status.clone()).unwrap_or_default();
    refuses(&row, need, reserve).map_or(Ok(()), Err)
}

/// Checks the storage of snippets, if the token may see it: it needs no privileges there, since the root agent writes
/// the snippets.
fn snippets(query: &Query<'_>) -> anyhow::Result<()> {
    let (node, storage) = (&query.facts.node, &query.facts.snippet_storage);
    match query.get(&format!("/nodes/{node}/storage/{storage}/status")) {
        Ok(status) => judge(&status, None)
            .map_err(|why| anyhow::anyhow!("storage {storage} (snippet_storage of db.yaml) {why}")),
        Err(_) => Ok(()),
    }
}

/// Checks that the pool exists, as far as the token can tell.
fn check_pool(query: &Query<'_>, pool: &PlainName) -> anyhow::Result<()> {
    match query.get(&format!("/pools/{pool}")) {
        Err(ApiError::Status { message, .. })
            if message.contains("no such pool") || message.contains("does not exist") =>
        {
            anyhow::bail!(
                "pool {pool} (pve_pool of db.yaml) does not exist: {message}; pvesh get /pools lists those that do"
            )
        }
        Err(ApiError::Forbidden { .. }) => {
            // Seeing a pool takes a privilege of its own, which a create does not need. Only if the token has no
            // privilege on the pool at all is it refused.
            let path = format!("/pool/{pool}");
            let rights = query.get(&format!("/access/permissions?path={path}"));
            let none = rights.is_ok_and(|all| {
                all.get(&path).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
            });
            anyhow::ensure!(
                !none,
                "pool {pool} (pve_pool of db.yaml): either it does not exist (pvesh get /pools lists those that do) or the API token has no rights on it (blockhost-provisioner-setup token)"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Returns one of PVE's numbers, which may be a string.
fn number(value: &Value, key: &str) -> Option<u64> {
    let value = value.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Returns the `size=` of a drive string in MiB (`2252M`, `20G`, `1T`; `facts/proxmox.md`).
fn disk_size_mib(drive: &str) -> Option<u64> {
    let size = drive.split(',').find_map(|part| part.strip_prefix("size="))?;
    let (number, unit) = size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
    let number: u64 = number.parse().ok()?;
    match unit {
        "" => Some(number.div_ceil(1 << 20)),
        "K" => Some(number.div_ceil(1 << 10)),
        "M" => Some(number),
        "G" => Some(number << 10),
        "T" => Some(number << 20),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drive_sizes_are_read_as_proxmox_writes_them() {
        assert_eq!(disk_size_mib("local-lvm:base-9001-disk-0,size=2252M"), Some(2252));
        assert_eq!(disk_size_mib("x,discard=on,size=20G,ssd=1"), Some(20480));
        assert_eq!(disk_size_mib("x,size=1T"), Some(1 << 20));
        assert_eq!(disk_size_mib("local:9001/base-9001-disk-0.qcow2,size=447103488"), Some(427));
        // An import straight to a drive writes no size.
        assert_eq!(disk_size_mib("x"), None);
    }

    #[test]
    fn a_storage_is_refused_for_what_it_says_and_for_nothing_else() {
        const GIB: u64 = 1 << 30;
        let said = |status: Value| judge(&status, Some((Need::of_disk(20, true, Some(2 * GIB)), 0)));
        let good = json!({"type": "lvmthin", "content": "rootdir,images", "enabled": 1, "active": 1,
            "total": 100 * GIB, "used": 97 * GIB, "avail": 3 * GIB});
        let with = |key: &str, value: Value| {
            let mut status = good.clone();
            status[key] = value;
            said(status)
        };
        assert_eq!(said(good.clone()), Ok(()), "thin storages may promise more than they have");
        assert_eq!(said(json!({})), Ok(()));
        assert_eq!(with("total", json!(0)), Ok(()), "an unknown size");
        for (key, value, word) in [
            ("content", json!("iso,vztmpl"), "disk images"),
            ("enabled", json!(0), "disabled"),
            ("active", json!("0"), "not active"),
            ("total", json!(19 * GIB), "too small"),
            ("avail", json!(0), "full"),
            ("avail", json!(GIB), "full"),
            ("type", json!("lvm"), "full"),
        ] {
            let why = with(key, value).unwrap_err();
            assert!(why.contains(word) && why.contains("pvesm"), "{key}: {why}");
        }
        assert_eq!(judge(&json!({"content": "snippets", "active": 1, "avail": 0, "total": 9}), None), Ok(()));
    }
}
