//! One VM: its record against what the node says of it.

use super::kinds::*;
use super::{Finding, Fix};
use crate::value::identity::Identity;
use crate::value::vm_record::{Status, VmRecord};
use crate::value::vm_state::VmState;
use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;

/// What a VM is compared with.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// The host routes to single IPv6 addresses, with their devices; `None`: they cannot be read.
    pub routes: Option<&'a HashMap<Ipv6Addr, Vec<String>>>,
    /// The guests' bridge.
    pub bridge: Option<&'a str>,
    /// The pool of our VMs, and the VMIDs that the API shows in it; `None`: not known.
    pub pool: Option<(&'a str, &'a HashSet<u32>)>,
    /// The guard's hook script is not where VMs look for it; false if that is not known.
    pub lacks_hook_script: bool,
}

/// The words by which a VM is named.
pub fn label(record: &VmRecord) -> String {
    format!("VM {} (VMID {})", record.name, record.vmid)
}

/// What is wrong with a VM. `state`: what the node says about its VMID.
pub fn findings(record: &VmRecord, state: &VmState, around: &Surroundings<'_>) -> Vec<Finding> {
    let name = record.name.as_str();
    let label = label(record);
    let finding = |kind, what: String, mend: String| Finding::new(kind, &label, what, mend).of(name);
    if !state.exists {
        let what = "the node has no such VM".to_string();
        let mend = format!("restore it from a backup, or close its record: blockhost-vm-destroy {name}");
        return vec![finding(&VM_MISSING, what, mend)];
    }
    let identity = record.smbios_uuid.map_or_else(|| Identity::Name(record.name.clone()), Identity::Uuid);
    if !state.is(&identity, &record.name) || state.template {
        return vec![match state.tells_whose() {
            true => finding(
                &VMID_TAKEN_OVER,
                format!(
                    "VMID {} now belongs to another guest: expected {identity}, found {}",
                    record.vmid,
                    state.description()
                ),
                format!(
                    "if the VM was deleted outside BlockHost, close its record: blockhost-vm-destroy {name}"
                ),
            ),
            false => finding(
                &VM_NOT_CHECKED,
                format!("node {} has a VM with this VMID, but its configuration cannot be read", state.node),
                format!("blockhost-vm-status {name}, once node {} is up", state.node),
            ),
        }];
    }
    if state.elsewhere {
        let (node, vmid) = (&state.node, record.vmid);
        let what = format!("it is on node {node}");
        return vec![finding(
            &VM_ELSEWHERE,
            what,
            format!("migrate it back, on {node}: qm migrate {vmid} TARGET"),
        )];
    }
    let mut found = power(record, state, &finding);
    if record.status == Status::Active && !state.starting {
        if state.running {
            found.extend(network(record, state, around, &finding));
        }
        found.extend(guard(record, state, around, &finding));
    }
    if let Some((pool, members)) = around.pool
        && !members.contains(&record.vmid.get())
    {
        let mend = format!("pvesh set /pools/{pool} --vms {}", record.vmid);
        found.push(finding(&VM_OUTSIDE_POOL, format!("it is not in pool {pool}"), mend));
    }
    if record.smbios_uuid.is_none() {
        let what = "its record has no UUID: the older package created it".to_string();
        found.push(finding(&VM_OF_OLDER_PACKAGE, what, IMPORT.replace("NAME", name)));
    }
    found
}

/// What is told of a VM of the older package.
const IMPORT: &str =
    "blockhost-provisioner-import shows what NAME lacks, and with --apply gives it a UUID while it runs";

type Make<'a> = &'a dyn Fn(&'static Kind, String, String) -> Finding;

fn power(record: &VmRecord, state: &VmState, finding: Make<'_>) -> Vec<Finding> {
    let (name, vmid) = (&record.name, record.vmid);
    let mut found = Vec::new();
    if !state.lock.is_empty() {
        let what = format!("it is locked ({})", state.lock);
        let mend = format!("wait until the {} ends; a stale lock: qm unlock {vmid}", state.lock);
        found.push(finding(&VM_LOCKED, what, mend));
    }
    match (record.status, state.running) {
        (Status::Suspended, true) => {
            let what = "it is suspended, but running".to_string();
            let mend = format!("blockhost-vm-stop {name}, or if it is paid for: blockhost-vm-resume {name}");
            found.push(finding(&VM_SUSPENDED_RUNNING, what, mend));
        }
        (Status::Active, false) if !state.starting => {
            let what = "it is active, but off".to_string();
            found.push(finding(&VM_OFF, what, format!("blockhost-vm-start {name}")));
        }
        (Status::Active, true) if state.paused == Some(true) => {
            let what = "it is paused".to_string();
            found.push(finding(&VM_PAUSED, what, format!("blockhost-vm-start {name}")));
        }
        _ => {}
    }
    match (record.status, state.onboot) {
        (Status::Suspended, true) => {
            let what = "it is suspended, but set to start with the node (onboot 1)".to_string();
            found.push(finding(&VM_BOOTS_SUSPENDED, what, format!("qm set {vmid} --onboot 0")));
        }
        (Status::Active, false) => {
            let what = "it is active, but not set to start with the node (onboot 0)".to_string();
            found.push(finding(&VM_STAYS_OFF_AT_BOOT, what, format!("qm set {vmid} --onboot 1")));
        }
        _ => {}
    }
    found
}

/// What guards its network at every start. A root agent that does not tell is older, which is said elsewhere.
fn guard(record: &VmRecord, state: &VmState, around: &Surroundings<'_>, finding: Make<'_>) -> Vec<Finding> {
    let Some(report) = &state.guard else { return Vec::new() };
    let mend = || "blockhost-provisioner-reapply".to_string();
    let reconnect = || Fix::Reconnect(record.name.to_string());
    let mut found = Vec::new();
    if !report.set || !report.hook {
        let what = match report.set {
            true => "the guard's hook script is not set",
            false => "nothing is decided for its guard",
        };
        found.push(finding(&HOOK_NOT_SET, what.to_string(), mend()).mended_by(reconnect()));
    }
    if report.hook && around.lacks_hook_script && record.status == Status::Active {
        let what = "its hook script blockhost-guard.sh is missing".to_string();
        found.push(finding(&HOOK_MISSING, what, mend()).mended_by(reconnect()));
    }
    if state.running && report.set && report.enabled && !report.applied {
        let missing = report.missing.join("; ");
        let what = if missing.is_empty() { "its guard has not run".to_string() } else { missing };
        found.push(finding(&GUARD_INCOMPLETE, what, mend()).mended_by(reconnect()));
    }
    found
}

fn network(record: &VmRecord, state: &VmState, around: &Surroundings<'_>, finding: Make<'_>) -> Vec<Finding> {
    let (name, vmid) = (&record.name, record.vmid);
    let again = format!("blockhost-vm-start {name}");
    let reconnect = Fix::Reconnect(name.to_string());
    let mut found = Vec::new();
    if let (Some(address), Some(routes), Some(bridge)) = (record.ipv6, around.routes, around.bridge)
        && !routes.get(&address).is_some_and(|devices| devices.iter().any(|device| device == bridge))
    {
        let what = match routes.get(&address).and_then(|devices| devices.first()) {
            Some(other) => format!("the host route to {address} leads to {other} instead of {bridge}"),
            None => format!("there is no host route to {address}"),
        };
        found.push(finding(&ROUTE_MISSING, what, again.clone()).mended_by(reconnect.clone()));
    }
    if state.no_card {
        let what = "it has no network card net0".to_string();
        found.push(finding(&CARD_MISSING, what, format!("qm config {vmid}")));
    } else if let (Some(port), false) = (&state.firewall_port, state.isolated == Some(true)) {
        let what = format!("Proxmox' firewall is on for its card, so its port is {port}");
        let mend = format!("set firewall=0 on net0: qm config {vmid}, then qm set {vmid} --net0 …");
        found.push(finding(&PORT_BEHIND_FIREWALL, what, mend));
    } else if state.connected == Some(false) {
        let what = format!("tap{vmid}i0 is not a port of the bridge");
        found.push(finding(&PORT_NOT_CONNECTED, what, format!("blockhost-vm-stop {name}, then {again}")));
    } else if state.isolated == Some(false) {
        let what = format!("its port tap{vmid}i0 is not isolated");
        found.push(finding(&PORT_NOT_ISOLATED, what, again).mended_by(reconnect));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;
    use crate::value::limits::Limits;
    use crate::value::vm_state::GuardReport;
    use crate::value::vmid::Vmid;
    use uuid::Uuid;

    fn running() -> VmState {
        VmState {
            exists: true,
            running: true,
            uuid: Some(Uuid::from_u128(100)),
            onboot: true,
            connected: Some(true),
            isolated: Some(true),
            ..VmState::default()
        }
    }

    #[test]
    fn each_deviation_has_its_finding_and_a_healthy_vm_has_none() {
        let record = record("web-1", 100);
        let routes = HashMap::from([(record.ipv6.unwrap(), vec!["vmbr0".to_string()])]);
        let pool = HashSet::from([100]);
        let around = Surroundings {
            routes: Some(&routes),
            bridge: Some("vmbr0"),
            pool: Some(("blockhost", &pool)),
            ..Surroundings::default()
        };
        let codes = |change: &dyn Fn(&mut VmRecord, &mut VmState)| -> Vec<&str> {
            let (mut record, mut state) = (record.clone(), running());
            change(&mut record, &mut state);
            findings(&record, &state, &around).iter().map(|finding| finding.kind.code).collect()
        };
        assert_eq!(codes(&|_, _| {}), [""; 0]);
        let suspended = |r: &mut VmRecord| r.status = Status::Suspended;
        type Case<'a> = (&'a dyn Fn(&mut VmRecord, &mut VmState), &'a [&'a str]);
        let cases: [Case<'_>; 16] = [
            (&|_, s| s.exists = false, &["vm-missing"]),
            (&|_, s| s.uuid = None, &["vmid-taken-over"]),
            (&|_, s| s.template = true, &["vmid-taken-over"]),
            (&|_, s| (s.elsewhere, s.uuid) = (true, None), &["vm-not-checked"]),
            (&|_, s| s.elsewhere = true, &["vm-elsewhere"]),
            (&|r, _| suspended(r), &["vm-suspended-running", "vm-boots-suspended"]),
            (
                &|r, s| {
                    suspended(r);
                    s.running = false;
                },
                &["vm-boots-suspended"],
            ),
            (&|_, s| s.running = false, &["vm-off"]),
            (&|_, s| s.paused = Some(true), &["vm-paused"]),
            (&|_, s| s.onboot = false, &["vm-stays-off-at-boot"]),
            (&|_, s| s.lock = "backup".into(), &["vm-locked"]),
            (&|_, s| s.isolated = Some(false), &["port-not-isolated"]),
            (&|_, s| (s.connected, s.isolated) = (Some(false), None), &["port-not-connected"]),
            (
                &|_, s| (s.firewall_port, s.isolated) = (Some("fwpr100p0".into()), None),
                &["port-behind-firewall"],
            ),
            (&|_, s| (s.no_card, s.connected) = (true, None), &["card-missing"]),
            (&|r, _| r.ipv6 = "2001:db8::ffff".parse().ok(), &["route-missing"]),
        ];
        for (change, expected) in cases {
            assert_eq!(codes(change), expected);
        }
        let mut elsewhere = record.clone();
        elsewhere.vmid = Vmid::new(101).unwrap();
        let codes: Vec<&str> =
            findings(&elsewhere, &running(), &around).iter().map(|finding| finding.kind.code).collect();
        assert_eq!(codes, ["vm-outside-pool"]);
    }

    #[test]
    fn h54_a_vm_whose_start_has_not_ended_lacks_nothing_yet() {
        let record = record("web-1", 100);
        let routes = HashMap::new();
        let around = Surroundings { routes: Some(&routes), bridge: Some("vmbr0"), ..Surroundings::default() };
        let starting = VmState { starting: true, isolated: Some(false), ..running() };
        assert_eq!(findings(&record, &starting, &around), []);
        assert_eq!(findings(&record, &VmState { isolated: Some(false), ..running() }, &around).len(), 2);
    }

    #[test]
    fn h36_a_vm_whose_starts_are_not_guarded_is_found() {
        let record = record("web-1", 100);
        let seen = |is_gone: bool, change: fn(&mut GuardReport)| -> Vec<&str> {
            let mut report = GuardReport {
                set: true,
                hook: true,
                enabled: true,
                applied: true,
                limits: Limits::default(),
                missing: Vec::new(),
            };
            change(&mut report);
            let state = VmState { guard: Some(Box::new(report)), ..running() };
            let around = Surroundings { lacks_hook_script: is_gone, ..Surroundings::default() };
            findings(&record, &state, &around).iter().map(|one| one.kind.code).collect()
        };
        let codes = |change| seen(false, change);
        assert_eq!(codes(|_| {}), [""; 0]);
        assert_eq!(codes(|report| report.hook = false), ["hook-not-set"]);
        assert_eq!(codes(|report| report.set = false), ["hook-not-set"]);
        assert_eq!(codes(|report| report.applied = false), ["guard-incomplete"]);
        assert_eq!(codes(|report| (report.applied, report.enabled) = (false, false)), [""; 0], "H51");
        assert_eq!(seen(true, |_| {}), ["hook-missing"], "a start by anybody but us fails");
        assert_eq!(seen(true, |report| report.hook = false), ["hook-not-set"], "it does not need it");
    }

    #[test]
    fn h51_a_suspended_vm_lacks_no_route() {
        let record = VmRecord { status: Status::Suspended, ..record("web-1", 100) };
        let routes = HashMap::new();
        let around = Surroundings { routes: Some(&routes), bridge: Some("vmbr0"), ..Surroundings::default() };
        let off = VmState { running: false, onboot: false, ..running() };
        assert_eq!(findings(&record, &off, &around), []);
    }
}
