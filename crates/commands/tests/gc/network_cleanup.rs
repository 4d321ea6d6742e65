//! What a network mode holds for a VM is released before gc destroys it: no engine is there to do it.

use crate::support::{Site, due, paid, read, write};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

/// The dispatcher of blockhost-common: notes how it was called and what the VM was then, and ends as it is told.
fn install(site: &Site, ends: &str) {
    let script = format!(
        "#!/bin/sh\nname=$2\nprintf '%s %s\\n' \"$*\" \"$(blockhost-vm-status \"$name\" 2>/dev/null)\" >>'{}'\n{ends}\n",
        site.path("hook-calls").display()
    );
    let path = site.path("bin/blockhost-network-hook");
    write(&path, &script);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn calls(site: &Site) -> String {
    std::fs::read_to_string(site.path("hook-calls")).unwrap_or_default()
}

fn trail(site: &Site) -> String {
    let files = std::fs::read_dir(site.path("var/audit")).unwrap().flatten();
    files.map(|file| read(&file.path())).collect()
}

#[test]
fn the_modes_clean_up_runs_first_for_each_vm_that_is_destroyed() {
    let site = Site::with(&[
        due("due", 100),
        due("no-mode", 101).with("network_mode", json!(null)),
        paid("paid", 102),
        due("runs", 103).with("x", json!(1)),
    ]);
    site.lab.control().power(103, lab::model::Power::Running).unwrap();
    install(&site, "exit 0");
    site.gc(&[]).ok();
    assert_eq!(calls(&site), "", "a dry run releases nothing");
    site.gc(&["--execute"]).ok();
    site.is_destroyed("due", 100);
    site.is_destroyed("no-mode", 101);
    assert_eq!(calls(&site), "cleanup due suspended\n", "while the VM is still there, and for no other");
    // By hand, the engine runs it.
    crate::support::run(site.verb("destroy", &["paid"])).ok();
    assert_eq!(calls(&site).lines().count(), 1);
}

#[test]
fn a_clean_up_that_fails_or_hangs_does_not_keep_the_vm() {
    for (ends, words) in [("echo 'no such plugin' >&2; exit 3", "no such plugin"), ("kill -9 $$", "signal 9")]
    {
        let site = Site::with(&[due("due", 100), paid("paid", 102)]);
        install(&site, ends);
        let said = site.gc(&["--execute"]).ok();
        said.says_in_one_line(&[
            "warning: VM due",
            "network mode broker",
            words,
            "blockhost-network-hook cleanup due",
        ]);
        site.is_destroyed("due", 100);
        assert!(
            trail(&site).contains("ok, but VM due: the cleanup of network mode broker failed"),
            "{}",
            trail(&site)
        );
    }
}

#[test]
fn h10_a_renewal_during_the_clean_up_wins() {
    let site = Site::with(&[due("due", 100), paid("paid", 102)]);
    let database = site.path("var/vms.json");
    let end = crate::support::days_from_now(30);
    let renewal = format!(
        "python3 - '{}' <<'P'\nimport json, sys\np = sys.argv[1]\nd = json.load(open(p))\nd['vms']['due']['expires_at'] = '{end}'\njson.dump(d, open(p, 'w'), indent=2)\nP",
        database.display()
    );
    install(&site, &renewal);
    site.gc(&["--execute"]).ok().says_in_one_line(&["due", "renewed or changed in the meantime"]);
    assert!(site.exists(100));
    assert_eq!(site.status("due"), "suspended");
}
