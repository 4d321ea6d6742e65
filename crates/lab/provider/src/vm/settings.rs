//! What of a plan goes into the VM's configuration, as the parameters of `PUT …/config`.
//!
//! A new VM gets what was planned, with three exceptions that keep the template's own: blocks that are not
//! in the plan, plain attributes that have their default value (`on_boot` is always sent), and what only
//! the clone call carries (name, description, pool).

use super::create::flag;
use crate::{api::Form, schema::same, value::Value, version::Version};
use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The network devices and serial ports a VM may have: what is not planned is deleted, there or not.
const NETWORK_DEVICES: usize = 32;
const SERIAL_DEVICES: usize = 4;
/// From here on network devices are an attribute, and an empty list means "remove all of them"; before,
/// they are blocks, of which none means nothing (`schema.txt` has the same version).
const NETWORK_IS_ATTRIBUTE: Version = Version(0, 98, 1);
/// What stays as it is when SSH keys are encoded (Go's `url.QueryEscape`, with blanks as %20).
const KEYS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A call being put together.
struct Settings {
    version: Version,
    form: Form,
    deleted: Vec<String>,
}

/// The call for a VM that has just been cloned; its cloud-init drive goes to `interface`.
pub fn of_new(version: Version, vm: &Value, interface: &str) -> Form {
    let mut settings = Settings::new(version);
    settings.set("onboot", Some(flag(vm.bool("on_boot") != Some(false))));
    for attribute in PLAIN {
        if !attribute.is_default(vm) {
            settings.plain(attribute, vm);
        }
    }
    if !vm.list("tags").is_empty() {
        settings.tags(vm);
    }
    settings.blocks(vm, interface, |_| true);
    settings.finish()
}

/// The call that turns `before` into `after`, `None` when nothing of it is in the configuration.
pub fn of_change(version: Version, before: &Value, after: &Value, interface: &str) -> Option<Form> {
    let mut settings = Settings::new(version);
    let changed = |key: &str| !same(before.get(key), after.get(key));
    if changed("on_boot") {
        settings.set("onboot", Some(flag(after.bool("on_boot") != Some(false))));
    }
    for attribute in PLAIN.iter().chain(CLONED).filter(|attribute| changed(attribute.name)) {
        settings.plain(attribute, after);
    }
    if changed("tags") {
        settings.tags(after);
    }
    settings.blocks(after, interface, changed);
    let form = settings.finish();
    (!form.is_empty()).then_some(form)
}

/// Where the cloud-init drive goes: the interface given, else that of the drive found, else ide2.
pub fn cloud_init_interface(vm: &Value, found: Option<&str>) -> String {
    let given = vm.block("initialization").and_then(|block| block.text("interface"));
    given.or(found).unwrap_or("ide2").to_string()
}

/// An attribute outside the blocks: its name here, Proxmox' name, its default as text (truth: 1, 0).
struct Plain {
    name: &'static str,
    key: &'static str,
    default: &'static str,
}

const PLAIN: &[Plain] = &[
    Plain { name: "acpi", key: "acpi", default: "1" },
    Plain { name: "bios", key: "bios", default: "seabios" },
    Plain { name: "hook_script_file_id", key: "hookscript", default: "" },
    Plain { name: "hotplug", key: "hotplug", default: "" },
    Plain { name: "keyboard_layout", key: "keyboard", default: "en-us" },
    Plain { name: "kvm_arguments", key: "args", default: "" },
    Plain { name: "machine", key: "machine", default: "" },
    Plain { name: "protection", key: "protection", default: "0" },
    Plain { name: "scsi_hardware", key: "scsihw", default: "virtio-scsi-pci" },
    Plain { name: "tablet_device", key: "tablet", default: "1" },
];

/// What a new VM gets with the clone call.
const CLONED: &[Plain] = &[
    Plain { name: "name", key: "name", default: "" },
    Plain { name: "description", key: "description", default: "" },
];

impl Plain {
    fn text(&self, vm: &Value) -> Option<String> {
        match vm.get(self.name) {
            Value::Bool(truth) => Some(flag(*truth)),
            Value::Text(text) => Some(text.trim().to_string()),
            _ => None,
        }
    }

    fn is_default(&self, vm: &Value) -> bool {
        self.text(vm).is_none_or(|text| text == self.default)
    }
}

impl Settings {
    fn new(version: Version) -> Self {
        Self { version, form: Form::new(), deleted: Vec::new() }
    }

    fn set(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value {
            self.form.insert(key.to_string(), value);
        }
    }

    fn plain(&mut self, attribute: &Plain, vm: &Value) {
        match attribute.text(vm).filter(|text| !text.is_empty()) {
            Some(text) => self.set(attribute.key, Some(text)),
            None => self.deleted.push(attribute.key.into()),
        }
    }

    /// Trimmed, sorted and joined, as they stand in the state too.
    fn tags(&mut self, vm: &Value) {
        let mut tags: Vec<_> = vm.text_list("tags").into_iter().map(str::trim).collect();
        tags.sort_unstable();
        if tags.is_empty() {
            self.deleted.push("tags".into());
        } else {
            self.set("tags", Some(tags.join(";")));
        }
    }

    fn blocks(&mut self, vm: &Value, interface: &str, wanted: impl Fn(&str) -> bool) {
        type Write = fn(&mut Settings, &Value);
        let single: [(&str, Write); 6] = [
            ("agent", Self::agent),
            ("cpu", Self::cpu),
            ("memory", Self::memory),
            ("operating_system", Self::operating_system),
            ("smbios", Self::smbios),
            ("startup", Self::startup),
        ];
        for (name, write) in single {
            if let Some(block) = vm.block(name).filter(|_| wanted(name)) {
                write(self, block);
            }
        }
        if let Some(block) = vm.block("initialization").filter(|_| wanted("initialization")) {
            self.initialization(block, interface);
        }
        if let Value::List(devices) = vm.get("network_device")
            && (!devices.is_empty() || self.version >= NETWORK_IS_ATTRIBUTE)
            && wanted("network_device")
        {
            self.network(devices);
        }
        let serial = vm.list("serial_device");
        if !serial.is_empty() && wanted("serial_device") {
            for (index, port) in serial.iter().enumerate() {
                self.set(&format!("serial{index}"), port.text("device").map(str::to_string));
            }
            self.deleted.extend((serial.len()..SERIAL_DEVICES).map(|index| format!("serial{index}")));
        }
        let order = vm.text_list("boot_order");
        if !order.is_empty() && wanted("boot_order") {
            self.set("boot", Some(format!("order={}", order.join(";"))));
        }
    }

    fn agent(&mut self, agent: &Value) {
        let truth = |key: &str| flag(agent.bool(key) == Some(true));
        let kind = agent.text("type").unwrap_or("virtio");
        let text = format!("enabled={},fstrim_cloned_disks={},type={kind}", truth("enabled"), truth("trim"));
        self.set("agent", Some(text));
    }

    fn cpu(&mut self, cpu: &Value) {
        self.set("cores", cpu.number_text("cores"));
        self.set("sockets", cpu.number_text("sockets"));
        self.set("numa", Some(flag(cpu.bool("numa") == Some(true))));
        let flags = cpu.text_list("flags");
        let flags = if flags.is_empty() { String::new() } else { format!(",flags={}", flags.join(";")) };
        self.set("cpu", cpu.text("type").map(|kind| format!("{kind}{flags}")));
        let some = |key: &str| cpu.number_text(key).filter(|number| number != "0");
        self.set("cpulimit", some("limit"));
        self.set("cpuunits", some("units"));
        self.set("vcpus", some("hotplugged"));
        self.set("affinity", cpu.text("affinity").map(str::to_string));
        self.set("arch", cpu.text("architecture").map(str::to_string));
    }

    fn memory(&mut self, memory: &Value) {
        self.set("memory", memory.number_text("dedicated"));
        // 0 is no default here: it turns ballooning off.
        self.set("balloon", Some(memory.number_text("floating").unwrap_or_else(|| "0".into())));
    }

    fn operating_system(&mut self, system: &Value) {
        self.set("ostype", system.text("type").map(str::to_string));
    }

    fn smbios(&mut self, smbios: &Value) {
        let mut parts = vec!["base64=1".to_string()];
        for key in ["family", "manufacturer", "product", "serial", "sku"] {
            parts.extend(smbios.text(key).map(|text| format!("{key}={}", STANDARD.encode(text))));
        }
        parts.extend(smbios.text("uuid").map(|uuid| format!("uuid={uuid}")));
        parts.extend(smbios.text("version").map(|text| format!("version={}", STANDARD.encode(text))));
        self.set("smbios1", Some(parts.join(",")));
    }

    fn startup(&mut self, startup: &Value) {
        let mut parts = Vec::new();
        for (key, name) in [("order", "order"), ("up_delay", "up"), ("down_delay", "down")] {
            parts.extend(startup.int(key).filter(|n| *n >= 0).map(|number| format!("{name}={number}")));
        }
        if !parts.is_empty() {
            self.set("startup", Some(parts.join(",")));
        }
    }

    fn initialization(&mut self, block: &Value, interface: &str) {
        let storage = block.text("datastore_id").unwrap_or("local-lvm");
        // With the comma: the format after it is empty.
        self.set(interface, Some(format!("file={storage}:cloudinit,")));
        let mut custom = Vec::new();
        for (key, name) in [
            ("meta_data_file_id", "meta"),
            ("network_data_file_id", "network"),
            ("user_data_file_id", "user"),
            ("vendor_data_file_id", "vendor"),
        ] {
            custom.extend(block.text(key).map(|volume| format!("{name}={volume}")));
        }
        self.set("cicustom", Some(custom.join(",")).filter(|text| !text.is_empty()));
        self.set("citype", block.text("type").map(str::to_string));
        self.set("ciupgrade", block.bool("upgrade").map(flag));
        if let Some(dns) = block.block("dns") {
            let servers = dns.text_list("servers").join(" ");
            self.set("nameserver", Some(servers).filter(|text| !text.is_empty()));
            self.set("searchdomain", dns.text("domain").map(str::to_string));
        }
        for (index, config) in block.list("ip_config").iter().enumerate() {
            let mut parts = Vec::new();
            let (v4, v6) = (config.block("ipv4"), config.block("ipv6"));
            for (family, key, name) in
                [(v4, "gateway", "gw"), (v6, "gateway", "gw6"), (v4, "address", "ip"), (v6, "address", "ip6")]
            {
                parts.extend(family.and_then(|family| family.text(key)).map(|text| format!("{name}={text}")));
            }
            self.set(&format!("ipconfig{index}"), Some(parts.join(",")).filter(|text| !text.is_empty()));
        }
        if let Some(account) = block.block("user_account") {
            self.set("ciuser", account.text("username").map(str::to_string));
            self.set("cipassword", account.text("password").map(str::to_string));
            let keys = account.text_list("keys").into_iter().map(str::trim).collect::<Vec<_>>().join("\n");
            let encoded = utf8_percent_encode(&keys, KEYS).to_string();
            self.set("sshkeys", Some(encoded).filter(|text| !text.is_empty()));
        }
    }

    fn network(&mut self, devices: &[Value]) {
        for (index, device) in devices.iter().enumerate() {
            if device.bool("enabled") == Some(false) {
                self.deleted.push(format!("net{index}"));
                continue;
            }
            let mut text = format!("model={}", device.text("model").unwrap_or("virtio"));
            let mut add = |key: &str, value: Option<String>| {
                if let Some(value) = value {
                    text += &format!(",{key}={value}");
                }
            };
            let some = |key: &str| device.number_text(key).filter(|number| number != "0");
            add("bridge", device.text("bridge").map(str::to_string));
            add("firewall", device.bool("firewall").map(flag));
            add("link_down", device.bool("disconnected").filter(|down| *down).map(flag));
            add("macaddr", device.text("mac_address").map(str::to_string));
            add("mtu", some("mtu"));
            add("queues", some("queues"));
            add("rate", some("rate_limit"));
            add("tag", some("vlan_id"));
            add("trunks", device.text("trunks").map(str::to_string));
            self.set(&format!("net{index}"), Some(text));
        }
        self.deleted.extend((devices.len()..NETWORK_DEVICES).map(|index| format!("net{index}")));
    }

    fn finish(mut self) -> Form {
        if !self.deleted.is_empty() {
            self.form.insert("delete".into(), self.deleted.join(","));
        }
        self.form
    }
}
