//! What proves that a machine is the one a record means.

use super::vm_name::VmName;
use uuid::Uuid;

/// How a VM is known to be ours (hazard H02).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The SMBIOS UUID given at creation.
    Uuid(Uuid),
    /// The name: all that records of the older package have.
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

/// The VM's description on the node: by it a VM whose create died during the clone is known as ours.
pub fn description(name: &VmName, smbios_uuid: Uuid) -> String {
    format!("BlockHost VM {name} {smbios_uuid}")
}
