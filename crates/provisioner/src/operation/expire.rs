//! `blockhost-vm-expire`: when a VM's time ends. Only the record changes: the VM runs on or stays off (hazards H10, H12).

use super::Context;
use super::resume::Expiry;
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// How long others may work on the VM: gc, while its guest shuts down.
const LOCK_WAIT: Duration = Duration::from_secs(120);

/// What was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expires {
    /// The current expiry.
    pub expires_at: DateTime<Utc>,
    /// When it ended before; `None` where its record did not say.
    pub before: Option<DateTime<Utc>>,
    /// What its record says of it: a suspended VM stays off.
    pub status: Status,
    /// gc leaves it alone, whatever its expiry.
    pub protected: bool,
}

/// Sets the end of a VM's time.
pub fn expire(ctx: &Context<'_>, name: &VmName, expiry: Expiry) -> anyhow::Result<Expires> {
    end_of(&ctx.live_record(name)?, ctx, expiry)?;
    let vm = ctx.lock_vm(name, "expire", LOCK_WAIT)?;
    record_end(&vm, name, expiry)
}

/// Notes it in the record, counted from the end that stands there now.
pub(super) fn record_end(ctx: &Context<'_>, name: &VmName, expiry: Expiry) -> anyhow::Result<Expires> {
    ctx.database.update(|db| {
        // Read again: an engine may have renewed the VM while the lock was waited for.
        let record = db.record(name.as_str()).and_then(Result::ok);
        let record = record
            .filter(VmRecord::is_live)
            .ok_or_else(|| anyhow::anyhow!("VM {name}: its record was removed in the meantime"))?;
        let expires_at = end_of(&record, ctx, expiry)?;
        if record.expires_at != Some(expires_at) {
            db.set_expires_at(name.as_str(), &timestamp::to_text(expires_at));
        }
        let (before, protected) = (record.expires_at, record.protected);
        Ok(Expires { expires_at, before, status: record.status, protected })
    })
}

fn end_of(record: &VmRecord, ctx: &Context<'_>, expiry: Expiry) -> anyhow::Result<DateTime<Utc>> {
    let name = &record.name;
    let unreadable = || {
        anyhow::anyhow!(
            "VM {name}: cannot add days: its record has no readable expires_at; set the expiry with blockhost-vm-expire {name} --at TIME"
        )
    };
    if matches!(expiry, Expiry::DaysMore(_)) && record.expires_at.is_none() {
        return Err(unreadable());
    }
    expiry.of(record, ctx.settings.default_expiry_days, ctx.host.now())?.ok_or_else(unreadable)
}
