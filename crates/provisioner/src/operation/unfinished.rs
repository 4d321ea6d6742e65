//! Describes a VM that the database does not have yet or no longer has: its create or destroy is running, is queued, or
//! died halfway. The journal knows the step; the VM's lock shows whether anybody is working on it. Read-only.

use super::Context;
use crate::store::journal::{Entry, Step};
use crate::value::vm_name::VmName;
use chrono::{DateTime, Utc};

/// Describes the unfinished operation on `name`; `None` if there is none or it cannot be determined.
pub fn of_name(ctx: &Context<'_>, name: &VmName) -> Option<String> {
    // Read the lock's holder first: otherwise the entry read here could belong to an operation that began in between.
    let holder = ctx.journal().holder(name);
    match ctx.journal().read(name).ok()? {
        Some(entry) => Some(in_words(&entry, holder.as_deref(), ctx.host.now())),
        None => {
            let holder = holder.filter(|note| note.starts_with("create"))?;
            Some(format!("a create of this name is queued or has just started ({holder})"))
        }
    }
}

/// The names in the journal, for listing VMs that the database does not show.
pub fn names(ctx: &Context<'_>) -> Vec<VmName> {
    let entries = ctx.journal().entries().unwrap_or_default();
    entries.iter().filter_map(|entry| VmName::parse(&entry.name).ok()).collect()
}

pub(super) fn in_words(entry: &Entry, holder: Option<&str>, now: DateTime<Utc>) -> String {
    let (verb, step) = match entry.step {
        Step::Taken => ("create", "taken"),
        Step::Applying => ("create", "applying"),
        Step::Registered => ("create", "registered"),
        Step::Destroying => ("destroy", "destroying"),
    };
    let (name, vmid) = (&entry.name, entry.vmid);
    let began = format!("a {verb} of this name started {} ago", duration(now - entry.began_at));
    match (holder, verb) {
        (Some(holder), _) => {
            format!("{began} and is still running at step \"{step}\" (VMID {vmid}; locked by {holder})")
        }
        (None, "create") => format!(
            "{began} and died at step \"{step}\" (VMID {vmid}); run blockhost-vm-create again, or blockhost-vm-destroy {name} to roll it back"
        ),
        (None, _) => format!("{began} and died (VMID {vmid}); run blockhost-vm-destroy {name} again"),
    }
}

/// Formats a duration like `12 min`. One unit is enough to tell whether the operation can still be expected to end.
fn duration(time: chrono::TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_told_in_one_unit() {
        for (seconds, text) in
            [(-5, "0 s"), (119, "119 s"), (720, "12 min"), (7200, "2 h"), (172_800, "2 days")]
        {
            assert_eq!(duration(chrono::TimeDelta::seconds(seconds)), text);
        }
    }
}
