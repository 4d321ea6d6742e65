//! `blockhost-provisioner-setup`: JSON in, one line of JSON out.

use crate::Common;
use anyhow::Context as _;
use provisioner::host::{Host, replace_file};
pub use provisioner::operation::setup::Step as InstallerStep;
use provisioner::operation::setup::{self, db_config, detect, network_guard, terraform_folder};
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _, Read as _};
use std::process::ExitCode;

/// What can be asked for.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// A look at the node.
    DetectResources,
    /// A step of the installer.
    Of(InstallerStep),
    /// The part of user blockhost.
    TerraformFolder,
    /// The part of step db_config that is user blockhost's.
    Database,
    /// The guard of step bridge.
    NetworkGuard,
}

/// Bytes that a session may have.
const INPUT_MAX: u64 = 4 << 20;

/// Carries out a step and prints the line.
pub fn run(common: &Common, step: Step) -> ExitCode {
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
    match step {
        // Its input is a conversation.
        Step::NetworkGuard => network_guard::run(host).map(|()| json!({})),
        Step::TerraformFolder => terraform_folder::run(host, &input()?).map(|()| json!({})),
        Step::Database => db_config::database(host, &input()?).map(|()| json!({})),
        Step::DetectResources => detect::resources(host, &input()?).map(|found| json!({"resources": found})),
        Step::Of(step) => {
            anyhow::ensure!(
                replace_file::are_root(),
                "this step changes the node and needs root (sudo blockhost-provisioner-setup …)"
            );
            setup::run(step, host, &input()?).map(|()| json!({}))
        }
    }
}

/// Standard input; nothing where a person sits at it.
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
