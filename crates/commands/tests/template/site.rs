//! A lab without Proxmox, a web server with an image, and how a build ended.

use crate::web::Web;
use lab::{Lab, LabBuilder};
use regex_lite::Regex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
pub use test_support::{Ended, run, start, until};

pub const IMAGE: &str = "/images/debian-12-generic-amd64.qcow2";
pub const SUMS: &str = "/images/SHA512SUMS";
pub const READY: &str = "template VM 9001 (debian-12-web3-template) is ready\n";
/// Shorter waits, where nobody is waited for.
pub const LIMITS: &str = "limit@template-retry=10 limit@template-appears=150 limit@template-worker=8000 limit@template-locked=1500";

pub struct Site {
    pub lab: Lab,
    pub web: Web,
}

/// An image of about a MiB; no two of different seeds are alike.
pub fn image(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(1_000_003)
    .collect();
    bytes[..512].fill(0);
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[24..32].copy_from_slice(&(3u64 << 30).to_be_bytes());
    bytes
}

/// The text of SHA512SUMS for an image.
pub fn sums(image: &[u8]) -> String {
    let sum = provisioner::host::large_file::Sum::of(image);
    format!(
        "{}  other.qcow2\n{sum}  debian-12-generic-amd64.qcow2\n",
        provisioner::host::large_file::Sum::of(b"")
    )
}

impl Site {
    /// A node that has a template already.
    pub fn with_template() -> Site {
        Site::of(Lab::builder().no_terraform().no_root_agent())
    }

    /// A node without one, as after its installation.
    pub fn fresh() -> Site {
        Site::of(Lab::builder().no_terraform().no_root_agent().no_template())
    }

    pub fn of(builder: LabBuilder) -> Site {
        let site = Site { lab: builder.start().unwrap(), web: Web::start() };
        site.publish(&image(1));
        site.web
            .put("/key.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n");
        std::fs::create_dir(site.packages()).unwrap();
        site.package("web3-auth-svc_1.0_amd64.deb", "one");
        site
    }

    pub fn publish(&self, image: &[u8]) {
        self.web.put(IMAGE, image);
        self.web.put(SUMS, sums(image));
    }

    pub fn packages(&self) -> PathBuf {
        self.lab.path("var/template-packages")
    }

    pub fn package(&self, name: &str, text: &str) -> PathBuf {
        let path = self.packages().join(name);
        std::fs::write(&path, format!("!<arch>\ndebian-binary   {text}")).unwrap();
        path
    }

    pub fn cache(&self) -> PathBuf {
        self.lab.path("cache")
    }

    /// A build with short waits.
    pub fn build(&self) -> Command {
        self.faulty("")
    }

    /// A build with these fault rules.
    pub fn faulty(&self, rules: &str) -> Command {
        let mut command = self.lab.command("blockhost-build-template");
        command
            .args(["--image-url", &format!("{}{IMAGE}", self.web.origin)])
            .args(["--nodejs-key", &format!("{}/key.asc", self.web.origin)])
            .env("BLOCKHOST_CACHE_DIR", self.cache())
            .env("BLOCKHOST_FAULT", format!("{LIMITS} {rules}"));
        command
    }

    /// The node as text, without what differs from run to run.
    pub fn node(&self) -> BTreeMap<String, String> {
        let node = self.lab.control().snapshot().unwrap();
        assert!(node.tasks_running.is_empty(), "{:?}", node.tasks_running);
        let uuid = Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
        let mac = Regex::new("([0-9A-F]{2}:){5}[0-9A-F]{2}").unwrap();
        let mut all = BTreeMap::new();
        for (vmid, guest) in node.guests {
            let text = format!("{:?} {:?} {:?}", guest.config, guest.pool, guest.power);
            all.insert(
                format!("guest {vmid}"),
                mac.replace_all(&uuid.replace_all(&text, "UUID"), "MAC").into(),
            );
        }
        for (volid, volume) in node.volumes {
            all.insert(format!("volume {volid}"), format!("{} {} {}", volume.vmid, volume.size, volume.data));
        }
        let grants =
            self.lab.tool("pveum").args(["acl", "list", "--output-format", "json"]).output().unwrap();
        let grants: Vec<serde_json::Value> = serde_json::from_slice(&grants.stdout).unwrap();
        for grant in grants.iter().filter(|grant| grant["path"].as_str().unwrap().starts_with("/vms/")) {
            all.insert(format!("grant {grant}"), String::new());
        }
        all
    }

    /// The names of root's own files, and what is left of another machine's.
    pub fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        list(&self.cache(), "", &mut names);
        names.sort();
        names
    }

    /// Root's files after a build that succeeded.
    pub fn files_at_rest() -> Vec<String> {
        ["build.lock", "images/", "images/debian-12-generic-amd64.qcow2"].map(String::from).to_vec()
    }

    /// The SMBIOS UUID of the template.
    pub fn uuid(&self) -> String {
        self.lab.control().snapshot().unwrap().guests[&9001].uuid.clone()
    }
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            names.push(format!("{name}/"));
            list(&entry.path(), &format!("{name}/"), names);
        } else {
            names.push(name);
        }
    }
}

/// How a build ended.
pub trait Build {
    /// Success: stdout is the one line and nothing else.
    fn built(self) -> Self;
    /// Failure: nothing on stdout, one line that begins with `error: ` as the last on stderr, which is given.
    fn refused(self) -> String;
}

impl Build for Ended {
    #[track_caller]
    fn built(self) -> Ended {
        // A warning may repeat the words of a tool that begin with "error:".
        let ended = self.ends(0);
        assert!(ended.out.ends_with(" is ready\n") && ended.out.lines().count() == 1, "{ended:#?}");
        ended
    }

    #[track_caller]
    fn refused(self) -> String {
        assert_eq!(self.out, "", "{self:#?}");
        let last = self.err.lines().last().unwrap_or_default().to_owned();
        assert_eq!(self.failed(), last);
        last
    }
}

/// The error holds each of these.
#[track_caller]
pub fn has(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}
