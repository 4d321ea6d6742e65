//! `blockhost-vm-protect`: whether gc and destroy leave a VM alone (hazard H11). Only the record changes; the node is not
//! asked.

use super::Context;
use crate::store::journal::Step;
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// The key of a record that protects it.
const FIELD: &str = "protected";
/// How long to wait for other operations on the VM.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protected {
    /// It was protected before.
    pub was: bool,
    /// It is now.
    pub is: bool,
    /// When its time ends: without protection that counts again. `None` where its record does not say.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Protects a VM, or takes its protection away.
pub fn protect(ctx: &Context<'_>, name: &VmName, on: bool) -> anyhow::Result<Protected> {
    ctx.live_record(name)?;
    let vm = ctx.lock_vm(name, FIELD, LOCK_WAIT)?;
    // Protected now, what is left of it could be removed by force alone, and by gc never.
    let is_going = vm.entry()?.is_some_and(|entry| entry.step == Step::Destroying);
    anyhow::ensure!(
        !(on && is_going),
        "VM {name}: a destroy of it was interrupted, so it cannot be protected any more; finish it with blockhost-vm-destroy {name}"
    );
    record_protection(&vm, name, on)
}

/// Notes it in the record, as that stands now.
pub(super) fn record_protection(ctx: &Context<'_>, name: &VmName, on: bool) -> anyhow::Result<Protected> {
    ctx.database.update(|db| {
        // Read again: another program may have changed it while the lock was waited for.
        let record = db.record(name.as_str()).and_then(Result::ok);
        let record = record
            .filter(VmRecord::is_live)
            .ok_or_else(|| anyhow::anyhow!("VM {name}: its record was removed in the meantime"))?;
        match on {
            // Whatever else stands there counts as protection too, and is somebody's note.
            true if record.protected => {}
            true => db.set(name.as_str(), FIELD, &true.into()),
            false if record.protected => db.remove(name.as_str(), FIELD),
            false => {}
        }
        Ok(Protected { was: record.protected, is: on, expires_at: record.expires_at })
    })
}
