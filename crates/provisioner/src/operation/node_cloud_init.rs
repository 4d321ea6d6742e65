//! The node's own cloud-init (hazard H60).
//!
//! A guest's cloud-init drive on LVM or ZFS is a block device of the node with the label `cidata`. A node that was
//! installed from a cloud image takes it for its own at the next boot and runs the guest's user-data as root. The
//! first-boot hook (`provisioner-hooks/first-boot.sh`) disables cloud-init on new hosts; setup does the same, with the
//! same files, on existing ones, and reapply warns at each boot where it is still enabled.

use crate::host::Host;
use crate::host::accounts::Account;
use crate::host::{read_file, replace_file};
use std::path::PathBuf;

/// The command that fixes it, for the operator.
const MENDED_BY: &str = "blockhost-provisioner-setup cloud-init";
const DATA_SOURCE: &str = "# A Proxmox node must not take the cloud-init drives of its guests for its own.\n\
    datasource_list: [ None ]\n";
const DISABLED: &str = "Switched off by BlockHost: a Proxmox node must not take the cloud-init drives of its guests for its \
    own.\n";

/// The two files, if this host has cloud-init: the second keeps it from running; the first keeps it from looking for
/// data if somebody enables it again.
fn files(host: &Host) -> Option<[PathBuf; 2]> {
    let folder = host.etc().join("cloud");
    let files = ["cloud.cfg.d/zz-blockhost-datasource.cfg", "cloud-init.disabled"];
    folder.is_dir().then(|| files.map(|name| folder.join(name)))
}

/// Disables cloud-init from the next boot on; needs root. The network that it has set up stays: its configuration is in
/// `/etc` and is read without cloud-init.
pub fn switch_off(host: &Host) -> anyhow::Result<()> {
    let Some(files) = files(host) else { return Ok(()) };
    if files.iter().all(|path| path.exists()) {
        return Ok(());
    }
    for (path, text) in files.iter().zip([DATA_SOURCE, DISABLED]) {
        if let Some(folder) = path.parent() {
            replace_file::make_folders(host.doors, folder, 0o755)?;
        }
        replace_file::replace_as(host.doors, path, text.as_bytes(), 0o644, Account::own(), "cloud-init")?;
    }
    tracing::info!(
        "cloud-init of this node is switched off from the next boot on ({}): it would run the user-data of guests as root",
        files[1].display()
    );
    if let Some(warning) = switched_on_by_kernel() {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Why the next boot of this node might run a guest's user-data, and how to fix it; `None` if it cannot.
pub fn danger(host: &Host) -> Option<String> {
    let files = files(host)?;
    match files.iter().find(|path| !path.exists()) {
        Some(missing) => Some(format!(
            "cloud-init of this node is not switched off ({} is missing): the next boot would run a guest's user-data on \
             the node as root; run as root: {MENDED_BY}",
            missing.display()
        )),
        None => switched_on_by_kernel(),
    }
}

/// The kernel command line overrides the files.
fn switched_on_by_kernel() -> Option<String> {
    let line = read_file::text("/proc/cmdline").ok()?;
    is_switched_on(&line).then(|| {
        "the kernel command line switches cloud-init of this node on or names its data source: the next boot may run a \
         guest's user-data on the node as root; remove that (cloud-init=enabled, ds=, ci.*) from the boot loader's \
         configuration"
            .to_owned()
    })
}

fn is_switched_on(line: &str) -> bool {
    let signs = ["cloud-init=enabled", "ds=", "ci."];
    line.split_whitespace().any(|word| signs.iter().any(|sign| word.starts_with(sign)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::interrupt::Interrupt;

    #[test]
    fn h60_setup_writes_what_the_first_boot_hook_writes() {
        let hook = concat!(env!("CARGO_MANIFEST_DIR"), "/../../provisioner-hooks/first-boot.sh");
        let hook = std::fs::read_to_string(hook).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::from_environment(Interrupt::never());
        host.config_dirs = vec![dir.path().join("blockhost")];
        switch_off(&host).unwrap();
        assert!(!dir.path().join("cloud").exists(), "a node without cloud-init stays as it is");
        assert_eq!(danger(&host), None);

        std::fs::create_dir(dir.path().join("cloud")).unwrap();
        assert!(danger(&host).unwrap().ends_with(MENDED_BY));
        switch_off(&host).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join("cloud").join(name)).unwrap();
        let source = "cloud.cfg.d/zz-blockhost-datasource.cfg";
        assert!(hook.contains(&format!("/etc/cloud/{source}")), "{source}");
        assert!(hook.contains(&format!("'{}'", read(source).replace('\n', "\\n"))), "{}", read(source));
        assert!(hook.contains("replace /etc/cloud/cloud-init.disabled"));
        assert!(read("cloud-init.disabled").contains("must not take the cloud-init drives of its guests"));
        for name in [source, "cloud-init.disabled"] {
            let path = dir.path().join("cloud").join(name);
            let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
            assert_eq!(mode & 0o777, 0o644);
            // One of the two files is not enough.
            std::fs::remove_file(&path).unwrap();
            assert!(danger(&host).unwrap().contains(name));
            switch_off(&host).unwrap();
            assert!(path.exists());
        }
    }

    #[test]
    fn h60_the_kernels_command_line_outranks_the_files() {
        for line in ["quiet cloud-init=enabled", "ds=nocloud;s=/x root=/dev/sda1", "ro ci.ds=NoCloud\n"] {
            assert!(is_switched_on(line), "{line}");
        }
        for line in ["root=/dev/sda1 ro quiet", "cloud-init=disabled", "rds=1 pci.x=2", ""] {
            assert!(!is_switched_on(line), "{line}");
        }
    }
}
