//! `blockhost-vm-resume`: starts a suspended VM again, with the time that was paid for (hazards H12, H41, H49, H50).

use super::machine;
use super::start::run;
use super::{Context, bandwidth};
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Engines set no time limit; a start that takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(120);
/// gc may hold the VM's lock while its guest shuts down.
const LOCK_WAIT: Duration = Duration::from_secs(120);

/// What was done, or would be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// It was suspended.
    pub was_suspended: bool,
    /// It was already running.
    pub was_running: bool,
    /// The current expiry.
    pub expires_at: Option<DateTime<Utc>>,
    /// The expiry before.
    pub expired_before: Option<DateTime<Utc>>,
    /// What could not be set on the host.
    pub warnings: Vec<String>,
}

/// The new expiry of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// As paid for: an expiry in the future is kept; a past one (of a suspended VM) becomes `default_expiry_days` from
    /// now (H12).
    AsPaid,
    /// This many days from now, whatever it was before.
    DaysFromNow(u32),
    /// This many days more, counted from the current expiry or, if that has passed, from now.
    DaysMore(u32),
    /// At this time.
    At(DateTime<Utc>),
}

impl Expiry {
    /// Returns the new expiry of this VM. Fails if it is beyond what readers can handle, or if days are to be added to
    /// an expiry that cannot be read: counted from now, that could take away time that was paid for.
    pub fn of(
        self,
        record: &VmRecord,
        default_days: u32,
        now: DateTime<Utc>,
    ) -> anyhow::Result<Option<DateTime<Utc>>> {
        let name = &record.name;
        let days_after =
            |begin: DateTime<Utc>, days: u32| begin.checked_add_signed(TimeDelta::days(i64::from(days)));
        let end = match (self, record.expires_at) {
            (Expiry::DaysFromNow(days), _) => days_after(now, days),
            (Expiry::DaysMore(days), Some(end)) => days_after(end.max(now), days),
            (Expiry::DaysMore(_), None) => anyhow::bail!(
                "VM {name}: cannot add days: its record has no readable expires_at; set the expiry with --until TIME"
            ),
            (Expiry::At(end), _) => Some(end),
            (Expiry::AsPaid, Some(end)) if end > now => Some(end),
            (Expiry::AsPaid, end) if record.status == Status::Active => return Ok(end),
            (Expiry::AsPaid, _) => days_after(now, default_days),
        };
        let end = end.filter(|end| timestamp::is_readable(*end));
        end.map(Some).ok_or_else(|| {
            anyhow::anyhow!("VM {name}: the new expiry would lie beyond the year 9999; nothing was changed")
        })
    }
}

/// Whether the new expiry takes away time that was paid for.
pub fn shortens(before: Option<DateTime<Utc>>, after: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    // Time that had already passed cannot be taken away.
    before.zip(after).is_some_and(|(before, after)| before > now && after < before)
}

/// Resumes a VM. An active VM is started if it is off.
pub fn resume(ctx: &Context<'_>, name: &VmName, expiry: Expiry, dry_run: bool) -> anyhow::Result<Resumed> {
    let record = ctx.live_record(name)?;
    let default_days = ctx.settings.default_expiry_days;
    if dry_run {
        let expires_at = expiry.of(&record, default_days, ctx.host.now())?;
        let was_suspended = record.status == Status::Suspended;
        return Ok(Resumed {
            was_suspended,
            was_running: !was_suspended,
            expires_at,
            expired_before: record.expires_at,
            warnings: Vec::new(),
        });
    }
    let vm = ctx.lock_vm(name, "resume", LOCK_WAIT)?;
    let record = vm.live_record_now()?;
    // An expiry that cannot be recorded must fail before the VM is started.
    expiry.of(&record, default_days, ctx.host.now())?;
    let was_suspended = record.status == Status::Suspended;
    let deadline = ctx.host.deadline(LIMIT);
    let machine = machine::of_record(&vm, record, deadline)?;
    // First the VM, then the record: if killed in between, the VM is suspended but running, and resume can be run again
    // (H50).
    let (was_running, mut warnings) = run(&vm, &machine, deadline)?;
    ctx.host.step("resume.running")?;
    // For active VMs too: an interrupted gc may have turned it off for a VM that was renewed before the next run.
    let lacks_onboot = machine.state(ctx, deadline).map_or(was_suspended, |state| !state.onboot);
    if lacks_onboot && let Err(error) = ctx.node().set_onboot(machine.vmid, &machine.identity, true, deadline)
    {
        warnings
            .push(format!("it will not start with the node: {error}; run blockhost-vm-resume {name} again"));
    }
    ctx.host.step("resume.onboot")?;
    let [expires_at, expired_before] = record_expiry(ctx, name, expiry)?;
    ctx.host.step("resume.recorded")?;
    // Only now that the record is active: a suspended VM's limits are not restored (H51).
    warnings.extend(bandwidth::put_back(&vm, &machine, deadline));
    Ok(Resumed { was_suspended, was_running, expires_at, expired_before, warnings })
}

/// Marks the VM active and sets its new expiry; returns the new and the previous one.
pub(super) fn record_expiry(
    ctx: &Context<'_>,
    name: &VmName,
    expiry: Expiry,
) -> anyhow::Result<[Option<DateTime<Utc>>; 2]> {
    let default_days = ctx.settings.default_expiry_days;
    ctx.database.update(|db| {
        // Read again: an engine may have extended the time while the VM was starting.
        let record = db.record(name.as_str()).and_then(Result::ok);
        let record = record
            .filter(VmRecord::is_live)
            .ok_or_else(|| anyhow::anyhow!("VM {name}: its record was removed in the meantime"))?;
        let expires_at = expiry.of(&record, default_days, ctx.host.now())?;
        if record.status != Status::Active {
            db.set_status(name.as_str(), Status::Active);
            db.remove(name.as_str(), "suspended_at");
        }
        if let Some(end) = expires_at
            && record.expires_at != expires_at
        {
            db.set_expires_at(name.as_str(), &timestamp::to_text(end));
        }
        Ok([expires_at, record.expires_at])
    })
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
            anti_spoofing: None,
        };
        let suspended = |end| record(Status::Suspended, end);
        let active = |end| record(Status::Active, end);
        let of = |expiry: Expiry, record: VmRecord| expiry.of(&record, 30, now).unwrap();
        let paid = |record: VmRecord| of(Expiry::AsPaid, record);
        assert_eq!(paid(suspended(Some(days(400)))), Some(days(400)), "a paid year stays a year");
        assert_eq!(paid(suspended(Some(days(-1)))), Some(days(30)));
        assert_eq!(paid(suspended(None)), Some(days(30)));
        assert_eq!(paid(active(Some(days(-1)))), Some(days(-1)), "an active one is not extended for nothing");
        let set = |days| Expiry::DaysFromNow(days);
        assert_eq!(of(set(5), suspended(Some(days(400)))), Some(days(5)));
        assert_eq!(of(set(60), active(Some(days(9)))), Some(days(60)));
        let more = |days| Expiry::DaysMore(days);
        assert_eq!(of(more(5), suspended(Some(days(400)))), Some(days(405)));
        assert_eq!(of(more(5), suspended(Some(days(-40)))), Some(days(5)));
        assert_eq!(of(Expiry::At(days(3)), active(Some(days(9)))), Some(days(3)));
        // Counted from now, it could take time away; and an expiry that nobody can read is as good as lost.
        assert!(more(5).of(&active(None), 30, now).is_err());
        let far = days(2_912_000);
        assert!(
            of(Expiry::At(far), active(None)).is_some()
                && more(36_500).of(&active(Some(far)), 30, now).is_err()
        );
        assert!(shortens(Some(days(90)), Some(days(2)), now));
        assert!(
            !shortens(Some(days(2)), Some(days(90)), now) && !shortens(Some(days(-9)), Some(days(-10)), now)
        );
        assert!(!shortens(None, Some(days(1)), now));
    }
}
