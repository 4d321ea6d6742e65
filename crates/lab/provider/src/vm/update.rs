//! Update in place: what differs goes into the configuration, disks grow, `started` is brought about.
//!
//! No conversation of the real provider was recorded for this; the calls are those of create.

use super::{Vm, create, delete, drive, observe, refuse_unknown_parts, seconds, settings};
use crate::{
    api::{Api, ApiError, Tolerance, form, text},
    diagnostic::Diagnostic,
    schema::same,
    value::Value,
};

/// What a running VM takes up only when it is started anew.
const NEEDS_REBOOT: [&str; 8] =
    ["agent", "cpu", "memory", "network_device", "initialization", "smbios", "scsi_hardware", "machine"];

/// Brings the VM from `before` to `after`. The answer is the new state; after a failure it is what was
/// planned, as with the SDK of the real provider: the next refresh tells how far it came.
pub async fn update(api: &Api, before: &Value, after: &Value) -> (Value, Vec<Diagnostic>) {
    let mut said = Vec::new();
    match change(api, before, after, &mut said).await {
        Ok(state) => (state, said),
        Err(error) => {
            said.push(error);
            let mut planned = after.clone();
            planned.settle();
            (planned, said)
        }
    }
}

async fn change(
    api: &Api,
    before: &Value,
    after: &Value,
    said: &mut Vec<Diagnostic>,
) -> Result<Value, Diagnostic> {
    refuse_unknown_parts(after)?;
    let id = before.int("vm_id").unwrap_or(0);
    let vm = Vm { api, node: before.text("node_name").unwrap_or_default().to_string(), id };
    let failed = |error: ApiError| Diagnostic::error(format!("error updating VM {id}: {error}"));

    let config = vm.config().await.map_err(failed)?;
    api.point("update.config.before").await.map_err(failed)?;
    let interface = settings::cloud_init_interface(after, drive::cloud_init(&config, id).as_deref());
    if let Some(body) = settings::of_change(api.version, before, after, &interface) {
        vm.configure(&body).await?;
    }
    api.point("update.config.after").await.map_err(failed)?;
    if !same(before.get("disk"), after.get("disk")) {
        for disk in after.list("disk") {
            drive::bring_to(&vm, &config, disk, "update").await?;
        }
    }

    let running = text(&vm.status().await.map_err(failed)?, "status") == "running";
    let changed = |key: &&str| !same(before.get(key), after.get(key));
    match after.bool("started") != Some(false) {
        true if !running => create::start(&vm, after, "update", said).await?,
        false if running => {
            let ended = delete::shut_down(&vm, after, "update").await?;
            create::warn(said, "VM shutdown", &ended);
            vm.until("stopped").await.map_err(failed)?;
        }
        true if after.bool("reboot_after_update") != Some(false) && NEEDS_REBOOT.iter().any(changed) => {
            let limit = seconds(after, "timeout_reboot", 1800).as_secs().to_string();
            let task =
                api.post(&vm.path("status/reboot"), &form([("timeout", limit)])).await.map_err(failed)?;
            api.wait(task, Tolerance::ByVersion).await.map_err(failed)?;
        }
        _ => {}
    }
    observe::read_after(api, after, "update", said).await
}
