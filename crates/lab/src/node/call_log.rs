//! The log of what was asked, for tests on which calls a command makes.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::Call;

/// How many calls are kept: enough for a test, bounded for a lab that is left running.
const KEPT: usize = 50_000;

#[derive(Debug, Default)]
pub(crate) struct CallLog {
    calls: Mutex<(u64, VecDeque<Call>)>,
    /// Rung at each new call.
    pub added: Notify,
}

impl CallLog {
    /// Adds a call.
    pub fn add(&self, kind: &str, what: impl Into<String>, code: Option<i32>, detail: serde_json::Value) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.0 += 1;
        let call = Call { seq: calls.0, kind: kind.into(), what: what.into(), code, detail };
        if calls.1.len() == KEPT {
            calls.1.pop_front();
        }
        calls.1.push_back(call);
        drop(calls);
        self.added.notify_waiters();
    }

    /// The calls after number `since`, oldest first.
    pub fn since(&self, since: u64) -> Vec<Call> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.1.iter().filter(|call| call.seq > since).cloned().collect()
    }
}
