//! Owners and modes of our files (hazards H15, H30).

use super::kinds::*;
use super::{Finding, Fix};
use std::path::PathBuf;

/// Whose a file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    /// User blockhost's: state, database, terraform's directory.
    ToBlockhost,
    /// The administrator's: configuration, which blockhost only reads.
    ToRoot,
}

/// A file or directory as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: PathBuf,
    /// Whose it should be.
    pub belongs: Belongs,
    /// A directory.
    pub is_directory: bool,
    /// Nobody else may read it.
    pub is_secret: bool,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// User blockhost, and the owner of the configuration directory.
#[derive(Debug, Clone, Copy)]
pub struct Owners {
    /// User id of blockhost.
    pub blockhost: u32,
    /// Its group.
    pub group: u32,
    /// Who owns the configuration: root, or in a lab whoever runs it.
    pub root: u32,
}

/// What is wrong with a file's owner or mode.
pub fn findings(entry: &Entry, owners: Owners) -> Vec<Finding> {
    let mut found = Vec::new();
    let path = &entry.path.display();
    // What all can read is only a matter of secrets; what all can write is not ours alone.
    let open = if entry.is_directory || !entry.is_secret { 0o002 } else { 0o007 };
    if entry.mode & open != 0 {
        let mode = entry.mode & !open & 0o777;
        let what = format!("its mode is {:04o}", entry.mode & 0o777);
        let finding = Finding::new(&FILE_OPEN_TO_ALL, path, what, format!("chmod {mode:04o} {path}"));
        found.push(match entry.is_directory {
            true => finding,
            false => finding.mended_by(Fix::SetMode(entry.path.clone(), mode)),
        });
    }
    match entry.belongs {
        Belongs::ToBlockhost if entry.uid != owners.blockhost => {
            let what = format!("it belongs to user {} instead of {}", entry.uid, owners.blockhost);
            let mend = format!("chown {}:{} {path}", owners.blockhost, owners.group);
            let finding = Finding::new(&FILE_WRONG_OWNER, path, what, mend);
            found.push(match entry.is_directory {
                true => finding,
                false => finding.mended_by(Fix::SetOwner(entry.path.clone())),
            });
        }
        Belongs::ToRoot if owners.root != owners.blockhost => {
            let by_group = entry.mode & 0o020 != 0 && entry.gid == owners.group;
            if entry.uid == owners.blockhost || by_group {
                let mend = format!("chown root:{} {path} && chmod 0640 {path}", owners.group);
                let what = "user blockhost can write it";
                found.push(Finding::new(&CONFIGURATION_NOT_ROOTS, path, what, mend));
            }
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNERS: Owners = Owners { blockhost: 100, group: 100, root: 0 };

    fn codes(belongs: Belongs, uid: u32, mode: u32) -> Vec<&'static str> {
        let entry =
            Entry { path: "/x".into(), belongs, is_directory: false, is_secret: true, uid, gid: 100, mode };
        findings(&entry, OWNERS).iter().map(|finding| finding.kind.code).collect()
    }

    #[test]
    fn h15_h30_owner_and_mode() {
        use Belongs::{ToBlockhost, ToRoot};
        assert_eq!(codes(ToBlockhost, 100, 0o660), [""; 0]);
        assert_eq!(codes(ToBlockhost, 100, 0o644), ["file-open-to-all"]);
        assert_eq!(codes(ToBlockhost, 0, 0o640), ["file-wrong-owner"]);
        assert_eq!(codes(ToBlockhost, 0, 0o666), ["file-open-to-all", "file-wrong-owner"]);
        assert_eq!(codes(ToRoot, 0, 0o640), [""; 0]);
        assert_eq!(codes(ToRoot, 0, 0o660), ["configuration-not-roots"]);
        assert_eq!(codes(ToRoot, 100, 0o640), ["configuration-not-roots"]);
        // A lab: everything is one user's.
        let entry = Entry {
            path: "/x".into(),
            belongs: ToRoot,
            is_directory: false,
            is_secret: true,
            uid: 7,
            gid: 7,
            mode: 0o660,
        };
        assert_eq!(findings(&entry, Owners { blockhost: 7, group: 7, root: 7 }), []);
    }

    #[test]
    fn a_directory_may_be_looked_into() {
        let entry = |mode| Entry {
            path: "/x".into(),
            belongs: Belongs::ToBlockhost,
            is_directory: true,
            is_secret: true,
            uid: 100,
            gid: 100,
            mode,
        };
        assert_eq!(findings(&entry(0o755), OWNERS), []);
        let found = findings(&entry(0o777), OWNERS);
        assert_eq!((found.len(), found[0].kind.code, found[0].fix.clone()), (1, "file-open-to-all", None));
    }
}
