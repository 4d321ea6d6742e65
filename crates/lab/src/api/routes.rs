//! Which path is which act.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::params::{Params, vmid};
use super::{cluster, guest};
use crate::node::Shared;
use crate::node::access::Caller;
use crate::node::refusal::{Outcome, Refusal};

/// A path as people read it.
pub(crate) fn decode(raw: &str) -> String {
    percent_decode_str(raw).decode_utf8_lossy().into_owned()
}

/// Carries out a request that is known to come from `caller`. The raw path is split before it is decoded: `%2F` is
/// part of a name.
pub(crate) async fn dispatch(
    node: &Shared,
    caller: &Caller,
    method: &str,
    raw: &str,
    params: &Params,
) -> Outcome<Value> {
    let segments: Vec<String> = raw.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (method, segments.as_slice()) {
        ("GET", ["version"]) => Ok(cluster::version(node)),
        ("GET", ["cluster", "nextid"]) => cluster::next_id(node, params),
        ("GET", ["cluster", "resources"]) => Ok(cluster::resources(node, caller, params)),
        ("GET", ["cluster", "status"]) => Ok(cluster::status(node)),
        ("GET", ["access", "permissions"]) => Ok(cluster::permissions(node, caller, params)),
        ("GET", ["pools"]) => cluster::pools(node, caller, params.get("poolid")),
        ("GET", ["pools", pool]) => cluster::pool(node, caller, pool),
        ("POST", ["pools"]) => cluster::make_pool(node, caller, params),
        ("GET", ["storage", storage]) => cluster::storage_definition(node, caller, storage),
        ("GET", ["nodes"]) => Ok(cluster::nodes(node)),
        (_, ["nodes", on, rest @ ..]) => {
            cluster::check_node(node, on)?;
            on_node(node, caller, method, on, rest, params).await
        }
        _ => Err(not_implemented(method, &segments)),
    }
}

async fn on_node(
    node: &Shared,
    caller: &Caller,
    method: &str,
    on: &str,
    rest: &[&str],
    params: &Params,
) -> Outcome<Value> {
    match (method, rest) {
        ("GET", ["status"]) => cluster::node_status(node, caller, on),
        ("GET", ["time"]) => cluster::node_time(node, caller, on),
        ("GET", ["network"]) => Ok(cluster::network(node)),
        ("POST", ["network"]) => cluster::make_interface(node, caller, params),
        ("PUT", ["network"]) => cluster::apply_network(node, caller).await,
        ("GET", ["tasks"]) => Ok(cluster::tasks(node, caller, params)),
        ("GET", ["tasks", upid, "status"]) => cluster::task_status(node, caller, on, upid),
        ("GET", ["tasks", upid, "log"]) => cluster::task_log(node, caller, on, upid, params),
        ("GET", ["storage"]) => Ok(cluster::storages(node, caller, params)),
        ("GET", ["storage", storage, "status"]) => cluster::storage_status(node, caller, storage),
        ("GET", ["storage", storage, "content"]) => cluster::storage_content(node, caller, storage, params),
        ("GET", ["storage", storage, "content", volume @ ..]) => {
            cluster::volume(node, caller, storage, &volume.join("/"))
        }
        ("DELETE", ["storage", storage, "content", volume @ ..]) => {
            cluster::delete_volume(node, caller, storage, &volume.join("/"))
        }
        ("GET", ["qemu"]) => Ok(guest::list(node, caller, on)),
        ("POST", ["qemu"]) => guest::create(node, caller, on, params).await,
        ("DELETE", ["qemu", id]) => guest::destroy(node, caller, on, vmid(id)?, params).await,
        (method, ["qemu", id, act @ ..]) => {
            let request = guest::Request { node, caller, on, vmid: vmid(id)?, params };
            match guest::act(&request, method, act).await {
                Some(outcome) => outcome,
                None => Err(not_implemented(method, &[&["nodes", on], rest].concat())),
            }
        }
        _ => Err(not_implemented(method, &[&["nodes", on], rest].concat())),
    }
}

fn not_implemented(method: &str, segments: &[&str]) -> Refusal {
    Refusal::with_code(501, format!("Method '{method} /{}' not implemented", segments.join("/")))
}

/// The UPID as an answer.
pub(crate) fn upid(upid: String) -> Value {
    json!(upid)
}
