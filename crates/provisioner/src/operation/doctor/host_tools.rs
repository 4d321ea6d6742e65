//! This host: bridge, routes, addresses, neighbours, units, versions of tools.

use crate::host::run_process::{self, Input, Program};
use crate::host::{self, Host, read_file};
use crate::operation::Context;
use crate::operation::capacity::supplies;
use crate::plan::doctor::kinds::*;
use crate::plan::doctor::{Finding, storage, systemd, versions};
use crate::tool::ip;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

/// One call of `ip` or `systemctl`.
const LOOK: Duration = Duration::from_secs(3);
/// terraform takes a while to start on a slow disk.
const TERRAFORM: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Debug, Default)]
pub struct FromHost {
    /// Host routes to single IPv6 addresses; `None`: they cannot be read.
    pub routes: Option<HashMap<Ipv6Addr, Vec<String>>>,
    /// The guests' bridge.
    pub bridge: Option<String>,
    /// The host's own addresses, its routers' and its name servers'.
    pub own: HashSet<IpAddr>,
    /// Who answers on the network.
    pub neighbours: Vec<(IpAddr, String)>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Looks.
pub fn look(ctx: &Context<'_>) -> FromHost {
    let mut seen = FromHost::default();
    network(ctx, &mut seen);
    seen.findings.extend(tool_versions(ctx));
    let state = &ctx.host.state_dir;
    seen.findings.extend(storage::own_disk(&state.display().to_string(), host::free_kib(state)));
    if let Err(error) = crate::operation::directories::check(ctx) {
        let place = ctx.settings.terraform_dir.display();
        let mend = "see the message";
        seen.findings.push(Finding::new(&DIRECTORY_NOT_WRITABLE, place, format!("{error:#}"), mend));
    }
    seen
}

fn network(ctx: &Context<'_>, seen: &mut FromHost) {
    let deadline = || ctx.host.deadline(LOOK);
    let mut unreadable = |error: anyhow::Error| {
        let mend = "ip -6 route show; ip address show";
        seen.findings.push(Finding::new(&NETWORK_UNREADABLE, "this host", format!("{error:#}"), mend));
    };
    match ip::host_addresses(ctx.host, deadline()) {
        Ok(addresses) => seen.own.extend(addresses),
        Err(error) => unreadable(error),
    }
    match ip::host_routes(ctx.host, deadline()) {
        Ok(routes) => seen.routes = Some(routes),
        Err(error) => unreadable(error),
    }
    // An older `ip` may not know the form; then nobody is known to answer.
    seen.neighbours = ip::neighbours(ctx.host, deadline()).unwrap_or_default();
    seen.own = supplies::of_host(ctx, std::mem::take(&mut seen.own));
    let (Ok(bridge), Ok(network)) = (ctx.bridge(), ip::network(ctx.host, deadline())) else { return };
    if !network.interfaces.iter().any(|interface| interface.name == bridge.as_str()) {
        let what = format!("this host has no network device {bridge}");
        let mend = "blockhost-provisioner-setup bridge, or correct proxmox_bridge in terraform.tfvars";
        seen.findings.push(Finding::new(&BRIDGE_MISSING, format!("bridge {bridge}"), what, mend));
    }
    seen.bridge = Some(bridge.as_str().to_string());
}

fn output(host: &Host, name: &str, arguments: &[&str], limit: Duration) -> Option<String> {
    run_process::find(name)?;
    let program = Program {
        name,
        arguments: arguments.iter().map(OsString::from).collect(),
        folder: Path::new("/"),
        // terraform asks its makers for news otherwise.
        environment: vec![("CHECKPOINT_DISABLE", "1".into())],
        without: &["TF_"],
    };
    let never = crate::host::interrupt::Interrupt::never();
    let ended = run_process::run(host.doors, &program, Input::Nothing, limit, &never, |_, _| {}).ok()?;
    ended.status.success().then_some(ended.stdout)
}

/// The units of systemd; nothing where it does not run.
pub fn units(host: &Host) -> Vec<Finding> {
    let property = format!("--property={}", systemd::PROPERTIES);
    let names = systemd::UNITS.map(|(unit, _)| unit);
    let arguments = [&["show", property.as_str(), "--no-pager"], names.as_slice()].concat();
    output(host, "systemctl", &arguments, LOOK).map(|answer| systemd::findings(&answer)).unwrap_or_default()
}

fn tool_versions(ctx: &Context<'_>) -> Vec<Finding> {
    let lock = ctx.settings.terraform_dir.join(".terraform.lock.hcl");
    let provider = read_file::text(lock).ok().and_then(|text| versions::provider(&text));
    let answer = output(ctx.host, "terraform", &["version", "-json"], TERRAFORM);
    let answer: Option<Value> = answer.and_then(|text| serde_json::from_str(&text).ok());
    let version = answer.as_ref().and_then(|answer| answer.get("terraform_version")?.as_str());
    version.and_then(versions::terraform).into_iter().chain(provider).collect()
}
