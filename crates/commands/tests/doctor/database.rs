//! The database, and records that cannot all be true.

use crate::support::*;
use serde_json::json;

#[test]
fn h16_h17_each_fault_of_the_database_is_found() {
    let lab = healthy();
    let path = lab.path("var/vms.json");
    // H49: what belongs to nobody is not known then.
    file_case(&lab, &["database-missing"], &path, |path| std::fs::remove_file(path).unwrap());
    for text in ["", "{\"vms\": {", "[]"] {
        file_case(&lab, &["database-unreadable"], &path, |path| write(path, text));
    }
    database_case(&lab, &["record-unreadable"], |all| all["vms"]["web-1"]["vmid"] = json!("x"));
    database_case(&lab, &["record-unreadable"], |all| all["vms"]["web-1"]["smbios_uuid"] = json!(7));
    database_case(&lab, &["database-unreadable"], |all| all["allocated_ips"] = json!({"a": 1}));
    database_case(&lab, &["record-without-expiry"], |all| {
        all["vms"]["web-1"]["expires_at"] = json!("tomorrow")
    });
    database_case(&lab, &["address-leftover"], |all| {
        all["allocated_ips"].as_array_mut().unwrap().push(json!("192.168.122.240"));
    });
}

#[test]
fn h03_h13_h55_two_records_with_what_only_one_can_have() {
    let lab = healthy();
    let copy = |all: &mut serde_json::Value, name: &str, change: &[(&str, serde_json::Value)]| {
        all["vms"][name] = all["vms"]["web-1"].clone();
        for (key, value) in change {
            all["vms"][name][key] = value.clone();
        }
    };
    let other = json!("11111111-2222-4333-8444-555555555555");
    let found = database_case(
        &lab,
        &["address-recorded-twice", "terraform-directory-missing", "vmid-recorded-twice", "vmid-taken-over"],
        |all| copy(all, "web-2", &[("smbios_uuid", other.clone())]),
    );
    assert!(
        found.iter().any(|one| one["what"] == "VM web-1 has VMID 100 as well" && one["vm"] == "web-2"),
        "{found:?}"
    );
    database_case(
        &lab,
        &["name-twins", "terraform-directory-missing", "vm-missing", "vmid-outside-range"],
        |all| {
            let addresses =
                [("ip_address", json!("192.168.122.230")), ("ipv6_address", json!("2a11:6c7:f04:276::e0"))];
            copy(all, "web.1", &[&addresses[..], &[("smbios_uuid", other), ("vmid", json!(5000))]].concat());
        },
    );
    database_case(&lab, &["address-of-host"], |all| {
        all["vms"]["web-1"]["ip_address"] = json!("192.168.122.254")
    });
}

#[test]
fn h13_pools_that_run_dry_are_found_before_they_are_empty() {
    for (last, codes) in [(200, "addresses-exhausted"), (201, "addresses-nearly-exhausted")] {
        let lab = lab::Lab::builder().ip_pool(200, last).start().unwrap();
        create(&lab, "web-1", "").ok();
        assert_eq!(crate::support::codes(&lab), [codes]);
    }
    for (last, codes) in [(100, "vmids-exhausted"), (101, "vmids-nearly-exhausted")] {
        let lab = lab::Lab::builder().vmid_range(100, last).start().unwrap();
        create(&lab, "web-1", "").ok();
        assert_eq!(crate::support::codes(&lab), [codes]);
    }
    SEEN.lock().unwrap().extend(
        ["addresses-exhausted", "addresses-nearly-exhausted", "vmids-exhausted", "vmids-nearly-exhausted"]
            .map(str::to_string),
    );
}
