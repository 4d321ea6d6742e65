//! The preview asks what `--apply` asks: what would be refused is refused, and what could not be asked is said.

use crate::support::{Commands, Ended, WALLET, add_settings, edit, read, world, write};
use lab::Lab;
use lab::model::FaultAction;

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
