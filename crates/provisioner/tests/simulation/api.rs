//! The node's HTTPS API: what our operations ask of it.

use super::judge::Act;
use super::node::TEMPLATE;
use super::world::World;
use serde_json::{Value, json};

fn ok(data: Value) -> (u16, Value) {
    (200, json!({ "data": data }))
}

fn error(status: u16, message: String) -> (u16, Value) {
    (status, json!({ "data": null, "message": message }))
}

/// One request: status and body.
pub fn answer(world: &World, method: &str, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        ("GET", ["version"]) => ok(json!({ "version": "8.4.1" })),
        ("GET", ["cluster", "nextid"]) => {
            let vmid = query.trim_start_matches("vmid=");
            let taken = vmid.parse().is_ok_and(|n: u32| world.node.borrow().guests.contains_key(&n));
            if taken {
                let errors = json!({ "vmid": format!("VM {vmid} already exists") });
                (
                    400,
                    json!({ "data": null, "message": "Parameter verification failed.\n", "errors": errors }),
                )
            } else {
                ok(vmid.into())
            }
        }
        ("GET", ["cluster", "resources"]) => {
            let node = world.node.borrow();
            // The token sees our pool alone.
            let seen = node.guests.iter().filter(|(_, g)| g.is_ours());
            ok(seen.map(|(vmid, g)| json!({ "vmid": vmid, "name": g.name })).collect())
        }
        ("GET", ["nodes", _, "storage", _, "status"]) => ok(json!({ "active": 1 })),
        (_, ["nodes", _, "qemu", vmid, rest @ ..]) => match vmid.parse() {
            Ok(vmid) => on_guest(world, method, vmid, rest, fields),
            Err(_) => error(400, "vmid".to_string()),
        },
        _ => error(501, format!("Method '{method} {path}' not implemented")),
    }
}

fn on_guest(world: &World, method: &str, vmid: u32, rest: &[&str], fields: &[(&str, &str)]) -> (u16, Value) {
    if vmid == TEMPLATE && rest == ["config"] {
        return ok(json!({ "template": 1, "scsi0": "local-lvm:base-9001-disk-0,size=2252M" }));
    }
    let guest = world.node.borrow().guests.get(&vmid).filter(|g| !g.elsewhere).cloned();
    let Some(guest) = guest else {
        return error(
            500,
            format!("Configuration file 'nodes/pve/qemu-server/{vmid}.conf' does not exist\n"),
        );
    };
    match (method, rest) {
        ("GET", ["config"]) => {
            let mut config =
                json!({ "name": guest.name, "description": guest.description, "digest": digest(&guest) });
            if let Some(uuid) = &guest.uuid {
                config["smbios1"] = format!("uuid={uuid}").into();
            }
            ok(config)
        }
        ("GET", ["status", "current"]) => {
            let word = if guest.paused {
                "paused"
            } else if guest.running {
                "running"
            } else {
                "stopped"
            };
            ok(json!({ "qmpstatus": word, "status": if guest.running { "running" } else { "stopped" } }))
        }
        ("PUT", ["config"]) => {
            if fields.iter().any(|(key, value)| *key == "digest" && *value != digest(&guest)) {
                return error(
                    500,
                    "detected modified configuration - file changed by other user? Try again.\n".into(),
                );
            }
            if !guest.lock.is_empty() {
                return error(500, format!("VM is locked ({})\n", guest.lock));
            }
            let on = fields.contains(&("onboot", "1"));
            world.judge(Act::Onboot(on), vmid);
            world.node.borrow_mut().guests.get_mut(&vmid).unwrap().onboot = on;
            ok(Value::Null)
        }
        ("POST", ["agent", "ping"]) => {
            let up = guest.running && guest.answers_at.is_some_and(|at| at <= world.elapsed.get());
            if up {
                ok(json!({ "result": {} }))
            } else {
                error(500, "QEMU guest agent is not running\n".into())
            }
        }
        _ => error(501, format!("Method '{method} {}' not implemented", rest.join("/"))),
    }
}

/// Of the configuration file, as PVE makes one.
fn digest(guest: &super::node::Guest) -> String {
    format!("{}-{}-{:?}-{}-{}", guest.serial, guest.name, guest.uuid, guest.onboot, guest.lock)
}
