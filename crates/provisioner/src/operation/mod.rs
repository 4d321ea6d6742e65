//! One file per command, each readable from top to bottom.
//!
//! Every operation that changes a VM holds its lock ([`crate::store::vm_lock`]); [`machine`] finds the VM that a record
//! is about and proves that it is ours.

pub mod audited;
pub mod bandwidth;
pub mod build_template;
pub mod capacity;
pub mod create;
pub mod destroy;
pub mod directories;
pub mod doctor;
pub mod expire;
pub mod gc;
pub mod guard;
pub mod guard_upkeep;
pub mod guest_exec;
pub mod import;
pub mod kill;
pub mod late_requests;
pub mod leftovers;
pub mod list;
pub mod locked_vm;
pub mod machine;
pub mod metrics;
pub mod mock;
pub mod network;
pub mod node_cloud_init;
pub mod node_facts;
pub mod protect;
pub mod reapply;
pub mod recovery;
pub mod restore;
pub mod resume;
pub mod setup;
pub mod show;
pub mod start;
pub mod status;
pub mod stop;
pub mod throttle;
pub mod unfinished;
pub mod update_gecos;
pub mod vanished;

use crate::host::Host;
use crate::host::interrupt::Interrupt;
use crate::host::proxmox_api::ProxmoxApi;
use crate::plan::allocation::Exhausted;
use crate::store::journal::Journal;
use crate::store::node_access::NodeAccess;
use crate::store::settings::{Settings, guests_bridge};
use crate::store::vm_database::{Fields, VmDatabase};
use crate::tool::node::Node;
use crate::tool::terraform::{LegacyFolder, VmFolder};
use crate::value::nearest::nearest;
use crate::value::text::BridgeName;
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use std::sync::{Once, OnceLock};

/// The arguments themselves are wrong, whatever the state of the system: exit code 2, as when clap finds the error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUsage(String);

impl WrongUsage {
    /// `why` is a complete message.
    pub fn new(why: impl ToString) -> WrongUsage {
        WrongUsage(why.to_string())
    }
}

/// Whether an error is only about the arguments.
pub fn is_wrong_usage(error: &anyhow::Error) -> bool {
    let never_ours = matches!(error.downcast_ref::<Exhausted>(), Some(Exhausted::NotOurs(_)));
    never_ours || error.downcast_ref::<WrongUsage>().is_some()
}

pub use locked_vm::in_words;

/// What every operation works with.
pub struct Context<'h> {
    /// Where files are on this host, and its doors to everything outside of this process.
    pub host: &'h Host,
    /// Settings from db.yaml.
    pub settings: Settings,
    /// The VM database (the mock one with `--mock`).
    pub database: VmDatabase,
    /// The journal of operations in progress; empty for a mock.
    journal: Journal<'h>,
    /// How to reach the node's API; set once it has been read.
    access: OnceLock<NodeAccess>,
    /// A single client for all requests to the API.
    api: OnceLock<ProxmoxApi>,
    /// Whether it was said that the root agent does not guard VMs: once, however many VMs are connected.
    said_unguarded: Once,
}

impl<'h> Context<'h> {
    /// Reads the settings. `mock`: those of a mock, only for the functions of [`mock`], where the database stands in
    /// for the node and nothing on the host is touched.
    pub fn open(host: &'h Host, mock: bool) -> anyhow::Result<Context<'h>> {
        let settings = if mock { Settings::for_mock(host)? } else { Settings::read(host)? };
        let database = VmDatabase::new(host.doors, &settings.db_file, &settings.fields);
        let journal = if mock { Journal::none(host) } else { Journal::new(host) };
        if !mock {
            crate::store::provisioning_queue::tidy(host);
        }
        Ok(Context::with(host, settings, database, journal))
    }

    /// For who only looks: nothing is tidied up.
    pub fn to_look(host: &'h Host, settings: Settings) -> Context<'h> {
        let database = VmDatabase::new(host.doors, &settings.db_file, &settings.fields);
        Context::with(host, settings, database, Journal::new(host))
    }

    fn with(host: &'h Host, settings: Settings, database: VmDatabase, journal: Journal<'h>) -> Context<'h> {
        let (access, api) = (OnceLock::new(), OnceLock::new());
        Context { host, settings, database, journal, access, api, said_unguarded: Once::new() }
    }

    /// Warns, once, that the root agent sets up VMs' networks only when a command asks it to.
    fn warn_unguarded(&self) {
        self.said_unguarded.call_once(|| {
            tracing::warn!(
                "the root agent does not guard VMs at their starts (its plugin is older than this command, or the VM \
                 is outside vmid_range); routes, isolation and bandwidth limits are set once, by this command"
            );
        });
    }

    /// Returns the node; a signal ends waits for it.
    pub fn node(&self) -> Node {
        Node::new(self.host, self.host.interrupt.clone())
    }

    /// Returns the node for a rollback, which a signal does not stop.
    pub fn node_uninterrupted(&self) -> Node {
        Node::new(self.host, Interrupt::never())
    }

    /// How to reach the node's API, and a client for it.
    pub fn api(&self) -> anyhow::Result<(&NodeAccess, &ProxmoxApi)> {
        let access = self.access()?;
        let api = match self.api.get() {
            Some(known) => known,
            None => {
                let api = access.api(self.host)?;
                self.api.get_or_init(|| api)
            }
        };
        Ok((access, api))
    }

    /// How to reach the node's API.
    fn access(&self) -> anyhow::Result<&NodeAccess> {
        match self.access.get() {
            Some(known) => Ok(known),
            None => {
                let access = NodeAccess::read(self.host, &self.settings)?;
                Ok(self.access.get_or_init(|| access))
            }
        }
    }

    /// The terraform directory of a VM.
    pub fn folder_of(&self, name: &VmName) -> VmFolder {
        VmFolder::new(self.host, &self.settings, name)
    }

    /// The part of the older package's directory that concerns this VM.
    pub fn legacy_folder_of(&self, name: &VmName) -> LegacyFolder {
        LegacyFolder::new(self.host, &self.settings, name)
    }

    /// The journal.
    pub fn journal(&self) -> &Journal<'h> {
        &self.journal
    }

    /// Returns the guests' bridge: the one in tfvars, else in db.yaml. Fails if terraform.tfvars exists but cannot be
    /// used: then nobody knows which bridge the VMs are on, and a route to another one would hide that.
    pub fn bridge(&self) -> anyhow::Result<BridgeName> {
        let named = match self.access() {
            Ok(access) => access.bridge.clone(),
            Err(_) if !self.settings.terraform_dir.join("terraform.tfvars").exists() => None,
            Err(error) => return Err(error.context("cannot determine the guests' bridge")),
        };
        guests_bridge(named, || Ok(Some(self.settings.bridge.clone())))
    }

    /// Returns a VM's record; `None` if it has none. A record that cannot be read is an error that names it.
    pub fn record(&self, name: &VmName) -> anyhow::Result<Option<VmRecord>> {
        match self.database.record(name.as_str())? {
            None => Ok(None),
            Some(Ok(record)) => Ok(Some(record)),
            Some(Err(why)) => anyhow::bail!("{}: {why}", self.database.path().display()),
        }
    }

    /// Says that the database has no VM `name`, and which one may be meant: the VM with this VMID, or the one with the
    /// nearest name.
    pub fn no_record(&self, name: &VmName) -> String {
        let mut text = format!("{} has no such record", self.database.path().display());
        if let Some(under_way) = unfinished::of_name(self, name) {
            return format!("{text}; {under_way}");
        }
        // Only a hint: if the names cannot be read, the message goes without it.
        let known = self.database.gather(Fields::All, Vec::new, |found, view| found.push(view.to_record()));
        let live: Vec<VmRecord> = known.into_iter().flatten().flatten().filter(VmRecord::is_live).collect();
        let by_vmid = live.iter().find(|r| r.vmid.to_string() == name.as_str());
        if let Some(record) = by_vmid {
            text.push_str(&format!("; VMID {name} is VM {}", record.name));
        } else if let Some(near) = nearest(name.as_str(), live.iter().map(|r| r.name.as_str())) {
            text.push_str(&format!("; did you mean {near}?"));
        }
        text
    }

    /// Returns the VM's record; fails unless the VM exists and is not destroyed (H41).
    pub fn live_record(&self, name: &VmName) -> anyhow::Result<VmRecord> {
        let record = self.record(name)?;
        let record =
            record.ok_or_else(|| anyhow::anyhow!("VM {name} is unknown: {}", self.no_record(name)))?;
        anyhow::ensure!(
            record.is_live(),
            "VM {name} was destroyed, and its VMID {} may belong to another VM by now, so nothing was done; create it \
             again with blockhost-vm-create {name}",
            record.vmid
        );
        Ok(record)
    }
}
