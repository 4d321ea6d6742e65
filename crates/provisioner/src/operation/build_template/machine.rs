//! The template's VM: made step by step, each step verified (H32), and removed only if it is proven to be the same VM
//! (H02).

use super::progress::{Progress, Unit};
use crate::tool::guest_config::GuestConfig;
use crate::tool::proxmox_cli::ProxmoxCli;
use crate::value::text::StorageId;
use crate::value::vmid::Vmid;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// The variable properties of the VM; all others are the same for every template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// For example `debian-12-web3-template`.
    pub name: String,
    /// Storage of its disks.
    pub storage: String,
    /// The bridge of its network card.
    pub bridge: String,
}

/// Options common to all templates, as `qm config` shows them.
const FIXED: [(&str, &str); 8] = [
    ("memory", "512"),
    ("cores", "1"),
    ("scsihw", "virtio-scsi-pci"),
    ("ostype", "l26"),
    ("agent", "enabled=1"),
    ("serial0", "socket"),
    ("vga", "serial0"),
    ("boot", "order=scsi0"),
];

/// Storage types whose plugin cannot turn a disk into a base volume (pve-storage, feature `template`): there a
/// template's disk stays as it is.
const WITHOUT_BASE: [&str; 3] = ["lvm", "iscsi", "iscsidirect"];

/// How long to wait for a `clone` or `create` lock of a dead client: the node's worker may still be busy.
const WORKER: Duration = Duration::from_secs(600);
/// How long to wait for a VM to appear that a killed client requested from the node.
const APPEARS: Duration = Duration::from_secs(3);

/// The description by which a VM is recognised as ours; `build` occurs in no other.
pub fn description(name: &str, build: Uuid) -> String {
    format!("BlockHost template {name} {build}")
}

impl Wanted {
    fn storage(&self) -> anyhow::Result<StorageId> {
        Ok(StorageId::parse(&self.storage)?)
    }

    /// What is wrong with a complete VM; empty if nothing is.
    pub fn problems(&self, config: &GuestConfig) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expect = |key: &str, good: bool| {
            if !good {
                wrong.push(format!("{key} is {:?}", config.get(key)));
            }
        };
        expect("name", config.name() == self.name);
        for (key, value) in FIXED {
            expect(key, config.get(key) == value);
        }
        let nic = config.get("net0");
        let bridge = format!("bridge={}", self.bridge);
        expect("net0", nic.starts_with("virtio") && nic.split(',').any(|part| part == bridge));
        let here =
            |key: &str| config.volume(key).is_some_and(|v| v.starts_with(&format!("{}:", self.storage)));
        expect("scsi0", here("scsi0"));
        expect("ide2", here("ide2") && config.get("ide2").contains("cloudinit"));
        expect("lock", config.lock().is_none());
        for (key, volume) in config.unused() {
            wrong.push(format!("{key} is {volume:?}"));
        }
        wrong
    }

    /// What is wrong with a template. The disks and the storage are checked too, because `template: 1` is written
    /// before the disks are converted (H32).
    pub fn template_problems(&self, tools: &ProxmoxCli, vmid: Vmid) -> anyhow::Result<Vec<String>> {
        let Some(config) = tools.config(vmid)? else {
            return Ok(vec![format!("VM {vmid} does not exist")]);
        };
        let mut wrong = self.problems(&config);
        if !config.is_template() {
            wrong.push("it is not a template".into());
        }
        let kind = tools.storage(&self.storage()?)?.map(|row| row.kind).unwrap_or_default();
        let disk = config.volume("scsi0").unwrap_or_default();
        let own_name = disk.rsplit([':', '/']).next().unwrap_or_default();
        if !WITHOUT_BASE.contains(&kind.as_str()) && !own_name.starts_with(&format!("base-{vmid}-")) {
            wrong.push(format!("its disk {disk:?} is no base volume"));
        }
        wrong.extend(self.missing_volumes(tools, vmid, &config)?);
        Ok(wrong)
    }

    fn missing_volumes(
        &self,
        tools: &ProxmoxCli,
        vmid: Vmid,
        config: &GuestConfig,
    ) -> anyhow::Result<Vec<String>> {
        let listed = tools.volumes(&self.storage, Some(vmid))?;
        let missing =
            config.volumes().into_iter().filter(|volume| !listed.iter().any(|l| l.volid == *volume));
        Ok(missing.map(|volume| format!("volume {volume} is not on the storage")).collect())
    }
}

/// Makes a VM that is complete except for the conversion into a template. `file` is the image's path on the node. The
/// caller has recorded VMID and UUID, and removes what a failure leaves behind.
pub fn make(
    tools: &ProxmoxCli,
    vmid: Vmid,
    uuid: Uuid,
    wanted: &Wanted,
    description: &str,
    file: &str,
    progress: &mut dyn Progress,
) -> anyhow::Result<()> {
    let net0 = format!("virtio,bridge={}", wanted.bridge);
    let mut options = vec![("name", wanted.name.clone()), ("description", description.to_owned())];
    options.push(("smbios1", format!("uuid={uuid}")));
    options.push(("net0", net0));
    // The boot order names a disk that is added later.
    let fixed = FIXED.iter().filter(|(key, _)| *key != "boot");
    options.extend(fixed.map(|(key, value)| (*key, (*value).to_owned())));
    tools.create(vmid, &options)?;
    let made = ours(tools, vmid, uuid)?;
    tools.doors.reached("template.created")?;

    let before = made.unused();
    progress.begin(&format!("importing the image to {}", wanted.storage), Some(100), Unit::Percent);
    let said = tools.import(vmid, file, &wanted.storage()?, |percent| progress.reach(percent));
    progress.end();
    let said = said?;
    let after = ours(tools, vmid, uuid)?.unused();
    let mut new = after.into_iter().filter(|(key, _)| !before.contains_key(key));
    let Some((key, volume)) = new.next() else {
        anyhow::bail!("qm importdisk {vmid} succeeded, but VM {vmid} has no new disk");
    };
    anyhow::ensure!(
        said.as_ref().is_none_or(|(said_key, said_volume)| *said_key == key && *said_volume == volume),
        "qm importdisk {vmid} reported {said:?}, but VM {vmid} has {key}: {volume}"
    );
    tools.doors.reached("template.imported")?;

    tools.set(vmid, &[("scsi0", format!("{volume},discard=on"))])?;
    tools.doors.reached("template.disk")?;
    let drives = [("boot", "order=scsi0".to_owned()), ("ide2", format!("{}:cloudinit", wanted.storage))];
    tools.set(vmid, &drives)?;
    tools.doors.reached("template.drives")?;
    let config = ours(tools, vmid, uuid)?;
    let mut wrong = wanted.problems(&config);
    if config.volume("scsi0") != Some(volume.as_str()) {
        wrong.push(format!("scsi0 is {:?}, expected {volume}", config.get("scsi0")));
    }
    wrong.extend(wanted.missing_volumes(tools, vmid, &config)?);
    anyhow::ensure!(wrong.is_empty(), "VM {vmid} is not configured as expected: {}", wrong.join("; "));
    Ok(())
}

/// Returns the VM's configuration if it is the VM with that UUID.
fn ours(tools: &ProxmoxCli, vmid: Vmid, uuid: Uuid) -> anyhow::Result<GuestConfig> {
    let config = tools.config(vmid)?;
    let config = config.ok_or_else(|| anyhow::anyhow!("VM {vmid} was created, but does not exist"))?;
    anyhow::ensure!(is(&config, uuid), "VM {vmid} is now a different VM (named {:?})", config.name());
    Ok(config)
}

/// Whether the VM has that UUID.
pub fn is(config: &GuestConfig, uuid: Uuid) -> bool {
    config.uuid().eq_ignore_ascii_case(&uuid.to_string())
}

/// Converts the VM into a template and verifies that it is one.
pub fn convert(tools: &ProxmoxCli, vmid: Vmid, wanted: &Wanted) -> anyhow::Result<()> {
    tools.template(vmid)?;
    tools.doors.reached("template.converted")?;
    let wrong = wanted.template_problems(tools, vmid)?;
    anyhow::ensure!(
        wrong.is_empty(),
        "qm template {vmid} succeeded, but VM {vmid} is not a template: {}",
        wrong.join("; ")
    );
    Ok(())
}

/// Outcome of removing a VM.
#[derive(Debug, PartialEq, Eq)]
pub enum Removed {
    /// The VM and its volumes are gone.
    Gone,
    /// The VMID belongs to somebody else's VM, which was left alone.
    Stranger(String),
}

/// Removes a VM of ours, and the volumes of its VMID on `storage`: the caller knows that there were none before.
/// `is_ours` checks the configuration that the very next call destroys.
pub fn remove(
    tools: &ProxmoxCli,
    vmid: Vmid,
    storage: &str,
    is_ours: impl Fn(&GuestConfig) -> bool,
    purge: bool,
) -> anyhow::Result<Removed> {
    let appears = tools.doors.deadline_of("template-appears", APPEARS);
    let deadline = tools.doors.deadline_of("template-worker", WORKER);
    let mut unlocked = false;
    loop {
        let Some(config) = tools.config(vmid)? else {
            if !appears.passed() {
                tools.doors.sleep(Duration::from_millis(200).min(appears.left()));
                continue;
            }
            if !tools.is_free(vmid)? {
                return Ok(Removed::Stranger(format!("VMID {vmid} is taken elsewhere in the cluster")));
            }
            break;
        };
        // A clone's configuration file at first contains nothing but the lock, so its owner is unknown.
        let nameless = config.name().is_empty() && config.lock() == Some("clone");
        if !nameless && !is_ours(&config) {
            return Ok(Removed::Stranger(format!(
                "VMID {vmid} has VM {:?}, which is not ours",
                config.name()
            )));
        }
        if config.lock().is_some() && !unlocked {
            if !deadline.passed() {
                tools.doors.sleep(Duration::from_millis(300));
                continue;
            }
            anyhow::ensure!(
                !nameless,
                "VM {vmid} is an unfinished clone without a name, so its owner is unknown"
            );
            tools.unlock(vmid)?;
            unlocked = true;
            continue;
        }
        let destroyed = tools.destroy(vmid, purge);
        if tools.config(vmid)?.is_some() {
            destroyed?;
            anyhow::bail!("qm destroy {vmid} succeeded, but VM {vmid} still exists");
        }
        break;
    }
    free_volumes(tools, vmid, storage)?;
    Ok(Removed::Gone)
}

/// Frees the volumes that a destroyed VM or an interrupted import left on a storage (H32).
pub fn free_volumes(tools: &ProxmoxCli, vmid: Vmid, storage: &str) -> anyhow::Result<()> {
    for volume in tools.volumes(storage, Some(vmid))? {
        tools.free(&volume.volid)?;
    }
    let left = tools.volumes(storage, Some(vmid))?;
    anyhow::ensure!(
        left.is_empty(),
        "VM {vmid} is deleted, but its volumes remain: {}",
        left.iter().map(|volume| volume.volid.as_str()).collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: &[(&str, &str)]) -> GuestConfig {
        let mut text = String::from(
            "agent: enabled=1\nboot: order=scsi0\ncores: 1\nide2: local-lvm:vm-9001-cloudinit,media=cdrom\nmemory: 512\n\
             name: debian-12-web3-template\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nostype: l26\n\
             scsi0: local-lvm:vm-9001-disk-0,discard=on,size=3G\nscsihw: virtio-scsi-pci\nserial0: socket\nvga: serial0\n",
        );
        for (key, value) in change {
            let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(&format!("{key}:"))).collect();
            text = format!("{}\n{key}: {value}\n", kept.join("\n"));
        }
        GuestConfig::parse(&text)
    }

    #[test]
    fn h32_every_difference_to_what_is_wanted_is_named() {
        let name = "debian-12-web3-template".to_owned();
        let wanted = Wanted { name, storage: "local-lvm".into(), bridge: "vmbr0".into() };
        assert_eq!(wanted.problems(&config(&[])), [""; 0]);
        for (key, value) in [
            ("name", "x"),
            ("memory", "256"),
            ("cores", "2"),
            ("scsihw", "lsi"),
            ("ostype", "other"),
            ("agent", "0"),
            ("serial0", "/dev/x"),
            ("vga", "std"),
            ("boot", "order=net0"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr01"),
            ("net0", "e1000=BC:24:11:00:00:01,bridge=vmbr0"),
            ("scsi0", "other:vm-9001-disk-0"),
            ("ide2", "none,media=cdrom"),
            ("ide2", "local-lvm:vm-9001-disk-1"),
            ("lock", "clone"),
            ("unused0", "local-lvm:vm-9001-disk-1"),
        ] {
            let wrong = wanted.problems(&config(&[(key, value)]));
            assert!(wrong.len() == 1 && wrong[0].starts_with(key), "{key}: {wrong:?}");
        }
    }
}
