//! Detection, token, terraform, db_config, on a lab node that nobody has set up yet.

use super::namespace::answer;
use lab::Lab;
use lab::model::{FaultAction, NewGuest};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Output, Stdio};

const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";

/// A lab without what the installer makes: no user, roles, pool, token, db.yaml; terraform's folder has only the
/// endpoint (the lab's API is not at port 8006) and the provider's version.
struct Bare(Lab);

impl Bare {
    fn new() -> Bare {
        Bare::of(Lab::builder())
    }

    /// Without a provider, for steps that do not run terraform: `terraform init` costs a second.
    fn without_provider() -> Bare {
        Bare::of(Lab::builder().no_terraform())
    }

    fn of(builder: lab::LabBuilder) -> Bare {
        let bare = Bare(builder.no_database().start().unwrap());
        for role in
            ["BlockHost", "BlockHostTemplate", "BlockHostStorage", "BlockHostAudit", "BlockHostNetwork"]
        {
            bare.pveum(&["role", "delete", role]);
        }
        bare.pveum(&["user", "delete", "blockhost@pve"]);
        bare.pveum(&["pool", "delete", "blockhost"]);
        for file in ["etc/blockhost/db.yaml", "etc/blockhost/pve-token"] {
            fs::remove_file(bare.0.path(file)).unwrap();
        }
        for file in ["terraform.tfvars", "variables.tf.json"] {
            fs::remove_file(bare.0.path("var/terraform").join(file)).unwrap();
        }
        if bare.0.path("var/terraform/.terraform").exists() {
            fs::remove_file(bare.0.path("var/terraform/.terraform.lock.hcl")).unwrap();
            fs::remove_dir_all(bare.0.path("var/terraform/.terraform")).unwrap();
        }
        bare
    }

    fn pveum(&self, words: &[&str]) -> String {
        let done = self.0.tool("pveum").args(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Roles, users, rules, pools, and the tokens' names.
    fn access(&self) -> Vec<Value> {
        let ask = |words: &[&str]| {
            let words = [words, &["--output-format", "json"]].concat();
            serde_json::from_str(&self.pveum(&words)).unwrap()
        };
        let users: Value = ask(&["user", "list"]);
        let names: Vec<String> = users
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["userid"].as_str().unwrap().to_owned())
            .collect();
        let tokens = names.iter().map(|name| ask(&["user", "token", "list", name])).collect();
        vec![ask(&["role", "list"]), users, ask(&["acl", "list"]), ask(&["pool", "list"]), tokens]
    }

    fn answers(&self) -> Value {
        json!({"node": "pve", "storage": "local-lvm", "bridge": "vmbr0", "user": "blockhost@pve", "template_vmid": 9001,
            "vmid_start": 100, "vmid_end": 999, "ip_network": "192.168.122.0/24", "ip_start": "200", "ip_end": "250",
            "gateway": "192.168.122.1", "gc_grace_days": 5, "terraform_dir": self.0.path("var/terraform")})
    }

    fn run_with(&self, mut command: Command, input: &str) -> Output {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that refuses at once may not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn setup(&self, step: &str, input: &str) -> Output {
        let mut command = self.0.command("blockhost-provisioner-setup");
        command.arg(step);
        self.run_with(command, input)
    }

    fn step(&self, step: &str, answers: &Value) -> Value {
        answer(&self.setup(step, &json!({"provisioner": answers}).to_string()))
    }

    #[track_caller]
    fn ok(&self, step: &str) {
        let answer = self.step(step, &self.answers());
        assert_eq!(answer["ok"], true, "{step}: {answer}");
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.0.path(file)).unwrap()
    }

    /// The token that create would use.
    fn token(&self) -> String {
        self.text("etc/blockhost/pve-token").trim().to_owned()
    }

    #[track_caller]
    fn makes_a_vm(&self) {
        let done = self
            .0
            .command("blockhost-vm-create")
            .args(["web-1", "--owner-wallet", WALLET, "--apply"])
            .output();
        let done = done.unwrap();
        assert!(done.status.success(), "{done:?}");
        assert!(self.0.command("blockhost-vm-destroy").arg("web-1").status().unwrap().success());
    }

    /// Puts a script before the node's tool that fails its Nth call; without N it counts only.
    fn count_calls(&self, tool: &str, fail: Option<u32>) {
        let (path, real) = (self.0.path("bin").join(tool), self.0.path("bin").join(format!("{tool}.real")));
        if !real.exists() {
            fs::rename(&path, &real).unwrap();
        }
        let count = self.0.path(format!("run/{tool}.count"));
        let _ = fs::remove_file(&count);
        let script = format!(
            "#!/bin/sh\nn=$(($(cat '{count}' 2>/dev/null || echo 0) + 1))\necho $n > '{count}'\n\
             if [ $n -eq {fail} ]; then echo 'pmxcfs: no quorum' >&2; exit 255; fi\nexec '{real}' \"$@\"\n",
            count = count.display(),
            real = real.display(),
            fail = fail.unwrap_or(0),
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn calls_counted(&self, tool: &str) -> u32 {
        self.text(&format!("run/{tool}.count")).trim().parse().unwrap()
    }
}

#[track_caller]
fn fails(answer: &Value, words: &[&str]) {
    assert_eq!(answer["ok"], false, "{answer}");
    for word in words {
        assert!(answer["error"].as_str().unwrap().contains(word), "{word:?}: {answer}");
    }
}

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
    fails(&bare.step("token", &bare.answers()), &["cannot tell whether the token is still good"]);
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
fn h29_the_ssh_key_of_the_systems_check_can_do_nothing() {
    let bare = Bare::new();
    bare.ok("token");
    bare.ok("terraform");
    let public = bare.text("etc/blockhost/terraform_ssh_key.pub");
    let keys = bare.text("home/.ssh/authorized_keys");
    assert_eq!(keys, format!("restrict,command=\"/bin/false\" {public}"));
    let private = fs::metadata(bare.0.path("etc/blockhost/terraform_ssh_key")).unwrap();
    assert_eq!((private.mode() & 0o777, private.uid(), private.gid()), (0o640, 0, 0));
    // It is a pair: what ssh makes of the private half is the public one. ssh-keygen insists on mode 0600.
    let copy = bare.0.path("run/key");
    fs::copy(bare.0.path("etc/blockhost/terraform_ssh_key"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    let derived = Command::new("ssh-keygen").args(["-y", "-f"]).arg(&copy).output().unwrap();
    let blob = |text: &str| text.split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(blob(&String::from_utf8_lossy(&derived.stdout)), blob(&public));
}

#[test]
fn a_providers_version_and_endpoint_stay_and_its_ssh_goes() {
    let bare = Bare::new();
    bare.ok("token");
    let path = bare.0.path("var/terraform/provider.tf.json");
    let mut file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let endpoint = file["provider"]["proxmox"]["endpoint"].clone();
    file["provider"]["proxmox"]["ssh"] =
        json!({"username": "root", "private_key": "${file(\"/etc/blockhost/terraform_ssh_key\")}"});
    fs::write(&path, file.to_string()).unwrap();
    bare.ok("terraform");
    let file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(file["provider"]["proxmox"]["endpoint"], endpoint);
    assert_eq!(file["provider"]["proxmox"]["ssh"], Value::Null);
    assert_eq!(file["terraform"]["required_providers"]["proxmox"]["version"], "= 0.93.0");
    assert!(bare.0.path("var/terraform/.terraform/providers").is_dir());
}

#[test]
fn an_init_that_fails_leaves_the_former_files() {
    let bare = Bare::new();
    bare.ok("token");
    bare.ok("terraform");
    let provider = bare.0.path("var/terraform/provider.tf.json");
    let text = fs::read_to_string(&provider).unwrap().replace("= 0.93.0", "= 0.94.0");
    fs::write(&provider, &text).unwrap();
    let values = bare.text("var/terraform/terraform.tfvars");
    let mut answers = bare.answers();
    answers["storage"] = json!("local");
    fails(&bare.step("terraform", &answers), &["terraform init", "failed"]);
    assert_eq!(fs::read_to_string(&provider).unwrap(), text);
    assert_eq!(bare.text("var/terraform/terraform.tfvars"), values);
    // On a fresh host nothing of ours stays.
    let fresh = Bare::new();
    fresh.ok("token");
    fs::remove_file(fresh.0.path("var/terraform/terraform.tfvars")).unwrap();
    fs::write(
        fresh.0.path("tf.rc"),
        "provider_installation {\n  filesystem_mirror {\n    path = \"/nowhere\"\n  }\n}\n",
    )
    .unwrap();
    fails(&fresh.step("terraform", &fresh.answers()), &["terraform init"]);
    assert!(!fresh.0.path("var/terraform/variables.tf.json").exists());
    assert!(!fresh.0.path("var/terraform/terraform.tfvars").exists());
}

#[test]
fn h17_files_that_cannot_be_read_are_named_and_not_written_over() {
    for (file, bad, step) in [
        ("var/terraform/terraform.tfvars", "proxmox_node = \"open", "terraform"),
        ("var/terraform/provider.tf.json", "{\"provider\": ", "terraform"),
        ("var/terraform/variables.tf.json", "[]", "terraform"),
        ("etc/blockhost/db.yaml", "bridge: [", "db_config"),
        ("etc/blockhost/db.yaml", "{bridge: vmbr0, theirs: 1}\n", "db_config"),
    ] {
        let bare = Bare::new();
        bare.ok("token");
        fs::write(bare.0.path(file), bad).unwrap();
        let answer = bare.step(step, &bare.answers());
        fails(&answer, &[file.rsplit('/').next().unwrap()]);
        assert_eq!(bare.text(file), bad, "{answer}");
    }
}

#[test]
fn other_programs_keys_of_db_yaml_keep_their_spelling() {
    let bare = Bare::without_provider();
    let theirs = "# by hand\nport: 0123\nflag: yes\nday: 2026-01-02\nsigning:\n- a\n";
    fs::write(
        bare.0.path("etc/blockhost/db.yaml"),
        format!("{theirs}gc_grace_days: 9\nvmid_pool: {{start: 1000, end: 1999}}\n"),
    )
    .unwrap();
    bare.ok("db_config");
    let text = bare.text("etc/blockhost/db.yaml");
    assert!(text.starts_with(theirs), "{text}");
    for line in [
        "gc_grace_days: 5\n",
        "vmid_pool:\n  start: 100\n  end: 999\n",
        "vmid_range:\n  start: 100\n",
        "default_expiry_days: 30\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains(&format!("db_file: \"{}\"", bare.0.path("var/vms.json").display())), "{text}");
    assert!(!text.contains("template_vmid"));
    let mode = fs::metadata(bare.0.path("etc/blockhost/db.yaml")).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o640);
    let database: Value = serde_json::from_str(&bare.text("var/vms.json")).unwrap();
    assert_eq!(database, json!({"vms": {}, "next_vmid": 100, "allocated_ips": [], "allocated_ipv6": []}));
}

#[test]
fn another_template_is_told_to_the_root_agent() {
    let bare = Bare::without_provider();
    let mut answers = bare.answers();
    answers["template_vmid"] = json!("9100");
    assert_eq!(bare.step("db_config", &answers)["ok"], true);
    assert!(bare.text("etc/blockhost/db.yaml").contains("template_vmid: 9100\n"));
    assert_eq!(bare.step("db_config", &bare.answers())["ok"], true);
    assert!(bare.text("etc/blockhost/db.yaml").contains("template_vmid: 9001\n"), "and back");
}

#[test]
fn a_database_of_the_older_package_stays_where_it_is() {
    let bare = Bare::without_provider();
    let old = bare.0.path("var/vm-db.json");
    fs::write(&old, "{\"vms\": {}}\n").unwrap();
    fs::write(bare.0.path("etc/blockhost/db.yaml"), format!("db_file: {}\n", old.display())).unwrap();
    bare.ok("db_config");
    assert!(bare.text("etc/blockhost/db.yaml").starts_with(&format!("db_file: {}\n", old.display())));
    assert!(!bare.0.path("var/vms.json").exists());
}

#[test]
fn a_missing_database_with_vms_about_is_a_loss() {
    let bare = Bare::without_provider();
    fs::create_dir_all(bare.0.path("var/terraform/vms/web-1")).unwrap();
    fs::write(bare.0.path("var/terraform/vms/web-1/terraform.tfstate"), "{}").unwrap();
    fails(&bare.step("db_config", &bare.answers()), &["was lost", "web-1"]);
    assert!(!bare.0.path("var/vms.json").exists());
}

#[test]
fn h29_nothing_is_written_or_read_as_root_in_a_folder_of_user_blockhost() {
    // A user without rights owns the state; the commands are run from a place that it can reach.
    const USER: u32 = 4242;
    let bare = Bare::new();
    let own = bare.0.path("bin/blockhost-provisioner-setup");
    fs::copy(bare.0.command("blockhost-provisioner-setup").get_program(), &own).unwrap();
    fs::set_permissions(bare.0.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    for folder in ["var", "var/terraform"] {
        std::os::unix::fs::chown(bare.0.path(folder), Some(USER), Some(USER)).unwrap();
    }
    std::os::unix::fs::chown(bare.0.path("var/terraform/provider.tf.json"), Some(USER), Some(USER)).unwrap();
    let run = |step: &str| {
        let mut command = bare.0.tool(own.to_str().unwrap());
        command.arg(step);
        answer(&bare.run_with(command, &json!({"provisioner": bare.answers()}).to_string()))
    };
    // What only root may read, offered as terraform's file.
    let secret = bare.0.path("run/secret");
    fs::write(&secret, "root_secret = \"4711\"\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let values = bare.0.path("var/terraform/terraform.tfvars");
    std::os::unix::fs::symlink(&secret, &values).unwrap();
    let refused = run("token");
    fails(&refused, &["terraform.tfvars"]);
    assert!(!refused.to_string().contains("4711"));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "root_secret = \"4711\"\n");
    fs::remove_file(&values).unwrap();
    assert_eq!(run("token")["ok"], true);
    let token = fs::metadata(bare.0.path("etc/blockhost/pve-token")).unwrap();
    assert_eq!((token.uid(), token.gid(), token.mode() & 0o777), (0, USER, 0o640));
    assert_eq!(fs::metadata(&values).unwrap().uid(), USER);
}

#[test]
fn h15_a_folder_that_was_left_to_root_is_given_to_user_blockhost() {
    const USER: u32 = 4242;
    let bare = Bare::new();
    std::os::unix::fs::chown(bare.0.path("var"), Some(USER), Some(USER)).unwrap();
    let own = bare.0.path("bin/blockhost-provisioner-setup");
    fs::copy(bare.0.command("blockhost-provisioner-setup").get_program(), &own).unwrap();
    fs::set_permissions(bare.0.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let folder = bare.0.path("var/terraform");
    fs::create_dir_all(folder.join("vms/web-1")).unwrap();
    fs::write(folder.join("vms/web-1/terraform.tfstate"), "{}").unwrap();
    let outside = bare.0.path("run/roots");
    fs::write(&outside, "").unwrap();
    std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
    let mut command = bare.0.tool(own.to_str().unwrap());
    command.arg("token");
    let done = bare.run_with(command, &json!({"provisioner": bare.answers()}).to_string());
    assert_eq!(answer(&done)["ok"], true, "{done:?}");
    for file in
        ["", "provider.tf.json", "terraform.tfvars", "vms", "vms/web-1", "vms/web-1/terraform.tfstate"]
    {
        assert_eq!(fs::metadata(folder.join(file)).unwrap().uid(), USER, "{file}");
    }
    assert_eq!(fs::metadata(&outside).unwrap().uid(), 0, "a link is not followed");
}

#[test]
fn a_folder_for_terraform_in_a_place_of_roots_is_made_and_given_away() {
    const USER: u32 = 4242;
    let bare = Bare::new();
    std::os::unix::fs::chown(bare.0.path("var"), Some(USER), Some(USER)).unwrap();
    let own = bare.0.path("bin/blockhost-provisioner-setup");
    fs::copy(bare.0.command("blockhost-provisioner-setup").get_program(), &own).unwrap();
    fs::set_permissions(bare.0.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut answers = bare.answers();
    answers["terraform_dir"] = json!(bare.0.path("home/tf"));
    let mut command = bare.0.tool(own.to_str().unwrap());
    command.arg("token");
    // The lab's API is not at the usual port, so the new token cannot be tried, and is taken back.
    let done = bare.run_with(command, &json!({"provisioner": answers}).to_string());
    fails(&answer(&done), &["cannot reach the Proxmox API"]);
    // With the endpoint in the folder it goes on; root's folder above it is not the user's to write.
    let made = bare.0.path("home/tf");
    assert!(!made.exists());
    let mut command = bare.0.tool(own.to_str().unwrap());
    command.arg("terraform");
    fs::write(bare.0.path("etc/blockhost/pve-token"), "blockhost@pve!provisioner=0000\n").unwrap();
    let done = bare.run_with(command, &json!({"provisioner": answers}).to_string());
    assert_eq!(answer(&done)["ok"], true, "{done:?}");
    let data = fs::metadata(&made).unwrap();
    assert_eq!((data.uid(), data.mode() & 0o777), (USER, 0o750));
    assert_eq!(fs::metadata(made.join("terraform.tfvars")).unwrap().uid(), USER);
    assert_eq!(fs::metadata(made.join(".terraform/providers")).unwrap().uid(), USER);
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
        ("template_vmid", json!(500), "lies within"),
        ("vmid_end", json!(50), "range"),
        ("vmid_start", json!("x"), "vmid_start"),
        ("vmid_end", json!(1_000_000), "999999"),
        ("ip_network", json!("192.168.122.0"), "ip_network"),
        ("ip_start", json!("10.0.0.1"), "ip_start"),
        ("ip_end", json!("100"), "no address"),
        ("gateway", json!(null), "gateway"),
        ("gc_grace_days", json!(-1), "gc_grace_days"),
        ("terraform_dir", json!("relative"), "terraform_dir"),
        ("terraform_dir", json!("/etc/cron.d"), "folder of the system"),
        ("terraform_dir", json!("/var/lib"), "folder of the system"),
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

/// The setup command in a folder with a builder of the test's own beside it.
fn with_builder(bare: &Bare, script: &str) -> Command {
    let (own, builder) =
        (bare.0.path("bin/blockhost-provisioner-setup"), bare.0.path("bin/blockhost-build-template"));
    fs::copy(bare.0.command("blockhost-provisioner-setup").get_program(), &own).unwrap();
    fs::write(&builder, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&builder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = bare.0.tool(own.to_str().unwrap());
    command.arg("template");
    command
}

#[test]
fn a_template_that_is_there_is_not_built_again() {
    let bare = Bare::without_provider();
    let command = with_builder(&bare, "echo called >&2; exit 1");
    let done = bare.run_with(command, &json!({"provisioner": bare.answers()}).to_string());
    assert_eq!(answer(&done), json!({"ok": true, "error": null}), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
}

#[test]
fn a_template_that_is_missing_or_half_made_is_built() {
    let bare = Bare::without_provider();
    let mut answers = bare.answers();
    answers["template_vmid"] = json!(9100);
    let input = json!({"provisioner": answers}).to_string();
    let said = bare.0.path("run/said");
    let script = format!("echo \"$@\" > '{}'; echo 'image: 50 %' >&2; echo ready", said.display());
    let done = bare.run_with(with_builder(&bare, &script), &input);
    assert_eq!(answer(&done)["ok"], true, "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("image: 50 %"), "{done:?}");
    let flags = "--template-vmid 9100 --storage local-lvm --bridge vmbr0 --host localhost\n";
    assert_eq!(fs::read_to_string(&said).unwrap(), flags);
    // A VM without being a template: the builder knows whether it is what it left.
    fs::remove_file(&said).unwrap();
    bare.0.control().add_guest(NewGuest { vmid: 9100, name: "half".into(), ..NewGuest::default() }).unwrap();
    let done = bare.run_with(
        with_builder(
            &bare,
            &format!("touch '{}'; echo 'error: VMID 9100 has VM half' >&2; exit 1", said.display()),
        ),
        &input,
    );
    fails(&answer(&done), &["could not be built: VMID 9100 has VM half"]);
    assert!(said.exists());
}

#[test]
fn a_build_that_is_stopped_gets_time_to_take_back_what_it_did() {
    let bare = Bare::without_provider();
    let mut answers = bare.answers();
    answers["template_vmid"] = json!(9100);
    let (begun, undone) = (bare.0.path("run/begun"), bare.0.path("run/undone"));
    let script = format!(
        "trap 'sleep 7; touch \"{}\"; exit 1' TERM; touch '{}'; while :; do sleep 0.1; done",
        undone.display(),
        begun.display()
    );
    let mut command = with_builder(&bare, &script);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(json!({"provisioner": answers}).to_string().as_bytes()).unwrap();
    while !begun.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    fails(&answer(&child.wait_with_output().unwrap()), &["interrupted"]);
    assert!(undone.exists());
}
