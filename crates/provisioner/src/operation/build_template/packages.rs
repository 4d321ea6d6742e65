//! The `.deb` files that other packages put into the template: `/var/lib/blockhost/template-packages`.
//!
//! The folder lies in one that user blockhost may write, and what is in it is installed by root into every customer's
//! machine. So each file must be root's own, writable by nobody else, and no link; it is copied through the descriptor
//! that was looked at (H29).

use crate::host::interrupt::Interrupt;
use crate::host::large_file::{self, GrowingFile, Sum};
use anyhow::Context as _;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A package, open.
pub struct Package {
    /// Its file name, for people.
    pub shown: String,
    file: File,
}

/// What a Debian package begins with: an `ar` archive, its first member called so.
const MAGIC: &[u8] = b"!<arch>\ndebian-binary";

/// The packages of a folder, by name. None is an error, as is each that may not be trusted.
pub fn find(folder: &Path) -> anyhow::Result<Vec<Package>> {
    let none = || format!("no package for the template: {} holds no .deb file", folder.display());
    let listing = match std::fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            anyhow::bail!("no package for the template: {} does not exist", folder.display())
        }
        Err(error) => anyhow::bail!("cannot read {}: {error}", folder.display()),
    };
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in listing {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            names.push(path);
        }
    }
    names.sort();
    anyhow::ensure!(!names.is_empty(), none());
    names.iter().map(|path| open(path)).collect()
}

fn open(path: &Path) -> anyhow::Result<Package> {
    let shown = in_one_line(&path.file_name().unwrap_or_default().to_string_lossy());
    let refused = |why: &str| {
        let folder = path.parent().unwrap_or(Path::new("/"));
        anyhow::anyhow!("package {shown} in {} is refused: {why}", folder.display())
    };
    let file = large_file::open_plain(path).map_err(|error| refused(&error.to_string()))?;
    if !large_file::ours_alone(&file)? {
        return Err(refused("it must belong to root and be writable by root alone"));
    }
    let mut head = [0; MAGIC.len()];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0)
        .map_err(|_| refused("it is no Debian package"))?;
    if head != MAGIC {
        return Err(refused("it is no Debian package"));
    }
    Ok(Package { shown, file })
}

/// A name as it can stand in a line.
fn in_one_line(name: &str) -> String {
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    name.chars().map(plain).collect()
}

impl Package {
    /// Copies it to `to`; the sum is that of the copy.
    pub fn copy(&mut self, to: &Path, interrupt: &Interrupt) -> anyhow::Result<Sum> {
        let mut copy = GrowingFile::begin(to)?;
        copy.append_file(&mut self.file, interrupt, |_| {})?;
        copy.sha512(interrupt, |_| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(folder: &Path) -> Result<Vec<String>, String> {
        find(folder).map(|all| all.into_iter().map(|p| p.shown).collect()).map_err(|e| format!("{e:#}"))
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
        assert!(names(&dir.path().join("none")).unwrap_err().ends_with("does not exist"));
        std::fs::write(dir.path().join("README"), "x").unwrap();
        assert!(names(dir.path()).unwrap_err().ends_with("holds no .deb file"));
        package(dir.path(), "b.deb");
        package(dir.path(), "a 'b\";$(id)\n.deb");
        assert_eq!(names(dir.path()).unwrap(), ["a 'b\";$(id)\\n.deb", "b.deb"]);
        let mut all = find(dir.path()).unwrap();
        let sum = all[1].copy(&dir.path().join("copy"), &Interrupt::never()).unwrap();
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
        for mode in [0o664, 0o646] {
            std::fs::set_permissions(&bad, PermissionsExt::from_mode(mode)).unwrap();
            refusal("writable by root alone");
        }
        std::fs::set_permissions(&bad, PermissionsExt::from_mode(0o600)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&bad, Some(4242), None).unwrap();
            refusal("must belong to root");
            std::os::unix::fs::chown(&bad, Some(0), None).unwrap();
        }
        std::fs::write(&bad, "<html>").unwrap();
        refusal("no Debian package");
        std::fs::remove_file(&bad).unwrap();
        assert_eq!(names(dir.path()).unwrap(), ["good.deb"]);
    }
}
