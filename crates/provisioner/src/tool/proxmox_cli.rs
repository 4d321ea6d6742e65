//! Proxmox' own command line tools, run by root on the node: `pvesh`, `pveum`, `pvesm`.
//!
//! `pvesh` does not turn a failed task into an exit code (hazard H32): whoever starts one reads the state back.

use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::interrupt::Interrupt;
use crate::host::run_process::{self, Ended, Input, Program, RunError};
use anyhow::Context as _;
use serde_json::Value;
use std::path::Path;

/// The tools, with one deadline for all that is asked of them.
pub struct ProxmoxCli {
    deadline: Deadline,
    interrupt: Interrupt,
}

impl ProxmoxCli {
    /// Tools that must have answered by `deadline`.
    pub fn new(host: &Host, deadline: Deadline) -> ProxmoxCli {
        ProxmoxCli { deadline, interrupt: host.interrupt.clone() }
    }

    /// Tools for undoing, which a signal does not stop.
    pub fn uninterrupted(deadline: Deadline) -> ProxmoxCli {
        ProxmoxCli { deadline, interrupt: Interrupt::never() }
    }

    /// Runs a tool; an exit code other than 0 is an error with its last words. Arguments hold no secret: every local
    /// user can read them.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Result<Ended, RunError> {
        let program = Program {
            name,
            arguments: arguments.iter().map(Into::into).collect(),
            folder: Path::new("/"),
            environment: vec![],
            without: &[],
        };
        run_process::run(&program, Input::Nothing, self.deadline.left(), &self.interrupt, |_, _| {})?
            .successful(&program)
    }

    /// Runs a tool that prints JSON.
    pub fn ask(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let arguments = [arguments, &["--output-format", "json"]].concat();
        let ended = self.run(name, &arguments)?;
        serde_json::from_str(&ended.stdout)
            .with_context(|| format!("{name} {} printed something that is no JSON", arguments.join(" ")))
    }

    /// `pvesh get`.
    pub fn get(&self, path: &str, parameters: &[&str]) -> anyhow::Result<Value> {
        self.ask("pvesh", &[&["get", path], parameters].concat())
    }

    /// Rows of a list, as objects.
    pub fn rows(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        match self.ask(name, arguments)? {
            Value::Array(rows) => Ok(rows),
            _ => anyhow::bail!("{name} {} did not print a list", arguments.join(" ")),
        }
    }

    /// The major release of Proxmox VE: 8, 9.
    pub fn release(&self) -> anyhow::Result<u32> {
        let version = self.get("/version", &[])?;
        let release = version["release"].as_str().and_then(|text| text.split('.').next()?.parse().ok());
        release.context("pvesh get /version does not tell the release")
    }

    /// The name of this node.
    pub fn node_name(&self) -> anyhow::Result<String> {
        let rows = self.rows("pvesh", &["get", "/cluster/status"])?;
        let own = rows.iter().find(|row| row["type"] == "node" && number(&row["local"]) == Some(1));
        let name = own.and_then(|row| row["name"].as_str());
        Ok(name.context("pvesh get /cluster/status does not tell which node this is")?.to_owned())
    }
}

/// A number that PVE's Perl may print as a text.
pub fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Whether a row of the list has this text under the key.
pub fn has(rows: &[Value], key: &str, text: &str) -> bool {
    rows.iter().any(|row| row[key] == text)
}
