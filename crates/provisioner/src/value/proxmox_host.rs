//! The host on which to run `qm`: this one, or another one by ssh.

use super::Refused;

/// A Proxmox node, by the way to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxmoxHost {
    /// This host.
    Local,
    /// `user@host` or `host`, as accepted by ssh.
    Ssh(String),
}

impl ProxmoxHost {
    /// Checks `text`: `localhost`, or a text that ssh can only take for a user and a host, never for an option.
    pub fn parse(text: &str) -> Result<ProxmoxHost, Refused> {
        if ["", "localhost", "127.0.0.1", "::1"].contains(&text) {
            return Ok(ProxmoxHost::Local);
        }
        let (user, host) = text.split_once('@').unwrap_or(("root", text));
        let plain = |part: &str, more: &str| {
            part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !plain(user, "._-") || !plain(host, "._-:") || text.len() > 255 {
            let why = "it must be localhost, or root@host as ssh takes it";
            return Err(Refused::new("Proxmox host", text, why));
        }
        Ok(ProxmoxHost::Ssh(text.to_owned()))
    }
}

impl std::fmt::Display for ProxmoxHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ProxmoxHost::Local => f.write_str("localhost"),
            ProxmoxHost::Ssh(target) => f.write_str(target),
        }
    }
}

impl std::str::FromStr for ProxmoxHost {
    type Err = Refused;
    fn from_str(text: &str) -> Result<Self, Refused> {
        ProxmoxHost::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h27_a_host_is_never_an_option_or_a_command() {
        for good in ["root@pve-1.example.org", "pve", "root@2001:db8::1", "root@192.0.2.1", "_x@pve"] {
            assert_eq!(ProxmoxHost::parse(good), Ok(ProxmoxHost::Ssh(good.into())));
        }
        for bad in
            ["-oProxyCommand=x", "root@-x", "@pve", "root@", "a b", "root@pve;id", "a@b@c", "$(id)", "pve\n"]
        {
            assert!(ProxmoxHost::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(ProxmoxHost::parse("localhost"), Ok(ProxmoxHost::Local));
    }
}
