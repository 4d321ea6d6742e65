//! After each kill doctor names exactly what is left: what this file sees on the node and on disk, by names of its own, and
//! nothing else. The judge here is written from the outside, as [`crate::world`] is, and asks nothing of the product.

use crate::site::{Site, points, run, sweep};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

type Things = BTreeSet<String>;

/// Everything of VMs that lies about: machines, disks, snippets, routes, directories, entries, addresses, live records,
/// tickets, half-written files.
fn things(site: &Site) -> Things {
    site.settle();
    let mut all = Things::new();
    let node = site.lab().control().snapshot().unwrap();
    let machines: Vec<u32> = site.guests();
    all.extend(machines.iter().map(|vmid| format!("vm {vmid}")));
    for volume in
        node.volumes.values().filter(|volume| volume.vmid != 9001 && !machines.contains(&volume.vmid))
    {
        all.insert(format!("volume {}", volume.volid));
    }
    all.extend(
        node.snippets
            .keys()
            .filter(|file| file.starts_with("blockhost-"))
            .map(|file| format!("snippet {file}")),
    );
    all.extend(node.routes.iter().map(|route| format!("route {}", route.dst)));
    let database = site.database();
    for list in ["allocated_ips", "allocated_ipv6"] {
        let list = database[list].as_array().unwrap().iter();
        all.extend(list.map(|address| format!("address {}", address.as_str().unwrap())));
    }
    for (name, record) in database["vms"].as_object().unwrap() {
        if record["status"] != "destroyed" {
            all.insert(format!("record {name}"));
        }
    }
    for guard in std::fs::read_dir(site.path("node/var/lib/blockhost-guard")).into_iter().flatten().flatten()
    {
        all.insert(format!("guard {}", guard.file_name().to_string_lossy().trim_end_matches(".json")));
    }
    files(site, &site.path("var"), &mut all);
    files(site, &site.path("run"), &mut all);
    all
}

fn files(site: &Site, folder: &Path, all: &mut Things) {
    let of_vms = site.path("var/terraform/vms");
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, file) = (entry.path(), entry.file_name().into_string().unwrap());
        let is_directory = entry.file_type().unwrap().is_dir();
        let is_half_written = file.starts_with(".blockhost-") && file.ends_with(".tmp");
        if is_directory && (folder == of_vms || file.starts_with("tf-")) {
            all.insert(format!("directory {}", path.display()));
        }
        if folder.ends_with("journal") && file.ends_with(".json") {
            all.insert(format!("journal {}", file.trim_end_matches(".json")));
        }
        let is_ticket = folder.ends_with("creates") && file.parse::<u64>().is_ok();
        if is_half_written || is_ticket || file == "provisioning.lock" || file == "gc-under-way.json" {
            all.insert(format!("file {}", path.display()));
        }
        if is_directory && file != ".terraform" {
            files(site, &path, all);
        }
    }
}

/// What a whole VM has: nothing of it is left over.
fn of_whole(site: &Site, name: &str, vmid: u32, all: &Things) -> Things {
    let record = &site.database()["vms"][name];
    let mut own = Things::new();
    own.insert(format!("record {name}"));
    own.insert(format!("vm {vmid}"));
    own.insert(format!("guard {vmid}"));
    for key in ["ip_address", "ipv6_address"] {
        let address = record[key].as_str().unwrap_or_default();
        own.insert(format!("address {address}"));
        own.insert(format!("route {address}"));
    }
    own.extend(["user", "meta"].map(|kind| format!("snippet blockhost-{name}-{kind}.yaml")));
    own.insert(format!("directory {}", site.path(&format!("var/terraform/vms/{name}")).display()));
    own.intersection(all).cloned().collect()
}

fn findings(site: &Site) -> Vec<Value> {
    let mut doctor = site.lab().command("blockhost-provisioner-doctor");
    let ended = run(doctor.args(["--format", "json"]).env("BLOCKHOST_FAULT", "limit@late-request=0"));
    let json: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
    json["findings"].as_array().unwrap().clone()
}

/// What doctor says is left, without VMIDs that are passed over for a while, which hold nothing.
fn named(findings: &[Value]) -> Things {
    let left = findings.iter().flat_map(|finding| finding["left"].as_array().unwrap());
    left.map(|thing| thing.as_str().unwrap().to_string()).collect()
}

fn codes(findings: &[Value]) -> BTreeSet<String> {
    findings.iter().map(|finding| finding["code"].as_str().unwrap().to_string()).collect()
}

/// What the network of a whole VM may still lack: its create had not come so far.
const MAY_LACK: [&str; 2] = ["route-missing", "port-not-isolated"];

/// Judges what a killed operation on `web-1` has left.
fn judge(site: &Site, context: &str) {
    // The hook of a guest that stops runs on by itself: what is judged is what stood before and after doctor's look.
    let (all, found) = loop {
        let before = things(site);
        let found = findings(site);
        if things(site) == before {
            break (before, found);
        }
    };
    let step = site.journal_step("web-1");
    let record = site.database()["vms"]["web-1"].clone();
    let is_live = record.is_object() && record["status"] != "destroyed";
    // A VM that is registered is whole, and one that no operation is at; everything else is left over.
    let is_whole = is_live && matches!(step.as_deref(), None | Some("registered"));
    let vmid = record["vmid"].as_u64().unwrap_or_default() as u32;
    let whole = if is_whole { of_whole(site, "web-1", vmid, &all) } else { Things::new() };
    let left: Things = all.difference(&whole).cloned().collect();
    assert_eq!(named(&found), left, "{context}: {found:#?}");

    let mut expected = BTreeSet::new();
    expected.extend(step.as_deref().map(|step| match step {
        "taken" | "applying" => "create-unfinished",
        "registered" => "create-unreported",
        "destroying" => "destroy-unfinished",
        other => panic!("{other}"),
    }));
    let has = |word: &str| left.iter().any(|thing| thing.starts_with("file ") && thing.contains(word));
    expected.extend(has(".tmp").then_some("temporary-file"));
    expected.extend((has("/creates/") || has("provisioning.lock")).then_some("queue-stale"));
    expected.extend(has("gc-under-way").then_some("gc-interrupted"));
    let node = site.lab().control().snapshot().unwrap();
    if is_whole && node.guests.get(&vmid).is_some_and(|guest| guest.power == lab::model::Power::Running) {
        let address = record["ipv6_address"].as_str().unwrap_or_default();
        let has_route = node.routes.iter().any(|route| route.dst == address);
        expected.extend((!has_route).then_some(MAY_LACK[0]));
        let port = node.ports.get(&format!("tap{vmid}i0"));
        expected.extend(port.is_none_or(|port| !port.isolated).then_some(MAY_LACK[1]));
    }
    if is_whole && let Some(guest) = node.guests.get(&vmid) {
        let is_guarded = guest.config.contains_key("hookscript") && all.contains(&format!("guard {vmid}"));
        expected.extend((!is_guarded).then_some("hook-not-set"));
    }
    let mut told = codes(&found);
    // It holds nothing but the number.
    told.remove("vmid-withheld");
    // Off, or to be off, or not yet copied: states of a VM on its way, in which nothing lies about.
    for on_its_way in [
        "vm-off",
        "vm-stays-off-at-boot",
        "vm-suspended-running",
        "vm-boots-suspended",
        "record-copy-missing",
    ] {
        told.remove(on_its_way);
    }
    assert_eq!(told, expected.into_iter().map(str::to_string).collect(), "{context}: {found:#?}");
}

static CREATE: LazyLock<Vec<String>> = LazyLock::new(|| {
    let site = Site::new();
    points(&site, site.create("web-1"))
});

#[test]
fn h05_doctor_names_exactly_what_a_create_killed_anywhere_has_left() {
    sweep(&CREATE, |point| {
        let site = Site::new();
        run(site.create("web-1").env("BLOCKHOST_FAULT", format!("kill@{point}"))).was_killed();
        judge(&site, &format!("create killed at {point}"));
        // And nothing once it is rolled back or finished.
        site.destroyed("web-1");
        let left = named(&findings(&site));
        let by_the_next = |thing: &String| thing.starts_with("file ");
        assert!(left.iter().all(by_the_next), "after destroy, {point}: {left:?}");
    });
}

#[test]
fn h09_doctor_names_exactly_what_a_destroy_killed_anywhere_has_left() {
    let site = Site::new();
    site.created("web-1");
    let all = points(&site, site.destroy("web-1"));
    drop(site);
    sweep(&all, |point| {
        let site = Site::new();
        site.created("web-1");
        run(site.destroy("web-1").env("BLOCKHOST_FAULT", format!("kill@{point}"))).was_killed();
        judge(&site, &format!("destroy killed at {point}"));
        site.destroyed("web-1");
        assert_eq!(findings(&site), Vec::<Value>::new(), "after destroy, {point}");
    });
}

/// A VM whose time is over (`over_for` days ago), for gc.
fn expired(status: &str, days: &str) -> Site {
    let site = Site::new();
    site.created("web-1");
    let path = site.path("var/vms.json");
    let mut all = site.database();
    all["vms"]["web-1"]["expires_at"] = days.into();
    all["vms"]["web-1"]["status"] = status.into();
    if status == "suspended" {
        all["vms"]["web-1"]["suspended_at"] = days.into();
        site.lab().control().power(100, lab::model::Power::Stopped).unwrap();
        site.lab().control().set(100, "onboot", "0").unwrap();
    }
    test_support::write(&path, &all.to_string());
    // gc without a note suspends only.
    let now = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S+00:00"]).output().unwrap();
    let now = String::from_utf8(now.stdout).unwrap();
    let note = site.path("var/gc-last-run.json");
    test_support::write(&note, &format!("{{\"at\": \"{}\"}}", now.trim()));
    std::fs::set_permissions(&note, std::os::unix::fs::PermissionsExt::from_mode(0o660)).unwrap();
    site
}

fn gc(site: &Site) -> std::process::Command {
    let mut gc = site.lab().command("blockhost-vm-gc");
    gc.args(["--execute", "--accept-share"]).env("BLOCKHOST_FAULT", "limit@late-request=0");
    gc
}

#[test]
fn h10_doctor_names_exactly_what_a_gc_killed_anywhere_has_left() {
    for status in ["active", "suspended"] {
        let begin = || expired(status, "2026-01-01T00:00:00.000000+00:00");
        let site = begin();
        let all = points(&site, gc(&site));
        drop(site);
        sweep(&all, |point| {
            let site = begin();
            run(gc(&site).env("BLOCKHOST_FAULT", format!("kill@{point}"))).was_killed();
            judge(&site, &format!("gc of a VM that is {status}, killed at {point}"));
        });
    }
}
