//! User accounts of the host, looked up by name.

use super::Host;
use super::rights::{Ruler, ruled_by_others};
use anyhow::Context;
use nix::unistd::{Uid, User};
use std::path::PathBuf;

/// A user's numeric ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// The user's primary group, which shares our files.
    pub gid: u32,
}

impl Account {
    /// The effective user and group of this process.
    pub fn own() -> Account {
        Account { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// Returns user blockhost, as which the commands run. Where the host has no such user (a lab), it is whoever controls
/// the state directory.
pub fn blockhost(host: &Host) -> anyhow::Result<Account> {
    if let Some(user) = by_name()? {
        return Ok(user);
    }
    Ok(ruler(host, &[])?.unwrap_or(Account::own()))
}

fn by_name() -> anyhow::Result<Option<Account>> {
    let user = User::from_name("blockhost").context("cannot look up user blockhost")?;
    Ok(user.map(|user| Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}

/// Returns the unprivileged user who controls our directories: the state directory's owner; if that is root, user
/// blockhost; if there is no such user, the owner of something in it. `None`: root alone controls everything.
pub fn ruler(host: &Host, more: &[PathBuf]) -> anyhow::Result<Option<Account>> {
    let state = &host.state_dir;
    let below = ["terraform", "terraform/vms", "journal", "audit", "vms.json", "vms.json.lock"];
    let mut places = vec![state.clone(), host.run_dir.clone()];
    places.extend(below.map(|name| state.join(name)));
    places.extend(more.iter().cloned());
    let rulers: Vec<Ruler> = places.iter().filter_map(|path| ruled_by_others(path)).collect();
    let Some(first) = rulers.first() else { return Ok(None) };
    // `metadata` follows links: the directory's owner counts, not that of a link that root made to it.
    let owner = std::fs::metadata(state).ok().map(|found| Ruler::of(&found)).filter(|owner| owner.uid != 0);
    if let Some(owner) = owner {
        return Ok(Some(account(owner, None)?));
    }
    if let Some(user) = by_name()? {
        return Ok(Some(user));
    }
    match rulers.iter().find(|ruler| ruler.uid != 0) {
        Some(ruler) => Ok(Some(account(*ruler, Some(first.gid))?)),
        None => anyhow::bail!(
            "{} is writable by others than root (group {}), and there is no user blockhost: refusing to work there as \
             root; create that user (adduser --system --group blockhost), or run the command as the user who created \
             the VMs",
            state.display(),
            first.gid
        ),
    }
}

/// Returns the owner of a path unless it is root.
pub(super) fn owner(found: &std::fs::Metadata) -> anyhow::Result<Option<Account>> {
    let ruler = Ruler::of(found);
    if ruler.uid == 0 { Ok(None) } else { account(ruler, None).map(Some) }
}

/// Looks up a user by number. For a user without an entry in the user database, the group is the directory's.
fn account(ruler: Ruler, folder_group: Option<u32>) -> anyhow::Result<Account> {
    let user = User::from_uid(Uid::from_raw(ruler.uid))
        .context("cannot look up the owner of the state directory")?;
    let groups = [folder_group, Some(ruler.gid), Some(ruler.uid)];
    let gid = match user {
        Some(user) => user.gid.as_raw(),
        None => groups.into_iter().flatten().find(|gid| *gid != 0).unwrap_or(ruler.uid),
    };
    Ok(Account { uid: ruler.uid, gid })
}
