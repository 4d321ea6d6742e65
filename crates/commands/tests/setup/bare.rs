//! A lab node that nobody has set up yet, and how a step ended there.

use super::namespace::answer;
use lab::Lab;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
pub use test_support::WALLET;

/// A lab without what the installer makes: no user, roles, pool, token, db.yaml; terraform's folder has only the
/// endpoint (the lab's API is not at port 8006) and the provider's version.
pub struct Bare(pub Lab);

impl Bare {
    pub fn new() -> Bare {
        Bare::of(Lab::builder())
    }

    /// Without a provider, for steps that do not run terraform: `terraform init` costs a second.
    pub fn without_provider() -> Bare {
        Bare::of(Lab::builder().no_terraform())
    }

    pub fn of(builder: lab::LabBuilder) -> Bare {
        // Setup refuses directories below /dev, where TMPDIR may be.
        let folder = tempfile::Builder::new().prefix("lab-").tempdir_in("/tmp").unwrap().keep();
        let bare = Bare(builder.dir(folder).no_database().start().unwrap());
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

    pub fn pveum(&self, words: &[&str]) -> String {
        let done = self.0.tool("pveum").args(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Roles, users, rules, pools, and the tokens' names.
    pub fn access(&self) -> Vec<Value> {
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

    pub fn answers(&self) -> Value {
        json!({"node": "pve", "storage": "local-lvm", "bridge": "vmbr0", "user": "blockhost@pve", "template_vmid": 9001,
            "vmid_start": 100, "vmid_end": 999, "ip_network": "192.168.122.0/24", "ip_start": "200", "ip_end": "250",
            "gateway": "192.168.122.1", "gc_grace_days": 5, "terraform_dir": self.0.path("var/terraform")})
    }

    pub fn run_with(&self, mut command: Command, input: &str) -> Output {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that refuses at once may not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    pub fn setup(&self, step: &str, input: &str) -> Output {
        let mut command = self.0.command("blockhost-provisioner-setup");
        command.arg(step);
        self.run_with(command, input)
    }

    pub fn step(&self, step: &str, answers: &Value) -> Value {
        answer(&self.setup(step, &json!({"provisioner": answers}).to_string()))
    }

    #[track_caller]
    pub fn ok(&self, step: &str) {
        let answer = self.step(step, &self.answers());
        assert_eq!(answer["ok"], true, "{step}: {answer}");
    }

    pub fn text(&self, file: &str) -> String {
        fs::read_to_string(self.0.path(file)).unwrap()
    }

    /// The token that create would use.
    pub fn token(&self) -> String {
        self.text("etc/blockhost/pve-token").trim().to_owned()
    }

    #[track_caller]
    pub fn makes_a_vm(&self) {
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
    pub fn count_calls(&self, tool: &str, fail: Option<u32>) {
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

    pub fn calls_counted(&self, tool: &str) -> u32 {
        self.text(&format!("run/{tool}.count")).trim().parse().unwrap()
    }
}

#[track_caller]
pub fn fails(answer: &Value, words: &[&str]) {
    assert_eq!(answer["ok"], false, "{answer}");
    for word in words {
        assert!(answer["error"].as_str().unwrap().contains(word), "{word:?}: {answer}");
    }
}
