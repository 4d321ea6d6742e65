//! Create: clone, wait for it, configure, resize, start, read.
//!
//! `timeout_clone` is the deadline of all of it. Nothing is remembered before the clone's task has
//! succeeded (a clone that takes longer than the deadline is a VM that terraform does not know); whatever
//! fails after that leaves the VM in the state, tainted. terraform's wish to stop is not heard.

use super::{Numbers, Vm, drive, observe, refuse_unknown_parts, seconds, settings};
use crate::{
    api::{Api, ApiError, Ended, Form, Tolerance, doubling, form, int, text, truth},
    diagnostic::Diagnostic,
    value::Value,
    version::{LATER, Version},
};
use serde_json::Value as Json;

/// Between two tries of a clone, in polls.
const CLONE_PAUSE: f64 = 10.0;
/// What each failed try of a clone is told as.
const CLONING: &str = "error cloning VM: ";

/// Makes the planned VM. The answer is the new state (null when there is none to remember) and what
/// there is to say.
pub async fn create(api: &Api, planned: &Value, numbers: &Numbers) -> (Value, Vec<Diagnostic>) {
    let api = api.within(seconds(planned, "timeout_clone", 1800));
    let mut vm = planned.clone();
    let mut said = Vec::new();
    match clone(&api, &mut vm, numbers, &mut said).await {
        Err(error) => {
            said.push(error);
            return (Value::Null, said);
        }
        Ok(()) => {
            if let Err(error) = finish(&api, &mut vm, &mut said).await {
                said.push(error);
            }
        }
    }
    vm.settle();
    (vm, said)
}

/// Until the clone's task has succeeded.
async fn clone(
    api: &Api,
    vm: &mut Value,
    numbers: &Numbers,
    said: &mut Vec<Diagnostic>,
) -> Result<(), Diagnostic> {
    refuse_unknown_parts(vm)?;
    let Some(source) = vm.block("clone") else {
        return Err(Diagnostic::error("the stand-in provider makes VMs by \"clone\" only"));
    };
    let template = source.int("vm_id").unwrap_or(0);
    let id = match vm.int("vm_id").filter(|id| *id > 0) {
        Some(id) => id,
        None => numbers.next(api).await?,
    };
    let node = vm.text("node_name").unwrap_or_default().to_string();

    let mut body = form([("newid", id.to_string()), ("full", flag(source.bool("full") != Some(false)))]);
    let optional = [
        ("name", vm.text("name")),
        ("description", vm.text("description").map(str::trim)),
        ("storage", source.text("datastore_id")),
        ("pool", vm.text("pool_id")),
    ];
    body.extend(optional.into_iter().filter_map(|(key, text)| Some((key.to_string(), text?.to_string()))));

    let retries = source.int("retries").and_then(|n| u32::try_from(n).ok()).unwrap_or(1).max(1);
    let original = Vm { api, node, id: template };
    let ended = if api.version >= Version(0, 97, 0) {
        clone_adopting(&original, &body, retries).await
    } else {
        clone_repeating(&original, &body, retries).await
    };
    let ended = ended.map_err(|error| {
        Diagnostic::of_step(api.version, "VM clone", "error waiting for VM clone", &error)
    })?;
    warn(said, "VM clone", &ended);
    vm.set("vm_id", id);
    vm.set("id", id.to_string());
    Ok(())
}

/// Since 0.97: the request is tried again after any 5xx, and on a later try "already exists" counts as
/// success. Whoever holds that VMID is adopted. A failed task is final.
async fn clone_adopting(original: &Vm<'_>, body: &Form, retries: u32) -> Result<Ended, ApiError> {
    let request = |attempt| async move {
        match clone_request(original, body).await {
            Err(error) if attempt > 1 && error.is_taken() => Ok(None),
            Err(ApiError::Answer { code, text }) if text.contains("already exists") => {
                let text = format!("the requested resource already exists\n{text}");
                Err(ApiError::Answer { code, text })
            }
            other => other.map(Some),
        }
    };
    let worth = ApiError::is_server_side;
    match original.api.again_telling(retries, |_| CLONE_PAUSE, CLONING, worth, request).await? {
        Some(task) => clone_task(original, task).await,
        None => Ok(Ended::Well),
    }
}

/// Before 0.97: request and task are repeated together, and "already exists" stays an error.
async fn clone_repeating(original: &Vm<'_>, body: &Form, retries: u32) -> Result<Ended, ApiError> {
    let whole = |_| async { clone_task(original, clone_request(original, body).await?).await };
    original.api.again_telling(retries, |_| CLONE_PAUSE, CLONING, |_| true, whole).await
}

async fn clone_request(original: &Vm<'_>, body: &Form) -> Result<Json, ApiError> {
    original.api.point("create.clone.before").await?;
    let task = original.api.post(&original.path("clone"), body).await?;
    original.api.point("create.clone.after").await?;
    Ok(task)
}

async fn clone_task(original: &Vm<'_>, task: Json) -> Result<Ended, ApiError> {
    original.api.point("create.clone-task.before").await?;
    original.api.wait(task, Tolerance::Lenient).await
}

/// From the cloned VM to the running one.
async fn finish(api: &Api, state: &mut Value, said: &mut Vec<Diagnostic>) -> Result<(), Diagnostic> {
    let id = state.int("vm_id").unwrap_or(0);
    let vm = Vm { api, node: state.text("node_name").unwrap_or_default().to_string(), id };
    api.point("create.clone-task.after").await?;
    until_unlocked(&vm).await?;

    let failed = |what: &str| {
        let what = format!("error {what} VM {id}");
        move |error: ApiError| Diagnostic::error(format!("{what}: {error}"))
    };
    let config = vm.config().await.map_err(failed("reading the configuration of"))?;
    api.point("create.config.before").await?;
    let found = drive::cloud_init(&config, id);
    let interface = settings::cloud_init_interface(state, found.as_deref());
    if state.block("initialization").is_some() {
        // The clone's drive holds the template's cloud-init data.
        let mut old = vec![interface.clone()];
        old.extend(found.filter(|found| *found != interface));
        let body = form([("delete", old.join(","))]);
        vm.configure(&body).await?;
    }
    let body = settings::of_new(api.version, state, &interface);
    vm.configure(&body).await?;
    api.point("create.config.after").await?;

    let config = vm.config().await.map_err(failed("reading the configuration of"))?;
    for disk in state.list("disk") {
        drive::bring_to(&vm, &config, disk, "create").await?;
    }
    if state.bool("started") != Some(false) {
        start(&vm, state, "create", said).await?;
        if state.bool("reboot") == Some(true) {
            let body = form([("timeout", seconds(state, "timeout_reboot", 1800).as_secs().to_string())]);
            let task = api.post(&vm.path("status/reboot"), &body).await.map_err(failed("rebooting"))?;
            api.wait(task, Tolerance::ByVersion).await.map_err(failed("rebooting"))?;
        }
    }
    *state = observe::read_after(api, state, "create", said).await?;
    Ok(())
}

/// All errors are swallowed here, until the deadline: a token that may not see the VM looks like a lock.
async fn until_unlocked(vm: &Vm<'_>) -> Result<(), Diagnostic> {
    loop {
        if let Ok(status) = vm.status().await
            && text(&status, "lock").is_empty()
        {
            return Ok(());
        }
        if vm.api.pause(1.0).await.is_err() {
            let id = vm.id;
            return Err(Diagnostic::error(format!(
                "timeout while waiting for VM {id} configuration to become unlocked"
            )));
        }
    }
}

/// Starts the VM and waits until it runs. Since 0.100 one that is not stopped is left alone.
pub(super) async fn start(
    vm: &Vm<'_>,
    state: &Value,
    operation: &str,
    said: &mut Vec<Diagnostic>,
) -> Result<(), Diagnostic> {
    let limit = seconds(state, "timeout_start_vm", 1800);
    let api = &vm.api.within(limit);
    let vm = &Vm { api, node: vm.node.clone(), id: vm.id };
    let failed = |error: ApiError| {
        Diagnostic::of_step(api.version, "VM start", &format!("error starting VM {}", vm.id), &error)
    };
    api.point(&format!("{operation}.start.before")).await.map_err(failed)?;
    if api.version >= Version(0, 100, 0) {
        let status = vm.status().await.map_err(failed)?;
        if text(&status, "status") != "stopped" {
            return api.point(&format!("{operation}.start.after")).await.map_err(failed);
        }
    }
    let body = form([("timeout", limit.as_secs().to_string())]);
    let path = vm.path("status/start");
    // Answered so when it was started between the look and the request. Later versions take that for done and wait for it
    // to run; 0.93.0 looks for the task that the answer does not name.
    let post = |_| async {
        match api.post(&path, &body).await {
            Err(error) if !error.says("already running") => Err(error),
            Err(_) if api.version >= LATER => Ok(None),
            Err(_) => Err(ApiError::NoData),
            Ok(task) => Ok(Some(task)),
        }
    };
    let worth = |error: &ApiError| error.says("got no worker upid");
    if let Some(task) = api.again_telling(3, doubling(1.0), "", worth, post).await.map_err(failed)? {
        let ended = api.wait(task, Tolerance::WhenLogIsRead).await.map_err(failed)?;
        warn(said, "VM start", &ended);
    }
    vm.until("running").await.map_err(failed)?;
    api.point(&format!("{operation}.start.after")).await.map_err(failed)
}

/// Passes a task's warnings on.
pub(super) fn warn(said: &mut Vec<Diagnostic>, step: &str, ended: &Ended) {
    if let Ended::WithWarnings(lines) = ended {
        let warning = |line: &String| Diagnostic { detail: line.clone(), ..Diagnostic::warning(step) };
        said.extend(lines.iter().map(warning));
    }
}

/// A truth value as Proxmox wants it.
pub(super) fn flag(truth: bool) -> String {
    if truth { "1".into() } else { "0".into() }
}

/// Whether a configuration says that there is an agent: `1`, `enabled=1,…`, `1,…`.
pub(super) fn agent_enabled(config: &Json) -> bool {
    let agent = text(config, "agent");
    let first = agent.split(',').next().unwrap_or_default();
    agent.split(',').any(|part| part == "enabled=1")
        || first == "1"
        || int(config, "agent") == Some(1)
        || truth(config, "agent") == Some(true)
}
