//! Delete: stop or shut down, wait, delete, see that it is gone.

use super::{Vm, create::flag, create::warn, seconds};
use crate::{
    api::{Api, ApiError, Ended, Tolerance, doubling, form, segment, text},
    diagnostic::Diagnostic,
    value::Value,
    version::{LATER, Version},
};

/// Deletes the VM of a state. The answer is the state afterwards (null when terraform may forget it).
pub async fn delete(api: &Api, state: &Value) -> (Value, Vec<Diagnostic>) {
    let mut said = Vec::new();
    match remove(api, state, &mut said).await {
        Ok(()) => (Value::Null, said),
        Err(error) => {
            said.push(error);
            (state.clone(), said)
        }
    }
}

async fn remove(api: &Api, state: &Value, said: &mut Vec<Diagnostic>) -> Result<(), Diagnostic> {
    let stop_limit = seconds(state, "timeout_stop_vm", 300);
    let shutdown_limit = seconds(state, "timeout_shutdown_vm", 1800);
    let api = &api.within(stop_limit.max(shutdown_limit));
    let id = state.int("vm_id").unwrap_or(0);
    let vm = Vm { api, node: state.text("node_name").unwrap_or_default().to_string(), id };

    // Not even "does not exist" is success here: a VM that is gone was dropped by the refresh before.
    let status = vm
        .status()
        .await
        .map_err(|error| Diagnostic::error(format!("error retrieving VM status: {error}")))?;
    if text(&status, "status") != "stopped" {
        let hard = state.bool("stop_on_destroy") == Some(true)
            || state.block("agent").is_none_or(|agent| agent.bool("enabled") != Some(true));
        let ended = if hard { stop(&vm, state).await? } else { shut_down(&vm, state, "delete").await? };
        warn(said, if hard { "VM stop" } else { "VM shutdown" }, &ended);
        if matches!(ended, Ended::WithWarnings(_)) && api.version >= Version(0, 101, 0) {
            // The real provider takes the warnings for its own result and returns: the VM stays on the
            // node, terraform forgets it.
            return Ok(());
        }
        vm.until("stopped").await.map_err(|error| {
            Diagnostic::of_step(api.version, "VM stop", &format!("error waiting for VM {id} to stop"), &error)
        })?;
    }

    let failed = |error: ApiError| {
        Diagnostic::of_step(api.version, "VM delete", &format!("error deleting VM {id}"), &error)
    };
    api.point("delete.delete.before").await.map_err(failed)?;
    let wanted = |key: &str| flag(state.bool(key) != Some(false));
    let path = format!(
        "/nodes/{}/qemu/{id}/?destroy-unreferenced-disks={}&purge={}",
        segment(&vm.node),
        wanted("delete_unreferenced_disks_on_destroy"),
        wanted("purge_on_destroy")
    );
    // Before 0.101 nothing but absence is final, a lost connection neither: the second request may find the VM gone, or
    // its rules, which is a 403.
    let worth = |error: &ApiError| match api.version >= LATER {
        true => error.is_server_side(),
        false => !error.is_missing(api.version),
    };
    let delete = |_| api.delete(&path);
    let task = api.again_telling(3, doubling(1.0), "", worth, delete).await.map_err(failed)?;
    let ended = api.wait(task, Tolerance::ByVersion).await.map_err(failed)?;
    warn(said, "VM delete", &ended);
    api.point("delete.delete.after").await.map_err(failed)?;

    // Any error is taken for the VM's absence; only an answer keeps this waiting.
    while vm.status().await.is_ok() {
        let gone = || Diagnostic::error(format!("failed to delete VM \"{id}\""));
        api.pause(1.0).await.map_err(|_| gone())?;
    }
    Ok(())
}

async fn stop(vm: &Vm<'_>, state: &Value) -> Result<Ended, Diagnostic> {
    let api = &vm.api.within(seconds(state, "timeout_stop_vm", 300));
    let failed = |error: ApiError| {
        Diagnostic::of_step(api.version, "VM stop", &format!("error stopping VM {}", vm.id), &error)
    };
    api.point("delete.stop.before").await.map_err(failed)?;
    let task = api.post_nothing(&vm.path("status/stop")).await.map_err(failed)?;
    let ended = api.wait(task, Tolerance::ByVersion).await.map_err(failed)?;
    api.point("delete.stop.after").await.map_err(failed)?;
    Ok(ended)
}

/// Lets the guest end itself; the node ends it at the timeout. `operation` is the one the fault points
/// belong to.
pub(super) async fn shut_down(vm: &Vm<'_>, state: &Value, operation: &str) -> Result<Ended, Diagnostic> {
    let limit = seconds(state, "timeout_shutdown_vm", 1800);
    let api = &vm.api.within(limit);
    let failed = |error: ApiError| {
        Diagnostic::of_step(api.version, "VM shutdown", &format!("error shutting down VM {}", vm.id), &error)
    };
    api.point(&format!("{operation}.stop.before")).await.map_err(failed)?;
    let body = form([("forceStop", "1".into()), ("timeout", limit.as_secs().to_string())]);
    let task = api.post(&vm.path("status/shutdown"), &body).await.map_err(failed)?;
    let ended = api.wait(task, Tolerance::ByVersion).await.map_err(failed)?;
    api.point(&format!("{operation}.stop.after")).await.map_err(failed)?;
    Ok(ended)
}
