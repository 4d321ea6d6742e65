//! A host of its own: network and mount namespace, a veth pair as uplink, an /etc/network of its own, a `pvesh` that
//! applies changes to the real interfaces.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub struct Namespace {
    holder: Child,
    dir: tempfile::TempDir,
}

pub const INTERFACES: &str = "# the administrator's\nauto lo\niface lo inet loopback\n\nauto eno1\niface eno1 inet static\n\
    \taddress 192.0.2.7/24\n\tgateway 192.0.2.1\n\nsource /etc/network/interfaces.d/*\n";

impl Namespace {
    pub fn new() -> Namespace {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["network", "bin", "etc", "var", "run"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("network/interfaces"), INTERFACES).unwrap();
        let pvesh = dir.path().join("bin/pvesh");
        fs::write(&pvesh, include_str!("pvesh.py")).unwrap();
        fs::set_permissions(&pvesh, fs::Permissions::from_mode(0o755)).unwrap();
        let mut holder = Command::new("unshare");
        // Everything in it dies with the test.
        holder.args(["--net", "--mount", "--kill-child", "--fork", "sh", "-c", "echo ready; exec sleep 900"]);
        let holder = holder.stdout(Stdio::piped()).spawn().expect("unshare, as root");
        let mut namespace = Namespace { holder, dir };
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(namespace.holder.stdout.take().unwrap()),
            &mut line,
        )
        .unwrap();
        assert_eq!(line, "ready\n", "this test makes namespaces and needs root");
        let own = namespace.dir.path().join("network");
        namespace.sh(&format!(
            "mkdir -p /etc/network; mount --bind {} /etc/network; ip link set lo up; \
             ip link add eno1 type veth peer name outside; ip link set eno1 up; ip link set outside up; \
             ip address add 192.0.2.7/24 dev eno1; ip route add default via 192.0.2.1 dev eno1",
            own.display()
        ));
        namespace
    }

    fn pid(&self) -> String {
        // `unshare --fork`: the child is the one inside.
        let id = self.holder.id();
        fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap().trim().to_owned()
    }

    /// A command inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "-n", "-m", "--wd=/", "--"]).arg(program).env_clear();
        let own = |name: &str| self.dir.path().join(name);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", own("bin").display());
        command
            .env("PATH", path)
            .env("BLOCKHOST_CONFIG_DIR", own("etc"))
            .env("BLOCKHOST_STATE_DIR", own("var"));
        command.env("BLOCKHOST_RUN_DIR", own("run")).env("HOME", own("var"));
        command
    }

    /// A script inside that must succeed; its output.
    pub fn sh(&self, script: &str) -> String {
        let done = self.command("sh").args(["-ec", script]).output().unwrap();
        assert!(done.status.success(), "{script}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Starts step bridge with these answers of the wizard.
    pub fn start(&self, provisioner: &Value, fault: Option<&str>) -> Child {
        let mut command = self.command(env!("CARGO_BIN_EXE_blockhost-provisioner-setup"));
        // Long enough for the slow apply, which takes three seconds.
        let limits = "limit@setup-settle=8000 limit@setup-task=8000";
        command.env("BLOCKHOST_FAULT", format!("{limits} {}", fault.unwrap_or_default()));
        command.arg("bridge").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let session = serde_json::json!({"provisioner": provisioner});
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), session.to_string().as_bytes()).unwrap();
        child
    }

    /// Runs it; exit code and the answer.
    pub fn bridge(&self, provisioner: &Value) -> Value {
        answer(&self.start(provisioner, None).wait_with_output().unwrap())
    }

    pub fn fault(&self, what: &str) {
        fs::write(self.dir.path().join("network/fault"), what).unwrap();
    }

    pub fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.path().join("network").join(name)).ok()
    }

    pub fn set_file(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join("network").join(name), text).unwrap();
    }

    /// `interface address/prefix` of all IPv4 addresses but loopback's, and `default via X dev Y`.
    pub fn picture(&self) -> Vec<String> {
        let rows: Value = serde_json::from_str(&self.sh("ip -j -4 address show")).unwrap();
        let mut picture = Vec::new();
        for row in rows.as_array().unwrap().iter().filter(|row| row["ifname"] != "lo") {
            for info in row["addr_info"].as_array().unwrap_or(&vec![]) {
                let name = row["ifname"].as_str().unwrap_or_default();
                picture.push(format!("{name} {}/{}", info["local"].as_str().unwrap(), info["prefixlen"]));
            }
        }
        let route = self.sh("ip -4 route show default");
        picture.extend(route.lines().map(|line| line.trim().to_owned()));
        picture.sort();
        picture
    }

    /// Waits for a picture.
    #[track_caller]
    pub fn becomes(&self, picture: &[&str]) {
        let end = Instant::now() + Duration::from_secs(90);
        while self.picture() != picture {
            assert!(Instant::now() < end, "{:?}", self.picture());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// No process of ours is left inside.
    pub fn guards(&self) -> usize {
        let own = self.dir.path().display().to_string();
        let alive = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let text = |name: &str| String::from_utf8_lossy(&read(name)).into_owned();
            text("cmdline").contains("network-guard") && text("environ").contains(&own)
        });
        alive.count()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The one line of the answer; its `ok` agrees with the exit code.
#[track_caller]
pub fn answer(done: &Output) -> Value {
    let text = String::from_utf8_lossy(&done.stdout);
    assert_eq!(text.lines().count(), 1, "{done:?}");
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{done:?}"));
    assert_eq!(answer["ok"].as_bool(), Some(done.status.code() == Some(0)), "{done:?}");
    assert_eq!(answer["ok"] == true, answer["error"].is_null(), "{done:?}");
    answer
}
