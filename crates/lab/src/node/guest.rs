//! One guest: its configuration, its power, how it behaves, and the text of its configuration file.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sha1::{Digest as _, Sha1};

use super::drive::{Drive, Nic, is_drive_key, numbered, smbios_uuid};
use super::guest_system::GuestSystem;
use crate::model::{AgentMode, Figures, GuestSnapshot, NodeOptions, Power};

/// A QEMU process that never was.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The PID in the pid file.
    pub pid: u32,
    /// When it was started.
    pub since: Instant,
    /// From when on its agent answers.
    pub boot_at: Instant,
    /// CPUs halted.
    pub paused: bool,
    /// Its agent waits for the rest of a request that will never come; until it, or the guest, is started anew.
    pub agent_stuck: bool,
}

/// What a test may choose about a guest.
#[derive(Debug, Clone)]
pub(crate) struct Behaviour {
    /// Agent.
    pub agent: AgentMode,
    /// Own boot time instead of the node's.
    pub boot_ms: Option<u64>,
    /// Own time to shut down instead of the node's.
    pub shutdown_ms: Option<u64>,
    /// Never heeds ACPI or the agent.
    pub ignore_shutdown: bool,
    /// What it uses.
    pub figures: Figures,
}

impl Behaviour {
    /// As the node's options say.
    pub fn of(options: &NodeOptions) -> Self {
        Self {
            agent: options.agent,
            boot_ms: None,
            shutdown_ms: None,
            ignore_shutdown: options.ignore_shutdown,
            figures: Figures::default(),
        }
    }
}

/// A guest.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub vmid: u32,
    /// The node that has it.
    pub node: String,
    pub config: BTreeMap<String, String>,
    /// Waits for the next start; `None` = delete.
    pub pending: BTreeMap<String, Option<String>>,
    /// The file is still the clone's first, temporary one: a comment and the lock, nothing else.
    pub temporary: bool,
    pub pool: Option<String>,
    pub run: Option<Run>,
    pub behaviour: Behaviour,
    pub system: GuestSystem,
    pub starts: u32,
    /// When its VMID appeared; `/cluster/resources` lags behind.
    pub born: Instant,
}

impl Guest {
    /// A guest with this configuration.
    pub fn new(vmid: u32, node: &str, config: BTreeMap<String, String>, behaviour: Behaviour) -> Self {
        Self {
            vmid,
            node: node.into(),
            config,
            pending: BTreeMap::new(),
            temporary: false,
            pool: None,
            run: None,
            behaviour,
            system: GuestSystem::default(),
            starts: 0,
            born: Instant::now(),
        }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str)
    }

    pub fn flag(&self, key: &str) -> bool {
        self.get(key) == Some("1")
    }

    pub fn name(&self) -> &str {
        self.get("name").unwrap_or("")
    }

    pub fn lock(&self) -> Option<&str> {
        self.get("lock")
    }

    pub fn uuid(&self) -> &str {
        self.get("smbios1").and_then(smbios_uuid).unwrap_or("")
    }

    pub fn power(&self) -> Power {
        match &self.run {
            None => Power::Stopped,
            Some(run) if run.paused => Power::Paused,
            Some(_) => Power::Running,
        }
    }

    /// Whether its operating system is up.
    pub fn booted(&self) -> bool {
        self.behaviour.agent != AgentMode::Never
            && self.run.as_ref().is_some_and(|run| !run.paused && Instant::now() >= run.boot_at)
    }

    /// Whether the agent answers a ping now.
    pub fn agent_answers(&self) -> bool {
        self.booted()
            && self.behaviour.agent == AgentMode::On
            && self.agent_enabled()
            && !self.run.as_ref().is_some_and(|run| run.agent_stuck)
    }

    /// Whether the running machine has the agent's device.
    pub fn agent_enabled(&self) -> bool {
        self.get("agent").is_some_and(|agent| agent.split(',').any(|part| part == "1" || part == "enabled=1"))
    }

    /// How long the guest has run.
    pub fn uptime(&self) -> Duration {
        self.run.as_ref().map_or(Duration::ZERO, |run| run.since.elapsed())
    }

    /// The drives of the configuration that counts now.
    pub fn drives(&self) -> Vec<(String, Drive)> {
        self.config
            .iter()
            .filter(|(key, _)| is_drive_key(key))
            .filter_map(|(key, value)| Some((key.clone(), Drive::parse(value).ok()?)))
            .collect()
    }

    /// The network devices of the configuration that counts now, by number.
    pub fn nics(&self) -> Vec<(u32, Nic)> {
        self.config
            .iter()
            .filter(|(key, _)| numbered(key, "net", 32))
            .filter_map(|(key, value)| Some((key[3..].parse().ok()?, Nic::parse(value).ok()?)))
            .collect()
    }

    /// Every volume the configuration names, unused ones too.
    pub fn volumes(&self) -> Vec<String> {
        self.config
            .iter()
            .filter(|(key, _)| is_drive_key(key) || numbered(key, "unused", 256) || *key == "vmstate")
            .filter_map(|(_, value)| Some(Drive::parse(value).ok()?.volume))
            .filter(|volume| volume != "none" && !volume.contains(":iso/"))
            .collect()
    }

    /// Size of the boot disk in bytes.
    pub fn boot_disk_size(&self) -> u64 {
        let boot = self.get("boot").and_then(|boot| boot.strip_prefix("order="));
        let first = boot.and_then(|order| order.split(';').find(|key| is_drive_key(key)));
        let drives = self.drives();
        first
            .and_then(|key| drives.iter().find(|(name, _)| name == key))
            .or_else(|| drives.iter().find(|(_, drive)| !drive.is_cdrom()))
            .map_or(0, |(_, drive)| drive.size())
    }

    /// Virtual CPUs.
    pub fn cpus(&self) -> u64 {
        let number = |key| self.get(key).and_then(|text| text.parse::<u64>().ok());
        number("vcpus").unwrap_or_else(|| number("cores").unwrap_or(1) * number("sockets").unwrap_or(1))
    }

    /// Memory in bytes.
    pub fn memory(&self) -> u64 {
        self.get("memory").and_then(|text| text.parse::<u64>().ok()).unwrap_or(512) << 20
    }

    /// The configuration with the pending changes merged in, as `qm config` shows it.
    pub fn merged(&self) -> BTreeMap<String, String> {
        let mut merged = self.config.clone();
        for (key, value) in &self.pending {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        merged
    }

    /// The text of `/etc/pve/qemu-server/<vmid>.conf`.
    pub fn conf_text(&self) -> String {
        if self.temporary {
            return "# qmclone temporary file\nlock: clone\n".into();
        }
        let mut text = String::new();
        for line in self.get("description").unwrap_or("").lines() {
            text.push_str(&format!("#{}\n", encode_text(line)));
        }
        for (key, value) in self.config.iter().filter(|(key, _)| *key != "description") {
            text.push_str(&format!("{key}: {value}\n"));
        }
        if !self.pending.is_empty() {
            text.push_str("\n[PENDING]\n");
            let gone: Vec<&str> = self
                .pending
                .iter()
                .filter(|(_, value)| value.is_none())
                .map(|(key, _)| key.as_str())
                .collect();
            if !gone.is_empty() {
                text.push_str(&format!("delete: {}\n", gone.join(",")));
            }
            for (key, value) in &self.pending {
                if let Some(value) = value {
                    text.push_str(&format!("{key}: {value}\n"));
                }
            }
        }
        text
    }

    /// SHA-1 of the file's text, as Proxmox computes it.
    pub fn digest(&self) -> String {
        Sha1::digest(self.conf_text()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As tests see it; the guest's own passwd file is read now.
    pub fn snapshot(&self) -> GuestSnapshot {
        GuestSnapshot {
            node: self.node.clone(),
            name: self.name().into(),
            power: self.power(),
            lock: self.lock().map(String::from),
            pool: self.pool.clone(),
            description: self.get("description").unwrap_or("").trim_end_matches('\n').into(),
            uuid: self.uuid().into(),
            onboot: self.flag("onboot"),
            protection: self.flag("protection"),
            template: self.flag("template"),
            tags: self.get("tags").unwrap_or("").into(),
            config: self.config.clone(),
            pending: self.pending.clone(),
            agent: self.behaviour.agent,
            starts: self.starts,
            instance_id: self.system.instance_id.clone(),
            cloud_init_runs: self.system.cloud_init_runs,
            hostname: self.system.hostname.clone(),
            passwd: self.system.passwd(),
        }
    }
}

/// Percent-encodes control and non-ASCII characters, `%` and `:`, as Proxmox does in its files.
pub(crate) fn encode_text(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' && byte != b':' {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Tags as stored: split at `;`, `,` or blanks, lower-cased, sorted, each once.
///
/// # Errors
/// Names the tag that is none.
pub(crate) fn normal_tags(text: &str) -> Result<String, String> {
    let mut tags = Vec::new();
    for tag in text.split([';', ',', ' ']).filter(|tag| !tag.is_empty()) {
        let tag = tag.to_ascii_lowercase();
        let right = |index: usize, c: char| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || (index > 0 && "-+.".contains(c))
        };
        if !tag.chars().enumerate().all(|(index, c)| right(index, c)) {
            return Err(format!("invalid characters in tag '{tag}'"));
        }
        tags.push(tag);
    }
    tags.sort();
    tags.dedup();
    Ok(tags.join(";"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_description_first_and_encoded() {
        let config = BTreeMap::from([
            ("name".to_owned(), "web-1".to_owned()),
            ("description".to_owned(), "BlockHost VM web-1: 100 %\nü\n".to_owned()),
            ("cores".to_owned(), "2".to_owned()),
        ]);
        let mut guest = Guest::new(100, "pve", config, Behaviour::of(&NodeOptions::default()));
        assert_eq!(guest.conf_text(), "#BlockHost VM web-1%3A 100 %25\n#%C3%BC\ncores: 2\nname: web-1\n");
        let before = guest.digest();
        assert_eq!(before.len(), 40);
        guest.pending.insert("memory".into(), Some("4096".into()));
        guest.pending.insert("cores".into(), None);
        assert!(guest.conf_text().ends_with("name: web-1\n\n[PENDING]\ndelete: cores\nmemory: 4096\n"));
        assert_ne!(guest.digest(), before);
        guest.temporary = true;
        assert_eq!(guest.conf_text(), "# qmclone temporary file\nlock: clone\n");
    }

    #[test]
    fn tags_are_sorted_and_checked() {
        assert_eq!(normal_tags("b;A, b c").unwrap(), "a;b;c");
        assert!(normal_tags("-x").is_err());
        assert!(normal_tags("${file}").is_err());
    }
}
