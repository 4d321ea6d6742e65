//! `qm set` and what becomes of it; storages; pvesh and pveum.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use common::{Said, node, ok, run, with_guest, words_of};
use serde_json::Value;

#[test]
fn set_says_what_it_does_and_reads_back_sorted() {
    let lab = with_guest(node());
    let said =
        words_of(&lab, &["qm", "set", "100", "--onboot", "1", "--description", "a b", "--tags", "B;a"]);
    assert_eq!(
        said,
        Said {
            code: 0,
            out: "update VM 100: -description a b -onboot 1 -tags B;a\n".into(),
            err: String::new()
        }
    );
    let config = ok(&lab, "qm config 100");
    let keys: Vec<&str> = config.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert!(keys.is_sorted() && keys.contains(&"onboot"));
    assert!(config.contains("\ndescription: a b%0A\n") && config.contains("\ntags: a;b\n"), "{config}");
    let conf = std::fs::read_to_string(lab.path("node/etc/pve/qemu-server/100.conf")).unwrap();
    assert!(conf.starts_with("#a b\n"), "{conf}");
    let said = run(&lab, "qm set 100 --delete cpulimit");
    assert_eq!(
        (said.code, said.err.as_str()),
        (0, "cannot delete 'cpulimit' - not set in current configuration!\n")
    );
}

#[test]
fn h34_unknown_options_apply_nothing() {
    let lab = with_guest(node());
    let before = lab.control().snapshot().unwrap();
    let said = run(&lab, "qm set 100 --cpulimit 1 --iops_rd 100");
    assert_ne!(said.code, 0);
    assert_eq!(said.err, "Unknown option: iops_rd\n400 unable to parse option\n");
    let said = run(&lab, "qm set 100 --cpulimit 1 --delete iops_rd");
    assert_ne!(said.code, 0);
    assert_eq!(said.err, "400 Parameter verification failed.\ndelete: unknown option 'iops_rd'\n");
    for line in [
        "qm set 100 --name a_b",
        "qm set 100 --cpuunits 0",
        "qm set 100 --cpulimit 1 --delete cpulimit",
        "qm set 99 --name a",
    ] {
        let said = run(&lab, line);
        assert!(
            said.code != 0 && said.err.starts_with("400 Parameter verification failed.\n"),
            "{line}: {said:?}"
        );
    }
    assert_eq!(lab.control().snapshot().unwrap(), before);
}

#[test]
fn what_a_running_guest_cannot_take_waits() {
    let lab = with_guest(node());
    ok(&lab, "qm set 100 --memory 4096 --cpulimit 1.5 --name web-2");
    let guest = || lab.control().snapshot().unwrap().guests[&100].clone();
    assert_eq!((guest().config["memory"].as_str(), guest().config["cpulimit"].as_str()), ("512", "1.5"));
    assert_eq!((guest().name.as_str(), guest().pending.len()), ("web-2", 1));
    assert!(ok(&lab, "qm config 100").contains("memory: 4096\n"));
    assert!(ok(&lab, "qm config 100 --current").contains("memory: 512\n"));
    let pending = ok(&lab, "qm pending 100");
    assert!(pending.contains("cur memory: 512\n") && pending.contains("new memory: 4096\n"), "{pending}");
    assert!(
        std::fs::read_to_string(lab.path("node/etc/pve/qemu-server/100.conf"))
            .unwrap()
            .contains("[PENDING]\nmemory: 4096\n")
    );
    ok(&lab, "qm reboot 100");
    assert_eq!((guest().config["memory"].as_str(), guest().pending.len()), ("4096", 0));
}

#[test]
fn h34_limits_are_live_unless_another_key_of_the_drive_changes() {
    let lab = with_guest(node());
    let drive = || lab.control().snapshot().unwrap().guests[&100].config["scsi0"].clone();
    assert_eq!(drive(), "local-lvm:vm-100-disk-0,size=2252M");
    ok(&lab, "qm set 100 --scsi0 local-lvm:vm-100-disk-0,iops_rd=500,iops_wr=300");
    assert_eq!(drive(), "local-lvm:vm-100-disk-0,iops_rd=500,iops_wr=300,size=2252M");
    ok(&lab, "qm set 100 --scsi0 local-lvm:vm-100-disk-0,iops_rd=900,ssd=1");
    assert!(drive().contains("iops_rd=500"), "the whole change waits");
    assert!(
        ok(&lab, "qm pending 100")
            .contains("new scsi0: local-lvm:vm-100-disk-0,iops_rd=900,size=2252M,ssd=1\n")
    );
    ok(&lab, "qm set 100 --scsi0 local-lvm:vm-100-disk-0,bps_rd=10485760");
    assert_eq!(drive(), "local-lvm:vm-100-disk-0,mbps_rd=0.000,size=2252M");
}

#[test]
fn disks_become_unused_and_cloud_init_drives_go() {
    let lab = with_guest(node());
    ok(&lab, "qm stop 100");
    ok(&lab, "qm set 100 --delete ide2,scsi0");
    let node = lab.control().snapshot().unwrap();
    assert_eq!(node.guests[&100].config["unused0"], "local-lvm:vm-100-disk-0");
    assert!(!node.volumes.contains_key("local-lvm:vm-100-cloudinit"));
    ok(&lab, "qm set 100 --ide2 local-lvm:cloudinit");
    let said = run(&lab, "qm set 100 --ide3 local-lvm:cloudinit");
    assert!(said.code != 0 && said.err.contains("already exists in volume group"), "{said:?}");
    ok(&lab, "qm set 100 --delete unused0");
    assert!(!lab.control().snapshot().unwrap().volumes.contains_key("local-lvm:vm-100-disk-0"));
    assert_ne!(run(&lab, "qm set 100 --scsi0 local-lvm:vm-100-disk-0").code, 0);
    assert!(run(&lab, "qm set 100 --scsi0 local-lvm:base-9001-disk-0").err.contains("owned by VM 9001"));
}

#[test]
fn a_digest_guards_against_others() {
    let lab = with_guest(node());
    let digest = "0".repeat(40);
    let said = run(&lab, &format!("qm set 100 --name a --digest {digest}"));
    assert!(said.code != 0 && said.err.starts_with("detected modified configuration"), "{said:?}");
}

#[test]
fn the_list_is_as_wide_as_proxmox_makes_it() {
    let lab = node().no_template().start().unwrap();
    assert_eq!(run(&lab, "qm list"), Said { code: 0, out: String::new(), err: String::new() });
    ok(&lab, "qm create 100 --memory 1024 --scsi0 local-lvm:20");
    assert_eq!(
        ok(&lab, "qm list"),
        "      VMID NAME                 STATUS     MEM(MB)    BOOTDISK(GB) PID       \n\
         \u{20}      100 VM 100               stopped    1024              20.00 0         \n"
    );
}

#[test]
fn tools_cost_their_time() {
    let lab = node().qm_ms(150).start().unwrap();
    let begun = std::time::Instant::now();
    ok(&lab, "qm status 9001");
    assert!(begun.elapsed().as_millis() >= 150);
    let begun = std::time::Instant::now();
    ok(&lab, "ip -6 route show");
    assert!(begun.elapsed().as_millis() < 150);
}

#[test]
fn storages_are_listed_in_seven_fields() {
    for (pve, head) in [(8, "Total            Used       Available"), (9, "Total (KiB)")] {
        let lab = node().pve(pve).start().unwrap();
        lab.control().storage("local", None, Some(false)).unwrap();
        let text = ok(&lab, "pvesm status");
        assert!(text.lines().next().unwrap().contains(head), "{text}");
        let rows: Vec<Vec<&str>> =
            text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["local", "dir", "disabled", "0", "0", "0", "N/A"]);
        assert_eq!(&rows[1][..4], ["local-lvm", "lvmthin", "active", "4294967296"]);
        assert!(rows.iter().all(|row| row.len() == 7));
        assert_eq!(ok(&lab, "pvesm status --content images --enabled 1").lines().count(), 2);
    }
}

#[test]
fn tokens_are_shown_once_and_renewed() {
    let lab = node().start().unwrap();
    ok(&lab, "pveum user add web@pve");
    assert_eq!(
        run(&lab, "pveum user add web@pve").err,
        "create user failed: user 'web@pve' already exists\n"
    );
    let made: Value =
        serde_json::from_str(&ok(&lab, "pveum user token add web@pve one --privsep 0 --output-format json"))
            .unwrap();
    assert_eq!(made["full-tokenid"], "web@pve!one");
    let said = run(&lab, "pveum user token add web@pve one --privsep 0 --output-format json");
    assert_ne!(said.code, 0);
    assert_eq!(said.err, "400 Parameter verification failed.\ntokenid: Token already exists.\n");
    let again: Value = serde_json::from_str(&ok(
        &lab,
        "pveum user token modify web@pve one --regenerate 1 --output-format json",
    ))
    .unwrap();
    assert_ne!(again["value"], made["value"]);
    ok(&lab, "pveum role add Looker --privs VM.Audit");
    ok(&lab, "pveum acl modify / --users web@pve --roles Looker");
    let headers = format!("Authorization: PVEAPIToken=web@pve!one={}\r\n", again["value"].as_str().unwrap());
    assert_eq!(common::request(&lab, "GET", "/nodes/pve/qemu/9001/config", &headers, "").code, 200);
    assert_eq!(common::request(&lab, "POST", "/nodes/pve/qemu/9001/clone", &headers, "newid=100").code, 403);
}

#[test]
fn h40_a_role_with_a_privilege_of_the_other_version_fails() {
    for (pve, wrong) in [(8, "VM.GuestAgent.Audit"), (9, "VM.Monitor")] {
        let lab = node().pve(pve).start().unwrap();
        let said = run(&lab, &format!("pveum role add X --privs VM.Audit,{wrong}"));
        assert!(said.code != 0 && said.err.contains(&format!("invalid privilege '{wrong}'")), "{said:?}");
    }
}

#[test]
fn h32_pvesh_does_not_tell_that_a_task_failed() {
    let lab = node().start().unwrap();
    assert_eq!(ok(&lab, "pvesh get /cluster/nextid"), "100\n");
    let version: Value = serde_json::from_str(&ok(&lab, "pvesh get /version --output-format json")).unwrap();
    assert_eq!(version["release"], "9.0");
    let said = run(&lab, "pvesh create /nodes/pve/qemu/9001/status/start");
    assert_eq!((said.code, said.err.as_str()), (0, "you can't start a vm if it's a template\n"));
    assert_eq!(run(&lab, "pvesh get /nonsense").err, "No 'get' handler defined for '/nonsense'\n");
    ok(&lab, "pvesh create /nodes/pve/network --iface vmbr1 --type bridge --autostart 1");
    assert_eq!(run(&lab, "ip link show vmbr1").code, 1, "only written down");
    let said = run(&lab, "pvesh create /nodes/pve/network --iface vmbr1 --type bridge");
    assert!(said.code != 0 && said.err.contains("interface already exists"), "{said:?}");
    ok(&lab, "pvesh set /nodes/pve/network");
    assert_eq!(run(&lab, "ip link show vmbr1").code, 0);
}
