//! What proves that a VM is the one a record refers to.

use super::vm_name::VmName;
use uuid::Uuid;

/// How a VM is identified as ours (hazard H02).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The SMBIOS UUID assigned at creation.
    Uuid(Uuid),
    /// The name, which is all that records of the older package have.
    Name(VmName),
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Identity::Uuid(uuid) => write!(f, "UUID {uuid}"),
            Identity::Name(name) => write!(f, "name {name}"),
        }
    }
}

/// Returns the VM's description on the node; it identifies a VM as ours if its create died during the clone.
pub fn description(name: &VmName, smbios_uuid: Uuid) -> String {
    format!("BlockHost VM {name} {smbios_uuid}")
}
