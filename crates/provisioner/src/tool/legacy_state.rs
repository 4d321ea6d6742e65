//! The shared folder of the older package, for the import of its VMs: read without being touched, and written only behind
//! a copy (hazards H17, H52; `facts/contract/legacy.md`).
//!
//! ```text
//! terraform.tfstate                  the shared state; one VM after the other leaves it
//! terraform.tfstate.blockhost        a copy from before the last change
//! terraform.tfstate.before-import    as it was before the first VM left; written once and never again
//! ```

use super::terraform::{FOLDER_WAIT, LegacyFolder, STATE, STATE_COPY};
use super::terraform_state::{StateFile, read_state, secure_state};
use crate::host::clock::Deadline;
use crate::host::interrupt::Interrupt;
use crate::host::lock_file::{self, LockFile};
use crate::host::read_file;
use crate::host::replace_file::{self, PRIVATE};
use crate::plan::shared_state::{SharedState, StateProblem};
use crate::store::settings::Settings;
use anyhow::Context as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const BEFORE_IMPORT: &str = "terraform.tfstate.before-import";

/// What the shared folder says, read once for all VMs.
#[derive(Debug)]
pub struct SharedFolder {
    /// The state; empty where there is none.
    pub state: SharedState,
    /// The files of VMs, by the name in the file's name: what is in it, or why it cannot be read.
    pub files: BTreeMap<String, Result<Value, String>>,
    /// What a person should know: the state was read from a copy.
    pub remark: Option<String>,
}

impl SharedFolder {
    /// Reads it; nothing is changed. An error where the state cannot be believed.
    pub fn read(settings: &Settings) -> anyhow::Result<SharedFolder> {
        let dir = &settings.terraform_dir;
        let (state, remark) = read_shared(dir)?;
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".tf.json"));
            if let Some(name) = name.filter(|name| !["provider", "variables"].contains(name)) {
                let text = read_file::text_for_people(&entry.path());
                let parsed = text.and_then(|text| Ok(serde_json::from_str(&text)?));
                files.insert(name.to_string(), parsed.map_err(|error| format!("{error:#}")));
            }
        }
        Ok(SharedFolder { state, files, remark })
    }
}

/// The shared state, or that of the copy from which a torn one will be restored.
fn read_shared(dir: &Path) -> anyhow::Result<(SharedState, Option<String>)> {
    let path = dir.join(STATE);
    match parsed(&path) {
        Ok(None) => Ok((SharedState::empty(), None)),
        Ok(Some(state)) => Ok((state, None)),
        Err((StateProblem::Torn, words)) => {
            for copy in copies(dir) {
                if let Ok(Some(state)) = parsed(&copy) {
                    let remark = format!("{words}; read {} instead", copy.display());
                    return Ok((state, Some(remark)));
                }
            }
            anyhow::bail!("{words}, and no copy of it is whole; restore it from a backup")
        }
        Err((_, words)) => anyhow::bail!("{words}; left unchanged"),
    }
}

/// The order in which a torn state is restored from them.
fn copies(dir: &Path) -> [PathBuf; 2] {
    [dir.join(STATE_COPY), dir.join(format!("{STATE}.backup"))]
}

fn parsed(path: &Path) -> Result<Option<SharedState>, (StateProblem, String)> {
    let text = match read_file::text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => String::new(),
        Err(error) => {
            let words = format!("cannot read {}: {error}", path.display());
            return Err((StateProblem::Form("it cannot be read"), words));
        }
    };
    let named = |problem: StateProblem| {
        let words = format!("cannot use the shared Terraform state {}: {problem}", path.display());
        (problem, words)
    };
    SharedState::parse(&text).map(Some).map_err(named)
}

impl LegacyFolder {
    /// Takes the VM's resources with this label out of the shared state, as `terraform state mv` would; whether it had any.
    /// No terraform works with the state meanwhile: ours hold `terraform.lock`, and one that a person runs is refused.
    pub fn unshare(&self, label: &str, deadline: Deadline, interrupt: &Interrupt) -> anyhow::Result<bool> {
        let path = self.dir.join(STATE);
        let wait = deadline.at_most(FOLDER_WAIT);
        let _lock = LockFile::lock(&self.dir.join("terraform.lock"), wait, interrupt)
            .with_context(|| format!("a terraform is running in {}", self.dir.display()))?;
        anyhow::ensure!(
            !lock_file::is_record_locked(&path),
            "somebody runs terraform in {}; try again when it has ended",
            self.dir.display()
        );
        match read_state(&path)? {
            StateFile::Missing => return Ok(false),
            // A good one that has nothing of the VM is not even copied.
            StateFile::Holds(_) => {
                if parsed(&path)
                    .map_err(|(_, words)| anyhow::anyhow!(words))?
                    .is_none_or(|s| s.without(label).is_none())
                {
                    return Ok(false);
                }
            }
            StateFile::Torn => {}
        }
        anyhow::ensure!(
            secure_state(self.doors, &path, &self.dir.join(STATE_COPY))? != StateFile::Torn,
            "{} was truncated by a killed terraform, and no copy of it is whole",
            path.display()
        );
        let state = parsed(&path).map_err(|(_, words)| anyhow::anyhow!(words))?;
        let Some(rest) = state.and_then(|state| state.without(label)) else { return Ok(false) };
        let first = self.dir.join(BEFORE_IMPORT);
        if !first.exists() {
            replace_file::replace(
                self.doors,
                &first,
                &read_file::bytes(&path)?,
                PRIVATE,
                "state-before-import",
            )?;
        }
        replace_file::replace(self.doors, &path, rest.as_bytes(), PRIVATE, "shared-state")?;
        Ok(true)
    }

    /// Whether anything of the VM is left here: one of its two files.
    pub fn has_leftovers(&self) -> bool {
        self.vm_file().exists() || self.cloud_config().exists()
    }

    /// The user-data as the older package wrote it.
    pub fn user_data(&self) -> anyhow::Result<String> {
        read_file::text_for_people(&self.cloud_config())
    }
}
