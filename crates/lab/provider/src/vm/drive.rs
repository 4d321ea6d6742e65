//! Drive strings such as `local-lvm:vm-101-disk-0,iothread=1,size=20G`, and bringing a cloned drive to what
//! the plan says.

use super::{Vm, create::flag};
use crate::{
    api::{ApiError, Tolerance, doubling, form, text},
    diagnostic::Diagnostic,
    value::Value,
    version::LATER,
};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// One GiB in bytes.
pub const GIB: u64 = 1 << 30;

/// A drive of the VM's configuration.
#[derive(Debug, PartialEq)]
pub struct Drive {
    /// `storage:name`.
    pub volume: String,
    /// What follows, key by key.
    pub options: BTreeMap<String, String>,
}

impl Drive {
    /// From its text.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(',').filter(|part| !part.is_empty());
        let volume = parts.next().unwrap_or_default();
        let volume = volume.strip_prefix("file=").unwrap_or(volume).to_string();
        let pair = |part: &str| part.split_once('=').map(|(key, value)| (key.to_string(), value.to_string()));
        Self { volume, options: parts.filter_map(pair).collect() }
    }

    /// The storage it lies on.
    pub fn storage(&self) -> &str {
        self.volume.split_once(':').map_or("", |(storage, _)| storage)
    }

    /// Its size in bytes (`2252M`, `20G`, plain bytes); 0 when it has none.
    pub fn size(&self) -> u64 {
        let size = self.options.get("size").map_or("", String::as_str);
        let digits = size.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(size.len());
        let unit: u64 = match &size[digits..] {
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => GIB,
            "T" => 1 << 40,
            _ => 1,
        };
        size[..digits].parse().map_or(0, |number: f64| (number * unit as f64) as u64)
    }

    /// Whether it is a disk, not a CD or the cloud-init image.
    pub fn is_disk(&self) -> bool {
        self.options.get("media").is_none_or(|media| media != "cdrom") && self.volume.contains(':')
    }
}

/// The drives of a configuration by interface.
pub fn drives(config: &Json) -> impl Iterator<Item = (&str, Drive)> {
    let entries = config.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| {
        let digits = key.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let bus = &key[..key.len() - digits.len()];
        let numbered = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
        let known = numbered && matches!(bus, "ide" | "sata" | "scsi" | "virtio");
        known.then(|| value.as_str()).flatten().map(|text| (key.as_str(), Drive::parse(text)))
    })
}

/// The interface of the VM's cloud-init drive: its volume's name tells.
pub fn cloud_init(config: &Json, id: i64) -> Option<String> {
    let name = format!("vm-{id}-cloudinit");
    drives(config).find(|(_, drive)| drive.volume.contains(&name)).map(|(key, _)| key.to_string())
}

/// The options the plan asks for, in the order in which they are sent.
fn wanted(disk: &Value) -> Vec<(&'static str, String)> {
    let mut options = Vec::new();
    let mut add = |key, value: Option<String>| options.extend(value.map(|value| (key, value)));
    let word = |key: &str| disk.text(key).map(str::to_string);
    let truth = |key: &str| disk.bool(key).map(flag);
    add("aio", word("aio"));
    add("backup", truth("backup"));
    if let Some(speed) = disk.block("speed") {
        for (key, name) in [
            ("iops_read", "iops_rd"),
            ("iops_read_burstable", "iops_rd_max"),
            ("iops_write", "iops_wr"),
            ("iops_write_burstable", "iops_wr_max"),
            ("read", "mbps_rd"),
            ("read_burstable", "mbps_rd_max"),
            ("write", "mbps_wr"),
            ("write_burstable", "mbps_wr_max"),
        ] {
            add(name, speed.number_text(key).filter(|number| number != "0"));
        }
    }
    add("iothread", truth("iothread"));
    add("serial", word("serial"));
    add("ssd", truth("ssd"));
    add("discard", word("discard"));
    add("cache", word("cache"));
    add("replicate", truth("replicate"));
    add("queues", disk.number_text("queues").filter(|number| number != "0"));
    options
}

/// Sets the options, moves and grows one disk of the VM to what the plan says; `operation` is the one the
/// fault points belong to.
pub async fn bring_to(vm: &Vm<'_>, config: &Json, disk: &Value, operation: &str) -> Result<(), Diagnostic> {
    let (api, id) = (vm.api, vm.id);
    let interface = disk.text("interface").unwrap_or_default();
    let present = text(config, interface);
    if present.is_empty() {
        return Err(Diagnostic::error(format!(
            "the stand-in provider changes disks of the template only: VM {id} has no {interface}"
        )));
    }
    let drive = Drive::parse(present);
    let size = disk.int("size").and_then(|gib| u64::try_from(gib).ok()).map(|gib| gib * GIB);
    if size.is_some_and(|size| size < drive.size()) {
        return Err(Diagnostic::error(format!(
            "disk resize failure: requested size ({}G) is lower than current size ({})",
            size.unwrap_or(0) / GIB,
            short_size(drive.size())
        )));
    }
    let failed =
        |error: ApiError| Diagnostic::error(format!("error changing disk {interface} of VM {id}: {error}"));

    api.point(&format!("{operation}.disk.before")).await.map_err(failed)?;
    let options = wanted(disk);
    if options.iter().any(|(key, value)| drive.options.get(*key) != Some(value)) {
        let mut parts = vec![format!("file={},size={}", drive.volume, drive.size())];
        parts.extend(options.iter().map(|(key, value)| format!("{key}={value}")));
        vm.configure(&form([(interface, parts.join(","))])).await?;
    }
    if let Some(storage) = disk.text("datastore_id").filter(|storage| *storage != drive.storage()) {
        let body = form([("disk", interface.into()), ("storage", storage.into()), ("delete", "1".into())]);
        let task = api.post(&vm.path("move_disk"), &body).await.map_err(failed)?;
        api.wait(task, Tolerance::ByVersion).await.map_err(failed)?;
    }
    api.point(&format!("{operation}.disk.after")).await.map_err(failed)?;

    if let Some(size) = size.filter(|size| *size > drive.size()) {
        let failed = |error: ApiError| {
            let sentence = "disk resize fails: error waiting for VM disk resize";
            Diagnostic::of_step(api.version, "Disk resize", sentence, &error)
        };
        api.point(&format!("{operation}.resize.before")).await.map_err(failed)?;
        resize(vm, interface, size).await.map_err(failed)?;
        api.point(&format!("{operation}.resize.after")).await.map_err(failed)?;
    }
    Ok(())
}

/// Grows a disk to so many bytes. Tried again only for a lock that was not got in time and for what does not exist (yet):
/// a full storage, a busy one and a lost connection end the whole create. Before 0.101 the tries are of request and task
/// together.
async fn resize(vm: &Vm<'_>, interface: &str, size: u64) -> Result<(), ApiError> {
    let api = vm.api;
    let body = form([("disk", interface.into()), ("size", size.to_string())]);
    let path = vm.path("resize");
    let passes = |error: &ApiError| error.says("got timeout") || error.says("does not exist");
    if api.version >= LATER {
        let put = |_| api.put(&path, &body);
        let task = api.again_telling(5, doubling(1.0), "", passes, put).await?;
        return api.wait(task, Tolerance::ByVersion).await.map(|_| ());
    }
    // The real one says "moving" here.
    let what = "error moving VM disk: ";
    let whole = |_| async { api.wait(api.put(&path, &body).await?, Tolerance::ByVersion).await.map(|_| ()) };
    api.again_telling(5, doubling(1.0), what, passes, whole).await
}

fn short_size(bytes: u64) -> String {
    let gib = bytes as f64 / GIB as f64;
    if gib.fract() == 0.0 { format!("{gib}G") } else { format!("{gib:.1}G") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drives_are_read() {
        let drive = Drive::parse("local-lvm:vm-101-disk-0,iothread=1,size=2252M");
        assert_eq!((drive.storage(), drive.size(), drive.is_disk()), ("local-lvm", 2252 << 20, true));
        assert_eq!(Drive::parse("file=local:101/vm-101-disk-0.qcow2,size=2361393152").size(), 2_361_393_152);
        assert!(!Drive::parse("local-lvm:vm-101-cloudinit,media=cdrom").is_disk());
        assert!(!Drive::parse("none,media=cdrom").is_disk());
        assert_eq!(short_size(2252 << 20), "2.2G");
    }

    #[test]
    fn drives_are_found() {
        let config = json!({"scsi0": "a:vm-7-disk-0,size=1G", "scsihw": "virtio-scsi-pci", "ide2": "a:vm-7-cloudinit,media=cdrom",
            "boot": "order=scsi0", "virtio": "x", "memory": "512"});
        let mut found: Vec<_> = drives(&config).map(|(key, _)| key).collect();
        found.sort_unstable();
        assert_eq!(found, ["ide2", "scsi0"]);
        assert_eq!(cloud_init(&config, 7).as_deref(), Some("ide2"));
        assert_eq!(cloud_init(&config, 8), None);
    }
}
