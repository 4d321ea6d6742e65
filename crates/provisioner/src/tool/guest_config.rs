//! A VM's configuration as printed by `qm config`, and other output of `qm` and `pvesm`.

use percent_encoding::percent_decode_str;
use regex_lite::Regex;
use std::collections::BTreeMap;

/// The keys of one VM's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestConfig(BTreeMap<String, String>);

impl GuestConfig {
    /// Parses lines of `key: value`.
    pub fn parse(text: &str) -> GuestConfig {
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        GuestConfig(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Returns a value as printed; empty if the key is missing.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// Returns the name; empty if the VM has none.
    pub fn name(&self) -> &str {
        self.get("name")
    }

    /// Whether the configuration says that the VM is a template; its disks may say otherwise (H32).
    pub fn is_template(&self) -> bool {
        self.get("template") == "1"
    }

    /// Returns the SMBIOS UUID; empty if there is none.
    pub fn uuid(&self) -> &str {
        self.get("smbios1").split(',').find_map(|part| part.strip_prefix("uuid=")).unwrap_or_default()
    }

    /// Returns the decoded description, without the newline that Proxmox appends.
    pub fn description(&self) -> String {
        percent_decode_str(self.get("description")).decode_utf8_lossy().trim_end().to_owned()
    }

    /// Returns the lock on the configuration (`clone`, `backup` …).
    pub fn lock(&self) -> Option<&str> {
        self.0.get("lock").map(String::as_str)
    }

    /// Returns the volume of a drive or of an `unusedN`, without options.
    pub fn volume(&self, key: &str) -> Option<&str> {
        let first = self.0.get(key)?.split(',').next()?;
        let volume = first.strip_prefix("file=").or_else(|| first.strip_prefix("volume=")).unwrap_or(first);
        volume.contains(':').then_some(volume)
    }

    /// Returns the volumes of all drives and `unusedN`, except CD images, which belong to others.
    pub fn volumes(&self) -> Vec<&str> {
        let drives = self.0.keys().filter(|key| is_drive(key));
        drives.filter_map(|key| self.volume(key)).filter(|volume| !volume.contains(":iso/")).collect()
    }

    /// Returns the keys and volumes of disks that no drive uses.
    pub fn unused(&self) -> BTreeMap<String, String> {
        let keys = self.0.keys().filter(|key| numbered(key, "unused"));
        keys.filter_map(|key| Some((key.clone(), self.volume(key)?.to_owned()))).collect()
    }
}

fn is_drive(key: &str) -> bool {
    ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate", "unused"].iter().any(|bus| numbered(key, bus))
}

fn numbered(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// Returns the key and volume that an import reports to have created; Proxmox changed the wording with qemu-server
/// 8.2.7 (PVE 8.3).
pub fn imported(output: &str) -> Option<(String, String)> {
    const FORMS: [&str; 2] =
        [r"^Successfully imported disk as '(\w+):([^']+)'", r"^(\w+): successfully imported disk '([^',]+)"];
    output.lines().find_map(|line| {
        FORMS.iter().find_map(|form| {
            let found = Regex::new(form).ok()?.captures(line)?;
            Some((found[1].to_owned(), found[2].to_owned()))
        })
    })
}

/// Returns the percentage from a line like `transferred 1.0 GiB of 3.0 GiB (33.33%)`.
pub fn transferred(line: &str) -> Option<u64> {
    let percent = line.strip_prefix("transferred ")?.rsplit_once('(')?.1.strip_suffix("%)")?;
    percent
        .parse::<f64>()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .map(|percent| percent as u64)
}

/// A volume on a storage, from `pvesm list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVolume {
    /// For example `local-lvm:vm-100-disk-0`; a linked clone has its base before its own name.
    pub volid: String,
    /// The VMID in the volume's name.
    pub vmid: Option<u32>,
}

/// Returns the disks in the output of `pvesm list`. A storage that also takes snippets lists all of those, whichever
/// VMID was requested; a caller that frees what is listed must never be given one.
pub fn volumes(output: &str) -> Vec<ListedVolume> {
    let rows = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|cells| cells.len() >= 4 && cells[0].contains(':'));
    let rows = rows.filter(|cells| matches!(cells[2], "images" | "rootdir"));
    rows.map(|cells| ListedVolume { volid: cells[0].into(), vmid: cells[cells.len() - 1].parse().ok() })
        .collect()
}

/// A storage, from `pvesm status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageRow {
    /// `lvmthin`, `zfspool`, `dir` …
    pub kind: String,
    /// Whether it is enabled and can be reached.
    pub active: bool,
    /// Free space in KiB.
    pub available_kib: u64,
}

/// Returns the row of one storage. Its name has no blanks, and the headings differ between PVE 8 and 9.
pub fn storage(output: &str, name: &str) -> Option<StorageRow> {
    let rows = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.into_iter().find(|cells| cells.len() == 7 && cells[0] == name)?;
    Some(StorageRow {
        kind: row[1].into(),
        active: row[2] == "active",
        available_kib: row[5].parse().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read() {
        let config = GuestConfig::parse(
            "boot: order=scsi0\ndescription: BlockHost%20template%20a%0A\nide2: local-lvm:vm-9001-cloudinit,media=cdrom\n\
             ide0: none,media=cdrom\nide1: local:iso/x.iso,media=cdrom\nname: a\n\
             scsi0: file=local-lvm:base-9001-disk-0,discard=on,size=3G\nscsihw: virtio-scsi-pci\n\
             smbios1: base64=1,uuid=7d0d9c7e\ntemplate: 1\nunused0: local-lvm:vm-9001-disk-1\n",
        );
        assert_eq!((config.name(), config.uuid(), config.is_template()), ("a", "7d0d9c7e", true));
        assert_eq!(config.description(), "BlockHost template a");
        assert_eq!(config.volume("scsi0"), Some("local-lvm:base-9001-disk-0"));
        let volumes =
            ["local-lvm:vm-9001-cloudinit", "local-lvm:base-9001-disk-0", "local-lvm:vm-9001-disk-1"];
        assert_eq!(config.volumes(), volumes);
        assert_eq!(config.unused().len(), 1);
        assert_eq!(config.lock(), None);
    }

    #[test]
    fn h40_both_wordings_of_an_import() {
        let made = Some(("unused0".to_owned(), "local-lvm:vm-100-disk-0".to_owned()));
        let old = "importing disk 'a' to VM 100 ...\nSuccessfully imported disk as 'unused0:local-lvm:vm-100-disk-0'\n";
        assert_eq!(imported(old), made);
        assert_eq!(imported("unused0: successfully imported disk 'local-lvm:vm-100-disk-0'\n"), made);
        assert_eq!(imported("copy failed\n"), None);
        assert_eq!(transferred("transferred 1.0 GiB of 3.0 GiB (33.33%)"), Some(33));
        assert_eq!(transferred("transferred nothing"), None);
    }

    #[test]
    fn tables_are_read_in_both_versions() {
        let nine = "Name Type Status Total (KiB) Used (KiB) Available (KiB) %\nlocal-lvm lvmthin active 100 40 60 40.00%\n";
        let row = storage(nine, "local-lvm").unwrap();
        assert_eq!((row.kind.as_str(), row.active, row.available_kib), ("lvmthin", true, 60));
        assert_eq!(storage(nine, "local"), None);
        let off = "local-lvm lvmthin disabled 0 0 0 N/A\n";
        assert!(!storage(off, "local-lvm").unwrap().active);
        let list = "Volid Format Type Size VMID\nlocal-zfs:base-9001-disk-0/vm-100-disk-0 raw images 3221225472 100\n";
        let volume = &volumes(list)[0];
        assert_eq!(
            (volume.volid.as_str(), volume.vmid),
            ("local-zfs:base-9001-disk-0/vm-100-disk-0", Some(100))
        );
    }

    #[test]
    fn snippets_are_no_volumes_of_a_vm() {
        let list = "Volid Format Type Size VMID\n\
             local:snippets/web-1-user.yaml snippet snippets 812\n\
             local:iso/debian.iso iso iso 647000000\n\
             local:9001/vm-9001-disk-0.qcow2 qcow2 images 3221225472 9001\n";
        let found: Vec<String> = volumes(list).into_iter().map(|volume| volume.volid).collect();
        assert_eq!(found, ["local:9001/vm-9001-disk-0.qcow2"]);
    }
}
