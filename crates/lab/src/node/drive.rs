//! Property strings of the configuration: drives (`scsi0`), network devices (`net0`), sizes, SMBIOS.

use std::collections::BTreeMap;

/// A drive's value, `local-lvm:vm-100-disk-0,discard=on,size=20G`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drive {
    /// The first element, also when written as `file=` or `volume=`.
    pub volume: String,
    /// The others.
    pub options: BTreeMap<String, String>,
}

const DRIVE_KEYS: &[&str] = &[
    "aio",
    "backup",
    "bps",
    "bps_max_length",
    "bps_rd",
    "bps_rd_max_length",
    "bps_wr",
    "bps_wr_max_length",
    "cache",
    "detect_zeroes",
    "discard",
    "format",
    "import-from",
    "iops",
    "iops_max",
    "iops_max_length",
    "iops_rd",
    "iops_rd_max",
    "iops_rd_max_length",
    "iops_wr",
    "iops_wr_max",
    "iops_wr_max_length",
    "iothread",
    "mbps",
    "mbps_max",
    "mbps_rd",
    "mbps_rd_max",
    "mbps_wr",
    "mbps_wr_max",
    "media",
    "model",
    "product",
    "queues",
    "replicate",
    "rerror",
    "ro",
    "scsiblock",
    "serial",
    "shared",
    "size",
    "snapshot",
    "ssd",
    "vendor",
    "werror",
    "wwn",
];

/// Sub-options whose change keeps the whole drive change pending while the guest runs; limits are applied at once.
pub(crate) const COLD_DRIVE_KEYS: &[&str] =
    &["aio", "discard", "iothread", "queues", "product", "vendor", "cache", "ssd", "ro"];

impl Drive {
    /// Parses a drive string.
    ///
    /// # Errors
    /// Why Proxmox would not take it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut volume = None;
        let mut options = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                None if volume.is_none() => volume = Some(part.to_owned()),
                None => {
                    return Err(format!(
                        "invalid format - value without key, but schema does not define a default key: {part}"
                    ));
                }
                Some(("file" | "volume", value)) => volume = Some(value.to_owned()),
                Some((key, value)) if DRIVE_KEYS.contains(&key) => {
                    options.insert(key.to_owned(), value.to_owned());
                }
                Some((key, _)) => {
                    return Err(format!(
                        "invalid format - {key}: property is not defined in schema and the schema does not allow additional properties"
                    ));
                }
            }
        }
        let volume = volume
            .ok_or_else(|| "invalid format - file: property is missing and it is not optional".to_owned())?;
        let mut drive = Self { volume, options };
        drive.check_throttle()?;
        Ok(drive)
    }

    fn check_throttle(&mut self) -> Result<(), String> {
        for base in ["iops", "mbps", "bps"] {
            if self.options.contains_key(base)
                && ["rd", "wr"].iter().any(|way| self.options.contains_key(&format!("{base}_{way}")))
            {
                return Err("unable to parse drive options".into());
            }
        }
        for (length, maximum) in [
            ("iops_max_length", "iops_max"),
            ("iops_rd_max_length", "iops_rd_max"),
            ("iops_wr_max_length", "iops_wr_max"),
            ("mbps_max", "mbps"),
            ("mbps_rd_max", "mbps_rd"),
            ("mbps_wr_max", "mbps_wr"),
        ] {
            if self.options.contains_key(length) && !self.options.contains_key(maximum) {
                return Err("unable to parse drive options".into());
            }
        }
        // Proxmox stores these as no limit at all: `my $bps = defined(delete …)` makes the value 1.
        for (bytes, megabytes) in [("bps", "mbps"), ("bps_rd", "mbps_rd"), ("bps_wr", "mbps_wr")] {
            if self.options.remove(bytes).is_some() {
                self.options.insert(megabytes.into(), "0.000".into());
            }
        }
        Ok(())
    }

    /// The string as Proxmox stores it: the volume first, the rest sorted.
    pub fn print(&self) -> String {
        let mut text = self.volume.clone();
        for (key, value) in &self.options {
            text.push_str(&format!(",{key}={value}"));
        }
        text
    }

    /// Whether it is a CD-ROM, the cloud-init drive included.
    pub fn is_cdrom(&self) -> bool {
        self.options.get("media").is_some_and(|media| media == "cdrom")
    }

    /// Whether it is the cloud-init drive.
    pub fn is_cloudinit(&self) -> bool {
        self.volume.ends_with(":cloudinit") || self.volume.ends_with("-cloudinit")
    }

    /// Size in bytes by its `size=`, 0 without.
    pub fn size(&self) -> u64 {
        self.options.get("size").and_then(|size| parse_size(size)).unwrap_or(0)
    }
}

/// Whether a configuration key is a drive.
pub(crate) fn is_drive_key(key: &str) -> bool {
    [("scsi", 31), ("virtio", 16), ("sata", 6), ("ide", 4), ("efidisk", 1), ("tpmstate", 1)]
        .iter()
        .any(|&(bus, count)| numbered(key, bus, count))
}

/// Whether `key` is `prefix` and a number below `count`, written without leading zero.
pub(crate) fn numbered(key: &str, prefix: &str, count: u32) -> bool {
    key.strip_prefix(prefix)
        .and_then(|rest| rest.parse::<u32>().ok().filter(|number| number.to_string() == rest))
        .is_some_and(|number| number < count)
}

/// Bytes of `20G`, `2252M`, `21474836480`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.chars().last()? {
        'K' => (&text[..text.len() - 1], 1u64 << 10),
        'M' => (&text[..text.len() - 1], 1 << 20),
        'G' => (&text[..text.len() - 1], 1 << 30),
        'T' => (&text[..text.len() - 1], 1 << 40),
        _ => (text, 1),
    };
    let number: f64 = digits.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    Some((number * factor as f64) as u64)
}

/// The largest unit that leaves no rest.
pub(crate) fn print_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A network device's value, `virtio=BC:24:11:00:00:01,bridge=vmbr0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nic {
    /// `virtio`, `e1000` …
    pub model: String,
    /// Empty where the text had none: one is made then.
    pub mac: String,
    /// `bridge`, `firewall`, `rate` …
    pub options: BTreeMap<String, String>,
}

const NIC_MODELS: &[&str] = &["virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"];
const NIC_KEYS: &[&str] =
    &["bridge", "firewall", "link_down", "mtu", "queues", "rate", "tag", "trunks", "host_mtu"];

impl Nic {
    /// Parses a `netN` string.
    ///
    /// # Errors
    /// Why Proxmox would not take it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut nic = Self { model: String::new(), mac: String::new(), options: BTreeMap::new() };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or(("model", part));
            match key {
                "model" => nic.model = value.into(),
                "macaddr" => nic.mac = value.into(),
                key if NIC_MODELS.contains(&key) => {
                    nic.model = key.into();
                    nic.mac = value.into();
                }
                key if NIC_KEYS.contains(&key) => {
                    nic.options.insert(key.into(), value.into());
                }
                key => {
                    return Err(format!(
                        "invalid format - {key}: property is not defined in schema and the schema does not allow additional properties"
                    ));
                }
            }
        }
        if !NIC_MODELS.contains(&nic.model.as_str()) {
            return Err("invalid format - model: property is missing and it is not optional".into());
        }
        Ok(nic)
    }

    /// As stored.
    pub fn print(&self) -> String {
        let mut text = format!("{}={}", self.model, self.mac);
        for (key, value) in &self.options {
            text.push_str(&format!(",{key}={value}"));
        }
        text
    }

    /// The bridge it names.
    pub fn bridge(&self) -> Option<&str> {
        self.options.get("bridge").map(String::as_str)
    }

    /// Whether it asks for a firewall bridge of its own.
    pub fn firewall(&self) -> bool {
        self.options.get("firewall").is_some_and(|value| value == "1")
    }
}

/// The `uuid` of an `smbios1` string.
pub(crate) fn smbios_uuid(text: &str) -> Option<&str> {
    text.split(',').find_map(|part| part.strip_prefix("uuid="))
}

/// The `smbios1` string with another UUID, its other parts kept.
pub(crate) fn with_smbios_uuid(text: &str, uuid: &str) -> String {
    let mut parts: Vec<String> = text
        .split(',')
        .filter(|part| !part.is_empty() && !part.starts_with("uuid="))
        .map(String::from)
        .collect();
    parts.push(format!("uuid={uuid}"));
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_both_ways() {
        for (text, bytes) in
            [("2252M", 2_361_393_152), ("20G", 21_474_836_480), ("4M", 4_194_304), ("1025", 1025)]
        {
            assert_eq!(parse_size(text), Some(bytes));
            assert_eq!(print_size(bytes), text);
        }
        assert_eq!(parse_size("x"), None);
        assert_eq!(parse_size("-3G"), None);
    }

    #[test]
    fn a_drive_keeps_its_volume_first_and_sorts_the_rest() {
        let drive = Drive::parse("file=local-lvm:vm-101-disk-0,size=20G,aio=io_uring,discard=on").unwrap();
        assert_eq!(drive.print(), "local-lvm:vm-101-disk-0,aio=io_uring,discard=on,size=20G");
        assert!(Drive::parse("a:b,nonsense=1").is_err());
        assert!(Drive::parse("a:b,iops=1,iops_rd=2").is_err());
        assert!(Drive::parse("a:b,iops_max_length=1").is_err());
    }

    #[test]
    fn h34_bps_is_taken_and_means_no_limit() {
        assert_eq!(Drive::parse("a:b,bps_rd=10485760").unwrap().print(), "a:b,mbps_rd=0.000");
    }

    #[test]
    fn a_nic_is_read_in_both_forms() {
        let provider = Nic::parse("model=virtio,bridge=vmbr0,firewall=0").unwrap();
        assert_eq!((provider.model.as_str(), provider.mac.as_str()), ("virtio", ""));
        let stored = Nic::parse("virtio=BC:24:11:00:00:01,bridge=vmbr0,rate=3").unwrap();
        assert_eq!(stored.print(), "virtio=BC:24:11:00:00:01,bridge=vmbr0,rate=3");
        assert!(Nic::parse("bridge=vmbr0").is_err());
    }

    #[test]
    fn keys_are_numbered_without_leading_zero() {
        assert!(is_drive_key("scsi30") && is_drive_key("ide2"));
        assert!(
            !is_drive_key("scsi31")
                && !is_drive_key("scsi01")
                && !is_drive_key("scsihw")
                && !is_drive_key("ide4")
        );
    }

    #[test]
    fn the_smbios_uuid_is_found_anywhere() {
        assert_eq!(smbios_uuid("base64=1,uuid=abc"), Some("abc"));
        assert_eq!(with_smbios_uuid("base64=1,uuid=abc", "def"), "base64=1,uuid=def");
    }
}
