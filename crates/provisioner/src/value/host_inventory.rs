//! What lies in root's own directories of the host and is ours, as the root agent lists it.

/// Names of files; none of their content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The version of the root agent's plugin that answered.
    pub version: String,
    /// The directory of cloud-init snippets.
    pub folder: String,
    /// VM and kind (`user`, `meta`) of each snippet.
    pub snippets: Vec<(String, String)>,
    /// Whether the guard's hook script is there and can be run.
    pub hook: bool,
    /// VMID of each guard file, and the VM that it is for.
    pub guards: Vec<(u32, Option<String>)>,
}

/// A disk that no guest of the cluster has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LooseVolume {
    /// `local-lvm:vm-100-disk-0`.
    pub volid: String,
    /// The VMID in its name.
    pub vmid: u32,
}
