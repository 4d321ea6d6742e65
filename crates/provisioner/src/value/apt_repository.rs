//! The address of a signed repository for apt. Apt checks signatures itself, so http and files are acceptable.

use super::{Refused, checked_text};

/// The address of a repository, as a single word of an apt source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptRepository(String);
checked_text!(AptRepository);

impl AptRepository {
    /// Checks `text`: `https://`, `http://` or `file:/`, without characters that are special to apt.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let rest = ["https://", "http://", "file:///", "file:/"].iter().find_map(|s| text.strip_prefix(s));
        let plain = |rest: &str| {
            rest.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
                && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/:%+".contains(&b))
        };
        if !rest.is_some_and(plain) {
            return Err(Refused::new(
                "apt repository",
                text,
                "it must be like https://deb.nodesource.com/node_22.x",
            ));
        }
        Ok(AptRepository(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_one_plain_word() {
        for good in [
            "https://deb.nodesource.com/node_22.x",
            "http://mirror:3142/node",
            "file:/opt/node",
            "file:///opt",
        ] {
            assert!(AptRepository::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["", "https://", "cdrom:x", "https://a b", "https://a\nSuites: x", "https://u:p@h/", "file:opt"]
        {
            assert!(AptRepository::parse(bad).is_err(), "{bad:?}");
        }
    }
}
