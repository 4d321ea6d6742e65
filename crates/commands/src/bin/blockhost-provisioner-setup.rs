//! `blockhost-provisioner-setup`
use clap::{Parser, Subcommand};
use commands::{Common, setup};
use std::process::ExitCode;

/// Carry out a step of the installation on this Proxmox VE node
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-setup",
    version,
    styles = commands::STYLES,
    after_help = "The wizard's answers come as JSON on standard input ({\"provisioner\": {\"node\": \"pve\", …}}); values \
        not given are taken from this host's configuration, then from the defaults. The answer is one line of JSON on standard output, \
        {\"ok\": true, \"error\": null}, and exit code 0, or 1 with the reason as error. Every step can be run again.\n\n\
        Example, the token renewed on an installed host:\n  blockhost-provisioner-setup token </dev/null"
)]
struct Command {
    #[command(subcommand)]
    step: Step,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Step {
    /// Look at the node: storages, bridges, addresses, template
    DetectResources,
    /// Create the Proxmox user, roles, pool and a least-privilege API token
    Token,
    /// Prepare the terraform directory and download the Proxmox provider
    Terraform,
    /// Write db.yaml and create an empty VM database
    #[command(name = "db_config")]
    DbConfig,
    /// Create the VMs' bridge; reverted if the host loses its network
    Bridge,
    /// Build the template VM unless it exists
    Template,
    /// Switch the node's own cloud-init off, which every other step does too: it would run guests' user-data as root
    CloudInit,
    /// Part of bridge: puts the former network back
    #[command(hide = true)]
    NetworkGuard,
    /// Part of db_config: the VM database, made by user blockhost itself
    #[command(hide = true)]
    Database,
    /// Part of terraform and token: what user blockhost itself writes
    #[command(hide = true)]
    TerraformFolder,
}

fn main() -> ExitCode {
    let command: Command = commands::parse();
    let step = match command.step {
        Step::DetectResources => setup::Step::DetectResources,
        Step::Token => setup::Step::Of(setup::InstallerStep::Token),
        Step::Terraform => setup::Step::Of(setup::InstallerStep::Terraform),
        Step::DbConfig => setup::Step::Of(setup::InstallerStep::DbConfig),
        Step::Bridge => setup::Step::Of(setup::InstallerStep::Bridge),
        Step::Template => setup::Step::Of(setup::InstallerStep::Template),
        Step::CloudInit => setup::Step::Of(setup::InstallerStep::CloudInit),
        Step::NetworkGuard => setup::Step::NetworkGuard,
        Step::Database => setup::Step::Database,
        Step::TerraformFolder => setup::Step::TerraformFolder,
    };
    setup::run(&command.common, step)
}
