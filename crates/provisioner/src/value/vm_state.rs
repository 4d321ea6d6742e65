//! The state that the node reports for a VMID.

use super::identity::{Identity, description};
use super::limits::Limits;
use super::vm_name::VmName;
use uuid::Uuid;

/// The state that the node reports for a VMID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmState {
    /// Whether any node of the cluster has the VMID.
    pub exists: bool,
    /// The node that has the VMID.
    pub node: String,
    /// Whether it is running on the root agent's node.
    pub running: bool,
    /// Whether it is paused; `None` if that is not known without querying QEMU.
    pub paused: Option<bool>,
    /// Its name.
    pub name: String,
    /// Its SMBIOS UUID.
    pub uuid: Option<Uuid>,
    /// Its description.
    pub description: String,
    /// Its configuration lock (`clone`, `backup`, …); empty if there is none.
    pub lock: String,
    /// Whether it is on a node other than the root agent's.
    pub elsewhere: bool,
    /// Whether it is a container; ours never are.
    pub container: bool,
    /// Whether it is a guest outside our range and not the requested one; nothing else is reported about it.
    pub foreign: bool,
    /// Whether it is a template.
    pub template: bool,
    /// Whether the node starts it when the node boots.
    pub onboot: bool,
    /// Whether an operator has set Proxmox' own flag against its removal.
    pub protection: bool,
    /// The root agent's last act on it that failed after the request had been answered.
    pub failed: Option<FailedAct>,
    /// Whether the root agent's own start of it is still running.
    pub starting: bool,
    /// Whether the first network card of a running VM is a port of its bridge; `None` if the root agent does not report
    /// it.
    pub connected: Option<bool>,
    /// Whether that port is isolated; `None` if the root agent does not report it or the bridge does not say.
    pub isolated: Option<bool>,
    /// Whether the root agent reports that a running VM has no first network card.
    pub no_card: bool,
    /// The port's device if it is not the tap itself because the firewall's bridge is in between.
    pub firewall_port: Option<String>,
    /// Disks that the root agent could not free when it last destroyed the VM.
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

/// An act that continued after its request was answered, and then failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAct {
    /// The root agent's action.
    pub action: String,
    /// The end of the tool's output.
    pub words: String,
}

impl VmState {
    /// Whether a VM that does not match ours is known to be somebody else's: the configuration of a VM on another node
    /// may be out of reach, and then proves nothing (H49).
    pub fn tells_whose(&self) -> bool {
        let has_marks = self.uuid.is_some() || !self.name.is_empty() || !self.description.is_empty();
        !self.elsewhere || self.container || self.foreign || has_marks
    }

    /// Whether this is the VM that `identity` names. A VM whose create died during the clone is identified by its
    /// description alone.
    pub fn is(&self, identity: &Identity, name: &VmName) -> bool {
        match identity {
            Identity::Uuid(uuid) => {
                self.uuid == Some(*uuid)
                    || self.description.lines().next() == Some(description(name, *uuid).as_str())
            }
            Identity::Name(name) => self.name == name.as_str(),
        }
    }

    /// Describes what was found, for an error.
    pub fn description(&self) -> String {
        let name = if self.name.is_empty() { "no name" } else { &self.name };
        let kind = if self.template { "a template " } else { "" };
        match self.uuid {
            Some(uuid) => format!("{kind}{name} with UUID {uuid}"),
            // The root agent reports the UUID only of our VMs.
            None => format!("{kind}{name} with another UUID or none"),
        }
    }
}

impl FailedAct {
    /// Whether it failed because the VM was busy and can be tried again.
    pub fn is_busy(&self) -> bool {
        is_busy(&self.words)
    }
}

/// Whether a tool's output says that the VM was busy: another task held its lock file for longer than `qm` waits, or
/// its configuration is locked ("VM quit/powerdown failed - got timeout" is something else: the guest did not obey).
pub fn is_busy(words: &str) -> bool {
    words.contains("can't lock file") || words.contains("VM is locked (")
}
