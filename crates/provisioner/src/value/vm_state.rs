//! What the node says about one VMID.

use super::identity::{Identity, description};
use super::limits::Limits;
use super::vm_name::VmName;
use uuid::Uuid;

/// What the node says about a VMID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmState {
    /// Whether any node of the cluster has it.
    pub exists: bool,
    /// The node that has it.
    pub node: String,
    /// Whether it runs here.
    pub running: bool,
    /// Whether it is paused; `None` where that is not known without asking QEMU.
    pub paused: Option<bool>,
    /// Its name.
    pub name: String,
    /// Its SMBIOS UUID.
    pub uuid: Option<Uuid>,
    /// Its description.
    pub description: String,
    /// Its configuration lock (`clone`, `backup`, …), empty where there is none.
    pub lock: String,
    /// It is on another node than the root agent's.
    pub elsewhere: bool,
    /// It is a container, which none of ours is.
    pub container: bool,
    /// It is a guest outside our range and not the one that was asked for; nothing else is told of it.
    pub foreign: bool,
    /// It is a template.
    pub template: bool,
    /// The node starts it when it boots itself.
    pub onboot: bool,
    /// An operator has set Proxmox' own flag against its removal.
    pub protection: bool,
    /// The last act of the root agent on it that failed after its request had been answered.
    pub failed: Option<FailedAct>,
    /// The root agent's own start of it has not ended yet.
    pub starting: bool,
    /// Whether the first card of a running VM is a port of its bridge; `None` where the root agent does not say.
    pub connected: Option<bool>,
    /// Whether that port is isolated; `None` where the root agent does not say, or the bridge does not tell.
    pub isolated: Option<bool>,
    /// The root agent says that a running VM has no first card.
    pub no_card: bool,
    /// The port's device where it is not the tap itself: the firewall's bridge stands between.
    pub firewall_port: Option<String>,
    /// Disks that the root agent's last destroy of it could not free.
    pub leftovers: Vec<String>,
    /// What guards its network; `None` where the root agent does not say: it is older, or the VM is not proven.
    pub guard: Option<Box<GuardReport>>,
}

/// What the root agent says of a VM's guard (`facts/contract/root-agent.md#the-guard-of-a-vms-network`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardReport {
    /// There is a decision for this VM.
    pub set: bool,
    /// Its hook script is ours, so every start carries the decision out.
    pub hook: bool,
    /// The decision is not that of a suspended VM.
    pub enabled: bool,
    /// It runs, and everything is in place.
    pub applied: bool,
    /// Its bandwidth limits, at every start; the others are Proxmox' own.
    pub limits: Limits,
    /// What the last run could not do, one sentence each.
    pub missing: Vec<String>,
}

impl GuardReport {
    /// The bandwidth limits that hold at every start, whoever does it; `None` where nothing guards the VM.
    pub fn bandwidth(&self) -> Option<Limits> {
        (self.set && self.enabled).then_some(self.limits)
    }

    /// What a person should know of an active VM that runs, if anything; older VMs have no guard until reapply.
    pub fn warning(&self) -> Option<String> {
        match (self.set && self.enabled, self.missing.as_slice()) {
            (true, []) => None,
            (true, missing) => {
                Some(format!("its network is not guarded as it should be: {}", missing.join("; ")))
            }
            (false, _) => None,
        }
    }
}

/// An act that went on after its request was answered, and failed then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAct {
    /// The root agent's action.
    pub action: String,
    /// The tool's last words.
    pub words: String,
}

impl VmState {
    /// Whether a machine that is not found to be ours is known to be somebody else's: the configuration of one on
    /// another node may be out of reach, and then says nothing (H49).
    pub fn tells_whose(&self) -> bool {
        let has_marks = self.uuid.is_some() || !self.name.is_empty() || !self.description.is_empty();
        !self.elsewhere || self.container || self.foreign || has_marks
    }

    /// Whether this machine is the one `identity` names. A VM whose create died during the clone is known by
    /// its description alone.
    pub fn is(&self, identity: &Identity, name: &VmName) -> bool {
        match identity {
            Identity::Uuid(uuid) => {
                self.uuid == Some(*uuid)
                    || self.description.lines().next() == Some(description(name, *uuid).as_str())
            }
            Identity::Name(name) => self.name == name.as_str(),
        }
    }

    /// What was found, for an error.
    pub fn description(&self) -> String {
        let name = if self.name.is_empty() { "no name" } else { &self.name };
        let kind = if self.template { "a template " } else { "" };
        match self.uuid {
            Some(uuid) => format!("{kind}{name} with UUID {uuid}"),
            // The root agent tells the UUID of ours alone.
            None => format!("{kind}{name} with another UUID or none"),
        }
    }
}

impl FailedAct {
    /// Whether it failed because the VM was busy, and is worth another try.
    pub fn is_busy(&self) -> bool {
        is_busy(&self.words)
    }
}

/// Whether a tool's words say that the VM was busy: its lock file was held by another task for longer than `qm` waits, or
/// its configuration is locked ("VM quit/powerdown failed - got timeout" is something else: the guest did not obey).
pub fn is_busy(words: &str) -> bool {
    words.contains("can't lock file") || words.contains("VM is locked (")
}
