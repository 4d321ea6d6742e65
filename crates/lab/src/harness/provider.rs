//! What `terraform init` leaves, made once for each build of the provider and copied into each lab.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};

use super::program;

/// The provider's name in a mirror's tree.
const SOURCE: &str = "registry.terraform.io/bpg/proxmox";
const PLATFORM: &str = "linux_amd64";
/// Entries of builds that are gone are removed after this.
const STALE: Duration = Duration::from_secs(6 * 3600);

/// Gives the lab its mirror, and its terraform folder `.terraform` and the lock file.
pub(super) fn install(dir: &Path, terraform_dir: &Path, target: &Path, version: &str) -> anyhow::Result<()> {
    let entry = cached(target, version)?;
    let name = format!("terraform-provider-proxmox_v{version}");
    let package = dir.join("mirror").join(SOURCE).join(version).join(PLATFORM);
    fs::create_dir_all(&package)?;
    symlink(entry.join("mirror").join(SOURCE).join(version).join(PLATFORM).join(&name), package.join(&name))?;
    let providers = terraform_dir.join(".terraform/providers").join(SOURCE).join(version);
    fs::create_dir_all(&providers)?;
    symlink(&package, providers.join(PLATFORM))?;
    fs::copy(entry.join(".terraform.lock.hcl"), terraform_dir.join(".terraform.lock.hcl"))?;
    Ok(())
}

/// The folder with the lock file for this build of the provider; `terraform init` runs if there is none.
///
/// A build is known by device, inode, size and time: a linker always writes a new file, and reading forty megabytes for
/// a hash would take longer than the rest of a lab's start. The entry holds the file itself by a hard link, so that a
/// running lab keeps its provider when the next one is built.
fn cached(target: &Path, version: &str) -> anyhow::Result<PathBuf> {
    let provider = program(target, "terraform-provider-proxmox")?;
    let data = fs::metadata(&provider)?;
    let key = format!(
        "{version}-{:x}-{:x}-{:x}-{}.{:09}",
        data.dev(),
        data.ino(),
        data.size(),
        data.mtime(),
        data.mtime_nsec()
    );
    let cache = target.join("lab-cache");
    let entry = cache.join(&key);
    if entry.join(".terraform.lock.hcl").is_file() {
        return Ok(entry);
    }
    fs::create_dir_all(&cache)?;
    let making = tempfile::Builder::new().prefix(".making-").tempdir_in(&cache)?;
    let package = making.path().join("mirror").join(SOURCE).join(version).join(PLATFORM);
    fs::create_dir_all(&package)?;
    let own = package.join(format!("terraform-provider-proxmox_v{version}"));
    if fs::hard_link(&provider, &own).is_err() {
        fs::copy(&provider, &own)?;
    }
    init(making.path(), version)?;
    // Another test may have been faster; what it made is the same.
    if fs::rename(making.path(), &entry).is_ok() {
        let _ = making.keep();
    }
    ensure!(entry.join(".terraform.lock.hcl").is_file(), "{} was not made", entry.display());
    forget_stale(&cache, &key);
    Ok(entry)
}

fn init(folder: &Path, version: &str) -> anyhow::Result<()> {
    let rc = folder.join("tf.rc");
    fs::write(&rc, cli_config(&folder.join("mirror")))?;
    fs::write(folder.join("provider.tf.json"), required(version).to_string())?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let done = Command::new("terraform")
        .args(["init", "-input=false", "-no-color"])
        .env_clear()
        .env("PATH", path)
        .env("HOME", folder)
        .env("TF_CLI_CONFIG_FILE", &rc)
        .current_dir(folder)
        .output()
        .context("failed to run terraform: the lab needs the real one on PATH")?;
    ensure!(
        done.status.success(),
        "terraform init failed for the stand-in provider: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    // Only the lock file is of use elsewhere.
    fs::remove_dir_all(folder.join(".terraform"))?;
    Ok(())
}

/// The `terraform` block that names the provider.
pub(super) fn required(version: &str) -> serde_json::Value {
    serde_json::json!({"terraform": {"required_providers": {"proxmox": {
        "source": "bpg/proxmox", "version": format!("= {version}")}}}})
}

/// terraform's own configuration: nothing but the mirror, no look outside.
pub(super) fn cli_config(mirror: &Path) -> String {
    format!(
        "disable_checkpoint = true\nprovider_installation {{\n  filesystem_mirror {{\n    path    = {:?}\n    include = [\"{SOURCE}\"]\n  }}\n}}\n",
        mirror.display().to_string()
    )
}

fn forget_stale(cache: &Path, current: &str) {
    let old = |path: &Path| {
        fs::metadata(path)
            .and_then(|data| data.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > STALE))
    };
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name() != current && old(&entry.path()) {
            // Somebody else may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
