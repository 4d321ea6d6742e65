//! The node's tools: `qm`, `pvesm`, `pvesh`, `pveum`, `ip`, `bridge`, `tc`, `nft`, `logger`; and what stands in for `virt-customize`.
//!
//! The executables on the lab's PATH only carry their arguments to the daemon ([`client`]); what they say and how they
//! exit is decided here, beside the state they work on.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::model::FaultAction;
use crate::node::refusal::{Outcome, Refusal};
use crate::node::{Shared, pause};

pub(crate) mod client;
mod getopt;
pub(crate) mod guest;
mod host;
pub(crate) mod nft;
mod pretty;
mod pvesh;
mod pveum;
mod qm;
mod qm_config;
mod qm_guest;
mod tc;
mod virt_customize;

/// A call of a tool.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ToolCall {
    pub tool: String,
    /// Without the program's name.
    pub argv: Vec<String>,
    /// Where it was called: relative file names start there.
    #[serde(default)]
    pub cwd: String,
    /// Standard input, base64; only where the call reads it.
    #[serde(default)]
    pub stdin: String,
}

/// What a tool leaves behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToolOutput {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
    /// The process is to kill itself with SIGKILL.
    #[serde(default)]
    pub kill: bool,
}

impl ToolOutput {
    /// Success with this on stdout.
    pub fn text(stdout: impl Into<String>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }

    /// Failure with this on stderr.
    pub fn failure(code: i32, stderr: impl Into<String>) -> Self {
        Self { stderr: stderr.into(), code, ..Self::default() }
    }

    /// A refusal in the calling process: its exit code is Perl's idea of the last error and means nothing but "no".
    pub fn refused(refusal: &Refusal) -> Self {
        let missing =
            ["Configuration file '", "unable to find"].iter().any(|words| refusal.message.starts_with(words));
        // The agent's own errors come with what Perl had in `$!` by chance.
        let agents = refusal.message.starts_with("Agent error: Invalid parameter");
        let code = if missing {
            2
        } else if agents {
            29
        } else {
            255
        };
        Self::failure(code, refusal.for_stderr())
    }
}

/// Runs a tool.
pub(crate) async fn run(node: &Shared, call: ToolCall) -> ToolOutput {
    let perl = matches!(call.tool.as_str(), "qm" | "pvesm" | "pvesh" | "pveum");
    if perl {
        pause(node.timing().tool).await;
    }
    let point = format!("{}.{}", call.tool, subcommand(&call));
    let mut output = match node.faults.meet(&format!("{point}.before")).await {
        Some(fault) => faulty(fault),
        None => act(node, &call).await,
    };
    if let Some(fault) = node.faults.meet(&format!("{point}.after")).await {
        output = faulty(fault);
    }
    let what = format!("{} {}", call.tool, call.argv.join(" "));
    node.log.add(
        &call.tool,
        what,
        Some(output.code),
        json!({"stdout": output.stdout, "stderr": output.stderr}),
    );
    output
}

fn faulty(fault: FaultAction) -> ToolOutput {
    match fault {
        FaultAction::Error { message, code } => {
            ToolOutput::failure(code.unwrap_or(255), format!("{message}\n"))
        }
        FaultAction::Kill => ToolOutput { kill: true, code: 137, ..ToolOutput::default() },
        _ => ToolOutput::default(),
    }
}

/// The name of the act for faults: `start`, `guest-exec`, `importdisk` (also for `disk import`), `route`.
fn subcommand(call: &ToolCall) -> String {
    let words: Vec<&str> =
        call.argv.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    match (call.tool.as_str(), words.as_slice()) {
        ("virt-customize", _) => "run".into(),
        ("qm", ["disk", "import", ..]) => "importdisk".into(),
        ("qm", ["disk", "resize", ..]) => "resize".into(),
        ("qm", [first @ ("disk" | "guest"), second, ..]) => format!("{first}-{second}"),
        ("qm", [first, ..]) => (*first).into(),
        // Of a file, whose acts are in its text.
        ("nft", []) => "load".into(),
        (_, [first, ..]) => (*first).into(),
        _ => "none".into(),
    }
}

/// Standard input of a call, as text.
fn text_of(stdin: &str) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(stdin).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn act(node: &Shared, call: &ToolCall) -> ToolOutput {
    let done: Outcome<ToolOutput> = match call.tool.as_str() {
        "qm" => qm::run(node, call).await,
        "pvesm" => pvesh::pvesm(node, &call.argv),
        "pvesh" => pvesh::run(node, &call.argv).await,
        "pveum" => pveum::run(node, &call.argv).await,
        "ip" => Ok(host::ip(node, &call.argv)),
        "bridge" => Ok(host::bridge(node, &call.argv)),
        "tc" => Ok(tc::run(node, &call.argv)),
        "nft" => Ok(nft::run(node, &call.argv, &text_of(&call.stdin))),
        // The log of calls has it.
        "logger" => Ok(ToolOutput::default()),
        "virt-customize" => Ok(virt_customize::run(&call.argv, &call.cwd)),
        other => Ok(ToolOutput::failure(127, format!("{other}: command not found\n"))),
    };
    done.unwrap_or_else(|refusal| ToolOutput::refused(&refusal))
}
