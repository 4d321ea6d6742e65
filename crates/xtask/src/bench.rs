//! `cargo xtask bench`: whole commands and the library, on a lab node. Times are of this machine; what counts are
//! the ratios inside one run.

use crate::sh::{cargo, shown};
use anyhow::{Context, ensure};
use lab::Lab;
use lab::model::{AgentMode, NewGuest};
use nix::sys::resource::{UsageWho, getrusage};
use provisioner::host::doors::Doors;
use provisioner::plan::allocation;
use provisioner::store::vm_database::VmDatabase;
use provisioner::value::address::{Ipv4Network, Ipv4Pool};
use provisioner::value::allocation::Wish;
use provisioner::value::field_names::FieldNames;
use provisioner::value::vmid::{Vmid, VmidRange};
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";
const LAST: &str = "bench-last";

/// Builds for release and measures with the release binaries.
pub fn build_and_run() -> anyhow::Result<bool> {
    ensure!(
        shown(cargo(&["build", "--workspace", "--release"]))?,
        "the workspace does not build for release"
    );
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::sh::root().join("target"), Into::into);
    shown(crate::sh::command(target.join("release/xtask"), &["bench-here"]))
}

/// Measures.
pub fn run() -> anyhow::Result<bool> {
    println!("machine: {} cores, load {}", std::thread::available_parallelism()?, load()?);
    whole_processes()?;
    library()?;
    creates_by_fleet_size()?;
    ten_creates_at_once()?;
    suspending_fifty()?;
    commands_in_a_guest()?;
    metrics()?;
    hooks()?;
    Ok(true)
}

/// `measure PROGRAM ARGS`: runs one child and prints what it used. A process of its own, so that the largest
/// memory of another child does not show.
pub fn measure(arguments: &[&str]) -> anyhow::Result<bool> {
    let (program, rest) = arguments.split_first().context("nothing to measure")?;
    let begun = Instant::now();
    let status = Command::new(program).args(rest).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let wall = begun.elapsed();
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = milliseconds(used.user_time()) + milliseconds(used.system_time());
    println!("{} {cpu} {} {}", wall.as_secs_f64() * 1e3, used.max_rss(), status.success());
    Ok(true)
}

fn milliseconds(time: nix::sys::time::TimeVal) -> f64 {
    time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3
}

fn load() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_string())
}

/// Best and middle wall time, middle CPU time in milliseconds, largest memory in KiB.
struct Used {
    best: f64,
    middle: f64,
    cpu: f64,
    memory: i64,
}

fn repeat(lab: &Lab, times: usize, program: &str, arguments: &[&str]) -> anyhow::Result<Used> {
    repeat_after(lab, times, || {}, program, arguments)
}

/// The same, with something done before each.
fn repeat_after(
    lab: &Lab,
    times: usize,
    before: impl Fn(),
    program: &str,
    arguments: &[&str],
) -> anyhow::Result<Used> {
    let me = std::env::current_exe()?;
    let target = lab.command(program).get_program().to_string_lossy().into_owned();
    let (mut walls, mut cpus, mut memory) = (Vec::new(), Vec::new(), 0);
    for _ in 0..times {
        before();
        let mut command = lab.tool(&me.to_string_lossy());
        let output = command.arg("measure").arg(&target).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        ensure!(
            words.get(3) == Some(&"true"),
            "{program} failed: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        walls.push(words[0].parse::<f64>()?);
        cpus.push(words[1].parse::<f64>()?);
        memory = memory.max(words[2].parse::<i64>()?);
    }
    walls.sort_by(f64::total_cmp);
    cpus.sort_by(f64::total_cmp);
    Ok(Used { best: walls[0], middle: walls[times / 2], cpu: cpus[times / 2], memory })
}

fn whole_processes() -> anyhow::Result<()> {
    println!("\nwhole processes (aim: 2, 3, 8 ms and 25 MiB on an idle core)");
    let lab = Lab::builder().no_terraform().vmid_range(100, 999_999).start()?;
    for vmid in [1_000, 1_999, 10_999, 100_999] {
        let uuid = uuid::Uuid::from_u128(u128::from(vmid)).to_string();
        let config = [("smbios1".to_string(), format!("uuid={uuid}"))].into();
        lab.control().add_guest(NewGuest {
            vmid,
            name: LAST.into(),
            running: true,
            config,
            ..NewGuest::default()
        })?;
    }
    let floor = repeat(&lab, 40, "blockhost-vm-list", &["--version"])?;
    println!(
        "  {:<34} best {:5.2} ms  middle {:5.2} ms  cpu {:5.2} ms  {:5} KiB",
        "a process that does nothing", floor.best, floor.middle, floor.cpu, floor.memory
    );
    for count in [1, 1_000, 10_000, 100_000] {
        let database = lab.path("var/vms.json");
        std::fs::write(&database, fleet(count))?;
        for (program, arguments) in [
            ("blockhost-vm-status", vec![LAST]),
            ("blockhost-vm-list", vec!["--format", "json"]),
            // A dry run: it reads, decides, and prints.
            ("blockhost-vm-gc", vec![]),
        ] {
            let used = repeat(&lab, 40, program, &arguments)?;
            let what = format!("{} with {count} VMs", &program[10..]);
            println!(
                "  {what:<34} best {:5.2} ms  middle {:5.2} ms  cpu {:5.2} ms  {:5} KiB  {}",
                used.best,
                used.middle,
                used.cpu,
                used.memory,
                instructions(&lab, program, &arguments)?
            );
        }
    }
    Ok(())
}

/// A monitor looks at each VM every 2 s.
fn metrics() -> anyhow::Result<()> {
    println!("\nmetrics (aim: 10 ms of CPU for one VM with 1 000 records; 400 ms for an answer)");
    for count in [1, 100, 1_000_u32] {
        let lab = Lab::builder().no_terraform().vmid_range(100, 999_999).start()?;
        let guest = |vmid: u32| {
            let name =
                if vmid == 999 + count { LAST.to_string() } else { format!("blockhost-{:05}", vmid - 1_000) };
            let uuid = uuid::Uuid::from_u128(u128::from(vmid)).to_string();
            let config = [
                ("smbios1".to_string(), format!("uuid={uuid}")),
                ("description".to_string(), format!("BlockHost VM {name} {uuid}")),
                ("agent".to_string(), "enabled=1".to_string()),
            ];
            let (config, pool) = (config.into(), Some("blockhost".to_string()));
            NewGuest { vmid, name, running: true, disk_gib: 10, config, pool, ..NewGuest::default() }
        };
        lab.control().add_guests((1_000..1_000 + count).map(guest).collect())?;
        std::fs::write(lab.path("var/vms.json"), fleet(count))?;
        for (agent, words) in [(AgentMode::On, "agent answers"), (AgentMode::Off, "agent is silent")] {
            lab.control().agent(999 + count, agent)?;
            for (arguments, is_first) in [
                (&[LAST][..], true),
                (&[LAST], false),
                (&["--all"], false),
                (&["--all", "--format", "prometheus"], false),
            ] {
                // Without samples, the agent and the statistics are asked.
                let forget = || drop(is_first.then(|| std::fs::remove_dir_all(lab.path("var/metrics"))));
                let used = repeat_after(&lab, 20, forget, "blockhost-vm-metrics", arguments)?;
                let first = if is_first { ", first look" } else { "" };
                println!(
                    "  {:<58} best {:6.2} ms  middle {:6.2} ms  cpu {:5.2} ms  {:5} KiB  {}",
                    format!("{} of {count} VMs, {words}{first}", arguments.join(" ")),
                    used.best,
                    used.middle,
                    used.cpu,
                    used.memory,
                    if is_first {
                        String::new()
                    } else {
                        instructions(&lab, "blockhost-vm-metrics", arguments)?
                    }
                );
            }
        }
    }
    Ok(())
}

/// The network of the host of [`hooks`]: a bridge, and a VM's tap that is a port of it.
const HOST: &str = "mount -t sysfs sysfs \"$1/sys\"
ip link add vmbr0 type bridge
ip link set vmbr0 up
ip address add fd00::1/64 dev vmbr0 nodad
ip link add tap100i0 type veth peer name eth0
ip link set tap100i0 master vmbr0 up
shift
exec \"$@\"";

/// The hook script of a VM, before and after its start, with the real nft, bridge, tc and ip in namespaces.
fn hooks() -> anyhow::Result<()> {
    println!("\nthe hooks of a VM's start, which waits for them (aim: 50 ms for both)");
    let (dir, me) = (tempfile::tempdir()?, std::env::current_exe()?);
    let root = dir.path();
    for folder in ["sys", "run", "etc/pve/qemu-server", "etc/blockhost", "var/lib/blockhost-guard"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    let uuid = uuid::Uuid::from_u128(100);
    let config = format!("name: web-1\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nsmbios1: uuid={uuid}\n");
    std::fs::write(root.join("etc/pve/qemu-server/100.conf"), config)?;
    std::fs::write(root.join("etc/blockhost/db.yaml"), "bridge: vmbr0\n")?;
    let decided = json!({ "vmid": 100, "uuid": uuid, "name": "web-1", "ipv4": "192.168.122.200", "ipv6": "fd00::c8",
        "anti_spoofing": true, "isolate": true, "enabled": true,
        "limits": { "bandwidth_in_kbps": 1_000, "bandwidth_out_kbps": 1_000 } });
    std::fs::write(root.join("var/lib/blockhost-guard/100.json"), decided.to_string())?;
    let script = root.join("blockhost-guard.sh");
    std::fs::write(&script, hook_script(root)?)?;
    let both = format!("sh '{0}' 100 pre-start && sh '{0}' 100 post-start", script.display());
    let target = me.parent().context("no directory")?;
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", target.display());
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    let mut floors = Vec::new();
    let inside = |words: &[&str]| -> anyhow::Result<String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-ec", HOST, "host"]).arg(root).args(words);
        command.env_clear().env("PATH", &path).env("BLOCKHOST_NODE_ROOT", root);
        let output = command.env("BLOCKHOST_CONFIG_DIR", root.join("etc/blockhost")).output()?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "the hooks failed (they need root, nftables and iproute2): {words}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let me = me.to_string_lossy().into_owned();
    for _ in 0..21 {
        let text = inside(&[&me, "measure", "sh", "-c", &both])?;
        let words: Vec<&str> = text.split_whitespace().collect();
        ensure!(words.get(3) == Some(&"true"), "a hook failed: {text}");
        walls.push(words[0].parse::<f64>()?);
        cpus.push(words[1].parse::<f64>()?);
        let text = inside(&[&me, "measure", "nft", "list", "ruleset"])?;
        floors.push(text.split(' ').next().unwrap_or_default().parse::<f64>()?);
    }
    [&mut walls, &mut cpus, &mut floors].into_iter().for_each(|times| times.sort_by(f64::total_cmp));
    let (best, middle, floor) = (walls[0], walls[10], floors[10]);
    println!(
        "  both hooks: best {best:.1} ms  middle {middle:.1} ms  cpu {:.1} ms; {:.1} times one nft alone ({floor:.1} ms)",
        cpus[10],
        middle / floor
    );
    // Each line of a trace is a program that was started.
    match inside(&[
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=execve",
        "-e",
        "status=successful",
        "-o",
        "|cat",
        "sh",
        "-c",
        &both,
    ]) {
        Ok(trace) => {
            println!("  programs started: {}, this shell included", trace.matches("execve(").count())
        }
        Err(error) => println!("  (programs started: {error:#})"),
    }
    Ok(())
}

/// The script as the root agent's plugin writes it; where the node is comes from the environment here.
fn hook_script(root: &Path) -> anyhow::Result<String> {
    let plugin = std::fs::read_to_string(crate::sh::root().join("root-agent-actions/qm.py"))?;
    let text = plugin.split_once("HOOK = \"\"\"\\\n").and_then(|(_, rest)| rest.split_once("\"\"\""));
    let (text, _) = text.context("the plugin has no HOOK")?;
    let config = root.join("etc/blockhost/db.yaml");
    Ok(text.replace("@ENVIRONMENT@", "").replace("@CONFIG@", &config.to_string_lossy()))
}

/// How many instructions a command takes: the same number at each run, whatever else the machine does.
fn instructions(lab: &Lab, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let target = lab.command(program).get_program().to_os_string();
    let mut command = lab.tool("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(target).args(arguments);
    let Ok(output) = command.output() else {
        return Ok("(instructions: valgrind is not installed)".to_string());
    };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let count = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
    let count = count.with_context(|| format!("valgrind counted nothing: {text}"))?;
    Ok(format!("{:.1} M instructions", count / 1e6))
}

fn library() -> anyhow::Result<()> {
    println!("\nallocation + registration with 10 000 VMs (aim: 40 ms of CPU)");
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("vms.json");
    std::fs::write(&path, fleet(10_000))?;
    let mut times = Vec::new();
    for round in 0..11u32 {
        let before = getrusage(UsageWho::RUSAGE_SELF)?;
        allocate_and_register(&path, &format!("new-{round}"))?;
        let after = getrusage(UsageWho::RUSAGE_SELF)?;
        let cpu = |used: &nix::sys::resource::Usage| {
            milliseconds(used.user_time()) + milliseconds(used.system_time())
        };
        times.push(cpu(&after) - cpu(&before));
    }
    times.sort_by(f64::total_cmp);
    println!("  best {:.1} ms  middle {:.1} ms of CPU", times[0], times[5]);
    Ok(())
}

/// What create does with the database: a look for the likely VMID, the locked allocation, the registration.
fn allocate_and_register(path: &Path, name: &str) -> anyhow::Result<()> {
    let names = FieldNames::default();
    let database = VmDatabase::new(Doors::real(), path, &names);
    let network = Ipv4Network::parse("10.0.0.0/8")?;
    let pool = Ipv4Pool {
        network,
        start: Ipv4Addr::new(10, 0, 0, 2),
        end: Ipv4Addr::new(10, 255, 0, 0),
        gateway: Ipv4Addr::new(10, 0, 0, 1),
    };
    let range = VmidRange { start: Vmid::new(100)?, end: Vmid::new(999_999)? };
    let choose =
        |db: &provisioner::store::vm_database::Contents<'_>| -> anyhow::Result<provisioner::value::allocation::Allocation> {
            let held = db.held(&mut |_| {}).map_err(anyhow::Error::msg)?;
            let next = db.next_vmid().map_err(anyhow::Error::msg)?;
            Ok(allocation::choose(&held, next, range, &pool, None, Wish::default())?)
        };
    database.next_vmid_hint()?;
    let allocation = database.update(|db| {
        let chosen = choose(db)?;
        db.set_next_vmid(allocation::next_after(chosen.vmid, range));
        db.hold("allocated_ips", &chosen.ipv4.to_string());
        Ok(chosen)
    })?;
    database.update(|db| {
        let Value::Object(fields) = record(name, allocation.vmid.get(), &allocation.ipv4.to_string()) else {
            return Ok(());
        };
        db.insert(name, fields.into_iter().collect());
        Ok(())
    })
}

fn record(name: &str, vmid: u32, ip: &str) -> Value {
    json!({ "vm_name": name, "vmid": vmid, "ip_address": ip, "ipv6_address": format!("2a11:6c7:f04:276::{vmid:x}"),
        "expires_at": "2126-12-23T01:09:55.123456+00:00", "owner": "admin", "status": "active",
        "created_at": "2026-11-23T01:09:55.123456+00:00", "purpose": "", "wallet_address": WALLET, "owner_wallet": WALLET,
        "username": "admin", "network_mode": "broker", "smbios_uuid": uuid::Uuid::from_u128(u128::from(vmid)).to_string() })
}

/// A database of `count` VMs as Python's `json.dump(…, indent=2)` writes it; the last one is called [`LAST`].
fn fleet(count: u32) -> String {
    let mut vms = Map::new();
    let mut ips = Vec::new();
    for index in 0..count {
        let name = if index + 1 == count { LAST.to_string() } else { format!("blockhost-{index:05}") };
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 1, 0)) + index).to_string();
        vms.insert(name.clone(), record(&name, 1_000 + index, &ip));
        ips.push(ip);
    }
    let database =
        json!({ "vms": vms, "next_vmid": 1_000 + count, "allocated_ips": ips, "allocated_ipv6": [] });
    serde_json::to_string_pretty(&database).unwrap_or_default()
}

fn creates_by_fleet_size() -> anyhow::Result<()> {
    println!("\none create with an instant guest (aim: flat)");
    let mut middles = Vec::new();
    for count in [10u32, 1_000] {
        let lab = Lab::builder().vmid_range(100, 99_999).start()?;
        std::fs::write(lab.path("var/vms.json"), fleet(count))?;
        for index in 0..count {
            let folder = lab.path(format!("var/terraform/vms/blockhost-{index:05}"));
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("terraform.tfstate"), "{}")?;
        }
        let mut walls = Vec::new();
        for round in 0..5 {
            walls.push(create(&lab, &format!("new-{round}"))?.as_secs_f64());
        }
        walls.sort_by(f64::total_cmp);
        println!("  {count:>5} VMs: best {:.2} s  middle {:.2} s", walls[0], walls[2]);
        middles.push(walls[2]);
    }
    println!("  ratio {:.2}", middles[1] / middles[0]);
    Ok(())
}

/// Guests that run, with records that expired a day ago.
fn expired_fleet(lab: &Lab, count: u32) -> anyhow::Result<()> {
    let mut vms = Map::new();
    let mut guests = Vec::new();
    for vmid in 100..100 + count {
        let name = format!("blockhost-{vmid}");
        let mut record = record(&name, vmid, &format!("192.168.122.{}", vmid % 50 + 200));
        record["expires_at"] = json!((chrono::Utc::now() - chrono::Duration::days(1)).to_rfc3339());
        let uuid = record["smbios_uuid"].as_str().unwrap_or_default();
        let config =
            [("smbios1".to_string(), format!("uuid={uuid}")), ("agent".to_string(), "enabled=1".to_string())];
        let config = config.into();
        vms.insert(name.clone(), record);
        guests.push(NewGuest { vmid, name, running: true, config, ..NewGuest::default() });
    }
    lab.control().add_guests(guests)?;
    let database = json!({ "vms": vms, "next_vmid": 100 + count, "allocated_ips": [], "allocated_ipv6": [] });
    Ok(std::fs::write(lab.path("var/vms.json"), database.to_string())?)
}

/// Fifty guests that need a second each to shut down, and an unrelated start meanwhile.
fn suspending_fifty() -> anyhow::Result<()> {
    println!(
        "\ngc suspends 50 guests of 1 s each (aim: about 3 s; 10 s where each qm takes its real 0.6 s; start 2 s)"
    );
    for qm_ms in [0, 600] {
        let lab = Lab::builder().no_terraform().start()?;
        expired_fleet(&lab, 50)?;
        lab.control().timing(|timing| {
            timing.guest_shutdown = 1_000;
            timing.tool = qm_ms;
        })?;
        lab.control().add_guest(NewGuest { vmid: 900, name: "other".into(), ..NewGuest::default() })?;
        let path = lab.path("var/vms.json");
        let mut database: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        database["vms"]["other"] = record("other", 900, "192.168.122.251");
        if let Some(record) = database["vms"]["other"].as_object_mut() {
            record.remove("smbios_uuid");
        }
        std::fs::write(&path, database.to_string())?;
        let begun = Instant::now();
        let gc = lab
            .command("blockhost-vm-gc")
            .args(["--execute", "--suspend-only"])
            .stdout(Stdio::piped())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        let started = lab.command("blockhost-vm-start").arg("other").stderr(Stdio::null()).status()?;
        let start = start.elapsed().as_secs_f64();
        let done = gc.wait_with_output()?;
        let all = begun.elapsed().as_secs_f64();
        let text = String::from_utf8_lossy(&done.stdout);
        ensure!(started.success() && text.contains("50 suspended"), "gc or start failed: {text}");
        println!("  qm {qm_ms:>3} ms: all suspended after {all:.1} s, start meanwhile {start:.2} s");
    }
    Ok(())
}

/// Four commands in a row, as network plugins call them: what they cost beyond what the node takes.
fn commands_in_a_guest() -> anyhow::Result<()> {
    println!("\nfour guest-execs in a row (aim: 1 s of our own)");
    let lab = Lab::builder().no_terraform().start()?;
    expired_fleet(&lab, 1)?;
    let used = repeat(&lab, 10, "blockhost-vm-guest-exec", &["blockhost-100", "true"])?;
    println!(
        "  with a qm that takes no time: {:.0} ms, of them {:.1} ms of our CPU",
        used.middle * 4.0,
        used.cpu * 4.0
    );
    Ok(())
}

fn create(lab: &Lab, name: &str) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let output =
        lab.command("blockhost-vm-create").args([name, "--owner-wallet", WALLET, "--apply"]).output()?;
    ensure!(output.status.success(), "create {name} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(begun.elapsed())
}

fn ten_creates_at_once() -> anyhow::Result<()> {
    println!("\nten creates at once, guests boot in 5 s, three run side by side (aim: about four times one)");
    let lab = Lab::builder().boot_ms(5_000).start()?;
    let one = create(&lab, "alone")?.as_secs_f64();
    let begun = Instant::now();
    let results: Vec<anyhow::Result<Duration>> = std::thread::scope(|scope| {
        let lab = &lab;
        let threads: Vec<_> =
            (0..10).map(|n| scope.spawn(move || create(lab, &format!("ten-{n}")))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| anyhow::bail!("a thread died"))).collect()
    });
    let ten = begun.elapsed().as_secs_f64();
    let succeeded = results.iter().filter(|r| r.is_ok()).count();
    println!("  one {one:.1} s, ten {ten:.1} s ({succeeded} succeeded), ratio {:.1}", ten / one);
    results.into_iter().collect::<anyhow::Result<Vec<_>>>().map(drop)
}
