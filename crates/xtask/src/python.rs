//! Pythons of our own below `target/`, each with what one list of requirements pins.

use crate::sh::{command, root, shown};
use anyhow::{Context, ensure};
use std::path::PathBuf;

/// `target/NAME` with the requirements of a file, made or brought up to date.
pub fn environment(name: &str, requirements: &str) -> anyhow::Result<PathBuf> {
    let venv = root().join("target").join(name);
    let requirements = root().join(requirements);
    let wanted =
        std::fs::read_to_string(&requirements).with_context(|| requirements.display().to_string())?;
    let stamp = venv.join("requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(venv);
    }
    let path = venv.to_string_lossy().into_owned();
    ensure!(
        shown(command("python3", &["-m", "venv", "--clear", &path]))?,
        "python3 -m venv failed (Debian: apt install python3-venv)"
    );
    let pip = venv.join("bin/pip");
    let file = requirements.to_string_lossy().into_owned();
    ensure!(
        shown(command(pip, &["install", "--quiet", "--requirement", &file]))?,
        "pip could not install {file}"
    );
    std::fs::write(stamp, wanted)?;
    Ok(venv)
}
