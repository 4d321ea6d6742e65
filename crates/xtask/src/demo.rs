//! `cargo xtask demo`: the whole life of a VM on a lab node, each command and its output visible.

use crate::sh::{cargo, shown};
use anyhow::ensure;
use lab::Lab;
use std::process::Command;

const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";

/// Builds the workspace and plays it; whether every step went as it should.
pub fn run() -> anyhow::Result<bool> {
    ensure!(shown(cargo(&["build", "--workspace"]))?, "the workspace does not build");
    play()
}

/// Plays it with the binaries beside this one, or those of `LAB_TARGET`.
pub fn play() -> anyhow::Result<bool> {
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
    play.title("The engine has minted the NFT; a network plugin looks into the guest")?;
    play.step("blockhost-vm-update-gecos", &["web-1", WALLET, "--nft-id", "42"])?;
    play.step("blockhost-vm-guest-exec", &["web-1", "getent passwd admin | cut -d: -f1,5"])?;
    play.title("The monitor looks every 2 s: rates are changes since its last look")?;
    // Not judged: on a busy machine its 350 ms may pass.
    play.show("blockhost-vm-metrics", &["web-1"])?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    play.show("blockhost-vm-metrics", &["web-1"])?;
    play.title("It uses more than its share, and is limited")?;
    play.step(
        "blockhost-vm-throttle",
        &["web-1", "--cpu-quota", "50", "--iops-read", "500", "--bandwidth-in", "10000"],
    )?;
    play.step("blockhost-vm-throttle", &["web-1", "--show"])?;
    play.title("Somebody else restarts it: CPU and IOPS limits stay, reapply sets the bandwidth again")?;
    play.step("qm", &["stop", "100"])?;
    play.step("qm", &["start", "100"])?;
    play.step("blockhost-provisioner-reapply", &[])?;
    play.step("blockhost-vm-throttle", &["web-1", "--show"])?;
    play.step("tc", &["qdisc", "show", "dev", "tap100i0"])?;
    play.step("blockhost-vm-throttle", &["web-1", "--reset"])?;
    play.until_the_guest_is_up();
    play.title("The admin panel: stop, start, kill")?;
    play.step("blockhost-vm-stop", &["web-1"])?;
    play.step("blockhost-vm-status", &["web-1"])?;
    play.step("blockhost-vm-start", &["web-1"])?;
    play.step("blockhost-vm-kill", &["web-1"])?;
    play.step("blockhost-vm-start", &["web-1"])?;
    play.title("The same name again is refused")?;
    play.fails("blockhost-vm-create", &[&create[..], &["--apply"]].concat())?;
    play.title("The node reboots: taps are new, host routes gone, and a unit puts them back")?;
    play.step("lab", &["ctl", "reboot-node"])?;
    play.step("blockhost-provisioner-reapply", &[])?;
    play.title("31 days later nobody has paid: what gc would do, then what it does")?;
    play.step("lab", &["ctl", "days-pass", "31"])?;
    play.step("blockhost-vm-gc", &[])?;
    play.until_the_guest_is_up();
    play.step("blockhost-vm-gc", &["--execute"])?;
    play.step("blockhost-vm-status", &["web-1"])?;
    play.title("Somebody pays: the VM runs again")?;
    play.step("blockhost-vm-resume", &["web-1", "--extend-days", "10"])?;
    play.step("blockhost-vm-status", &["web-1"])?;
    play.title("11 days later, and 8 more of grace: suspended, then destroyed")?;
    play.step("lab", &["ctl", "days-pass", "11"])?;
    play.until_the_guest_is_up();
    play.step("blockhost-vm-gc", &["--execute"])?;
    play.step("lab", &["ctl", "days-pass", "8"])?;
    play.step("blockhost-vm-gc", &["--execute"])?;
    play.title("The end: machine, disks, files, route and addresses are gone; the record stays")?;
    play.step("blockhost-vm-destroy", &["web-1"])?;
    play.step("blockhost-vm-status", &["web-1"])?;
    play.step("blockhost-vm-list", &["--format", "json"])?;
    play.step("lab", &["status"])?;
    play.title("Who did all this")?;
    play.step("sh", &["-c", "cat \"$BLOCKHOST_STATE_DIR\"/audit/*.jsonl"])?;
    println!("\nDone. To keep a lab and work in it by hand: see doc/lab.md.");
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

    /// A guest that still boots does not heed a shutdown; gc would give it its whole time.
    fn until_the_guest_is_up(&self) {
        for _ in 0..20 {
            let exec = self.lab.command("blockhost-vm-guest-exec").args(["web-1", "true"]).output();
            if exec.is_ok_and(|ended| ended.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
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
