//! The files of a lab: what installer, wizard and the other packages leave on a host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::provider;
use crate::model::{NodeOptions, Timing};
use crate::node::guest_agent::STAND_INS;

/// A host's settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub node: NodeOptions,
    /// The provider's version.
    pub provider: String,
    /// `terraform init` done.
    pub terraform: bool,
    /// An IPv6 allocation of the broker.
    pub broker: bool,
    /// Names of the enabled network modes; `None` = no such folder.
    pub network_modes: Option<Vec<String>>,
    /// Last octets.
    pub ip_pool: (u8, u8),
    pub vmid_range: (u32, u32),
    pub wallet_pattern: Option<String>,
    /// More lines of db.yaml.
    pub db_yaml: String,
    /// An empty `vms.json`.
    pub database: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            node: NodeOptions::default(),
            provider: "0.93.0".into(),
            terraform: true,
            broker: true,
            network_modes: Some(vec!["broker".into()]),
            ip_pool: (200, 250),
            vmid_range: (100, 999),
            wallet_pattern: None,
            db_yaml: String::new(),
            database: true,
        }
    }
}

/// The node's tools on the lab's PATH.
const TOOLS: &[&str] =
    &["qm", "pvesm", "pvesh", "pveum", "ip", "bridge", "tc", "nft", "logger", "virt-customize"];

/// The product's program that hook scripts run.
const GUARD: &str = "blockhost-provisioner-guard";

/// What takes the place of ssh: the words after the host go to a shell, as one line, in an environment of its own. The
/// file `ssh-log` has a line for each call; while `ssh-refuses` is there, nobody comes in.
const SSH: &str = r#"#!/bin/sh
own=@DIR@
while [ $# -gt 0 ]; do
    case $1 in
    -o | -p | -l | -i | -F) shift 2 ;;
    --) shift; break ;;
    -*) shift ;;
    *) break ;;
    esac
done
host=$1
shift
printf '%s: %s\n' "$host" "$*" >>"$own/ssh-log"
if [ -e "$own/ssh-refuses" ]; then
    echo "ssh: connect to host $host port 22: Connection refused" >&2
    exit 255
fi
exec env -i PATH="$own/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME="$own/home" LAB_DIR="$own" /bin/sh -c "$*"
"#;

const TEMPLATES: &[(&str, &str)] = &[
    ("nft-auth", include_str!("templates/nft-auth.yaml")),
    ("webserver", include_str!("templates/webserver.yaml")),
    ("devbox", include_str!("templates/devbox.yaml")),
];

impl Setup {
    /// Writes everything that does not depend on the API's port.
    pub fn write(&self, dir: &Path, target: &Path, program: &Path) -> anyhow::Result<()> {
        for folder in [
            "node",
            "etc/blockhost",
            "var/terraform",
            "run",
            "share/cloud-init/templates",
            "bin",
            "guest-bin",
            "home",
        ] {
            fs::create_dir_all(dir.join(folder)).with_context(|| format!("failed to make {folder}"))?;
        }
        write(&dir.join("node/options.json"), &serde_json::to_string_pretty(&self.node)?, 0o600)?;
        write(&dir.join("run/setup.json"), &serde_json::to_string_pretty(self)?, 0o600)?;
        self.write_programs(dir, target, program)?;
        self.write_configuration(dir)?;
        for (name, text) in TEMPLATES {
            write(&dir.join(format!("share/cloud-init/templates/{name}.yaml")), text, 0o644)?;
        }
        write(&dir.join("tf.rc"), &provider::cli_config(&dir.join("mirror")), 0o644)?;
        if self.terraform {
            provider::install(dir, &dir.join("var/terraform"), target, &self.provider)?;
        }
        Ok(())
    }

    fn write_programs(&self, dir: &Path, target: &Path, program: &Path) -> anyhow::Result<()> {
        // Hook scripts find it on the node's own PATH. One that is not built is one that is not installed.
        let _ = std::os::unix::fs::symlink(target.join(GUARD), dir.join("bin").join(GUARD));
        let (program, own) = (quoted(program), quoted(dir));
        for tool in TOOLS {
            let text = format!("#!/bin/sh\nexec {program} tool --dir {own} {tool} \"$@\"\n");
            write(&dir.join("bin").join(tool), &text, 0o755)?;
        }
        write(&dir.join("bin/ssh"), &SSH.replace("@DIR@", &own), 0o755)?;
        write(&dir.join("bin/.in-guest"), &format!("#!/bin/sh\nexec {program} in-guest \"$@\"\n"), 0o755)?;
        for name in STAND_INS {
            let text = format!("#!/bin/sh\nexec {program} guest-tool {name} \"$@\"\n");
            write(&dir.join("guest-bin").join(name), &text, 0o755)?;
        }
        Ok(())
    }

    fn write_configuration(&self, dir: &Path) -> anyhow::Result<()> {
        let etc = dir.join("etc/blockhost");
        write(&etc.join("db.yaml"), &self.db_yaml(dir), 0o640)?;
        write(&etc.join("web3-defaults.yaml"), "auth:\n  otp_length: 6\n  otp_ttl_seconds: 300\n", 0o644)?;
        let token = format!("{}={}", self.node.token_id, self.node.token_secret);
        write(&etc.join("pve-token"), &format!("{token}\n"), 0o640)?;
        if self.broker {
            let broker = json!({"prefix": "2a11:6c7:f04:276::/120", "gateway": "2a11:6c7:f04:276::1",
                "dns_zone": "vm.blockhost.example"});
            write(&etc.join("broker-allocation.json"), &format!("{broker:#}\n"), 0o644)?;
        }
        if let Some(modes) = &self.network_modes {
            let folder = etc.join("network-modes.enabled");
            fs::create_dir_all(&folder)?;
            for mode in modes {
                write(&folder.join(format!("{mode}.json")), &format!("{}\n", json!({"name": mode})), 0o644)?;
            }
        }
        if let Some(pattern) = &self.wallet_pattern {
            let engine = json!({"constraints": {"address_pattern": pattern}});
            write(&dir.join("share/engine.json"), &format!("{engine:#}\n"), 0o644)?;
        }
        if self.database {
            let empty =
                json!({"vms": {}, "next_vmid": self.vmid_range.0, "allocated_ips": [], "allocated_ipv6": []});
            write(&dir.join("var/vms.json"), &format!("{empty:#}\n"), 0o660)?;
        }
        let terraform = dir.join("var/terraform");
        let template = self.node.template.unwrap_or(9001);
        let (start, end) = self.vmid_range;
        let tfvars = format!(
            "proxmox_api_token = \"{token}\"\nproxmox_node = \"{}\"\nproxmox_storage = \"local-lvm\"\n\
             proxmox_bridge = \"vmbr0\"\ntemplate_vmid = {template}\nvmid_start = {start}\nvmid_end = {end}\n",
            self.node.node
        );
        write(&terraform.join("terraform.tfvars"), &tfvars, 0o640)?;
        let variables = json!({"variable": {
            "proxmox_api_token": {"type": "string", "sensitive": true},
            "proxmox_node": {"type": "string", "default": self.node.node},
            "proxmox_storage": {"type": "string", "default": "local-lvm"},
            "proxmox_bridge": {"type": "string", "default": "vmbr0"},
            "template_vmid": {"type": "number", "default": template},
            "vmid_start": {"type": "number", "default": start},
            "vmid_end": {"type": "number", "default": end},
        }});
        write(&terraform.join("variables.tf.json"), &format!("{variables:#}\n"), 0o644)
    }

    fn db_yaml(&self, dir: &Path) -> String {
        let (first, last) = self.ip_pool;
        let (start, end) = self.vmid_range;
        let own = dir.display();
        let mut text = format!(
            "db_file: {own}/var/vms.json\nterraform_dir: {own}/var/terraform\nbridge: vmbr0\ndefault_expiry_days: 30\n\
             gc_grace_days: 7\nvmid_range:\n  start: {start}\n  end: {end}\nip_pool:\n  network: 192.168.122.0/24\n  \
             start: {first}\n  end: {last}\n  gateway: 192.168.122.1\nipv6_pool:\n  start: 2\n  end: 254\n"
        );
        if !self.db_yaml.is_empty() {
            text.push_str(&self.db_yaml);
            if !self.db_yaml.ends_with('\n') {
                text.push('\n');
            }
        }
        text
    }

    /// Writes what depends on the API's port.
    pub fn write_endpoint(&self, dir: &Path, endpoint: &str) -> anyhow::Result<()> {
        let mut file = provider::required(&self.provider);
        file["provider"] = json!({"proxmox": {"endpoint": endpoint, "api_token": "${var.proxmox_api_token}",
            "insecure": true}});
        write(&dir.join("var/terraform/provider.tf.json"), &format!("{file:#}\n"), 0o644)?;
        write(&dir.join("run/endpoint"), endpoint, 0o644)
    }
}

/// The environment of a command in a lab; nothing else of the caller's but PATH reaches it.
pub(crate) fn environment(dir: &Path, target: &Path, setup: &Setup) -> Vec<(String, String)> {
    let below = |name: &str| dir.join(name).display().to_string();
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into());
    let mut list = vec![
        ("BLOCKHOST_CONFIG_DIR".to_owned(), below("etc/blockhost")),
        ("BLOCKHOST_STATE_DIR".into(), below("var")),
        ("BLOCKHOST_RUN_DIR".into(), below("run")),
        ("BLOCKHOST_SHARE_DIR".into(), below("share")),
        ("PATH".into(), format!("{}:{}:{path}", below("bin"), target.display())),
        ("HOME".into(), below("home")),
        ("TF_CLI_CONFIG_FILE".into(), below("tf.rc")),
        ("LAB_DIR".into(), dir.display().to_string()),
    ];
    if setup.node.timing == Timing::instant() || setup.node.timing.clone < 1_000 {
        // The real provider looks at its tasks once a second.
        list.push(("LAB_POLL_MS".into(), "20".into()));
    }
    list
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let failed = || format!("failed to write {}", path.display());
    fs::write(path, text).with_context(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(failed)
}

/// A path as one word of the shell.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
