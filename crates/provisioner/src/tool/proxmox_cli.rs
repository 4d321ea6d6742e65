//! Proxmox VE's own command line as root runs it: `qm`, `pvesm`, `pvesh` and `pveum`, on this node or on another one by
//! ssh.
//!
//! This is for the installer's commands alone. What concerns customers' VMs goes through the root agent
//! ([`super::node`]), which checks for itself.
//!
//! An exit code proves little (hazard H32): `pvesh` does not turn a failed task into one, and `qm` warns where it has not
//! done what it was asked for. Whoever changes something reads the state back.

mod rows;
mod template;

pub use rows::{AclEntry, ApiToken, Role};
pub use template::Grant;

use crate::host::Host;
use crate::host::clock::Deadline;
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

/// Limit of a call that only looks, or changes a line of a configuration; `qm` waits 10 s for a lock by itself.
const SHORT: Duration = Duration::from_secs(60);

/// The tools of one node.
#[derive(Debug, Clone)]
pub struct ProxmoxCli {
    host: ProxmoxHost,
    interrupt: Interrupt,
    /// Where there is one, it holds for all calls together; else each has a limit of its own.
    deadline: Option<Deadline>,
}

impl ProxmoxCli {
    /// The tools of this node, which must have answered by `deadline`; waits end with a signal to us.
    pub fn here(host: &Host, deadline: Deadline) -> ProxmoxCli {
        let interrupt = host.interrupt.clone();
        ProxmoxCli { host: ProxmoxHost::Local, interrupt, deadline: Some(deadline) }
    }

    /// The tools of a node, each call with the limit that suits it; waits end with `interrupt`.
    pub fn on(host: ProxmoxHost, interrupt: Interrupt) -> ProxmoxCli {
        ProxmoxCli { host, interrupt, deadline: None }
    }

    /// The same for undo, which a signal does not stop.
    pub fn uninterrupted(&self) -> ProxmoxCli {
        ProxmoxCli { interrupt: Interrupt::never(), ..self.clone() }
    }

    /// The same for undo within `limit` from now.
    pub fn undoing(&self, limit: Duration) -> ProxmoxCli {
        ProxmoxCli { deadline: Some(Deadline::after(limit)), ..self.uninterrupted() }
    }

    /// Runs a tool to its end, whatever that is. Arguments hold no secret: every local user can read them.
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
        run_process::run(&program, input, limit, &self.interrupt, |stream, line| {
            if stream == Stream::Out {
                heard(line);
            }
        })
    }

    /// Runs a tool; an exit code other than 0 is an error with its last words.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Result<Ended, RunError> {
        let ended = self.call(name, arguments, Input::Nothing, SHORT, |_| {})?;
        ended.successful_as(|| [&[name], arguments].concat().join(" "))
    }

    /// Runs a tool that prints JSON.
    fn json<T: DeserializeOwned>(&self, name: &str, arguments: &[&str]) -> anyhow::Result<T> {
        let arguments = [arguments, &["--output-format", "json"]].concat();
        let ended = self.run(name, &arguments)?;
        serde_json::from_str(&ended.stdout)
            .with_context(|| format!("{name} {} did not print JSON", arguments.join(" ")))
    }

    /// Runs a tool that prints a list as JSON.
    fn rows<T: DeserializeOwned>(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Vec<T>> {
        let list: serde_json::Value = self.json(name, arguments)?;
        serde_json::from_value(list)
            .map_err(|_| anyhow::anyhow!("{name} {} did not print a list", arguments.join(" ")))
    }

    /// The major release of Proxmox VE: 8, 9.
    pub fn release(&self) -> anyhow::Result<u32> {
        let version: rows::Version = self.json("pvesh", &["get", "/version"])?;
        let release = version.release.as_deref().and_then(|text| text.split('.').next()?.parse().ok());
        release.context("pvesh get /version does not report the release")
    }

    /// The name of this node.
    pub fn node_name(&self) -> anyhow::Result<String> {
        let rows: Vec<rows::ClusterMember> = self.rows("pvesh", &["get", "/cluster/status"])?;
        let own = rows.into_iter().find(|row| row.kind.as_deref() == Some("node") && row.is_this);
        own.and_then(|row| row.name).context("pvesh get /cluster/status does not report which node this is")
    }

    /// The VMs and containers of all nodes.
    pub fn guests(&self) -> anyhow::Result<Vec<ClusterGuest>> {
        self.rows("pvesh", &["get", "/cluster/resources", "--type", "vm"])
    }

    /// A node's storages that are not disabled.
    pub fn storages(&self, node: &str) -> anyhow::Result<Vec<NodeStorage>> {
        self.rows("pvesh", &["get", &format!("/nodes/{node}/storage"), "--enabled", "1"])
    }

    /// A node's interfaces as they are configured, changes that were not applied included.
    pub fn interfaces(&self, node: &NodeName) -> anyhow::Result<Vec<ConfiguredInterface>> {
        self.rows("pvesh", &["get", &network_of(node)])
    }

    /// Configures an interface that is not there yet; nothing is applied. `options` are pairs of an option's name and value.
    pub fn add_interface(&self, node: &NodeName, options: &[(&str, String)]) -> Result<(), RunError> {
        self.configure(&["create", &network_of(node)], options)
    }

    /// Changes the configuration of an interface; nothing is applied.
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

    /// Applies all network changes that are pending. It says nothing about how that task ends.
    pub fn apply_network(&self, node: &NodeName) -> Result<(), RunError> {
        self.run("pvesh", &["set", &network_of(node)]).map(drop)
    }

    /// Takes back all network changes that were not applied.
    pub fn revert_network(&self, node: &NodeName) -> Result<(), RunError> {
        self.run("pvesh", &["delete", &network_of(node)]).map(drop)
    }

    /// Whether there is a pool of this name.
    pub fn has_pool(&self, name: &str) -> anyhow::Result<bool> {
        let rows: Vec<rows::Pool> = self.rows("pveum", &["pool", "list"])?;
        Ok(rows.iter().any(|row| row.name.as_deref() == Some(name)))
    }

    /// Whether there is a user of this name, realm included.
    pub fn has_user(&self, name: &str) -> anyhow::Result<bool> {
        let rows: Vec<rows::User> = self.rows("pveum", &["user", "list"])?;
        Ok(rows.iter().any(|row| row.name.as_deref() == Some(name)))
    }

    /// All roles.
    pub fn roles(&self) -> anyhow::Result<Vec<Role>> {
        self.rows("pveum", &["role", "list"])
    }

    /// The tokens of a user.
    pub fn tokens(&self, user: &str) -> anyhow::Result<Vec<ApiToken>> {
        self.rows("pveum", &["user", "token", "list", user])
    }

    /// Makes a token with privileges of its own; its secret, which is told this once. `made` is called once there is a
    /// token, whatever is wrong with what was printed of it.
    pub fn add_token(&self, user: &str, name: &str, made: impl FnOnce()) -> anyhow::Result<String> {
        // By way of a value: an error of the reader would repeat what it read.
        let printed: serde_json::Value =
            self.json("pveum", &["user", "token", "add", user, name, "--privsep", "1"])?;
        made();
        let token: rows::NewToken = serde_json::from_value(printed).unwrap_or_default();
        token.value.context("pveum printed no token secret")
    }

    /// Who may do what where.
    pub fn acl(&self) -> anyhow::Result<Vec<AclEntry>> {
        self.rows("pveum", &["acl", "list"])
    }
}

/// Where `pvesh` has the interfaces of a node.
fn network_of(node: &NodeName) -> String {
    format!("/nodes/{node}/network")
}

/// Arguments of ssh. It gives one line to a shell over there: each word is quoted (hazard H27).
fn over_ssh(target: &str, name: &str, words: &[&str]) -> Vec<std::ffi::OsString> {
    let line: Vec<String> = std::iter::once(&name).chain(words).map(|word| quoted(word)).collect();
    let options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15"];
    options.into_iter().chain(["--", target]).map(Into::into).chain([line.join(" ").into()]).collect()
}

/// A word for the shell at the other end of ssh.
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
