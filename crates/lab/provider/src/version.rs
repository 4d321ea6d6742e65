//! Which release of bpg/proxmox this process stands in for.

use std::path::Path;

/// A release number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16, pub u16);

/// From here on the later habits hold, where a difference was seen between 0.93.0 and 0.111.1 and the release that brought
/// it is not known. The two that are tested lie on either side of it.
pub const LATER: Version = Version(0, 101, 0);

/// What is spoken when the file name names no version.
pub const NEWEST: Version = Version(0, 111, 1);

impl Version {
    /// From text such as `0.111.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(major), Some(minor), Some(patch), None) => Some(Self(major?, minor?, patch?)),
            _ => None,
        }
    }

    /// From the name this program was started as: terraform's mirror keeps a provider as
    /// `terraform-provider-proxmox_v0.111.1`, so one build stands in for every version.
    pub fn of_program(program: &Path) -> Self {
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.rsplit_once("_v").and_then(|(_, version)| Self::parse(version)).unwrap_or(NEWEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_tells_the_version() {
        let of = |name: &str| Version::of_program(Path::new(name));
        assert_eq!(of("/m/0.93.0/linux_amd64/terraform-provider-proxmox_v0.93.0"), Version(0, 93, 0));
        assert_eq!(of("terraform-provider-proxmox"), NEWEST);
        assert_eq!(of("terraform-provider-proxmox_vlatest"), NEWEST);
        assert!(Version(0, 93, 0) < Version(0, 97, 0) && Version(0, 111, 1) > Version(0, 98, 1));
    }
}
