//! Without `--apply` nothing is taken, written, or said that a caller could take for a result (hazard H42).

use crate::support::{WALLET, assert_same, create, host_tree, run, tree, vm, with_key};
use lab::Lab;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

/// What three engines look for: the last line that begins with `{`; and the prefix that the fourth looks for.
fn assert_no_result(stdout: &str) {
    assert!(!stdout.contains("BLOCKHOST_RESULT"), "{stdout}");
    assert!(!stdout.contains("\"status\""), "{stdout}");
    assert!(!stdout.lines().any(|line| line.trim_start().starts_with('{')), "{stdout}");
}

#[test]
fn h42_a_dry_run_changes_nothing_at_all() {
    let lab = with_key(Lab::builder().start().unwrap());
    let arguments: [&[&str]; 5] = [
        &["vm-1", "--owner-wallet", WALLET],
        &["vm-1", "--no-web3"],
        &[
            "vm-1",
            "--owner-wallet",
            WALLET,
            "--cloud-init",
            "devbox",
            "--tags",
            "a",
            "b",
            "--expiry-days",
            "3",
        ],
        &["vm-1", "--no-web3", "--ip", "192.168.122.210", "--vmid", "300", "--ipv6", "2a11:6c7:f04:276::9"],
        &["vm-1", "--owner-wallet", WALLET, "--nft-token-id", "7", "-vv"],
    ];
    let check = |when: &str| {
        let (host, node) = (host_tree(&lab), lab.control().snapshot().unwrap());
        let calls = lab.control().last_call().unwrap();
        for arguments in arguments {
            let ended = vm(&lab, "create", arguments).ok();
            assert!(ended.out.starts_with("Would create VM vm-1:\n"), "{ended:?}");
            assert!(ended.out.contains("--apply"), "{ended:?}");
            assert_no_result(&ended.out);
        }
        assert_same(&host, &host_tree(&lab), when);
        assert_eq!(node, lab.control().snapshot().unwrap(), "{when}");
        let asked = lab.control().calls(calls).unwrap();
        let reads = |what: &str| {
            ["GET ", "ip "].iter().any(|word| what.starts_with(word))
                || ["vm-state", "guest-list"].contains(&what)
        };
        assert!(asked.iter().all(|c| reads(&c.what)), "{when}: {asked:?}");
    };
    check("a fresh host");
    create(&lab, "vm-0", &[]).ok();
    vm(&lab, "destroy", &["vm-0"]).ok();
    check("a used host");
    std::fs::remove_file(lab.path("var/vms.json")).unwrap();
    check("no database yet");
    std::fs::remove_dir_all(lab.path("var/terraform/.terraform")).unwrap();
    std::fs::remove_dir_all(lab.path("run/creates")).unwrap();
    check("no provider, no run folder");
}

#[test]
fn h42_a_refused_dry_run_changes_nothing_either() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "vm-0", &[]).ok();
    let (host, node) = (host_tree(&lab), lab.control().snapshot().unwrap());
    for (arguments, word) in [
        (&["vm-0", "--no-web3"][..], "already exists"),
        (&["vm-1", "--no-web3", "--ip", "192.168.122.200"], "taken"),
        (&["vm-1", "--no-web3", "--cloud-init", "none"], "none"),
    ] {
        vm(&lab, "create", arguments).fails_in_one_line(&[word]);
    }
    vm(&lab, "create", &["vm-1"]).is_wrong_usage(&["--owner-wallet ADDR is required", "--no-web3"]);
    assert_same(&host, &host_tree(&lab), "refused dry runs");
    assert_eq!(node, lab.control().snapshot().unwrap());
}

#[test]
fn h42_a_dry_run_needs_no_right_to_write() {
    let lab = with_key(Lab::builder().no_terraform().dir(world_readable()).start().unwrap());
    // Somebody who may read everything and write nothing.
    let modes = |mode: u32| {
        for folder in ["var", "run", "etc/blockhost"] {
            let path = lab.path(folder);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    for file in
        ["etc/blockhost/db.yaml", "etc/blockhost/pve-token", "var/terraform/terraform.tfvars", "var/vms.json"]
    {
        std::fs::set_permissions(lab.path(file), std::fs::Permissions::from_mode(0o444)).unwrap();
    }
    let program = crate::ownership::copied_command(&lab, "blockhost-vm-create");
    // Everybody may ask the host's `ip`; the lab's speaks to its node.
    std::fs::set_permissions(lab.path("run/node.sock"), std::fs::Permissions::from_mode(0o666)).unwrap();
    modes(0o555);
    let mut command = std::process::Command::new(program);
    command.env_clear().envs(lab.env()).current_dir("/").uid(4242).gid(4343);
    let ended = run(command.args(["vm-1", "--owner-wallet", WALLET]));
    modes(0o755);
    let ended = ended.ok();
    assert!(ended.out.contains("100 (if still free)"), "{ended:?}");
    // Neither can he ask the node, and is told so.
    let lines: Vec<&str> = ended.err.lines().collect();
    assert!(lines.iter().all(|line| line.starts_with("warning: ")), "{ended:?}");
    assert!(lines.iter().any(|line| line.contains("not checked against the node")), "{ended:?}");
}

/// A folder in which another user can find the lab.
pub fn world_readable() -> std::path::PathBuf {
    let dir = tempfile::Builder::new().prefix("lab-open-").tempdir().unwrap().keep();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn h42_a_mock_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ended =
        run(crate::hammer::mock_command(dir.path(), "create").args(["vm-1", "--no-web3", "--mock"])).ok();
    assert!(ended.out.starts_with("Would create VM vm-1:\n"), "{ended:?}");
    assert_no_result(&ended.out);
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    // With no setting at all the mock database lies below the working folder, and is made only by --apply.
    let default = |arguments: &[&str]| {
        let mut command = crate::hammer::mock_command(dir.path(), "create");
        run(command.env_remove("BLOCKHOST_MOCK_DB").args(["vm-1", "--no-web3", "--mock"]).args(arguments))
            .ok()
    };
    default(&[]);
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    assert_eq!(default(&["--apply"]).result()["ipv6"], "fd00::2");
    let before = tree(&[dir.path().to_path_buf()]);
    assert!(before.contains_key(&dir.path().join("accounting/mock-db.json")));
    let mut command = crate::hammer::mock_command(dir.path(), "create");
    run(command.env_remove("BLOCKHOST_MOCK_DB").args(["vm-2", "--no-web3", "--mock"])).ok();
    assert_same(&before, &tree(&[dir.path().to_path_buf()]), "a mock dry run");
}

#[test]
fn h42_no_value_can_forge_a_result_line() {
    let lab = with_key(Lab::builder().no_terraform().start().unwrap());
    let forged = "{\"status\": \"ok\", \"vm_name\": \"vm-1\"}";
    // Paths are the one value in which a line break may stand.
    let path = lab.path(format!("home/a\n{forged}\nBLOCKHOST_RESULT: {forged}"));
    std::fs::write(&path, "#cloud-config\nhostname: x\n").unwrap();
    let arguments = ["vm-1", "--no-web3", "--cloud-init-content", path.to_str().unwrap()];
    let ended = vm(&lab, "create", &arguments).ok();
    let lines: Vec<&str> = ended.out.lines().collect();
    assert!(!lines.iter().any(|l| l.starts_with('{') || l.starts_with("BLOCKHOST_RESULT")), "{ended:?}");
}
