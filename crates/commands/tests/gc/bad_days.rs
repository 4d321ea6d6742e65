//! What other people do to the node and to the database, and what gc and resume make of it.

use crate::support::{Site, WALLET, due, expired, in_grace, paid, read, run, write};
use lab::model::{FaultAction, NewGuest, Power};
use serde_json::json;

#[test]
fn h49_machines_that_were_removed_by_hand() {
    let site = Site::with(&[expired("over", 100), due("due", 101), paid("paid", 102), paid("paid-2", 103)]);
    for vmid in [100, 101, 102] {
        site.lab.control().remove_guest(vmid).unwrap();
    }
    site.gc(&["--execute"]).ok().says_in_one_line(&["VM over (VMID 100)", "the node has no such VM"]);
    assert_eq!(site.status("over"), "suspended");
    site.is_destroyed("due", 101);
    assert_eq!(site.status("paid"), "active", "what is paid is nothing to gc");
    site.resume(&["over"]).fails_in_part(&["the VM no longer exists on the node"]);
    site.days_pass(8);
    site.renew("paid-2", 10);
    site.gc(&["--execute"]).ok();
    site.is_destroyed("over", 100);
}

#[test]
fn h02_h64_a_stranger_at_the_vmid_is_left_alone_and_ours_is_closed() {
    let site = Site::with(&[expired("over", 100), due("due", 101), paid("paid", 102)]);
    for vmid in [100, 101] {
        site.lab.control().remove_guest(vmid).unwrap();
        site.lab
            .control()
            .add_guest(NewGuest {
                vmid,
                name: if vmid == 100 { "over".into() } else { "somebody".into() },
                running: true,
                disk_gib: 1,
                ..NewGuest::default()
            })
            .unwrap();
    }
    let strangers = |site: &Site| (site.guest(100), site.guest(101));
    let before = strangers(&site);
    // Where it is not known that ours are nowhere, nothing is done, night after night.
    let members = site.path("node/etc/pve/.members");
    let good = read(&members);
    write(&members, r#"{"nodename": "pve", "cluster": {"quorate": 0}}"#);
    for _ in 0..2 {
        site.gc(&["--execute"])
            .fails_in_part(&["VM over (VMID 100)", "now belongs to another guest"])
            .says_in_one_line(&["VM due (VMID 101)", "now belongs to another guest", "somebody"]);
        assert_eq!(strangers(&site), before);
        assert_eq!((site.status("over"), site.status("due")), ("active".into(), "suspended".into()));
    }
    write(&members, &good);
    site.gc(&["--execute"]).ok().says_in_one_line(&[
        "VM due (VMID 101)",
        "closing its record",
        "leaving the other guest alone",
    ]);
    assert_eq!(strangers(&site), before);
    assert_eq!((site.status("over"), site.status("due")), ("suspended".into(), "destroyed".into()));
    site.days_pass(8);
    site.renew("paid", 10);
    site.gc(&["--execute"]).ok().says_in_one_line(&["VM over (VMID 100)", "closing its record"]);
    assert_eq!(strangers(&site), before);
    assert_eq!(site.status("over"), "destroyed");
    site.gc(&["--execute"]).ok();
}

#[test]
fn machines_that_were_renamed_are_still_ours_by_their_uuid() {
    let site = Site::with(&[expired("over", 100), due("due", 101), in_grace("back", 102), paid("paid", 103)]);
    for vmid in 100..104 {
        site.lab.control().rename(vmid, "renamed").unwrap();
    }
    site.resume(&["back"]).ok();
    site.gc(&["--execute"]).ok();
    site.is_suspended("over", 100);
    site.is_destroyed("due", 101);
    site.is_active("back", 102);
    site.is_active("paid", 103);
}

#[test]
fn h02_an_older_record_is_known_by_its_name_alone() {
    let site =
        Site::with(&[expired("over", 100), due("due", 101), expired("renamed", 102), paid("paid", 103)]);
    site.write_as_another(|all| {
        for name in ["over", "due", "renamed"] {
            all["vms"][name].as_object_mut().unwrap().remove("smbios_uuid");
        }
    });
    site.lab.control().rename(102, "by-hand").unwrap();
    site.gc(&["--execute"]).fails_in_part(&[
        "VM renamed (VMID 102)",
        "now belongs to another guest",
        "by-hand",
    ]);
    site.is_destroyed("due", 101);
    assert_eq!((site.status("over").as_str(), site.runs(100)), ("suspended", false));
    assert!(site.runs(102));
}

#[test]
fn h49_a_machine_on_another_node_is_left_to_that_node() {
    let site = Site::with(&[expired("over", 100), due("due", 101), paid("paid", 102)]);
    site.lab.control().migrate(100, "pve2").unwrap();
    site.lab.control().migrate(101, "pve2").unwrap();
    site.gc(&["--execute"])
        .fails_in_part(&["VM over (VMID 100)", "on node pve2"])
        .says_in_one_line(&["VM due (VMID 101)", "on node pve2"]);
    assert_eq!((site.status("over"), site.status("due")), ("active".into(), "suspended".into()));
    assert!(site.exists(101));
    site.lab.control().migrate(100, "pve").unwrap();
    site.lab.control().migrate(101, "pve").unwrap();
    site.gc(&["--execute"]).ok();
    assert_eq!(site.status("over"), "suspended");
    site.is_destroyed("due", 101);
}

#[test]
fn h49_a_machine_that_is_migrated_while_it_goes_down_is_not_off() {
    let site = Site::with(&[expired("over", 100), paid("paid", 102)]);
    let slow = lab::model::GuestChange { shutdown_ms: Some(30_000), ..Default::default() };
    site.lab.control().guest(100, slow).unwrap();
    let running = site.gc_held_at("gc.asked", 300, &[]);
    site.lab.control().migrate(100, "pve2").unwrap();
    running.wait().fails_in_part(&["VM over (VMID 100)", "on node pve2"]);
    assert_eq!(site.status("over"), "active");
}

#[test]
fn a_machine_that_an_operator_protected_on_the_node_stays() {
    let site = Site::with(&[expired("over", 100), due("due", 101), due("due-2", 102), paid("paid", 103)]);
    site.lab.control().set(100, "protection", "1").unwrap();
    site.lab.control().set(101, "protection", "1").unwrap();
    let before = site.guest(101);
    site.gc(&["--execute"]).fails_in_part(&["VM due (VMID 101)", "protection"]);
    assert_eq!(site.guest(101), before);
    assert_eq!(site.status("due"), "suspended");
    // Not being paid for still switches it off.
    site.is_suspended("over", 100);
    site.is_destroyed("due-2", 102);
    site.is_tidy();
    site.lab.control().unset(101, "protection").unwrap();
    site.gc(&["--execute"]).ok();
    site.is_destroyed("due", 101);
}

#[test]
fn machines_that_cannot_be_destroyed_stop_none_of_those_behind_them() {
    // More of each than are destroyed side by side, those that fail first.
    let fleet = (0..10)
        .map(|n| due(&format!("due-{n}"), 100 + n))
        .chain((0..10).map(|n| paid(&format!("p-{n}"), 120 + n)));
    let site = Site::with(&fleet.collect::<Vec<_>>());
    for vmid in 100..105 {
        site.lab.control().set(vmid, "protection", "1").unwrap();
    }
    let said = site.gc(&["--execute"]).fails_in_part(&["error: 5 of 10 VMs could not be handled; see above"]);
    assert!(said.out.ends_with("Done: 0 suspended, 5 destroyed, 5 failed\n"), "{said:#?}");
    for n in 0..5 {
        assert_eq!(site.status(&format!("due-{n}")), "suspended");
        assert!(site.exists(100 + n));
        site.is_destroyed(&format!("due-{}", 5 + n), 105 + n);
    }
}

#[test]
fn h51_the_node_reboots_in_the_middle_of_a_run() {
    for point in ["gc.noted", "gc.asked", "gc.off", "gc.recorded", "destroy.begun"] {
        let site = Site::with(&[expired("over", 100), due("due", 101), paid("paid", 102)]);
        let running = site.gc_held_at(point, 300, &[]);
        site.lab.control().reboot_node().unwrap();
        running.wait().ok();
        let _ = site.gc(&["--execute"]).ok();
        site.is_suspended("over", 100);
        site.is_destroyed("due", 101);
        site.is_active("paid", 102);
        site.lab.control().reboot_node().unwrap();
        site.is_suspended("over", 100);
        site.is_tidy();
    }
}

#[test]
fn h10_h16_the_database_replaced_by_an_older_copy() {
    // The copy is of the day before everything: suspended and destroyed VMs are active again in it.
    let site = Site::with(&[expired("over", 100), due("due", 101), paid("paid", 102), paid("later", 103)]);
    site.write_as_another(|all| {
        let end = crate::support::days_from_now(-20);
        all["vms"]["due"]["status"] = "active".into();
        all["vms"]["due"]["expires_at"] = end.into();
        all["vms"]["due"].as_object_mut().unwrap().remove("suspended_at");
    });
    let older = read(&site.path("var/vms.json"));
    site.write_as_another(|all| {
        all["vms"]["due"]["status"] = "suspended".into();
        all["vms"]["due"]["suspended_at"] = crate::support::days_from_now(-8).into();
    });
    site.gc(&["--execute"]).ok();
    site.is_destroyed("due", 101);
    // The VMID goes to a new customer.
    site.place(&[paid("new", 101).with("smbios_uuid", json!("11111111-0000-4000-8000-000000000101"))]);
    site.lab.control().set(101, "smbios1", "uuid=11111111-0000-4000-8000-000000000101").unwrap();
    let before = site.guest(101);
    write(&site.path("var/vms.json"), &older);
    // Ours is nowhere in the cluster: its record is suspended and closed, and the number left to its new owner.
    site.gc(&["--execute"]).ok().says_in_one_line(&["VM due (VMID 101)", "the node has no such VM"]);
    site.resume(&["due"]).fails_in_part(&["VM due (VMID 101)", "now belongs to another guest"]);
    run(site.verb("destroy", &["due"]))
        .ok()
        .says_in_one_line(&["now belongs to another guest", "closing its record"]);
    assert_eq!(site.guest(101), before, "the new customer's machine was touched");
    site.is_suspended("over", 100);
    site.is_active("paid", 102);
}

#[test]
fn h16_the_database_is_replaced_while_gc_runs() {
    for point in ["gc.noted", "gc.asked", "gc.off", "gc.recorded", "destroy.begun", "destroy.gone"] {
        let site = Site::with(&[expired("over", 100), due("due", 101), paid("paid", 102)]);
        let older = read(&site.path("var/vms.json"));
        let running = site.gc_held_at(point, 300, &[]);
        write(&site.path("var/vms.json"), &older);
        let _ = running.wait();
        let _ = site.gc(&["--execute"]).ok();
        site.is_suspended("over", 100);
        site.is_destroyed("due", 101);
        site.is_active("paid", 102);
        site.is_tidy();
    }
}

#[test]
fn h16_a_record_that_vanishes_while_gc_runs_is_left_alone() {
    for point in ["gc.noted", "gc.asked", "destroy.begun"] {
        let site = Site::with(&[expired("over", 100), due("due", 101), paid("paid", 102)]);
        let running = site.gc_held_at(point, 300, &[]);
        site.write_as_another(|all| {
            all["vms"].as_object_mut().unwrap().retain(|name, _| name == "paid");
        });
        let said = running.wait();
        assert!(!said.err.contains("panicked"), "{said:#?}");
        assert!(site.exists(101), "{point}: a machine without a record was destroyed");
        assert!(site.database()["vms"].as_object().unwrap().keys().all(|name| name == "paid"), "{point}");
    }
}

#[test]
fn the_clock_moves_by_days_and_years() {
    let site = Site::with(&[expired("over", 100), paid("paid", 101), paid("paid-2", 102)]);
    site.gc(&["--execute"]).ok();
    site.is_suspended("over", 100);
    // Backwards: it was suspended in what is now the future. Nothing goes.
    for days in [-1, -400] {
        site.days_pass(days);
        site.gc(&["--execute", "--accept-gap", "--accept-share"]).ok();
        assert_eq!((site.exists(100), site.status("over").as_str()), (true, "suspended"), "{days}");
        site.days_pass(-days);
    }
    site.days_pass(6);
    site.gc(&["--execute"]).ok();
    assert!(site.exists(100), "a day before the grace period is over");
    site.days_pass(2);
    site.gc(&["--execute"]).ok();
    site.is_destroyed("over", 100);
    assert!(site.runs(101) && site.runs(102));
}

#[test]
fn h09_a_destroy_that_died_after_the_machine_was_gone_is_finished_by_gc() {
    let site = Site::with(&[paid("paid", 150), paid("paid-2", 151)]);
    let vmid = site.made("web-1");
    let mut destroy = site.verb("destroy", &["web-1"]);
    destroy.env("BLOCKHOST_FAULT", "kill@destroy.gone");
    run(destroy).was_killed();
    assert_eq!(site.status("web-1"), "active");
    site.gc(&["--execute"]).ok().says_in_one_line(&["VM web-1", "completed an interrupted destroy"]);
    site.is_destroyed("web-1", vmid);
    // One whose machine is still there is left to whoever began it: it is paid for.
    let vmid = site.made("web-2");
    let mut destroy = site.verb("destroy", &["web-2"]);
    destroy.env("BLOCKHOST_FAULT", "kill@destroy.begun");
    run(destroy).was_killed();
    site.gc(&["--execute"]).ok();
    assert_eq!((site.status("web-2").as_str(), site.runs(vmid)), ("active", true));
    // Also where it is already off.
    let mut destroy = site.verb("destroy", &["web-2"]);
    destroy.env("BLOCKHOST_FAULT", "kill@destroy.stopped");
    run(destroy).was_killed();
    assert!(!site.runs(vmid));
    site.gc(&["--execute"]).ok();
    assert_eq!((site.status("web-2").as_str(), site.exists(vmid)), ("active", true));
    // And one that is at work is not disturbed.
    let running = site.held_at("destroy.gone", 2_000, site.verb("destroy", &["web-2"]));
    site.gc(&["--execute"]).ok();
    running.wait().ok();
    site.is_destroyed("web-2", vmid);
}

#[test]
fn h05_a_create_that_died_is_undone_by_gc() {
    let site = Site::with(&[paid("paid", 150)]);
    let before = (site.guests().len(), site.database()["allocated_ips"].clone());
    let mut create = site.verb("create", &["web-1", "--owner-wallet", WALLET, "--apply"]);
    create.env("BLOCKHOST_FAULT", "kill@create.applied");
    run(create).was_killed();
    assert_eq!(site.guests().len(), before.0 + 1);
    // A look undoes nothing.
    site.gc(&[]).ok();
    assert_eq!(site.guests().len(), before.0 + 1);
    site.gc(&["--execute"]).ok();
    assert_eq!((site.guests().len(), site.database()["allocated_ips"].clone()), before);
    assert!(!site.path("var/terraform/vms/web-1").exists());
    site.is_tidy();
}

#[test]
fn h09_a_dead_destroy_that_cannot_be_finished_stops_none_of_the_others() {
    let site = Site::with(&[due("due", 150), paid("paid", 151), paid("paid-2", 152)]);
    let vmids = ["web-1", "web-2"].map(|name| {
        let vmid = site.made(name);
        let mut destroy = site.verb("destroy", &[name]);
        destroy.env("BLOCKHOST_FAULT", "kill@destroy.gone");
        run(destroy).was_killed();
        vmid
    });
    let refusal = FaultAction::Error { message: "the disk is read-only".into(), code: None };
    site.lab.control().fault("agent.snippet-delete", refusal, 1).unwrap();
    site.gc(&["--execute"])
        .fails_in_part(&["VM web-1", "the disk is read-only", "run the same command again"])
        .says_in_one_line(&["VM web-2", "completed an interrupted destroy"]);
    site.is_destroyed("web-2", vmids[1]);
    site.is_destroyed("due", 150);
    // What was left of the first is still known, and goes with the next run.
    site.gc(&["--execute"]).ok().says_in_one_line(&["VM web-1", "completed an interrupted destroy"]);
    site.is_destroyed("web-1", vmids[0]);
    site.is_tidy();
}

#[test]
fn h17_a_corrupt_journal_entry_is_said_and_stops_nobody() {
    let site = Site::with(&[expired("over", 100), due("due", 101), paid("paid", 102)]);
    std::fs::create_dir_all(site.path("var/journal")).unwrap();
    let path = site.path("var/journal/web-9.json");
    write(&path, "{ torn");
    let said = site.gc(&["--execute"]).fails_in_part(&["web-9.json", "corrupt"]);
    assert!(said.out.contains("Done: 1 suspended, 1 destroyed, 1 failed\n"), "{said:#?}");
    assert_eq!(read(&path), "{ torn");
    site.is_suspended("over", 100);
    assert_eq!(site.status("due"), "destroyed");
    assert_eq!(site.guest(102).power, Power::Running);
}

#[test]
fn h17_a_corrupt_note_of_a_run_under_way_is_said_and_stays() {
    let site = Site::with(&[expired("over", 100), due("due", 101), paid("paid", 102)]);
    let path = site.path("var/gc-under-way.json");
    for text in ["{ torn", "{\"suspending\": 7}", "{\"suspending\": [\"../x\"]}"] {
        write(&path, text);
        site.gc(&["--execute"]).fails_in_part(&["gc-under-way.json", "remove the file"]);
        assert_eq!(read(&path), text);
    }
    site.is_suspended("over", 100);
    site.is_destroyed("due", 101);
}
