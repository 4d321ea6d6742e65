//! A new VM on paper: from what was asked for, what is known of the node, and what was drawn for this one VM to every
//! text that is then written somewhere (`facts/contract/commands.md`, `facts/contract/database.md#form`).
//!
//! Nothing is read or written here. What cannot work is known before anything is taken: create makes a plan with made-up
//! addresses first ([`check`]).

use super::cloud_init::{self, BadCloudInit, Variables};
use super::terraform_json::{self, FirstBoot, VmPlan};
use super::vm_record::NewVm;
use crate::value::address::{Ipv4Pool, Ipv6Pool};
use crate::value::allocation::{Allocation, Wish};
use crate::value::node_name::NodeName;
use crate::value::text::{BridgeName, OneLine, PlainName, StorageId, Tag, UserName};
use crate::value::token::Secret;
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use crate::value::vmid::Vmid;
use crate::value::wallet::{NftTokenId, WalletAddress};
use serde::Serialize;
use serde_json::Value;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// What was asked for. Every value is checked already.
#[derive(Debug, Clone)]
pub struct Request {
    /// The VM.
    pub name: VmName,
    /// The owner's wallet; required unless `no_web3`.
    pub owner_wallet: Option<WalletAddress>,
    /// The token, when it is known already.
    pub nft_token_id: Option<NftTokenId>,
    /// Days that were paid for; `None`: `default_expiry_days`.
    pub expiry_days: Option<u32>,
    /// vCPUs.
    pub cpu: u32,
    /// Memory in MB.
    pub memory_mb: u32,
    /// Disk in GB.
    pub disk_gb: u32,
    /// Do it; otherwise only show what would be done.
    pub apply: bool,
    /// A cloud-config to be used as it is.
    pub cloud_init_content: Option<PathBuf>,
    /// A template to be filled in.
    pub cloud_init_template: Option<PlainName>,
    /// No wallet login: without a template Proxmox makes the account.
    pub no_web3: bool,
    /// Free text.
    pub purpose: OneLine,
    /// Free text.
    pub owner: OneLine,
    /// The guest's user.
    pub username: UserName,
    /// Proxmox tags.
    pub tags: Vec<Tag>,
    /// Node, where not the configured one.
    pub node: Option<NodeName>,
    /// Template to clone; `None`: that of db.yaml.
    pub template_vmid: Option<Vmid>,
    /// Storage of the disk.
    pub disk_datastore: Option<StorageId>,
    /// Storage of the cloud-init drive.
    pub cloudinit_datastore: Option<StorageId>,
    /// VMID and addresses asked for.
    pub wish: Wish,
    /// One of several network modes.
    pub network_mode: Option<PlainName>,
    /// How long the guest may take; `None`: `guest_ready_timeout`.
    pub guest_timeout: Option<Duration>,
    /// How long other creates are waited for.
    pub queue_timeout: Duration,
}

/// What makes a guest's user-data.
#[derive(Debug, Clone)]
pub enum UserData {
    /// Proxmox: an account and its keys.
    Proxmox,
    /// The caller's own cloud-config, as it is.
    AsIs(Secret),
    /// A template that is filled in.
    Template {
        /// Its name, for messages.
        name: PlainName,
        /// Its text, with `$VARIABLES`.
        text: String,
    },
}

/// What db.yaml, terraform's variables and the host say of every VM that is made now; the request's own wishes for storages,
/// template and days have taken their places. Read and checked before anything is taken.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The node VMs are made on.
    pub node: NodeName,
    /// The template that is cloned.
    pub template: Vmid,
    /// Whether the template's disk is copied whole.
    pub full_clone: bool,
    /// QEMU cpu type.
    pub cpu_type: String,
    /// Storage of the disk.
    pub disk_datastore: StorageId,
    /// Storage of the cloud-init drive.
    pub cloudinit_datastore: StorageId,
    /// Storage of the cloud-init snippets.
    pub snippet_storage: StorageId,
    /// Proxmox pool of the VMs.
    pub pool: Option<PlainName>,
    /// Bridge of the guests.
    pub bridge: BridgeName,
    /// The IPv4 addresses of VMs.
    pub ipv4_pool: Ipv4Pool,
    /// The IPv6 addresses of VMs, where there is a broker.
    pub ipv6_pool: Option<Ipv6Pool>,
    /// The broker's DNS zone.
    pub dns_zone: Option<String>,
    /// The guests' name servers.
    pub dns_servers: Vec<IpAddr>,
    /// Network plugins' mode; absent on older hosts.
    pub network_mode: Option<String>,
    /// Whether VMs may send from their own addresses alone.
    pub anti_spoofing: bool,
    /// What makes the user-data.
    pub user_data: UserData,
    /// Public keys for the guest's user.
    pub ssh_keys: Vec<String>,
    /// Length of one-time passwords, and their life in seconds.
    pub one_time_password: (u64, u64),
    /// Days until the VM expires.
    pub expiry_days: u32,
}

/// What this one VM alone has.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// Its VMID and addresses.
    pub allocation: Allocation,
    /// Its identity.
    pub smbios_uuid: Uuid,
    /// The guest's signing key: 64 hexadecimal digits.
    pub secret_key: Secret,
}

impl Drawn {
    /// Made-up ones.
    fn example(request: &Request, facts: &Facts, vmid: Vmid) -> Drawn {
        Drawn {
            allocation: Allocation {
                vmid,
                ipv4: request.wish.ipv4.unwrap_or(facts.ipv4_pool.start),
                ipv6: facts.ipv6_pool.map(|pool| request.wish.ipv6.unwrap_or(pool.gateway)),
            },
            smbios_uuid: Uuid::nil(),
            secret_key: Secret::new("5a".repeat(32)),
        }
    }
}

/// A template that, filled in, is no cloud-config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cloud-init template {template} cannot be used for VM {vm}: {why}")]
pub struct UnusableTemplate {
    /// The template.
    pub template: PlainName,
    /// The VM.
    pub vm: VmName,
    /// What is wrong with it.
    pub why: BadCloudInit,
}

/// All that is written for a new VM.
#[derive(Debug, Clone)]
pub struct CreatePlan<'a> {
    /// User-data of ours; `None` where Proxmox makes it.
    pub user_data: Option<Secret>,
    /// Meta-data: the instance-id (H37, H61).
    pub meta_data: Secret,
    /// The VM's terraform file.
    pub terraform_file: String,
    /// Its record, but for the time, which is that of the registration.
    pub record: NewVm<'a>,
    /// What the caller is told.
    pub result: VmResult,
}

impl<'a> CreatePlan<'a> {
    /// Makes the plan of one VM.
    pub fn new(request: &'a Request, facts: &'a Facts, drawn: &Drawn) -> Result<Self, UnusableTemplate> {
        Ok(CreatePlan {
            user_data: user_data(request, facts, drawn)?,
            meta_data: Secret::new(cloud_init::meta_data(&request.name, drawn.smbios_uuid)),
            terraform_file: terraform_file(request, facts, drawn),
            record: record(request, facts, drawn),
            result: VmResult::new(request, drawn.allocation),
        })
    }
}

/// Whether a plan can be made at all: one is, with made-up addresses. `vmid` is any.
pub fn check(request: &Request, facts: &Facts, vmid: Vmid) -> Result<(), UnusableTemplate> {
    CreatePlan::new(request, facts, &Drawn::example(request, facts, vmid)).map(drop)
}

fn user_data(request: &Request, facts: &Facts, drawn: &Drawn) -> Result<Option<Secret>, UnusableTemplate> {
    let (template, text) = match &facts.user_data {
        UserData::Proxmox => return Ok(None),
        UserData::AsIs(text) => return Ok(Some(text.clone())),
        UserData::Template { name, text } => (name, text),
    };
    let variables = Variables {
        name: &request.name,
        addresses: drawn.allocation,
        dns_zone: facts.dns_zone.as_deref(),
        username: &request.username,
        wallet: request.owner_wallet.as_ref(),
        nft_token_id: request.nft_token_id.as_ref(),
        one_time_password: facts.one_time_password,
        secret_key: drawn.secret_key.reveal(),
        ssh_keys: &facts.ssh_keys,
    };
    match cloud_init::render_checked(text, &variables) {
        Ok(text) => Ok(Some(Secret::new(text))),
        Err(why) => Err(UnusableTemplate { template: template.clone(), vm: request.name.clone(), why }),
    }
}

fn terraform_file(request: &Request, facts: &Facts, drawn: &Drawn) -> String {
    let first_boot = match facts.user_data {
        UserData::Proxmox => FirstBoot::Account {
            username: &request.username,
            keys: &facts.ssh_keys,
            snippets: &facts.snippet_storage,
        },
        UserData::AsIs(_) | UserData::Template { .. } => FirstBoot::Snippets(&facts.snippet_storage),
    };
    terraform_json::render(&VmPlan {
        name: &request.name,
        smbios_uuid: drawn.smbios_uuid,
        allocation: drawn.allocation,
        node: &facts.node,
        template: facts.template,
        full_clone: facts.full_clone,
        cores: request.cpu,
        memory_mb: request.memory_mb,
        disk_gb: request.disk_gb,
        cpu_type: &facts.cpu_type,
        disk_datastore: &facts.disk_datastore,
        cloudinit_datastore: &facts.cloudinit_datastore,
        bridge: &facts.bridge,
        pool: facts.pool.as_ref(),
        tags: &request.tags,
        ipv4_network: (facts.ipv4_pool.network.prefix(), facts.ipv4_pool.gateway),
        ipv6_network: facts.ipv6_pool.map(|pool| (pool.prefix.length(), pool.gateway)),
        dns_servers: &facts.dns_servers,
        first_boot,
    })
}

/// The record of the new VM, for those who write nothing else of it.
pub fn record<'a>(request: &'a Request, facts: &'a Facts, drawn: &Drawn) -> NewVm<'a> {
    NewVm {
        name: &request.name,
        allocation: drawn.allocation,
        expiry_days: facts.expiry_days,
        owner: &request.owner,
        purpose: &request.purpose,
        wallet: request.owner_wallet.as_ref(),
        username: &request.username,
        network_mode: facts.network_mode.as_deref(),
        smbios_uuid: Some(drawn.smbios_uuid),
        nft_token_id: request.nft_token_id.as_ref(),
        anti_spoofing: facts.anti_spoofing,
    }
}

/// What the caller is told: the result line. Names and order of the seven keys are the contract's
/// (`facts/contract/commands.md`); engines read them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VmResult {
    /// Always `ok`.
    status: &'static str,
    vm_name: String,
    /// Empty where an older record has none.
    ip: String,
    ipv6: Option<Ipv6Addr>,
    vmid: u32,
    /// A number, a string for a hexadecimal token, or `null`.
    nft_token_id: Value,
    username: String,
}

impl VmResult {
    /// Of a VM that is made now.
    pub fn new(request: &Request, allocation: Allocation) -> VmResult {
        VmResult {
            status: "ok",
            vm_name: request.name.to_string(),
            ip: allocation.ipv4.to_string(),
            ipv6: allocation.ipv6,
            vmid: allocation.vmid.get(),
            nft_token_id: request.nft_token_id.as_ref().map_or(Value::Null, NftTokenId::to_json),
            username: request.username.to_string(),
        }
    }

    /// Of a VM that was made before and never reported.
    pub fn of_record(record: &VmRecord) -> VmResult {
        VmResult {
            status: "ok",
            vm_name: record.name.to_string(),
            ip: record.ipv4.map(|address| address.to_string()).unwrap_or_default(),
            ipv6: record.ipv6,
            vmid: record.vmid.get(),
            nft_token_id: record.nft_token_id.clone().unwrap_or(Value::Null),
            username: record.username.clone().unwrap_or_else(|| "admin".to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::vm_record::fields;
    use crate::value::address::{Ipv4Network, Ipv6Prefix};
    use crate::value::field_names::FieldNames;
    use serde_json::json;

    fn request() -> Request {
        Request {
            name: VmName::parse("web-1").unwrap(),
            owner_wallet: WalletAddress::parse("0xAb58").ok(),
            nft_token_id: None,
            expiry_days: Some(7),
            cpu: 2,
            memory_mb: 2048,
            disk_gb: 20,
            apply: true,
            cloud_init_content: None,
            cloud_init_template: None,
            no_web3: false,
            purpose: OneLine::parse("a test").unwrap(),
            owner: OneLine::parse("somebody").unwrap(),
            username: UserName::parse("ann").unwrap(),
            tags: vec![Tag::parse("web").unwrap()],
            node: None,
            template_vmid: None,
            disk_datastore: None,
            cloudinit_datastore: None,
            wish: Wish::default(),
            network_mode: None,
            guest_timeout: None,
            queue_timeout: Duration::from_secs(1),
        }
    }

    const TEMPLATE: &str =
        "#cloud-config\nhostname: $VM_NAME\nip: \"$VM_IP $VM_IPV6\"\nkey: \"$SECRET_KEY\"\n";

    fn template(text: &str) -> UserData {
        UserData::Template { name: PlainName::parse("nft-auth").unwrap(), text: text.to_string() }
    }

    fn facts() -> Facts {
        let network = Ipv4Network::parse("192.0.2.0/24").unwrap();
        let prefix = Ipv6Prefix::parse("2001:db8::/120").unwrap();
        let storage = |name: &str| StorageId::parse(name).unwrap();
        Facts {
            node: NodeName::parse("pve").unwrap(),
            template: Vmid::new(9001).unwrap(),
            full_clone: true,
            cpu_type: "host".into(),
            disk_datastore: storage("tank"),
            cloudinit_datastore: storage("drives"),
            snippet_storage: storage("local"),
            pool: PlainName::parse("blockhost").ok(),
            bridge: BridgeName::parse("vmbr7").unwrap(),
            ipv4_pool: Ipv4Pool {
                network,
                start: network.pool_end("10").unwrap(),
                end: network.pool_end("20").unwrap(),
                gateway: network.pool_end("1").unwrap(),
            },
            ipv6_pool: Some(Ipv6Pool { prefix, start: 2, end: 254, gateway: prefix.at(1).unwrap() }),
            dns_zone: Some("vm.example".into()),
            dns_servers: vec!["192.0.2.53".parse().unwrap()],
            network_mode: Some("nat".into()),
            anti_spoofing: true,
            user_data: template(TEMPLATE),
            ssh_keys: vec!["ssh-ed25519 AAAA".into()],
            one_time_password: (6, 300),
            expiry_days: 7,
        }
    }

    fn drawn(ipv6: Option<&str>) -> Drawn {
        Drawn {
            allocation: Allocation {
                vmid: Vmid::new(101).unwrap(),
                ipv4: "192.0.2.10".parse().unwrap(),
                ipv6: ipv6.map(|text| text.parse().unwrap()),
            },
            smbios_uuid: Uuid::from_u128(7),
            secret_key: Secret::new("c0ffee"),
        }
    }

    /// The resource in a plan's terraform file.
    fn resource(plan: &CreatePlan<'_>) -> Value {
        let file: Value = serde_json::from_str(&plan.terraform_file).unwrap();
        file["resource"]["proxmox_virtual_environment_vm"]["web_1"].clone()
    }

    #[test]
    fn every_text_is_about_the_same_vm() {
        let (request, facts) = (request(), facts());
        let plan = CreatePlan::new(&request, &facts, &drawn(Some("2001:db8::10"))).unwrap();
        assert_eq!(
            plan.user_data.as_ref().unwrap().reveal(),
            "#cloud-config\nhostname: web-1\nip: \"192.0.2.10 2001:db8::10\"\nkey: \"c0ffee\"\n"
        );
        let uuid = "00000000-0000-0000-0000-000000000007";
        assert!(plan.meta_data.reveal().contains(uuid), "{}", plan.meta_data.reveal());
        let vm = resource(&plan);
        for (key, value) in [
            ("/smbios/uuid", json!(uuid)),
            ("/vm_id", json!(101)),
            ("/node_name", json!("pve")),
            ("/pool_id", json!("blockhost")),
            ("/clone/vm_id", json!(9001)),
            ("/clone/full", json!(true)),
            ("/cpu", json!({"cores": 2, "sockets": 1, "type": "host"})),
            ("/memory/dedicated", json!(2048)),
            ("/disk/0/size", json!(20)),
            ("/disk/0/datastore_id", json!("tank")),
            ("/network_device/0/bridge", json!("vmbr7")),
            ("/initialization/datastore_id", json!("drives")),
            ("/initialization/ip_config/0/ipv4", json!({"address": "192.0.2.10/24", "gateway": "192.0.2.1"})),
            (
                "/initialization/ip_config/0/ipv6",
                json!({"address": "2001:db8::10/120", "gateway": "2001:db8::1"}),
            ),
            ("/initialization/dns/servers", json!(["192.0.2.53"])),
            ("/initialization/user_data_file_id", json!("local:snippets/blockhost-web-1-user.yaml")),
        ] {
            assert_eq!(vm.pointer(key), Some(&value), "{key}");
        }
        let now = "2026-11-27T10:00:00Z".parse().unwrap();
        let record: serde_json::Map<String, Value> =
            fields(&plan.record, now, &FieldNames::default()).into_iter().collect();
        for (key, value) in [
            ("vm_name", json!("web-1")),
            ("vmid", json!(101)),
            ("ip_address", json!("192.0.2.10")),
            ("ipv6_address", json!("2001:db8::10")),
            ("smbios_uuid", json!(uuid)),
            ("wallet_address", json!("0xAb58")),
            ("owner", json!("somebody")),
            ("purpose", json!("a test")),
            ("username", json!("ann")),
            ("network_mode", json!("nat")),
            ("anti_spoofing", json!(true)),
            ("status", json!("active")),
        ] {
            assert_eq!(record.get(key), Some(&value), "{key}");
        }
        assert!(record["expires_at"].as_str().unwrap().starts_with("2026-12-04T10:00:00"), "{record:?}");
    }

    #[test]
    fn who_makes_the_user_data_decides_what_terraform_is_told() {
        let own = UserData::AsIs(Secret::new("#cloud-config\nx: $VM_NAME\n"));
        for (user_data, text, account) in [
            (UserData::Proxmox, None, json!({"username": "ann", "keys": ["ssh-ed25519 AAAA"]})),
            (own, Some("#cloud-config\nx: $VM_NAME\n"), Value::Null),
            (template("#cloud-config\nx: $VM_NAME\n"), Some("#cloud-config\nx: web-1\n"), Value::Null),
        ] {
            let (request, facts) = (request(), Facts { user_data, ..facts() });
            let plan = CreatePlan::new(&request, &facts, &drawn(None)).unwrap();
            assert_eq!(plan.user_data.as_ref().map(Secret::reveal), text);
            let initialization = &resource(&plan)["initialization"];
            assert_eq!(initialization["user_account"], account, "{text:?}");
            assert_eq!(initialization["user_data_file_id"].is_string(), text.is_some(), "{text:?}");
            assert!(initialization["meta_data_file_id"].is_string(), "H61");
        }
    }

    #[test]
    fn h27_a_template_that_no_vm_could_use_is_refused_before_one_is_made() {
        let vmid = Vmid::new(100).unwrap();
        for (text, why) in [
            ("hostname: $VM_NAME\n", BadCloudInit::NoHeader),
            ("#cloud-config\n- $VM_NAME\n", BadCloudInit::NoMapping),
        ] {
            let facts = Facts { user_data: template(text), ..facts() };
            let unusable = check(&request(), &facts, vmid).unwrap_err();
            assert_eq!((unusable.template.as_str(), &unusable.why), ("nft-auth", &why));
            let message = unusable.to_string();
            assert!(message.starts_with("cloud-init template nft-auth ") && message.contains("VM web-1"));
        }
        assert_eq!(check(&request(), &facts(), vmid), Ok(()));
    }

    #[test]
    fn the_result_line_has_seven_keys_in_this_order() {
        let big = "9".repeat(70);
        for (token, in_json) in [
            (None, "null".to_string()),
            (Some(big.as_str()), big.clone()),
            (Some("0f"), "\"0f\"".to_string()),
        ] {
            let request =
                Request { nft_token_id: token.map(|text| NftTokenId::parse(text).unwrap()), ..request() };
            for (ipv6, shown) in [(None, "null"), (Some("2001:db8::10"), "\"2001:db8::10\"")] {
                let result = VmResult::new(&request, drawn(ipv6).allocation);
                assert_eq!(
                    serde_json::to_string(&result).unwrap(),
                    format!(
                        "{{\"status\":\"ok\",\"vm_name\":\"web-1\",\"ip\":\"192.0.2.10\",\"ipv6\":{shown},\"vmid\":101,\"nft_token_id\":{in_json},\"username\":\"ann\"}}"
                    )
                );
            }
        }
    }
}
