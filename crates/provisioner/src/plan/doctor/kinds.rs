//! Every kind of finding: its code, which never changes, how bad it is, and why it matters. `doc/doctor.md` lists them
//! with what to do, and `crates/commands/tests/documents` compares the two.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Customers are affected, or no VM can be made.
    Error,
    /// It will become an error.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// The word that is printed.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// A kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its code.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Why it matters.
    pub why: &'static str,
}

macro_rules! kinds {
    ($($name:ident $code:literal $severity:ident $why:literal)*) => {
        $(
            #[doc = $why]
            pub const $name: Kind = Kind { code: $code, severity: Severity::$severity, why: $why };
        )*
        /// All of them, in the order shown in help texts.
        pub const ALL: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    // Configuration.
    CONFIGURATION_UNUSABLE "configuration-unusable" Error "no command can work with it"
    CONFIGURATION_INCOMPLETE "configuration-incomplete" Error "no VM can be created"
    CONFIGURATION_KEY_MISSPELT "configuration-key-misspelt" Warning "an unknown key has no effect, so the default applies"
    SIDE_FILE_UNUSABLE "side-file-unusable" Error "no VM can be created"
    NODE_CLOUD_INIT "node-cloud-init" Error "the node's next boot would run a guest's user-data as root"
    // Database.
    DATABASE_MISSING "database-missing" Error "VMs exist that nobody manages, bills or protects"
    DATABASE_UNREADABLE "database-unreadable" Error "no VM can be managed"
    RECORD_UNREADABLE "record-unreadable" Error "commands refuse this VM, and gc passes over it"
    VMID_RECORDED_TWICE "vmid-recorded-twice" Error "only one of these VMs can exist"
    ADDRESS_RECORDED_TWICE "address-recorded-twice" Error "the VMs disturb each other's connections"
    NAME_TWINS "name-twins" Warning "host names and Terraform labels do not tell these VMs apart"
    VMID_OUTSIDE_RANGE "vmid-outside-range" Warning "the root agent refuses to act on a VM outside vmid_range"
    RECORD_WITHOUT_EXPIRY "record-without-expiry" Warning "gc never suspends a VM whose expiry it cannot read"
    ADDRESS_LEFTOVER "address-leftover" Warning "the address is reserved for nobody, and the pool runs dry"
    // The VMs on the node.
    GUESTS_UNREADABLE "guests-unreadable" Warning "VMs that are missing or have no record are not seen"
    VM_NOT_CHECKED "vm-not-checked" Warning "nothing is known about this VM"
    VM_MISSING "vm-missing" Error "its customer has no VM"
    VMID_TAKEN_OVER "vmid-taken-over" Error "its customer has no VM, and every gc run fails on the record"
    VM_ELSEWHERE "vm-elsewhere" Warning "commands of this host cannot act on it"
    VM_SUSPENDED_RUNNING "vm-suspended-running" Warning "it runs although nobody pays for it"
    VM_OFF "vm-off" Note "its customer may have shut it down, or waits for it"
    VM_PAUSED "vm-paused" Warning "it does not answer while it is paused"
    VM_LOCKED "vm-locked" Note "commands on it wait until the lock is gone"
    VM_BOOTS_SUSPENDED "vm-boots-suspended" Warning "a reboot of the node would start a VM that nobody pays for"
    VM_STAYS_OFF_AT_BOOT "vm-stays-off-at-boot" Warning "it stays off after a reboot of the node"
    VM_OUTSIDE_POOL "vm-outside-pool" Warning "the API token has no rights on it, so it has no metrics"
    VM_OF_OLDER_PACKAGE "vm-of-older-package" Note "its name alone proves that it is the right VM"
    VM_DESTROYED_BUT_THERE "vm-destroyed-but-there" Error "it runs on although its record says that it is gone"
    VM_WITHOUT_RECORD "vm-without-record" Error "nobody manages or bills it, and its addresses may be assigned again"
    RECORD_LOST "record-lost" Error "nobody manages or bills the VM until its record is restored"
    CLONE_ARRIVED_LATE "clone-arrived-late" Warning "it takes disk space, and its VMID stays reserved"
    // Network.
    BRIDGE_MISSING "bridge-missing" Error "no VM has a network"
    NETWORK_UNREADABLE "network-unreadable" Warning "missing routes are not seen"
    ROUTE_MISSING "route-missing" Error "the VM cannot be reached by IPv6"
    ROUTE_LEFTOVER "route-leftover" Note "the address leads to no VM"
    PORT_NOT_ISOLATED "port-not-isolated" Error "other guests on the bridge can reach this VM"
    PORT_NOT_CONNECTED "port-not-connected" Error "the VM has no network"
    PORT_BEHIND_FIREWALL "port-behind-firewall" Warning "its port on the guests' bridge cannot be isolated"
    CARD_MISSING "card-missing" Error "the VM has no network card"
    // Terraform.
    TERRAFORM_NOT_READY "terraform-not-ready" Error "no VM can be created"
    TERRAFORM_DIRECTORY_MISSING "terraform-directory-missing" Note "its record has no copy and cannot be restored"
    TERRAFORM_DIRECTORY_LEFTOVER "terraform-directory-leftover" Warning "its VMID and addresses stay reserved"
    TERRAFORM_STATE_TORN "terraform-state-torn" Warning "a create or destroy that needs it is refused"
    TERRAFORM_NAMES_ANOTHER_VM "terraform-names-another-vm" Error "Terraform would act on a VM that is not this one"
    TERRAFORM_FILE_UNSAFE "terraform-file-unsafe" Error "a run of Terraform could replace or take over a VM"
    TERRAFORM_FILE_STRAY "terraform-file-stray" Warning "Terraform reads it, so a create may fail or do something else"
    TERRAFORM_STILL_RUNNING "terraform-still-running" Note "the next operation on this VM waits for it"
    RECORD_COPY_MISSING "record-copy-missing" Note "if another program drops the record, it cannot be restored in full"
    // Cloud-init snippets.
    SNIPPETS_UNREADABLE "snippets-unreadable" Error "no VM can be created"
    SNIPPET_MISSING "snippet-missing" Error "the VM does not start any more once it is off"
    SNIPPET_LEFTOVER "snippet-leftover" Warning "a destroyed VM's secrets are still on the node"
    // The guard.
    HOOK_NOT_SET "hook-not-set" Warning "a start by somebody else leaves it without rules, isolation, limits and route"
    HOOK_MISSING "hook-missing" Error "a VM whose hook script is missing does not start, whoever starts it"
    GUARD_INCOMPLETE "guard-incomplete" Error "it may use addresses of others, or lacks its limits or its route"
    GUARD_LEFTOVER "guard-leftover" Note "it guards a VM that is gone"
    // What is unfinished.
    CREATE_UNFINISHED "create-unfinished" Warning "what it has taken stays reserved"
    CREATE_UNREPORTED "create-unreported" Warning "the VM is paid for, and the engine does not know that it exists"
    DESTROY_UNFINISHED "destroy-unfinished" Warning "what is left stays reserved"
    JOURNAL_UNREADABLE "journal-unreadable" Error "no VM can be created, since what the entry holds is unknown"
    OPERATION_RUNNING "operation-running" Note "the VM was not checked while a command works on it"
    VMID_WITHHELD "vmid-withheld" Note "the VMID is not assigned for a while"
    WITHHELD_UNREADABLE "withheld-unreadable" Warning "the VMID is never assigned again"
    QUEUE_STALE "queue-stale" Note "engines take it for a running create"
    TEMPORARY_FILE "temporary-file" Note "it takes disk space and may hold what should have been written"
    GC_INTERRUPTED "gc-interrupted" Warning "VMs that were renewed meanwhile stay off until the next gc run"
    GC_NOTE_UNREADABLE "gc-note-unreadable" Error "gc suspends and destroys nothing"
    GC_OVERDUE "gc-overdue" Warning "expired VMs are neither suspended nor destroyed"
    BRIDGE_STEP_UNFINISHED "bridge-step-unfinished" Warning "the guests' bridge may be half configured"
    // The template.
    TEMPLATE_MISSING "template-missing" Error "no VM can be created"
    TEMPLATE_UNUSABLE "template-unusable" Error "no VM can be created"
    TEMPLATE_LOCKED "template-locked" Note "creates wait until the lock is gone"
    TEMPLATE_IN_RANGE "template-in-range" Warning "the template's VMID is among those for VMs"
    // The API and its token.
    ACCESS_UNUSABLE "access-unusable" Error "no VM can be created, and there are no metrics"
    API_UNREACHABLE "api-unreachable" Error "no VM can be created, and there are no metrics"
    TOKEN_REFUSED "token-refused" Error "no VM can be created, and there are no metrics"
    TOKEN_LACKS_PRIVILEGE "token-lacks-privilege" Error "creates or metrics fail"
    TOKEN_TOO_POWERFUL "token-too-powerful" Warning "whoever reads the token can change more than our VMs"
    // Storages.
    STORAGE_MISSING "storage-missing" Error "no VM can be created"
    STORAGE_OFF "storage-off" Error "no VM can be created, and VMs with disks there cannot start"
    STORAGE_WITHOUT_IMAGES "storage-without-images" Error "no VM can be created"
    STORAGE_FULL "storage-full" Error "guests get write errors, and no VM can be created"
    STORAGE_NEARLY_FULL "storage-nearly-full" Warning "guests get write errors when it is full"
    STORAGE_EXHAUSTED "storage-exhausted" Error "no VM of the usual size can be created"
    VOLUME_LEFTOVER "volume-leftover" Warning "it takes disk space, and a create with its VMID fails"
    VOLUMES_UNREADABLE "volumes-unreadable" Warning "leftover disks are not seen"
    STATE_DISK_FULL "state-disk-full" Error "every command that changes something fails"
    // Memory.
    MEMORY_EXHAUSTED "memory-exhausted" Error "no VM of the usual size can be created"
    // Addresses and VMIDs.
    VMIDS_EXHAUSTED "vmids-exhausted" Error "no VM can be created"
    VMIDS_NEARLY_EXHAUSTED "vmids-nearly-exhausted" Warning "soon no VM can be created"
    ADDRESSES_EXHAUSTED "addresses-exhausted" Error "no VM can be created"
    ADDRESSES_NEARLY_EXHAUSTED "addresses-nearly-exhausted" Warning "soon no VM can be created"
    ADDRESS_OF_HOST "address-of-host" Error "the host or its router loses its connections"
    ADDRESS_USED_BY_OTHERS "address-used-by-others" Warning "the address is skipped, and nobody knows the device"
    // The root agent.
    ROOT_AGENT_DOWN "root-agent-down" Error "no VM can be created, started, stopped or destroyed"
    ROOT_AGENT_FAILS "root-agent-fails" Error "it cannot see the VMs of the node"
    PLUGIN_OUTDATED "plugin-outdated" Warning "it lacks what this version of the commands relies on"
    // Clocks.
    CLOCK_DIFFERS "clock-differs" Warning "expiry is judged by the wrong time"
    CLOCK_BEHIND "clock-behind" Error "gc does nothing while the clock is behind its last run"
    // Units.
    UNIT_MISSING "unit-missing" Warning "what it does at boot or at night is not done"
    UNIT_INACTIVE "unit-inactive" Warning "what it does at boot or at night is not done"
    UNIT_FAILED "unit-failed" Error "what it should have done was not done"
    // Versions.
    VERSION_UNSUPPORTED "version-unsupported" Warning "nobody has tested this combination"
    // Owners and modes.
    FILE_OPEN_TO_ALL "file-open-to-all" Error "every user of the host can read secrets or change what decides about VMs"
    FILE_WRONG_OWNER "file-wrong-owner" Warning "user blockhost cannot write it, so commands fail"
    CONFIGURATION_NOT_ROOTS "configuration-not-roots" Error "user blockhost could name any VM of the node as ours"
    DIRECTORY_NOT_WRITABLE "directory-not-writable" Error "commands fail"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_in_kebab_case_and_each_is_one_kinds() {
        let codes: BTreeSet<&str> = ALL.iter().map(|kind| kind.code).collect();
        assert_eq!(codes.len(), ALL.len());
        for kind in ALL {
            let good = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(kind.code.chars().all(good) && !kind.why.ends_with('.'), "{kind:?}");
        }
    }
}
