use super::*;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vmid::Vmid;
use uuid::Uuid;

/// A record of a healthy VM.
pub(super) fn record(name: &str, vmid: u64) -> VmRecord {
    VmRecord {
        name: VmName::parse(name).unwrap(),
        vmid: Vmid::new(vmid).unwrap(),
        status: Status::Active,
        ipv4: format!("192.168.122.{}", vmid % 250).parse().ok(),
        ipv6: format!("2001:db8::{vmid:x}").parse().ok(),
        expires_at: Some(chrono::DateTime::from_timestamp(2_000_000_000, 0).unwrap()),
        suspended_at: None,
        wallet_address: None,
        username: None,
        smbios_uuid: Some(Uuid::from_u128(u128::from(vmid))),
        nft_token_id: None,
        protected: false,
        anti_spoofing: None,
    }
}

#[test]
fn the_worst_comes_first_and_nothing_twice() {
    let note = Finding::new(&kinds::VM_OFF, "VM a", "off", "start it").of("a");
    let error = Finding::new(&kinds::VM_MISSING, "VM b", "gone", "destroy it").of("b");
    assert_eq!(sorted(vec![note.clone(), error.clone(), note.clone()]), [error, note]);
}
