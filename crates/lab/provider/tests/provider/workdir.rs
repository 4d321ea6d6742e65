//! A folder with a configuration in it, and the real terraform run there: offline, from a filesystem
//! mirror that holds this package's program under the names of both versions, with an environment of its
//! own.

use crate::pve::{Pve, TOKEN};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;

pub const OLD: &str = "0.93.0";
pub const NEW: &str = "0.111.1";
pub const BOTH: [&str; 2] = [OLD, NEW];
/// The VM's address in the configurations of these tests.
pub const ADDRESS: &str = "proxmox_virtual_environment_vm.web";

pub struct Workdir {
    folder: TempDir,
}

impl Workdir {
    /// An initialised folder for this version of the provider.
    pub fn new(version: &'static str, pve: &Pve) -> Self {
        let provider = json!({"endpoint": format!("https://127.0.0.1:{}", pve.port), "api_token": TOKEN, "insecure": true});
        Self::with_provider(version, &provider)
    }

    pub fn with_provider(version: &'static str, provider: &Value) -> Self {
        let folder = tempfile::Builder::new().prefix("provider-test-").tempdir().unwrap();
        let workdir = Self { folder };
        let mirror = workdir.path("mirror/registry.terraform.io/bpg/proxmox");
        for version in BOTH {
            let place = mirror.join(version).join("linux_amd64");
            fs::create_dir_all(&place).unwrap();
            keep_program(&place.join(format!("terraform-provider-proxmox_v{version}")));
        }
        for name in ["wd", "tmp"] {
            fs::create_dir(workdir.path(name)).unwrap();
        }
        let rc = format!(
            "disable_checkpoint = true\nprovider_installation {{\n  filesystem_mirror {{\n    path = \"{}\"\n  }}\n}}\n",
            workdir.path("mirror").display()
        );
        fs::write(workdir.path("tf.rc"), rc).unwrap();
        workdir.select(version, provider);
        workdir
    }

    /// Writes `provider.tf.json` for a version and initialises.
    pub fn select(&self, version: &str, provider: &Value) {
        let source = json!({"proxmox": {"source": "bpg/proxmox", "version": format!("= {version}")}});
        self.write(
            "provider.tf.json",
            &json!({"terraform": {"required_providers": source}, "provider": {"proxmox": provider}}),
        );
        let _ = fs::remove_file(self.path("wd/.terraform.lock.hcl"));
        self.ok(&["init"]);
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Writes a configuration file.
    pub fn write(&self, name: &str, json: &Value) {
        fs::write(self.path("wd").join(name), serde_json::to_vec_pretty(json).unwrap()).unwrap();
    }

    /// Writes the VM `web`.
    pub fn vm(&self, vm: &Value) {
        self.write("web.tf.json", &json!({"resource": {"proxmox_virtual_environment_vm": {"web": vm}}}));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("terraform");
        let (verb, rest) = args.split_first().unwrap();
        command.arg(verb);
        match *verb {
            "apply" | "destroy" => command.args(["-auto-approve", "-input=false", "-no-color"]),
            "plan" => command.args(["-input=false", "-no-color", "-detailed-exitcode"]),
            "init" | "import" => command.args(["-input=false", "-no-color"]),
            "validate" => command.arg("-no-color"),
            _ => &mut command,
        };
        command
            .args(rest)
            .current_dir(self.path("wd"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.path("tmp"))
            .env("TF_CLI_CONFIG_FILE", self.path("tf.rc"))
            .env("TF_IN_AUTOMATION", "1")
            .env("CHECKPOINT_DISABLE", "1")
            .env("LAB_POLL_MS", "10")
            .process_group(0) // so that a signal for it does not reach the tests
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts terraform.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().expect("these tests need the program terraform on PATH")
    }

    /// Runs terraform to its end.
    pub fn run(&self, args: &[&str]) -> Run {
        let output = self.start(args).wait_with_output().unwrap();
        Run::new(args, output)
    }

    /// Runs terraform, which has to succeed. Returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "{run:#?}");
        run.text
    }

    /// Runs terraform, which has to fail (exit code 1). Returns what it printed, each run of blanks,
    /// frames and line ends turned into one blank.
    pub fn fails(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, Some(1), "{run:#?}");
        run.text.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The instances in the state: address without index → its JSON.
    pub fn state(&self) -> Vec<(String, Value)> {
        let text = fs::read(self.path("wd/terraform.tfstate")).unwrap_or_default();
        if text.is_empty() {
            return Vec::new(); // none yet, or a killed terraform's
        }
        let state: Value = serde_json::from_slice(&text).unwrap();
        let resources = state["resources"].as_array().cloned().unwrap_or_default();
        let name = |resource: &Value| {
            format!("{}.{}", resource["type"].as_str().unwrap(), resource["name"].as_str().unwrap())
        };
        resources.iter().map(|resource| (name(resource), resource["instances"][0].clone())).collect()
    }

    /// The VM's instance in the state.
    pub fn instance(&self) -> Value {
        self.state().into_iter().find(|(name, _)| name == ADDRESS).expect("the VM is not in the state").1
    }
}

/// Puts this package's program there, as the file it is now: another build may replace it while a test
/// runs, and terraform refuses a provider whose checksum has changed since `init`.
fn keep_program(place: &Path) {
    let program = env!("CARGO_BIN_EXE_terraform-provider-proxmox");
    for _ in 0..50 {
        if fs::hard_link(program, place).is_ok() || fs::copy(program, place).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100)); // between cargo's removing and putting it back
    }
    panic!("{program} cannot be linked or copied to {}", place.display());
}

/// A finished terraform.
#[derive(Debug)]
pub struct Run {
    #[allow(dead_code, reason = "printed when a test fails")]
    args: String,
    pub code: Option<i32>,
    pub text: String,
}

impl Run {
    pub fn new(args: &[&str], output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self {
            args: args.join(" "),
            code: output.status.code(),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }
}

/// A VM with little in it.
pub fn small_vm() -> Value {
    json!({"node_name": "pve", "vm_id": 101, "name": "web", "stop_on_destroy": true,
        "clone": {"vm_id": 9001, "datastore_id": "local-lvm"},
        "cpu": {"cores": 1, "type": "host"}, "memory": {"dedicated": 512},
        "disk": {"interface": "scsi0", "size": 3}, "initialization": {"ip_config": {"ipv4": {"address": "dhcp"}}}})
}

/// The same with something else in it.
pub fn with(mut vm: Value, key: &str, value: Value) -> Value {
    vm[key] = value;
    vm
}

/// A fixture of this package.
pub fn fixture(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}
