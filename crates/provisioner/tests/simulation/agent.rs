//! The root agent behind its socket: the answers of `root-agent-actions/qm.py`.

use super::judge::Act;
use super::node::{Later, Manners, RANGE, TEMPLATE};
use super::world::World;
use serde_json::{Map, Value, json};
use std::time::Duration;

fn refusal(code: &str, error: impl Into<String>) -> Value {
    json!({ "ok": false, "code": code, "error": error.into() })
}

/// One request, carried out.
pub fn carry_out(world: &World, request: &Value) -> Value {
    let action = request["action"].as_str().unwrap_or_default();
    let empty = Map::new();
    let params = request["params"].as_object().unwrap_or(&empty);
    match perform(world, action, params) {
        Ok(Value::Object(mut fields)) => {
            fields.insert("ok".into(), true.into());
            Value::Object(fields)
        }
        Ok(_) => json!({ "ok": true }),
        Err(answer) => answer,
    }
}

fn perform(world: &World, action: &str, params: &Map<String, Value>) -> Result<Value, Value> {
    let text = |key: &str| params.get(key).and_then(Value::as_str).unwrap_or_default();
    match action {
        "vm-state" => state(world, params),
        "qm-start" | "qm-stop" | "qm-resume" | "qm-destroy" | "qm-shutdown" | "qm-set" | "qm-guest-ping" => {
            on_guest(world, action, params)
        }
        "snippet-put" => {
            world.node.borrow_mut().snippets.insert(format!("{}-{}", text("name"), text("kind")));
            Ok(json!({}))
        }
        "snippet-delete" => {
            world.judge_snippet(text("name"));
            world.node.borrow_mut().snippets.remove(&format!("{}-{}", text("name"), text("kind")));
            Ok(json!({}))
        }
        "guest-route-add" | "ip6-route-add" => {
            world.judge_route(text("address").trim_end_matches("/128"));
            world.node.borrow_mut().routes.insert(text("address").trim_end_matches("/128").to_string());
            Ok(json!({}))
        }
        "guest-route-del" | "ip6-route-del" => {
            world.node.borrow_mut().routes.remove(text("address").trim_end_matches("/128"));
            Ok(json!({}))
        }
        "bridge-port-isolate" => {
            let vmid = text("dev").trim_start_matches("tap").trim_end_matches("i0").parse().unwrap_or(0);
            let mut node = world.node.borrow_mut();
            if !node.guests.get(&vmid).is_some_and(|g| g.running && !g.elsewhere) {
                return Err(json!({ "ok": false, "error": "Cannot find device" }));
            }
            node.isolated.insert(vmid);
            Ok(json!({}))
        }
        _ => Err(json!({ "ok": false, "error": format!("unknown action {action}") })),
    }
}

fn vmid_of(params: &Map<String, Value>) -> u32 {
    params.get("vmid").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

fn state(world: &World, params: &Map<String, Value>) -> Result<Value, Value> {
    let vmid = vmid_of(params);
    let node = world.node.borrow();
    if node.unmounted {
        return Err(refusal("failed", "/etc/pve is not mounted"));
    }
    let mut answer = json!({ "exists": false, "node": null, "running": false, "paused": false, "name": null,
        "uuid": null, "description": null, "lock": null, "onboot": false, "protection": false, "template": false });
    if let Some(task) = node.tasks.get(&vmid) {
        answer["task"] = json!({ "action": task.action, "running": task.running });
        if let Some(error) = &task.error {
            answer["task"]["error"] = error.as_str().into();
        }
    }
    let Some(guest) = node.guests.get(&vmid) else { return Ok(answer) };
    let lock = if guest.lock.is_empty() { Value::Null } else { guest.lock.as_str().into() };
    answer["exists"] = true.into();
    answer["node"] = if guest.elsewhere { "other" } else { "pve" }.into();
    answer["running"] = if guest.elsewhere { Value::Null } else { guest.running.into() };
    // For a running guest it cannot be told without asking QEMU: the API is asked then.
    answer["paused"] = if guest.running { Value::Null } else { false.into() };
    answer["name"] = guest.name.as_str().into();
    // Another guest's is the key to act on it, and is told to nobody who does not have it already.
    let asked_for = params.get("uuid").and_then(Value::as_str);
    let is_told = |uuid: &&str| Some(*uuid) == asked_for || guest.description.ends_with(*uuid);
    answer["uuid"] = guest.uuid.as_deref().filter(is_told).into();
    answer["description"] = guest.description.as_str().into();
    answer["lock"] = lock;
    answer["onboot"] = guest.onboot.into();
    answer["protection"] = guest.protection.into();
    answer["template"] = (vmid == TEMPLATE).into();
    if guest.running {
        answer["connected"] = true.into();
        answer["isolated"] = node.isolated.contains(&vmid).into();
        answer["port"] = format!("tap{vmid}i0").into();
    }
    Ok(answer)
}

/// The plugin's `_ours` and `_unlocked`: in our range, here, no template, proven to be meant, not half-made.
fn ours(world: &World, params: &Map<String, Value>, required: bool) -> Result<u32, Value> {
    let vmid = vmid_of(params);
    let node = world.node.borrow();
    if node.unmounted {
        return Err(refusal("failed", "/etc/pve is not mounted"));
    }
    if !RANGE.contains(&vmid) {
        return Err(refusal("range", format!("VMID {vmid} is outside vmid_range")));
    }
    let guest = node.guests.get(&vmid);
    let guest = guest.ok_or_else(|| refusal("missing", format!("VMID {vmid} does not exist")))?;
    if guest.elsewhere {
        return Err(refusal("elsewhere", format!("VMID {vmid} is on node other")));
    }
    let text = |key: &str| params.get(key).and_then(Value::as_str);
    let same = match (text("uuid"), text("name")) {
        (Some(uuid), _) => {
            let words: Vec<&str> = guest.description.split(' ').collect();
            guest.uuid.as_deref() == Some(uuid)
                || words.len() == 4 && words[..2] == ["BlockHost", "VM"] && words[3] == uuid
        }
        (None, Some(name)) => guest.name == name,
        (None, None) => !required,
    };
    if !same {
        return Err(refusal("identity", format!("VMID {vmid} is another guest: {}", guest.name)));
    }
    if guest.lock == "clone" {
        return Err(refusal("locked", format!("VMID {vmid} is locked (clone)")));
    }
    Ok(vmid)
}

fn on_guest(world: &World, action: &str, params: &Map<String, Value>) -> Result<Value, Value> {
    let vmid = ours(world, params, action != "qm-start")?;
    let guest = world.node.borrow().guests[&vmid].clone();
    let now = world.elapsed.get();
    let (act, name): (Act, &'static str) = match action {
        "qm-start" if guest.running => return Ok(json!({ "already": true })),
        "qm-start" => (Act::Start, "qm-start"),
        "qm-stop" | "qm-shutdown" if !guest.running => return Ok(json!({ "already": true })),
        "qm-stop" => (Act::Stop, "qm-stop"),
        "qm-shutdown" => (Act::Stop, "qm-shutdown"),
        "qm-resume" if !guest.running => return Err(refusal("failed", format!("VM {vmid} is not running"))),
        "qm-resume" => (Act::Start, "qm-resume"),
        "qm-destroy" if guest.running => {
            return Err(refusal("failed", format!("VM {vmid} is running: stop it first")));
        }
        "qm-destroy" => (Act::Destroy, "qm-destroy"),
        "qm-guest-ping" => {
            let up = guest.running && guest.answers_at.is_some_and(|at| at <= now);
            return if up {
                Ok(json!({}))
            } else {
                Err(refusal("failed", "QEMU guest agent is not running"))
            };
        }
        _ => {
            let on = params.get("config").and_then(|c| c.get("onboot")).and_then(Value::as_u64) == Some(1);
            world.judge(Act::Onboot(on), vmid);
            if !guest.lock.is_empty() {
                return Err(refusal("locked", format!("VM is locked ({})", guest.lock)));
            }
            world.node.borrow_mut().guests.get_mut(&vmid).unwrap().onboot = on;
            return Ok(json!({}));
        }
    };
    world.judge(act, vmid);
    if name == "qm-shutdown" {
        return Ok(shut_down(world, vmid, params));
    }
    if world.misfortune(|f| f.agent) {
        // Slower than the agent's patience, and it may fail then.
        let (pause, fails) = {
            let mut rng = world.rng.borrow_mut();
            let words = ["can't lock file '/var/lock/qemu-server/lock-1.conf' - got timeout", "it is broken"];
            let fails = rng.chance(300).then(|| rng.pick(&words).unwrap().to_string());
            (rng.below(9000), fails)
        };
        world.node.borrow_mut().later(
            now + Duration::from_millis(pause),
            vmid,
            Later::Tool { action: name, fails },
        );
        return Ok(json!({ "pending": true }));
    }
    let done = world.node.borrow_mut().act(vmid, name, now);
    done.map(|()| json!({}))
        .map_err(|words| refusal(if words.contains("locked") { "locked" } else { "failed" }, words))
}

fn shut_down(world: &World, vmid: u32, params: &Map<String, Value>) -> Value {
    let now = world.elapsed.get();
    let limit = Duration::from_secs(params.get("timeout").and_then(Value::as_u64).unwrap_or(60));
    let mut node = world.node.borrow_mut();
    let guest = node.guests.get_mut(&vmid).unwrap();
    let needs = match guest.manners {
        Manners::Prompt => Duration::from_secs(1),
        Manners::Slow(seconds) => Duration::from_secs(seconds),
        Manners::Deaf => Duration::MAX,
    };
    let (at, fails) = if guest.paused {
        (now, Some("VM is paused - cannot shutdown".to_string()))
    } else if !guest.lock.is_empty() {
        (now, Some(format!("VM is locked ({})", guest.lock)))
    } else {
        if needs <= limit {
            guest.goes_down_at = Some(now + needs);
        }
        // Whether it failed is looked at when the time is over.
        (now + needs.min(limit), Some("VM quit/powerdown failed - got timeout".to_string()))
    };
    node.later(at, vmid, Later::Tool { action: "qm-shutdown", fails });
    json!({ "pending": true })
}
