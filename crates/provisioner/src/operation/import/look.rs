//! What the node says: whether the guest at a VMID is the VM, and no other guest could be. The root agent proves it, as it
//! will prove it again in the request that marks the VM (hazard H02); nothing is changed here.

use super::survey::Candidate;
use super::{Row, Verdict};
use crate::host::clock::Deadline;
use crate::host::root_agent::AgentError;
use crate::operation::Context;
use crate::plan::import::Finding;
use crate::tool::guest_adoption::{Adopted, Adoption, UserData};
use crate::value::identity::Identity;
use crate::value::vm_record::VmRecord;
use crate::value::vmid::Vmid;
use std::time::Duration;
use uuid::Uuid;

/// For one VM.
const LOOK: Duration = Duration::from_secs(30);

/// A VM that is proven.
pub struct Proven {
    /// Its true VMID.
    pub vmid: Vmid,
    /// What the root agent would do.
    pub adopted: Adopted,
}

/// Looks at one VM.
pub fn one(ctx: &Context<'_>, candidate: &Candidate) -> (Row, Option<Proven>) {
    let mut row = candidate.row.clone();
    let deadline = ctx.host.deadline(LOOK);
    let recorded = candidate.record.vmid;
    let in_state = candidate.claim.state.as_ref().and_then(|vm| vm.vmid);
    let in_state = in_state.and_then(|n| Vmid::new(u64::from(n)).ok());
    let first = in_state.unwrap_or(recorded);
    let found = match ask(ctx, candidate, first, deadline) {
        Ok(adopted) => {
            if first != recorded {
                row.find(Finding::WrongVmid);
            }
            Ok((first, adopted))
        }
        // Where the state is wrong, record and node may agree.
        Err(refused) if first != recorded && is_an_answer(&refused) => {
            match ask(ctx, candidate, recorded, deadline) {
                Ok(adopted) => {
                    row.find(Finding::StaleState);
                    Ok((recorded, adopted))
                }
                Err(second) if is_an_answer(&second) => Err((recorded, second, Some((first, refused)))),
                Err(second) => Err((recorded, second, None)),
            }
        }
        Err(refused) => Err((first, refused, None)),
    };
    match found {
        Ok((vmid, adopted)) => {
            row.node_vmid = Some(vmid.get());
            row.running = Some(adopted.running);
            row.uuid = Some(adopted.uuid);
            row.verdict = Verdict::Ready;
            if adopted.uuid_pending {
                row.find(Finding::UuidAtNextStart);
            }
            if adopted.user_data == UserData::Missing {
                row.find(Finding::MissingSnippet);
            }
            (row, Some(Proven { vmid, adopted }))
        }
        Err((vmid, refused, other)) => {
            refusal(ctx, candidate, &mut row, (vmid, &refused), other.as_ref(), deadline);
            (row, None)
        }
    }
}

/// What the root agent is asked about a VM. The UUID that one without any gets is drawn anew each time: it counts from
/// the moment at which the VM is marked with it.
pub fn adoption(candidate: &Candidate) -> Adoption<'_> {
    Adoption {
        name: &candidate.record.name,
        address: candidate.record.ipv4,
        uuid: candidate.uuid,
        new_uuid: Uuid::new_v4(),
    }
}

fn ask(
    ctx: &Context<'_>,
    candidate: &Candidate,
    vmid: Vmid,
    deadline: Deadline,
) -> Result<Adopted, AgentError> {
    ctx.node().impatient().check_adoption(vmid, &adoption(candidate), deadline)
}

/// Whether the node has said what is at the VMID: missing, another guest.
fn is_an_answer(refused: &AgentError) -> bool {
    matches!(refused.code(), "missing" | "identity" | "elsewhere" | "range")
}

fn refusal(
    ctx: &Context<'_>,
    candidate: &Candidate,
    row: &mut Row,
    (vmid, refused): (Vmid, &AgentError),
    other: Option<&(Vmid, AgentError)>,
    deadline: Deadline,
) {
    let words = match other {
        None => said(refused),
        Some((state_vmid, why)) => format!(
            "record and Terraform state disagree, and neither VMID is a VM of this name: VMID {vmid}: {}; VMID \
             {state_vmid}: {}",
            said(refused),
            said(why)
        ),
    };
    let codes = [Some(refused.code()), other.map(|(_, why)| why.code())];
    let all = |code: &str| codes.iter().flatten().all(|found| *found == code);
    let finding = match refused.code() {
        "missing" if all("missing") => return missing(ctx, candidate, row, deadline),
        "missing" | "identity" => Finding::NotOurs,
        "elsewhere" => Finding::Elsewhere,
        "collision" => Finding::NameCollision,
        "range" => Finding::OutOfRange,
        "locked" => Finding::Locked,
        _ if refused.is_unknown_action() => {
            let restart = "the root agent is older than this command; restart blockhost-root-agent";
            return row.refuse(Finding::Unknown, restart);
        }
        _ => Finding::Unknown,
    };
    let advice = match finding {
        Finding::NameCollision => "; rename the other guest, then try again",
        Finding::Elsewhere => "; run this there, or migrate the VM back",
        Finding::Locked => "; try again when the lock is gone",
        Finding::OutOfRange => "; widen vmid_range in db.yaml, then try again",
        _ => "",
    };
    row.refuse(finding, format!("{words}{advice}"));
}

/// The root agent's own words, without ours around them.
fn said(error: &AgentError) -> String {
    match error {
        AgentError::Said { error, .. } => error.clone(),
        other => other.to_string(),
    }
}

/// Neither VMID exists: gone, unless a guest somewhere in the cluster could be it.
fn missing(ctx: &Context<'_>, candidate: &Candidate, row: &mut Row, deadline: Deadline) {
    let name = &candidate.record.name;
    match ctx.node().impatient().find(&Identity::Name(name.clone()), candidate.record.ipv4, deadline) {
        Ok(found) if found.is_empty() => row.refuse(
            Finding::Gone,
            format!("no guest of the cluster is this VM; close its record with blockhost-vm-destroy {name}"),
        ),
        Ok(found) => row.refuse(
            Finding::NameCollision,
            format!(
                "the VM is gone from its VMID, and {} has its name or its address, but neither its record nor the \
                 Terraform state names that VMID; nothing proves that it is this VM",
                found.join(", ")
            ),
        ),
        Err(error) => row.refuse(Finding::Unknown, said(&error)),
    }
}

/// A VM of today's form whose UUID is not in force yet: known by its description until its next start. With `apply` the
/// change that waits is made again, should somebody have reverted it.
pub fn waits_for_start(ctx: &Context<'_>, record: &VmRecord, apply: bool) -> Option<Row> {
    let (uuid, deadline) = (record.smbios_uuid?, ctx.host.deadline(LOOK));
    let identity = Identity::Uuid(uuid);
    let state = ctx.node().impatient().state(record.vmid, Some(&identity), deadline).ok()?;
    let is_ours = state.exists && state.is(&identity, &record.name) && !state.elsewhere;
    if !is_ours || state.uuid == Some(uuid) || !state.lock.is_empty() {
        return None;
    }
    let mut row = Row::new(record.name.as_str());
    row.status = Some(record.status);
    (row.record_vmid, row.node_vmid) = (Some(record.vmid.get()), Some(record.vmid.get()));
    (row.running, row.uuid) = (Some(state.running), Some(uuid));
    row.find(Finding::UuidAtNextStart);
    row.verdict = Verdict::Waiting;
    row.detail = "known by its description until its next start, which sets its SMBIOS UUID".to_string();
    if apply {
        super::carry_out::set_uuid_again(ctx, record, &mut row);
    }
    Some(row)
}
