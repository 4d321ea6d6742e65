//! Short texts entered by people: user names, tags, storage ids, and free text.

use super::{Refused, checked_text};

/// Words (in lower case) that YAML 1.1, which cloud-init's parser follows, does not treat as strings.
pub(crate) const YAML_WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// A Linux user name of the guest: lower-case letter or `_` first, then letters, digits, `_`, `-`; at most 32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserName(String);
checked_text!(UserName);

impl UserName {
    /// Checks `text` (the rule of Debian's adduser).
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        let rest =
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if !first || !rest || text.len() > 32 {
            let why = "it must be 1 to 32 lower-case letters, digits, '_' or '-', a letter or '_' first";
            return Err(Refused::new("user name", text, why));
        }
        if YAML_WORDS.contains(&text) {
            let why = "cloud-init would read it as a truth value or nothing";
            return Err(Refused::new("user name", text, why));
        }
        Ok(UserName(text.to_string()))
    }
}

/// A tag of a Proxmox VM (pve-common JSONSchema: letters, digits, `_` first; then also `-`, `+`, `.`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(String);
checked_text!(Tag);

impl Tag {
    /// Checks `text`; Proxmox stores tags in lower case, so that is what is kept.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'.'));
        if !first || !rest || text.len() > 64 {
            let why = "Proxmox takes letters, digits, '_', '-', '+' and '.', a letter, digit or '_' first, at most 64";
            return Err(Refused::new("tag", text, why));
        }
        Ok(Tag(text.to_ascii_lowercase()))
    }
}

/// A Proxmox storage id (pve-common JSONSchema `pve-storage-id`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageId(String);
checked_text!(StorageId);

impl StorageId {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let bytes = text.as_bytes();
        let inner = bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let first = bytes.first().is_some_and(u8::is_ascii_alphabetic);
        let last = bytes.last().is_some_and(u8::is_ascii_alphanumeric);
        if !(2..=64).contains(&bytes.len()) || !inner || !first || !last {
            let why = "it must be 2 to 64 letters, digits, '-', '_' or '.', a letter first and a letter or digit last";
            return Err(Refused::new("storage id", text, why));
        }
        Ok(StorageId(text.to_string()))
    }
}

/// One line of free text (owner, purpose): at most 256 characters, no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneLine(String);
checked_text!(OneLine);

impl OneLine {
    /// Checks `text`, which may be empty.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        if text.chars().count() > 256 || text.chars().any(char::is_control) {
            let why = "it must be one line of at most 256 characters without control characters";
            return Err(Refused::new("text", text, why));
        }
        Ok(OneLine(text.to_string()))
    }
}

/// The plain name of a cloud-init template or a network mode; never a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainName(String);
checked_text!(PlainName);

impl PlainName {
    /// Checks `text`: letters, digits, `_`, `-`, inner dots; at most 64.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !first || !allowed || text.len() > 64 {
            let why = "it must be a plain name of letters, digits, '_', '-' or '.', not a path";
            return Err(Refused::new("name", text, why));
        }
        Ok(PlainName(text.to_string()))
    }
}

/// A bridge of the node, as named in the configuration of a guest's network card (pve-common JSONSchema; at most 15
/// characters, the kernel's limit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeName(String);
checked_text!(BridgeName);

impl BridgeName {
    /// Proxmox' own first bridge, used for guests unless another is configured.
    pub fn first_of_proxmox() -> BridgeName {
        BridgeName("vmbr0".to_owned())
    }

    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !first || !allowed || text.len() > 15 {
            return Err(Refused::new("bridge", text, "it must be 1 to 15 letters, digits, '_', '-' or '.'"));
        }
        Ok(BridgeName(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: [&str; 9] =
        ["", "${file(\"/etc/hostname\")}", "../x", "a\nb", "-x", "a b", "a;b", "a'b", "a,b"];

    #[test]
    fn h26_h27_hostile_texts_are_refused_by_every_narrow_type() {
        for bad in HOSTILE {
            assert!(UserName::parse(bad).is_err(), "{bad}");
            assert!(Tag::parse(bad).is_err(), "{bad}");
            assert!(StorageId::parse(bad).is_err(), "{bad}");
            assert!(PlainName::parse(bad).is_err(), "{bad}");
            assert!(BridgeName::parse(bad).is_err(), "{bad}");
        }
        assert!(OneLine::parse("a\nb").is_err());
        assert!(
            OneLine::parse("${file(\"/etc/hostname\")}").is_ok(),
            "free text is escaped where it is used"
        );
    }

    #[test]
    fn ordinary_texts_pass() {
        assert!(UserName::parse("admin").is_ok() && UserName::parse("_x-1").is_ok());
        assert_eq!(Tag::parse("Web").unwrap().as_str(), "web");
        assert!(StorageId::parse("local-lvm").is_ok() && StorageId::parse("CEPH_1.a").is_ok());
        assert!(PlainName::parse("nft-auth").is_ok());
        assert!(BridgeName::parse("vmbr0").is_ok() && BridgeName::parse("br-ext").is_ok());
    }
}
