//! Terraform's state files, read as claims: what a state says is compared with the node before anything is done, and a
//! state torn by a killed terraform is never trusted (hazard H52).

use crate::host::doors::Doors;
use crate::host::replace_file::{self, PRIVATE};
use anyhow::Context;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The contents of a state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateFile {
    /// No file: terraform has created nothing here.
    Missing,
    /// 0 bytes or not JSON: terraform was killed while writing it (H52). Never trusted.
    Torn,
    /// A state that contains these resources (`type.name`).
    Holds(Vec<String>),
}

/// Returns the attributes of the resource at this address (`type.name`) in a state file; `None` if it has no such
/// resource.
pub(super) fn attributes_in(state: &Path, address: &str) -> anyhow::Result<Option<Value>> {
    if !state.exists() {
        return Ok(None);
    }
    let text = crate::host::read_file::text_for_people(state)?;
    let mut json: Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a Terraform state", state.display()))?;
    let resources = json.get_mut("resources").and_then(Value::as_array_mut).map(std::mem::take);
    let ours = resources.unwrap_or_default().into_iter().find(|resource| {
        let text = |key: &str| resource.get(key).and_then(Value::as_str).unwrap_or_default();
        format!("{}.{}", text("type"), text("name")) == address
    });
    Ok(ours.and_then(|resource| resource.pointer("/instances/0/attributes").cloned()))
}

pub(super) fn read_state(path: &Path) -> anyhow::Result<StateFile> {
    let text = match crate::host::read_file::text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(StateFile::Missing),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(StateFile::Torn),
        Err(error) => anyhow::bail!("cannot read {}: {error}", path.display()),
    };
    let Ok(Value::Object(state)) = serde_json::from_str::<Value>(&text) else {
        return Ok(StateFile::Torn);
    };
    let text_of = |resource: &Value, key: &str| {
        resource.get(key).and_then(Value::as_str).unwrap_or_default().to_string()
    };
    let resources = state.get("resources").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(StateFile::Holds(
        resources.iter().map(|r| format!("{}.{}", text_of(r, "type"), text_of(r, "name"))).collect(),
    ))
}

/// Copies a good state, or restores a torn one.
pub(super) fn secure_state(doors: Doors, state: &Path, copy: &Path) -> anyhow::Result<StateFile> {
    match read_state(state)? {
        StateFile::Missing => Ok(StateFile::Missing),
        good @ StateFile::Holds(_) => {
            let bytes = crate::host::read_file::bytes(state)?;
            replace_file::replace(doors, copy, &bytes, PRIVATE, "state-copy")?;
            Ok(good)
        }
        StateFile::Torn => {
            for candidate in [copy.to_path_buf(), PathBuf::from(format!("{}.backup", state.display()))] {
                if let StateFile::Holds(resources) = read_state(&candidate)? {
                    tracing::warn!(
                        "{} was truncated by a killed terraform; restored it from {}",
                        state.display(),
                        candidate.display()
                    );
                    let bytes = crate::host::read_file::bytes(&candidate)?;
                    replace_file::replace(doors, state, &bytes, PRIVATE, "state-restore")?;
                    return Ok(StateFile::Holds(resources));
                }
            }
            Ok(StateFile::Torn)
        }
    }
}

/// Returns the label of the only VM resource in a `.tf.json` file.
pub(super) fn label_in(path: &Path) -> anyhow::Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = crate::host::read_file::text_for_people(path)?;
    let file: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    let vms = file.pointer("/resource/proxmox_virtual_environment_vm").and_then(Value::as_object);
    Ok(vms.and_then(|vms| vms.keys().next().cloned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"{"version": 4, "resources": [{"type": "proxmox_virtual_environment_vm", "name": "web_1"}]}"#;

    fn files(
        state: Option<&str>,
        copy: Option<&str>,
        backup: Option<&str>,
    ) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (state_path, copy_path) = (dir.path().join("terraform.tfstate"), dir.path().join("copy"));
        for (path, text) in [
            (state_path.clone(), state),
            (copy_path.clone(), copy),
            (dir.path().join("terraform.tfstate.backup"), backup),
        ] {
            if let Some(text) = text {
                std::fs::write(path, text).unwrap();
            }
        }
        (dir, state_path, copy_path)
    }

    #[test]
    fn h52_an_empty_state_is_restored_and_never_believed() {
        let held = StateFile::Holds(vec!["proxmox_virtual_environment_vm.web_1".into()]);
        let (_dir, state, copy) = files(Some(GOOD), None, None);
        assert_eq!(secure_state(Doors::real(), &state, &copy).unwrap(), held);
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), GOOD);
        for torn in ["", "{\"version\": 4, \"resou", "\0\0\0\0"] {
            let (_dir, state, copy) = files(Some(torn), Some(GOOD), None);
            assert_eq!(secure_state(Doors::real(), &state, &copy).unwrap(), held, "{torn:?}");
            assert_eq!(std::fs::read_to_string(&state).unwrap(), GOOD);
            let (_dir, state, copy) = files(Some(torn), None, Some(GOOD));
            assert_eq!(secure_state(Doors::real(), &state, &copy).unwrap(), held);
            let (_dir, state, copy) = files(Some(torn), None, None);
            assert_eq!(secure_state(Doors::real(), &state, &copy).unwrap(), StateFile::Torn);
            let (_dir, state, copy) = files(Some(torn), Some(""), Some(""));
            assert_eq!(secure_state(Doors::real(), &state, &copy).unwrap(), StateFile::Torn);
        }
        let (_dir, state, copy) = files(None, Some(GOOD), None);
        assert_eq!(secure_state(Doors::real(), &state, &copy).unwrap(), StateFile::Missing);
    }

    #[test]
    fn h03_the_resource_label_is_the_files_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tf.json");
        assert_eq!(label_in(&path).unwrap(), None);
        std::fs::write(&path, r#"{"resource": {"proxmox_virtual_environment_vm": {"own_label": {}}}}"#)
            .unwrap();
        assert_eq!(label_in(&path).unwrap(), Some("own_label".into()));
        std::fs::write(&path, "{").unwrap();
        assert!(label_in(&path).is_err());
    }
}
