//! Inside a guest: the agent, commands, cloud-init.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use std::time::{Duration, Instant};

use common::{api, node, ok, run, with_guest, words_of};
use lab::Lab;
use lab::model::{AgentMode, Power};
use serde_json::Value;
use test_support::until;

fn exec(lab: &Lab, script: &str) -> Value {
    let said = words_of(lab, &["qm", "guest", "exec", "100", "--", "/bin/sh", "-c", script]);
    assert_eq!(said.code, 0, "{said:?}");
    serde_json::from_str(&said.out).unwrap()
}

#[test]
fn h25_the_exit_code_of_qm_says_nothing_about_the_command() {
    let lab = with_guest(node());
    let said =
        words_of(&lab, &["qm", "guest", "exec", "100", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(said.code, 0);
    assert_eq!(
        said.out,
        "{\n   \"err-data\" : \"err\\n\",\n   \"exitcode\" : 7,\n   \"exited\" : 1,\n   \"out-data\" : \"out\\n\"\n}\n"
    );
    let quiet = exec(&lab, "true");
    assert!(quiet.get("out-data").is_none() && quiet.get("err-data").is_none());
    let killed = exec(&lab, "kill -9 $$");
    assert!(killed.get("exitcode").is_none() && killed["signal"] == 9, "{killed}");
    assert_eq!(exec(&lab, "printf 'é'")["out-data"], "Ã©", "encoded twice");
    let missing = run(&lab, "qm guest exec 100 -- /no/such/program");
    assert!(missing.code == 0 || missing.err.starts_with("Agent error: "), "{missing:?}");
}

#[test]
fn h25_a_timeout_answers_the_pid_with_exit_0() {
    let lab = with_guest(node());
    let said = run(&lab, "qm guest exec 100 --timeout 1 -- sleep 2");
    assert_eq!((said.code, said.err.as_str()), (0, "timeout reached, returning pid\n"));
    let pid = serde_json::from_str::<Value>(&said.out).unwrap()["pid"].as_u64().unwrap();
    let status = || run(&lab, &format!("qm guest exec-status 100 {pid}"));
    let first: Value = serde_json::from_str(&status().out).unwrap();
    assert_eq!(first["exited"], 0);
    let answer = || serde_json::from_str::<Value>(&status().out);
    until("the command ends", || answer().is_ok_and(|status| status["exited"] == 1));
    let again = status();
    assert!(
        again.code != 0 && again.err.starts_with("Agent error: Invalid parameter 'pid'"),
        "fetched once: {again:?}"
    );
}

#[test]
fn commands_start_without_waiting_and_read_their_input() {
    let lab = with_guest(node());
    let said = run(&lab, "qm guest exec 100 --synchronous 0 -- sleep 60");
    assert!(said.out.contains("\"pid\" : "), "{said:?}");
    let mut child = lab
        .tool("qm")
        .args(["guest", "exec", "100", "--pass-stdin", "1", "--", "cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello").unwrap();
    let answer: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(answer["out-data"], "hello");
}

#[test]
fn the_agent_refuses_in_proxmox_order() {
    let lab = with_guest(node());
    let ping = || run(&lab, "qm guest cmd 100 ping");
    assert_eq!((ping().code, ping().out.as_str()), (0, ""));
    lab.control().agent(100, AgentMode::Off).unwrap();
    assert_eq!(ping().err, "QEMU guest agent is not running\n");
    lab.control().power(100, Power::Stopped).unwrap();
    assert_eq!(ping().err, "VM 100 is not running\n");
    lab.control().unset(100, "agent").unwrap();
    assert_eq!(ping().err, "No QEMU guest agent configured\n");
    assert!(run(&lab, "qm guest cmd 555 ping").err.ends_with("555.conf' does not exist\n"));
}

#[test]
fn a_silent_agent_takes_its_time_to_refuse() {
    let lab = with_guest(node().agent(AgentMode::Never).node(|node| node.timing.agent_ping = 400));
    let begun = Instant::now();
    let reply = api(&lab, "POST", "/nodes/pve/qemu/100/agent/ping", "");
    assert_eq!((reply.code, reply.message()), (500, "QEMU guest agent is not running"));
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

#[test]
fn a_guest_answers_when_it_has_booted() {
    let lab = with_guest(node().boot_ms(500));
    assert_ne!(run(&lab, "qm guest cmd 100 ping").code, 0);
    std::thread::sleep(Duration::from_millis(500));
    ok(&lab, "qm guest cmd 100 ping");
}

#[test]
fn an_agent_error_of_guest_cmd_is_a_success() {
    let lab = with_guest(node());
    let said = run(&lab, "qm guest cmd 100 frobnicate");
    assert_eq!(said.code, 0);
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap()["error"]["class"], "CommandNotFound");
}

#[test]
fn h38_file_systems_are_under_result() {
    let lab = with_guest(node());
    let reply = api(&lab, "GET", "/nodes/pve/qemu/100/agent/get-fsinfo", "");
    let list = reply.data()["result"].as_array().unwrap();
    assert!(list.iter().any(|fs| fs["mountpoint"] == "/" && fs["used-bytes"].is_u64()));
    assert!(list.iter().any(|fs| fs.get("used-bytes").is_none()), "optional keys may be missing");
}

fn snippets(lab: &Lab, user: &str, meta: &str) {
    let folder = lab.path("node/var/lib/vz/snippets");
    std::fs::write(folder.join("u.yaml"), user).unwrap();
    std::fs::write(folder.join("m.yaml"), meta).unwrap();
}

#[test]
fn h37_user_data_replaces_everything_and_makes_the_users() {
    let lab = node().start().unwrap();
    ok(&lab, "qm clone 9001 100 --name web-1");
    ok(&lab, "qm set 100 --cicustom user=local:snippets/u.yaml,meta=local:snippets/m.yaml --ciuser ignored");
    let said = run(&lab, "qm start 100");
    assert_eq!((said.code, said.err.as_str()), (255, "volume 'local:snippets/u.yaml' does not exist\n"));
    snippets(
        &lab,
        "#cloud-config\nhostname: inside\nusers:\n  - name: admin\n    gecos: old\n",
        "instance-id: fixed-1\n",
    );
    ok(&lab, "qm set 100 --ipconfig0 ip=192.0.2.10/24,gw=192.0.2.1,ip6=2001:db8::10/64");
    ok(&lab, "qm start 100");
    let guest = || lab.control().snapshot().unwrap().guests[&100].clone();
    assert_eq!((guest().hostname.as_str(), guest().instance_id.as_str()), ("inside", "fixed-1"));
    assert!(guest().passwd.contains("admin:x:1000:1000:old:") && !guest().passwd.contains("ignored"));
    let reply = api(&lab, "GET", "/nodes/pve/qemu/9001/agent/network-get-interfaces", "");
    assert_eq!(reply.code, 403);
    lab.control().pool(100, Some("blockhost")).unwrap();
    let reply = api(&lab, "GET", "/nodes/pve/qemu/100/agent/network-get-interfaces", "");
    let own = &reply.data()["result"][1]["ip-addresses"];
    assert_eq!(
        (own[0]["ip-address"].as_str(), own[1]["ip-address"].as_str()),
        (Some("192.0.2.10"), Some("2001:db8::10"))
    );

    let status = exec(&lab, "/usr/sbin/usermod -c 'wallet=0x1,nft=2' admin && getent passwd admin");
    assert_eq!(status["out-data"], "admin:x:1000:1000:wallet=0x1,nft=2:/home/admin:/bin/bash\n");
    assert!(guest().passwd.contains("wallet=0x1,nft=2"));
    assert_eq!(exec(&lab, "usermod -c x nobody-here")["exitcode"], 6);
    assert_eq!(
        exec(&lab, "grep -c wallet=0x1 /etc/passwd")["out-data"],
        "1\n",
        "the guest's file, not the host's"
    );
    assert!(!std::fs::read_to_string("/etc/passwd").unwrap().contains("wallet=0x1"));
}

#[test]
fn h37_a_new_instance_id_runs_cloud_init_again() {
    let lab = node().start().unwrap();
    ok(&lab, "qm clone 9001 100 --name web-1");
    let guest = || lab.control().snapshot().unwrap().guests[&100].clone();
    let restart = || {
        ok(&lab, "qm stop 100");
        ok(&lab, "qm start 100");
    };
    ok(&lab, "qm start 100");
    restart();
    assert_eq!(guest().cloud_init_runs, 1, "the same data, the same instance");
    assert_eq!(guest().hostname, "web-1");
    lab.control().host_resolver("192.0.2.99").unwrap();
    restart();
    assert_eq!(guest().cloud_init_runs, 2, "the host's resolver is part of it");
    // The search domain is filled in as well.
    ok(&lab, "qm set 100 --nameserver 192.0.2.1 --searchdomain .");
    restart();
    lab.control().host_resolver("192.0.2.7").unwrap();
    restart();
    assert_eq!(guest().cloud_init_runs, 3, "a name server of its own keeps it");
    snippets(&lab, "#cloud-config\nusers: []\n", "instance-id: fixed\n");
    ok(
        &lab,
        "qm set 100 --cicustom user=local:snippets/u.yaml,meta=local:snippets/m.yaml --delete nameserver",
    );
    restart();
    assert_eq!(guest().cloud_init_runs, 4);
    snippets(&lab, "#cloud-config\nusers: [{name: other}]\n", "instance-id: fixed\n");
    lab.control().host_resolver("192.0.2.8").unwrap();
    restart();
    assert_eq!(guest().cloud_init_runs, 4, "a fixed id pins it");
}

#[test]
fn a_guest_can_power_itself_off() {
    let lab = with_guest(node());
    run(&lab, "qm guest exec 100 --synchronous 0 -- poweroff");
    until("it is off", || lab.control().snapshot().unwrap().guests[&100].power == Power::Stopped);
}
