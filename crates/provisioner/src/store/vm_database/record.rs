//! Checks a record.

use super::record_view::{Field, RecordView};
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use uuid::Uuid;

/// Checks the record of a view; an error names the field and what was found.
pub(super) fn record_of(view: &RecordView<'_>) -> Result<VmRecord, String> {
    let key = &view.key;
    let name = VmName::parse(key).map_err(|e| format!("record {key:?}: {e}"))?;
    let wrong = |field: &str, raw: Field| {
        let found: String = view.raw(raw).unwrap_or("nothing").chars().take(60).collect();
        format!("record {key:?}: field {field}: found {found}")
    };
    let status = view
        .text(Field::Status)
        .and_then(|t| Status::parse(&t))
        .ok_or_else(|| wrong("status", Field::Status))?;
    let vmid = view.vmid().ok_or_else(|| wrong("vmid", Field::Vmid))?;
    let time = |field| view.text(field).and_then(|t| timestamp::from_text(&t));
    let text = |field| view.text(field).map(|t| t.into_owned()).filter(|t| !t.is_empty());
    // A value that is not a string, or an empty one, is a damaged record. Treating it as missing would weaken the proof
    // of identity to the name alone (H02).
    let smbios_uuid = match view.raw(Field::SmbiosUuid) {
        None | Some("null") => None,
        Some(_) => {
            let uuid = view.text(Field::SmbiosUuid).and_then(|text| Uuid::parse_str(&text).ok());
            Some(uuid.ok_or_else(|| wrong("smbios_uuid", Field::SmbiosUuid))?)
        }
    };
    Ok(VmRecord {
        name,
        vmid,
        status,
        ipv4: text(Field::IpAddress).and_then(|t| t.parse().ok()),
        ipv6: text(Field::Ipv6Address).and_then(|t| t.parse().ok()),
        expires_at: time(Field::ExpiresAt),
        suspended_at: time(Field::SuspendedAt),
        wallet_address: text(Field::WalletAddress).or_else(|| text(Field::OwnerWallet)),
        username: text(Field::Username),
        smbios_uuid,
        nft_token_id: view.raw(Field::NftTokenId).and_then(|raw| serde_json::from_str(raw).ok()),
        protected: view.is_protected(),
        anti_spoofing: view.raw(Field::AntiSpoofing).and_then(|raw| raw.parse().ok()),
    })
}
