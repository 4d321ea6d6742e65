//! `blockhost-vm-resume`: a suspended VM runs again and keeps what was paid (hazards H12, H41, H49, H50).

use super::Context;
use super::machine;
use super::start::run;
use crate::host::clock::{self, Deadline};
use crate::store::vm_database::{Status, VmRecord};
use crate::store::vm_lock::VmLock;
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Engines give us no limit; a start that takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(120);
/// gc may hold the VM while its guest shuts down.
const LOCK_WAIT: Duration = Duration::from_secs(120);

/// What was or would be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// It was suspended.
    pub was_suspended: bool,
    /// It ran already.
    pub was_running: bool,
    /// When its time ends now.
    pub expires_at: Option<DateTime<Utc>>,
    /// What could not be set on the host.
    pub warnings: Vec<String>,
}

/// The new end of a VM's time: `extend_days` from now; else an end in the future is kept, and one in the past (of a
/// suspended VM) becomes `default_days` from now (H12).
pub fn new_expiry(
    record: &VmRecord,
    extend_days: Option<u32>,
    default_days: u32,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let from_now = |days: u32| now + TimeDelta::days(i64::from(days));
    match (extend_days, record.expires_at) {
        (Some(days), _) => Some(from_now(days)),
        (None, Some(end)) if end > now => Some(end),
        (None, end) if record.status == Status::Active => end,
        (None, _) => Some(from_now(default_days)),
    }
}

/// Resumes a VM. Active ones are started when they are off.
pub fn resume(
    ctx: &Context<'_>,
    name: &VmName,
    extend_days: Option<u32>,
    dry_run: bool,
) -> anyhow::Result<Resumed> {
    let record = ctx.live_record(name)?;
    let default_days = ctx.settings.default_expiry_days;
    if dry_run {
        let expires_at = new_expiry(&record, extend_days, default_days, clock::now());
        let was_suspended = record.status == Status::Suspended;
        return Ok(Resumed { was_suspended, was_running: !was_suspended, expires_at, warnings: Vec::new() });
    }
    let _lock = if ctx.mock { None } else { Some(VmLock::take(ctx.host, name, "resume", LOCK_WAIT)?) };
    let record = ctx.live_record(name)?;
    let was_suspended = record.status == Status::Suspended;
    let (mut was_running, mut warnings) = (!was_suspended, Vec::new());
    if !ctx.mock {
        let deadline = Deadline::after(LIMIT);
        let machine = machine::of_record(ctx, record, deadline)?;
        // First the machine, then the record: killed between, it is suspended but running, and resume works again (H50).
        (was_running, warnings) = run(ctx, &machine, deadline)?;
        ctx.host.step("resume.running")?;
        // Not only of a suspended one: a gc that died may have taken it from a VM that was renewed before the next run.
        let lacks_onboot = machine.state(ctx, deadline).map_or(was_suspended, |state| !state.onboot);
        if lacks_onboot
            && let Err(error) = ctx.node().set_onboot(machine.vmid, &machine.identity, true, deadline)
        {
            warnings.push(format!(
                "it will not start with the node: {error}; run blockhost-vm-resume {name} again"
            ));
        }
        ctx.host.step("resume.onboot")?;
    }
    let expires_at = ctx.database.update(|db| {
        // Read again: an engine may have extended the time while the machine was starting.
        let record = db.record(name.as_str()).and_then(Result::ok);
        let record = record
            .filter(VmRecord::is_live)
            .ok_or_else(|| anyhow::anyhow!("VM {name}: its record has gone meanwhile"))?;
        let expires_at = new_expiry(&record, extend_days, default_days, clock::now());
        if record.status != Status::Active {
            db.set_status(name.as_str(), Status::Active);
            db.remove(name.as_str(), "suspended_at");
        }
        if let Some(end) = expires_at
            && record.expires_at != expires_at
        {
            db.set_expires_at(name.as_str(), &timestamp::to_text(end));
        }
        Ok(expires_at)
    })?;
    ctx.host.step("resume.recorded")?;
    Ok(Resumed { was_suspended, was_running, expires_at, warnings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::vmid::Vmid;

    #[test]
    fn h12_what_was_paid_is_kept() {
        let now = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let days = |n: i64| now + TimeDelta::days(n);
        let record = |status, expires_at| VmRecord {
            name: VmName::parse("a").unwrap(),
            vmid: Vmid::new(100).unwrap(),
            status,
            ipv4: None,
            ipv6: None,
            expires_at,
            suspended_at: None,
            wallet_address: None,
            username: None,
            smbios_uuid: None,
            nft_token_id: None,
            protected: false,
        };
        let suspended = |end| record(Status::Suspended, end);
        assert_eq!(
            new_expiry(&suspended(Some(days(400))), None, 30, now),
            Some(days(400)),
            "a paid year stays a year"
        );
        assert_eq!(new_expiry(&suspended(Some(days(-1))), None, 30, now), Some(days(30)));
        assert_eq!(new_expiry(&suspended(None), None, 30, now), Some(days(30)));
        assert_eq!(new_expiry(&suspended(Some(days(400))), Some(5), 30, now), Some(days(5)));
        let active = |end| record(Status::Active, end);
        assert_eq!(
            new_expiry(&active(Some(days(-1))), None, 30, now),
            Some(days(-1)),
            "an active one is not extended for nothing"
        );
        assert_eq!(new_expiry(&active(Some(days(9))), Some(60), 30, now), Some(days(60)));
    }
}
