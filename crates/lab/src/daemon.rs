//! `lab node`: the process that is the node. It starts the root agent beside it and ends with whoever started it.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio::net::{TcpListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

use crate::model::NodeOptions;
use crate::node::{Node, Shared};
use crate::{api, control};

/// The root agent's script and the plugins of this source tree.
const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/root-agent/agent.py");
const ACTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../root-agent-actions");

/// Runs the node in `dir` until it is told to end; with `lifeline`, until standard input ends.
///
/// Prints two lines: a JSON object with the endpoint as soon as the API answers, then `ready`.
///
/// # Errors
/// The folder, a socket or the certificate cannot be made.
pub(crate) fn run(dir: &Path, lifeline: bool) -> anyhow::Result<()> {
    let options = dir.join("node/options.json");
    let text =
        std::fs::read_to_string(&options).with_context(|| format!("failed to read {}", options.display()))?;
    let options: NodeOptions = serde_json::from_str(&text).context("failed to read the node's options")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let remove = options.remove_dir;
    let result = runtime.block_on(serve(dir, options, lifeline));
    // Threads that still work for a guest are not waited for.
    runtime.shutdown_background();
    if remove {
        // Nobody is left to tell; what stays lies in the temporary folder.
        let _ = std::fs::remove_dir_all(dir);
    }
    result
}

async fn serve(dir: &Path, options: NodeOptions, lifeline: bool) -> anyhow::Result<()> {
    let node = Node::new(dir, options.clone()).context("failed to make the node's files")?;
    let acceptor = api::acceptor(dir)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("failed to listen on 127.0.0.1")?;
    let endpoint = format!("https://{}", listener.local_addr()?);
    tokio::spawn(api::serve(node.clone(), listener, acceptor));
    let (door, requests) = mpsc::channel(4);
    control::serve(node.clone(), &dir.join("run/node.sock"), door).await?;
    say(&json!({"endpoint": endpoint}).to_string());
    let mut agent = RootAgent { dir: dir.into(), child: None };
    if options.root_agent {
        agent.start(options.agent_latency).await?;
    }
    say("ready");
    tokio::select! {
        () = keep_agent(agent, requests) => {}
        () = node.ending.notified() => {}
        () = stdin_ends(lifeline) => {}
        () = terminated() => {}
    }
    end_guests(&node);
    Ok(())
}

/// Whoever reads is the one who started us; when it has gone there is nobody to tell.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

async fn stdin_ends(lifeline: bool) {
    if !lifeline {
        std::future::pending::<()>().await;
    }
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 64];
        while matches!(std::io::stdin().read(&mut buffer), Ok(read) if read > 0) {}
        // The daemon may be ending already.
        let _ = tell.send(());
        // A node that is stuck must not outlive its test either.
        std::thread::sleep(Duration::from_secs(3));
        std::process::exit(1);
    });
    // The thread always tells.
    let _ = told.await;
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

fn end_guests(node: &Shared) {
    let running: Vec<u32> =
        node.state().guests.values().filter(|guest| guest.run.is_some()).map(|guest| guest.vmid).collect();
    for vmid in running {
        node.executions.guest_is_off(vmid);
    }
}

type AgentRequest = (Option<u64>, oneshot::Sender<Result<(), String>>);

async fn keep_agent(mut agent: RootAgent, mut requests: mpsc::Receiver<AgentRequest>) {
    while let Some((latency, tell)) = requests.recv().await {
        agent.stop().await;
        let result = match latency {
            Some(latency) => agent.start(latency).await.map_err(|error| format!("{error:#}")),
            None => Ok(()),
        };
        // The asker may have given up.
        let _ = tell.send(result);
    }
    std::future::pending().await
}

/// The stand-in for blockhost-common's daemon.
struct RootAgent {
    dir: PathBuf,
    child: Option<Child>,
}

impl RootAgent {
    /// Starts it and waits until its socket answers.
    async fn start(&mut self, latency: u64) -> anyhow::Result<()> {
        let python = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
        let path = std::env::var("PATH").unwrap_or_default();
        // Its stdin is our lifeline to it: it ends when we do, however we end.
        let child = Command::new(python)
            .arg(AGENT)
            .arg("--dir")
            .arg(&self.dir)
            .arg("--actions")
            .arg(ACTIONS)
            .arg("--latency-ms")
            .arg(latency.to_string())
            .env_clear()
            .env("PATH", format!("{}:{path}", self.dir.join("bin").display()))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {python} {AGENT}"))?;
        let child = self.child.insert(child);
        let socket = self.dir.join("run/root-agent.sock");
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&socket).await.is_err() {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("the root agent ended at once with {status}");
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the root agent does not answer on {}",
                socket.display()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone already is as good.
            let _ = child.kill().await;
            let _ = std::fs::remove_file(self.dir.join("run/root-agent.sock"));
        }
    }
}
