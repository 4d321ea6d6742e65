//! The flags of `blockhost-vm-create` and their meaning.

use crate::{Common, answer, number, spaced_json};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use provisioner::host::Host;
use provisioner::operation::audited::audited;
use provisioner::operation::create::{Created, Request, VmResult, create};
use provisioner::operation::{Context, mock};
use provisioner::plan::capacity::USUAL;
use provisioner::value::allocation::Wish;
use provisioner::value::node_name::NodeName;
use provisioner::value::text::{OneLine, PlainName, StorageId, Tag, UserName};
use provisioner::value::vm_name::VmName;
use provisioner::value::vmid::Vmid;
use provisioner::value::wallet::{NftTokenId, WalletAddress};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Create a VM and print its connection details
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-create",
    version,
    styles = crate::STYLES,
    override_usage = "blockhost-vm-create [OPTIONS] <NAME>",
    after_help = "Without --apply nothing is changed; the command only shows what would be created.\n\
        With --apply the last two lines of stdout are the result, one behind BLOCKHOST_RESULT: and one bare.\n\n\
        Examples:\n  \
        blockhost-vm-create blockhost-001 --owner-wallet 0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B --expiry-days 30 --apply\n  \
        blockhost-vm-create web-1 --owner-wallet 0xAb58… --cpu 2 --memory 4096 --disk 40 --tags web --apply\n  \
        blockhost-vm-create try-1 --no-web3 --mock --apply"
)]
pub struct CreateCommand {
    /// The VM's name: DNS labels, at most 63 characters
    #[arg(value_name = "NAME", required_unless_present = "tags")]
    name: Option<VmName>,
    /// Wallet of the owner; required unless --no-web3
    #[arg(long, value_name = "ADDR")]
    owner_wallet: Option<WalletAddress>,
    /// NFT token: a decimal number or up to 64 hexadecimal digits; engines send it later by update-gecos
    #[arg(long, value_name = "ID")]
    nft_token_id: Option<NftTokenId>,
    /// Days until the VM expires and is suspended; 0: the next gc run suspends it [default: default_expiry_days of db.yaml, 30]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = |text: &str| number::<u32>(text, 0..=36_500, "a whole number of days, e.g. 30"))]
    expiry_days: Option<u32>,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = USUAL.cpus, allow_negative_numbers = true, value_parser = |text: &str| number::<u32>(text, 1..=512, "a whole number of vCPUs, e.g. 2"))]
    cpu: u32,
    /// Memory in MB
    #[arg(long, value_name = "MB", default_value_t = USUAL.memory_mb, allow_negative_numbers = true, value_parser = |text: &str| number::<u32>(text, 64..=4_194_304, "whole megabytes, e.g. 2048"))]
    memory: u32,
    /// Disk in GB
    #[arg(long, value_name = "GB", default_value_t = USUAL.disk_gb, allow_negative_numbers = true, value_parser = |text: &str| number::<u32>(text, 1..=131_072, "whole gigabytes, e.g. 20"))]
    disk: u32,
    /// Create the VM. Without this flag, only show what would be created
    #[arg(long)]
    apply: bool,
    /// Use the mock database and a mock node; the host is not touched
    #[arg(long)]
    pub mock: bool,
    /// Use this cloud-config file unchanged
    #[arg(long, value_name = "FILE")]
    cloud_init_content: Option<PathBuf>,
    /// Fill in this cloud-init template [default with wallet login: nft-auth]
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "cloud_init_content")]
    cloud_init: Option<PlainName>,
    /// Create a VM without wallet login
    #[arg(long)]
    no_web3: bool,
    /// What the VM is for, a free text
    #[arg(long, value_name = "TEXT", default_value = "")]
    purpose: OneLine,
    /// Who owns the VM, a free text
    #[arg(long, value_name = "NAME", default_value = "admin")]
    owner: OneLine,
    /// The user inside the VM
    #[arg(long, value_name = "NAME", default_value = "admin")]
    username: UserName,
    /// Proxmox tags in addition to "blockhost", separated by commas; separated by blanks only after NAME
    #[arg(long, value_name = "T", num_args = 1.., value_parser = checked_tags)]
    tags: Vec<String>,
    /// Proxmox node [default: proxmox_node of terraform.tfvars]
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// Template VM to clone [default: template_vmid of db.yaml, else 9001]
    #[arg(long, value_name = "VMID")]
    template_vmid: Option<Vmid>,
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
    /// Network mode; required if several are enabled
    #[arg(long, value_name = "NAME")]
    network_mode: Option<PlainName>,
    /// Seconds the guest agent may take to answer [default: guest_ready_timeout of db.yaml, 180]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = |text: &str| number::<u64>(text, 1..=86_400, "whole seconds, e.g. 180"))]
    guest_timeout: Option<u64>,
    /// Seconds to wait for other creates to finish
    #[arg(long, value_name = "S", default_value_t = 1800, allow_negative_numbers = true, value_parser = |text: &str| number::<u64>(text, 0..=86_400, "whole seconds, e.g. 1800"))]
    queue_timeout: u64,
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
}

impl CreateCommand {
    fn into_request(mut self) -> Result<Request, clap::Error> {
        let name = match self.name.take() {
            Some(name) => name,
            None => name_behind(&mut self.tags)
                .map_err(|why| Self::command().error(ErrorKind::MissingRequiredArgument, why))?,
        };
        let split = self.tags.iter().flat_map(|word| word.split(','));
        let tags = split.map(Tag::parse).collect::<Result<_, _>>();
        Ok(Request {
            name,
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
            tags: tags.map_err(|why| Self::command().error(ErrorKind::ValueValidation, why))?,
            node: self.node,
            template_vmid: self.template_vmid,
            disk_datastore: self.disk_datastore,
            cloudinit_datastore: self.cloudinit_datastore,
            wish: Wish { vmid: self.vmid, ipv4: self.ip, ipv6: self.ipv6 },
            network_mode: self.network_mode,
            guest_timeout: self.guest_timeout.map(Duration::from_secs),
            queue_timeout: Duration::from_secs(self.queue_timeout),
        })
    }

    /// The files that the caller names: the one of `--cloud-init-content`.
    pub fn files(&self) -> &[PathBuf] {
        self.cloud_init_content.as_slice()
    }

    /// Runs the command.
    pub fn run(self, host: &Host) -> anyhow::Result<()> {
        let mock = self.mock;
        let request = self.into_request().unwrap_or_else(|wrong_usage| wrong_usage.exit());
        crate::about(&request.name, run(host, mock, &request))
    }
}

fn run(host: &Host, mock: bool, request: &Request) -> anyhow::Result<()> {
    let ctx = Context::open(host, mock)?;
    let done = match (mock, request.apply) {
        // A mock VM leaves no audit trail, and no copy of its record next to a real VM's files.
        (true, _) => mock::create(&ctx, request, &mut report)?,
        (false, true) => audited(&ctx, "create", &request.name, || create(&ctx, request, &mut report))?,
        (false, false) => create(&ctx, request, &mut report)?,
    };
    match done {
        Created::Planned(text) => answer(&text),
        Created::Reported(_) => Ok(()),
    }
}

/// Checks one argument of `--tags`: a single tag, or several separated by commas. NAME may be among the arguments; its
/// form makes it a valid tag.
fn checked_tags(word: &str) -> Result<String, String> {
    word.split(',').try_for_each(|tag| Tag::parse(tag).map(drop)).map_err(|refused| refused.to_string())?;
    Ok(word.to_string())
}

/// Returns the NAME that the greedy `--tags` swallowed: the argument after a comma-separated list. Where tags are
/// separated by blanks, the last one may just as well be a tag whose NAME was forgotten, and a paid VM would get the
/// wrong name, so that is refused.
fn name_behind(tags: &mut Vec<String>) -> Result<VmName, String> {
    match tags.as_slice() {
        [.., list, last] if list.contains(',') && !last.contains(',') => {
            let name = VmName::parse(last).map_err(|refused| refused.to_string())?;
            tags.pop();
            Ok(name)
        }
        _ => Err("NAME is missing: --tags takes every word after it; write NAME first, or --tags=a,b NAME"
            .to_string()),
    }
}

/// One engine searches for the prefix, three take the last line that begins with `{`.
fn report(result: &VmResult) -> anyhow::Result<()> {
    answer(&format!("BLOCKHOST_RESULT: {0}\n{0}\n", spaced_json::to_string(result)?))
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: CreateCommand = crate::parse();
    let host = crate::prepare(&command.common, command.mock, command.files());
    crate::end(host.and_then(|host| command.run(&host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Result<(String, Vec<String>), ErrorKind> {
        let words = ["blockhost-vm-create"].iter().chain(words);
        let request = CreateCommand::try_parse_from(words).and_then(CreateCommand::into_request);
        let request = request.map_err(|error| error.kind())?;
        Ok((request.name.to_string(), request.tags.iter().map(|tag| tag.as_str().to_string()).collect()))
    }

    #[test]
    fn tags_are_separated_by_commas_or_blanks_and_never_swallow_the_name() {
        let wanted = Ok(("Web-1".to_string(), vec!["a".to_string(), "b".to_string()]));
        for words in [
            ["Web-1", "--tags", "a", "b"].as_slice(),
            &["Web-1", "--tags", "a,b"],
            &["Web-1", "--tags", "a", "--tags", "b"],
            &["--tags", "a,b", "Web-1"],
            &["--tags=a,b", "Web-1"],
            &["--tags", "a", "b", "--no-web3", "Web-1"],
        ] {
            assert_eq!(asked(words), wanted, "{words:?}");
        }
        // A forgotten NAME is not guessed from the tags.
        for words in [["--tags", "a"].as_slice(), &["--tags", "a,b"], &["--tags", "a", "web-1"], &["--apply"]]
        {
            assert_eq!(asked(words), Err(ErrorKind::MissingRequiredArgument), "{words:?}");
        }
        assert_eq!(asked(&["web-1", "--tags", "a,"]), Err(ErrorKind::ValueValidation));
        assert_eq!(asked(&["web-1", "--expiry-days", "-1"]), Err(ErrorKind::ValueValidation));
    }
}
