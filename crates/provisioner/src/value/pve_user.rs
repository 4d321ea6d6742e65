//! A user of Proxmox.

use super::{Refused, checked_text};

/// `name@realm`, in a restricted form that needs no quoting on a command line or in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PveUser(String);
checked_text!(PveUser);

impl PveUser {
    /// Checks a name. `root@pam` is refused: a token for it would give user blockhost the whole node (hazard H29).
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let plain = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let refuse = |why: &str| Refused::new("Proxmox user", text, why);
        let (name, realm) =
            text.split_once('@').ok_or_else(|| refuse("it must look like blockhost@pve (name@realm)"))?;
        if !plain(name) || !plain(realm) || text.len() > 64 {
            return Err(refuse("name and realm must be letters, digits, '.', '_' or '-', at most 64 in all"));
        }
        if text == "root@pam" {
            return Err(refuse(
                "its API token would give user blockhost the whole node; use a dedicated user",
            ));
        }
        Ok(PveUser(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h29_a_user_of_its_own_and_never_root() {
        assert_eq!(PveUser::parse("blockhost@pve").unwrap().as_str(), "blockhost@pve");
        for bad in
            ["root@pam", "root", "@pve", "a@", "-a@pve", "a b@pve", "a@pve!tok", "a@b@c", "a:b@pve", "ä@pve"]
        {
            assert!(PveUser::parse(bad).is_err(), "{bad}");
        }
    }
}
