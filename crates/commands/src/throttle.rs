//! `blockhost-vm-throttle`: its flags and what it prints.

use crate::{OneVm, TextOrJson, answer, number, open, warn};
use clap::{ArgGroup, Parser};
use provisioner::host::Host;
use provisioner::operation::audited::audited_in_words;
use provisioner::operation::throttle::{Shown, Throttled, show, throttle};
use provisioner::operation::{in_words, mock};
use provisioner::plan::throttle::LimitRequest;
use provisioner::value::limits::Limit;
use serde_json::{Map, Value};

/// Arguments that change a limit.
const CHANGES: [&str; 7] =
    ["cpu_shares", "cpu_quota", "bandwidth_in", "bandwidth_out", "iops_read", "iops_write", "reset"];

/// Limit CPU, disk and network of a running VM
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-vm-throttle",
    version,
    styles = crate::STYLES,
    group = ArgGroup::new("limits").multiple(true).required(true),
    after_help = "A limit that is not named stays as it is; 0 removes one. Limits hold at once and after restarts of the VM.\n\n\
        Examples:\n  blockhost-vm-throttle web-1 --cpu-quota 50 --iops-read 500\n  \
        blockhost-vm-throttle web-1 --bandwidth-out 0\n  blockhost-vm-throttle web-1 --show"
)]
pub struct ThrottleCommand {
    #[command(flatten)]
    vm: OneVm,
    /// Weight among the node's VMs where CPUs are short, 1 to 10000; 0: Proxmox' default, which is 100
    #[arg(long, value_name = "N", group = "limits", value_parser = shares)]
    cpu_shares: Option<u32>,
    /// Percent of the VM's own vCPUs, 1 to 100
    #[arg(long, value_name = "PERCENT", group = "limits", value_parser = quota)]
    cpu_quota: Option<u32>,
    /// What the guest receives, in kilobits per second
    #[arg(long, value_name = "KBPS", group = "limits", value_parser = bandwidth)]
    bandwidth_in: Option<u32>,
    /// What the guest sends, in kilobits per second
    #[arg(long, value_name = "KBPS", group = "limits", value_parser = bandwidth)]
    bandwidth_out: Option<u32>,
    /// Reads per second of each disk
    #[arg(long, value_name = "N", group = "limits", value_parser = iops)]
    iops_read: Option<u32>,
    /// Writes per second of each disk
    #[arg(long, value_name = "N", group = "limits", value_parser = iops)]
    iops_write: Option<u32>,
    /// Remove every limit that is not named beside it
    #[arg(long, group = "limits")]
    reset: bool,
    /// Print the limits in force and change nothing
    #[arg(long, group = "limits", conflicts_with_all = CHANGES)]
    show: bool,
    /// With --show: print text or JSON
    #[arg(long, value_enum, default_value_t = TextOrJson::Text, requires = "show", conflicts_with_all = CHANGES)]
    format: TextOrJson,
}

fn shares(text: &str) -> Result<u32, String> {
    number(text, 0..=u64::from(Limit::CpuShares.highest()), "a whole number, e.g. 50")
}

fn quota(text: &str) -> Result<u32, String> {
    number(text, 0..=u64::from(Limit::CpuQuota.highest()), "whole percent, e.g. 50")
}

fn bandwidth(text: &str) -> Result<u32, String> {
    number(text, 0..=u64::from(Limit::BandwidthIn.highest()), "kilobits per second, e.g. 10000")
}

fn iops(text: &str) -> Result<u32, String> {
    number(text, 0..=u64::from(Limit::IopsRead.highest()), "operations per second, e.g. 500")
}

impl ThrottleCommand {
    fn request(&self) -> LimitRequest {
        let named = [
            (Limit::CpuShares, self.cpu_shares),
            (Limit::CpuQuota, self.cpu_quota),
            (Limit::BandwidthIn, self.bandwidth_in),
            (Limit::BandwidthOut, self.bandwidth_out),
            (Limit::IopsRead, self.iops_read),
            (Limit::IopsWrite, self.iops_write),
        ];
        let named = named.into_iter().filter_map(|(limit, value)| Some((limit, value?)));
        LimitRequest { reset: self.reset, named: named.collect() }
    }
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: ThrottleCommand = crate::parse();
    crate::run_vm(
        &command.vm,
        |host| if command.show { shown(host, &command) } else { changed(host, &command) },
    )
}

fn changed(host: &Host, command: &ThrottleCommand) -> anyhow::Result<()> {
    let (ctx, name, request) = (open(host, &command.vm)?, &command.vm.name, command.request());
    // The audit trail records what was changed, which its other fields do not show.
    let words = |result: &anyhow::Result<Throttled>| match result {
        Ok(_) => format!("ok; {request}"),
        Err(_) => in_words(result),
    };
    let act = || throttle(&ctx, name, &request);
    let done = match command.vm.mock {
        true => mock::throttle(&ctx, name, &request)?,
        false => audited_in_words(&ctx, "throttle", name, act, words)?,
    };
    done.warnings.iter().for_each(|warning| warn(warning));
    answer(&(done.lines.join("\n") + "\n"))
}

fn shown(host: &Host, command: &ThrottleCommand) -> anyhow::Result<()> {
    let (ctx, name) = (open(host, &command.vm)?, &command.vm.name);
    let shown = if command.vm.mock { mock::throttle_shown(&ctx, name)? } else { show(&ctx, name)? };
    for difference in &shown.differences {
        warn(&format!("VM {name}: {difference}"));
    }
    answer(&match command.format {
        TextOrJson::Text => text(&shown),
        TextOrJson::Json => format!("{}\n", Value::Object(json(name.as_str(), &shown))),
    })
}

fn text(shown: &Shown) -> String {
    let mut text = String::new();
    for (limit, words) in &shown.words {
        text.push_str(&format!("{:<14} {words}\n", limit.name()));
    }
    text
}

fn json(name: &str, shown: &Shown) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("name".into(), name.into());
    all.insert("vmid".into(), shown.vmid.into());
    all.insert("running".into(), shown.is_running.into());
    all.extend(shown.limits.to_json());
    all.insert("differences".into(), shown.differences.clone().into());
    all
}
