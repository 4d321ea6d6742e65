//! Proxmox VE's own command line, run as root: `qm`, `pvesm`, `pvesh` and `pveum`, on this node or on another one by
//! ssh.
//!
//! Only for the installer's commands. Anything that concerns customers' VMs goes through the root agent
//! ([`super::node`]), which does its own checks.
//!
//! An exit code proves little (hazard H32): `pvesh` does not return one for a failed task, and `qm` only warns when it
//! has not done what was requested. Read the state back after every change.

mod rows;
mod template;

pub use rows::{AclEntry, ApiToken, Role};
pub use template::Grant;

use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::doors::Doors;
use crate::host::interrupt::Interrupt;
use crate::host::run_process::{self, Ended, Input, Program, RunError, Stream};
use crate::value::cluster_rows::{ClusterGuest, NodeStorage};
use crate::value::host_network::ConfiguredInterface;
use crate::value::node_name::NodeName;
use crate::value::proxmox_host::ProxmoxHost;
use anyhow::Context as _;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

/// Limit of a call that only reads, or changes a line of a configuration; `qm` itself waits 10 s for a lock.
const SHORT: Duration = Duration::from_secs(60);

/// The tools of one node.
#[derive(Debug, Clone)]
pub struct ProxmoxCli {
    /// Of the host that runs them.
    pub doors: Doors,
    host: ProxmoxHost,
    interrupt: Interrupt,
    /// If set, the deadline of all calls together; otherwise each call has its own limit.
    deadline: Option<Deadline>,
}

impl ProxmoxCli {
    /// The tools of this node, which must all have answered by `deadline`; a signal to this process ends waits.
    pub fn here(host: &Host, deadline: Deadline) -> ProxmoxCli {
        let interrupt = host.interrupt.clone();
        ProxmoxCli { doors: host.doors, host: ProxmoxHost::Local, interrupt, deadline: Some(deadline) }
    }

    /// The tools of a node, with a limit of its own for each call; `interrupt` ends waits.
    pub fn on(doors: Doors, host: ProxmoxHost, interrupt: Interrupt) -> ProxmoxCli {
        ProxmoxCli { doors, host, interrupt, deadline: None }
    }

    /// The same for rolling back, which a signal does not stop.
    pub fn uninterrupted(&self) -> ProxmoxCli {
        ProxmoxCli { interrupt: Interrupt::never(), ..self.clone() }
    }

    /// The same for rolling back within `limit` from now.
    pub fn undoing(&self, limit: Duration) -> ProxmoxCli {
        ProxmoxCli { deadline: Some(self.doors.deadline(limit)), ..self.uninterrupted() }
    }

    /// Runs a tool until it ends, successfully or not. Arguments must not contain a secret: every local user can read
    /// them.
    fn call(
        &self,
        name: &str,
        words: &[&str],
        input: Input,
        limit: Duration,
        mut heard: impl FnMut(&str),
    ) -> Result<Ended, RunError> {
        tracing::debug!("{}: {name} {}", self.host, words.join(" "));
        let (program, arguments) = match &self.host {
            ProxmoxHost::Local => (name, words.iter().map(Into::into).collect()),
            ProxmoxHost::Ssh(target) => ("ssh", over_ssh(target, name, words)),
        };
        let program =
            Program { name: program, arguments, folder: Path::new("/"), environment: vec![], without: &[] };
        let limit = self.deadline.map_or(limit, |deadline| deadline.left());
        run_process::run(self.doors, &program, input, limit, &self.interrupt, |stream, line| {
            if stream == Stream::Out {
                heard(line);
            }
        })
    }

    /// Runs a tool; an exit code other than 0 is an error with the end of its output.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Result<Ended, RunError> {
        let ended = self.call(name, arguments, Input::Nothing, SHORT, |_| {})?;
        ended.successful_as(|| [&[name], arguments].concat().join(" "))
    }

    /// Runs a tool and parses its JSON output.
    fn json<T: DeserializeOwned>(&self, name: &str, arguments: &[&str]) -> anyhow::Result<T> {
        let arguments = [arguments, &["--output-format", "json"]].concat();
        let ended = self.run(name, &arguments)?;
        serde_json::from_str(&ended.stdout)
            .with_context(|| format!("{name} {} did not print JSON", arguments.join(" ")))
    }

    /// Runs a tool and parses its output as a JSON list.
    fn rows<T: DeserializeOwned>(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Vec<T>> {
        let list: serde_json::Value = self.json(name, arguments)?;
        serde_json::from_value(list)
            .map_err(|_| anyhow::anyhow!("{name} {} did not print a list", arguments.join(" ")))
    }

    /// Returns the major release of Proxmox VE, for example 8 or 9.
    pub fn release(&self) -> anyhow::Result<u32> {
        let version: rows::Version = self.json("pvesh", &["get", "/version"])?;
        let release = version.release.as_deref().and_then(|text| text.split('.').next()?.parse().ok());
        release.context("pvesh get /version does not report the release")
    }

    /// Returns the name of this node.
    pub fn node_name(&self) -> anyhow::Result<String> {
        let rows: Vec<rows::ClusterMember> = self.rows("pvesh", &["get", "/cluster/status"])?;
        let own = rows.into_iter().find(|row| row.kind.as_deref() == Some("node") && row.is_this);
        own.and_then(|row| row.name).context("pvesh get /cluster/status does not report which node this is")
    }

    /// Returns the VMs and containers of all nodes.
    pub fn guests(&self) -> anyhow::Result<Vec<ClusterGuest>> {
        self.rows("pvesh", &["get", "/cluster/resources", "--type", "vm"])
    }

    /// Returns a node's enabled storages.
    pub fn storages(&self, node: &str) -> anyhow::Result<Vec<NodeStorage>> {
        self.rows("pvesh", &["get", &format!("/nodes/{node}/storage"), "--enabled", "1"])
    }

    /// Returns a node's interfaces as configured, including changes that have not been applied.
    pub fn interfaces(&self, node: &NodeName) -> anyhow::Result<Vec<ConfiguredInterface>> {
        self.rows("pvesh", &["get", &network_of(node)])
    }

    /// Configures a new interface without applying it. `options` are pairs of an option's name and value.
    pub fn add_interface(&self, node: &NodeName, options: &[(&str, String)]) -> Result<(), RunError> {
        self.configure(&["create", &network_of(node)], options)
    }

    /// Changes the configuration of an interface without applying it.
    pub fn change_interface(
        &self,
        node: &NodeName,
        name: &str,
        options: &[(&str, String)],
    ) -> Result<(), RunError> {
        self.configure(&["set", &format!("{}/{name}", network_of(node))], options)
    }

    fn configure(&self, words: &[&str], options: &[(&str, String)]) -> Result<(), RunError> {
        let names: Vec<String> = options.iter().map(|(name, _)| format!("--{name}")).collect();
        let pairs = names.iter().zip(options).flat_map(|(name, (_, value))| [name.as_str(), value]);
        let words: Vec<&str> = words.iter().copied().chain(pairs).collect();
        self.run("pvesh", &words).map(drop)
    }

    /// Applies all pending network changes. Does not report how that task ends.
    pub fn apply_network(&self, node: &NodeName) -> Result<(), RunError> {
        self.run("pvesh", &["set", &network_of(node)]).map(drop)
    }

    /// Reverts all network changes that have not been applied.
    pub fn revert_network(&self, node: &NodeName) -> Result<(), RunError> {
        self.run("pvesh", &["delete", &network_of(node)]).map(drop)
    }

    /// Whether there is a pool of this name.
    pub fn has_pool(&self, name: &str) -> anyhow::Result<bool> {
        let rows: Vec<rows::Pool> = self.rows("pveum", &["pool", "list"])?;
        Ok(rows.iter().any(|row| row.name.as_deref() == Some(name)))
    }

    /// Whether there is a user of this name (with its realm).
    pub fn has_user(&self, name: &str) -> anyhow::Result<bool> {
        let rows: Vec<rows::User> = self.rows("pveum", &["user", "list"])?;
        Ok(rows.iter().any(|row| row.name.as_deref() == Some(name)))
    }

    /// Returns all roles.
    pub fn roles(&self) -> anyhow::Result<Vec<Role>> {
        self.rows("pveum", &["role", "list"])
    }

    /// Returns the tokens of a user.
    pub fn tokens(&self, user: &str) -> anyhow::Result<Vec<ApiToken>> {
        self.rows("pveum", &["user", "token", "list", user])
    }

    /// Creates a token with separate privileges and returns its secret, which is shown only this once. `made` is called
    /// as soon as the token exists, even if the output about it is unusable.
    pub fn add_token(&self, user: &str, name: &str, made: impl FnOnce()) -> anyhow::Result<String> {
        // Parsed in two steps: an error of the typed parser would quote what it read, which is the secret.
        let printed: serde_json::Value =
            self.json("pveum", &["user", "token", "add", user, name, "--privsep", "1"])?;
        made();
        let token: rows::NewToken = serde_json::from_value(printed).unwrap_or_default();
        token.value.context("pveum printed no token secret")
    }

    /// Returns all access rules: who may do what where.
    pub fn acl(&self) -> anyhow::Result<Vec<AclEntry>> {
        self.rows("pveum", &["acl", "list"])
    }
}

/// Returns the path of a node's interfaces for `pvesh`.
fn network_of(node: &NodeName) -> String {
    format!("/nodes/{node}/network")
}

/// Returns the arguments for ssh. It passes a single line to a shell on the other side, so each word is quoted (hazard
/// H27).
fn over_ssh(target: &str, name: &str, words: &[&str]) -> Vec<std::ffi::OsString> {
    let line: Vec<String> = std::iter::once(&name).chain(words).map(|word| quoted(word)).collect();
    let options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15"];
    options.into_iter().chain(["--", target]).map(Into::into).chain([line.join(" ").into()]).collect()
}

/// Quotes a word for the shell at the other end of ssh.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h27_words_reach_the_other_shell_as_they_are() {
        for word in ["", "a b", "it's", "$(id)", "`id`", "\"", "\\", "a\nb", "-x", "*", "'';id #"] {
            let shell = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), word);
        }
    }
}
