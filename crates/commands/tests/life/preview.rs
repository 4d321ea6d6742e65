//! The preview asks what `--apply` asks: what would be refused is refused, and what could not be asked is said.

use crate::support::{Commands, Ended, WALLET, add_settings, edit, read, until, world, write};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};

/// The preview and `--apply` say no with the same words, and nothing was taken.
#[track_caller]
fn both_refuse(lab: &Lab, flags: &[&str], words: &[&str]) {
    let before = world(lab);
    preview(lab, flags).fails(words);
    lab.create("web-1", flags).fails(words);
    world(lab).same(&before, "refused");
}

fn preview(lab: &Lab, flags: &[&str]) -> Ended {
    let arguments: Vec<&str> = ["web-1", "--owner-wallet", WALLET].iter().chain(flags).copied().collect();
    lab.vm("create", &arguments)
}

#[test]
fn storages_that_cannot_hold_the_disks_are_refused_beforehand() {
    let lab = Lab::builder().start().unwrap();
    for flag in ["--disk-datastore", "--cloudinit-datastore"] {
        // Rights come before existence (H39): which of the two it is, the token cannot know.
        let words =
            ["VM web-1", "storage nosuch", flag, "either it does not exist", "pvesm status", "no rights"];
        both_refuse(&lab, &[flag, "nosuch"], &words);
        let words = ["VM web-1", "storage local ", flag, "does not accept disk images", "pvesm"];
        both_refuse(&lab, &[flag, "local"], &words);
    }
    lab.control().storage("local-lvm", None, Some(false)).unwrap();
    both_refuse(&lab, &[], &["VM web-1", "storage local-lvm", "is disabled", "pvesm"]);
    lab.control().storage("local-lvm", Some(1_000_000_000), Some(true)).unwrap();
    both_refuse(&lab, &[], &["VM web-1", "storage local-lvm", "too small", "20.0 GiB", "pvesm status"]);
    // A token that may see every storage is told what is.
    let lab = Lab::builder().node(|node| node.token_may_all = true).start().unwrap();
    both_refuse(
        &lab,
        &["--disk-datastore", "nosuch"],
        &["storage nosuch", "does not exist on node pve", "pvesm"],
    );
}

/// Somebody else's VM that the token sees, with so much memory in MB.
fn with_memory(lab: &Lab, vmid: u32, memory_mb: u32) {
    let config = [("memory".to_string(), memory_mb.to_string())].into();
    let (name, pool) = (format!("other-{vmid}"), Some("blockhost".to_string()));
    lab.control().add_guest(NewGuest { vmid, name, config, pool, ..NewGuest::default() }).unwrap();
}

#[test]
fn memory_that_the_node_has_not_is_refused_beforehand_where_db_yaml_says_how_much_it_has() {
    let lab = Lab::builder().start().unwrap();
    // Three times what the node has is promised already, which was never a reason.
    with_memory(&lab, 500, 98_304);
    lab.made("before");
    add_settings(&lab, "overcommit_memory: 3");
    let words =
        ["VM web-1", "node pve", "0 MB can still be promised", "2048 MB are needed", "overcommit_memory 3"];
    both_refuse(&lab, &[], &words);
    both_refuse(&lab, &["--memory", "64"], &["64 MB are needed", "smaller --memory"]);
    // 32 GiB times 3.2 are 6553 MB more, of which VM before has 2048.
    let path = lab.path("etc/blockhost/db.yaml");
    edit(&path, "overcommit_memory: 3", "overcommit_memory: 3.2");
    both_refuse(&lab, &["--memory", "4506"], &["4505 MB can still", "4506 MB are needed"]);
    lab.made_with("web-1", &["--memory", "4505"]);
    lab.create("web-2", &["--memory", "64"]).fails(&["VM web-2", "0 MB can still"]);
    // What nobody says refuses nothing: the node's size, and a whole answer.
    lab.control().peer("pve", false, 32 << 30).unwrap();
    lab.made("web-3");
    lab.control().peer("pve", true, 32 << 30).unwrap();
    lab.control().fault("api.GET /cluster/resources*", FaultAction::error("no"), 9).unwrap();
    // (Terraform would ask there as well, so only the preview goes on.)
    lab.vm("create", &["web-4", "--owner-wallet", WALLET]).ends(0);
    lab.control().clear_faults().unwrap();
    // An API that is down refuses, as for every other question, and a preview says that it could not ask.
    let down = FaultAction::Error { message: "down".into(), code: Some(595) };
    lab.control().fault("api.GET /cluster/resources", down, 1_000).unwrap();
    let arguments = ["web-5", "--owner-wallet", WALLET, "--apply"];
    lab.vm_with("limit@preflight=1000", "create", &arguments)
        .fails(&["VM web-5", "cannot query the node's memory"]);
}

#[test]
fn memory_that_others_took_while_a_create_waited_is_refused_with_nothing_taken() {
    let lab = Lab::builder().start().unwrap();
    lab.made("before");
    add_settings(&lab, "overcommit_memory: 1");
    let create =
        lab.vm_start("sleep@create.queued=3000", "create", &["web-1", "--owner-wallet", WALLET, "--apply"]);
    // The queue's lock file is left from the create before; a number is a place in the queue.
    let is_place = |name: std::ffi::OsString| name.to_string_lossy().parse::<u64>().is_ok();
    until("it has its place", || {
        let all = std::fs::read_dir(lab.path("run/creates")).unwrap();
        all.flatten().any(|entry| is_place(entry.file_name()))
    });
    with_memory(&lab, 500, 30_720);
    let before = world(&lab);
    create.wait().fails(&["VM web-1", "0 MB can still be promised"]);
    world(&lab).same(&before, "refused after its turn");
    assert!(!lab.path("var/journal/web-1.json").exists() && !lab.path("var/terraform/vms/web-1").exists());
}

#[test]
fn h32_a_storage_keeps_its_reserve_and_without_one_refuses_what_it_always_did() {
    let lab = Lab::builder().start().unwrap();
    // 21 GiB for disks of 20 GB, of which nine are promised: that is what thin storages are for.
    lab.control().storage("local-lvm", Some(21 << 30), None).unwrap();
    for index in 0..2 {
        lab.made(&format!("thin-{index}"));
    }
    add_settings(&lab, "storage_reserve_percent: 90");
    let words = [
        "VM web-1",
        "storage local-lvm",
        "is nearly full",
        "to stay free",
        "storage_reserve_percent 90",
        "pvesm",
    ];
    both_refuse(&lab, &[], &words);
    edit(&lab.path("etc/blockhost/db.yaml"), "_percent: 90", "_percent: 5");
    lab.made("web-1");
}

#[test]
fn h13_vmids_and_addresses_that_are_used_up_are_refused_with_nothing_taken() {
    let of = |what: &str| match what {
        "VMIDs" => Lab::builder().vmid_range(100, 100).start().unwrap(),
        _ => Lab::builder().ip_pool(200, 200).start().unwrap(),
    };
    for (what, words) in [("VMIDs", "vmid_range"), ("addresses", "IP pool exhausted")] {
        let lab = of(what);
        lab.made("first");
        both_refuse(&lab, &[], &["VM web-1", words, "db.yaml"]);
    }
}

#[test]
fn a_pool_that_does_not_exist_is_refused_beforehand() {
    let lab = Lab::builder().start().unwrap();
    add_settings(&lab, "pve_pool: nosuchpool");
    both_refuse(
        &lab,
        &[],
        &["VM web-1", "pool nosuchpool", "pve_pool", "either it does not exist", "no rights"],
    );
    let lab = Lab::builder().node(|node| node.token_may_all = true).start().unwrap();
    add_settings(&lab, "pve_pool: nosuchpool");
    both_refuse(&lab, &[], &["VM web-1", "pool nosuchpool", "does not exist"]);
}

#[test]
fn h39_the_preview_refuses_what_the_node_refuses() {
    let lab = Lab::builder().start().unwrap();
    both_refuse(&lab, &["--template-vmid", "9999"], &["template VM 9999 does not exist"]);
    both_refuse(&lab, &["--disk", "1"], &["--disk 1 GB is smaller"]);
    write(&lab.path("etc/blockhost/pve-token"), "blockhost@pve!tf=00000000-0000-4000-8000-00000000000f");
    both_refuse(&lab, &[], &["HTTP 401", "blockhost-provisioner-setup token"]);
}

#[test]
fn a_preview_that_could_not_ask_says_so() {
    let lab = Lab::builder().start().unwrap();
    let unchecked = |what: &str| {
        let said = preview(&lab, &[]).ok();
        said.says(&["warning: VM web-1: not checked against the node: ", what]).out
    };
    let text = |said: Ended| said.ok().out;
    let whole = text(preview(&lab, &[]));
    let path = lab.path("var/terraform/provider.tf.json");
    let old = read(&path);
    edit(&path, &lab.endpoint().unwrap(), "https://127.0.0.1:1");
    assert_eq!(unchecked("refused"), whole);
    write(&path, &old);
    lab.control().fault("api.GET /version", FaultAction::Hang, 1).unwrap();
    let mut command = lab.vm_command("create", &["web-1", "--owner-wallet", WALLET]);
    let said = crate::support::run(command.env("BLOCKHOST_FAULT", "limit@preflight=1500"));
    said.ok().says(&["warning: VM web-1: not checked against the node", "no answer in time"]);
    lab.control().clear_faults().unwrap();
    lab.control().stop_root_agent().unwrap();
    assert_eq!(unchecked("systemctl status blockhost-root-agent"), whole);
}

#[test]
fn the_preview_shows_what_will_be() {
    let lab = Lab::builder().start().unwrap();
    let said = preview(&lab, &["--tags", "db,web", "--purpose", "shop", "--expiry-days", "30"]).ok();
    let date = (chrono::Utc::now() + chrono::Days::new(30)).format("%Y-%m-%d").to_string();
    for line in [
        "tags           blockhost, db, web",
        "purpose        shop",
        &format!("expires        {date} (in 30 days)"),
    ] {
        assert!(said.out.contains(line), "{line}: {said:?}");
    }
    assert!(said.out.ends_with("This was a preview. Run again with --apply to create the VM.\n"), "{said:?}");
    assert_eq!(said.err, "");
    let said = preview(&lab, &["--expiry-days", "0"]).ok();
    assert!(said.out.contains("(immediately: the next gc run suspends it)"), "{said:?}");
    // This host's own fault, which says nothing about the VM.
    std::fs::remove_dir_all(lab.path("var/terraform/.terraform")).unwrap();
    preview(&lab, &[])
        .ok()
        .says(&["warning: VM web-1: --apply would be refused", "terraform is not initialised"]);
}
