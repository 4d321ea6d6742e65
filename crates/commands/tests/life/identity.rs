//! Whose machine is it (hazards H01, H02, H41, H47): a stranger behind our VMID is never touched.

use crate::support::{
    Commands, acts, edit_record, guest, read, record, terraform_vm, until, vmid, world, write,
};
use lab::Lab;
use lab::model::{NewGuest, Power};

/// Verbs that would change a machine.
const FORCEFUL: [&str; 4] = ["stop", "kill", "destroy", "start"];

fn stranger(vmid: u32, name: &str) -> NewGuest {
    NewGuest { vmid, name: name.into(), running: true, disk_gib: 4, ..NewGuest::default() }
}

#[test]
fn h01_the_vmid_of_the_database_goes_to_the_node() {
    let lab = Lab::builder().start().unwrap();
    // An operator's own VMs, a container, one on another node: all in the way.
    for guest in [
        stranger(100, "own"),
        NewGuest { container: true, ..stranger(101, "box") },
        NewGuest { node: "pve2".into(), ..stranger(103, "far") },
    ] {
        lab.control().add_guest(guest).unwrap();
    }
    let strangers = lab.control().snapshot().unwrap();
    lab.made("web-1");
    lab.made("web-2");
    assert_eq!((vmid(&lab, "web-1"), vmid(&lab, "web-2")), (102, 104));
    for name in ["web-1", "web-2"] {
        let own = terraform_vm(&lab, name);
        assert_eq!(own["vm_id"], vmid(&lab, name));
        assert_eq!(own["smbios"]["uuid"], record(&lab, name)["smbios_uuid"]);
        let there = guest(&lab, vmid(&lab, name));
        assert_eq!(
            (there.name.as_str(), there.uuid.as_str()),
            (name, own["smbios"]["uuid"].as_str().unwrap())
        );
        assert_eq!(there.description, format!("BlockHost VM {name} {}", there.uuid));
    }
    assert_ne!(record(&lab, "web-1")["smbios_uuid"], record(&lab, "web-2")["smbios_uuid"]);
    let after = lab.control().snapshot().unwrap();
    for id in [100, 101, 103, 9001] {
        assert_eq!(after.guests.get(&id), strangers.guests.get(&id), "VMID {id}");
    }
}

#[test]
fn h01_a_vmid_asked_for_is_ours_or_refused() {
    let lab = Lab::builder().start().unwrap();
    lab.control().add_guest(stranger(150, "own")).unwrap();
    let before = world(&lab);
    lab.create("web-1", &["--vmid", "150"]).fails(&["VMID 150", "already exists on the node"]);
    for (vmid, word) in [("2000", "100-999"), ("9001", "--vmid 9001 is outside")] {
        let said = lab.create("web-1", &["--vmid", vmid]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
        said.says(&["error: VM web-1: ", word]);
    }
    world(&lab).same(&before, "refused");
    lab.made_with("web-1", &["--vmid", "151", "--ip", "192.168.122.240", "--ipv6", "2a11:6c7:f04:276::77"]);
    let made = record(&lab, "web-1");
    assert_eq!((&made["vmid"], &made["ip_address"]), (&151.into(), &"192.168.122.240".into()));
    let before = world(&lab);
    lab.create("web-2", &["--vmid", "151"]).fails(&["151"]);
    lab.create("web-2", &["--ip", "192.168.122.240"]).fails(&["192.168.122.240"]);
    lab.create("web-2", &["--ipv6", "2a11:6c7:f04:276::77"]).fails(&["2a11:6c7:f04:276::77"]);
    world(&lab).same(&before, "refused");
}

#[test]
fn h02_a_stranger_behind_our_vmid_is_left_alone() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let uuid = record(&lab, "web-1")["smbios_uuid"].as_str().unwrap().to_owned();
    lab.control().remove_guest(100).unwrap();
    // Same name, another identity: what re-use of a VMID looks like.
    for (name, power) in [("customer", Power::Running), ("web-1", Power::Running), ("web-1", Power::Stopped)]
    {
        lab.control().add_guest(stranger(100, name)).unwrap();
        lab.control().power(100, power).unwrap();
        let before = world(&lab);
        let since = lab.control().last_call().unwrap();
        for verb in FORCEFUL.into_iter().filter(|verb| *verb != "destroy") {
            let said = lab.vm(verb, &["web-1"]);
            said.fails(&[
                "VM web-1 (VMID 100)",
                "now belongs to another guest",
                &uuid,
                &format!("found {name}"),
                "nothing was done",
                "blockhost-vm-destroy web-1",
            ]);
            world(&lab).same(&before, verb);
        }
        // Destroy may close the record, but only where it knows that ours is nowhere.
        let members = lab.path("node/etc/pve/.members");
        let good = read(&members);
        write(&members, r#"{"nodename": "pve", "version": 4, "cluster": {"quorate": 0}}"#);
        for arguments in [&["web-1"][..], &["web-1", "--force"]] {
            lab.vm("destroy", arguments).fails(&["now belongs to another guest", "no quorum", "--forget"]);
        }
        write(&members, &good);
        world(&lab).same(&before, "refused");
        let acts = acts(&lab.control().calls(since).unwrap());
        assert!(acts.iter().all(|act| act == "vm-find"), "nothing else was even asked for: {acts:?}");
        lab.control().remove_guest(100).unwrap();
    }
}

#[test]
fn h02_the_check_and_the_act_are_one_request() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    // Changed after our look and before the act: only the agent can see that.
    for (verb, action) in [("stop", "qm-shutdown"), ("kill", "qm-stop"), ("destroy", "qm-stop")] {
        let point = format!("agent.{action}");
        lab.control().fault(&point, lab::model::FaultAction::Slow { ms: 400 }, 1).unwrap();
        let own = lab.control().snapshot().unwrap().guests[&100].config["smbios1"].clone();
        let running = lab.vm_start("", verb, &["web-1"]);
        lab.control().wait_fault(&point, crate::support::SOON).unwrap();
        lab.control().set(100, "smbios1", "uuid=00000000-0000-4000-8000-000000000001").unwrap();
        let description = lab.control().snapshot().unwrap().guests[&100].description.clone();
        lab.control().set(100, "description", "somebody else's").unwrap();
        running.wait().fails(&["another guest"]);
        assert_eq!(guest(&lab, 100).power, Power::Running, "{verb}");
        lab.control().set(100, "smbios1", &own).unwrap();
        lab.control().set(100, "description", &description).unwrap();
        lab.control().clear_faults().unwrap();
    }
    lab.vm("destroy", &["web-1"]).ok();
}

#[test]
fn h02_a_stranger_that_comes_between_power_off_and_deletion_is_not_deleted() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let trace = lab.path("trace");
    let rules = format!("trace@{} sleep@destroy.stopped=2000", trace.display());
    let running = lab.vm_start(&rules, "destroy", &["web-1"]);
    until("it is off", || std::fs::read_to_string(&trace).is_ok_and(|text| text.contains("destroy.stopped")));
    lab.control().remove_guest(100).unwrap();
    // In our pool, where our token may delete it.
    let customer = NewGuest { pool: Some("blockhost".into()), ..stranger(100, "customer") };
    lab.control().add_guest(customer).unwrap();
    let before = guest(&lab, 100);
    // Ours is nowhere in the cluster, so it is gone; the customer's is left alone.
    running.wait().ok().says(&["warning: ", "now belongs to another guest", "leaving the other guest alone"]);
    assert_eq!(guest(&lab, 100), before);
    assert_eq!(record(&lab, "web-1")["status"], "destroyed");
}

#[test]
fn h02_the_terraform_folder_of_a_later_vm_of_the_name_is_not_used() {
    // An older copy of the database has brought back the record of an earlier VM, whose machine lives as well.
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let uuid = "00000000-0000-4000-8000-000000000101";
    let mut earlier = stranger(101, "web-1");
    earlier.config.insert("smbios1".into(), format!("uuid={uuid}"));
    lab.control().add_guest(earlier).unwrap();
    edit_record(&lab, "web-1", |record| {
        record["vmid"] = 101.into();
        record["smbios_uuid"] = uuid.into();
    });
    let before = guest(&lab, 100);
    lab.vm("destroy", &["web-1"]).fails(&["VM web-1 (VMID 100", "exists, but has no record"]);
    assert_eq!(guest(&lab, 100), before, "the later one was touched");
    assert!(lab.path("var/terraform/vms/web-1/web-1.tf.json").exists());
    assert!(!lab.control().snapshot().unwrap().guests.contains_key(&101));
}

#[test]
fn h02_a_record_without_uuid_goes_by_the_name() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    edit_record(&lab, "web-1", |record| {
        record.remove("smbios_uuid");
    });
    lab.control().rename(100, "somebody").unwrap();
    let before = world(&lab);
    for verb in FORCEFUL {
        lab.vm(verb, &["web-1"]).fails(&["expected name web-1", "found somebody"]);
        world(&lab).same(&before, verb);
    }
    lab.control().rename(100, "web-1").unwrap();
    for verb in ["start", "stop", "start", "kill", "destroy"] {
        lab.vm(verb, &["web-1"]).ok();
    }
}

#[test]
fn h41_a_tombstone_is_not_acted_on() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let (uuid, description) = (guest(&lab, 100).uuid, guest(&lab, 100).description);
    lab.vm("destroy", &["web-1"]).ok();
    // Even if the machine there looked like the old one in every way.
    lab.control().add_guest(stranger(100, "web-1")).unwrap();
    lab.control().set(100, "smbios1", &format!("uuid={uuid}")).unwrap();
    lab.control().set(100, "description", &description).unwrap();
    let before = world(&lab);
    let since = lab.control().last_call().unwrap();
    for verb in ["start", "stop", "kill"] {
        lab.vm(verb, &["web-1"]).fails(&["VM web-1 was destroyed", "VMID 100 may belong to another VM"]);
    }
    lab.vm("start", &["web-1", "--force"]).fails(&["was destroyed"]);
    assert_eq!(lab.vm("destroy", &["web-1", "--force"]).ok().out, "");
    world(&lab).same(&before, "refused");
    assert!(lab.control().calls(since).unwrap().is_empty(), "the node was not even asked");
}

#[test]
fn h47_only_vmids_of_our_range_and_no_templates() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let vm = guest(&lab, 100);
    // A record that points elsewhere, with an identity that would fit.
    lab.control().add_guest(stranger(1500, "web-1")).unwrap();
    lab.control().set(1500, "smbios1", &format!("uuid={}", vm.uuid)).unwrap();
    lab.control().set(9001, "smbios1", &format!("uuid={}", vm.uuid)).unwrap();
    for (vmid, why) in [(1500, "vmid_range 100-999"), (9001, "template")] {
        edit_record(&lab, "web-1", |record| {
            record.insert("vmid".into(), vmid.into());
        });
        let mut before = world(&lab);
        before.forget_journal();
        for verb in ["stop", "kill", "destroy"] {
            let said = lab.vm(verb, &["web-1"]);
            if !(vmid == 9001 && said.err.contains("now belongs to another guest")) {
                said.clone().fails(&[why]);
            }
            let mut after = world(&lab);
            after.forget_journal();
            after.same(&before, &format!("{verb} {vmid}: {said:?}"));
        }
    }
}
