//! The simulated machine: its clock, what goes wrong on it, and who is at work.

use super::book::Book;
use super::judge::Doing;
use super::node::Node;
use super::rng::Rng;
use super::{agent, api, others, terraform};
use chrono::{DateTime, TimeDelta, Utc};
use provisioner::host::Host;
use provisioner::host::doors::Doors;
use provisioner::host::interrupt::Interrupt;
use provisioner::host::run_process::{Ended, Program, RunError};
use provisioner::host::simulated::{Machine, Process};
use send_wrapper::SendWrapper;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// The panic that imitates the death of a process.
pub struct Died;

/// What may go wrong in the step that is under way. Rates are per mille, counts run down to the event.
#[derive(Clone, Default)]
pub struct Faults {
    /// The process dies at this event (a point passed, a request sent).
    pub die: Option<u64>,
    /// This point fails.
    pub error: Option<u64>,
    /// SIGTERM arrives at this event.
    pub signal: Option<u64>,
    /// The disk is full from this write on.
    pub disk_full: Option<u64>,
    pub agent: u64,
    pub api: u64,
    pub terraform: u64,
    /// Others act in the middle of the operation.
    pub others: u64,
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, count) in [
            ("die", self.die),
            ("error", self.error),
            ("SIGTERM", self.signal),
            ("disk full", self.disk_full),
        ] {
            if let Some(count) = count {
                write!(f, " {name} at {count},")?;
            }
        }
        for (name, rate) in
            [("agent", self.agent), ("API", self.api), ("terraform", self.terraform), ("others", self.others)]
        {
            if rate > 0 {
                write!(f, " {name} {rate},")?;
            }
        }
        Ok(())
    }
}

/// A request that is carried out although its caller was told nothing (H48).
struct Late {
    at: Duration,
    request: Value,
    doing: Option<Doing>,
}

pub struct World {
    dir: tempfile::TempDir,
    pub host: Host,
    base: Instant,
    /// What the clock that no one sets shows.
    pub elapsed: Cell<Duration>,
    /// What the wall clock showed at the beginning, and what was set on it since.
    pub wall: Cell<DateTime<Utc>>,
    pub rng: RefCell<Rng>,
    pub node: RefCell<Node>,
    pub runs: RefCell<Vec<Rc<terraform::Run>>>,
    pub runs_started: Cell<u32>,
    late: RefCell<Vec<Late>>,
    pub faults: RefCell<Faults>,
    /// Operations under way, the innermost last.
    pub doing: RefCell<Vec<Doing>>,
    /// How often others acted in the middle of the operation.
    pub others_acted: Cell<u32>,
    /// The end: everything must succeed, so nobody asks for what may be refused.
    pub settling: Cell<bool>,
    /// A request is carried out whose caller has given up: what it was right for may have changed since (H48).
    pub answering_late: Cell<bool>,
    /// Guests that somebody has started, stopped or changed by hand in this step.
    pub touched: RefCell<BTreeSet<u32>>,
    /// For how many days a resume of this step asked, in the middle of others too.
    pub asked_days: RefCell<Vec<i64>>,
    pub book: RefCell<Book>,
    /// The text of the database at the last look, and what it says.
    pub parsed: RefCell<Option<(String, Rc<Value>)>>,
    pub violations: RefCell<Vec<String>>,
    trace: RefCell<VecDeque<String>>,
    peer: RefCell<Option<UnixStream>>,
    /// An in-place writer of the database that has not ended: its open file and what is still to be written.
    pub half_written: RefCell<Option<(File, Vec<u8>)>>,
    pub points_passed: Cell<u64>,
    verbose: bool,
}

impl World {
    pub fn new(seed: u64) -> Rc<World> {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let at = |name: &str| dir.path().join(name);
        let host = Host {
            config_dirs: vec![at("etc")],
            state_dir: at("var"),
            run_dir: at("run"),
            share_dir: at("share"),
            dev: false,
            home: None,
            cache_dir: at("cache"),
            mock_database: at("mock.json"),
            interrupt: Interrupt::never(),
            doors: Doors::real(),
            more_threads: 0,
            brought: None,
        };
        let world = Rc::new_cyclic(|world| World {
            host: Host { doors: doors_to(world.clone()), ..host },
            dir,
            base: Instant::now(),
            elapsed: Cell::default(),
            wall: Cell::new(first_wall()),
            rng: RefCell::new(Rng::new(seed)),
            node: RefCell::default(),
            runs: RefCell::default(),
            runs_started: Cell::default(),
            late: RefCell::default(),
            faults: RefCell::default(),
            doing: RefCell::default(),
            others_acted: Cell::default(),
            settling: Cell::default(),
            answering_late: Cell::default(),
            touched: RefCell::default(),
            asked_days: RefCell::default(),
            book: RefCell::default(),
            parsed: RefCell::default(),
            violations: RefCell::default(),
            trace: RefCell::default(),
            peer: RefCell::default(),
            half_written: RefCell::default(),
            points_passed: Cell::default(),
            verbose: std::env::var_os("SIMULATION_VERBOSE").is_some(),
        });
        world.set_up();
        world
    }

    fn set_up(&self) {
        let write = |path: &str, text: String| {
            let path = self.dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let (start, end) = (super::node::RANGE.start(), super::node::RANGE.end());
        let pool = json!({ "network": "10.0.0.0/24", "start": 11, "end": 22, "gateway": "10.0.0.1" });
        let settings = json!({ "vmid_range": { "start": start, "end": end }, "ip_pool": pool, "bridge": "vmbr0",
            "dns_servers": ["10.0.0.1"], "max_parallel_creates": 2 });
        write("etc/db.yaml", settings.to_string());
        write("etc/web3-defaults.yaml", "auth:\n  otp_length: 6\n  otp_ttl_seconds: 300\n".into());
        write("etc/pve-token", "blockhost@pve!provisioner=0123456789\n".into());
        write("etc/broker-allocation.json", json!({ "prefix": "fd00:1::/120" }).to_string());
        write("etc/user-data.yaml", "#cloud-config\nhostname: guest\n".into());
        let tfvars = "proxmox_node = \"pve\"\nproxmox_storage = \"local-lvm\"\nproxmox_bridge = \"vmbr0\"\n\
            proxmox_api_token = \"blockhost@pve!provisioner=0123456789\"\n";
        write("var/terraform/terraform.tfvars", tfvars.into());
        let provider = json!({ "provider": { "proxmox": { "endpoint": "https://127.0.0.1:8006" } } });
        write("var/terraform/provider.tf.json", provider.to_string());
        write("var/terraform/variables.tf.json", "{}".into());
        write("var/terraform/.terraform.lock.hcl", String::new());
        std::fs::create_dir_all(self.dir.path().join("var/terraform/.terraform/providers")).unwrap();
        std::fs::create_dir_all(self.dir.path().join("run")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.wall.get() + TimeDelta::from_std(self.elapsed.get()).unwrap()
    }

    /// A line of the report.
    pub fn note(&self, text: impl FnOnce() -> String) {
        let text = text();
        if self.verbose {
            eprintln!("{text}");
        }
        let mut trace = self.trace.borrow_mut();
        trace.push_back(text);
        if trace.len() > 600 {
            trace.pop_front();
        }
    }

    /// The lines of the last steps.
    pub fn last_steps(&self, count: usize) -> String {
        let trace = self.trace.borrow();
        let is_step = |line: &&String| !line.starts_with(' ');
        let first = trace.iter().rev().filter(is_step).nth(count.saturating_sub(1));
        let from = first.and_then(|first| trace.iter().position(|line| line == first)).unwrap_or(0);
        trace.iter().skip(from).map(|line| format!("  {line}\n")).collect()
    }

    pub fn violation(&self, text: String) {
        self.note(|| format!("    !! {text}"));
        self.violations.borrow_mut().push(text);
    }

    /// Whether something of this kind goes wrong now.
    pub fn misfortune(&self, rate: impl Fn(&Faults) -> u64) -> bool {
        let rate = rate(&self.faults.borrow());
        self.rng.borrow_mut().chance(rate)
    }

    /// Time passes, and what happens by itself happens.
    pub fn pass(&self, time: Duration) {
        self.elapsed.set(self.elapsed.get() + time);
        let now = self.elapsed.get();
        self.finish_half_written();
        let runs: Vec<_> = self.runs.borrow().clone();
        for run in &runs {
            run.advance(self);
        }
        self.runs.borrow_mut().retain(|run| run.lives());
        self.node.borrow_mut().settle(now);
        let due: Vec<Late> = {
            let mut late = self.late.borrow_mut();
            let (due, rest) = std::mem::take(&mut *late).into_iter().partition(|l| l.at <= now);
            *late = rest;
            due
        };
        self.carry_out(due);
    }

    /// Requests whose callers have given up.
    fn carry_out(&self, late: Vec<Late>) {
        for Late { request, doing, .. } in late {
            // Judged as what its caller was about, who may be gone.
            self.doing.borrow_mut().extend(doing.clone());
            self.answering_late.set(true);
            let answer = agent::carry_out(self, &request);
            self.answering_late.set(false);
            self.note(|| {
                format!("    late: {} {} -> {answer}", request["action"], request["params"]["vmid"])
            });
            if doing.is_some() {
                self.doing.borrow_mut().pop();
            }
        }
    }

    pub fn is_busy(&self) -> bool {
        self.node.borrow().is_busy() || !self.late.borrow().is_empty() || !self.runs.borrow().is_empty()
    }

    pub fn finish_half_written(&self) {
        if let Some((mut file, rest)) = self.half_written.take() {
            file.write_all(&rest).unwrap();
            drop(file);
            self.book.borrow_mut().was_rewritten();
        }
    }

    /// One event of an operation: it may be its last.
    fn event(&self, what: &str) {
        self.points_passed.set(self.points_passed.get() + 1);
        let (dies, signal) = {
            let mut faults = self.faults.borrow_mut();
            (count_down(&mut faults.die), count_down(&mut faults.signal))
        };
        if signal {
            self.note(|| format!("    SIGTERM at {what}"));
            self.host.interrupt.request(true);
        }
        if dies {
            self.note(|| format!("    killed at {what}"));
            std::panic::resume_unwind(Box::new(Died));
        }
    }

    fn others_may_act(&self, place: &str) {
        if self.doing.borrow().len() == 1 && self.others_acted.get() < 8 && self.misfortune(|f| f.others) {
            self.others_acted.set(self.others_acted.get() + 1);
            others::in_the_middle(self, place);
        }
    }
}

/// The doors to a world. They are as long-lived as those of a real machine: a reference of a few bytes for each play.
fn doors_to(world: Weak<World>) -> Doors {
    Doors::simulated(Box::leak(Box::new(Behind(SendWrapper::new(world)))))
}

/// What the wall clock shows at the beginning.
pub fn first_wall() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

fn count_down(count: &mut Option<u64>) -> bool {
    match count {
        Some(0 | 1) => {
            *count = None;
            true
        }
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}

/// The world as what stands behind the doors. It is played in one thread, which is not known to the operations: they may
/// work in several, and of what they are handed they want that it can go along.
struct Behind(SendWrapper<Weak<World>>);

impl Behind {
    fn world(&self) -> Rc<World> {
        self.0.upgrade().expect("a world that still is")
    }
}

impl Machine for Behind {
    fn instant(&self) -> Instant {
        self.world().instant()
    }

    fn wall_clock(&self) -> DateTime<Utc> {
        self.world().now()
    }

    fn sleep(&self, time: Duration) {
        self.world().pass(time);
    }

    fn reached(&self, point: &str) -> io::Result<()> {
        self.world().reached(point)
    }

    fn before_write(&self) -> io::Result<()> {
        self.world().before_write()
    }

    fn limit(&self, name: &str) -> Option<Duration> {
        self.world().limit(name)
    }

    fn connect(&self) -> io::Result<UnixStream> {
        self.world().connect()
    }

    fn answer(&self) {
        self.world().answer();
    }

    fn run(&self, program: &Program<'_>) -> Result<Ended, RunError> {
        World::run(program)
    }

    fn spawn(&self, program: &Program<'_>, output: &Path, lock: File) -> io::Result<Box<dyn Process>> {
        Ok(Box::new(terraform::spawn(&self.world(), program, output, lock)))
    }

    fn api(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Result<(u16, Value), String> {
        self.world().api(method, path, fields)
    }
}

impl World {
    fn instant(&self) -> Instant {
        self.elapsed.set(self.elapsed.get() + Duration::from_micros(1));
        self.base + self.elapsed.get()
    }

    fn reached(&self, point: &str) -> io::Result<()> {
        self.event(point);
        if count_down(&mut self.faults.borrow_mut().error) {
            self.note(|| format!("    failure at {point}"));
            return Err(io::Error::other(format!("injected failure at {point}")));
        }
        self.others_may_act(point);
        Ok(())
    }

    fn before_write(&self) -> io::Result<()> {
        let mut faults = self.faults.borrow_mut();
        match &mut faults.disk_full {
            Some(0) => Err(io::Error::from_raw_os_error(28)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn limit(&self, name: &str) -> Option<Duration> {
        // An operation in the middle of another stands for another process, which would wait for that one in vain.
        (name == "vm-lock" && self.doing.borrow().len() > 1).then_some(Duration::ZERO)
    }

    fn connect(&self) -> io::Result<UnixStream> {
        if self.misfortune(|f| f.agent / 4) {
            let kinds =
                [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused, io::ErrorKind::PermissionDenied];
            let kind = *self.rng.borrow_mut().pick(&kinds).unwrap();
            self.note(|| format!("    root agent: {kind}"));
            return Err(kind.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        self.peer.replace(Some(theirs));
        Ok(ours)
    }

    fn answer(&self) {
        let mut peer = self.peer.take().expect("a connection");
        let mut header = [0; 4];
        peer.read_exact(&mut header).unwrap();
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        peer.read_exact(&mut body).unwrap();
        let request: Value = serde_json::from_slice(&body).unwrap();
        let action = request["action"].as_str().unwrap_or_default().to_string();
        self.others_may_act(&action);
        // One lane: what came before is carried out before.
        let before = self.late.take();
        self.carry_out(before);
        let fault = if self.misfortune(|f| f.agent) { self.rng.borrow_mut().below(8) } else { 99 };
        let respond = |peer: &mut UnixStream, bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).unwrap();
            let _ = peer.write_all(&[&length.to_be_bytes()[..], bytes].concat());
        };
        if fault != 99 {
            let how = [
                "closes",
                "acts and closes",
                "acts later",
                "is rubbish",
                "acts and is rubbish",
                "is too large",
                "is an exception",
                "acts and is an exception",
            ][fault as usize];
            self.note(|| format!("    root agent: {action} {} {how}", request["params"]["vmid"]));
        }
        if matches!(fault, 1 | 4 | 7 | 99) {
            let answer = agent::carry_out(self, &request).to_string();
            if fault == 99 {
                respond(&mut peer, answer.as_bytes());
            }
        }
        match fault {
            2 => {
                let at = self.elapsed.get() + Duration::from_millis(100 + self.rng.borrow_mut().below(4000));
                let doing = self.doing.borrow().last().cloned();
                self.late.borrow_mut().push(Late { at, request, doing });
            }
            3 | 4 => respond(&mut peer, b"rubbish"),
            5 => drop(peer.write_all(&[0x7f, 0, 0, 0])),
            6 | 7 => respond(&mut peer, br#"{"ok": false, "error": "Exception: it is broken"}"#),
            _ => {}
        }
        // Whoever is killed here has sent the request and never reads the answer.
        self.event(&action);
    }

    fn run(program: &Program<'_>) -> Result<Ended, RunError> {
        // The host has no interface and no neighbour. Nothing else is installed on it.
        if program.name == "ip" {
            let status = ExitStatus::from_raw(0);
            return Ok(Ended { status, stdout: String::new(), stderr: String::new() });
        }
        let source = io::Error::other(format!("{} is not installed (not found on PATH)", program.name));
        Err(RunError::NotStarted { program: program.name.to_owned(), source })
    }

    fn api(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Result<(u16, Value), String> {
        self.event(path);
        self.others_may_act(path);
        if self.misfortune(|f| f.api) {
            let fault = self.rng.borrow_mut().below(6);
            self.note(|| format!("    API: {method} {path} fault {fault}"));
            match fault {
                0 => return Err("Connection refused".to_string()),
                1 => {
                    // Acted, and the connection broke.
                    api::answer(self, method, path, fields);
                    return Err("connection reset".to_string());
                }
                2 => return Ok((595, Value::Null)),
                3 => return Ok((403, json!({ "message": "Permission check failed" }))),
                4 => return Ok((500, json!({ "message": "it is broken" }))),
                _ => return Ok((200, json!("rubbish"))),
            }
        }
        Ok(api::answer(self, method, path, fields))
    }
}
