//! Decides which VMs gc suspends and destroys, and when it refuses to destroy at all (`facts/contract/commands.md#gc`;
//! hazards H10, H11).

use crate::value::uptime::Uptime;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord, is_over};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use std::fmt;

/// If one run would destroy more VMs than this, their share of all VMs is checked.
const FEW: usize = 3;

/// Why a VM is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// When its paid time ended.
    pub expired_at: DateTime<Utc>,
    /// When it was suspended; only for a VM that is due for destruction.
    pub suspended_at: Option<DateTime<Utc>>,
}

/// What one run of gc would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Active VMs that have expired.
    pub suspend: Vec<VmName>,
    /// Suspended VMs whose grace period has ended too.
    pub destroy: Vec<VmName>,
    /// Suspended VMs that stay suspended for now; one that is running anyway is switched off (H50).
    pub stay_suspended: Vec<VmName>,
    /// For each VM that is due: why.
    pub due: BTreeMap<VmName, Due>,
    /// How many VMs exist that are not destroyed, whatever their state.
    pub live: usize,
    /// Records that gc leaves alone, and why.
    pub left_alone: Vec<String>,
}

impl Candidates {
    /// Adds a record to the list it belongs to.
    pub fn consider(&mut self, record: &VmRecord, now: DateTime<Utc>, grace: TimeDelta) {
        if !record.is_live() {
            return;
        }
        self.live += 1;
        let name = &record.name;
        let Some(expired_at) = record.expires_at else {
            self.left_alone.push(format!("VM {name}: its record has no readable expires_at"));
            return;
        };
        if record.protected && record.status == Status::Active && is_past(record, now) {
            self.left_alone.push(format!("VM {name}: it has expired, but its record is protected"));
        } else if is_due_for_suspension(record, now) {
            self.suspend.push(name.clone());
            self.due.insert(name.clone(), Due { expired_at, suspended_at: None });
        } else if is_due_for_destruction(record, now, grace) {
            self.destroy.push(name.clone());
            self.due.insert(name.clone(), Due { expired_at, suspended_at: record.suspended_at });
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

/// Whether the VM has expired; never if its record has no expiry time.
pub fn is_past(record: &VmRecord, now: DateTime<Utc>) -> bool {
    record.expires_at.is_some_and(|end| is_over(end, now))
}

/// Whether the VM is active, has expired and is not protected. Checked again under the VM's lock right before it is
/// suspended (H10).
pub fn is_due_for_suspension(record: &VmRecord, now: DateTime<Utc>) -> bool {
    record.status == Status::Active && !record.protected && is_past(record, now)
}

/// Whether the VM is suspended, its grace period has ended **and** it is still expired, and it is not protected.
/// Checked again under the VM's lock right before it is destroyed (H10).
pub fn is_due_for_destruction(record: &VmRecord, now: DateTime<Utc>, grace: TimeDelta) -> bool {
    record.status == Status::Suspended
        && !record.protected
        && is_past(record, now)
        && record.suspended_at.is_some_and(|since| since <= now && now - since > grace)
}

/// A moment at which the wall clock and the uptime were last seen to agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BelievedClock {
    /// The moment by the wall clock.
    pub at: DateTime<Utc>,
    /// The moment by the uptime clock, which nobody can set.
    pub uptime: Uptime,
}

/// What the other clocks say, as far as they can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherClocks {
    /// When the wall clock was last trusted.
    pub believed: Option<BelievedClock>,
    /// The host's uptime now.
    pub uptime: Option<Uptime>,
    /// The node's own clock now.
    pub node: Option<DateTime<Utc>>,
}

/// The wall clock is so far ahead of another clock that it is not trusted (H62).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockAhead {
    /// Ahead of the time that has passed by the uptime since the wall clock was last trusted.
    OfUptime {
        /// Days.
        days: i64,
    },
    /// Ahead of the node's clock.
    OfNode {
        /// Days.
        days: i64,
    },
}

impl fmt::Display for ClockAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClockAhead::OfUptime { days } => {
                write!(f, "the clock has moved {days} days more than this machine has been running")
            }
            ClockAhead::OfNode { days } => write!(f, "the clock is {days} days ahead of the node's"),
        }
    }
}

/// Returns whether the wall clock is a day or more ahead of the other clocks. Clocks that cannot be read are ignored.
pub fn clock_ahead(now: DateTime<Utc>, others: &OtherClocks) -> Option<ClockAhead> {
    let day = TimeDelta::days(1);
    if let (Some(believed), Some(uptime)) = (&others.believed, &others.uptime)
        && believed.uptime.boot_id == uptime.boot_id
    {
        let passed = TimeDelta::seconds(uptime.seconds.saturating_sub(believed.uptime.seconds));
        let ahead = now - believed.at - passed;
        if ahead > day {
            return Some(ClockAhead::OfUptime { days: ahead.num_days() });
        }
    }
    let ahead = now - others.node?;
    (ahead > day).then(|| ClockAhead::OfNode { days: ahead.num_days() })
}

/// The settings and flags that decide whether a run is stopped.
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

/// Why this run suspends or destroys nothing. The message says how to proceed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Brake {
    /// The clock is earlier than the last run.
    #[error(
        "no VM was destroyed: gc last ran {hours} h in the future, so the clock has jumped; set the clock right \
         (timedatectl), or destroy them now with --accept-gap"
    )]
    ClockBehind {
        /// Hours from now to the last run.
        hours: i64,
    },
    /// The last run was too long ago: the clock may have jumped forward.
    #[error(
        "no VM was destroyed: gc last ran {days} days ago (gc_max_gap_days is {limit}), so the clock may be wrong; \
         check it (timedatectl). The next run will destroy them; --accept-gap does it now"
    )]
    Gap {
        /// Days since the last run.
        days: i64,
        /// The limit.
        limit: u32,
    },
    /// The time of the last run cannot be read.
    #[error(
        "no VM was destroyed: cannot read when gc last ran: {0}; to destroy them anyway, use --accept-gap"
    )]
    Note(String),
    /// Too many VMs are due at once.
    #[error(
        "no VM was {what}: {count} of {live} VMs are due at once (gc_max_share is {share}){}; check the clock \
         (timedatectl) and the expiry dates (blockhost-vm-gc), then run with --accept-share",
        .clock.map(|clock| format!(", and {clock}")).unwrap_or_default()
    )]
    Share {
        /// `suspended` or `destroyed`.
        what: &'static str,
        /// How many VMs are due.
        count: usize,
        /// How many VMs there are.
        live: usize,
        /// The limit.
        share: f64,
        /// Why the clock is not trusted; the share is then checked even for a single VM.
        clock: Option<ClockAhead>,
    },
}

/// Returns why destroying is stopped, if it is. `last_run` is the recorded time of the last `--execute` run. If there
/// is none, the last run counts as now; if it cannot be read, destroying is stopped, because a brake that fails open is
/// no brake.
pub fn brake(
    candidates: &Candidates,
    last_run: Result<Option<DateTime<Utc>>, &str>,
    now: DateTime<Utc>,
    limits: Limits,
    clock: Option<ClockAhead>,
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
    share_brake("destroyed", candidates.destroy.len(), candidates.live, limits, clock)
}

/// Returns why suspending is stopped, if it is: only because too large a share of the VMs is due. An unpaid VM that
/// keeps running costs little; suspending every VM because of a wrong clock costs customers (H62).
pub fn suspend_brake(candidates: &Candidates, limits: Limits, clock: Option<ClockAhead>) -> Option<Brake> {
    share_brake("suspended", candidates.suspend.len(), candidates.live, limits, clock)
}

fn share_brake(
    what: &'static str,
    count: usize,
    live: usize,
    limits: Limits,
    clock: Option<ClockAhead>,
) -> Option<Brake> {
    let share = count as f64 / live.max(1) as f64;
    // A few VMs at once are normal, unless the wall clock says that they are due and another clock says that they are
    // not.
    let is_many = count > if clock.is_some() { 0 } else { FEW };
    (!limits.accept_share && is_many && share > limits.max_share).then_some(Brake::Share {
        what,
        count,
        live,
        share: limits.max_share,
        clock,
    })
}

/// Whether to record this run as the last one. This holds for every run whose clock is not behind, including refused
/// ones. If an operator has confirmed the clock with `--accept-gap`, the recorded time was wrong; if kept, it would
/// stop every run until that time comes.
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
            anti_spoofing: None,
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
        let mut guarded = vm("guarded", Status::Active, -30, None);
        guarded.protected = true;
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
            guarded,
            endless,
        ]);
        assert_eq!(names(&found.suspend), ["over"]);
        assert_eq!(names(&found.destroy), ["grace-over"]);
        assert_eq!(names(&found.stay_suspended), ["in-grace", "renewed", "future-suspension", "protected"]);
        assert_eq!((found.live, found.left_alone.len()), (9, 3));
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
        assert_eq!(brake(&due(1, 9), Ok(None), now, LIMITS, None), None);
        assert_eq!(brake(&due(1, 9), Ok(Some(at(-14))), now, LIMITS, None), None);
        assert!(matches!(
            brake(&due(1, 9), Ok(Some(at(-15))), now, LIMITS, None),
            Some(Brake::Gap { days: 15, limit: 14 })
        ));
        assert!(matches!(
            brake(&due(1, 9), Ok(Some(at(1))), now, LIMITS, None),
            Some(Brake::ClockBehind { hours: 24 })
        ));
        let accepted = Limits { accept_gap: true, ..LIMITS };
        assert_eq!(brake(&due(1, 9), Ok(Some(at(-900))), now, accepted, None), None);
        assert_eq!(brake(&due(3, 3), Ok(None), now, LIMITS, None), None, "three are few");
        assert!(matches!(
            brake(&due(4, 7), Ok(None), now, LIMITS, None),
            Some(Brake::Share { count: 4, live: 7, .. })
        ));
        assert_eq!(brake(&due(4, 8), Ok(None), now, LIMITS, None), None, "half is allowed");
        assert_eq!(brake(&due(4, 4), Ok(None), now, Limits { accept_share: true, ..LIMITS }, None), None);
        assert_eq!(brake(&due(0, 4), Ok(Some(at(1))), now, LIMITS, None), None, "suspending goes on");
        let unreadable = Err("gc-last-run.json: not valid JSON");
        assert!(matches!(brake(&due(1, 9), unreadable, now, LIMITS, None), Some(Brake::Note(_))));
        assert_eq!(brake(&due(1, 9), unreadable, now, accepted, None), None);
        let noted = |last| note_this_run(last, now, LIMITS);
        assert!(noted(Ok(None)) && noted(Ok(Some(at(-900)))));
        assert!(!noted(Ok(Some(at(1)))) && !noted(unreadable));
        assert!(note_this_run(Ok(Some(at(1))), now, accepted) && note_this_run(unreadable, now, accepted));
    }

    #[test]
    fn h62_a_clock_ahead_of_the_others_counts_from_one_vm() {
        let now = at(40);
        let uptime = |boot: &str, hours: i64| Uptime { boot_id: boot.into(), seconds: hours * 3600 };
        let believed = BelievedClock { at: at(0), uptime: uptime("one", 10) };
        let others = |up: Uptime, node: Option<DateTime<Utc>>| OtherClocks {
            believed: Some(believed.clone()),
            uptime: Some(up),
            node,
        };
        // 40 days by the wall clock, one day by the uptime.
        let ahead = clock_ahead(now, &others(uptime("one", 34), Some(now)));
        assert_eq!(ahead, Some(ClockAhead::OfUptime { days: 39 }));
        assert_eq!(clock_ahead(now, &others(uptime("one", 10 + 40 * 24), None)), None, "it has been running");
        assert_eq!(clock_ahead(now, &others(uptime("two", 1), None)), None, "a reboot says nothing");
        assert_eq!(clock_ahead(now, &OtherClocks::default()), None);
        let node = OtherClocks { node: Some(at(0)), ..OtherClocks::default() };
        assert_eq!(clock_ahead(now, &node), Some(ClockAhead::OfNode { days: 40 }));
        assert_eq!(clock_ahead(at(1), &node), None, "a day is not much");
        assert_eq!(clock_ahead(at(-40), &node), None, "one that is behind suspends nothing");

        let name = VmName::parse("a").unwrap();
        let suspend =
            |count, live| Candidates { suspend: vec![name.clone(); count], live, ..Candidates::default() };
        for (count, live, believed, doubted) in [
            (1, 1, true, false),
            (3, 3, true, false),
            (1, 3, true, true),
            (4, 4, false, false),
            (4, 8, true, true),
            (5, 9, false, false),
        ] {
            let goes_on = |clock, limits| suspend_brake(&suspend(count, live), limits, clock).is_none();
            assert_eq!(
                (goes_on(None, LIMITS), goes_on(ahead, LIMITS)),
                (believed, doubted),
                "{count} of {live}"
            );
            assert!(goes_on(ahead, Limits { accept_share: true, ..LIMITS }));
            let destroy = brake(&due(count, live), Ok(None), now, LIMITS, ahead).is_none();
            assert_eq!(destroy, doubted, "{count} of {live}");
        }
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
