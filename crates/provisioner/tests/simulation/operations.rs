//! The commands, run as library functions, and what must be true when one of them says that it succeeded.

use super::book::{Known, text};
use super::judge::{Doing, Verb, may_be_destroyed};
use super::others;
use super::world::{Died, World};
use chrono::TimeDelta;
use provisioner::operation::create::{self, Request};
use provisioner::operation::destroy::Destroyed;
use provisioner::operation::gc::{Options, Report};
use provisioner::operation::{Context, destroy, gc, kill, list, reapply, resume, start, status, stop};
use provisioner::value::allocation::Wish;
use provisioner::value::text::{OneLine, UserName};
use provisioner::value::vm_name::VmName;
use provisioner::value::vmid::Vmid;
use provisioner::value::wallet::WalletAddress;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Names that are made and used; two of them would be one terraform resource (H03).
pub const NAMES: [&str; 9] = ["web-1", "web.1", "db-1", "db-2", "app", "mail", "ci", "old-1", "old-2"];
const WALLETS: [&str; 2] =
    ["0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B", "addr_test1qz2fxv2umyhttkxyxp8x0dlpdt3k6"];

impl Verb {
    pub fn draw(world: &World) -> (Verb, String) {
        let mut rng = world.rng.borrow_mut();
        let verb = match rng.weighted(&[26, 6, 6, 3, 3, 12, 32, 3, 2, 2]) {
            0 => Verb::Create { wallet: usize::from(rng.chance(150)) },
            1 => Verb::Destroy { force: rng.chance(300) },
            2 => Verb::Start { force: rng.chance(200) },
            3 => Verb::Stop,
            4 => Verb::Kill,
            5 => Verb::Resume {
                extend: rng.chance(300).then(|| rng.below(90) as u32),
                dry_run: rng.chance(100),
            },
            6 => {
                let only = rng.below(8);
                Verb::Gc(Options {
                    execute: rng.chance(930),
                    suspend_only: only == 0,
                    destroy_only: only == 1,
                    grace_days: rng.chance(200).then(|| rng.below(10) as u32),
                    accept_gap: rng.chance(300),
                    accept_share: rng.chance(300),
                })
            }
            7 => Verb::Reapply,
            8 => Verb::Status,
            _ => Verb::List,
        };
        if matches!(verb, Verb::Gc(_) | Verb::Reapply | Verb::List) {
            return (verb, String::new());
        }
        // Mostly a name with which there is something to do.
        let creates = matches!(verb, Verb::Create { .. });
        let destroys = matches!(verb, Verb::Destroy { .. });
        let any = rng.chance(150);
        let fits = |name: &&str| {
            let live = world.book.borrow().known.get(*name).is_some_and(Known::is_live);
            any || creates != (live || (creates || destroys) && world.has_folder(name))
        };
        let names: Vec<&str> = NAMES.into_iter().filter(fits).collect();
        let name = rng.pick(&names).or(NAMES.first()).unwrap().to_string();
        (verb, name)
    }
}

/// How a command ended.
#[derive(Debug)]
pub enum Ended {
    Done(Done),
    Failed(String),
    Died,
}

/// What one that ended well said.
#[derive(Debug)]
pub enum Done {
    #[allow(dead_code, reason = "shown by Debug among a failure's last steps")]
    Text(String),
    Destroyed(Destroyed),
    Power {
        warnings: usize,
    },
    Gc(Box<Report>),
    Reapplied {
        failures: usize,
    },
}

/// Runs a command to its end, or to its death.
pub fn run(world: &World, verb: &Verb, name: &str) -> Ended {
    let braked = matches!(verb, Verb::Gc(options) if must_brake(world, *options));
    if matches!(verb, Verb::Resume { .. } | Verb::Create { .. }) {
        world.book.borrow_mut().extended.insert(name.to_string());
    }
    if let Verb::Resume { extend: Some(days), .. } = verb {
        world.asked_days.borrow_mut().push(i64::from(*days));
    }
    let depth = world.doing.borrow().len();
    if depth > 0 && matches!(verb, Verb::Stop | Verb::Kill | Verb::Destroy { .. }) {
        // An operator's word, as if by hand: nobody is to start it again.
        let node = world.node.borrow();
        let its = node.guests.iter().filter(|(_, g)| g.is_ours() && g.birth_name() == name);
        world.touched.borrow_mut().extend(its.map(|(vmid, _)| *vmid));
    }
    world.doing.borrow_mut().push(Doing { verb: verb.clone(), name: name.to_string(), braked });
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| call(world, verb, name)));
    world.doing.borrow_mut().truncate(depth);
    if depth == 0 {
        world.host.interrupt.request(false);
    }
    match result {
        Ok(Ok(done)) => Ended::Done(done),
        Ok(Err(error)) => Ended::Failed(format!("{error:#}")),
        Err(payload) if payload.is::<Died>() => Ended::Died,
        Err(_) => {
            world.violation(format!("a panic in {verb:?} {name}"));
            Ended::Died
        }
    }
}

fn call(world: &World, verb: &Verb, name: &str) -> anyhow::Result<Done> {
    let ctx = Context::open(&world.host, false)?;
    let vm = || VmName::parse(name).unwrap();
    Ok(match verb {
        Verb::Create { wallet } => {
            let request = request(world, name, *wallet);
            let created = create::create(&ctx, &request, &mut |result| {
                if world.misfortune(|f| f.agent / 2) {
                    anyhow::bail!("broken pipe");
                }
                world.note(|| format!("    reported {result:?}"));
                Ok(())
            })?;
            Done::Text(format!("{created:?}"))
        }
        Verb::Destroy { force } => Done::Destroyed(destroy::destroy(&ctx, &vm(), *force)?),
        Verb::Start { force } => Done::Power { warnings: start::start(&ctx, &vm(), *force)?.warnings.len() },
        Verb::Stop => Done::Text(stop::stop(&ctx, &vm())?.to_string()),
        Verb::Kill => Done::Text(kill::kill(&ctx, &vm())?.to_string()),
        Verb::Resume { extend, dry_run } => {
            let expiry = extend.map_or(resume::Expiry::AsPaid, resume::Expiry::DaysFromNow);
            Done::Power { warnings: resume::resume(&ctx, &vm(), expiry, *dry_run)?.warnings.len() }
        }
        Verb::Gc(options) => Done::Gc(Box::new(gc::gc(&ctx, *options)?)),
        Verb::Reapply => Done::Reapplied { failures: reapply::reapply(&ctx)?.failures.len() },
        Verb::Status => Done::Text(format!("{:?}", status::status(&ctx, &vm()))),
        Verb::List => {
            let mut rows = 0;
            let on_node = status::on_node(&ctx);
            list::list(&ctx, &list::Filter::default(), Some(&on_node), false, || (), |(), _| rows += 1)?;
            Done::Text(rows.to_string())
        }
    })
}

fn request(world: &World, name: &str, wallet: usize) -> Request {
    let mut rng = world.rng.borrow_mut();
    let vmid = rng.chance(100).then(|| Vmid::new(95 + rng.below(30)).ok()).flatten();
    let vmid = vmid.filter(|_| !world.settling.get());
    Request {
        name: VmName::parse(name).unwrap(),
        owner_wallet: Some(WalletAddress::parse(WALLETS[wallet]).unwrap()),
        nft_token_id: None,
        expiry_days: Some(rng.below(40) as u32),
        cpu: 1,
        memory_mb: 512,
        disk_gb: 8,
        apply: true,
        cloud_init_content: Some(world.path("etc/user-data.yaml")),
        cloud_init_template: None,
        no_web3: true,
        purpose: OneLine::parse("simulation").unwrap(),
        owner: OneLine::parse("admin").unwrap(),
        username: UserName::parse("admin").unwrap(),
        tags: Vec::new(),
        node: None,
        template_vmid: Some(Vmid::new(u64::from(super::node::TEMPLATE)).unwrap()),
        disk_datastore: None,
        cloudinit_datastore: None,
        wish: Wish { vmid, ..Wish::default() },
        network_mode: None,
        guest_timeout: Some(Duration::from_secs(30)),
        queue_timeout: Duration::from_secs(60),
    }
}

/// The wallet that the entry of a registered create was made for.
pub fn wallet_of(text: &str) -> usize {
    WALLETS.iter().position(|w| *w == text).unwrap_or(0)
}

/// H11, by the database and the note of the last run as they are now.
fn must_brake(world: &World, options: Options) -> bool {
    let now = world.now();
    let note = std::fs::read_to_string(world.path("var/gc-last-run.json")).unwrap_or_default();
    let note: serde_json::Value = serde_json::from_str(&note).unwrap_or_default();
    let last = note["at"].as_str().and_then(|t| chrono::DateTime::parse_from_rfc3339(t).ok());
    let since = last.map_or(TimeDelta::zero(), |last| now - last.to_utc());
    if !options.accept_gap && (since < TimeDelta::zero() || since > TimeDelta::days(14)) {
        return true;
    }
    let database = world.database();
    let live = super::book::records(&database).filter(|(_, r)| text(r, "status") != "destroyed").count();
    let grace = options.grace_days.unwrap_or(7);
    let due = super::book::records(&database).filter(|(_, r)| may_be_destroyed(r, now, grace)).count();
    // A little more than the product counts is due when it looks, a moment later: leave the edge to it.
    !options.accept_share && due > 3 && due * 2 > live
}

/// A command as one step: with what goes wrong in it, and a look at what it says it has done.
pub fn step(world: &World, verb: &Verb, name: &str) -> String {
    let faults = world.faults.borrow().clone();
    let calm = faults.agent == 0 && faults.others == 0 && faults.terraform == 0 && !world.is_busy();
    world.others_acted.set(0);
    let now = world.now();
    // What is still on its way, a shutdown that an operator has asked for, is not gc's doing.
    let ran_before = if world.is_busy() { Vec::new() } else { running_active(world) };
    let ended = run(world, verb, name);
    let Ended::Done(done) = &ended else {
        return match ended {
            Ended::Failed(words) => format!("failed: {words}"),
            _ => "died".to_string(),
        };
    };
    if calm {
        look_at_result(world, verb, name, done);
    }
    if let (Verb::Gc(_), Done::Gc(report)) = (verb, done)
        && report.failures.is_empty()
        && !world.is_busy()
    {
        // A renewal that arrives while gc runs wins: what ran and is paid for runs.
        for vmid in ran_before {
            let guest = world.node.borrow().guests.get(&vmid).cloned();
            let Some(guest) = guest else { continue };
            let record = world.record(guest.birth_name());
            let active = record.is_some_and(|r| {
                text(&r, "status") == "active"
                    && super::judge::is_paid(&r, world.now())
                    && text(&r, "smbios_uuid") == guest.birth_uuid().unwrap_or_default()
            });
            if active && !guest.running && !others::touched(world, vmid) {
                world.violation(format!("gc left the paid VM {} (VMID {vmid}) off; since {now}", guest.name));
            }
        }
    }
    match done {
        Done::Gc(report) => format!(
            "suspended {:?}, destroyed {:?}, notes {:?}, failures {:?}, brake {:?}",
            report.suspended, report.destroyed, report.notes, report.failures, report.brake
        ),
        other => format!("{other:?}"),
    }
}

fn running_active(world: &World) -> Vec<u32> {
    let node = world.node.borrow();
    let running = node.guests.iter().filter(|(_, g)| g.is_ours() && g.running && !g.elsewhere);
    running.map(|(vmid, _)| *vmid).collect()
}

#[allow(clippy::too_many_lines, reason = "one arm for each verb")]
fn look_at_result(world: &World, verb: &Verb, name: &str, done: &Done) {
    let record = world.record(name).unwrap_or_default();
    let status = text(&record, "status").to_string();
    let guest = {
        let node = world.node.borrow();
        let vmid = record.get("vmid").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
        node.guests.get(&vmid).map(|g| (vmid, g.clone(), node.isolated.contains(&vmid)))
    };
    let runs = guest.as_ref().is_some_and(|(_, g, _)| g.running && !g.paused && g.birth_name() == name);
    let route = text(&record, "ipv6_address");
    let connected = guest.as_ref().is_some_and(|(_, _, isolated)| *isolated)
        && (route.is_empty() || world.node.borrow().routes.contains(route));
    let wrong = |what: &str| world.violation(format!("{verb:?} {name} said that it succeeded, but {what}"));
    match (verb, done) {
        (Verb::Create { .. }, _) => {
            if status == "destroyed" || guest.is_none() {
                wrong("there is no such VM");
            }
            if world.journal().contains_key(name) {
                wrong("its journal entry is still there");
            }
        }
        (Verb::Destroy { .. }, Done::Destroyed(Destroyed::Gone | Destroyed::Already)) => {
            if !matches!(status.as_str(), "" | "destroyed") {
                wrong("its record is not destroyed");
            }
            if world.has_folder(name) || world.journal().contains_key(name) {
                wrong("something of it is left over");
            }
        }
        (Verb::Start { .. }, Done::Power { warnings }) => {
            if !runs && *warnings == 0 {
                wrong("it does not run");
            }
            if *warnings == 0 && !connected {
                wrong("it is not connected");
            }
        }
        (Verb::Resume { dry_run: false, .. }, Done::Power { warnings }) => {
            let up = runs || *warnings > 0 && guest.as_ref().is_some_and(|(_, g, _)| g.running);
            if !up || status != "active" || record.contains_key("suspended_at") {
                wrong("it is not active and running");
            }
            if *warnings == 0 && !connected {
                wrong("it is not connected");
            }
            if *warnings == 0
                && guest.is_some_and(|(_, g, _)| !g.onboot && !text(&record, "smbios_uuid").is_empty())
            {
                wrong("the node would not start it");
            }
        }
        (Verb::Stop | Verb::Kill, _) if runs => wrong("it runs"),
        (Verb::Gc(_), Done::Gc(report)) => {
            for name in &report.suspended {
                let record = world.record(name.as_str()).unwrap_or_default();
                let vmid = record.get("vmid").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
                let node = world.node.borrow();
                let guest = node.guests.get(&vmid).filter(|g| g.birth_name() == name.as_str());
                let excused =
                    report.notes.iter().any(|n| n.contains(name.as_str()) && n.contains("when it boots"));
                // One whose destroy had died is finished in the same run.
                let off = matches!(text(&record, "status"), "suspended" | "destroyed");
                if !off || guest.is_some_and(|g| g.running) {
                    world.violation(format!("gc said that it suspended {name}, but it did not"));
                }
                if guest.is_some_and(|g| g.onboot) && !excused {
                    world.violation(format!("gc suspended {name}, but the node will start it when it boots"));
                }
            }
            for name in &report.destroyed {
                let record = world.record(name.as_str()).unwrap_or_default();
                if text(&record, "status") != "destroyed" {
                    world.violation(format!("gc said that it destroyed {name}, but it did not"));
                }
            }
        }
        (Verb::Reapply, Done::Reapplied { failures: 0 }) => {
            let database = world.database();
            for (name, record) in
                super::book::records(&database).filter(|(_, r)| text(r, "status") == "active")
            {
                let vmid = record.get("vmid").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
                let node = world.node.borrow();
                let runs = node
                    .guests
                    .get(&vmid)
                    .is_some_and(|g| g.running && g.birth_name() == name && !g.elsewhere);
                let route = text(record, "ipv6_address");
                if runs
                    && (!node.isolated.contains(&vmid) || !route.is_empty() && !node.routes.contains(route))
                {
                    world.violation(format!("reapply left VM {name} (VMID {vmid}) unconnected"));
                }
            }
        }
        _ => {}
    }
}
