//! Which VMs gc suspends and destroys, and when it refuses to destroy at all (`facts/contract/commands.md#gc`; hazards
//! H10, H11).

use crate::store::vm_database::{Status, VmRecord};
use crate::value::vm_name::VmName;
use chrono::{DateTime, TimeDelta, Utc};

/// More than this many destructions in one run are looked at as a share of all VMs.
const FEW: usize = 3;

/// What one run would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Active VMs whose time is over.
    pub suspend: Vec<VmName>,
    /// Suspended VMs whose grace period is over too.
    pub destroy: Vec<VmName>,
    /// Suspended VMs that stay so for now: one that runs all the same is switched off (H50).
    pub stay_suspended: Vec<VmName>,
    /// All VMs that are not destroyed.
    pub live: usize,
    /// Records that gc leaves alone, and why.
    pub left_alone: Vec<String>,
}

impl Candidates {
    /// Sorts one more record in.
    pub fn consider(&mut self, record: &VmRecord, now: DateTime<Utc>, grace: TimeDelta) {
        if !record.is_live() {
            return;
        }
        self.live += 1;
        let name = &record.name;
        if record.expires_at.is_none() {
            self.left_alone.push(format!("VM {name}: its record has no readable expires_at"));
            return;
        }
        if is_due_for_suspension(record, now) {
            self.suspend.push(name.clone());
        } else if is_due_for_destruction(record, now, grace) {
            self.destroy.push(name.clone());
        } else if record.status == Status::Suspended {
            if record.suspended_at.is_none() {
                self.left_alone.push(format!("VM {name}: it is suspended without a readable suspended_at"));
            } else if record.protected && is_past(record, now) {
                self.left_alone.push(format!("VM {name}: its record is protected"));
            }
            self.stay_suspended.push(name.clone());
        }
    }
}

/// Its time is over; never so where no time is known.
pub fn is_past(record: &VmRecord, now: DateTime<Utc>) -> bool {
    record.expires_at.is_some_and(|end| end < now)
}

/// Active, and its time is over. Asked again under the VM's lock right before the act (H10).
pub fn is_due_for_suspension(record: &VmRecord, now: DateTime<Utc>) -> bool {
    record.status == Status::Active && is_past(record, now)
}

/// Suspended, its grace period over **and** its time still over, and not protected. Asked again likewise.
pub fn is_due_for_destruction(record: &VmRecord, now: DateTime<Utc>, grace: TimeDelta) -> bool {
    record.status == Status::Suspended
        && !record.protected
        && is_past(record, now)
        && record.suspended_at.is_some_and(|since| since <= now && now - since > grace)
}

/// What brakes the destroying.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// `gc_max_gap_days`
    pub max_gap_days: u32,
    /// `gc_max_share`
    pub max_share: f64,
    /// `--accept-gap`
    pub accept_gap: bool,
    /// `--accept-share`
    pub accept_share: bool,
}

/// Why nothing is destroyed in this run; how to go on is said with it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Brake {
    /// The clock stands before the last run.
    #[error(
        "nothing is destroyed: the last run was {hours} h in the future, so the clock has jumped; \
         set the clock right, or go on with --accept-gap"
    )]
    ClockBehind {
        /// Hours between.
        hours: i64,
    },
    /// The last run is too long ago: the clock may have jumped forward.
    #[error(
        "nothing is destroyed: the last run was {days} days ago, more than the {limit} of gc_max_gap_days; \
         look whether the clock is right, then run again (this run is noted), or go on with --accept-gap"
    )]
    Gap {
        /// Days between.
        days: i64,
        /// The limit.
        limit: u32,
    },
    /// The note of the last run cannot be used.
    #[error("nothing is destroyed: when gc last ran is not known: {0}, or go on with --accept-gap")]
    Note(String),
    /// Too many at once.
    #[error(
        "nothing is destroyed: {count} of {live} VMs would go at once, more than the share {share} of gc_max_share; \
         look whether the database and the clock are right, then go on with --accept-share"
    )]
    Share {
        /// How many would go.
        count: usize,
        /// Of how many.
        live: usize,
        /// The limit.
        share: f64,
    },
}

/// Whether destroying is braked. `last_run` is the note of the last `--execute` run; none counts as now, one that cannot
/// be read brakes: a brake that fails open is none.
pub fn brake(
    candidates: &Candidates,
    last_run: Result<Option<DateTime<Utc>>, &str>,
    now: DateTime<Utc>,
    limits: Limits,
) -> Option<Brake> {
    if candidates.destroy.is_empty() {
        return None;
    }
    if !limits.accept_gap {
        let since = match last_run {
            Ok(last_run) => now - last_run.unwrap_or(now),
            Err(why) => return Some(Brake::Note(why.to_string())),
        };
        if since < TimeDelta::zero() {
            return Some(Brake::ClockBehind { hours: -since.num_hours() });
        }
        if since > TimeDelta::days(i64::from(limits.max_gap_days)) {
            return Some(Brake::Gap { days: since.num_days(), limit: limits.max_gap_days });
        }
    }
    let count = candidates.destroy.len();
    let share = count as f64 / candidates.live.max(1) as f64;
    if !limits.accept_share && count > FEW && share > limits.max_share {
        return Some(Brake::Share { count, live: candidates.live, share: limits.max_share });
    }
    None
}

/// Whether this run is noted as the last: every one whose clock is not behind, refused ones too. Where an operator has
/// said by `--accept-gap` that the clock is right, the note was wrong; it would brake all runs until its time comes.
pub fn note_this_run(
    last_run: Result<Option<DateTime<Utc>>, &str>,
    now: DateTime<Utc>,
    limits: Limits,
) -> bool {
    limits.accept_gap || last_run.is_ok_and(|last| last.is_none_or(|last| last <= now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::vmid::Vmid;
    use proptest::prelude::*;

    fn at(days: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000, 0).unwrap() + TimeDelta::days(days)
    }

    fn vm(name: &str, status: Status, expires: i64, suspended: Option<i64>) -> VmRecord {
        VmRecord {
            name: VmName::parse(name).unwrap(),
            vmid: Vmid::new(100).unwrap(),
            status,
            ipv4: None,
            ipv6: None,
            expires_at: Some(at(expires)),
            suspended_at: suspended.map(at),
            wallet_address: None,
            username: None,
            smbios_uuid: None,
            nft_token_id: None,
            protected: false,
        }
    }

    fn sorted(records: &[VmRecord]) -> Candidates {
        let mut candidates = Candidates::default();
        records.iter().for_each(|r| candidates.consider(r, at(0), TimeDelta::days(7)));
        candidates
    }

    fn names(list: &[VmName]) -> Vec<&str> {
        list.iter().map(VmName::as_str).collect()
    }

    #[test]
    fn h10_only_what_is_over_twice_is_destroyed() {
        let mut protected = vm("protected", Status::Suspended, -30, Some(-20));
        protected.protected = true;
        let mut endless = vm("endless", Status::Active, 0, None);
        endless.expires_at = None;
        let found = sorted(&[
            vm("paid", Status::Active, 1, None),
            vm("over", Status::Active, -1, None),
            vm("in-grace", Status::Suspended, -7, Some(-6)),
            vm("grace-over", Status::Suspended, -30, Some(-8)),
            vm("renewed", Status::Suspended, 1, Some(-8)),
            vm("future-suspension", Status::Suspended, -30, Some(3)),
            vm("gone", Status::Destroyed, -30, Some(-20)),
            protected,
            endless,
        ]);
        assert_eq!(names(&found.suspend), ["over"]);
        assert_eq!(names(&found.destroy), ["grace-over"]);
        assert_eq!(names(&found.stay_suspended), ["in-grace", "renewed", "future-suspension", "protected"]);
        assert_eq!((found.live, found.left_alone.len()), (8, 2));
    }

    const LIMITS: Limits =
        Limits { max_gap_days: 14, max_share: 0.5, accept_gap: false, accept_share: false };

    fn due(count: usize, live: usize) -> Candidates {
        let name = VmName::parse("a").unwrap();
        Candidates { destroy: vec![name; count], live, ..Candidates::default() }
    }

    #[test]
    fn h11_a_clock_that_jumped_or_a_broken_database_destroys_nothing() {
        let now = at(0);
        assert_eq!(brake(&due(1, 9), Ok(None), now, LIMITS), None);
        assert_eq!(brake(&due(1, 9), Ok(Some(at(-14))), now, LIMITS), None);
        assert!(matches!(
            brake(&due(1, 9), Ok(Some(at(-15))), now, LIMITS),
            Some(Brake::Gap { days: 15, limit: 14 })
        ));
        assert!(matches!(
            brake(&due(1, 9), Ok(Some(at(1))), now, LIMITS),
            Some(Brake::ClockBehind { hours: 24 })
        ));
        let accepted = Limits { accept_gap: true, ..LIMITS };
        assert_eq!(brake(&due(1, 9), Ok(Some(at(-900))), now, accepted), None);
        assert_eq!(brake(&due(3, 3), Ok(None), now, LIMITS), None, "three are few");
        assert!(matches!(
            brake(&due(4, 7), Ok(None), now, LIMITS),
            Some(Brake::Share { count: 4, live: 7, .. })
        ));
        assert_eq!(brake(&due(4, 8), Ok(None), now, LIMITS), None, "half is allowed");
        assert_eq!(brake(&due(4, 4), Ok(None), now, Limits { accept_share: true, ..LIMITS }), None);
        assert_eq!(brake(&due(0, 4), Ok(Some(at(1))), now, LIMITS), None, "suspending goes on");
        let unreadable = Err("gc-last-run.json: not valid JSON");
        assert!(matches!(brake(&due(1, 9), unreadable, now, LIMITS), Some(Brake::Note(_))));
        assert_eq!(brake(&due(1, 9), unreadable, now, accepted), None);
        let noted = |last| note_this_run(last, now, LIMITS);
        assert!(noted(Ok(None)) && noted(Ok(Some(at(-900)))));
        assert!(!noted(Ok(Some(at(1)))) && !noted(unreadable));
        assert!(note_this_run(Ok(Some(at(1))), now, accepted) && note_this_run(unreadable, now, accepted));
    }

    proptest! {
        #[test]
        fn h10_nothing_paid_or_protected_is_ever_due(expires in -40i64..40, suspended in proptest::option::of(-40i64..40), grace in 0i64..20, kind in 0usize..3, protected: bool) {
            let status = [Status::Active, Status::Suspended, Status::Destroyed][kind];
            let mut record = vm("a", status, expires, suspended);
            record.protected = protected;
            let due = is_due_for_destruction(&record, at(0), TimeDelta::days(grace));
            if due {
                prop_assert!(expires < 0 && !protected && status == Status::Suspended && suspended.is_some_and(|s| -s > grace));
            }
            prop_assert!(!(due && is_due_for_suspension(&record, at(0))));
        }
    }
}
