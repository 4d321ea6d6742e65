//! Reads an answer of the root agent's `vm-state` into [`VmState`] (`facts/contract/root-agent.md`).

use crate::host::root_agent::with_way_out;
use crate::value::limits::Limits;
use crate::value::vm_state::{FailedAct, GuardReport, VmState};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Returns the state in an answer; `None` if the answer is not a state.
pub(super) fn state_in(answer: &Map<String, Value>) -> Option<VmState> {
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    let flag = |key: &str| match answer.get(key) {
        Some(Value::Bool(b)) => *b,
        Some(Value::Number(n)) => n.as_u64() == Some(1),
        _ => false,
    };
    let exists = answer.get("exists")?.as_bool()?;
    let here = answer.contains_key("running") && !answer.get("running").is_some_and(Value::is_null);
    Some(VmState {
        exists,
        node: text("node"),
        running: flag("running"),
        paused: answer.get("paused").and_then(Value::as_bool),
        name: text("name"),
        uuid: Uuid::parse_str(&text("uuid")).ok(),
        description: text("description"),
        lock: text("lock"),
        elsewhere: exists && !here,
        container: text("type") == "lxc",
        foreign: flag("foreign"),
        template: flag("template"),
        onboot: flag("onboot"),
        protection: flag("protection"),
        failed: answer.get("task").and_then(failed_act),
        starting: answer.get("task").is_some_and(|task| {
            task.get("running") == Some(&Value::Bool(true))
                && task.get("action").and_then(Value::as_str) == Some("qm-start")
        }),
        connected: answer.get("connected").and_then(Value::as_bool),
        no_card: answer.get("connected") == Some(&Value::Null),
        isolated: answer.get("isolated").and_then(Value::as_bool),
        firewall_port: Some(text("port")).filter(|port| port.starts_with("fw")),
        leftovers: texts(answer.get("task").and_then(|task| task.get("leftovers"))),
        guard: answer.get("guard").and_then(Value::as_object).map(|report| Box::new(guard_in(report))),
    })
}

fn guard_in(report: &Map<String, Value>) -> GuardReport {
    let flag = |key: &str| report.get(key) == Some(&Value::Bool(true));
    GuardReport {
        set: flag("set"),
        hook: flag("hook"),
        enabled: flag("enabled"),
        applied: flag("applied"),
        limits: Limits::from_record(report.get("limits")).unwrap_or_default(),
        missing: texts(report.get("missing")),
    }
}

pub(super) fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_string).collect()
}

fn failed_act(task: &Value) -> Option<FailedAct> {
    let text = |key: &str| task.get(key).and_then(Value::as_str).map(str::to_string);
    Some(FailedAct { action: text("action")?, words: with_way_out(&text("error")?) })
}
