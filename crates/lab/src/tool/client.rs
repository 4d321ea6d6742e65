//! The other side of the tools: the small executables on the lab's PATH. No runtime, one question, one answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{ToolCall, ToolOutput};

/// Asks the daemon; gives what stands under `ok`.
///
/// # Errors
/// No daemon, or its error.
pub(crate) fn ask(dir: &Path, request: &Value) -> anyhow::Result<Value> {
    let socket = dir.join("run/node.sock");
    let mut stream = UnixStream::connect(&socket)
        .with_context(|| format!("the lab's node does not answer on {}", socket.display()))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    if line.is_empty() {
        bail!("the lab's node ended while it was asked");
    }
    let mut answer: Value = serde_json::from_str(&line).context("the lab's node answered nonsense")?;
    match answer.get("error") {
        Some(error) => bail!("{}", error.as_str().unwrap_or("unknown error")),
        None => Ok(answer["ok"].take()),
    }
}

/// Is the tool `tool` for one call.
///
/// # Errors
/// No daemon.
pub(crate) fn run(dir: &Path, tool: &str, argv: Vec<String>) -> anyhow::Result<ExitCode> {
    // The daemon opens files by name, and this process' own descriptors have another name there.
    let own = format!("/proc/{}/", std::process::id());
    let argv: Vec<String> = argv
        .into_iter()
        .map(|word| match word.strip_prefix("/proc/self/") {
            Some(rest) => format!("{own}{rest}"),
            None => word,
        })
        .collect();
    let mut stdin = Vec::new();
    let reads = |word: &String| word.starts_with("--pass-stdin") || word.starts_with("-pass-stdin");
    if argv.iter().any(reads) || (tool == "nft" && argv == ["-f", "-"]) {
        std::io::stdin().lock().take(1 << 20).read_to_end(&mut stdin)?;
    }
    let cwd = std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned();
    let call = ToolCall { tool: tool.into(), argv, cwd, stdin: STANDARD.encode(stdin) };
    let mut request = serde_json::to_value(&call)?;
    request["op"] = json!("tool");
    let output: ToolOutput = serde_json::from_value(ask(dir, &request)?)?;
    if output.kill {
        rustix::process::kill_process(rustix::process::getpid(), Signal::KILL)?;
    }
    // A reader that has gone away does not change what was done.
    let _ = std::io::stdout().write_all(output.stdout.as_bytes());
    let _ = std::io::stderr().write_all(output.stderr.as_bytes());
    Ok(ExitCode::from(u8::try_from(output.code & 0xff).unwrap_or(255)))
}

/// Tells a guest's command who its node is.
pub(crate) const NODE_PID: &str = "LAB_NODE_PID";

/// Becomes a guest's command, after having made sure that it dies with the lab.
///
/// # Errors
/// The program cannot be run.
pub(crate) fn become_guest_command(argv: &[String]) -> anyhow::Result<ExitCode> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // A node that died before this line sends no signal any more.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    anyhow::ensure!(parent == std::env::var(NODE_PID).ok(), "the node is gone");
    let (program, arguments) = argv.split_first().context("no program")?;
    let error = std::process::Command::new(program).args(arguments).env_remove(NODE_PID).exec();
    Err(error).with_context(|| format!("failed to execute {program}"))
}
