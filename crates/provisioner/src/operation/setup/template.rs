//! Step template: an existing template is used as it is; otherwise one is built.

use super::super::build_template::work_folder::note_of_a_build;
use super::Setup;
use crate::host::run_process::{self, Input, Limit, Program, Stream};
use crate::tool::proxmox_cli::ProxmoxCli;
use anyhow::Context as _;
use std::path::Path;
use std::time::Duration;

/// The installer allows the build 30 minutes.
const LIMIT: Duration = Duration::from_secs(1_790);
/// Time for a stopped build to roll back what it has half done.
const GRACE: Duration = Duration::from_secs(120);

pub(super) fn run(setup: &Setup<'_>) -> anyhow::Result<()> {
    let choices = &setup.choices;
    let cli = ProxmoxCli::here(setup.host, setup.host.deadline(Duration::from_secs(30)));
    let wanted = Some(u64::from(choices.template.get()));
    let found = cli.guests()?.into_iter().find(|guest| guest.vmid == wanted);
    // `qm template` reports success before it has converted the disks (H32), and a killed build may have left a
    // half-made VM; the builder knows what is in progress, and completes it.
    let under_way = note_of_a_build(&setup.host.cache_dir).exists();
    if !under_way && found.is_some_and(|guest| guest.is_template) {
        return Ok(());
    }
    build(setup)
}

/// Runs `blockhost-build-template` from the directory of this program, and passes on its output.
fn build(setup: &Setup<'_>) -> anyhow::Result<()> {
    let own = run_process::own_program()?;
    let path = own.with_file_name("blockhost-build-template");
    let choices = &setup.choices;
    let words = [
        ("--template-vmid", choices.template.to_string()),
        ("--storage", choices.storage.to_string()),
        ("--bridge", choices.bridge.to_string()),
        ("--host", "localhost".to_owned()),
    ];
    let program = Program {
        name: path.to_str().context("the path of this program is not valid UTF-8")?,
        arguments: words.iter().flat_map(|(flag, value)| [(*flag).into(), value.into()]).collect(),
        folder: Path::new("/"),
        environment: vec![],
        without: &[],
    };
    let limit = Limit { work: LIMIT, grace: GRACE };
    let mut last = String::new();
    let heard = |stream, line: &str| {
        if stream == Stream::Error && !line.trim().is_empty() {
            last = line.trim_start_matches("error: ").to_owned();
            tracing::info!("{line}");
        }
    };
    let ended = run_process::run_as(
        setup.host.doors,
        &program,
        None,
        Input::Nothing,
        limit,
        &setup.host.interrupt,
        heard,
    )?;
    anyhow::ensure!(ended.status.success(), "failed to build the template: {last}");
    Ok(())
}
