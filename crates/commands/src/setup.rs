//! `blockhost-provisioner-setup`: JSON on stdin, one line of JSON on stdout.

use crate::Common;
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use provisioner::host::{Host, replace_file};
use provisioner::operation::setup::Step as InstallerStep;
use provisioner::operation::setup::{self, db_config, detect, network_guard, terraform_folder};
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _, Read as _};
use std::process::ExitCode;

/// Run a setup step on this Proxmox VE node
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-setup",
    version,
    styles = crate::STYLES,
    after_help = "The wizard's answers come as JSON on standard input ({\"provisioner\": {\"node\": \"pve\", …}}); values \
        not given are taken from this host's configuration, then from the defaults. The answer is one line of JSON on standard output, \
        {\"ok\": true, \"error\": null}, and exit code 0, or 1 with the reason as error. Every step can be run again.\n\n\
        Example, the token renewed on an installed host:\n  blockhost-provisioner-setup token </dev/null"
)]
pub struct SetupCommand {
    #[command(subcommand)]
    step: Step,
    #[command(flatten)]
    common: Common,
}

/// The steps that can be requested.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Step {
    /// Inspect the node: storages, bridges, addresses, template
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
    /// Disable the node's own cloud-init, which would run guests' user-data as root (every step does this)
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

/// Maximum size of a session in bytes.
const INPUT_MAX: u64 = 4 << 20;

/// The command's entry point.
pub fn main() -> ExitCode {
    let command: SetupCommand = crate::parse();
    run(&command.common, command.step)
}

/// Runs a step and prints the result line.
fn run(common: &Common, step: Step) -> ExitCode {
    let result = crate::prepare_as_root(common).and_then(|host| carry_out(&host, step));
    let (line, code) = match result {
        Ok(more) => {
            let mut answer = json!({"ok": true, "error": null});
            for (key, value) in more.as_object().into_iter().flatten() {
                answer[key] = value.clone();
            }
            (answer, ExitCode::SUCCESS)
        }
        Err(error) => {
            let text = format!("{error:#}").replace('\n', " ");
            (json!({"ok": false, "error": text}), ExitCode::FAILURE)
        }
    };
    match crate::answer(&format!("{line}\n")) {
        Ok(()) => code,
        Err(error) => {
            crate::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn carry_out(host: &Host, step: Step) -> anyhow::Result<Value> {
    let step = match step {
        // Its standard input is a conversation, so it is not read to its end here.
        Step::NetworkGuard => return network_guard::run(host).map(|()| json!({})),
        Step::TerraformFolder => return terraform_folder::run(host, &input()?).map(|()| json!({})),
        Step::Database => return db_config::database(host, &input()?).map(|()| json!({})),
        Step::DetectResources => {
            return detect::resources(host, &input()?).map(|found| json!({"resources": found}));
        }
        Step::Token => InstallerStep::Token,
        Step::Terraform => InstallerStep::Terraform,
        Step::DbConfig => InstallerStep::DbConfig,
        Step::Bridge => InstallerStep::Bridge,
        Step::Template => InstallerStep::Template,
        Step::CloudInit => InstallerStep::CloudInit,
    };
    anyhow::ensure!(
        replace_file::are_root(),
        "this step changes the node and needs root (sudo blockhost-provisioner-setup …)"
    );
    setup::run(step, host, &input()?).map(|()| json!({}))
}

/// Reads standard input; empty if it is a terminal.
fn input() -> anyhow::Result<String> {
    let mut text = String::new();
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        stdin.lock().take(INPUT_MAX + 1).read_to_string(&mut text).context("cannot read standard input")?;
        anyhow::ensure!(
            text.len() as u64 <= INPUT_MAX,
            "standard input has more than {} MiB",
            INPUT_MAX >> 20
        );
    }
    Ok(text)
}
