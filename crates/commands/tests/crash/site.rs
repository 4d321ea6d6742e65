//! One lab, the commands in it, and how a command ended.

use crate::world::World;
use lab::model::FaultAction;
use lab::{Lab, LabBuilder};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";
pub const OTHER_WALLET: &str = "0x00000000219ab540356cBB839Cbe05303d7705Fa";
/// Nothing here is meant to take this long; it only ends a test that would hang.
pub const LONG: Duration = Duration::from_secs(60);

/// Labs that are as they were when they were new: starting one costs more than most cases.
static IDLE: Mutex<Vec<(Lab, World)>> = Mutex::new(Vec::new());

/// A lab with shorthands.
pub struct Site {
    lab: Option<Lab>,
    /// What it was like when it was new, for those that may be used again.
    fresh: Option<World>,
}

/// A VMID is not watched for late requests: worlds could not be compared while one is. They have tests of their own
/// ([`crate::late_request`]).
const NOTHING_IS_LATE: &str = "limit@late-request=0";

impl Site {
    /// A lab like new. The next case gets it too if it can be brought back to what it was.
    pub fn new() -> Site {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (lab, fresh) = idle.unwrap_or_else(|| {
            let lab = Lab::builder().start().unwrap();
            let fresh = World::of(&lab);
            (lab, fresh)
        });
        Site { lab: Some(lab), fresh: Some(fresh) }
    }

    /// A lab of its own.
    pub fn of(builder: LabBuilder) -> Site {
        Site { lab: Some(builder.start().unwrap()), fresh: None }
    }

    pub fn lab(&self) -> &Lab {
        self.lab.as_ref().unwrap()
    }

    /// Takes away everything that commands have made.
    fn clean(&self, fresh: &World) -> anyhow::Result<()> {
        let control = self.lab().control();
        control.clear_faults()?;
        self.settle();
        for vmid in self.guests() {
            control.remove_guest(vmid)?;
        }
        for route in control.snapshot()?.routes {
            self.lab().tool("ip").args(["-6", "route", "del", &route.dst, "dev", &route.dev]).output()?;
        }
        for snippet in std::fs::read_dir(self.path("node/var/lib/vz/snippets"))? {
            std::fs::remove_file(snippet?.path())?;
        }
        for folder in ["var/journal", "var/terraform/vms", "run/creates", "var/withheld"] {
            if self.path(folder).exists() {
                std::fs::remove_dir_all(self.path(folder))?;
            }
        }
        for file in ["run/provisioning.lock", "var/vms.json.lock"] {
            if self.path(file).exists() {
                std::fs::remove_file(self.path(file))?;
            }
        }
        std::fs::write(self.path("var/vms.json"), fresh.text("var/vms.json"))?;
        Ok(())
    }

    /// The call that engines make.
    pub fn create(&self, name: &str) -> Command {
        self.create_for(name, WALLET)
    }

    pub fn create_for(&self, name: &str, wallet: &str) -> Command {
        let mut command = self.lab().command("blockhost-vm-create");
        command.args([name, "--owner-wallet", wallet, "--expiry-days", "30", "--apply"]);
        command.env("BLOCKHOST_FAULT", NOTHING_IS_LATE);
        command
    }

    pub fn destroy(&self, name: &str) -> Command {
        self.verb("destroy", name)
    }

    pub fn verb(&self, verb: &str, name: &str) -> Command {
        let mut command = self.lab().command(&format!("blockhost-vm-{verb}"));
        command.arg(name);
        command.env("BLOCKHOST_FAULT", NOTHING_IS_LATE);
        command
    }

    /// A create that must succeed.
    pub fn created(&self, name: &str) -> Ended {
        run(&mut self.create(name)).succeeded()
    }

    /// A create during whose clone the root agent begins to answer every look at a machine with `fault`.
    pub fn created_while_the_agent_fails(&self, name: &str, fault: FaultAction) -> Ended {
        let control = self.lab().control();
        control.fault("provider.create.resize.after", FaultAction::Slow { ms: 3_000 }, 1).unwrap();
        let create = start(&mut self.create(name));
        control.wait_fault("provider.create.resize.after", Duration::from_secs(60)).unwrap();
        control.fault("agent.vm-state", fault, 1_000).unwrap();
        end_of(create)
    }

    /// A destroy that must succeed.
    pub fn destroyed(&self, name: &str) -> Ended {
        run(&mut self.destroy(name)).succeeded()
    }

    /// Everything there is, once nothing moves any more.
    pub fn world(&self) -> World {
        self.settle();
        World::of(self.lab())
    }

    /// Waits until no task runs on the node and no terraform in any folder.
    pub fn settle(&self) {
        wait_until("tasks and terraforms end", || {
            self.lab().control().snapshot().unwrap().tasks_running.is_empty() && !self.terraform_runs()
        });
    }

    /// Whether a terraform, or its provider, holds its folder's lock.
    pub fn terraform_runs(&self) -> bool {
        let folders = std::fs::read_dir(self.path("var/terraform/vms"));
        folders.into_iter().flatten().flatten().any(|folder| {
            let file = std::fs::File::open(folder.path().join("terraform.lock"));
            file.is_ok_and(|file| file.try_lock_shared().is_err())
        })
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.lab().path(below)
    }

    /// The step in the journal entry of `name`, if there is one.
    pub fn journal_step(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path(&format!("var/journal/{name}.json"))).ok()?;
        let entry: serde_json::Value = serde_json::from_str(&text).unwrap();
        Some(entry["step"].as_str().unwrap().to_owned())
    }

    pub fn database(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(self.path("var/vms.json")).unwrap()).unwrap()
    }

    /// The VMIDs of guests that are no template.
    pub fn guests(&self) -> Vec<u32> {
        let guests = self.lab().control().snapshot().unwrap().guests;
        guests.iter().filter(|(_, guest)| !guest.template).map(|(vmid, _)| *vmid).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let Some(fresh) = self.fresh.take() else { return };
        if !std::thread::panicking() && self.clean(&fresh).is_ok() && World::of(self.lab()) == fresh {
            let lab = self.lab.take().map(|lab| (lab, fresh));
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(lab);
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            code: output.status.code(),
            signal: output.status.signal(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    pub fn succeeded(self) -> Ended {
        assert_eq!((self.code, self.signal), (Some(0), None), "{self:#?}");
        self
    }

    /// Exit 1 with exactly one line that begins with `error:`; gives that line.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_eq!((self.code, self.signal), (Some(1), None), "{self:#?}");
        let errors: Vec<&str> = self.err.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{self:#?}");
        assert!(
            !self.out.lines().any(|l| l.starts_with('{')),
            "a failed command printed a result: {self:#?}"
        );
        errors[0].to_owned()
    }

    #[track_caller]
    pub fn was_killed(self) -> Ended {
        assert_eq!((self.code, self.signal), (None, Some(9)), "{self:#?}");
        self
    }

    /// The two result lines.
    #[track_caller]
    pub fn result(&self) -> serde_json::Value {
        let lines: Vec<&str> = self.out.lines().collect();
        assert_eq!(lines.len(), 2, "{self:#?}");
        assert_eq!(lines[0], format!("BLOCKHOST_RESULT: {}", lines[1]));
        serde_json::from_str(lines[1]).unwrap()
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    command.stdin(Stdio::null()).output().unwrap().into()
}

/// Starts a command whose output is kept.
pub fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The end of a started command.
pub fn end_of(child: Child) -> Ended {
    child.wait_with_output().unwrap().into()
}

/// Polls until `done`.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The points that a command passes, in order, the second passing of `x` as `x:2`.
pub fn points(site: &Site, mut command: Command) -> Vec<String> {
    let trace = site.path("trace");
    run(command.env("BLOCKHOST_FAULT", format!("trace@{}", trace.display()))).succeeded();
    let text = std::fs::read_to_string(&trace).unwrap();
    let mut points: Vec<String> = Vec::new();
    for (at, name) in text.lines().enumerate() {
        let passed = text.lines().take(at).filter(|earlier| earlier == &name).count();
        points.push(if passed == 0 { name.to_owned() } else { format!("{name}:{}", passed + 1) });
    }
    std::fs::remove_file(&trace).unwrap();
    points
}

/// Runs the cases in a few threads and tells about all that failed.
pub fn sweep<T: Sync + std::fmt::Display>(cases: &[T], one: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failures: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| one(case))) {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
                        let text = format!("== {case}: {}", text.unwrap_or_default());
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(
        failures.is_empty(),
        "{} of {} cases failed\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}
