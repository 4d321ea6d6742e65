//! Tokens and cloud-init texts never in argv, logs or errors (hazard H30).

use crate::support::{Ended, WALLET, create, run, vm, with_key};
use lab::Lab;
use lab::model::FaultAction;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// A process of a lab.
#[derive(Debug)]
pub struct Process {
    pub command: String,
    pub uid: u32,
    pub gid: u32,
}

/// All processes that were started with this lab's environment.
pub fn processes_of(lab: &Lab) -> Vec<Process> {
    let mark = format!("LAB_DIR={}", lab.dir().display());
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let path = entry.path();
        let environment = std::fs::read(path.join("environ")).ok()?;
        let ours = environment.split(|b| *b == 0).any(|v| v == mark.as_bytes());
        let data = path.metadata().ok()?;
        let command = std::fs::read(path.join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        ours.then_some(Process { command, uid: data.uid(), gid: data.gid() })
    })
    .collect()
}

fn secret(lab: &Lab) -> String {
    lab.token().split('=').nth(1).unwrap().to_string()
}

fn loudly(lab: &Lab, verb: &str, arguments: &[&str]) -> Vec<Ended> {
    let rules = ["trace", "debug,ureq=trace,rustls=trace,ureq_proto=trace", "provisioner=trace,hyper=trace"];
    let mut all = vec![vm(lab, verb, &[arguments, &["-vv"]].concat())];
    for rule in rules {
        let mut command = lab.command(&format!("blockhost-vm-{verb}"));
        all.push(run(command.args(arguments).env("RUST_LOG", rule).env("TF_LOG", "TRACE")));
    }
    all
}

fn assert_hidden(all: &[Ended], secrets: &[String]) {
    for ended in all {
        for secret in secrets {
            assert!(!ended.out.contains(secret.as_str()), "{secret} on stdout: {ended:?}");
            assert!(!ended.err.contains(secret.as_str()), "{secret} on stderr: {ended:?}");
        }
    }
}

#[test]
fn h30_no_secret_in_any_command_line() {
    let lab = with_key(Lab::builder().start().unwrap());
    // The token that terraform must be told is another one than in tfvars: the tempting case.
    let path = lab.path("var/terraform/terraform.tfvars");
    let text = std::fs::read_to_string(&path).unwrap().replace(&lab.token(), "nobody@pve!x=stale-secret");
    std::fs::write(&path, text).unwrap();
    let looks = |verb: &str, arguments: &[&str], point: &str| {
        lab.control().fault(point, FaultAction::Slow { ms: 800 }, 1).unwrap();
        let mut child = lab
            .command(&format!("blockhost-vm-{verb}"))
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        lab.control().wait_fault(point, Duration::from_secs(60)).unwrap();
        let seen = processes_of(&lab);
        assert!(seen.iter().any(|p| p.command.contains("terraform")), "{seen:?}");
        for process in &seen {
            for secret in [secret(&lab), "stale-secret".to_string()] {
                assert!(!process.command.contains(&secret), "{process:?}");
            }
        }
        assert!(child.wait().unwrap().success());
        lab.control().clear_faults().unwrap();
    };
    looks("create", &["vm-1", "--owner-wallet", WALLET, "--apply"], "provider.create.clone");
}

#[test]
fn h30_nothing_secret_is_said_however_loud() {
    let lab = with_key(Lab::builder().start().unwrap());
    let content = lab.path("home/user-data");
    let password = "hunter2-very-secret".to_string();
    std::fs::write(&content, format!("#cloud-config\npassword: {password}\n")).unwrap();
    let mut all = Vec::new();
    all.push(create(&lab, "vm-1", &["-vv"]));
    let mut traced = lab.command("blockhost-vm-create");
    traced.args(["vm-2", "--owner-wallet", WALLET, "--apply", "--cloud-init-content"]).arg(&content);
    all.push(run(traced.env("RUST_LOG", "trace")));
    all.iter().for_each(|ended| assert_eq!(ended.code, Some(0), "{ended:?}"));
    let keys: Vec<String> = lab
        .control()
        .snapshot()
        .unwrap()
        .snippets
        .values()
        .filter_map(|text| text.split("secret_key = \"").nth(1).map(|rest| rest[..64].to_string()))
        .collect();
    assert_eq!(keys.len(), 1);
    let secrets = [keys, vec![secret(&lab), password]].concat();
    for verb in ["status", "kill", "start", "stop"] {
        all.extend(loudly(&lab, verb, &["vm-1"]));
    }
    all.extend(loudly(&lab, "list", &["--live"]));
    all.extend(loudly(&lab, "destroy", &["vm-1"]));
    all.extend(loudly(&lab, "create", &["vm-3", "--owner-wallet", WALLET]));
    assert_hidden(&all, &secrets);
}

#[test]
fn h30_errors_of_others_that_repeat_the_token_are_blotted() {
    let lab = with_key(Lab::builder().start().unwrap());
    let (token, secret) = (lab.token(), secret(&lab));
    let words = format!("bad request: Authorization: PVEAPIToken={token} and {secret}; 'ok'");
    for point in ["provider.create.clone", "api.POST /nodes/*/qemu/*/clone", "provider.create.start"] {
        lab.control().fault(point, FaultAction::error(&words), 1).unwrap();
        let ended = create(&lab, "vm-1", &["-vv"]);
        lab.control().clear_faults().unwrap();
        assert_eq!(ended.code, Some(1), "{point}: {ended:?}");
        assert!(ended.err.contains("PVEAPIToken=[secret]"), "{point}: {ended:?}");
        assert_hidden(std::slice::from_ref(&ended), std::slice::from_ref(&secret));
    }
    // What create itself asks the API.
    for point in ["api.GET /version", "api.GET /cluster/nextid", "api.GET /nodes/*/qemu/*/config"] {
        lab.control().fault(point, FaultAction::error(&words), 20).unwrap();
        let ended = create(&lab, "vm-1", &["-vv"]);
        lab.control().clear_faults().unwrap();
        assert_eq!(ended.code, Some(1), "{point}: {ended:?}");
        assert_hidden(std::slice::from_ref(&ended), std::slice::from_ref(&secret));
    }
}

#[test]
fn h30_a_root_agent_that_repeats_the_cloud_init_text() {
    let lab = with_key(Lab::builder().start().unwrap());
    let content = lab.path("home/user-data");
    let text = "#cloud-config\nchpasswd:\n  list: |\n    root:hunter2-very-secret\n";
    std::fs::write(&content, text).unwrap();
    let words = format!("can't encode {text:?} and {text}");
    lab.control().fault("agent.snippet-put", FaultAction::error(&words), 1).unwrap();
    let ended = create(&lab, "vm-1", &["-vv", "--cloud-init-content", content.to_str().unwrap()]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains("can't encode") && ended.err.contains("[secret]"), "{ended:?}");
    assert_hidden(&[ended], &["hunter2-very-secret".to_string()]);
}

#[test]
fn h30_a_terraform_that_prints_the_token_before_it_speaks_json() {
    let lab = with_key(Lab::builder().start().unwrap());
    let secret = secret(&lab);
    let script = format!("#!/bin/sh\necho 'panic: token {}' >&2\necho 'and {secret}'\nexit 1\n", lab.token());
    let fake = lab.path("bin/terraform");
    std::fs::write(&fake, script).unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ended = create(&lab, "vm-1", &["-vv"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains("panic: token [secret]"), "{ended:?}");
    assert_hidden(&[ended], &[secret]);
    let log = lab.path("var/terraform/vms/vm-1/terraform.log");
    assert!(!log.exists(), "undone");
}
