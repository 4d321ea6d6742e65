//! The template VM that a create clones: whether it can be cloned into a VM of ours, and whether it is unlocked.

use crate::host::patience::Patience;
use crate::operation::Context;
use crate::value::vmid::Vmid;
use serde_json::{Map, Value};
use std::time::Duration;

/// How long to wait for a locked template (for example, during a backup).
const LOCKED: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Fails if a clone would differ from the requested VM: the provider knows one disk, scsi0, and creates an empty one if
/// the template has none; a hook script would run on the node for each VM.
pub fn check_disks(template: Vmid, config: &Map<String, Value>) -> anyhow::Result<()> {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    if let Some(script) = text("hookscript") {
        anyhow::bail!(
            "template VM {template} has a hook script ({script}), which would run on the node for each VM cloned from \
             it; remove it with qm set {template} --delete hookscript"
        );
    }
    let mut disks: Vec<&str> =
        config.keys().map(String::as_str).filter(|key| is_disk(key, text(key))).collect();
    disks.sort_unstable();
    anyhow::ensure!(
        disks.contains(&"scsi0"),
        "template VM {template} has no disk scsi0 (its disks: {}); VMs boot from scsi0; move its system disk there, \
         or build a template with blockhost-build-template",
        if disks.is_empty() { "none".to_string() } else { disks.join(", ") }
    );
    anyhow::ensure!(
        disks == ["scsi0"],
        "template VM {template} has disks besides scsi0 ({}), which is not supported; remove them, or build a \
         template with blockhost-build-template",
        disks.join(", ")
    );
    let order = text("boot").and_then(|boot| boot.split(',').find_map(|part| part.strip_prefix("order=")));
    let first = match order {
        Some(order) => order.split(';').map(str::trim).find(|device| !device.is_empty()),
        None => text("bootdisk"),
    };
    anyhow::ensure!(
        first.is_none_or(|device| device == "scsi0"),
        "template VM {template} boots from {} first, but VMs boot from scsi0; change it with qm set {template} --boot \
         order=scsi0",
        first.unwrap_or_default()
    );
    Ok(())
}

fn is_disk(key: &str, drive: Option<&str>) -> bool {
    let bus = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_slot = key.len() > bus.len() && ["scsi", "virtio", "sata", "ide"].contains(&bus);
    is_slot
        && drive.is_some_and(|drive| !drive.split(',').any(|part| part == "media=cdrom") && drive != "none")
}

/// Waits while the template is locked. Nothing is taken meanwhile, and terraform is not run just to find out.
pub fn wait_until_free(ctx: &Context<'_>, template: Vmid) -> anyhow::Result<()> {
    let limit = ctx.host.limit("create-template-lock", LOCKED);
    let deadline = ctx.host.deadline(limit);
    let mut said = false;
    let mut patience = Patience::new(ctx.host.doors);
    loop {
        let state = match ctx.node().state(template, None, ctx.host.deadline(LOOK)) {
            Ok(state) => state,
            // If there is a problem, the clone will report it.
            Err(error) => {
                tracing::debug!("template VM {template}: {error}");
                return Ok(());
            }
        };
        if state.lock.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(
            !deadline.passed(),
            "template VM {template} is still locked ({}) after {} s; wait until that finishes, or remove a stale lock \
             with qm unlock {template}",
            state.lock,
            limit.as_secs_f64().round()
        );
        if !said {
            said = true;
            tracing::warn!(
                "template VM {template} is locked ({}); waiting for it, at most {} s",
                state.lock,
                limit.as_secs_f64().round()
            );
        }
        patience.still(|| format!("template VM {template} is still locked ({})", state.lock));
        ctx.host.sleep(LOOK_AGAIN);
        ctx.host.interrupt.check()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)]) -> Result<(), String> {
        let config = pairs.iter().map(|(key, value)| (key.to_string(), Value::from(*value))).collect();
        check_disks(Vmid::new(9001).unwrap(), &config).map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_has_one_disk_and_boots_from_it() {
        let disk = ("scsi0", "local-lvm:base-9001-disk-0,size=4G");
        let drive = ("ide2", "local-lvm:vm-9001-cloudinit,media=cdrom");
        for fine in [
            vec![disk],
            vec![disk, drive, ("scsihw", "virtio-scsi-pci"), ("unused0", "local:x"), ("efidisk0", "local:y")],
            vec![disk, ("boot", "order=scsi0;ide2;net0")],
            vec![disk, ("boot", "c"), ("bootdisk", "scsi0")],
            vec![disk, ("ide0", "none"), ("virtio1x", "no disk")],
        ] {
            assert_eq!(check(&fine), Ok(()), "{fine:?}");
        }
        for (wrong, words) in [
            (
                vec![("virtio0", "x,size=4G"), ("boot", "order=virtio0")],
                "has no disk scsi0 (its disks: virtio0)",
            ),
            (vec![drive], "its disks: none"),
            (vec![disk, ("scsi1", "x,size=1G")], "scsi0, scsi1"),
            (vec![disk, ("sata0", "x")], "sata0, scsi0"),
            (vec![disk, ("boot", "order=net0;scsi0")], "boots from net0 first"),
            (vec![disk, ("bootdisk", "virtio0")], "boots from virtio0 first"),
            (vec![disk, ("hookscript", "local:snippets/x.pl")], "--delete hookscript"),
        ] {
            let error = check(&wrong).unwrap_err();
            assert!(error.contains(words) && error.contains("9001"), "{error}");
        }
    }
}
