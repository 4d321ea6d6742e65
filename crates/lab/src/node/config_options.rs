//! What Proxmox knows of each configuration key: its form, who may set it, whether a running guest takes it at once.

use super::drive::{Drive, Nic, is_drive_key, numbered};
use super::guest::normal_tags;

const PLAIN: &[&str] = &[
    "acpi",
    "affinity",
    "agent",
    "arch",
    "args",
    "audio0",
    "autostart",
    "balloon",
    "bios",
    "boot",
    "bootdisk",
    "cdrom",
    "cicustom",
    "cipassword",
    "citype",
    "ciupgrade",
    "ciuser",
    "cores",
    "cpu",
    "cpulimit",
    "cpuunits",
    "description",
    "freeze",
    "hookscript",
    "hotplug",
    "hugepages",
    "ivshmem",
    "keephugepages",
    "keyboard",
    "kvm",
    "localtime",
    "lock",
    "machine",
    "memory",
    "migrate_downtime",
    "migrate_speed",
    "name",
    "nameserver",
    "numa",
    "onboot",
    "ostype",
    "protection",
    "reboot",
    "rng0",
    "scsihw",
    "searchdomain",
    "shares",
    "smbios1",
    "sockets",
    "spice_enhancements",
    "sshkeys",
    "startdate",
    "startup",
    "tablet",
    "tags",
    "tdf",
    "template",
    "vcpus",
    "vga",
    "vmgenid",
    "vmstatestorage",
    "watchdog",
];
const NUMBERED: &[(&str, u32)] = &[
    ("hostpci", 16),
    ("ipconfig", 32),
    ("net", 32),
    ("numa", 8),
    ("parallel", 3),
    ("serial", 4),
    ("unused", 256),
    ("usb", 14),
];
const BOOLEAN: &[&str] = &[
    "acpi",
    "autostart",
    "ciupgrade",
    "freeze",
    "keephugepages",
    "kvm",
    "localtime",
    "numa",
    "onboot",
    "protection",
    "reboot",
    "tablet",
    "tdf",
    "template",
];
const INTEGER: &[(&str, u64, u64)] = &[
    ("balloon", 0, u64::MAX),
    ("cores", 1, 2304),
    ("cpuunits", 1, 262_144),
    ("memory", 16, u64::MAX),
    ("migrate_speed", 0, u64::MAX),
    ("shares", 0, 50_000),
    ("sockets", 1, 64),
    ("vcpus", 1, 2304),
];
/// Taken by a running guest without a restart.
const LIVE: &[&str] = &[
    "autostart",
    "balloon",
    "cicustom",
    "cipassword",
    "citype",
    "ciupgrade",
    "ciuser",
    "cpulimit",
    "cpuunits",
    "description",
    "hookscript",
    "lock",
    "name",
    "nameserver",
    "onboot",
    "protection",
    "searchdomain",
    "shares",
    "sshkeys",
    "startup",
    "tags",
];

/// Whether Proxmox has such an option.
pub(crate) fn known(key: &str) -> bool {
    PLAIN.contains(&key)
        || is_drive_key(key)
        || NUMBERED.iter().any(|(prefix, count)| numbered(key, prefix, *count))
}

/// All names, with whether they are booleans.
pub(crate) fn names() -> Vec<(String, bool)> {
    let drives = [("scsi", 31), ("virtio", 16), ("sata", 6), ("ide", 4), ("efidisk", 1), ("tpmstate", 1)];
    let numbered = NUMBERED.iter().copied().chain(drives);
    PLAIN
        .iter()
        .map(|name| ((*name).to_owned(), BOOLEAN.contains(name)))
        .chain(numbered.flat_map(|(prefix, count)| (0..count).map(move |n| (format!("{prefix}{n}"), false))))
        .collect()
}

/// Whether JSON has it as a number.
pub(crate) fn is_number(key: &str) -> bool {
    // memory and description-like texts are strings since PVE 8.
    key != "memory" && (BOOLEAN.contains(&key) || INTEGER.iter().any(|(name, ..)| *name == key))
}

/// Whether a running guest takes a change at once.
pub(crate) fn is_live(key: &str) -> bool {
    LIVE.contains(&key) || numbered(key, "ipconfig", 32)
}

/// The value as stored.
///
/// # Errors
/// Why it is refused.
pub(crate) fn check(key: &str, value: &str) -> Result<String, String> {
    if let Some((_, low, high)) = INTEGER.iter().find(|(name, ..)| *name == key) {
        let number: u64 =
            value.parse().map_err(|_| format!("type check ('integer') failed - got '{value}'"))?;
        if number < *low {
            return Err(format!("value must have a minimum value of {low}"));
        }
        if number > *high {
            return Err(format!("value must have a maximum value of {high}"));
        }
        return Ok(number.to_string());
    }
    if BOOLEAN.contains(&key) {
        return match value {
            "1" | "on" | "yes" | "true" => Ok("1".into()),
            "0" | "off" | "no" | "false" => Ok("0".into()),
            other => Err(format!("type check ('boolean') failed - got '{other}'")),
        };
    }
    match key {
        "name" if !is_dns_name(value) => {
            return Err("invalid format - value does not look like a valid DNS name".into());
        }
        "tags" => return normal_tags(value).map_err(|why| format!("invalid format - {why}")),
        "cpulimit" => {
            let number: f64 =
                value.parse().map_err(|_| format!("type check ('number') failed - got '{value}'"))?;
            if !(0.0..=128.0).contains(&number) {
                return Err(if number < 0.0 {
                    "value must have a minimum value of 0".into()
                } else {
                    "value must have a maximum value of 128".into()
                });
            }
        }
        "description" if value.len() > 8192 => return Err("value may only be 8192 characters long".into()),
        "smbios1" => check_pairs(
            value,
            &["base64", "family", "manufacturer", "product", "serial", "sku", "uuid", "version"],
        )?,
        "agent" => check_pairs(value, &["enabled", "freeze-fs-on-backup", "fstrim_cloned_disks", "type"])?,
        "cicustom" => check_pairs(value, &["meta", "network", "user", "vendor"])?,
        key if numbered(key, "ipconfig", 32) => check_pairs(value, &["gw", "gw6", "ip", "ip6"])?,
        key if numbered(key, "net", 32) => {
            Nic::parse(value)?;
        }
        key if is_drive_key(key) || numbered(key, "unused", 256) => {
            Drive::parse(value)?;
        }
        _ => {}
    }
    if value.contains(['\n', '\r']) && key != "description" {
        return Err("invalid format - value contains a line break".into());
    }
    Ok(value.to_owned())
}

fn check_pairs(value: &str, keys: &[&str]) -> Result<(), String> {
    for part in value.split(',').filter(|part| !part.is_empty()) {
        if let Some((key, _)) = part.split_once('=')
            && !keys.contains(&key)
        {
            return Err(format!(
                "invalid format - {key}: property is not defined in schema and the schema does not allow additional properties"
            ));
        }
    }
    Ok(())
}

/// Labels of letters, digits and inner hyphens, joined by dots.
fn is_dns_name(text: &str) -> bool {
    !text.is_empty()
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
}

/// The privilege that setting or deleting the key needs on the guest; `None` = `root@pam` only.
pub(crate) fn privilege(key: &str, value: &str) -> Option<&'static str> {
    Some(match key {
        "args" | "hookscript" | "lock" => return None,
        "memory" | "balloon" | "shares" => "VM.Config.Memory",
        "cores" | "sockets" | "cpu" | "cpulimit" | "cpuunits" | "numa" | "vcpus" | "affinity" => {
            "VM.Config.CPU"
        }
        "cicustom" | "cipassword" | "citype" | "ciupgrade" | "ciuser" | "nameserver" | "searchdomain"
        | "sshkeys" => "VM.Config.Cloudinit",
        "acpi" | "hotplug" | "kvm" | "machine" | "scsihw" | "smbios1" | "tablet" | "vga" | "watchdog"
        | "audio0" => "VM.Config.HWType",
        "boot" | "bootdisk" => "VM.Config.Disk",
        key if numbered(key, "serial", 4) || numbered(key, "usb", 14) || numbered(key, "parallel", 3) => {
            "VM.Config.HWType"
        }
        key if numbered(key, "hostpci", 16) => return None,
        key if numbered(key, "net", 32) || numbered(key, "ipconfig", 32) => "VM.Config.Network",
        key if is_drive_key(key) || numbered(key, "unused", 256) => {
            let drive = Drive::parse(value);
            match drive {
                Ok(drive) if drive.is_cdrom() || drive.is_cloudinit() => "VM.Config.CDROM",
                _ => "VM.Config.Disk",
            }
        }
        _ => "VM.Config.Options",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h34_limits_of_a_drive_are_no_options() {
        for key in ["iops_rd", "iops", "mbps_wr", "bps"] {
            assert!(!known(key), "{key}");
        }
        assert!(known("cpulimit") && known("scsi0") && known("net31") && !known("net32"));
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(check("onboot", "yes").unwrap(), "1");
        assert_eq!(check("tags", "B,a").unwrap(), "a;b");
        for (key, value) in [
            ("name", "a_b"),
            ("name", "-a"),
            ("cores", "0"),
            ("cores", "x"),
            ("cpulimit", "129"),
            ("cpuunits", "262145"),
            ("net0", "nonsense"),
            ("smbios1", "colour=red"),
            ("ciuser", "a\nb"),
        ] {
            assert!(check(key, value).is_err(), "{key}={value}");
        }
    }
}
