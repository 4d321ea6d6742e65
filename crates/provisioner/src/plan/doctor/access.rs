//! What the API says of its token, of the template, and of the time.

use super::Finding;
use super::kinds::*;
use crate::plan::privileges::{Reach, roles};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::collections::BTreeSet;

/// Privileges with which a token can do more than our work, to the node or to itself.
const TOO_MUCH: [&str; 8] = [
    "Permissions.Modify",
    "User.Modify",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "Sys.Modify",
    "Sys.Console",
    "Sys.PowerMgmt",
    "Datastore.Allocate",
];

/// What the token may do on a path, by the answer of `/access/permissions`: what stands at the path, else at the nearest one
/// above it from which it is inherited.
fn privileges_on<'a>(permissions: &'a Value, path: &str) -> BTreeSet<&'a str> {
    let of = |path: &str, inherited: bool| {
        let found = permissions.get(path)?.as_object()?;
        let counts = |value: &Value| !inherited || value.as_u64() == Some(1) || value.as_str() == Some("1");
        Some(found.iter().filter(|(_, value)| counts(value)).map(|(name, _)| name.as_str()).collect())
    };
    if let Some(own) = of(path, false) {
        return own;
    }
    let mut above = path;
    while let Some((parent, _)) = above.rsplit_once('/') {
        above = if parent.is_empty() { "/" } else { parent };
        if let Some(inherited) = of(above, true) {
            return inherited;
        }
        if above == "/" {
            break;
        }
    }
    BTreeSet::new()
}

/// The token's rights against those that it needs on this release of Proxmox VE.
pub fn token(permissions: &Value, token_id: &str, release: u32, reach: &Reach<'_>) -> Vec<Finding> {
    let place = format!("token {token_id}");
    let mend = "blockhost-provisioner-setup token";
    let mut found = Vec::new();
    let roles = roles(release);
    for grant in reach.grants() {
        let has = privileges_on(permissions, &grant.path);
        let needs = roles.iter().find(|role| role.name == grant.role);
        let needs = needs.map(|role| role.privileges.as_slice()).unwrap_or_default();
        let lacks: Vec<&str> = needs.iter().filter(|one| !has.contains(*one)).copied().collect();
        if !lacks.is_empty() {
            let what = format!("on {} it lacks {}", grant.path, lacks.join(", "));
            found.push(Finding::new(&TOKEN_LACKS_PRIVILEGE, &place, what, mend));
        }
    }
    let paths = permissions.as_object().into_iter().flatten();
    let too_much: Vec<String> = paths
        .flat_map(|(path, rights)| {
            let rights = rights.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
            rights.filter(|name| TOO_MUCH.contains(name)).map(move |name| format!("{name} on {path}"))
        })
        .collect();
    if !too_much.is_empty() {
        let shown = too_much.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let more = too_much.len().saturating_sub(3);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        found.push(Finding::new(&TOKEN_TOO_POWERFUL, &place, format!("it has {shown}{more}"), mend));
    }
    found
}

/// The template's configuration, as the API tells it.
pub fn template(vmid: u32, config: &Value) -> Vec<Finding> {
    let place = format!("template VM {vmid}");
    let is_one =
        |key: &str| config.get(key).is_some_and(|v| v.as_u64() == Some(1) || v.as_str() == Some("1"));
    let rebuild = "blockhost-build-template";
    if !is_one("template") {
        let what = "the VM with this VMID is not a template";
        return vec![Finding::new(&TEMPLATE_UNUSABLE, place, what, rebuild)];
    }
    let mut found = Vec::new();
    if config.get("scsi0").is_none() {
        found.push(Finding::new(&TEMPLATE_UNUSABLE, &place, "it has no disk scsi0", rebuild));
    }
    if let Some(lock) = config.get("lock").and_then(Value::as_str) {
        let mend = format!("wait until the {lock} ends; a stale lock: qm unlock {vmid}");
        found.push(Finding::new(&TEMPLATE_LOCKED, place, format!("it is locked ({lock})"), mend));
    }
    found
}

/// The node's clock against ours; a minute is what nobody notices.
pub fn clock(answer: &Value, now: DateTime<Utc>) -> Option<Finding> {
    let theirs = answer.get("time").and_then(Value::as_i64)?;
    let apart = theirs - now.timestamp();
    (apart.abs() > 60).then(|| {
        let direction = if apart > 0 { "ahead of" } else { "behind" };
        let what = format!("the node's clock is {} s {direction} this host's", apart.abs());
        Finding::new(&CLOCK_DIFFERS, "clock", what, "set the clocks: timedatectl set-ntp true")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::node_name::NodeName;
    use crate::value::text::{BridgeName, PlainName, StorageId};
    use crate::value::vmid::Vmid;
    use serde_json::{Map, json};

    fn with_reach<T>(work: impl FnOnce(&Reach<'_>) -> T) -> T {
        let (pool, storage) = (PlainName::parse("blockhost").unwrap(), StorageId::parse("lvm").unwrap());
        let (bridge, node) = (BridgeName::parse("vmbr0").unwrap(), NodeName::parse("pve").unwrap());
        let template = Vmid::new(9001).unwrap();
        work(&Reach { pool: &pool, template, storages: vec![&storage], bridge: &bridge, node: &node })
    }

    fn enough(release: u32) -> Value {
        with_reach(|reach| {
            let of = |role: &str| {
                let role = roles(release).into_iter().find(|one| one.name == role).unwrap();
                Value::Object(role.privileges.iter().map(|one| (one.to_string(), json!(1))).collect())
            };
            let all: Map<String, Value> =
                reach.grants().iter().map(|g| (g.path.clone(), of(g.role))).collect();
            Value::Object(all)
        })
    }

    fn judged(permissions: &Value, release: u32) -> Vec<String> {
        let found = with_reach(|reach| token(permissions, "a@pve!b", release, reach));
        found.into_iter().map(|finding| format!("{}: {}", finding.kind.code, finding.what)).collect()
    }

    #[test]
    fn h40_a_token_is_judged_by_what_its_release_knows() {
        for release in [8, 9] {
            assert_eq!(judged(&enough(release), release), [""; 0]);
        }
        assert_eq!(
            judged(&enough(8), 9),
            ["token-lacks-privilege: on /pool/blockhost it lacks VM.GuestAgent.Audit"]
        );
        assert_eq!(judged(&json!({}), 9).len(), 5);
    }

    #[test]
    fn rights_are_inherited_where_they_are_passed_on() {
        let mut all = enough(9);
        let storage = all.as_object_mut().unwrap().remove("/storage/lvm").unwrap();
        assert_eq!(judged(&all, 9).len(), 1);
        all["/storage"] = storage.clone();
        assert_eq!(judged(&all, 9), [""; 0]);
        all["/storage"]["Datastore.Audit"] = json!(0);
        assert_eq!(judged(&all, 9), ["token-lacks-privilege: on /storage/lvm it lacks Datastore.Audit"]);
        all.as_object_mut().unwrap().remove("/storage");
        all["/"] = storage;
        assert_eq!(judged(&all, 9), [""; 0]);
    }

    #[test]
    fn h29_a_token_that_may_more_than_it_needs_is_named() {
        let mut all = enough(9);
        all["/"] = json!({"Permissions.Modify": 1, "Sys.Modify": 1, "Sys.Console": 1, "User.Modify": 1});
        let found = judged(&all, 9);
        assert!(found[0].starts_with("token-too-powerful") && found[0].ends_with("and 1 more"), "{found:?}");
    }

    #[test]
    fn a_template_and_a_clock() {
        let codes = |config: Value| -> Vec<&str> {
            template(9001, &config).iter().map(|finding| finding.kind.code).collect()
        };
        assert_eq!(codes(json!({"template": 1, "scsi0": "x"})), [""; 0]);
        assert_eq!(
            codes(json!({"template": "1", "lock": "backup"})),
            ["template-unusable", "template-locked"]
        );
        assert_eq!(codes(json!({"scsi0": "x"})), ["template-unusable"]);
        let now = DateTime::from_timestamp(1000, 0).unwrap();
        assert_eq!(clock(&json!({"time": 1060}), now), None);
        assert!(clock(&json!({"time": 900}), now).unwrap().what.contains("100 s behind"));
        assert!(clock(&json!({"time": 1100}), now).unwrap().what.contains("ahead"));
        assert_eq!(clock(&json!({}), now), None);
    }
}
