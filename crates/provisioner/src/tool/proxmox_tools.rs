//! `qm`, `pvesm`, `pvesh` and `pveum` as root calls them: on this machine, or on another one by ssh.
//!
//! This is for the installer's commands alone, which root runs. What concerns customers' VMs goes through the root agent
//! ([`super::node`]), which checks for itself.
//!
//! An exit code proves little (H32): callers read the state back.

use super::guest_config::{self, GuestConfig, ListedVolume, StorageRow};
use crate::host::clock::Deadline;
use crate::host::interrupt::Interrupt;
use crate::host::run_process::{self, Input, Program, RunError, Stream};
use crate::value::proxmox_host::ProxmoxHost;
use crate::value::text::{BridgeName, StorageId};
use crate::value::vmid::Vmid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Limit of a call that only looks, or changes a line of a configuration; `qm` waits 10 s for a lock by itself.
const SHORT: Duration = Duration::from_secs(60);
/// Limit of a call that makes, frees or converts volumes.
const LONG: Duration = Duration::from_secs(300);
/// Limit of a call that copies a whole disk.
const COPY: Duration = Duration::from_secs(1200);
/// How long somebody else's lock on a VM is waited for, by calling again (H22).
const LOCKED: Duration = Duration::from_secs(90);

/// A grant on a VM's path, as `pveum acl list` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `user`, `group` or `token`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who.
    pub ugid: String,
    /// The role.
    pub roleid: String,
    /// Whether it holds below the path, too.
    pub propagate: bool,
}

/// The node's tools.
#[derive(Debug, Clone)]
pub struct ProxmoxTools {
    host: ProxmoxHost,
    interrupt: Interrupt,
}

/// How a call ended.
struct Said {
    /// Program and the words that tell what was done.
    call: String,
    good: bool,
    stdout: String,
    words: String,
}

impl Said {
    fn must(self) -> anyhow::Result<String> {
        anyhow::ensure!(self.good, "{} failed: {}", self.call, self.words_or_nothing());
        Ok(self.stdout)
    }

    fn words_or_nothing(&self) -> &str {
        if self.words.is_empty() { "it said nothing" } else { &self.words }
    }

    /// Both wordings of "there is no such VM" (H33).
    fn says_missing(&self) -> bool {
        let words = &self.words;
        (words.contains("Configuration file '") && words.contains("' does not exist"))
            || words.contains("unable to find configuration file for VM")
    }
}

impl ProxmoxTools {
    /// The tools of a host; waits end with `interrupt`.
    pub fn new(host: ProxmoxHost, interrupt: Interrupt) -> ProxmoxTools {
        ProxmoxTools { host, interrupt }
    }

    /// The same for undo, which a signal does not stop.
    pub fn uninterrupted(&self) -> ProxmoxTools {
        ProxmoxTools { host: self.host.clone(), interrupt: Interrupt::never() }
    }

    /// What ends its waits.
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Whether the tools can be called at all; the error says what is missing.
    pub fn check(&self) -> anyhow::Result<()> {
        match &self.host {
            ProxmoxHost::Local => {
                for tool in ["qm", "pvesm", "pvesh", "pveum"] {
                    anyhow::ensure!(
                        run_process::find(tool).is_some(),
                        "{tool} is not installed here: run it on the Proxmox node, or name the node with --host root@NODE"
                    );
                }
            }
            ProxmoxHost::Ssh(target) => {
                anyhow::ensure!(
                    run_process::find("ssh").is_some(),
                    "ssh is not installed (package openssh-client)"
                );
                let said = self.call("true", &[], Input::Nothing, SHORT, |_| {})?;
                anyhow::ensure!(
                    said.good,
                    "cannot work on {target} by ssh: {}; the key must be in its authorized_keys, and its host key known here (try: ssh {target})",
                    said.words_or_nothing()
                );
            }
        }
        Ok(())
    }

    fn call(
        &self,
        name: &str,
        words: &[&str],
        input: Input,
        limit: Duration,
        mut heard: impl FnMut(&str),
    ) -> anyhow::Result<Said> {
        let shown: Vec<&str> = words.iter().copied().take_while(|word| !word.starts_with("--")).collect();
        let call = format!("{name} {}", shown.join(" ")).trim_end().to_owned();
        tracing::debug!("{}: {name} {}", self.host, words.join(" "));
        let (program, arguments) = match &self.host {
            ProxmoxHost::Local => (name, words.iter().map(Into::into).collect()),
            ProxmoxHost::Ssh(target) => {
                // ssh gives one line to a shell over there: each word is quoted (H27).
                let line: Vec<String> =
                    std::iter::once(&name).chain(words).map(|word| quoted(word)).collect();
                let options =
                    ["-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15"];
                let options = options.into_iter().chain(["--", target]).map(Into::into);
                ("ssh", options.chain([line.join(" ").into()]).collect())
            }
        };
        let program =
            Program { name: program, arguments, folder: Path::new("/"), environment: vec![], without: &[] };
        let ended = run_process::run(&program, input, limit, &self.interrupt, |stream, line| {
            if stream == Stream::Out {
                heard(line);
            }
        });
        match ended {
            Ok(ended) => {
                let (good, words) = (ended.status.success(), ended.last_words());
                Ok(Said { call, good, stdout: ended.stdout, words })
            }
            Err(RunError::TimedOut { limit, .. }) => {
                anyhow::bail!("{call} did not end within {} s and was stopped", limit.as_secs())
            }
            Err(other) => Err(other.into()),
        }
    }

    fn look(&self, name: &str, words: &[&str]) -> anyhow::Result<Said> {
        self.call(name, words, Input::Nothing, SHORT, |_| {})
    }

    /// A change; called again while somebody else holds the VM's file lock (H22).
    fn change(&self, words: &[&str], limit: Duration, mut heard: impl FnMut(&str)) -> anyhow::Result<String> {
        let deadline = Deadline::after(crate::host::failpoint::limit("template-locked", LOCKED));
        let mut pause = Duration::from_millis(500);
        loop {
            let said = self.call("qm", words, Input::Nothing, limit, &mut heard)?;
            if said.good || !said.words.contains("got timeout") || deadline.passed() {
                return said.must();
            }
            tracing::info!("the node is busy with the VM ({}), trying again", said.words);
            self.interrupt.sleep(pause.min(deadline.left()));
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// The configuration of a VM; `None` where this node has none of that VMID. Anything else than the two wordings for
    /// that is an error, no absence (H33, H49).
    pub fn config(&self, vmid: Vmid) -> anyhow::Result<Option<GuestConfig>> {
        let said = self.look("qm", &["config", &vmid.to_string()])?;
        if !said.good && said.says_missing() {
            return Ok(None);
        }
        said.must().map(|text| Some(GuestConfig::parse(&text)))
    }

    /// Whether nobody in the cluster has the VMID, containers included.
    pub fn is_free(&self, vmid: Vmid) -> anyhow::Result<bool> {
        let words = ["get", "/cluster/nextid", "--vmid", &vmid.to_string(), "--output-format", "json"];
        let said = self.look("pvesh", &words)?;
        if !said.good && said.words.contains("already exists") {
            return Ok(false);
        }
        let text = said.must()?;
        let answer = text.trim().trim_matches('"');
        anyhow::ensure!(answer == vmid.to_string(), "pvesh get /cluster/nextid answered {answer:?}");
        Ok(true)
    }

    /// A storage that takes disks; `None` where there is none of that name that does.
    pub fn storage(&self, storage: &StorageId) -> anyhow::Result<Option<StorageRow>> {
        let said = self.look("pvesm", &["status", "--storage", storage.as_str(), "--content", "images"])?;
        if !said.good && said.words.contains("does not exist") {
            return Ok(None);
        }
        said.must().map(|text| guest_config::storage(&text, storage.as_str()))
    }

    /// The disks on a storage; of one VMID, if named.
    pub fn volumes(&self, storage: &str, vmid: Option<Vmid>) -> anyhow::Result<Vec<ListedVolume>> {
        let vmid = vmid.map(|vmid| vmid.to_string());
        let mut words = vec!["list", storage, "--content", "images"];
        if let Some(vmid) = &vmid {
            words.extend(["--vmid", vmid]);
        }
        let mut found = self.look("pvesm", &words)?.must().map(|text| guest_config::volumes(&text))?;
        found.retain(|volume| vmid.is_none() || volume.vmid.map(|vmid| vmid.to_string()) == vmid);
        Ok(found)
    }

    /// Frees a volume that no VM has.
    pub fn free(&self, volid: &str) -> anyhow::Result<()> {
        self.call("pvesm", &["free", volid], Input::Nothing, LONG, |_| {})?.must().map(drop)
    }

    /// Whether the node has a network device of that name; the reason where not.
    pub fn bridge(&self, bridge: &BridgeName) -> anyhow::Result<Result<(), String>> {
        let said = self.look("ip", &["link", "show", "dev", bridge.as_str()])?;
        Ok(if said.good { Ok(()) } else { Err(said.words) })
    }

    /// `qm create`.
    pub fn create(&self, vmid: Vmid, options: &[(&str, String)]) -> anyhow::Result<()> {
        self.with_options("create", vmid, options)
    }

    /// `qm set`.
    pub fn set(&self, vmid: Vmid, options: &[(&str, String)]) -> anyhow::Result<()> {
        self.with_options("set", vmid, options)
    }

    fn with_options(&self, act: &str, vmid: Vmid, options: &[(&str, String)]) -> anyhow::Result<()> {
        let vmid = vmid.to_string();
        let names: Vec<String> = options.iter().map(|(name, _)| format!("--{name}")).collect();
        let pairs = names.iter().zip(options).flat_map(|(name, (_, value))| [name.as_str(), value]);
        let words: Vec<&str> = [act, &vmid].into_iter().chain(pairs).collect();
        self.change(&words, LONG, |_| {}).map(drop)
    }

    /// `qm importdisk`: a file of the node becomes a disk that no drive uses yet. Gives what it says it has made;
    /// `percent` hears how far it is.
    pub fn import(
        &self,
        vmid: Vmid,
        file: &str,
        storage: &StorageId,
        mut percent: impl FnMut(u64),
    ) -> anyhow::Result<Option<(String, String)>> {
        let words = ["importdisk", &vmid.to_string(), file, storage.as_str()];
        let said = self.change(&words, COPY, |line| {
            if let Some(done) = guest_config::transferred(line) {
                percent(done);
            }
        })?;
        Ok(guest_config::imported(&said))
    }

    /// `qm template`: exit 0 proves nothing, neither does `template: 1` (H32).
    pub fn template(&self, vmid: Vmid) -> anyhow::Result<()> {
        self.change(&["template", &vmid.to_string()], LONG, |_| {}).map(drop)
    }

    /// `qm clone --full`.
    pub fn clone_whole(
        &self,
        from: Vmid,
        to: Vmid,
        options: &[(&str, &str)],
        mut percent: impl FnMut(u64),
    ) -> anyhow::Result<()> {
        let (from, to) = (from.to_string(), to.to_string());
        let names: Vec<String> = options.iter().map(|(name, _)| format!("--{name}")).collect();
        let pairs = names.iter().zip(options).flat_map(|(name, (_, value))| [name.as_str(), *value]);
        let words: Vec<&str> = ["clone", &from, &to, "--full", "1"].into_iter().chain(pairs).collect();
        let heard = |line: &str| {
            if let Some(done) = guest_config::transferred(line) {
                percent(done);
            }
        };
        self.change(&words, COPY, heard).map(drop)
    }

    /// `qm destroy`; with `purge` also out of backup jobs. A volume that it could not free is only a warning of its (H32).
    pub fn destroy(&self, vmid: Vmid, purge: bool) -> anyhow::Result<()> {
        let purge = if purge { "1" } else { "0" };
        self.change(&["destroy", &vmid.to_string(), "--purge", purge], LONG, |_| {}).map(drop)
    }

    /// `qm unlock`.
    pub fn unlock(&self, vmid: Vmid) -> anyhow::Result<()> {
        self.change(&["unlock", &vmid.to_string()], SHORT, |_| {}).map(drop)
    }

    /// Who may do what with a VM. Proxmox forgets it with the VM, and the next one of that VMID has none.
    pub fn grants(&self, vmid: Vmid) -> anyhow::Result<Vec<Grant>> {
        let text = self.look("pveum", &["acl", "list", "--output-format", "json"])?.must()?;
        let list: Vec<Value> = serde_json::from_str(&text)
            .map_err(|error| anyhow::anyhow!("pveum acl list answered something else: {error}"))?;
        let path = format!("/vms/{vmid}");
        let of_the_vm = list.iter().filter(|entry| entry["path"] == path.as_str());
        let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        Ok(of_the_vm
            .map(|entry| Grant {
                kind: text(entry, "type"),
                ugid: text(entry, "ugid"),
                roleid: text(entry, "roleid"),
                // A number or a text, by version.
                propagate: !["0", "\"0\"", "false"].contains(&entry["propagate"].to_string().as_str()),
            })
            .collect())
    }

    /// Grants it again.
    pub fn grant(&self, vmid: Vmid, grant: &Grant) -> anyhow::Result<()> {
        let to = match grant.kind.as_str() {
            "user" => "--users",
            "group" => "--groups",
            "token" => "--tokens",
            other => anyhow::bail!("a grant on /vms/{vmid} is of the unknown type {other:?}"),
        };
        let propagate = if grant.propagate { "1" } else { "0" };
        let path = format!("/vms/{vmid}");
        let words =
            ["acl", "modify", &path, to, &grant.ugid, "--roles", &grant.roleid, "--propagate", propagate];
        self.look("pveum", &words)?.must().map(drop)
    }

    /// The pool a VM is in.
    pub fn pool(&self, vmid: Vmid) -> anyhow::Result<Option<String>> {
        let words = ["get", "/cluster/resources", "--type", "vm", "--output-format", "json"];
        let text = self.look("pvesh", &words)?.must()?;
        let list: Vec<Value> = serde_json::from_str(&text).map_err(|error| {
            anyhow::anyhow!("pvesh get /cluster/resources answered something else: {error}")
        })?;
        let own = list.iter().find(|entry| entry["vmid"].to_string().trim_matches('"') == vmid.to_string());
        Ok(own.and_then(|entry| entry["pool"].as_str()).map(str::to_owned))
    }

    /// Brings a file to the node where that is another machine: into `folder`, which is made. Gives its name there.
    pub fn bring(&self, file: &Path, folder: &str) -> anyhow::Result<String> {
        let ProxmoxHost::Ssh(target) = &self.host else {
            return Ok(file.display().to_string());
        };
        let open = crate::host::read_file::open(file)?;
        let length = open.metadata()?.len();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let path = format!("{folder}/{name}");
        self.look("mkdir", &["-m", "0700", folder])?.must()?;
        let of = format!("of={path}");
        let words = [of.as_str(), "bs=1M", "conv=fsync", "status=none"];
        self.call("dd", &words, Input::File(open), COPY, |_| {})?.must()?;
        let there = self.look("stat", &["-c", "%s", &path])?.must()?;
        anyhow::ensure!(
            there.trim() == length.to_string(),
            "{} bytes of {length} came to {path} on {target}",
            there.trim()
        );
        Ok(path)
    }

    /// Removes what [`ProxmoxTools::bring`] made.
    pub fn take_away(&self, folder: &str) -> anyhow::Result<()> {
        match self.host {
            ProxmoxHost::Local => Ok(()),
            ProxmoxHost::Ssh(_) => self.look("rm", &["-rf", folder])?.must().map(drop),
        }
    }
}

/// A word for the shell at the other end of ssh.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h27_words_reach_the_other_shell_as_they_are() {
        for word in ["", "a b", "it's", "$(id)", "`id`", "\"", "\\", "a\nb", "-x", "*", "'';id #"] {
            let shell = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), word);
        }
    }

    #[test]
    fn h33_both_wordings_mean_that_there_is_no_such_vm() {
        let said = |words: &str| Said {
            call: String::new(),
            good: false,
            stdout: String::new(),
            words: words.into(),
        };
        assert!(said("Configuration file 'nodes/pve/qemu-server/9001.conf' does not exist").says_missing());
        assert!(said("unable to find configuration file for VM 9001 on node 'pve'").says_missing());
        for other in ["storage 'x' does not exist", "got timeout", "", "Configuration file is broken"] {
            assert!(!said(other).says_missing(), "{other}");
        }
    }
}
