//! The HTTPS API: who may, what is said, in which form.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: no doors to guard, and they end where they cannot go on"
)]

mod common;

use std::time::{Duration, Instant};

use common::{api, node, ok, raw, request, with_guest};
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use serde_json::{Value, json};

#[test]
fn h39_a_bad_token_is_401_without_body_and_late() {
    let lab = node().node(|node| node.timing.auth_delay = 300).start().unwrap();
    for header in
        ["", "Authorization: PVEAPIToken=blockhost@pve!tf=wrong\r\n", "Authorization: Basic eDp5\r\n"]
    {
        let begun = Instant::now();
        let reply = request(&lab, "GET", "/version", header, "");
        assert_eq!(
            (reply.code, reply.reason.as_str(), &reply.body),
            (401, "Authentication failed!", &Value::Null)
        );
        assert!(begun.elapsed() >= Duration::from_millis(300), "{header}");
    }
    let eight = node().pve(8).node(|node| node.timing.auth_delay = 0).start().unwrap();
    let reply = request(&eight, "GET", "/version", "Authorization: PVEAPIToken=a@pve!b=c\r\n", "");
    assert_eq!((reply.code, reply.reason.as_str()), (401, "no such token 'a@pve!b'"));
}

#[test]
fn the_delay_of_a_bad_token_is_three_seconds_by_default() {
    assert_eq!(lab::model::Timing::instant().auth_delay, 3_000);
    assert_eq!(lab::model::Timing::real().auth_delay, 3_000);
}

#[test]
fn h39_a_refusal_comes_before_existence_and_missing_is_500() {
    let lab = with_guest(node());
    lab.control().add_guest(NewGuest { vmid: 150, name: "other".into(), ..NewGuest::default() }).unwrap();
    for vmid in [150, 151] {
        let reply = api(&lab, "GET", &format!("/nodes/pve/qemu/{vmid}/config"), "");
        let text = format!("Permission check failed (/vms/{vmid}, VM.Audit)");
        assert_eq!((reply.code, reply.reason.as_str(), reply.message()), (403, text.as_str(), text.as_str()));
    }
    let all = node().node(|node| node.token_may_all = true).start().unwrap();
    let reply = api(&all, "GET", "/nodes/pve/qemu/151/status/current", "");
    let text = "Configuration file 'nodes/pve/qemu-server/151.conf' does not exist";
    assert_eq!((reply.code, reply.reason.as_str(), reply.message()), (500, text, text));
    let reply = api(&all, "POST", "/nodes/pve/qemu/151/clone", "newid=152");
    assert_eq!(reply.reason, "unable to find configuration file for VM 151 on node 'pve'");
}

#[test]
fn h49_lists_show_what_the_token_may_see() {
    let lab = with_guest(node());
    lab.control().add_guest(NewGuest { vmid: 150, name: "other".into(), ..NewGuest::default() }).unwrap();
    let seen = |path: &str| -> Vec<u64> {
        let reply = api(&lab, "GET", path, "");
        reply.data().as_array().unwrap().iter().map(|entry| entry["vmid"].as_u64().unwrap()).collect()
    };
    assert_eq!(seen("/cluster/resources?type=vm"), [100, 9001]);
    assert_eq!(seen("/nodes/pve/qemu"), [100, 9001]);
    lab.control().pool(100, None).unwrap();
    assert_eq!(seen("/cluster/resources?type=vm"), [9001]);
    lab.control().grant("/", "blockhost@pve", "PVEAuditor").unwrap();
    assert_eq!(seen("/cluster/resources?type=vm"), [100, 150, 9001]);
}

#[test]
fn unknown_paths_and_wrong_bodies_are_501() {
    let lab = node().start().unwrap();
    let reply = api(&lab, "GET", "/nonsense/x", "");
    assert_eq!((reply.code, reply.reason.as_str()), (501, "Method 'GET /nonsense/x' not implemented"));
    assert_eq!(api(&lab, "PUT", "/nodes/pve/qemu/9001/status/current", "").code, 501);
    let body = api(&lab, "GET", "/version", "a=b");
    assert_eq!((body.code, body.reason.as_str()), (501, "Unexpected content for method 'GET'"));
    let chunked = raw(
        &lab,
        &format!(
            "POST /api2/json/pools HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: PVEAPIToken={}\r\n\
             Transfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n",
            lab.token()
        ),
    );
    assert!(chunked.starts_with("HTTP/1.1 501 chunked transfer encoding not supported\r\n"), "{chunked}");
    let large = api(&lab, "POST", "/pools", &"x".repeat(513 << 10));
    assert_eq!(large.code, 501);
}

#[test]
fn errors_have_message_reason_and_parameters() {
    let lab = with_guest(node());
    let reply = api(&lab, "PUT", "/nodes/pve/qemu/100/config", "iops_rd=100");
    assert_eq!((reply.code, reply.reason.as_str()), (400, "Parameter verification failed."));
    assert_eq!(
        reply.body,
        json!({"data": null, "message": "Parameter verification failed.\n", "errors": {"iops_rd":
            "property is not defined in schema and the schema does not allow additional properties\n"}})
    );
    let reply = api(&lab, "POST", "/nodes/pve/qemu/100/status/stop", "skiplock=1");
    assert_eq!(reply.body["errors"]["skiplock"], "Only root may use this option.\n");
    let reply = api(&lab, "POST", "/nodes/pve/qemu/100/status/start", "colour=red");
    assert_eq!(reply.code, 400);
    assert_eq!(api(&lab, "GET", "/nodes/pve/qemu/99/config", "").code, 400);
}

#[test]
fn forms_and_json_bodies_do_the_same() {
    let lab = with_guest(node());
    let headers = format!("Authorization: PVEAPIToken={}\r\nContent-Type: application/json\r\n", lab.token());
    let reply =
        request(&lab, "PUT", "/nodes/pve/qemu/100/config", &headers, r#"{"onboot": true, "tags": "b;a"}"#);
    assert_eq!(reply.body, json!({"data": null}));
    let guest = &lab.control().snapshot().unwrap().guests[&100];
    assert!(guest.onboot && guest.tags == "a;b");
    api(&lab, "PUT", "/nodes/pve/qemu/100/config", "onboot=0&delete=tags").data();
    let guest = &lab.control().snapshot().unwrap().guests[&100];
    assert!(!guest.onboot && guest.tags.is_empty());
}

#[test]
fn json_types_are_those_the_provider_reads() {
    let lab = with_guest(node());
    let reply = api(&lab, "GET", "/nodes/pve/qemu/100/config", "");
    let config = reply.data();
    for number in ["cores", "sockets", "numa"] {
        assert!(config[number].is_number(), "{number}: {config}");
    }
    for text in ["memory", "agent", "boot", "net0", "scsi0", "ide2", "smbios1", "digest", "name"] {
        assert!(config[text].is_string(), "{text}: {config}");
    }
    assert_eq!(config["digest"].as_str().unwrap().len(), 40);
    let reply = api(&lab, "GET", "/nodes/pve/qemu/100/status/current", "");
    let status = reply.data();
    assert_eq!((status["status"].as_str(), status["qmpstatus"].as_str()), (Some("running"), Some("running")));
    assert!(status["vmid"].is_u64() && status["maxmem"].is_u64() && status["agent"] == 1);
    assert_eq!((status["cpu"].as_f64(), status["disk"].as_u64()), (Some(0.0), Some(0)));
    assert!(
        status["blockstat"]["scsi0"]["rd_operations"].is_u64()
            && status["nics"]["tap100i0"]["netin"].is_u64()
    );
    assert_eq!(*api(&lab, "GET", "/nodes/pve/storage/local/content?content=snippets", "").data(), json!([]));
    assert_eq!(api(&lab, "GET", "/nodes/pve/qemu/9001/config", "").data()["template"], 1);
}

#[test]
fn h38_status_is_running_or_stopped_and_qmpstatus_tells_more() {
    let lab = with_guest(node());
    ok(&lab, "qm suspend 100");
    let reply = api(&lab, "GET", "/nodes/pve/qemu/100/status/current", "");
    assert_eq!(
        (reply.data()["status"].as_str(), reply.data()["qmpstatus"].as_str()),
        (Some("running"), Some("paused"))
    );
    ok(&lab, "qm resume 100");
    ok(&lab, "qm stop 100");
    let reply = api(&lab, "GET", "/nodes/pve/qemu/100/rrddata?timeframe=hour", "");
    let points = reply.data().as_array().unwrap();
    assert_eq!(points.len(), 60);
    assert!(points.iter().all(|point| point.get("cpu").is_none() && point.get("maxmem").is_some()));
    let reply = api(&lab, "GET", "/nodes/pve/qemu/100/status/current", "");
    assert!(reply.data().get("blockstat").is_none());
}

#[test]
fn h01_the_lowest_free_vmid_comes_back_at_once() {
    let lab = node().start().unwrap();
    let next = || api(&lab, "GET", "/cluster/nextid", "").data().as_str().unwrap().to_owned();
    assert_eq!(next(), "100");
    ok(&lab, "qm clone 9001 100");
    lab.control().add_guest(NewGuest { vmid: 101, container: true, ..NewGuest::default() }).unwrap();
    assert_eq!(next(), "102");
    let reply = api(&lab, "GET", "/cluster/nextid?vmid=101", "");
    assert_eq!((reply.code, reply.body["errors"]["vmid"].as_str()), (400, Some("VM 101 already exists\n")));
    assert_eq!(*api(&lab, "GET", "/cluster/nextid?vmid=500", "").data(), json!("500"));
    ok(&lab, "qm destroy 100");
    assert_eq!(next(), "100");
}

#[test]
fn a_new_guest_is_nameless_in_resources_for_a_while() {
    let lab = node().resources_lag_ms(400).start().unwrap();
    ok(&lab, "qm clone 9001 100 --name web-1 --pool blockhost");
    let entry = || {
        let reply = api(&lab, "GET", "/cluster/resources?type=vm", "");
        reply.data().as_array().unwrap().iter().find(|entry| entry["vmid"] == 100).unwrap().clone()
    };
    let young = entry();
    assert_eq!(
        (young.get("name"), young["status"].as_str(), young["node"].as_str()),
        (None, Some("unknown"), Some("pve"))
    );
    std::thread::sleep(Duration::from_millis(420));
    assert_eq!(entry()["name"], "web-1");
}

#[test]
fn tasks_are_found_by_their_encoded_name_and_only_by_their_owner() {
    let lab = with_guest(node());
    let reply = api(&lab, "POST", "/nodes/pve/qemu/100/status/stop", "");
    let upid = reply.data().as_str().unwrap().to_owned();
    assert!(upid.ends_with(":qmstop:100:blockhost@pve!tf:"), "{upid}");
    for name in [upid.clone(), upid.replace('!', "%21").replace(':', "%3A")] {
        let reply = api(&lab, "GET", &format!("/nodes/pve/tasks/{name}/status"), "");
        assert_eq!(
            (reply.data()["status"].as_str(), reply.data()["exitstatus"].as_str()),
            (Some("stopped"), Some("OK"))
        );
    }
    let reply = api(&lab, "GET", &format!("/nodes/pve/tasks/{upid}/log"), "");
    assert_eq!(*reply.data(), json!([{"n": 1, "t": "TASK OK"}]));
    let reply = api(&lab, "GET", "/nodes/pve/tasks/UPID:pve:1:2:3:qmstop:1:x@pve:/status", "");
    assert_eq!((reply.code, reply.message()), (400, "no such task"));
}

#[test]
fn h40_the_agent_needs_another_privilege_in_each_version() {
    for pve in [8, 9] {
        let lab = with_guest(node().pve(pve));
        assert_eq!(*api(&lab, "POST", "/nodes/pve/qemu/100/agent/ping", "").data(), json!({"result": {}}));
        let reply = api(&lab, "POST", "/nodes/pve/qemu/100/agent/exec", "command=true");
        match pve {
            8 => assert!(reply.data()["pid"].is_u64()),
            _ => assert_eq!(reply.reason, "Permission check failed (/vms/100, VM.GuestAgent.Unrestricted)"),
        }
    }
}

#[test]
fn h29_the_token_cannot_leave_its_pool() {
    let lab = with_guest(node());
    for (body, text) in [
        ("newid=101", "Permission check failed"),
        (
            "newid=101&pool=blockhost&storage=local",
            "Permission check failed (/storage/local, Datastore.AllocateSpace)",
        ),
    ] {
        let reply = api(&lab, "POST", "/nodes/pve/qemu/9001/clone", body);
        assert_eq!((reply.code, reply.reason.as_str()), (403, text));
    }
    for (method, path, body) in [
        ("POST", "/nodes/pve/qemu/9001/status/start", ""),
        ("PUT", "/nodes/pve/qemu/9001/config", "name=x"),
        ("DELETE", "/nodes/pve/qemu/9001", ""),
        ("GET", "/storage/local", ""),
        ("PUT", "/nodes/pve/qemu/100/config", "net0=virtio,bridge=vmbr1"),
    ] {
        assert_eq!(api(&lab, method, path, body).code, 403, "{method} {path}");
    }
    assert_eq!(
        api(&lab, "PUT", "/nodes/pve/qemu/100/config", "args=-s").reason,
        "only root can set 'args' config"
    );
}

#[test]
fn h49_a_migrated_guest_is_missing_here_and_known_there() {
    let lab = with_guest(node());
    lab.control().migrate(100, "pve2").unwrap();
    assert_eq!(api(&lab, "GET", "/nodes/pve/qemu/100/config", "").code, 500);
    assert_eq!(api(&lab, "GET", "/nodes/pve2/qemu/100/config", "").code, 200);
    let list = std::fs::read_to_string(lab.path("node/etc/pve/.vmlist")).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["ids"]["100"]["node"], "pve2");
    assert!(!lab.path("node/etc/pve/qemu-server/100.conf").exists());
}

#[test]
fn faults_change_answers_and_cut_connections() {
    let lab = with_guest(node());
    let control = lab.control();
    let path = "/nodes/pve/qemu/100/status/current";
    let busy = FaultAction::Error { message: "pvedaemon is away".into(), code: Some(596) };
    control.fault("api.GET /nodes/{node}/qemu/{vmid}/status/current", busy, 1).unwrap();
    let reply = api(&lab, "GET", path, "");
    assert_eq!((reply.code, reply.message()), (596, "pvedaemon is away"));
    assert_eq!(api(&lab, "GET", path, "").code, 200);
    control.fault("api.POST */status/stop.after", FaultAction::Kill, 1).unwrap();
    let cut = raw(
        &lab,
        &format!(
            "POST /api2/json/nodes/pve/qemu/100/status/stop HTTP/1.1\r\nHost: x\r\nAuthorization: PVEAPIToken={}\r\nContent-Length: 0\r\n\r\n",
            lab.token()
        ),
    );
    assert_eq!(cut, "");
    assert_eq!(ok(&lab, "qm status 100"), "status: stopped\n", "the act was done all the same");
    let calls = control.calls(0).unwrap();
    assert!(
        calls.iter().any(|call| call.what == "POST /nodes/pve/qemu/100/status/stop" && call.code.is_none())
    );
}

#[test]
fn the_lab_paths_serve_the_provider() {
    let lab: Lab = node().start().unwrap();
    lab.control().fault("provider.create.clone", FaultAction::Kill, 1).unwrap();
    let ask = |body: &str| {
        let text = raw(
            &lab,
            &format!(
                "POST /lab/fault HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
        serde_json::from_str::<Value>(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    let body = r#"{"point":"provider.create.clone.before"}"#;
    assert_eq!(ask(body), json!({"action": "kill"}));
    assert_eq!(ask(body), json!({"action": null}));
    let store = |volid: &str| {
        let body = json!({"volid": volid, "text": "#cloud-config\n"}).to_string();
        raw(
            &lab,
            &format!(
                "POST /lab/snippet HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        )
    };
    assert!(store("local:snippets/x.yaml").starts_with("HTTP/1.1 200"));
    for wrong in ["local:snippets/../x", "local:iso/x", "x"] {
        assert!(store(wrong).starts_with("HTTP/1.1 400"), "{wrong}");
    }
    assert_eq!(lab.control().snapshot().unwrap().snippets["x.yaml"], "#cloud-config\n");
    let reply = api(&lab, "GET", "/nodes/pve/storage/local/content?content=snippets", "");
    assert_eq!(reply.data()[0]["volid"], "local:snippets/x.yaml");
    assert_eq!(api(&lab, "DELETE", "/nodes/pve/storage/local/content/local:snippets%2Fx.yaml", "").code, 403);
    lab.control().grant("/storage/local", "blockhost@pve", "Administrator").unwrap();
    assert_eq!(api(&lab, "DELETE", "/nodes/pve/storage/local/content/local:snippets%2Fx.yaml", "").code, 200);
    assert!(lab.control().snapshot().unwrap().snippets.is_empty());
}

#[test]
fn one_request_tells_of_nodes_guests_and_storages_as_far_as_a_real_node_does() {
    let lab = with_guest(node());
    let all = || api(&lab, "GET", "/cluster/resources", "").data().clone();
    let row = |all: &Value, id: &str| {
        all.as_array().unwrap().iter().find(|row| row["id"] == id).cloned().unwrap_or_default()
    };
    let before = all();
    assert_eq!(row(&before, "node/pve")["maxmem"], 32u64 << 30);
    assert_eq!(row(&before, "node/pve")["mem"], 8u64 << 30, "the token may audit the node");
    assert!(row(&before, "qemu/100")["maxmem"].is_u64());
    let storage = row(&before, "storage/pve/local-lvm");
    assert_eq!([&storage["plugintype"], &storage["maxdisk"]], [&json!("lvmthin"), &json!(4096u64 << 30)]);
    // A node that is off has no figures, nor have its guests; another node's use is not for this token.
    lab.control().migrate(100, "pve2").unwrap();
    let moved = all();
    assert_eq!(
        [&row(&moved, "node/pve2")["maxmem"], &row(&moved, "node/pve2")["mem"]],
        [&json!(32u64 << 30), &Value::Null]
    );
    lab.control().peer("pve2", false, 32 << 30).unwrap();
    let off = all();
    assert_eq!(
        [&row(&off, "node/pve2")["status"], &row(&off, "node/pve2")["maxmem"]],
        [&json!("offline"), &Value::Null]
    );
    assert_eq!(
        [&row(&off, "qemu/100")["status"], &row(&off, "qemu/100")["maxmem"]],
        [&json!("unknown"), &Value::Null]
    );
    // A disabled storage is not listed here, and elsewhere has zeros.
    lab.control().storage("local-lvm", None, Some(false)).unwrap();
    assert_eq!(row(&all(), "storage/pve/local-lvm"), Value::Null);
    let status = api(&lab, "GET", "/nodes/pve/storage/local-lvm/status", "").data().clone();
    assert_eq!([&status["active"], &status["total"], &status["avail"]], [&json!(0); 3]);
}
