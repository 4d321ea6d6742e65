//! Users of the machine, by name.

use super::Host;
use super::rights::{Ruler, ruled_by_others};
use anyhow::Context;
use nix::unistd::{Uid, User};
use std::path::PathBuf;

/// A user's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// The user's own group, which shares our files.
    pub gid: u32,
}

impl Account {
    /// Who we are.
    pub fn own() -> Account {
        Account { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// User blockhost, as which the commands run: by its name, or where the machine has no such user (a lab), whoever rules
/// the state folder.
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

/// The user who rules our folders, never root: the state folder's owner; where that is root, user blockhost; where there
/// is none, who owns what lies in it. `None`: all is root's alone.
pub fn ruler(host: &Host, more: &[PathBuf]) -> anyhow::Result<Option<Account>> {
    let state = &host.state_dir;
    let below = ["terraform", "terraform/vms", "journal", "audit", "vms.json", "vms.json.lock"];
    let mut places = vec![state.clone(), host.run_dir.clone()];
    places.extend(below.map(|name| state.join(name)));
    places.extend(more.iter().cloned());
    let rulers: Vec<Ruler> = places.iter().filter_map(|path| ruled_by_others(path)).collect();
    let Some(first) = rulers.first() else { return Ok(None) };
    // The state folder itself, behind a link that root made.
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

/// The owner of a place, where it is not root.
pub(super) fn owner(found: &std::fs::Metadata) -> anyhow::Result<Option<Account>> {
    let ruler = Ruler::of(found);
    if ruler.uid == 0 { Ok(None) } else { account(ruler, None).map(Some) }
}

/// A user by number. Without an entry in the user database its group is the folder's.
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
