//! What this package has been tested with (`doc/upgrading.md`).

use super::Finding;
use super::kinds::*;

/// Releases of Proxmox VE.
const PROXMOX: std::ops::RangeInclusive<u64> = 8..=9;
/// The oldest terraform and provider.
const TERRAFORM: [u64; 2] = [1, 11];
const PROVIDER: [u64; 2] = [0, 93];

/// The first two numbers of a version.
pub fn numbers(version: &str) -> Option<[u64; 2]> {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+']).map(|part| part.parse().ok());
    Some([parts.next()??, parts.next().unwrap_or(Some(0))?])
}

/// The release of Proxmox VE, as the API tells it.
pub fn proxmox(release: &str) -> Option<Finding> {
    let is_known = numbers(release).is_some_and(|[major, _]| PROXMOX.contains(&major));
    let what = format!("Proxmox VE {release} is not 8 or 9");
    (!is_known).then(|| Finding::new(&VERSION_UNSUPPORTED, "Proxmox VE", what, "see doc/upgrading.md"))
}

/// terraform, as `terraform version -json` tells it.
pub fn terraform(version: &str) -> Option<Finding> {
    let what = format!("terraform {version} is older than 1.11");
    let is_old = numbers(version).is_none_or(|found| found < TERRAFORM);
    is_old.then(|| Finding::new(&VERSION_UNSUPPORTED, "terraform", what, "install terraform 1.11 or newer"))
}

/// The provider, by the text of `.terraform.lock.hcl`; `None` where it is none or good.
pub fn provider(lock_file: &str) -> Option<Finding> {
    let mut lines = lock_file.lines().skip_while(|line| !line.contains("bpg/proxmox\""));
    let version = lines.find_map(|line| line.trim().strip_prefix("version")?.split('"').nth(1))?;
    let what = format!("provider bpg/proxmox {version} is older than 0.93");
    let is_old = numbers(version).is_none_or(|found| found < PROVIDER);
    is_old.then(|| {
        Finding::new(&VERSION_UNSUPPORTED, "terraform", what, "blockhost-provisioner-setup terraform")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h40_versions_are_compared_as_numbers() {
        assert_eq!(numbers("v1.11.4-rc1"), Some([1, 11]));
        assert_eq!(numbers("9"), Some([9, 0]));
        assert_eq!(numbers(""), None);
        assert!(proxmox("8.4").is_none() && proxmox("9.0").is_none() && proxmox("7.4").is_some());
        assert!(proxmox("10.0").is_some() && proxmox("x").is_some());
        assert!(
            terraform("1.11.0").is_none() && terraform("2.0.1").is_none() && terraform("1.9.8").is_some()
        );
        let lock = |version: &str| {
            format!("provider \"registry.terraform.io/bpg/proxmox\" {{\n  version     = \"{version}\"\n}}\n")
        };
        assert!(provider(&lock("0.93.0")).is_none() && provider(&lock("0.111.1")).is_none());
        assert!(provider(&lock("0.66.1")).is_some() && provider("").is_none());
    }
}
