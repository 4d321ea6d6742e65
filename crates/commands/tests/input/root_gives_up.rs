//! Root's commands in folders that user blockhost rules (hazard H56): nothing of root's is read, changed or given away,
//! and nothing runs as root.

use crate::ownership::{GROUP, USER, as_root, as_user, command, owned_lab};
use crate::support::{WALLET, run};
use lab::Lab;
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What root has, and its look: text, owner, mode.
struct Treasure(PathBuf);

const SECRET: &str = "{\"version\":4,\"secret\":\"root only\",\"resources\":[]}\n";

impl Treasure {
    fn bury(lab: &Lab) -> Treasure {
        let folder = lab.path("of-root");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(folder.join("dir")).unwrap();
        for name in ["secret", "dir/secret"] {
            std::fs::write(folder.join(name), SECRET).unwrap();
            std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        std::fs::set_permissions(folder.join("dir"), PermissionsExt::from_mode(0o700)).unwrap();
        Treasure(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("secret")
    }

    fn untouched(&self, what: &str) {
        let mut names: Vec<String> = Vec::new();
        for (folder, mode) in [(self.0.clone(), 0o755), (self.0.join("dir"), 0o700)] {
            let data = folder.metadata().unwrap();
            assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (0, 0, mode), "{what}: {folder:?}");
            names.extend(folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()));
        }
        names.sort();
        assert_eq!(names, ["dir", "secret", "secret"], "{what}");
        for name in ["secret", "dir/secret"] {
            let path = self.0.join(name);
            let data = path.metadata().unwrap();
            assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (0, 0, 0o600), "{what}: {name}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), SECRET, "{what}: {name}");
        }
    }
}

/// What is at a place of the user's is moved aside; put back by [`Aside::back`].
struct Aside {
    place: PathBuf,
    aside: PathBuf,
    there: bool,
}

impl Aside {
    fn put(lab: &Lab, place: &Path) -> Aside {
        let aside = lab.path("aside");
        let there = place.symlink_metadata().is_ok();
        if there {
            std::fs::rename(place, &aside).unwrap();
        }
        Aside { place: place.into(), aside, there }
    }

    fn back(self) {
        match self.place.symlink_metadata() {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(&self.place).unwrap(),
            Ok(_) => std::fs::remove_file(&self.place).unwrap(),
            Err(_) => {}
        }
        if !self.there {
            return;
        }
        if self.place.parent().is_some_and(Path::is_dir) {
            std::fs::rename(&self.aside, &self.place).unwrap();
        } else {
            // The VM's folder went with the VM.
            std::fs::remove_file(&self.aside).unwrap();
        }
    }
}

/// The life of a VM as root runs it.
const LIFE: [(&str, &[&str]); 7] = [
    ("create", &["vm-2", "--owner-wallet", WALLET, "--apply"]),
    ("status", &["vm-2"]),
    ("stop", &["vm-2"]),
    ("start", &["vm-2"]),
    ("gc", &["--execute"]),
    ("kill", &["vm-2"]),
    ("destroy", &["vm-2"]),
];

/// Every place below state and run folder that root's commands, and what they start, open for writing, make, rename,
/// give away or remove, by a trace of the system calls of real runs: a new place is found by itself.
fn places_written(lab: &Lab) -> BTreeSet<PathBuf> {
    let trace = lab.path("trace");
    let calls = "trace=openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,symlink,symlinkat,\
                 link,linkat,chmod,fchmodat,chown,lchown,fchownat";
    let mut places = BTreeSet::new();
    for (verb, arguments) in LIFE {
        let own = command(lab, verb);
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq", "-e", calls, "-e", "signal=none", "-s", "400", "-o"]).arg(&trace);
        traced
            .arg(own.get_program())
            .args(arguments)
            .env_clear()
            .envs(lab.env())
            .current_dir(lab.path("var"));
        run(&mut traced).ok();
        for line in std::fs::read_to_string(&trace).unwrap().lines() {
            let reads = (line.contains("open(") || line.contains("openat("))
                && !["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|f| line.contains(f));
            let texts = line.split('"').skip(1).step_by(2).map(PathBuf::from);
            let ours = |path: &PathBuf| ["var", "run"].iter().any(|f| path.starts_with(lab.path(f)));
            if !reads {
                places.extend(texts.filter(ours));
            }
        }
    }
    // terraform works in the VM's folder and names its files without it.
    let own = lab.path("var/terraform/vms/vm-2");
    places.extend(["terraform.tfstate", "terraform.tfstate.backup"].map(|name| own.join(name)));
    // Names that are random each time cannot be planted.
    places.retain(|path| {
        !path.to_string_lossy().contains(".blockhost-") && !path.ends_with("var") && !path.ends_with("run")
    });
    places
}

#[test]
fn h56_nothing_of_roots_is_touched_by_way_of_any_place_that_root_writes() {
    let lab = owned_lab(0, true);
    let treasure = Treasure::bury(&lab);
    let places = places_written(&lab);
    let names: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    for known in [
        "vms.json",
        "journal",
        "journal/vm-2.json",
        "audit",
        "vms/vm-2",
        "terraform.log",
        "terraform.tfstate",
        "creates",
        "gc.lock",
    ] {
        assert!(names.iter().any(|name| name.ends_with(known)), "{known} was not seen: {names:?}");
    }
    for place in &places {
        let own = lab.path("var/terraform/vms/vm-2");
        let in_own = place.starts_with(&own) && *place != own;
        let folder = place.is_dir() || place.extension().is_none();
        let kinds: &[&str] = if folder { &["link to a folder", "link"] } else { &["link", "hard link"] };
        for kind in kinds {
            // The VM's own folder is there while the VM is: then the plant waits for stop and destroy.
            if in_own {
                as_root(&lab, LIFE[0].0, LIFE[0].1).ok();
            }
            if !place.parent().is_some_and(Path::is_dir) {
                continue;
            }
            let planted = Aside::put(&lab, place);
            match *kind {
                "link" => std::os::unix::fs::symlink(treasure.file(), place).unwrap(),
                "hard link" => std::fs::hard_link(treasure.file(), place).unwrap(),
                _ => std::os::unix::fs::symlink(&treasure.0, place).unwrap(),
            }
            let what = format!("a {kind} at {}", place.display());
            for (verb, arguments) in [LIFE[0], LIFE[2], LIFE[6]].into_iter().skip(usize::from(in_own)) {
                let ended = as_root(&lab, verb, arguments);
                assert!(!ended.err.contains("panicked"), "{what}: {verb}: {ended:?}");
                treasure.untouched(&format!("{what}: {verb}"));
            }
            planted.back();
            // Whatever became of it, the next round begins without the VM.
            as_root(&lab, "destroy", &["vm-2"]);
        }
    }
}

#[test]
fn h56_terraform_never_runs_as_root_whoever_owns_the_folder() {
    let lab = owned_lab(0, true);
    as_user(&lab, "create", &["vm-1", "--owner-wallet", WALLET, "--apply"]).result();
    let folder = lab.path("var/terraform/vms/vm-1");
    // What root made by itself, in the VM's place; the user's configuration runs a command when the VM goes.
    chown(&folder, Some(0), Some(GROUP)).unwrap();
    let file = folder.join("vm-1.tf.json");
    let mut text: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let proof = lab.path("var/who-ran-it");
    text["resource"]["proxmox_virtual_environment_vm"]["vm-1"]["provisioner"] = serde_json::json!([{"local-exec": {"when": "destroy", "command": format!("id -u > {}", proof.display())}}]);
    std::fs::write(&file, text.to_string()).unwrap();
    as_root(&lab, "destroy", &["vm-1"]);
    if let Ok(who) = std::fs::read_to_string(&proof) {
        assert_eq!(who.trim(), USER.to_string());
    }
}

#[test]
fn h56_a_folder_of_a_group_without_a_user_is_refused_and_roots_own_is_not() {
    let lab = owned_lab(0, true);
    let mut chown_all = Command::new("chown");
    chown_all.args(["-hR", &format!("0:{GROUP}")]).arg(lab.path("var"));
    assert!(chown_all.status().unwrap().success());
    if Command::new("id").arg("blockhost").output().unwrap().status.success() {
        return;
    }
    as_root(&lab, "list", &[]).fails_in_one_line(&["is writable by others than root", "blockhost"]);
    for folder in ["var", "run"] {
        std::fs::set_permissions(lab.path(folder), PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut chown_all = Command::new("chown");
    chown_all.args(["-hR", "0:0"]).arg(lab.path("var")).arg(lab.path("run"));
    assert!(chown_all.status().unwrap().success());
    as_root(&lab, "create", &["vm-1", "--owner-wallet", WALLET, "--apply"]).result();
}

#[test]
fn h56_what_root_brings_reaches_the_vm_and_the_trail_names_root() {
    let lab = owned_lab(0, true);
    let cloud_init = lab.path("home/user-data.yaml");
    std::fs::write(&cloud_init, "#cloud-config\npackages: [brought-by-root]\n").unwrap();
    std::fs::set_permissions(&cloud_init, PermissionsExt::from_mode(0o600)).unwrap();
    let named = cloud_init.display().to_string();
    let arguments = ["vm-1", "--owner-wallet", WALLET, "--cloud-init-content", &named, "--apply"];
    let made = as_root(&lab, "create", &arguments);
    made.result();
    assert!(!made.err.contains("ssh public key"), "root's ssh key is read: {made:?}");
    let snippets = lab.control().snapshot().unwrap().snippets;
    assert!(snippets.values().any(|text| text.contains("brought-by-root")), "{snippets:?}");
    let audit = lab.path("var/audit").read_dir().unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&audit).unwrap();
    assert!(text.contains("\"uid\":0"), "{text}");
    assert_eq!(audit.metadata().unwrap().uid(), USER);
}

#[test]
fn h56_no_group_of_roots_is_kept() {
    let lab = owned_lab(0, true);
    let own = command(&lab, "create");
    let mut with_groups = Command::new("setpriv");
    with_groups.args(["--groups", "0,4711", "--"]).arg(own.get_program());
    with_groups.args(["vm-1", "--owner-wallet", WALLET, "--apply"]).env_clear().envs(lab.env());
    with_groups.env("BLOCKHOST_FAULT", "sleep@create.journalled=30000").stdin(std::process::Stdio::null());
    let mut child = with_groups.stderr(std::process::Stdio::null()).spawn().unwrap();
    crate::support::until("the create stands still", || lab.path("var/journal/vm-1.json").exists());
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let ids = |name: &str| -> Vec<String> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    // Real, effective, saved, and the one for files.
    assert_eq!(ids("Uid:"), vec![USER.to_string(); 4]);
    assert_eq!(ids("Gid:"), vec![GROUP.to_string(); 4]);
    assert_eq!(ids("Groups:"), [GROUP.to_string()]);
    let held: Vec<String> = ["CapPrm:", "CapEff:", "CapAmb:"].iter().flat_map(|name| ids(name)).collect();
    assert!(held.iter().all(|set| set.bytes().all(|digit| digit == b'0')), "{held:?}");
}
