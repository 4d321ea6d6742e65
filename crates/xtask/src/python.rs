//! A Python of our own below `target/`: pytest, hypothesis and shellcheck, as `tests/python/requirements.txt` pins them.

use crate::sh::{command, root, shown};
use anyhow::{Context, ensure};
use std::path::PathBuf;

/// `target/venv`, made or brought up to date.
pub fn environment() -> anyhow::Result<PathBuf> {
    let venv = root().join("target/venv");
    let requirements = root().join("tests/python/requirements.txt");
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
