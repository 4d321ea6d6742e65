//! API, token, template, storages, clock, release.

use crate::support::*;
use lab::Lab;

#[test]
fn h29_h40_rights_of_the_token_are_asked_for() {
    for pve in [8, 9] {
        let lab = Lab::builder().pve(pve).start().unwrap();
        assert_eq!(codes(&lab), [""; 0], "PVE {pve}");
        lab.control().grant("/", "blockhost@pve!tf", "Administrator").unwrap();
        lab.control().grant("/", "blockhost@pve", "Administrator").unwrap();
        assert_eq!(codes(&lab), ["token-too-powerful"], "PVE {pve}");
    }
    let lab = empty();
    let tfvars = lab.path("var/terraform/terraform.tfvars");
    file_case(
        &lab,
        &["storage-missing", "token-lacks-privilege", "volumes-unreadable"],
        &tfvars,
        append("disk_datastore = \"tank\""),
    );
    file_case(
        &lab,
        &["template-missing", "token-lacks-privilege"],
        &lab.path("etc/blockhost/db.yaml"),
        append("template_vmid: 9002"),
    );
    SEEN.lock().unwrap().insert("token-too-powerful".into());
}

#[test]
fn h31_h39_an_api_that_cannot_be_asked_is_one_finding() {
    let lab = healthy();
    let token = lab.path("etc/blockhost/pve-token");
    file_case(&lab, &["token-refused"], &token, |path| {
        write(path, "blockhost@pve!tf=11111111-2222-4333-8444-555555555555\n")
    });
    file_case(&lab, &["access-unusable"], &token, |path| write(path, "nonsense\n"));
    let provider = lab.path("var/terraform/provider.tf.json");
    let endpoint = lab.endpoint().unwrap();
    file_case(&lab, &["api-unreachable"], &provider, |path| {
        write(path, &read(path).replace(&endpoint, "https://127.0.0.1:1"));
    });
    let found = file_case(&lab, &["access-unusable"], &provider, |path| {
        write(path, &read(path).replace(&endpoint, "https://192.0.2.1:8006"));
    });
    assert!(found[0]["what"].as_str().unwrap().contains("unchecked certificate"), "{found:?}");
}

#[test]
fn storages_and_template_are_judged() {
    let lab = healthy();
    let control = lab.control();
    let gib = 1u64 << 30;
    let volumes = control.snapshot().unwrap().volumes;
    let used: u64 =
        volumes.values().filter(|one| one.volid.starts_with("local-lvm:")).map(|one| one.data).sum();
    case(
        &lab,
        &["storage-off"],
        || control.storage("local-lvm", None, Some(false)).unwrap(),
        || {
            control.storage("local-lvm", None, Some(true)).unwrap();
        },
    );
    // Of the last, a tenth and more is free, and not what a disk of 20 GB needs.
    for (total, codes) in [
        (gib / 4, &["storage-full"][..]),
        (used + used / 20, &["storage-exhausted", "storage-nearly-full"]),
        (19 * gib, &["storage-exhausted"]),
    ] {
        case(
            &lab,
            codes,
            || control.storage("local-lvm", Some(total), None).unwrap(),
            || {
                control.storage("local-lvm", Some(4096 * gib), None).unwrap();
            },
        );
    }
    let yaml = lab.path("etc/blockhost/db.yaml");
    control.storage("local-lvm", Some(100 * gib), None).unwrap();
    let found = file_case(&lab, &["storage-exhausted"], &yaml, append("storage_reserve_percent: 99"));
    control.storage("local-lvm", Some(4096 * gib), None).unwrap();
    assert!(found[0]["what"].as_str().unwrap().contains("storage_reserve_percent 99"), "{found:?}");
    let found = file_case(&lab, &["memory-exhausted"], &yaml, append("overcommit_memory: 0.1"));
    let what = found[0]["what"].as_str().unwrap();
    assert!(what.contains("2048 MB are needed") && what.contains("overcommit_memory 0.1"), "{what}");
    // What is not told is not used up.
    control.peer("pve", false, 32 * gib).unwrap();
    write(&yaml, &format!("{}overcommit_memory: 0.1\n", read(&yaml)));
    assert_eq!(crate::support::codes(&lab), [""; 0]);
    control.peer("pve", true, 32 * gib).unwrap();
    write(&yaml, &read(&yaml).replace("overcommit_memory: 0.1\n", ""));
    let pvesm = |content: &str| {
        assert!(
            lab.tool("pvesm").args(["set", "local-lvm", "--content", content]).status().unwrap().success()
        );
    };
    case(&lab, &["storage-without-images"], || pvesm("rootdir"), || pvesm("images,rootdir"));
    case(
        &lab,
        &["template-locked"],
        || control.set_lock(9001, Some("backup")).unwrap(),
        || {
            control.set_lock(9001, None).unwrap();
        },
    );
    case(
        &lab,
        &["template-unusable"],
        || control.unset(9001, "template").unwrap(),
        || {
            control.set(9001, "template", "1").unwrap();
        },
    );
    let db_yaml = lab.path("etc/blockhost/db.yaml");
    file_case(&lab, &["template-in-range"], &db_yaml, replace("end: 999", "end: 9999"));
}

#[test]
fn h11_h62_clocks_are_compared() {
    let lab = healthy();
    let control = lab.control();
    case(
        &lab,
        &["clock-differs"],
        || control.set_clock_ahead(600).unwrap(),
        || control.set_clock_ahead(0).unwrap(),
    );
    let note = lab.path("var/gc-last-run.json");
    let text = |time: &str| format!("{{\"at\": \"{time}\"}}");
    file_case(&lab, &["clock-behind"], &note, |path| {
        write(path, &text("2096-01-01T00:00:00+00:00"));
        mode(path, 0o660);
    });
    file_case(&lab, &["gc-overdue"], &note, |path| {
        write(path, &text("2026-01-01T00:00:00+00:00"));
        mode(path, 0o660);
    });
    file_case(&lab, &["gc-note-unreadable"], &note, |path| {
        write(path, "{");
        mode(path, 0o660);
    });
}

fn mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}
