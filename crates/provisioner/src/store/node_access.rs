//! How to reach the node's API, from the files in terraform's directory and the token file.

use super::document::{self, Document};
use super::settings::Settings;
use super::tfvars::Tfvars;
use crate::host::Host;
use crate::host::proxmox_api::{self, ProxmoxApi};
use crate::plan::terraform_json::block;
use crate::value::api_endpoint::{self, LOCAL_ENDPOINT};
use crate::value::node_name::NodeName;
use crate::value::text::{BridgeName, StorageId};
use crate::value::token::ApiToken;
use anyhow::Context;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What create and the API need from terraform's directory and the token file.
#[derive(Debug, Clone)]
pub struct NodeAccess {
    /// The node that VMs are created on (`proxmox_node`).
    pub node: NodeName,
    /// Storage of disks (`disk_datastore`, otherwise `proxmox_storage`).
    pub disk_datastore: StorageId,
    /// Storage of the cloud-init drive (`cloudinit_datastore`, otherwise `proxmox_storage`, otherwise the storage of
    /// disks).
    pub cloudinit_datastore: StorageId,
    /// The guests' bridge (`proxmox_bridge`); `None` if tfvars does not set it.
    pub bridge: Option<BridgeName>,
    /// The API token.
    pub token: ApiToken,
    /// Whether tfvars has a different token or none, so that terraform must be given ours.
    pub token_overrides_tfvars: bool,
    /// The address of the API, for example `https://127.0.0.1:8006`.
    pub endpoint: String,
    /// File with the node's own CA, if the operator has provided one; terraform's provider must trust it, too (H31).
    pub own_ca: Option<PathBuf>,
}

impl NodeAccess {
    /// Reads `terraform.tfvars`, `provider.tf.json` and `pve-token`.
    pub fn read(host: &Host, settings: &Settings) -> anyhow::Result<NodeAccess> {
        let path = settings.terraform_dir.join("terraform.tfvars");
        let tfvars = Tfvars::read(&path)
            .context("terraform has not been set up (blockhost-provisioner-setup terraform)")?;
        let at = |key: &str| format!("{}: {key}", path.display());
        let storage = |key: &str| -> anyhow::Result<Option<StorageId>> {
            tfvars.get(key).map(|text| StorageId::parse(text).with_context(|| at(key))).transpose()
        };
        let node =
            tfvars.get("proxmox_node").with_context(|| format!("{} is missing", at("proxmox_node")))?;
        let node = NodeName::parse(node).with_context(|| at("proxmox_node"))?;
        let main = storage("proxmox_storage")?;
        let disk = storage("disk_datastore")?
            .or_else(|| main.clone())
            .with_context(|| format!("{} is missing", at("proxmox_storage")))?;
        let cloudinit = storage("cloudinit_datastore")?.or(main).unwrap_or_else(|| disk.clone());
        let bridge = tfvars
            .get("proxmox_bridge")
            .map(|text| BridgeName::parse(text).with_context(|| at("proxmox_bridge")))
            .transpose()?;
        let in_tfvars = tfvars
            .get("proxmox_api_token")
            .map(|text| ApiToken::parse(text).with_context(|| at("proxmox_api_token")));
        let token_file = host.config_file("pve-token");
        let (token, token_overrides_tfvars) = if token_file.exists() {
            let text = crate::host::read_file::text_for_people(&token_file)?;
            let token = ApiToken::parse(&text).with_context(|| token_file.display().to_string())?;
            let same = matches!(&in_tfvars, Some(Ok(other)) if *other == token);
            (token, !same)
        } else {
            let missing = || {
                anyhow::anyhow!(
                    "no API token: neither {} nor proxmox_api_token in {} exists",
                    token_file.display(),
                    path.display()
                )
            };
            (in_tfvars.unwrap_or_else(|| Err(missing()))?, false)
        };
        let endpoint = endpoint(&settings.terraform_dir.join("provider.tf.json"))?;
        Ok(NodeAccess {
            node,
            disk_datastore: disk,
            cloudinit_datastore: cloudinit,
            bridge,
            token,
            token_overrides_tfvars,
            endpoint,
            own_ca: Some(host.config_file("pve-ca.pem")).filter(|path| path.exists()),
        })
    }
}

impl NodeAccess {
    /// Returns a client for the node's API that trusts the node's own CA, if the operator has provided one
    /// (`pve-ca.pem`).
    pub fn api(&self, host: &Host) -> anyhow::Result<ProxmoxApi> {
        let certificates = Some(host.config_file("pve-ca.pem"));
        ProxmoxApi::new(host.doors, &self.endpoint, self.token.clone(), certificates)
    }
}

/// Returns the API's address from `provider.tf.json`, unchecked.
fn endpoint_of(doc: &Document) -> anyhow::Result<Option<&Value>> {
    let provider = doc.value("provider.proxmox")?.and_then(block);
    Ok(provider.and_then(|provider| provider.get("endpoint")))
}

/// Returns the API's address from `provider.tf.json` in terraform's directory, or the local one. For callers that must
/// not fail because of that file, since setup writes it.
pub fn endpoint_or_local(folder: &Path) -> String {
    let doc = Document::read_json(&folder.join("provider.tf.json"));
    let named = doc.as_ref().ok().and_then(|doc| endpoint_of(doc).ok()??.as_str());
    named.unwrap_or(LOCAL_ENDPOINT).trim_end_matches('/').to_owned()
}

fn endpoint(path: &Path) -> anyhow::Result<String> {
    let doc = Document::read_json(path)
        .context("terraform has not been set up (blockhost-provisioner-setup terraform)")?;
    let provider = doc.value("provider.proxmox")?;
    let blocks = provider.and_then(|p| p.as_array().map(Vec::as_slice).or(Some(std::slice::from_ref(p))));
    for block in blocks.unwrap_or_default() {
        proxmox_api::refuse_unchecked(path, block)?;
    }
    match endpoint_of(&doc)? {
        None => Ok(LOCAL_ENDPOINT.to_string()),
        Some(Value::String(text)) if api_endpoint::host_of(text).is_some() => {
            Ok(text.trim_end_matches('/').to_string())
        }
        Some(Value::String(text)) => anyhow::bail!(
            "{}: provider.proxmox.endpoint: expected an address like https://127.0.0.1:8006, found {text:?}",
            path.display()
        ),
        Some(other) => anyhow::bail!(
            "{}: provider.proxmox.endpoint: expected text, found {}",
            path.display(),
            document::describe(other)
        ),
    }
}
