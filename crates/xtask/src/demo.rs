//! `cargo xtask demo`: the whole life of a VM on a lab node, each command and its output visible.

use crate::sh::{cargo, shown};
use anyhow::ensure;
use lab::Lab;
use std::process::Command;

const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";

/// Builds the workspace and plays it; whether every step went as it should.
pub fn run() -> anyhow::Result<bool> {
    ensure!(shown(cargo(&["build", "--workspace"]))?, "the workspace does not build");
    println!("\n# A lab node with the durations of a small real host: qm 0.6 s, clone 1.5 s, boot 5 s.");
    let lab = Lab::builder().real_time().start()?;
    let play = Play { lab: &lab };
    let create = ["web-1", "--owner-wallet", WALLET, "--expiry-days", "30"];
    play.title("What would be made; nothing is taken")?;
    play.step("blockhost-vm-create", &create)?;
    play.title("An engine has seen the payment")?;
    play.step("blockhost-vm-create", &[&create[..], &["--apply"]].concat())?;
    play.title(
        "What the node has now: the VM, its disks, its isolated port, its host route, its cloud-init",
    )?;
    play.step("lab", &["status"])?;
    play.step("qm", &["config", "100"])?;
    play.step("blockhost-vm-status", &["web-1"])?;
    play.step("blockhost-vm-list", &[])?;
    play.title("The admin panel: stop, start, kill")?;
    play.step("blockhost-vm-stop", &["web-1"])?;
    play.step("blockhost-vm-status", &["web-1"])?;
    play.step("blockhost-vm-start", &["web-1"])?;
    play.step("blockhost-vm-kill", &["web-1"])?;
    play.title("The same name again is refused")?;
    play.fails("blockhost-vm-create", &[&create[..], &["--apply"]].concat())?;
    play.title("The end: machine, disks, files, route and addresses go; the record stays")?;
    play.step("blockhost-vm-destroy", &["web-1"])?;
    play.step("blockhost-vm-destroy", &["web-1"])?;
    play.step("blockhost-vm-status", &["web-1"])?;
    play.step("blockhost-vm-list", &["--format", "json"])?;
    play.step("lab", &["status"])?;
    println!("\nDone. To keep a lab and work in it by hand: see \"A lab to keep\" in README.md.");
    Ok(true)
}

struct Play<'l> {
    lab: &'l Lab,
}

impl Play<'_> {
    fn title(&self, text: &str) -> anyhow::Result<()> {
        println!("\n# {text}");
        Ok(())
    }

    fn step(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        ensure!(self.show(program, arguments)?, "{program} {} failed", arguments.join(" "));
        Ok(())
    }

    fn fails(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        ensure!(!self.show(program, arguments)?, "{program} {} should have failed", arguments.join(" "));
        Ok(())
    }

    fn show(&self, program: &str, arguments: &[&str]) -> anyhow::Result<bool> {
        println!("\n$ {program} {}", arguments.join(" "));
        let ours = program.starts_with("blockhost-") || program == "lab";
        let mut command: Command = if ours { self.lab.command(program) } else { self.lab.tool(program) };
        shown({
            command.args(arguments);
            command
        })
    }
}
