//! The `.deb` files that other packages want in the template: `/var/lib/blockhost/template-packages`.
//!
//! The directory belongs to user blockhost after the installer's `chown -R`, and what is in it is installed in every
//! customer's VM. That gives this user nothing new: it can already enter every guest as root, through the root agent's
//! `qm-guest-exec`. But it must not become root on the *node*. So packages are unpacked and run only by
//! virt-customize's appliance, a VM. Root itself only copies bytes, follows no links, and reads nothing but regular
//! files that are Debian packages and belong to root or user blockhost. What is checked and hashed is the copy, in a
//! directory of root's, where nobody else can change it (H29).

use crate::host::accounts::Account;
use crate::host::doors::Doors;
use crate::host::interrupt::Interrupt;
use crate::host::large_file::{self, GrowingFile, Sum};
use anyhow::Context as _;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A package file that has been opened.
pub struct Package {
    /// Its file name, for messages.
    pub shown: String,
    file: File,
}

/// The first bytes of a Debian package: an `ar` archive whose first member has this name.
const MAGIC: &[u8] = b"!<arch>\ndebian-binary";
/// Maximum size of a package in bytes; copying a file that grows meanwhile must come to an end.
const MAX: u64 = 1 << 30;

/// Opens the packages of a directory, sorted by name. Fails if there are none, or if any of them is unacceptable.
/// `owner` is user blockhost.
pub fn find(directory: &Path, owner: Account) -> anyhow::Result<Vec<Package>> {
    let shown = directory.display();
    let next = "put the .deb files that every VM needs there (the installer's web3-auth package)";
    let handle = large_file::open_directory(directory).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            anyhow::anyhow!("no package for the template: {shown} does not exist; {next}")
        }
        _ => anyhow::anyhow!("cannot read {shown}: {error}"),
    })?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&handle).with_context(|| format!("cannot read {shown}"))? {
        let name = entry.with_context(|| format!("cannot read {shown}"))?.file_name().to_owned();
        if name.to_bytes().ends_with(b".deb") && name.to_bytes().len() > 4 {
            names.push(name);
        }
    }
    names.sort();
    anyhow::ensure!(!names.is_empty(), "no package for the template: {shown} holds no .deb file; {next}");
    names.iter().map(|name| open(directory, &handle, name, owner)).collect()
}

fn open(directory: &Path, handle: &File, name: &std::ffi::CStr, owner: Account) -> anyhow::Result<Package> {
    let shown = in_one_line(&name.to_string_lossy());
    let refused = |why: &str| anyhow::anyhow!("package {shown} in {} is refused: {why}", directory.display());
    let file = large_file::open_plain_at(handle, name).map_err(|error| refused(&error.to_string()))?;
    let found = file.metadata()?;
    let root = rustix::process::geteuid().as_raw();
    let others =
        found.mode() & 0o002 != 0 || found.mode() & 0o020 != 0 && ![0, owner.gid].contains(&found.gid());
    if ![root, owner.uid].contains(&found.uid()) || others {
        return Err(refused(&format!(
            "it must belong to root or to user blockhost and be writable by nobody else; check where it comes from, \
             then run chown root:root and chmod 0644 on {}/{shown}",
            directory.display()
        )));
    }
    let mut head = [0; MAGIC.len()];
    let is_package = std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0).is_ok() && head == MAGIC;
    if !is_package {
        return Err(refused("it is not a Debian package; copy it there again"));
    }
    if found.len() > MAX {
        return Err(refused(&format!("it is larger than {} MiB", MAX >> 20)));
    }
    Ok(Package { shown, file })
}

/// Escapes control characters, so that the name fits on one line.
fn in_one_line(name: &str) -> String {
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    name.chars().map(plain).collect()
}

impl Package {
    /// Copies the package to `to` and returns the checksum of the copy.
    pub fn copy(&mut self, doors: Doors, to: &Path, interrupt: &Interrupt) -> anyhow::Result<Sum> {
        let mut copy = GrowingFile::begin(doors, to)?;
        let length = self.file.metadata()?.len().min(MAX);
        copy.append_file(&mut self.file, length, interrupt, |_| {})?;
        copy.sha512(interrupt, |_| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    const BLOCKHOST: Account = Account { uid: 4242, gid: 4243 };

    fn names(folder: &Path) -> Result<Vec<String>, String> {
        let all = find(folder, BLOCKHOST).map(|all| all.into_iter().map(|p| p.shown).collect());
        all.map_err(|e| format!("{e:#}"))
    }

    fn package(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, [MAGIC, b"   1"].concat()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        path
    }

    #[test]
    fn packages_come_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        assert!(names(&dir.path().join("none")).unwrap_err().contains("does not exist; put"));
        std::fs::write(dir.path().join("README"), "x").unwrap();
        assert!(names(dir.path()).unwrap_err().contains("holds no .deb file; put"));
        package(dir.path(), "b.deb");
        package(dir.path(), "a 'b\";$(id)\n.deb");
        assert_eq!(names(dir.path()).unwrap(), ["a 'b\";$(id)\\n.deb", "b.deb"]);
        let mut all = find(dir.path(), BLOCKHOST).unwrap();
        let sum = all[1].copy(Doors::real(), &dir.path().join("copy"), &Interrupt::never()).unwrap();
        assert_eq!(sum, Sum::of(&[MAGIC, b"   1"].concat()));
    }

    #[test]
    fn h29_a_package_that_others_can_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let good = package(dir.path(), "good.deb");
        let refusal = |why: &str| {
            let error = names(dir.path()).unwrap_err();
            assert!(error.contains("package bad.deb in ") && error.contains(why), "{error}");
        };
        let bad = dir.path().join("bad.deb");
        std::os::unix::fs::symlink(&good, &bad).unwrap();
        refusal("symbolic link");
        std::fs::remove_file(&bad).unwrap();
        std::fs::create_dir(&bad).unwrap();
        refusal("not a regular file");
        std::fs::remove_dir(&bad).unwrap();
        package(dir.path(), "bad.deb");
        std::fs::set_permissions(&bad, PermissionsExt::from_mode(0o646)).unwrap();
        refusal("writable by nobody else");
        std::fs::set_permissions(&bad, PermissionsExt::from_mode(0o664)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&bad, Some(0), Some(4444)).unwrap();
            refusal("writable by nobody else");
            std::os::unix::fs::chown(&bad, Some(4444), Some(0)).unwrap();
            refusal("must belong to root or to user blockhost");
            std::os::unix::fs::chown(&bad, Some(0), Some(0)).unwrap();
        }
        std::fs::set_permissions(&bad, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&bad, "<html>").unwrap();
        refusal("not a Debian package");
        std::fs::remove_file(&bad).unwrap();
        assert_eq!(names(dir.path()).unwrap(), ["good.deb"]);
        // The directory itself must not be a link either.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(names(&link).unwrap_err().contains("symbolic link"));
    }

    #[test]
    fn h29_packages_of_user_blockhost_are_copied_and_root_follows_no_change_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = package(dir.path(), "a.deb");
        if rustix::process::geteuid().is_root() {
            // The result of the installer's `chown -R blockhost:blockhost`.
            std::os::unix::fs::chown(&path, Some(BLOCKHOST.uid), Some(BLOCKHOST.gid)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o664)).unwrap();
        }
        let mut all = find(dir.path(), BLOCKHOST).unwrap();
        // Replaced after the check: what is copied is the file that was opened.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", &path).unwrap();
        let sum = all[0].copy(Doors::real(), &dir.path().join("copy"), &Interrupt::never()).unwrap();
        assert_eq!(sum, Sum::of(&[MAGIC, b"   1"].concat()));
    }
}
