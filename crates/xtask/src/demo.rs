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
        &[&["web-1", "--cpu-quota", "50", "--iops-read", "500"][..], &LIMITS].concat(),
    )?;
    play.step("blockhost-vm-throttle", &["web-1", "--show"])?;
    play.restarts_by_others()?;
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

/// Kilobits per second, received and sent.
const LIMITS: [&str; 4] = ["--bandwidth-in", "10000", "--bandwidth-out", "8000"];

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

    fn restarts_by_others(&self) -> anyhow::Result<()> {
        self.title(
            "Somebody else restarts it, as from Proxmox' page: its hook script sets route, isolation, rules and limits",
        )?;
        self.step("qm", &["stop", "100"])?;
        self.step("qm", &["start", "100"])?;
        self.shows("bridge", &["-d", "link", "show", "dev", "tap100i0"], &["isolated on"])?;
        self.shows("tc", &["qdisc", "show", "dev", "tap100i0"], &["tbf rate 10000kbit"])?;
        let rules = ["limit rate over 1000000 bytes/second", "ip saddr 192.168.122.200 accept"];
        self.shows("nft", &["list", "table", "bridge", "blockhost"], &rules)?;
        self.shows("ip", &["-6", "route", "show", "dev", "vmbr0"], &["2a11:6c7:f04:276::2"])?;
        let kept = ["cpu-quota      50 %", "bandwidth-in   10000 kbit/s", "bandwidth-out  8000 kbit/s"];
        self.shows("blockhost-vm-throttle", &["web-1", "--show"], &kept)?;
        self.title("Its hook script is removed by mistake, so nobody can start it; gc puts the script back")?;
        self.step("qm", &["stop", "100"])?;
        std::fs::remove_file(self.lab.path("node/var/lib/vz/snippets/blockhost-guard.sh"))?;
        self.fails("qm", &["start", "100"])?;
        self.step("blockhost-vm-gc", &["--execute"])?;
        self.step("qm", &["start", "100"])?;
        self.shows("bridge", &["-d", "link", "show", "dev", "tap100i0"], &["isolated on"])?;
        Ok(())
    }

    /// A step whose output contains these words.
    fn shows(&self, program: &str, arguments: &[&str], words: &[&str]) -> anyhow::Result<()> {
        println!("\n$ {program} {}", arguments.join(" "));
        let ended = self.of(program).args(arguments).output()?;
        let text = String::from_utf8_lossy(&ended.stdout);
        print!("{text}{}", String::from_utf8_lossy(&ended.stderr));
        ensure!(ended.status.success(), "{program} {} failed", arguments.join(" "));
        for word in words {
            ensure!(text.contains(word), "{program} {} does not show {word:?}", arguments.join(" "));
        }
        Ok(())
    }

    fn of(&self, program: &str) -> Command {
        let ours = program.starts_with("blockhost-") || program == "lab";
        if ours { self.lab.command(program) } else { self.lab.tool(program) }
    }

    fn show(&self, program: &str, arguments: &[&str]) -> anyhow::Result<bool> {
        println!("\n$ {program} {}", arguments.join(" "));
        let mut command = self.of(program);
        shown({
            command.args(arguments);
            command
        })
    }
}
