//! What may be done to which machine, judged at the moment it is done: the model's own rules, written from the
//! contract (`facts/contract/`) and not from the product.

use super::book::text;
use super::world::World;
use chrono::{DateTime, TimeDelta, Utc};
use provisioner::operation::gc::Options;
use serde_json::{Map, Value};

/// What is done to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Start,
    Stop,
    Destroy,
    /// `onboot`, on or off.
    Onboot(bool),
}

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    Create { wallet: usize },
    Destroy { force: bool },
    Start { force: bool },
    Stop,
    Kill,
    Resume { extend: Option<u32>, dry_run: bool },
    Gc(Options),
    Reapply,
    Status,
    List,
}

/// A command under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Doing {
    pub verb: Verb,
    /// Its VM; empty for those that look at all.
    pub name: String,
    /// gc: whether its brakes must hold it, by the database and the note as it found them.
    pub braked: bool,
}

pub fn time(record: &Map<String, Value>, key: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text(record, key)).ok().map(|t| t.to_utc())
}

/// Suspended, grace over, not paid again, not protected (H10, H11).
pub fn may_be_destroyed(record: &Map<String, Value>, now: DateTime<Utc>, grace_days: u32) -> bool {
    text(record, "status") == "suspended"
        && record.get("protected") != Some(&Value::Bool(true))
        && time(record, "expires_at").is_some_and(|end| end < now)
        && time(record, "suspended_at")
            .is_some_and(|since| now - since > TimeDelta::days(i64::from(grace_days)))
}

pub fn is_paid(record: &Map<String, Value>, now: DateTime<Utc>) -> bool {
    time(record, "expires_at").is_some_and(|end| end > now)
}

impl World {
    /// An act is about to be done.
    pub fn judge(&self, act: Act, vmid: u32) {
        let guest = self.node.borrow().guests[&vmid].clone();
        let doing = self.doing.borrow().last().cloned();
        let Some(doing) = doing else { return };
        let what = format!("{act:?} of VMID {vmid} ({:?}, named {}) by {doing:?}", guest.origin, guest.name);
        if !guest.is_ours() {
            return self.violation(format!("a stranger was touched: {what}"));
        }
        let name = guest.birth_name();
        let record = self.record(name).filter(|r| {
            // A record of the older package, which a copy has brought back, knows its machine by the name alone.
            let uuid = text(r, "smbios_uuid");
            text(r, "status") != "destroyed"
                && (uuid.is_empty() || uuid == guest.birth_uuid().unwrap_or_default())
        });
        let mine = doing.name == name;
        let Some(record) = record else {
            // A create that died may be undone by many, its guest touched by nobody else.
            let entry = self.journal().remove(name);
            let unregistered = entry.is_some_and(|e| {
                matches!(e["step"].as_str(), Some("taken" | "applying"))
                    && e["smbios_uuid"].as_str() == guest.birth_uuid()
            });
            let undoes = matches!(doing.verb, Verb::Create { .. } | Verb::Destroy { .. } | Verb::Gc(_));
            // Lost while the operation was at it: what was begun goes on, but nothing is deleted that is not asked for.
            let lost = self.book.borrow().disturbed.contains(name) && self.others_acted.get() > 0;
            let lost_meanwhile = lost && (mine || act != Act::Destroy);
            let late_start = self.answering_late.get() && act == Act::Start;
            if !(unregistered && undoes || lost_meanwhile || late_start) {
                self.violation(format!("neither record nor entry allows it: {what}"));
            }
            return;
        };
        let (now, status) = (self.now(), text(&record, "status").to_string());
        let paid = is_paid(&record, now);
        let protected = record.get("protected") == Some(&Value::Bool(true));
        let allowed = match (act, &doing.verb) {
            (_, Verb::Gc(options)) if options.execute => match act {
                Act::Destroy => {
                    may_be_destroyed(&record, now, options.grace_days.unwrap_or(7)) && !doing.braked
                }
                // Switched off while it is renewed: it must be started again, which is looked at in the end.
                Act::Stop | Act::Onboot(false) => {
                    status == "suspended" || !paid || self.others_acted.get() > 0
                }
                Act::Start | Act::Onboot(true) => status == "active",
            },
            (Act::Destroy, Verb::Destroy { force }) => mine && (*force || !protected),
            (Act::Stop, Verb::Destroy { .. } | Verb::Stop | Verb::Kill) => mine,
            (Act::Start, Verb::Start { force }) => mine && (*force || paid || status == "active"),
            (Act::Start, Verb::Resume { dry_run, .. }) => mine && !dry_run,
            (Act::Onboot(true), Verb::Start { .. } | Verb::Resume { .. }) => mine,
            _ => false,
        };
        if !allowed {
            self.violation(format!(
                "not allowed (status {status}, paid {paid}, protected {protected}): {what}"
            ));
        }
    }

    /// A snippet is about to be removed: none that a guest of ours still needs (H37).
    pub fn judge_snippet(&self, name: &str) {
        let Some(doing) = self.doing.borrow().last().cloned() else { return };
        let node = self.node.borrow();
        let needed = node.guests.iter().find(|(_, g)| g.birth_name() == name && g.birth_uuid().is_some());
        if let Some((vmid, guest)) = needed {
            self.violation(format!(
                "a snippet of {:?} (VMID {vmid}) was removed while it lives: by {doing:?}",
                guest.origin
            ));
        }
    }

    /// A route is about to be made: only to the address of a VM that should run (H51).
    pub fn judge_route(&self, address: &str) {
        let Some(doing) = self.doing.borrow().last().cloned() else { return };
        let database = self.database();
        let mut holders = super::book::records(&database).filter(|(_, r)| text(r, "ipv6_address") == address);
        let right = holders.any(|(_, r)| match &doing.verb {
            Verb::Reapply => text(r, "status") == "active",
            _ => text(r, "status") != "destroyed",
        });
        if !right && self.others_acted.get() == 0 && !self.answering_late.get() {
            self.violation(format!("a route to {address}, which no VM has that should run: by {doing:?}"));
        }
    }
}
