//! The harness itself: what a lab is made of, and that nothing of it stays.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{node, ok, run};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use serde_json::{Value, json};
use test_support::until;

#[test]
fn a_lab_has_the_files_of_an_installed_host() {
    let lab = node().wallet_pattern("^0x").db_yaml("max_parallel_creates: 2").start().unwrap();
    for (file, mode) in [
        ("etc/blockhost/db.yaml", 0o640),
        ("etc/blockhost/pve-token", 0o640),
        ("etc/blockhost/web3-defaults.yaml", 0o644),
        ("etc/blockhost/broker-allocation.json", 0o644),
        ("etc/blockhost/network-modes.enabled/broker.json", 0o644),
        ("var/terraform/terraform.tfvars", 0o640),
        ("var/terraform/provider.tf.json", 0o644),
        ("var/terraform/variables.tf.json", 0o644),
        ("var/vms.json", 0o660),
        ("share/engine.json", 0o644),
        ("share/cloud-init/templates/nft-auth.yaml", 0o644),
        ("node/etc/pve/.vmlist", 0o644),
        ("tf.rc", 0o644),
    ] {
        let data = std::fs::metadata(lab.path(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&data.permissions()) & 0o777, mode, "{file}");
    }
    assert!(
        std::fs::read_to_string(lab.path("etc/blockhost/db.yaml"))
            .unwrap()
            .ends_with("max_parallel_creates: 2\n")
    );
    let provider: Value =
        serde_json::from_str(&std::fs::read_to_string(lab.path("var/terraform/provider.tf.json")).unwrap())
            .unwrap();
    assert_eq!(provider["provider"]["proxmox"]["endpoint"], lab.endpoint().unwrap());

    let older = node().no_network_modes().no_ipv6().no_database().start().unwrap();
    for file in [
        "etc/blockhost/network-modes.enabled",
        "etc/blockhost/broker-allocation.json",
        "var/vms.json",
        "share/engine.json",
    ] {
        assert!(!older.path(file).exists(), "{file}");
    }
}

#[test]
fn the_environment_is_the_labs_and_nothing_else() {
    let lab = node().start().unwrap();
    let out = lab.tool("env").env_remove("PWD").output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let mut names: Vec<&str> =
        text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.sort_unstable();
    let wanted = [
        "BLOCKHOST_CONFIG_DIR",
        "BLOCKHOST_RUN_DIR",
        "BLOCKHOST_SHARE_DIR",
        "BLOCKHOST_STATE_DIR",
        "HOME",
        "LAB_DIR",
        "LAB_POLL_MS",
        "PATH",
        "TF_CLI_CONFIG_FILE",
    ];
    assert_eq!(names, wanted);
    assert!(
        text.contains(&format!("\nPATH={}/bin:", lab.dir().display())) || text.starts_with("PATH="),
        "{text}"
    );
}

#[test]
fn labs_live_side_by_side() {
    let (one, two) = (node().start().unwrap(), node().start().unwrap());
    ok(&one, "qm clone 9001 100");
    assert!(run(&two, "qm status 100").code != 0);
    assert_ne!(one.endpoint().unwrap(), two.endpoint().unwrap());
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    let lab = Lab::builder().no_terraform().start().unwrap();
    let dir = lab.dir().to_owned();
    assert!(dir.join("run/root-agent.sock").exists());
    let processes = processes_of(&dir);
    assert!(processes.len() >= 2, "{processes:?}");
    drop(lab);
    assert!(!dir.exists());
    until("its processes end", || processes_of(&dir).is_empty());
}

/// PIDs whose command line names the folder.
fn processes_of(dir: &Path) -> Vec<String> {
    let name = dir.display().to_string();
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&name))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_killed_test_leaves_nothing() {
    // cargo test builds examples, too.
    let own = std::env::current_exe().unwrap();
    let victim = own.ancestors().nth(2).unwrap().join("examples/killed_test");
    let mut test = Command::new(victim).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(test.stdout.take().unwrap()).lines();
    let dir =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix("lab in ").map(PathBuf::from)).unwrap();
    assert!(dir.join("guests/100").is_dir());
    let sleeping = || {
        let root = std::fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone());
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&root)))
    };
    assert!(sleeping());
    test.kill().unwrap();
    test.wait().unwrap();
    until("nothing is left", || processes_of(&dir).is_empty() && !dir.exists() && !sleeping());
}

#[test]
fn a_killed_node_takes_its_guests_along() {
    let lab = Lab::builder().no_terraform().start().unwrap();
    ok(&lab, "qm clone 9001 100");
    ok(&lab, "qm start 100");
    ok(&lab, "qm guest exec 100 --synchronous 0 -- sleep 600");
    let guest = std::fs::canonicalize(lab.path("guests/100")).unwrap();
    let inside = || {
        let links = std::fs::read_dir("/proc").unwrap().flatten();
        links
            .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == guest))
            .count()
    };
    until("they are inside", || inside() > 0);
    let daemon = processes_of(lab.dir())
        .into_iter()
        .find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("\0node\0"))
        })
        .unwrap();
    assert!(Command::new("kill").args(["-9", &daemon]).status().unwrap().success());
    until("they have ended", || inside() == 0 && processes_of(lab.dir()).is_empty());
}

#[test]
fn points_and_calls_are_told() {
    let lab = node().start().unwrap();
    let control = lab.control();
    let since = control.last_call().unwrap();
    ok(&lab, "qm clone 9001 100");
    let points = control.points().unwrap();
    for point in [
        "qm.clone.before",
        "qm.clone.after",
        "task.qmclone.before",
        "task.qmclone.half",
        "task.qmclone.after",
    ] {
        assert!(points.iter().any(|reached| reached == point), "{point} in {points:?}");
    }
    let calls = control.calls(since).unwrap();
    assert_eq!((calls.len(), calls[0].what.as_str(), calls[0].code), (1, "qm clone 9001 100", Some(0)));
    control.fault("qm.start", FaultAction::error("x"), 2).unwrap();
    run(&lab, "qm start 100");
    let fault = control.faults().unwrap().remove(0);
    assert_eq!((fault.left, fault.hits, fault.action), (1, 1, FaultAction::error("x")));
    control.clear_faults().unwrap();
    ok(&lab, "qm start 100");
}

#[test]
fn many_guests_are_quick() {
    let lab = node().start().unwrap();
    let begun = Instant::now();
    let guests = (200..1_200)
        .map(|vmid| NewGuest { vmid, name: format!("g{vmid}"), disk_gib: 0, ..NewGuest::default() })
        .collect();
    lab.control().add_guests(guests).unwrap();
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 1_001);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let list = std::fs::read_to_string(lab.path("node/etc/pve/.vmlist")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap()["ids"].as_object().unwrap().len(), 1_001);
    assert!(lab.control().add_guest(NewGuest { vmid: 200, ..NewGuest::default() }).is_err());
}

/// One request to the root agent.
fn agent(lab: &Lab, action: &str, params: &Value) -> Value {
    let mut stream = UnixStream::connect(lab.path("run/root-agent.sock")).unwrap();
    let text = json!({"action": action, "params": params}).to_string();
    stream.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut length = [0u8; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    serde_json::from_slice(&answer).unwrap()
}

#[test]
fn the_root_agent_works_on_the_node() {
    let lab = Lab::builder().no_terraform().start().unwrap();
    ok(&lab, "qm clone 9001 100 --name web-1 --pool blockhost");
    let uuid = lab.control().snapshot().unwrap().guests[&100].uuid.clone();
    let state = agent(&lab, "vm-state", &json!({"vmid": 100, "uuid": uuid}));
    assert_eq!(
        (&state["ok"], &state["running"], &state["uuid"]),
        (&json!(true), &json!(false), &json!(uuid))
    );
    assert_eq!(agent(&lab, "qm-start", &json!({"vmid": 100}))["ok"], true);
    until("the agent sees it run", || agent(&lab, "vm-state", &json!({"vmid": 100}))["running"] == true);
    assert_eq!(agent(&lab, "bridge-port-isolate", &json!({"dev": "tap100i0"}))["ok"], true);
    assert_eq!(
        agent(&lab, "ip6-route-add", &json!({"address": "2001:db8::2/128", "dev": "vmbr0"}))["ok"],
        true
    );
    let snapshot = lab.control().snapshot().unwrap();
    assert!(snapshot.ports["tap100i0"].isolated && snapshot.routes[0].dst == "2001:db8::2");
    lab.control().fault("agent.qm-stop", FaultAction::error("on strike"), 1).unwrap();
    assert_eq!(agent(&lab, "qm-stop", &json!({"vmid": 100, "uuid": uuid}))["error"], "on strike");
    let calls = lab.control().calls(0).unwrap();
    assert!(calls.iter().any(|call| call.kind == "agent" && call.what.contains("qm-start")), "{calls:?}");
    lab.control().stop_root_agent().unwrap();
    assert!(UnixStream::connect(lab.path("run/root-agent.sock")).is_err());
    lab.control().restart_root_agent(0).unwrap();
    assert_eq!(agent(&lab, "vm-state", &json!({"vmid": 100}))["ok"], true);
}

/// Ends a lab made by hand, also when the test fails.
struct Down(PathBuf);

impl Drop for Down {
    fn drop(&mut self) {
        // Mostly it has ended already.
        let _ = Command::new(env!("CARGO_BIN_EXE_lab")).args(["down", "--dir"]).arg(&self.0).output();
    }
}

#[test]
fn a_lab_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("my lab's");
    let _down = Down(dir.clone());
    let program = env!("CARGO_BIN_EXE_lab");
    let call = |words: &[&str]| {
        let (first, rest) = words.split_first().unwrap();
        let output = Command::new(program).arg(first).arg("--dir").arg(&dir).args(rest).output().unwrap();
        common::Said::from(output)
    };
    assert!(call(&["status"]).err.contains("the lab's node does not answer"));
    let up = call(&["up", "--no-template", "--no-terraform"]);
    assert_eq!(up.code, 0, "{up:?}");
    assert_eq!(up.out, format!("{}\n", dir.display()));
    assert!(call(&["up"]).err.contains("a lab runs in"));
    assert_eq!(call(&["ctl", "stranger", "105", "--name", "somebody", "--running"]).code, 0);
    assert!(call(&["status"]).out.contains("105        somebody"));
    assert_eq!(call(&["ctl", "figures", "105", "cpu=0.5", "netin=900000"]).code, 0);
    assert!(call(&["ctl", "figures", "105", "cpu=half"]).err.contains("not a figure and a number: cpu=half"));
    assert_eq!(call(&["ctl", "fault", "qm.stop", "error", "no way"]).code, 0);
    let script = "eval \"$(\"$LAB\" env --dir \"$WHERE\")\"; qm stop 105; echo \"code $?\"; qm stop 105; qm status 105";
    let shell =
        Command::new("sh").arg("-c").arg(script).env("LAB", program).env("WHERE", &dir).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shell.stdout), "code 255\nstatus: stopped\n");
    assert_eq!(String::from_utf8_lossy(&shell.stderr), "no way\n");
    assert_eq!(call(&["down"]).code, 0);
    assert!(!dir.exists());
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("mine"), "x").unwrap();
    assert!(call(&["up"]).err.contains("not a lab's folder"), "somebody's files are left alone");
    assert!(dir.join("mine").exists());
}

#[test]
fn a_lab_by_hand_lets_go_what_hangs_and_ends_what_lost_its_folder() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("lab");
    let _down = Down(dir.clone());
    let program = env!("CARGO_BIN_EXE_lab");
    let lab = |first: &str, rest: &[&str]| {
        let mut command = Command::new(program);
        command.arg(first).arg("--dir").arg(&dir).args(rest);
        command
    };
    let done = |mut command: Command| command.output().unwrap();
    assert!(done(lab("up", &["--no-terraform"])).status.success());

    // Nobody reads what is printed.
    for (first, rest) in [("status", &[][..]), ("env", &[]), ("ctl", &["snapshot"]), ("ctl", &["calls"])] {
        let mut child = lab(first, rest).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(
            (ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()),
            (Some(0), ""),
            "{first}"
        );
    }

    let refused = done(lab("ctl", &["fault", "agnet.vm-state", "hang"]));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("no point 'agnet.vm-state'") && words.contains("agent."),
        "{words}"
    );

    // The one lane hangs, and is let go.
    let ask = || {
        let mut socket = UnixStream::connect(dir.join("run/root-agent.sock")).unwrap();
        let request = br#"{"action": "vm-state", "params": {"vmid": 100}}"#;
        socket.write_all(&(request.len() as u32).to_be_bytes()).unwrap();
        socket.write_all(request).unwrap();
        socket
    };
    assert!(done(lab("ctl", &["fault", "agent.vm-state", "hang"])).status.success());
    let mut hangs = ask();
    hangs.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut answer = [0; 4];
    assert!(hangs.read_exact(&mut answer).is_err(), "it hangs");
    assert!(done(lab("ctl", &["clear"])).status.success());
    hangs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    hangs.read_exact(&mut answer).unwrap();

    // Its folder is gone, its processes are not.
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(done(lab("down", &[])).status.success());
    let ours = dir.display().to_string();
    let left = || {
        let found = Command::new("pgrep").args(["-f", &ours]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    until("the processes of the lab end", || left().is_empty());
    let again = done(lab("down", &[]));
    assert!(!again.status.success(), "there is none any more");
}
