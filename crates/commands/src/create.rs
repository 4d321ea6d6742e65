//! The flags of `blockhost-vm-create` and their meaning.

use crate::{Common, answer};
use clap::Parser;
use provisioner::host::Host;
use provisioner::operation::Context;
use provisioner::operation::audited::audited;
use provisioner::operation::create::{Created, Request, VmResult, create};
use provisioner::plan::allocation::Wish;
use provisioner::value::node_name::NodeName;
use provisioner::value::text::{OneLine, PlainName, StorageId, Tag, UserName};
use provisioner::value::vm_name::VmName;
use provisioner::value::vmid::Vmid;
use provisioner::value::wallet::{NftTokenId, WalletAddress};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Create a VM: VMID and addresses, cloud-init, terraform, wait for the guest, database, network
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-create",
    version,
    styles = crate::STYLES,
    after_help = "Without --apply nothing is taken or written; it shows what would be created.\n\
        With --apply the last two lines of stdout are the result, one behind BLOCKHOST_RESULT: and one bare.\n\n\
        Examples:\n  \
        blockhost-vm-create blockhost-001 --owner-wallet 0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B --expiry-days 30 --apply\n  \
        blockhost-vm-create web-1 --owner-wallet 0xAb58… --cpu 2 --memory 4096 --disk 40 --tags web --apply\n  \
        blockhost-vm-create try-1 --no-web3 --mock --apply"
)]
pub struct CreateCommand {
    /// The VM's name: DNS labels, at most 63 characters
    #[arg(value_name = "NAME")]
    name: VmName,
    /// Wallet of the owner; required unless --no-web3
    #[arg(long, value_name = "ADDR")]
    owner_wallet: Option<WalletAddress>,
    /// NFT token: a decimal number or up to 64 hexadecimal digits; engines send it later by update-gecos
    #[arg(long, value_name = "ID")]
    nft_token_id: Option<NftTokenId>,
    /// Days until the VM is suspended [default: default_expiry_days of db.yaml, 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=36500))]
    expiry_days: Option<u32>,
    /// vCPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=512))]
    cpu: u32,
    /// Memory in MB
    #[arg(long, value_name = "MB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..=4_194_304))]
    memory: u32,
    /// Disk in GB
    #[arg(long, value_name = "GB", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=131_072))]
    disk: u32,
    /// Do it
    #[arg(long)]
    apply: bool,
    /// Use the mock database and a mock node; the host is not touched
    #[arg(long)]
    pub mock: bool,
    /// A cloud-config file, used as it is
    #[arg(long, value_name = "FILE")]
    cloud_init_content: Option<PathBuf>,
    /// A cloud-init template, filled in [default with wallet login: nft-auth]
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "cloud_init_content")]
    cloud_init: Option<PlainName>,
    /// No wallet login
    #[arg(long)]
    no_web3: bool,
    /// What the VM is for, a free text
    #[arg(long, value_name = "TEXT", default_value = "")]
    purpose: OneLine,
    /// Its owner, a free text
    #[arg(long, value_name = "NAME", default_value = "admin")]
    owner: OneLine,
    /// The user inside the VM
    #[arg(long, value_name = "NAME", default_value = "admin")]
    username: UserName,
    /// Proxmox tags, beside "blockhost"
    #[arg(long, value_name = "T", num_args = 1..)]
    tags: Vec<Tag>,
    /// Proxmox node [default: proxmox_node of terraform.tfvars]
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// Template VM to clone
    #[arg(long, value_name = "VMID", default_value = "9001")]
    template_vmid: Vmid,
    /// Storage of the disk [default: as terraform.tfvars says]
    #[arg(long, value_name = "DS")]
    disk_datastore: Option<StorageId>,
    /// Storage of the cloud-init drive [default: as terraform.tfvars says]
    #[arg(long, value_name = "DS")]
    cloudinit_datastore: Option<StorageId>,
    /// IPv4 address [default: the lowest free one of ip_pool]
    #[arg(long, value_name = "A")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address [default: the lowest free one of the broker's prefix]
    #[arg(long, value_name = "A")]
    ipv6: Option<Ipv6Addr>,
    /// VMID [default: the next free one of vmid_range]
    #[arg(long, value_name = "N")]
    vmid: Option<Vmid>,
    /// Network mode, where several are enabled
    #[arg(long, value_name = "NAME")]
    network_mode: Option<PlainName>,
    /// Seconds the guest agent may take to answer [default: guest_ready_timeout of db.yaml, 180]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86400))]
    guest_timeout: Option<u64>,
    /// Seconds to wait for other creates
    #[arg(long, value_name = "S", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(0..=86400))]
    queue_timeout: u64,
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
}

impl CreateCommand {
    fn into_request(self) -> Request {
        Request {
            name: self.name,
            owner_wallet: self.owner_wallet,
            nft_token_id: self.nft_token_id,
            expiry_days: self.expiry_days,
            cpu: self.cpu,
            memory_mb: self.memory,
            disk_gb: self.disk,
            apply: self.apply,
            cloud_init_content: self.cloud_init_content,
            cloud_init_template: self.cloud_init,
            no_web3: self.no_web3,
            purpose: self.purpose,
            owner: self.owner,
            username: self.username,
            tags: self.tags,
            node: self.node,
            template_vmid: self.template_vmid,
            disk_datastore: self.disk_datastore,
            cloudinit_datastore: self.cloudinit_datastore,
            wish: Wish { vmid: self.vmid, ipv4: self.ip, ipv6: self.ipv6 },
            network_mode: self.network_mode,
            guest_timeout: self.guest_timeout.map(Duration::from_secs),
            queue_timeout: Duration::from_secs(self.queue_timeout),
        }
    }

    /// Files that the caller names.
    pub fn files(&self) -> &[PathBuf] {
        self.cloud_init_content.as_slice()
    }

    /// Runs the command.
    pub fn run(self, host: &Host) -> anyhow::Result<()> {
        let ctx = Context::open(host, self.mock)?;
        let request = self.into_request();
        let act = || create(&ctx, &request, &mut report);
        match if request.apply { audited(&ctx, "create", &request.name, act)? } else { act()? } {
            Created::Planned(text) => answer(&text),
            Created::Reported(_) => Ok(()),
        }
    }
}

/// One engine looks for the prefix, three take the last line that begins with `{`.
fn report(result: &VmResult) -> anyhow::Result<()> {
    answer(&format!("BLOCKHOST_RESULT: {0}\n{0}\n", spaced(&result.json)))
}

/// JSON with blanks after `:` and `,`, as the older package's Python printed it.
fn spaced(value: &serde_json::Value) -> String {
    let Some(object) = value.as_object() else {
        return value.to_string();
    };
    let pairs: Vec<String> =
        object.iter().map(|(k, v)| format!("{}: {v}", serde_json::Value::from(k.as_str()))).collect();
    format!("{{{}}}", pairs.join(", "))
}
