//! throttle: limits in the form that Proxmox takes, on the VM that is ours and runs, and what is said is so
//! (`facts/contract/commands.md#throttle`).

use crate::support::{
    Ended, asked, begin, edit_database, place, read, snapshot, stand_in, until, uuid, visible, vm, vm_with,
    write,
};
use lab::Lab;
use lab::model::{FaultAction, Power};
use serde_json::{Value, json};

const QM_SET: &str = "qm.set";

fn throttle(lab: &Lab, arguments: &[&str]) -> Ended {
    vm(lab, "throttle", &[&["web-1"], arguments].concat())
}

fn config(lab: &Lab, key: &str) -> String {
    snapshot(lab).guests[&100].config.get(key).cloned().unwrap_or_default()
}

fn record(lab: &Lab) -> Value {
    let all: Value = serde_json::from_str(&read(&lab.path("var/vms.json"))).unwrap();
    all["vms"]["web-1"].clone()
}

/// What `--show` tells as JSON.
fn shown(lab: &Lab) -> Value {
    let said = throttle(lab, &["--show", "--format", "json"]).ok();
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// The last line of the audit trail.
fn audited(lab: &Lab) -> Value {
    let folder = std::fs::read_dir(lab.path("var/audit")).unwrap();
    let text: String = folder.map(|file| read(&file.unwrap().path())).collect();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn h34_cpu_and_iops_limits_are_on_the_node_and_in_the_record() {
    let lab = visible();
    lab.control().set(100, "scsi0", "local-lvm:vm-100-disk-0,discard=on,iothread=1,size=10G").unwrap();
    let before = record(&lab);
    let arguments = ["--cpu-shares", "50", "--cpu-quota", "25", "--iops-read", "500", "--iops-write", "300"];
    let said = throttle(&lab, &arguments).ok();
    assert_eq!(
        said.out,
        "VM web-1: cpu-shares 50 (before: default)\n\
         VM web-1: cpu-quota 25 % (0.5 of 2 vCPUs) (before: unlimited)\n\
         VM web-1: iops-read 500 per second (before: unlimited)\n\
         VM web-1: iops-write 300 per second (before: unlimited)\n"
    );
    assert_eq!((config(&lab, "cpulimit"), config(&lab, "cpuunits")), ("0.5".into(), "50".into()));
    let limited = "local-lvm:vm-100-disk-0,discard=on,iops_rd=500,iops_wr=300,iothread=1,size=10G";
    assert_eq!(config(&lab, "scsi0"), limited);
    assert!(snapshot(&lab).guests[&100].pending.is_empty(), "it counts at once");
    let limits = json!({"cpu_shares": 50, "cpu_quota": 25, "iops_read": 500, "iops_write": 300});
    let mut expected = before.clone();
    expected["limits"] = limits;
    assert_eq!(record(&lab), expected);
    let trail = audited(&lab);
    assert_eq!(
        (&trail["verb"], &trail["result"]),
        (&json!("throttle"), &json!("ok; cpu-shares=50 cpu-quota=25 iops-read=500 iops-write=300"))
    );

    // Additive: what is not named stays; 0 is unlimited.
    let said = throttle(&lab, &["--iops-read", "0", "--cpu-quota", "100", "--cpu-shares", "50"]).ok();
    assert_eq!(
        said.out,
        "VM web-1: cpu-shares 50 (unchanged)\n\
         VM web-1: cpu-quota 100 % (2 of 2 vCPUs) (before: 25 % (0.5 of 2 vCPUs))\n\
         VM web-1: iops-read unlimited (before: 500 per second)\n"
    );
    assert_eq!(config(&lab, "scsi0"), "local-lvm:vm-100-disk-0,discard=on,iops_wr=300,iothread=1,size=10G");
    assert_eq!(record(&lab)["limits"], json!({"cpu_shares": 50, "cpu_quota": 100, "iops_write": 300}));

    // They hold after a restart by whomever.
    lab.control().power(100, Power::Stopped).unwrap();
    lab.control().power(100, Power::Running).unwrap();
    assert_eq!((config(&lab, "cpulimit"), config(&lab, "cpuunits")), ("2".into(), "50".into()));

    let said = throttle(&lab, &["--reset"]).ok();
    assert_eq!(said.out.lines().count(), 3, "{said:?}");
    assert_eq!((config(&lab, "cpulimit"), config(&lab, "cpuunits")), (String::new(), String::new()));
    assert_eq!(config(&lab, "scsi0"), "local-lvm:vm-100-disk-0,discard=on,iothread=1,size=10G");
    assert_eq!(record(&lab), before, "not even the key stays");
    assert_eq!(throttle(&lab, &["--reset"]).ok().out, "VM web-1: no limits were set\n");
}

#[test]
fn what_is_in_force_is_shown_and_nothing_is_changed() {
    let lab = visible();
    throttle(&lab, &["--cpu-quota", "50", "--iops-read", "500", "--bandwidth-in", "10000"]).ok();
    let (node, data) = (snapshot(&lab), record(&lab));
    let said = throttle(&lab, &["--show"]).ok();
    assert_eq!(
        said.out,
        "cpu-shares     default\ncpu-quota      50 % (1 of 2 vCPUs)\nbandwidth-in   10000 kbit/s\n\
         bandwidth-out  unlimited\niops-read      500 per second\niops-write     unlimited\n"
    );
    assert_eq!(said.err, "");
    let told = json!({
        "name": "web-1", "vmid": 100, "running": true, "cpu_shares": 0, "cpu_quota": 50, "bandwidth_in_kbps": 10000,
        "bandwidth_out_kbps": 0, "iops_read": 500, "iops_write": 0, "differences": []
    });
    assert_eq!(shown(&lab), told);
    assert_eq!((snapshot(&lab), record(&lab)), (node, data));

    // By hand on the node: told, and at the next change the record follows.
    lab.control().set(100, "cpulimit", "0.5").unwrap();
    let said = throttle(&lab, &["--show"]).ok();
    said.says(&["warning: VM web-1: cpu-quota is 25 % (0.5 of 2 vCPUs) on the node, and 50 % in the record"]);
    assert_eq!(shown(&lab)["cpu_quota"], 25);
    let said = throttle(&lab, &["--iops-write", "7"]).ok();
    said.says(&["warning: VM web-1: changed outside", "cpu-quota is 25 %", "the record is corrected"]);
    assert_eq!(record(&lab)["limits"]["cpu_quota"], 25);

    // A VM that is off is shown as well.
    lab.control().power(100, Power::Stopped).unwrap();
    assert_eq!((shown(&lab)["running"].clone(), shown(&lab)["iops_write"].clone()), (json!(false), json!(7)));
}

#[test]
fn h41_only_a_vm_that_runs_for_us_is_visible() {
    let lab = visible();
    let limit = ["--cpu-quota", "50", "--bandwidth-in", "1000"];
    let refused = |words: &[&str]| {
        let before = (snapshot(&lab), record(&lab));
        throttle(&lab, &limit).fails(&[&["VM web-1"], words].concat());
        assert_eq!((snapshot(&lab), record(&lab)), before);
    };
    lab.control().power(100, Power::Stopped).unwrap();
    refused(&["is not running", "blockhost-vm-start web-1"]);
    lab.control().power(100, Power::Running).unwrap();
    edit_database(&lab, |all| all["vms"]["web-1"]["status"] = json!("suspended"));
    refused(&["is suspended", "blockhost-vm-resume web-1"]);
    edit_database(&lab, |all| all["vms"]["web-1"]["status"] = json!("destroyed"));
    refused(&["was destroyed"]);
    throttle(&lab, &["--show"]).fails(&["VM web-1", "was destroyed"]);
    edit_database(&lab, |all| all["vms"]["web-1"]["status"] = json!("active"));
    lab.control().migrate(100, "pve2").unwrap();
    refused(&["on node pve2"]);
    lab.control().remove_guest(100).unwrap();
    throttle(&lab, &limit).fails(&["VM web-1", "no longer exists"]);
    vm(&lab, "throttle", &["web-2", "--reset"]).fails(&["VM web-2", "no such record"]);
}

#[test]
fn h02_a_stranger_with_our_vmid_is_not_visible() {
    let lab = visible();
    lab.control().remove_guest(100).unwrap();
    stand_in(&lab, 100, "web-1", &uuid(999));
    lab.control().pool(100, Some("blockhost")).unwrap();
    let before = snapshot(&lab);
    for arguments in [&["--cpu-quota", "50"][..], &["--bandwidth-out", "9"], &["--reset"], &["--show"]] {
        let said = throttle(&lab, arguments).fails(&["VM web-1 (VMID 100)", "another guest"]);
        assert!(!said.err.contains(&uuid(999)), "the key to act on it: {said:?}");
    }
    assert_eq!(snapshot(&lab), before);
}

#[test]
fn wrong_usage_ends_with_2() {
    let lab = visible();
    for arguments in [
        &[][..],
        &["--cpu-quota", "101"],
        &["--cpu-quota", "-1"],
        &["--cpu-shares", "10001"],
        &["--iops-read", "1.5"],
        &["--bandwidth-in", "10M"],
        &["--bandwidth-in", "100000001"],
        &["--show", "--reset"],
        &["--show", "--iops-read", "5"],
        &["--format", "json"],
        &["--reset", "--format", "json"],
    ] {
        let said = throttle(&lab, arguments).ends(2);
        assert!(said.out.is_empty() && !said.err.is_empty(), "{arguments:?}: {said:?}");
    }
    assert_eq!(asked(&lab, 0), Vec::<String>::new());
    // More CPUs than Proxmox can limit a VM to.
    lab.control().set(100, "cores", "256").unwrap();
    throttle(&lab, &["--cpu-quota", "51"]).fails(&["VM web-1", "128 CPUs", "highest quota here is 50 %"]);
}

#[test]
fn h34_iops_of_somebody_else_stay_until_a_reset_or_a_limit_that_excludes_them() {
    let lab = visible();
    let theirs = "local-lvm:vm-100-disk-0,iops=100,iops_max=200,mbps_rd=7,size=10G";
    lab.control().set(100, "scsi0", theirs).unwrap();
    // Nothing of this is about IOPS.
    throttle(&lab, &["--cpu-quota", "50", "--bandwidth-in", "1000"]).ok();
    throttle(&lab, &["--cpu-quota", "0", "--bandwidth-in", "0"]).ok();
    assert_eq!(config(&lab, "scsi0"), theirs);
    // No limit to remove, and `iops` goes on.
    throttle(&lab, &["--iops-read", "0", "--iops-write", "0"]).ok();
    assert_eq!(config(&lab, "scsi0"), theirs);
    // `--reset` removes every limit, whoever has set it, and nothing else of the drive.
    throttle(&lab, &["--reset"]).ok();
    assert_eq!(config(&lab, "scsi0"), "local-lvm:vm-100-disk-0,mbps_rd=7,size=10G");
    // Proxmox takes one or the other.
    lab.control().set(100, "scsi0", theirs).unwrap();
    throttle(&lab, &["--iops-read", "5"]).ok();
    assert_eq!(config(&lab, "scsi0"), "local-lvm:vm-100-disk-0,iops_rd=5,mbps_rd=7,size=10G");
}

#[test]
fn h34_a_change_that_waits_for_the_next_start_is_not_said_to_be_in_force() {
    let lab = visible();
    // Somebody has changed another key of the drive, which waits.
    let drive = config(&lab, "scsi0");
    let run = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let done = lab.tool(words[0]).args(&words[1..]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    run(&format!("qm set 100 --scsi0 {drive},ssd=1"));
    let before = (snapshot(&lab), record(&lab));
    let words = ["not in force: iops-read 500 per second", "scsi0", "waits for its next start"];
    throttle(&lab, &["--iops-read", "500"]).fails(&words);
    assert_eq!((snapshot(&lab), record(&lab)), before, "and the other's change is not lost");
    throttle(&lab, &["--show"]).ok().says(&["a change of scsi0 waits"]);
    throttle(&lab, &["--cpu-quota", "50"]).ok();
}

#[test]
fn h34_what_is_set_halfway_is_said_and_recorded() {
    let lab = visible();
    // One `qm set` does what comes first and fails then, as a real one does: its second disk is gone.
    lab.control().set(100, "virtio0", "local-lvm:vm-100-disk-7,size=1G").unwrap();
    let said = throttle(&lab, &["--cpu-quota", "50", "--iops-write", "300", "--bandwidth-in", "1000"]);
    let said = said.fails(&[
        "VM web-1 (VMID 100): not in force: bandwidth-in 1000 kbit/s, iops-write 300 per second: ",
        "vm-100-disk-7' does not exist",
        "; in force: cpu-quota 50 %",
    ]);
    assert_eq!(
        (config(&lab, "cpulimit"), record(&lab)["limits"].clone()),
        ("1".into(), json!({"cpu_quota": 50}))
    );
    let told = throttle(&lab, &["--show"]).ok();
    assert!(told.out.contains("iops-write     scsi0 300 per second, virtio0 unlimited"), "{told:?} {said:?}");
    let trail = audited(&lab);
    assert!(trail["result"].as_str().unwrap().contains("not in force"), "{trail}");
}

#[test]
fn h48_a_request_that_is_not_answered_is_read_back() {
    let lab = visible();
    // Carried out, and the answer lost.
    lab.control().fault("agent.pve-set-throttle.after", FaultAction::Kill, 1).unwrap();
    throttle(&lab, &["--cpu-quota", "50"]).ok().says(&["warning", "reading its configuration"]);
    assert_eq!(record(&lab)["limits"], json!({"cpu_quota": 50}));
}

#[test]
fn h20_a_slow_qm_is_waited_for_without_the_lane() {
    let lab = visible();
    lab.control().timing(|timing| timing.config = 4_000).unwrap();
    let slow = begin(&lab, "", "blockhost-vm-throttle", &["web-1", "--cpu-quota", "50"]);
    until("the request", || asked(&lab, 0).contains(&"pve-set-throttle".to_string()));
    assert_eq!(slow.wait().ok().out.lines().count(), 1);
    assert_eq!(record(&lab)["limits"], json!({"cpu_quota": 50}));
}

#[test]
fn h22_a_locked_vm_is_tried_again_and_then_said() {
    let lab = visible();
    lab.control().set_lock(100, Some("backup")).unwrap();
    let said = vm_with(&lab, "limit@throttle=1500", "throttle", &["web-1", "--cpu-quota", "50"]);
    said.fails(&["VM web-1 (VMID 100): not in force: cpu-quota 50 %", "VM is locked (backup)"]);
    assert_eq!(record(&lab).get("limits"), None);
    lab.control().set_lock(100, None).unwrap();
    // A change by somebody else in between is another try.
    let words = "detected modified configuration - file changed by other user? Try again.";
    lab.control().fault(QM_SET, FaultAction::error(words), 1).unwrap();
    throttle(&lab, &["--cpu-quota", "50"]).ok();
    assert_eq!(config(&lab, "cpulimit"), "1");
}

#[test]
fn killed_at_each_point_the_next_call_says_so_or_sets_it() {
    for point in
        ["throttle.configured", "throttle.recorded", "write.database.temporary", "write.database.renamed"]
    {
        let lab = visible();
        let arguments = ["web-1", "--cpu-quota", "50", "--bandwidth-in", "1000"];
        let killed = vm_with(&lab, &format!("kill@{point}"), "throttle", &arguments);
        assert_eq!(killed.code, None, "{point}: {killed:?}");
        assert_eq!(config(&lab, "cpulimit"), "1", "{point}");
        let is_recorded = record(&lab).get("limits").is_some();
        assert_eq!(is_recorded, point == "throttle.recorded" || point.ends_with("renamed"), "{point}");
        let told = throttle(&lab, &["--show"]).ok();
        assert_eq!(told.err.contains("cpu-quota is 50 %"), !is_recorded, "{point}: {told:?}");
        // Whatever is asked for next.
        throttle(&lab, &["--iops-read", "5"]).ok();
        let limits = record(&lab)["limits"].clone();
        assert_eq!(limits["cpu_quota"], 50, "{point}");
        let rate = limits.get("bandwidth_in_kbps").and_then(Value::as_u64);
        assert_eq!(rate, is_recorded.then_some(1000), "{point}");
        let is_shaped = snapshot(&lab).ports["tap100i0"].tc.iter().any(|line| line.contains("1000kbit"));
        assert_eq!(is_shaped, is_recorded, "{point}");
        assert_eq!(shown(&lab)["differences"], json!([]), "{point}");
    }
}

/// What is set on the first card, `in` by tc and `out` by nft, in kilobits per second.
fn rates(lab: &Lab) -> Vec<String> {
    let node = snapshot(lab);
    let tc = node.ports.get("tap100i0").map(|port| port.tc.clone()).unwrap_or_default();
    let words = tc.iter().flat_map(|line| line.split(' ')).filter(|word| word.ends_with("kbit"));
    let rules = node.rules.get("tap100i0").cloned().unwrap_or_default();
    let bytes = rules
        .iter()
        .filter_map(|rule| rule.split("limit rate over ").nth(1)?.split(' ').next()?.parse().ok());
    words.map(str::to_string).chain(bytes.map(|bytes: u64| format!("{}kbit", bytes * 8 / 1000))).collect()
}

/// The VM is off and on again: a tap is new at every start, and the limits are back by the hook script alone.
fn restart_by_somebody_else(lab: &Lab, then: &[&str]) {
    lab.control().power(100, Power::Stopped).unwrap();
    until("nothing", || rates(lab).is_empty());
    assert!(lab.tool("qm").args(["start", "100"]).status().unwrap().success());
    assert_eq!(rates(lab), then, "by its hook script");
}

#[test]
fn h36_bandwidth_is_set_again_by_start_resume_and_reapply() {
    let lab = visible();
    throttle(&lab, &["--bandwidth-in", "1000", "--bandwidth-out", "2000"]).ok();
    assert_eq!(rates(&lab), ["1000kbit", "2000kbit"]);
    assert_eq!(record(&lab)["limits"], json!({"bandwidth_in_kbps": 1000, "bandwidth_out_kbps": 2000}));
    throttle(&lab, &["--bandwidth-in", "0"]).ok();
    assert_eq!(rates(&lab), ["2000kbit"]);
    throttle(&lab, &["--bandwidth-in", "1000"]).ok();

    restart_by_somebody_else(&lab, &["1000kbit", "2000kbit"]);
    let reapply = || -> Ended {
        crate::support::command(&lab, "blockhost-provisioner-reapply", &[]).output().unwrap().into()
    };
    reapply().ok();
    assert_eq!(rates(&lab), ["1000kbit", "2000kbit"]);
    vm(&lab, "kill", &["web-1"]).ok();
    vm(&lab, "start", &["web-1"]).ok();
    assert_eq!(rates(&lab), ["1000kbit", "2000kbit"]);
    restart_by_somebody_else(&lab, &["1000kbit", "2000kbit"]);
    vm(&lab, "resume", &["web-1"]).ok();
    assert_eq!(rates(&lab), ["1000kbit", "2000kbit"]);

    // What cannot be set is a warning: the guest runs.
    lab.control().fault("nft.load", FaultAction::error("no"), 1_000).unwrap();
    let said = vm(&lab, "start", &["web-1"]).ok();
    said.says(&["warning", "the limit of what it sends is not in force", "blockhost-vm-start"]);
    lab.control().clear_faults().unwrap();

    throttle(&lab, &["--reset"]).ok();
    assert_eq!((rates(&lab), record(&lab).get("limits").cloned()), (Vec::new(), None));
    restart_by_somebody_else(&lab, &[]);
    reapply().ok();
    assert_eq!(rates(&lab), Vec::<String>::new());
}

#[test]
fn h51_limits_of_a_vm_that_is_suspended_or_not_ours_are_not_put_back() {
    let lab = visible();
    throttle(&lab, &["--bandwidth-in", "1000"]).ok();
    edit_database(&lab, |all| {
        all["vms"]["web-1"]["expires_at"] = json!("2025-11-23T01:09:55.123456+00:00");
    });
    vm(&lab, "gc", &["--execute", "--suspend-only", "--accept-gap", "--accept-share"]).ok();
    assert_eq!(record(&lab)["status"], "suspended");
    restart_by_somebody_else(&lab, &[]);
    crate::support::command(&lab, "blockhost-provisioner-reapply", &[]).output().unwrap();
    assert_eq!(rates(&lab), Vec::<String>::new());
    vm(&lab, "start", &["web-1", "--force"]).ok();
    assert_eq!(rates(&lab), Vec::<String>::new(), "it stays suspended");
    vm(&lab, "resume", &["web-1"]).ok();
    assert_eq!(rates(&lab), ["1000kbit"], "and becomes active");

    lab.control().remove_guest(100).unwrap();
    stand_in(&lab, 100, "web-1", &uuid(999));
    crate::support::command(&lab, "blockhost-provisioner-reapply", &[]).output().unwrap();
    vm(&lab, "start", &["web-1"]).ends(1);
    assert_eq!(rates(&lab), Vec::<String>::new());
}

#[test]
fn h35_bandwidth_that_cannot_be_set_is_not_said_to_be_in_force() {
    let lab = visible();
    throttle(&lab, &["--bandwidth-in", "1000", "--bandwidth-out", "500"]).ok();
    lab.control().fault("nft.load", FaultAction::error("Error: no limit today"), 1_000).unwrap();
    let arguments = ["--cpu-quota", "50", "--bandwidth-in", "2000", "--bandwidth-out", "3000"];
    throttle(&lab, &arguments).fails(&[
        "VM web-1 (VMID 100): not in force: bandwidth-out 3000 kbit/s: ",
        "no limit today",
        "; in force: cpu-quota 50 %, bandwidth-in 2000 kbit/s",
    ]);
    let limits = json!({"cpu_quota": 50, "bandwidth_in_kbps": 2000, "bandwidth_out_kbps": 500});
    assert_eq!(record(&lab)["limits"], limits);
    assert_eq!(rates(&lab), ["2000kbit", "500kbit"]);
}

/// An older root agent: it has no guard, and limits by `tc` alone until the VM stops.
fn with_an_older_root_agent(lab: &Lab) {
    let unknown = FaultAction::error("Unknown action: guard-set");
    lab.control().fault("agent.guard-set.before", unknown, 100_000).unwrap();
}

fn tc(lab: &Lab) -> Vec<String> {
    snapshot(lab).ports["tap100i0"].tc.clone()
}

#[test]
fn h35_an_older_root_agent_limits_by_tc_and_each_new_limit_replaces_the_former() {
    let lab = visible();
    with_an_older_root_agent(&lab);
    let limit = |receives: &str, sends: &str| {
        let said = throttle(&lab, &["--bandwidth-in", receives, "--bandwidth-out", sends]).ok();
        said.says(&["warning: the root agent does not guard VMs at their starts"]);
        tc(&lab)
    };
    for (receives, sends) in [("1000", "2000"), ("3000", "4000")] {
        assert_eq!(
            limit(receives, sends),
            [
                format!("qdisc root tbf rate {receives}kbit burst 131072 latency 400ms"),
                "qdisc handle ffff: ingress".to_string(),
                format!(
                    "filter parent ffff: prio 50 basic police rate {sends}kbit burst 131072 mtu 64kb drop"
                ),
            ]
        );
    }
    assert_eq!(limit("0", "0"), Vec::<String>::new());
}

#[test]
fn h35_what_an_older_root_agent_has_set_does_not_hold_beside_the_guard() {
    let lab = visible();
    with_an_older_root_agent(&lab);
    throttle(&lab, &["--bandwidth-in", "1000", "--bandwidth-out", "500"]).ok();
    lab.control().clear_faults().unwrap();
    // The daemon was restarted with today's plugin; the VM runs on.
    throttle(&lab, &["--bandwidth-in", "0", "--bandwidth-out", "8000"]).ok();
    assert_eq!((rates(&lab), tc(&lab)), (vec!["8000kbit".into()], Vec::<String>::new()));

    // What Proxmox itself has set for `rate=` of the card stays, and a filter or a qdisc of others.
    let net = config(&lab, "net0");
    lab.control().set(100, "net0", &format!("{net},rate=5")).unwrap();
    let run =
        |line: &str| assert!(lab.tool("tc").args(line.split(' ')).status().unwrap().success(), "{line}");
    run("qdisc replace dev tap100i0 handle ffff: ingress");
    run("filter add dev tap100i0 parent ffff: prio 50 basic police rate 5mbit burst 1mb mtu 64kb drop");
    let before = tc(&lab);
    throttle(&lab, &["--bandwidth-out", "7000"]).ok();
    assert_eq!(tc(&lab), before);
    lab.control().set(100, "net0", &net).unwrap();
    run("qdisc replace dev tap100i0 handle ffff: ingress");
    run("filter add dev tap100i0 parent ffff: prio 7 u32 match u32 0 0");
    run("qdisc replace dev tap100i0 root tbf rate 9mbit burst 64kb latency 50ms");
    let before = tc(&lab);
    throttle(&lab, &["--bandwidth-out", "6000"]).ok();
    assert_eq!((tc(&lab), before.len()), (before, 3));
    assert!(rates(&lab).contains(&"6000kbit".to_string()));
}

#[test]
fn h36_what_cannot_be_put_back_is_named_by_direction() {
    let lab = visible();
    with_an_older_root_agent(&lab);
    throttle(&lab, &["--bandwidth-in", "1000", "--bandwidth-out", "2000"]).ok();
    let again = |point: &str, words: &[&str]| {
        vm(&lab, "kill", &["web-1"]).ok();
        lab.control().fault(point, FaultAction::error("Error: TC classifier not found."), 1_000).unwrap();
        let said = vm(&lab, "start", &["web-1"]).ok().says(words);
        lab.control().clear_faults().unwrap();
        with_an_older_root_agent(&lab);
        said
    };
    let said = again(
        "tc.filter",
        &["bandwidth-out was not restored: ", "TC classifier not found", "blockhost-vm-start web-1"],
    );
    assert!(!said.err.contains("bandwidth-in"), "{said:?}");
    assert_eq!(
        tc(&lab),
        ["qdisc root tbf rate 1000kbit burst 131072 latency 400ms"],
        "and no half of the other"
    );
    again("tc.qdisc", &["bandwidth-in and bandwidth-out were not restored: "]);
    vm(&lab, "start", &["web-1"]).ok();
    assert_eq!(tc(&lab).len(), 3);
}

#[test]
fn h16_keys_of_others_in_the_record_stay() {
    let lab = visible();
    edit_database(&lab, |all| {
        all["vms"]["web-1"]["limits"] = json!({"by": "monitor", "iops_read": 5, "since": 17});
        all["vms"]["web-1"]["beacon_name"] = json!("b");
    });
    lab.control().set(100, "scsi0", "local-lvm:vm-100-disk-0,iops_rd=5,size=10G").unwrap();
    throttle(&lab, &["--reset"]).ok();
    assert_eq!(record(&lab)["limits"], json!({"by": "monitor", "since": 17}));
    assert_eq!(record(&lab)["beacon_name"], "b");
}

#[test]
fn h17_limits_of_a_record_that_cannot_be_read_are_not_written_over() {
    let lab = visible();
    for wrong in [json!("none"), json!([]), json!({"cpu_quota": "half"})] {
        edit_database(&lab, |all| all["vms"]["web-1"]["limits"] = wrong.clone());
        let before = (snapshot(&lab), read(&lab.path("var/vms.json")));
        throttle(&lab, &["--cpu-quota", "50"]).fails(&["VM web-1", "limits", "vms.json"]);
        throttle(&lab, &["--show"]).ok().says(&["warning: VM web-1", "its record cannot be used"]);
        assert_eq!((snapshot(&lab), read(&lab.path("var/vms.json"))), before);
        // Nobody else minds.
        assert_eq!(vm(&lab, "status", &["web-1"]).ok().out, "active\n");
        vm(&lab, "start", &["web-1"]).ok();
    }
}

#[test]
fn h19_limits_wait_for_other_operations_on_the_vm() {
    let lab = visible();
    let first = begin(
        &lab,
        "sleep@throttle.configured=1500",
        "blockhost-vm-throttle",
        &["web-1", "--cpu-quota", "50"],
    );
    until("the first limit", || config(&lab, "cpulimit") == "1");
    throttle(&lab, &["--iops-read", "5"]).ok();
    first.wait().ok();
    assert_eq!(record(&lab)["limits"], json!({"cpu_quota": 50, "iops_read": 5}));
}

#[test]
fn mock_limits_the_record_alone() {
    let lab = visible();
    place(&lab, 101, "web-2");
    let mock = lab.path("mock.json");
    write(&mock, &read(&lab.path("var/vms.json")));
    let before = (lab.control().last_call().unwrap(), read(&lab.path("var/vms.json")));
    let run = |program: &str, arguments: &[&str]| -> Ended {
        let mut command = crate::support::command(&lab, program, arguments);
        command.arg("--mock").env("BLOCKHOST_MOCK_DB", &mock).output().unwrap().into()
    };
    let throttle = |arguments: &[&str]| run("blockhost-vm-throttle", &[&["web-1"], arguments].concat());
    let said = throttle(&["--cpu-quota", "50", "--bandwidth-out", "9"]).ok();
    assert_eq!(
        said.out,
        "VM web-1: cpu-quota 50 % (before: unlimited)\nVM web-1: bandwidth-out 9 kbit/s (before: unlimited)\n"
    );
    assert!(throttle(&["--show"]).ok().out.contains("bandwidth-out  9 kbit/s\n"));
    run("blockhost-vm-stop", &["web-1"]).ok();
    throttle(&["--reset"]).fails(&["VM web-1 is not running"]);
    run("blockhost-vm-start", &["web-1"]).ok();
    assert_eq!(throttle(&["--reset"]).ok().out.lines().count(), 2);
    assert_eq!((lab.control().last_call().unwrap(), read(&lab.path("var/vms.json"))), before);
}
