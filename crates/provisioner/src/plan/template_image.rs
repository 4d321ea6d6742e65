//! How Debian's cloud image becomes a template: the scripts that run inside it, and the files they need.
//!
//! ```text
//!   install.sh ──▶ configure.sh ──▶ clean.sh ──▶ check.sh        one run of virt-customize, in this order
//!   packages       sshd, services   identities   names what is wrong, or removes the last trace
//! ```
//!
//! Package files get names of ours (`01.deb`), so no name chosen by somebody else reaches a shell (H27).

use crate::value::apt_repository::AptRepository;

/// The scripts, in the order in which they run, by the names that virt-customize shows.
pub const SCRIPTS: [(&str, &str); 4] = [
    ("install.sh", include_str!("template_image/install.sh")),
    ("configure.sh", include_str!("template_image/configure.sh")),
    ("clean.sh", include_str!("template_image/clean.sh")),
    ("check.sh", include_str!("template_image/check.sh")),
];

/// The directory inside the image that the scripts work in; check.sh removes it.
pub const INSIDE: &str = "/var/tmp/blockhost-template";

/// Prefix of output lines that are meant for the operator.
pub const MARK: &str = "BLOCKHOST: ";

/// A Debian release for which there is a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebianRelease {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl DebianRelease {
    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            DebianRelease::Bookworm => 12,
            DebianRelease::Trixie => 13,
        }
    }

    /// Its code name.
    pub fn code_name(self) -> &'static str {
        match self {
            DebianRelease::Bookworm => "bookworm",
            DebianRelease::Trixie => "trixie",
        }
    }

    /// The template's name.
    pub fn template_name(self) -> String {
        format!("debian-{}-web3-template", self.number())
    }

    /// The address of Debian's generic cloud image, the one with drivers for every machine type, including those for
    /// ide2.
    pub fn image_address(self) -> String {
        let (name, number) = (self.code_name(), self.number());
        format!("https://cloud.debian.org/images/cloud/{name}/latest/debian-{number}-generic-amd64.qcow2")
    }
}

/// Whether a VM's name is that of one of our templates.
pub fn is_template_name(name: &str) -> bool {
    name.strip_prefix("debian-").and_then(|rest| rest.strip_suffix("-web3-template")).is_some_and(|number| {
        !number.is_empty() && number.len() <= 3 && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Returns the file name for NodeSource's key, armoured or binary, since apt goes by the extension; `None` if it is not
/// a key.
pub fn key_file(key: &[u8]) -> Option<&'static str> {
    let text = key.trim_ascii_start();
    if text.starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        return Some("nodesource.asc");
    }
    // An OpenPGP public-key packet, in the old or the new format.
    matches!(key.first(), Some(0x98..=0x9b | 0xc6)).then_some("nodesource.gpg")
}

/// Returns the apt source of Node.js.
pub fn node_source(repository: &AptRepository, suite: &str, key_file: &str) -> String {
    format!(
        "Types: deb\nURIs: {repository}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\nSigned-By: /etc/apt/keyrings/{key_file}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::web_address::WebAddress;

    #[test]
    fn names_of_templates() {
        assert_eq!(DebianRelease::Bookworm.template_name(), "debian-12-web3-template");
        for name in ["debian-12-web3-template", "debian-13-web3-template"] {
            assert!(is_template_name(name));
        }
        for name in
            ["debian-web3-template", "debian-12-web3-template-2", "debian-1x-web3-template", "web-1", ""]
        {
            assert!(!is_template_name(name), "{name}");
        }
    }

    #[test]
    fn addresses_and_keys() {
        for release in [DebianRelease::Bookworm, DebianRelease::Trixie] {
            let address = WebAddress::parse(&release.image_address()).unwrap();
            assert!(address.is_secure() && address.file_name().unwrap().ends_with("-generic-amd64.qcow2"));
        }
        assert_eq!(key_file(b"\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n"), Some("nodesource.asc"));
        assert_eq!(key_file(&[0x99, 1, 2]), Some("nodesource.gpg"));
        assert_eq!(key_file(b"<html>"), None);
        assert_eq!(key_file(b""), None);
    }

    #[test]
    fn h27_nothing_is_put_into_the_scripts() {
        for (name, text) in SCRIPTS {
            assert!(text.starts_with("#!/bin/sh\n") && text.contains("set -eu"), "{name}");
        }
    }
}
