//! Users of the machine, by name.

use super::Host;
use super::replace_file::owner_of;
use anyhow::Context;

/// A user's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// The user's own group, which shares our files.
    pub gid: u32,
}

/// User blockhost, as which the commands run: by its name, or where the machine has no such user (a lab), the owner of
/// the state folder.
pub fn blockhost(host: &Host) -> anyhow::Result<Account> {
    if let Some(user) = nix::unistd::User::from_name("blockhost").context("cannot look up user blockhost")? {
        return Ok(Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
    }
    let (uid, gid) = owner_of(&host.state_dir).with_context(|| {
        format!("there is no user blockhost, and {} cannot be looked at", host.state_dir.display())
    })?;
    Ok(Account { uid, gid })
}
