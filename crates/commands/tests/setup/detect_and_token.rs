//! Detection, the token, and what holds for all steps: run again, killed, fed with nonsense.

use super::bare::{Bare, fails};
use super::namespace::answer;
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

#[test]
fn detect_tells_a_node_by_its_exit_code_and_is_silent() {
    let bare = Bare::without_provider();
    let here = bare.0.command("blockhost-provisioner-detect").output().unwrap();
    assert_eq!((here.status.code(), here.stdout.len(), here.stderr.len()), (Some(0), 0, 0));
    let elsewhere = bare.0.command("blockhost-provisioner-detect").env("PATH", "/nowhere").output().unwrap();
    assert_eq!((elsewhere.status.code(), elsewhere.stdout.len(), elsewhere.stderr.len()), (Some(1), 0, 0));
}

#[test]
fn what_the_wizard_shows_is_found() {
    let bare = Bare::without_provider();
    bare.0
        .control()
        .add_guest(NewGuest { vmid: 105, name: "somebody".into(), ..NewGuest::default() })
        .unwrap();
    let answer = answer(&bare.setup("detect-resources", ""));
    let found = &answer["resources"];
    assert_eq!(found["node"], "pve");
    let first = &found["storages"][0];
    assert_eq!(
        (&first["name"], &first["type"], &first["images"]),
        (&json!("local-lvm"), &json!("lvmthin"), &json!(true))
    );
    assert!(first["free_gib"].as_u64().unwrap() <= first["total_gib"].as_u64().unwrap());
    assert_eq!(found["bridges"], json!([{"name": "vmbr0", "address": "192.168.122.1/24"}]));
    assert_eq!(
        found["template"],
        json!({"vmid": 9001, "name": "debian-12-web3-template", "is_template": true})
    );
    assert_eq!(found["used_vmids"], json!([105, 9001]));
    assert_eq!(found["network"]["ip_network"], "192.168.122.0/24");
    assert_eq!(found["wan_address"], "192.168.122.1");
}

#[test]
fn what_cannot_be_found_out_is_empty_and_no_failure() {
    let bare = Bare::without_provider();
    for tool in ["pvesh", "ip"] {
        fs::remove_file(bare.0.path("bin").join(tool)).unwrap();
    }
    let done = bare
        .0
        .command("blockhost-provisioner-setup")
        .arg("detect-resources")
        .env("PATH", "/nowhere")
        .output();
    let answer = answer(&done.unwrap());
    assert_eq!(answer["resources"]["storages"], json!([]));
    assert_eq!(answer["resources"]["node"], Value::Null);
}

#[test]
fn h29_h40_the_token_has_the_least_privileges_and_they_are_enough_on_8_and_9() {
    for (release, provider) in [(8, "0.93.0"), (9, "0.111.1")] {
        let bare = Bare::of(Lab::builder().provider(provider).node(move |node| node.pve = release));
        for step in ["token", "terraform", "db_config", "bridge"] {
            bare.ok(step);
        }
        let rules: Value =
            serde_json::from_str(&bare.pveum(&["acl", "list", "--output-format", "json"])).unwrap();
        let mut of_token: Vec<String> = rules
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| rule["ugid"] == "blockhost@pve!provisioner")
            .map(|rule| format!("{} {}", rule["path"].as_str().unwrap(), rule["roleid"].as_str().unwrap()))
            .collect();
        of_token.sort();
        assert_eq!(
            of_token,
            [
                "/nodes/pve BlockHostNode",
                "/pool/blockhost BlockHost",
                "/sdn/zones/localnetwork/vmbr0 BlockHostNetwork",
                "/storage/local-lvm BlockHostStorage",
                "/vms/9001 BlockHostTemplate",
            ]
        );
        assert!(rules.as_array().unwrap().iter().all(|rule| rule["roleid"] != "Administrator"));
        let tokens = bare.pveum(&["user", "token", "list", "blockhost@pve", "--output-format", "json"]);
        assert!(tokens.contains("\"privsep\":1"), "{tokens}");
        bare.makes_a_vm();
    }
}

#[test]
fn every_step_can_be_run_again_and_changes_nothing_then() {
    let bare = Bare::new();
    for step in ["token", "terraform", "db_config", "bridge"] {
        bare.ok(step);
    }
    let files = [
        "etc/blockhost/pve-token",
        "etc/blockhost/db.yaml",
        "etc/blockhost/terraform_ssh_key",
        "home/.ssh/authorized_keys",
        "var/terraform/terraform.tfvars",
        "var/terraform/provider.tf.json",
        "var/terraform/variables.tf.json",
        "var/vms.json",
    ];
    let texts = || files.map(|file| bare.text(file));
    let (before, access) = (texts(), bare.access());
    let since = bare.0.control().last_call().unwrap();
    for step in ["token", "terraform", "db_config", "bridge"] {
        bare.ok(step);
        // As a person at a shell, or a package's upgrade, runs it: nothing on standard input.
        assert_eq!(answer(&bare.setup(step, ""))["ok"], true, "{step}");
    }
    assert_eq!(texts(), before);
    let calls = bare.0.control().calls(since).unwrap();
    let changing = calls.iter().filter(|call| {
        [" add ", " modify ", " delete ", " create ", " set "].iter().any(|word| call.what.contains(word))
    });
    assert_eq!(changing.count(), 0, "{calls:?}");
    assert_eq!(bare.access(), access);
}

#[test]
fn a_token_whose_secret_is_lost_or_wrong_is_renewed() {
    let bare = Bare::new();
    bare.ok("token");
    bare.ok("terraform");
    bare.ok("db_config");
    let first = bare.token();
    fs::remove_file(bare.0.path("etc/blockhost/pve-token")).unwrap();
    bare.ok("token");
    let second = bare.token();
    assert_ne!(first, second);
    fs::write(bare.0.path("etc/blockhost/pve-token"), "blockhost@pve!provisioner=0000-wrong\n").unwrap();
    bare.ok("token");
    assert!(![first, second].contains(&bare.token()));
    assert!(bare.text("var/terraform/terraform.tfvars").contains(&bare.token()));
    bare.makes_a_vm();
}

#[test]
fn h49_a_token_is_not_renewed_because_the_api_does_not_answer() {
    let bare = Bare::without_provider();
    bare.ok("token");
    let (token, access) = (bare.token(), bare.access());
    bare.0.control().fault("api.GET /version", FaultAction::error("internal error"), 99).unwrap();
    fails(&bare.step("token", &bare.answers()), &["cannot tell whether the token is still valid"]);
    assert_eq!((bare.token(), bare.access()), (token, access));
}

#[test]
fn h29_root_at_pam_is_never_used() {
    let bare = Bare::without_provider();
    let mut answers = bare.answers();
    answers["user"] = json!("root@pam");
    let done = bare.setup("token", &json!({"provisioner": answers}).to_string());
    assert_eq!(answer(&done)["ok"], true);
    assert!(String::from_utf8_lossy(&done.stderr).contains("root@pam"), "{done:?}");
    assert!(bare.token().starts_with("blockhost@pve!"));
}

#[test]
fn rules_that_are_wanted_no_longer_go_and_other_peoples_stay() {
    let bare = Bare::without_provider();
    bare.ok("token");
    bare.pveum(&["acl", "modify", "/storage/local", "--users", "blockhost@pve", "--roles", "PVEAuditor"]);
    let mut answers = bare.answers();
    answers["storage"] = json!("local");
    assert_eq!(bare.step("token", &answers)["ok"], true);
    let rules = bare.pveum(&["acl", "list", "--output-format", "json"]);
    assert!(!rules.contains("/storage/local-lvm") && rules.contains("PVEAuditor"), "{rules}");
    assert_eq!(rules.matches("BlockHostStorage").count(), 2, "user and token: {rules}");
}

#[test]
fn whichever_call_fails_nothing_half_made_stays_and_the_next_run_succeeds() {
    let bare = Bare::without_provider();
    let access = bare.access();
    bare.count_calls("pveum", None);
    bare.count_calls("pvesh", None);
    bare.ok("token");
    let counts = [("pveum", bare.calls_counted("pveum")), ("pvesh", bare.calls_counted("pvesh"))];
    assert!(counts[0].1 > 12, "{counts:?}");
    let clean = Bare::without_provider();
    for (tool, calls) in counts {
        for number in 1..=calls {
            clean.count_calls("pveum", None);
            clean.count_calls("pvesh", None);
            clean.count_calls(tool, Some(number));
            let failed = clean.step("token", &clean.answers());
            fails(&failed, &["no quorum"]);
            clean.count_calls(tool, None);
            assert_eq!(clean.access(), access, "{tool} call {number}: {failed}");
            assert!(!clean.0.path("etc/blockhost/pve-token").exists());
        }
    }
    clean.ok("token");
}

#[test]
fn h14_killed_at_every_step_it_is_finished_by_the_next_run() {
    let trace = Bare::new();
    let points = trace.0.path("run/points");
    let traced = |step: &str| {
        let mut command = trace.0.command("blockhost-provisioner-setup");
        command.arg(step).env("BLOCKHOST_FAULT", format!("trace@{}", points.display()));
        let done = trace.run_with(command, &json!({"provisioner": trace.answers()}).to_string());
        assert_eq!(answer(&done)["ok"], true);
        let found = fs::read_to_string(&points).unwrap();
        fs::remove_file(&points).unwrap();
        let mut found: Vec<String> = found.lines().map(str::to_owned).collect();
        found.sort();
        found.dedup();
        found
    };
    for step in ["token", "terraform", "db_config"] {
        let points = traced(step);
        assert!(points.len() > 2, "{points:?}");
        for point in points {
            let bare = if step == "terraform" { Bare::new() } else { Bare::without_provider() };
            if step == "terraform" {
                bare.ok("token");
            }
            let mut command = bare.0.command("blockhost-provisioner-setup");
            command.arg(step).env("BLOCKHOST_FAULT", format!("kill@{point}"));
            let killed = bare.run_with(command, &json!({"provisioner": bare.answers()}).to_string());
            assert_ne!(killed.status.code(), Some(0), "{step} {point}: {killed:?}");
            bare.ok(step);
            let left = |folder: &str| {
                let names =
                    fs::read_dir(bare.0.path(folder)).unwrap().flatten().map(|entry| entry.file_name());
                names.filter(|name| name.to_string_lossy().ends_with(".tmp")).count()
            };
            assert_eq!((left("etc/blockhost"), left("var/terraform")), (0, 0), "{point}");
        }
    }
}

#[test]
fn h30_the_secret_stands_in_no_argument_and_no_output() {
    let bare = Bare::without_provider();
    let since = bare.0.control().last_call().unwrap();
    let done = bare.setup("token", &json!({"provisioner": bare.answers()}).to_string());
    let (token, text) = (bare.token(), format!("{done:?}"));
    let secret = token.split('=').nth(1).unwrap();
    assert!(!text.contains(secret));
    let calls = bare.0.control().calls(since).unwrap();
    assert!(calls.len() > 5 && calls.iter().all(|call| !call.what.contains(secret)));
    for file in ["etc/blockhost/pve-token", "var/terraform/terraform.tfvars"] {
        assert_eq!(fs::metadata(bare.0.path(file)).unwrap().mode() & 0o777, 0o640, "{file}");
    }
}

#[test]
fn wrong_answers_are_refused_in_one_line_and_change_nothing() {
    let bare = Bare::without_provider();
    let access = bare.access();
    for (key, value, word) in [
        ("node", json!("a b"), "node"),
        ("storage", json!("../x"), "storage"),
        ("bridge", json!("-x"), "bridge"),
        ("user", json!("blockhost"), "name@realm"),
        ("user", json!("a;b@pve"), "user"),
        ("template_vmid", json!(500), "is within"),
        ("vmid_end", json!(50), "range"),
        ("vmid_start", json!("x"), "vmid_start"),
        ("vmid_end", json!(1_000_000), "999999"),
        ("ip_network", json!("192.168.122.0"), "ip_network"),
        ("ip_start", json!("10.0.0.1"), "ip_start"),
        ("ip_end", json!("100"), "no address"),
        ("gateway", json!(null), "gateway"),
        ("gc_grace_days", json!(-1), "gc_grace_days"),
        ("terraform_dir", json!("relative"), "terraform_dir"),
        ("terraform_dir", json!("/etc/cron.d"), "a system directory"),
        ("terraform_dir", json!("/var/lib"), "a system directory"),
        ("terraform_dir", json!("/var/lib/../../etc"), "terraform_dir"),
    ] {
        let mut answers = bare.answers();
        answers[key] = value.clone();
        fails(&bare.step("token", &answers), &[word]);
    }
    for input in ["{", "[]", "{\"provisioner\": 3}", "\u{0}"] {
        let answer = answer(&bare.setup("token", input));
        assert_eq!(answer["ok"], false, "{input}");
    }
    assert_eq!(bare.access(), access);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let bare = Bare::without_provider();
    let done = bare.setup("nonsense", "");
    assert_eq!(done.status.code(), Some(2));
    assert!(done.stdout.is_empty());
}
