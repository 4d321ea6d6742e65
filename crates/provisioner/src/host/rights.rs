//! Drops root privileges (hazard H56).
//!
//! User blockhost controls the state, run and terraform directories: it can put a link, a hard link, a pipe or another
//! directory in place of whatever is opened there. So a command that root runs permanently becomes that user before it
//! touches any of them; what needs root goes through the root agent, as for every other caller. What root may
//! legitimately bring along is read beforehand ([`Brought`]).

use super::Host;
use super::accounts::{self, Account};
use super::replace_file;
use anyhow::Context;
use nix::unistd::{Gid, Uid, User};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the caller brought along, read with its own privileges before they were dropped.
#[derive(Debug, Clone)]
pub struct Brought {
    /// The caller's user id.
    pub uid: u32,
    /// Contents of the public keys in the caller's home directory.
    pub public_keys: Vec<String>,
    /// Files named on the command line: their content, or why they cannot be read.
    pub files: Vec<(PathBuf, Result<String, String>)>,
}

/// File names of ssh public keys, in `.ssh` of a home directory.
pub const PUBLIC_KEYS: [&str; 2] = ["id_ed25519.pub", "id_rsa.pub"];

/// Makes root permanently become the user who controls the directories. Any other user stays as is, and so does root
/// where only root controls them (a lab). `more`: paths from the configuration in addition to the usual ones. `files`:
/// files named by the caller.
pub fn give_up_root(host: &mut Host, more: &[PathBuf], files: &[PathBuf]) -> anyhow::Result<()> {
    if !replace_file::are_root() {
        return Ok(());
    }
    let Some(account) = accounts::ruler(host, more)? else { return Ok(()) };
    become_for(host, account, files)
}

/// As [`give_up_root`], for a mock run, which touches only its database: root becomes the owner of the database's
/// directory.
pub fn give_up_root_for(host: &mut Host, files: &[PathBuf]) -> anyhow::Result<()> {
    if !replace_file::are_root() {
        return Ok(());
    }
    let folders = host.mock_database.ancestors().skip(1);
    let folders = folders.map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    let Some(found) = folders.filter_map(|path| path.symlink_metadata().ok()).next() else { return Ok(()) };
    match accounts::owner(&found)? {
        Some(account) => become_for(host, account, files),
        None => Ok(()),
    }
}

fn become_for(host: &mut Host, account: Account, files: &[PathBuf]) -> anyhow::Result<()> {
    let read_file = |path: &PathBuf| {
        let text = super::read_file::text(path).map_err(|error| error.to_string());
        (path.clone(), text)
    };
    let keys = host.home.iter().flat_map(|home| PUBLIC_KEYS.map(|name| home.join(".ssh").join(name)));
    host.brought = Some(Brought {
        uid: rustix::process::getuid().as_raw(),
        public_keys: keys.filter_map(|path| super::read_file::text(path).ok()).collect(),
        files: files.iter().map(read_file).collect(),
    });
    become_user(account).context("failed to drop root privileges; nothing was done")?;
    // That user cannot access root's home directory.
    host.home = Some(host.state_dir.clone());
    Ok(())
}

fn become_user(account: Account) -> anyhow::Result<()> {
    anyhow::ensure!(account.uid != 0 && account.gid != 0, "the user to switch to is root");
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    match User::from_uid(uid)? {
        Some(user) => {
            let name = std::ffi::CString::new(user.name)?;
            nix::unistd::initgroups(&name, gid)?;
        }
        None => nix::unistd::setgroups(&[gid])?,
    }
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    // Do not trust the calls; verify the result.
    let (users, groups) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
    anyhow::ensure!(
        [users.real, users.effective, users.saved] == [uid; 3]
            && [groups.real, groups.effective, groups.saved] == [gid; 3]
            && nix::unistd::setuid(Uid::from_raw(0)).is_err(),
        "the kernel kept some of the groups or user IDs"
    );
    Ok(())
}

/// Whether anyone but root can replace what is at `path`, or change what is in it; and who.
pub(super) fn ruled_by_others(path: &Path) -> Option<Ruler> {
    // A link counts for the user who made it, whatever it points to.
    let found = path.symlink_metadata().ok()?;
    // A device is writable by everybody, but nobody can replace it.
    let counts = found.is_dir() || found.is_file();
    let open = counts && found.mode() & 0o002 != 0;
    let by_group = counts && found.mode() & 0o020 != 0 && found.gid() != 0;
    (found.uid() != 0 || by_group || open).then(|| Ruler { uid: found.uid(), gid: found.gid() })
}

/// Owner and group of a path that root does not control alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ruler {
    pub uid: u32,
    pub gid: u32,
}

impl Ruler {
    pub(super) fn of(found: &std::fs::Metadata) -> Ruler {
        Ruler { uid: found.uid(), gid: found.gid() }
    }
}
