//! Tasks: the workers behind every UPID.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};

use super::access::Caller;
use super::refusal::{Outcome, Refusal};
use super::{Node, Shared};
use crate::model::FaultAction;

/// One task.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub kind: &'static str,
    pub id: String,
    /// `root@pam` or `user@realm!token`.
    pub user: String,
    pub pid: u32,
    /// Seconds since 1970.
    pub start: u64,
    pub log: Vec<String>,
    /// What was said on standard error, by a worker that went on. It is in the log as well.
    complaints: Vec<String>,
    /// `OK`, `WARNINGS: n` or the error, once it is over.
    pub exit: Option<String>,
    warnings: u32,
    /// Rung to make the worker give up.
    abort: Arc<Notify>,
    over: watch::Sender<bool>,
}

/// All tasks. They have a lock of their own, so that a worker may write its log while it works on the state.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    tasks: Mutex<BTreeMap<String, Task>>,
}

impl Tasks {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<String, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task as it is now.
    pub fn get(&self, upid: &str) -> Option<Task> {
        self.tasks().get(upid).cloned()
    }

    /// All tasks, in no useful order.
    pub fn all(&self) -> Vec<(String, Task)> {
        self.tasks().iter().map(|(upid, task)| (upid.clone(), task.clone())).collect()
    }

    /// Those that are not over: `qmclone 9001`.
    pub fn running(&self) -> Vec<String> {
        let tasks = self.tasks();
        let running = tasks.values().filter(|task| task.exit.is_none());
        running.map(|task| format!("{} {}", task.kind, task.id)).collect()
    }

    /// Makes running tasks of that kind and guest give up; how many there were.
    pub fn abort(&self, kind: &str, id: &str) -> usize {
        let tasks = self.tasks();
        let running = tasks.values().filter(|task| task.exit.is_none() && task.kind == kind && task.id == id);
        running.map(|task| task.abort.notify_one()).count()
    }
}

/// What a worker writes to.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    node: Shared,
    upid: String,
    abort: Arc<Notify>,
}

impl Worker {
    fn with<T>(&self, act: impl FnOnce(&mut Task) -> T) -> Option<T> {
        self.node.tasks.tasks().get_mut(&self.upid).map(act)
    }

    /// A line of the task's log.
    pub fn line(&self, text: impl Into<String>) {
        self.with(|task| task.log.push(text.into()));
    }

    /// A warning: it goes into the log, the task ends as `WARNINGS: n`.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.with(|task| {
            task.warnings += 1;
            task.log.push(format!("WARN: {}", text.as_ref()));
        });
    }

    /// A complaint that is no warning of the task: on standard error where somebody looks on.
    pub fn complain(&self, text: impl Into<String>) {
        self.with(|task| task.complaints.push(text.into()));
    }

    /// Comes back when the task was told to give up.
    pub async fn aborted(&self) {
        self.abort.notified().await;
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub exit: String,
    pub log: Vec<String>,
    pub complaints: Vec<String>,
    pub warnings: u32,
}

impl Ended {
    /// OK, with or without warnings.
    pub fn good(&self) -> bool {
        self.exit == "OK" || self.exit.starts_with("WARNINGS: ")
    }
}

/// Starts a worker and gives its UPID. A task of no length is over by then, so that a client that polls at once need
/// not wait for its next look.
pub(crate) async fn spawn<F, W>(
    node: &Shared,
    caller: &Caller,
    kind: &'static str,
    id: u32,
    work: F,
) -> String
where
    F: FnOnce(Worker) -> W,
    W: Future<Output = Outcome<()>> + Send + 'static,
{
    let (upid, worker, mut over) = begin(node, caller, kind, id);
    let future = work(worker.clone());
    tokio::spawn(run(worker, kind, future));
    // Bounded: a task that takes time, waits for a lock or hangs is told about while it runs.
    let _ = tokio::time::timeout(Duration::from_millis(15), over.wait_for(|over| *over)).await;
    upid
}

fn begin(
    node: &Shared,
    caller: &Caller,
    kind: &'static str,
    id: u32,
) -> (String, Worker, watch::Receiver<bool>) {
    let pid = node.state().next_pid();
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let user = caller.user().to_owned();
    let upid =
        format!("UPID:{}:{pid:08X}:{:08X}:{start:08X}:{kind}:{id}:{user}:", node.options.node, 0x1A2B3);
    let abort = Arc::new(Notify::new());
    let over = watch::Sender::new(false);
    let receiver = over.subscribe();
    let task = Task {
        kind,
        id: id.to_string(),
        user,
        pid,
        start,
        log: Vec::new(),
        complaints: Vec::new(),
        exit: None,
        warnings: 0,
        abort: abort.clone(),
        over,
    };
    node.tasks.tasks().insert(upid.clone(), task);
    (upid.clone(), Worker { node: node.clone(), upid, abort }, receiver)
}

async fn run(worker: Worker, kind: &str, work: impl Future<Output = Outcome<()>>) {
    let node = worker.node.clone();
    let mut result = fault(&node, &worker, &format!("task.{kind}.before")).await;
    if result.is_ok() {
        result = work.await;
    }
    if result.is_ok() {
        result = fault(&node, &worker, &format!("task.{kind}.after")).await;
    }
    worker.with(|task| {
        let exit = match (result, task.warnings) {
            (Ok(()), 0) => "OK".to_owned(),
            (Ok(()), warnings) => format!("WARNINGS: {warnings}"),
            (Err(refusal), _) => refusal.message,
        };
        task.log.push(match exit.as_str() {
            "OK" => "TASK OK".into(),
            warnings if warnings.starts_with("WARNINGS: ") => format!("TASK {warnings}"),
            error => format!("TASK ERROR: {error}"),
        });
        task.exit = Some(exit);
        task.over.send_replace(true);
    });
}

async fn fault(node: &Node, worker: &Worker, point: &str) -> Outcome<()> {
    match node.faults.meet(point).await {
        Some(FaultAction::Error { message, .. }) => Err(Refusal::die(message)),
        Some(FaultAction::Kill) => Err(Refusal::die("unexpected status")),
        Some(FaultAction::Warnings { count }) => {
            for _ in 0..count {
                worker.warn("set by a fault");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Waits until the task is over.
pub(crate) async fn wait(node: &Shared, upid: &str) -> Ended {
    let over = node.tasks.get(upid).map(|task| task.over.subscribe());
    if let Some(mut over) = over {
        // The sender lives in the table, which nothing is taken out of.
        let _ = over.wait_for(|over| *over).await;
    }
    match node.tasks.get(upid) {
        Some(task) => Ended {
            exit: task.exit.unwrap_or_default(),
            log: task.log,
            complaints: task.complaints,
            warnings: task.warnings,
        },
        None => Ended { exit: "no such task".into(), log: Vec::new(), complaints: Vec::new(), warnings: 0 },
    }
}
