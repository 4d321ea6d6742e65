//! Root agents that answer nonsense, nothing, or late (hazards H17, H23, H48, H49).

use crate::support::{assert_same_content, create, database, host_tree, run, vm, with_key};
use lab::Lab;
use lab::model::FaultAction;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A daemon of the test's own in place of the root agent.
struct Impostor {
    answers: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<Value>>>,
}

type Answer = Box<dyn Fn(&Value) -> Vec<u8> + Send>;

impl Impostor {
    fn sit_down(lab: &Lab) -> Impostor {
        let path = lab.path("run/root-agent.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let nothing: Answer = Box::new(|_| Vec::new());
        let (answers, asked) = (Arc::new(Mutex::new(nothing)), Arc::new(Mutex::new(Vec::new())));
        let (answering, noting) = (answers.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &answering, &noting);
            }
        });
        Impostor { answers, asked }
    }

    fn answers(&self, answer: impl Fn(&Value) -> Vec<u8> + Send + 'static) {
        *self.answers.lock().unwrap() = Box::new(answer);
        self.asked.lock().unwrap().clear();
    }

    fn actions(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|r| r["action"].as_str().unwrap().to_string()).collect()
    }
}

fn serve(mut stream: UnixStream, answers: &Mutex<Answer>, asked: &Mutex<Vec<Value>>) {
    let mut length = [0; 4];
    if stream.read_exact(&mut length).is_err() {
        return;
    }
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    if stream.read_exact(&mut body).is_err() {
        return;
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    let bytes = answers.lock().unwrap()(&request);
    asked.lock().unwrap().push(request);
    let _ = stream.write_all(&bytes);
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A lab with one running VM whose root agent has been replaced.
fn lab_with_impostor() -> (Lab, Impostor) {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "vm-1", &[]).ok();
    lab.control().stop_root_agent().unwrap();
    let impostor = Impostor::sit_down(&lab);
    (lab, impostor)
}

#[test]
fn h49_an_answer_that_is_none_is_never_an_absence() {
    let (lab, impostor) = lab_with_impostor();
    let (host, node) = (host_tree(&lab), lab.control().snapshot().unwrap());
    let object = |value: Value| framed(value.to_string().as_bytes());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("closed at once", vec![], "closed the connection"),
        ("closed in the length", vec![0, 0], "closed the connection"),
        ("closed in the middle", vec![0, 0, 0, 50, b'{', b'"'], "closed the connection"),
        ("not JSON", framed(b"Traceback (most recent call last):\n  x"), "not JSON"),
        ("empty", framed(b""), "not JSON"),
        ("no UTF-8", framed(b"{\"ok\": true, \"x\": \"\xff\"}"), "not JSON"),
        ("not an object", framed(b"[true]"), "not JSON"),
        ("cut off", framed(br#"{"ok": true, "exists": fal"#), "not JSON"),
        ("too large", [vec![0xff; 4], vec![b'x'; 100]].concat(), "larger than 10 MiB"),
        ("just too large", (10u32 * 1024 * 1024 + 1).to_be_bytes().to_vec(), "larger than 10 MiB"),
        ("no more than ok", object(json!({"ok": true})), "vm-state"),
        ("wrong types", object(json!({"ok": true, "exists": "no", "running": 0})), "vm-state"),
        ("null", object(json!({"ok": true, "exists": null})), "vm-state"),
        ("ok as text", object(json!({"ok": "true", "exists": false})), "no reason given"),
        ("no without words", object(json!({"ok": false})), "no reason given"),
        ("several lines", object(json!({"ok": false, "error": "one\ntwo\n\nthree"})), "one two"),
        (
            "unknown action",
            object(json!({"ok": false, "error": "Unknown action: vm-state"})),
            "Unknown action",
        ),
    ];
    for (why, bytes, word) in cases {
        impostor.answers(move |_| bytes.clone());
        for verb in ["start", "stop", "kill", "destroy"] {
            let ended = vm(&lab, verb, &["vm-1"]);
            ended.fails_in_one_line(&["vm-1", word]);
            assert!(impostor.actions().iter().all(|a| a == "vm-state"), "{why}: {:?}", impostor.actions());
        }
        let status = vm(&lab, "status", &["vm-1"]).ok();
        assert_eq!(status.out, "active\n", "{why}: the database's word");
        assert!(status.err.contains("its last known state"), "{why}: {status:?}");
        let list = vm(&lab, "list", &["--live", "--format", "json"]).ok();
        assert!(list.out.contains(r#""status": "active""#), "{why}: {list:?}");
    }
    assert_same_content(&host, &host_tree(&lab), "nonsense");
    assert_eq!(node, lab.control().snapshot().unwrap());
    assert_eq!(database(&lab)["vms"]["vm-1"]["status"], "active");
}

#[test]
fn h48_a_destroy_whose_agent_talks_nonsense_half_way_keeps_the_record() {
    let (lab, impostor) = lab_with_impostor();
    let uuid = database(&lab)["vms"]["vm-1"]["smbios_uuid"].clone();
    impostor.answers(move |request| {
        let state = json!({"ok": true, "exists": true, "node": "pve", "running": false, "paused": null,
            "name": "vm-1", "uuid": uuid, "description": "", "lock": null, "onboot": true, "template": false});
        framed(if request["action"] == "vm-state" { state.to_string() } else { "nonsense".into() }.as_bytes())
    });
    // What became of the request is unknown, and the agent says that the VM is there all the same: it is not gone.
    let mut command = lab.command("blockhost-vm-destroy");
    let ended = run(command.arg("vm-1").env("BLOCKHOST_FAULT", "limit@destroy=4500"));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("VM vm-1 (VMID 100)") && ended.err.contains("still deleting"), "{ended:?}");
    let db = database(&lab);
    assert_eq!(db["vms"]["vm-1"]["status"], "active");
    assert_eq!(db["allocated_ips"], json!(["192.168.122.200"]));
}

#[test]
fn h23_a_silent_agent_holds_nobody_longer_than_their_limit() {
    let (lab, _) = {
        let lab = with_key(Lab::builder().start().unwrap());
        create(&lab, "vm-1", &[]).ok();
        (lab, ())
    };
    lab.control().fault("agent.vm-state", FaultAction::Hang, 100).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let lab = &lab;
        scope.spawn(move || {
            let status = vm(lab, "status", &["vm-1"]).ok();
            assert_eq!(status.out, "active\n");
            assert!(status.err.contains("did not answer"), "{status:?}");
        });
        // One of the two has the VM's turn and asks; the other waits for the turn, or says whose it is.
        let verbs = ["start", "kill"].map(|verb| scope.spawn(move || vm(lab, verb, &["vm-1"])));
        let ended = verbs.map(|verb| verb.join().unwrap());
        let asked = ended.iter().filter(|ended| ended.err.contains("did not answer")).count();
        assert!(asked >= 1, "{ended:?}");
        for ended in ended {
            let asked = ended.err.contains("did not answer");
            let why = if asked { "did not answer" } else { "another operation is in progress" };
            ended.fails_in_one_line(&["vm-1", why]);
        }
    });
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn no_agent_a_dead_one_and_one_that_may_not_be_asked_are_told_apart() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "vm-1", &[]).ok();
    lab.control().stop_root_agent().unwrap();
    let path = lab.path("run/root-agent.sock");
    vm(&lab, "kill", &["vm-1"]).fails_in_one_line(&["vm-1", "root-agent.sock does not exist"]);
    drop(UnixListener::bind(&path).unwrap());
    vm(&lab, "kill", &["vm-1"]).fails_in_one_line(&["vm-1", "refuses connections"]);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    vm(&lab, "kill", &["vm-1"]).fails_in_one_line(&["vm-1", "refuses connections"]);
    std::fs::remove_file(&path).unwrap();
    // A create finds out before terraform makes anything, and gives back what it took.
    let ended = create(&lab, "vm-2", &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("root-agent.sock does not exist"), "{ended:?}");
    assert!(!lab.path("var/terraform/vms/vm-2").exists());
    assert_eq!(lab.control().snapshot().unwrap().guests.len(), 2);
    lab.control().restart_root_agent(0).unwrap();
    let result = create(&lab, "vm-2", &[]).result();
    assert_eq!((&result["vmid"], &result["ip"]), (&101.into(), &"192.168.122.201".into()));
}

#[test]
fn h48_faults_of_every_kind_around_each_action_of_a_create_end_in_a_clear_error_or_a_vm() {
    let lab = with_key(Lab::builder().start().unwrap());
    let before = lab.control().snapshot().unwrap();
    let faults =
        [FaultAction::Garbage, FaultAction::Huge, FaultAction::Kill, FaultAction::error("it is Monday")];
    for action in ["snippet-put", "vm-state"] {
        for when in ["before", "after"] {
            for fault in &faults {
                let why = format!("{fault:?} {when} {action}");
                lab.control().fault(&format!("agent.{action}.{when}"), fault.clone(), 1).unwrap();
                let ended = create(&lab, "vm-1", &[]);
                lab.control().clear_faults().unwrap();
                if ended.code == Some(0) {
                    vm(&lab, "destroy", &["vm-1"]).ok();
                } else {
                    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{why}: {ended:?}");
                    let last = ended.err.lines().last().unwrap_or_default();
                    assert!(last.starts_with("error: VM vm-1"), "{why}: {ended:?}");
                    assert!(!lab.path("var/journal/vm-1.json").exists(), "{why}: undone");
                }
                let now = lab.control().snapshot().unwrap();
                assert_eq!(
                    (&before.guests, &before.snippets, &before.volumes),
                    (&now.guests, &now.snippets, &now.volumes),
                    "{why}"
                );
                let db = database(&lab);
                assert_eq!(db["allocated_ips"], json!([]), "{why}");
                if db["vms"]["vm-1"].is_object() {
                    assert_eq!(db["vms"]["vm-1"]["status"], "destroyed", "{why}");
                    std::fs::write(
                        lab.path("var/vms.json"),
                        r#"{"vms": {}, "next_vmid": 100, "allocated_ips": [], "allocated_ipv6": []}"#,
                    )
                    .unwrap();
                } else {
                    assert_eq!(db["next_vmid"], 100, "{why}");
                }
            }
        }
    }
}
