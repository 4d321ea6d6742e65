//! Faults at named points, for tests of those who run terraform.
//!
//! At each point the provider asks `POST <endpoint>/lab/fault` with `{"point": "provider.create.clone.after"}`
//! and obeys the answer's `action`: null (nothing), `error` (the step fails with `message`), `hang` (for
//! ever), `slow` (`ms` milliseconds), `kill` (SIGKILL to terraform and to this process). An API without that
//! path, or one that does not answer, has no faults.
//!
//! Points are `provider.OPERATION.STEP.before` and `….after`:
//!
//! | operation | steps |
//! |---|---|
//! | create | clone, clone-task, config, disk, resize, start, agent-wait; file |
//! | read | vm, agent-wait; file |
//! | update | config, disk, resize, start, stop |
//! | delete | stop, delete; file |
//! | plan | vm; file |

use crate::api::{Api, ApiError};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};
use serde_json::json;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Set when the API has said that it knows no faults: asking again would only cost time.
static NO_FAULTS: AtomicBool = AtomicBool::new(false);
/// How long the question may take: who does not answer has no faults.
const PATIENCE: Duration = Duration::from_secs(2);

impl Api {
    /// Passes the point `provider.NAME`. Fails when an error is wanted there; may not return at all.
    pub async fn point(&self, name: &str) -> Result<(), ApiError> {
        if NO_FAULTS.load(Ordering::Relaxed) {
            return Ok(());
        }
        let answer = match self
            .within(PATIENCE)
            .lab("/lab/fault", &json!({"point": format!("provider.{name}")}))
            .await
        {
            Ok(answer) => answer,
            Err(error) => {
                if matches!(error.code(), Some(404 | 501)) {
                    NO_FAULTS.store(true, Ordering::Relaxed);
                }
                return Ok(());
            }
        };
        let field = |key: &str| answer.get(key).and_then(|value| value.as_str());
        match field("action") {
            Some("error") => {
                let message = field("message").unwrap_or("no message given");
                Err(ApiError::Other(format!("fault at provider.{name}: {message}")))
            }
            Some("hang") => std::future::pending().await,
            Some("slow") => {
                let ms = answer.get("ms").and_then(serde_json::Value::as_u64).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            Some("kill") => {
                // A parent that has gone already was replaced by init or by a reaper: that one stays.
                if let Some(parent) = getppid().filter(|parent| is_terraform(*parent)) {
                    let _ = kill_process(parent, Signal::KILL);
                }
                let _ = kill_process(getpid(), Signal::KILL);
                std::future::pending().await
            }
            _ => Ok(()),
        }
    }
}

fn is_terraform(pid: Pid) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    // `tofu` is its fork, which speaks the same protocol.
    name.is_ok_and(|name| name.starts_with("terraform") || name.starts_with("tofu"))
}
