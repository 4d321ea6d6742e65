//! The installer's steps, run by root: token → terraform → db_config → bridge → template, and the wizard's query before
//! them.
//!
//! Each step can be run again at any time and then completes what is missing; after an error it rolls back what it has
//! half done. Work in directories of user blockhost is done with that user's privileges ([`terraform_folder`]): root
//! would follow a link planted there, or run a program.

mod bridge;
mod carry;
pub mod choices;
pub mod db_config;
pub mod detect;
mod interfaces_file;
pub mod network_guard;
mod network_inventory;
mod pool_choice;
mod sandbox;
mod ssh_key;
mod template;
mod terraform;
pub mod terraform_folder;
mod token;

use crate::host::Host;
use crate::host::accounts::{self, Account};
use crate::operation::node_cloud_init;
use choices::Choices;

/// The root agent accepts no VMID above this (`facts/contract/root-agent.md`).
const HIGHEST_VMID: u64 = 999_999;

/// A step of the installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Proxmox user, roles, permissions and token.
    Token,
    /// The terraform directory and `terraform init`.
    Terraform,
    /// `db.yaml`.
    DbConfig,
    /// The guests' bridge.
    Bridge,
    /// The template VM.
    Template,
    /// Disables the node's own cloud-init; every other step does this too, at its end (H60).
    CloudInit,
}

/// What every step works with.
struct Setup<'h> {
    host: &'h Host,
    choices: Choices,
    /// User blockhost.
    account: Account,
}

impl Setup<'_> {
    /// Owner of configuration files that user blockhost reads but must not change.
    fn configuration_owner(&self) -> Account {
        Account { uid: rustix::process::geteuid().as_raw(), gid: self.account.gid }
    }

    fn configuration_file(&self, name: &str) -> std::path::PathBuf {
        self.host.config_dirs[0].join(name)
    }
}

/// Runs a step with the wizard's session as JSON; if empty, with this host's configuration and defaults.
pub fn run(step: Step, host: &Host, input: &str) -> anyhow::Result<()> {
    if step == Step::CloudInit {
        return node_cloud_init::switch_off(host);
    }
    let setup = Setup { host, choices: Choices::read(host, input)?, account: accounts::blockhost(host)? };
    if matches!(step, Step::Token | Step::Terraform | Step::DbConfig) {
        sandbox::check(host, &sandbox::places(&setup)?)?;
    }
    match step {
        Step::Token => token::run(&setup),
        Step::Terraform => terraform::run(&setup),
        Step::DbConfig => db_config::run(&setup),
        Step::Bridge => bridge::run(&setup),
        Step::Template => template::run(&setup),
        Step::CloudInit => Ok(()),
    }?;
    node_cloud_init::switch_off(host)
}
