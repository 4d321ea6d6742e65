//! What the template builder needs from a node: VMs, their volumes, and access rules.

use super::{AclEntry, ProxmoxCli, SHORT};
use crate::host::run_process::{self, Ended, Input, RunError};
use crate::tool::guest_config::{self, GuestConfig, ListedVolume, StorageRow};
use crate::value::cluster_rows::ClusterGuest;
use crate::value::proxmox_host::ProxmoxHost;
use crate::value::text::{BridgeName, StorageId};
use crate::value::vmid::Vmid;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// Limit of a call that creates, frees or converts volumes.
const LONG: Duration = Duration::from_secs(300);
/// Limit of a call that copies a whole disk.
const COPY: Duration = Duration::from_secs(1200);
/// How long to wait for somebody else's lock on a VM, by calling again (H22).
const LOCKED: Duration = Duration::from_secs(90);

/// A grant on a VM's path, from `pveum acl list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `user`, `group` or `token`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who.
    pub ugid: String,
    /// The role.
    pub roleid: String,
    /// Whether it also applies below the path.
    pub propagate: bool,
}

/// Shortens a call to the program and the words that say what it does: a VM's options would fill a screen.
fn short(name: &str, words: &[&str]) -> String {
    let shown: Vec<&str> = words.iter().copied().take_while(|word| !word.starts_with("--")).collect();
    format!("{name} {}", shown.join(" ")).trim_end().to_owned()
}

/// The result of a call, with the call in short form.
struct Answer {
    call: String,
    ended: Ended,
}

impl Answer {
    /// Returns the standard output; fails if the call failed.
    fn must(self) -> anyhow::Result<String> {
        match self.refusal() {
            None => Ok(self.ended.stdout),
            Some(words) => anyhow::bail!("{} failed: {}", self.call, or_nothing(&words)),
        }
    }

    /// Returns the end of the output if the call failed.
    fn refusal(&self) -> Option<String> {
        (!self.ended.status.success()).then(|| self.ended.last_words())
    }

    /// Whether the call failed with these words in its output.
    fn refused_with(&self, words: &str) -> bool {
        self.refusal().is_some_and(|said| said.contains(words))
    }
}

fn or_nothing(words: &str) -> &str {
    if words.is_empty() { "it said nothing" } else { words }
}

/// Whether the output is one of the two wordings of "there is no such VM" (H33).
fn says_missing(words: &str) -> bool {
    (words.contains("Configuration file '") && words.contains("' does not exist"))
        || words.contains("unable to find configuration file for VM")
}

impl ProxmoxCli {
    /// Checks that the tools can be called; the error says what is missing.
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
                if let Some(words) = self.say("true", &[], Input::Nothing, SHORT, |_| {})?.refusal() {
                    anyhow::bail!(
                        "cannot work on {target} by ssh: {}; your key must be in its authorized_keys, and its host \
                         key must be known here (try: ssh {target})",
                        or_nothing(&words)
                    );
                }
            }
        }
        Ok(())
    }

    /// Runs a tool like [`ProxmoxCli::call`], and keeps the call in short form for messages.
    fn say(
        &self,
        name: &str,
        words: &[&str],
        input: Input,
        limit: Duration,
        heard: impl FnMut(&str),
    ) -> anyhow::Result<Answer> {
        let call = short(name, words);
        match self.call(name, words, input, limit, heard) {
            Ok(ended) => Ok(Answer { call, ended }),
            Err(RunError::TimedOut { limit, .. }) => {
                anyhow::bail!("{call} did not finish within {} s and was stopped", limit.as_secs())
            }
            Err(other) => Err(other.into()),
        }
    }

    fn query(&self, name: &str, words: &[&str]) -> anyhow::Result<Answer> {
        self.say(name, words, Input::Nothing, SHORT, |_| {})
    }

    /// Makes a change; repeats the call while somebody else holds the VM's file lock (H22).
    fn change(&self, words: &[&str], limit: Duration, mut heard: impl FnMut(&str)) -> anyhow::Result<String> {
        let deadline = self.doors.deadline_of("template-locked", LOCKED);
        let mut pause = Duration::from_millis(500);
        loop {
            let said = self.say("qm", words, Input::Nothing, limit, &mut heard)?;
            let busy = said.refusal().filter(|words| words.contains("got timeout"));
            let Some(words) = busy.filter(|_| !deadline.passed()) else { return said.must() };
            tracing::info!("the node is busy with the VM ({words}), trying again");
            deadline.sleep_unless(&self.interrupt, pause);
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Returns the configuration of a VM; `None` if this node has no VM with that VMID. Any output other than the two
    /// wordings for that is an error and does not mean that the VM is absent (H33, H49).
    pub fn config(&self, vmid: Vmid) -> anyhow::Result<Option<GuestConfig>> {
        let said = self.query("qm", &["config", &vmid.to_string()])?;
        if said.refusal().is_some_and(|words| says_missing(&words)) {
            return Ok(None);
        }
        said.must().map(|text| Some(GuestConfig::parse(&text)))
    }

    /// Whether nothing in the cluster has the VMID, including containers.
    pub fn is_free(&self, vmid: Vmid) -> anyhow::Result<bool> {
        let words = ["get", "/cluster/nextid", "--vmid", &vmid.to_string(), "--output-format", "json"];
        let said = self.query("pvesh", &words)?;
        if said.refused_with("already exists") {
            return Ok(false);
        }
        let text = said.must()?;
        let answer = text.trim().trim_matches('"');
        anyhow::ensure!(answer == vmid.to_string(), "pvesh get /cluster/nextid answered {answer:?}");
        Ok(true)
    }

    /// Returns a storage that takes disks; `None` if there is no such storage of that name.
    pub fn storage(&self, storage: &StorageId) -> anyhow::Result<Option<StorageRow>> {
        let said = self.query("pvesm", &["status", "--storage", storage.as_str(), "--content", "images"])?;
        if said.refused_with("does not exist") {
            return Ok(None);
        }
        said.must().map(|text| guest_config::storage(&text, storage.as_str()))
    }

    /// Returns the disks on a storage, or only those of one VMID if it is given.
    pub fn volumes(&self, storage: &str, vmid: Option<Vmid>) -> anyhow::Result<Vec<ListedVolume>> {
        let vmid = vmid.map(|vmid| vmid.to_string());
        let mut words = vec!["list", storage, "--content", "images"];
        if let Some(vmid) = &vmid {
            words.extend(["--vmid", vmid]);
        }
        let mut found = self.query("pvesm", &words)?.must().map(|text| guest_config::volumes(&text))?;
        found.retain(|volume| vmid.is_none() || volume.vmid.map(|vmid| vmid.to_string()) == vmid);
        Ok(found)
    }

    /// Frees a volume that belongs to no VM.
    pub fn free(&self, volid: &str) -> anyhow::Result<()> {
        self.say("pvesm", &["free", volid], Input::Nothing, LONG, |_| {})?.must().map(drop)
    }

    /// Checks whether the node has a network device of that name; the inner error says why not.
    pub fn bridge(&self, bridge: &BridgeName) -> anyhow::Result<Result<(), String>> {
        let refusal = self.query("ip", &["link", "show", "dev", bridge.as_str()])?.refusal();
        Ok(refusal.map_or(Ok(()), Err))
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

    /// `qm importdisk`: imports a file of the node as a disk that no drive uses yet. Returns what it reports to have
    /// created; `percent` is called with the progress.
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

    /// `qm template`: exit 0 proves nothing, and neither does `template: 1` (H32).
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

    /// `qm destroy`; with `purge` the VM is also removed from backup jobs. `qm` only warns about a volume that it could
    /// not free (H32).
    pub fn destroy(&self, vmid: Vmid, purge: bool) -> anyhow::Result<()> {
        let purge = if purge { "1" } else { "0" };
        self.change(&["destroy", &vmid.to_string(), "--purge", purge], LONG, |_| {}).map(drop)
    }

    /// `qm unlock`.
    pub fn unlock(&self, vmid: Vmid) -> anyhow::Result<()> {
        self.change(&["unlock", &vmid.to_string()], SHORT, |_| {}).map(drop)
    }

    /// Returns the grants on a VM. Proxmox forgets them with the VM, and the next VM with that VMID has none.
    pub fn grants(&self, vmid: Vmid) -> anyhow::Result<Vec<Grant>> {
        let text = self.query("pveum", &["acl", "list", "--output-format", "json"])?.must()?;
        let list: Vec<AclEntry> = serde_json::from_str(&text)
            .map_err(|error| anyhow::anyhow!("pveum acl list answered something else: {error}"))?;
        let path = format!("/vms/{vmid}");
        let of_the_vm = list.into_iter().filter(|entry| entry.path.as_ref() == Some(&path));
        Ok(of_the_vm
            .map(|entry| Grant {
                kind: entry.kind.unwrap_or_default(),
                ugid: entry.subject.unwrap_or_default(),
                roleid: entry.role.unwrap_or_default(),
                propagate: entry.propagates,
            })
            .collect())
    }

    /// Sets such a grant again.
    pub fn grant(&self, vmid: Vmid, grant: &Grant) -> anyhow::Result<()> {
        let to = match grant.kind.as_str() {
            "user" => "--users",
            "group" => "--groups",
            "token" => "--tokens",
            other => anyhow::bail!("a permission on /vms/{vmid} has the unknown type {other:?}"),
        };
        let propagate = if grant.propagate { "1" } else { "0" };
        let path = format!("/vms/{vmid}");
        let words =
            ["acl", "modify", &path, to, &grant.ugid, "--roles", &grant.roleid, "--propagate", propagate];
        self.query("pveum", &words)?.must().map(drop)
    }

    /// Returns the pool of a VM.
    pub fn pool(&self, vmid: Vmid) -> anyhow::Result<Option<String>> {
        let words = ["get", "/cluster/resources", "--type", "vm", "--output-format", "json"];
        let text = self.query("pvesh", &words)?.must()?;
        let list: Vec<ClusterGuest> = serde_json::from_str(&text)
            .map_err(|error| anyhow::anyhow!("unexpected output of pvesh get /cluster/resources: {error}"))?;
        Ok(list.into_iter().find(|guest| guest.vmid == Some(vmid.get().into())).and_then(|guest| guest.pool))
    }

    /// Copies a file to the node, into the new directory `folder`, if the node is another host. Returns the file's path
    /// there.
    pub fn bring(&self, file: &Path, folder: &str) -> anyhow::Result<String> {
        let ProxmoxHost::Ssh(target) = &self.host else {
            return Ok(file.display().to_string());
        };
        let open = crate::host::read_file::open(file)?;
        let length = open.metadata()?.len();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let path = format!("{folder}/{name}");
        self.query("mkdir", &["-m", "0700", folder])?.must()?;
        let of = format!("of={path}");
        let words = [of.as_str(), "bs=1M", "conv=fsync", "status=none"];
        self.say("dd", &words, Input::File(open), COPY, |_| {})?.must()?;
        let there = self.query("stat", &["-c", "%s", &path])?.must()?;
        anyhow::ensure!(
            there.trim() == length.to_string(),
            "{} bytes of {length} came to {path} on {target}",
            there.trim()
        );
        Ok(path)
    }

    /// Removes what [`ProxmoxCli::bring`] created.
    pub fn take_away(&self, folder: &str) -> anyhow::Result<()> {
        match self.host {
            ProxmoxHost::Local => Ok(()),
            ProxmoxHost::Ssh(_) => self.query("rm", &["-rf", folder])?.must().map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h33_both_wordings_mean_that_there_is_no_such_vm() {
        assert!(says_missing("Configuration file 'nodes/pve/qemu-server/9001.conf' does not exist"));
        assert!(says_missing("unable to find configuration file for VM 9001 on node 'pve'"));
        for other in ["storage 'x' does not exist", "got timeout", "", "Configuration file is broken"] {
            assert!(!says_missing(other), "{other}");
        }
    }
}
