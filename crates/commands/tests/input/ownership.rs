//! Root and user blockhost take turns with the same files (hazards H15, H29, H30).

use crate::dry_run::world_readable;
use crate::support::{Ended, WALLET, json, run, with_key};
use lab::Lab;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stand-ins for user and group blockhost.
pub const USER: u32 = 4242;
pub const GROUP: u32 = 4343;

/// A command of ours where every user can run it.
pub fn copied_command(lab: &Lab, name: &str) -> PathBuf {
    let folder = lab.path("programs");
    if !folder.is_dir() {
        std::fs::create_dir(&folder).unwrap();
    }
    let copy = folder.join(name);
    if !copy.is_file() {
        let own = Path::new(env!("CARGO_BIN_EXE_blockhost-vm-create")).with_file_name(name);
        copy_by_another(own, &copy).unwrap();
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    }
    copy
}

fn set(path: &Path, owner: u32, mode: u32) {
    chown(path, Some(owner), Some(GROUP)).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn each(path: &Path, visit: &mut dyn FnMut(&Path, &std::fs::Metadata)) {
    let Ok(data) = path.symlink_metadata() else { return };
    visit(path, &data);
    if data.is_dir() {
        for entry in path.read_dir().unwrap().flatten() {
            each(&entry.path(), visit);
        }
    }
}

/// A lab as the packages leave a host: state and run folder of `owner` and the group, terraform's of the user.
pub fn owned_lab(owner: u32, database: bool) -> Lab {
    let builder = Lab::builder().dir(world_readable());
    let lab = with_key(if database { builder } else { builder.no_database() }.start().unwrap());
    // The provider, where a user who may not enter our build folder finds it.
    each(&lab.path("mirror"), &mut |path, data| {
        if data.is_symlink() {
            let target = path.canonicalize().unwrap();
            std::fs::remove_file(path).unwrap();
            copy_by_another(target, path).unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    });
    for folder in ["var", "run"] {
        set(&lab.path(folder), owner, 0o2775);
    }
    each(&lab.path("var/terraform"), &mut |path, data| {
        std::os::unix::fs::lchown(path, Some(USER), Some(GROUP)).unwrap();
        if path.ends_with("terraform.tfvars") {
            set(path, USER, 0o640);
        } else if data.is_dir() {
            set(path, USER, 0o755);
        }
    });
    if database {
        set(&lab.path("var/vms.json"), owner, 0o660);
    }
    for file in ["db.yaml", "pve-token"] {
        set(&lab.path("etc/blockhost").join(file), 0, 0o640);
    }
    set(&lab.path("run/root-agent.sock"), 0, 0o660);
    std::fs::set_permissions(lab.path("home"), PermissionsExt::from_mode(0o700)).unwrap();
    lab
}

pub fn command(lab: &Lab, verb: &str) -> Command {
    let mut command = Command::new(copied_command(lab, &format!("blockhost-vm-{verb}")));
    command.env_clear().envs(lab.env()).current_dir(lab.path("var"));
    command
}

/// By root, whose home nobody else may enter.
pub fn as_root(lab: &Lab, verb: &str, arguments: &[&str]) -> Ended {
    run(command(lab, verb).args(arguments))
}

/// As the service runs it: that user, that group, nothing else.
pub fn as_user(lab: &Lab, verb: &str, arguments: &[&str]) -> Ended {
    let mut command = command(lab, verb);
    command.uid(USER).gid(GROUP).env("HOME", lab.path("var"));
    run(command.args(arguments))
}

/// Every file of ours can be used by the user, and no secret by anybody else.
fn check_files(lab: &Lab, who: &str) {
    let snippets = lab.control().snapshot().unwrap().snippets;
    let keys = snippets.values().filter_map(|text| text.split("secret_key = \"").nth(1));
    let mut secrets: Vec<String> = keys.map(|rest| rest[..64].to_string()).collect();
    secrets.push(lab.token().split('=').nth(1).unwrap().to_string());
    let ours = |path: &Path| {
        let shown = path.display().to_string();
        !["setup.json", "endpoint", "node.sock", "root-agent.sock", "/.terraform"]
            .iter()
            .any(|s| shown.contains(s))
    };
    for folder in ["var", "run"] {
        each(&lab.path(folder), &mut |path, data| {
            if data.is_symlink() || !ours(path) {
                return;
            }
            let (mode, shown) = (data.mode(), path.display());
            let by_user = data.uid() == USER;
            assert!(by_user || data.gid() == GROUP, "{who}: {shown} is {}:{}", data.uid(), data.gid());
            let rights = if by_user { mode >> 6 } else { mode >> 3 } & 7;
            let needed = match (data.is_dir(), path.extension().and_then(|e| e.to_str())) {
                (true, _) => 7,
                (false, Some("lock")) => 6,
                _ => 4,
            };
            assert_eq!(rights & needed, needed, "{who}: {shown} has mode {mode:o}");
            if data.is_file() {
                let content = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
                let secret = secrets.iter().any(|s| content.contains(s.as_str()))
                    || shown.to_string().contains("tfstate")
                    || shown.to_string().contains("journal/");
                assert!(!secret || mode & 0o007 == 0, "{who}: {shown} has mode {mode:o} and holds a secret");
                assert!(!path.ends_with("vms.json") || mode & 0o777 == 0o660, "{who}: {mode:o}");
            }
        });
    }
    each(&lab.path("node/var/lib/vz/snippets"), &mut |path, data| {
        let (mode, shown) = (data.mode() & 0o777, path.display());
        if path.ends_with("blockhost-guard.sh") {
            // Proxmox runs it: it is the one that others may read, and holds nothing of a VM.
            assert_eq!(mode, 0o755, "{who}: {shown}");
            let content = std::fs::read_to_string(path).unwrap();
            assert!(!secrets.iter().any(|s| content.contains(s.as_str())), "{who}: {shown}");
            assert!(!content.contains("vm-1"), "{who}: {shown}");
        } else {
            assert!(data.is_dir() || mode & 0o077 == 0, "{who}: {shown}");
        }
    });
}

/// Each does a part of a VM's life; whoever comes next can go on.
fn take_turns(lab: &Lab) {
    let arguments = |name: &'static str| ["--owner-wallet", WALLET, "--apply", name];
    as_root(lab, "create", &arguments("vm-1")).result();
    check_files(lab, "create by root");
    for (verb, word) in [("stop", "suspended\n"), ("start", "active\n"), ("kill", "suspended\n")] {
        as_user(lab, verb, &["vm-1"]).ok();
        assert_eq!(as_user(lab, "status", &["vm-1"]).ok().out, word);
    }
    let made = as_user(lab, "create", &arguments("vm-2"));
    made.result();
    check_files(lab, "create by the user");
    as_root(lab, "kill", &["vm-2"]).ok();
    as_root(lab, "start", &["vm-2"]).ok();
    let gone = as_user(lab, "destroy", &["vm-1"]).ok();
    assert!(!gone.err.contains("warning"), "terraform itself must do it: {gone:?}");
    check_files(lab, "destroy by the user");
    let gone = as_root(lab, "destroy", &["vm-2"]).ok();
    assert!(!gone.err.contains("warning"), "{gone:?}");
    check_files(lab, "destroy by root");
    as_user(lab, "create", &arguments("vm-3")).result();
    let list = as_user(lab, "list", &[]).ok().out;
    let words: Vec<&str> = list.lines().skip(1).map(|l| l.split('\t').nth(1).unwrap()).collect();
    assert_eq!(words, ["destroyed", "destroyed", "active"]);
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 2);
    assert_eq!(json(&lab.path("var/vms.json"))["next_vmid"], 103);
}

#[test]
fn h15_h30_root_and_the_owner_of_the_state_folder_take_turns() {
    take_turns(&owned_lab(USER, true));
}

#[test]
fn h15_h30_root_and_a_member_of_the_group_take_turns() {
    // State and run folder of root and the group, as the packages make them; the database is made by the first create.
    take_turns(&owned_lab(0, false));
}

#[test]
fn h15_a_token_file_that_overrides_tfvars_reaches_terraform_by_a_private_file_alone() {
    let lab = owned_lab(0, true);
    let path = lab.path("var/terraform/terraform.tfvars");
    let text = std::fs::read_to_string(&path).unwrap().replace(&lab.token(), "nobody@pve!x=stale");
    std::fs::write(&path, text).unwrap();
    as_root(&lab, "create", &["vm-1", "--owner-wallet", WALLET, "--apply"]).result();
    check_files(&lab, "another token");
    as_user(&lab, "destroy", &["vm-1"]).ok();
    assert!(!lab.path("var/terraform/vms/vm-1").exists());
}

#[test]
fn h29_terraform_and_its_provider_never_run_with_roots_rights_for_the_user() {
    let lab = owned_lab(0, true);
    let fault = lab::model::FaultAction::Slow { ms: 1500 };
    lab.control().fault("provider.create.clone", fault, 1).unwrap();
    let mut child = command(&lab, "create")
        .args(["vm-1", "--owner-wallet", WALLET, "--apply"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    lab.control().wait_fault("provider.create.clone", std::time::Duration::from_secs(60)).unwrap();
    let seen = crate::secrets::processes_of(&lab);
    let terraform: Vec<_> = seen.iter().filter(|p| p.command.contains("terraform")).collect();
    assert!(terraform.len() >= 2, "terraform and its provider: {seen:?}");
    assert!(terraform.iter().all(|p| (p.uid, p.gid) == (USER, GROUP)), "{terraform:?}");
    assert!(child.wait().unwrap().success());
}

/// Copies a program in a process of its own: a file that this process has open for writing while another thread
/// starts a child cannot be run ("text file busy").
fn copy_by_another(
    from: impl AsRef<std::path::Path>,
    to: impl AsRef<std::path::Path>,
) -> std::io::Result<()> {
    let status = std::process::Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other("cp failed")) }
}
