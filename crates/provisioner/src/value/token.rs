//! Secrets that must never be shown (hazard H30).

use super::Refused;

/// A text that `{:?}` and `{}` never show: a token or a cloud-init text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// Returns the secret itself; only for the code that passes it on.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// A Proxmox API token, `user@realm!name=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken(Secret);

impl ApiToken {
    /// Checks the form that the provider and PVE accept (`^\S+@\S+!\S+=[A-Za-z0-9-]+$`). The error does not repeat the
    /// text.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let text = text.trim();
        let well_formed = text.split_once('=').is_some_and(|(id, secret)| {
            let id_ok = id.split_once('!').is_some_and(|(user, name)| {
                !name.is_empty() && user.split_once('@').is_some_and(|(u, r)| !u.is_empty() && !r.is_empty())
            });
            id_ok
                && id.bytes().all(|b| b.is_ascii_graphic())
                && !secret.is_empty()
                && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
        if !well_formed {
            return Err(Refused::new(
                "API token",
                "[secret]",
                "it must have the form user@realm!name=secret; blockhost-provisioner-setup token makes a new one",
            ));
        }
        Ok(ApiToken(Secret::new(text)))
    }

    /// Returns the token itself, for the HTTP header and terraform's variable.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    /// Returns the part before `=`, which is not secret: the identity on the node.
    pub fn id(&self) -> &str {
        self.0.reveal().split('=').next().unwrap_or_default()
    }

    /// Returns the part after `=`, which must be removed from other programs' messages.
    pub fn secret_part(&self) -> &str {
        self.0.reveal().split_once('=').map_or("", |(_, secret)| secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h30_a_token_never_shows_in_debug_or_errors() {
        let token = ApiToken::parse("blockhost@pve!tf=0000-secret\n").unwrap();
        assert!(!format!("{token:?}").contains("secret-") && !format!("{token:?}").contains("0000"));
        assert_eq!((token.id(), token.secret_part()), ("blockhost@pve!tf", "0000-secret"));
        for bad in [
            "",
            "root@pam",
            "root@pam!x",
            "root@pam!=a",
            "@pam!x=a",
            "a@b!c=d e",
            "a@b!c=d\nX: y",
            "a b@c!d=e",
        ] {
            let error = ApiToken::parse(bad).expect_err(bad).to_string();
            assert!(error.contains("user@realm!name=secret"), "{error}");
        }
    }
}
