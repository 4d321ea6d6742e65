//! The record of a new VM in the form that other programs expect (`facts/contract/database.md`).

use crate::value::allocation::Allocation;
use crate::value::field_names::FieldNames;
use crate::value::text::{OneLine, UserName};
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::Status;
use crate::value::wallet::{NftTokenId, WalletAddress};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

/// The data that the record of a new VM is made from.
#[derive(Debug, Clone)]
pub struct NewVm<'a> {
    /// Its name.
    pub name: &'a VmName,
    /// VMID and addresses.
    pub allocation: Allocation,
    /// Days paid for.
    pub expiry_days: u32,
    /// Its owner, as free text.
    pub owner: &'a OneLine,
    /// Its purpose, as free text.
    pub purpose: &'a OneLine,
    /// The owner's wallet; `None` with `--no-web3`.
    pub wallet: Option<&'a WalletAddress>,
    /// The guest's user.
    pub username: &'a UserName,
    /// The network plugins' mode; absent on older hosts.
    pub network_mode: Option<&'a str>,
    /// Its identity.
    pub smbios_uuid: Option<Uuid>,
    /// The token, when it is known already.
    pub nft_token_id: Option<&'a NftTokenId>,
    /// Whether it may send from its own addresses alone.
    pub anti_spoofing: bool,
}

/// Returns the fields in the order of the contract's example (`facts/contract/database.md#form`), under the names set
/// in db.yaml.
pub fn fields(vm: &NewVm<'_>, now: DateTime<Utc>, names: &FieldNames) -> Vec<(String, Value)> {
    let expires = now + TimeDelta::days(i64::from(vm.expiry_days));
    let wallet = vm.wallet.map(WalletAddress::as_str);
    let mut fields: Vec<(String, Value)> = vec![
        (names.vm_name.clone(), vm.name.as_str().into()),
        (names.vmid.clone(), vm.allocation.vmid.get().into()),
        (names.ip_address.clone(), vm.allocation.ipv4.to_string().into()),
        ("ipv6_address".into(), json!(vm.allocation.ipv6.map(|a| a.to_string()))),
        (names.expires_at.clone(), timestamp::to_text(expires).into()),
        (names.owner.clone(), vm.owner.as_str().into()),
        (names.status.clone(), Status::Active.as_str().into()),
        (names.created_at.clone(), timestamp::to_text(now).into()),
        ("purpose".into(), vm.purpose.as_str().into()),
        ("wallet_address".into(), json!(wallet)),
    ];
    // Two engines treat a missing or different owner_wallet as a transfer; without a wallet there is no owner_wallet.
    fields.extend(wallet.map(|w| ("owner_wallet".to_string(), Value::from(w))));
    fields.push(("username".into(), vm.username.as_str().into()));
    fields.extend(vm.network_mode.map(|mode| ("network_mode".to_string(), Value::from(mode))));
    fields.extend(vm.smbios_uuid.map(|uuid| ("smbios_uuid".to_string(), Value::from(uuid.to_string()))));
    fields.push(("anti_spoofing".into(), vm.anti_spoofing.into()));
    fields.extend(vm.nft_token_id.map(|id| ("nft_token_id".to_string(), id.to_json())));
    fields
}
