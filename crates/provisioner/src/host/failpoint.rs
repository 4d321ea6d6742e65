//! Named points at which tests kill or stop this process, or make the disk appear full (hazards H05, H09, H14).
//!
//! Debug builds only: the installed package is a release build, in which every function here does nothing.
//! `BLOCKHOST_FAULT` contains rules separated by blanks:
//!
//! | rule | effect |
//! |---|---|
//! | `trace@FILE` | appends each point's name to FILE |
//! | `kill@POINT` | SIGKILL at the first passing of POINT (`kill@POINT:2`: the second) |
//! | `error@POINT` | the point fails |
//! | `sleep@POINT=MS` | waits there |
//! | `enospc@N` | the N-th file write and all later ones fail: "no space left on device" |
//! | `limit@NAME=MS` | the time limit NAME is MS milliseconds |
//!
//! Where there is a simulated machine (`simulated`), that one decides instead.

use super::FOR_TESTS;
use super::doors::Doors;
use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

impl Doors {
    /// Passes the point `name`.
    pub fn reached(self, name: &str) -> io::Result<()> {
        match self.machine() {
            _ if !FOR_TESTS => Ok(()),
            Some(machine) => machine.reached(name),
            None => obey(name),
        }
    }

    /// Called before each file write; fails as on a full disk.
    pub(super) fn before_write(self) -> io::Result<()> {
        match self.machine() {
            _ if !FOR_TESTS => Ok(()),
            Some(machine) => machine.before_write(),
            None => disk_is_full(),
        }
    }

    /// Returns an operation's time limit, which tests may shorten: otherwise each test with a guest that never shuts
    /// down would wait 45 s.
    pub fn limit(self, name: &str, usual: Duration) -> Duration {
        let shorter = match self.machine() {
            _ if !FOR_TESTS => None,
            Some(machine) => machine.limit(name),
            None => shorter(name),
        };
        shorter.unwrap_or(usual)
    }
}

#[derive(Default)]
struct Rules {
    list: Vec<(String, String)>,
    passed: Mutex<HashMap<String, usize>>,
}

fn rules() -> &'static Rules {
    static RULES: OnceLock<Rules> = OnceLock::new();
    RULES.get_or_init(|| {
        let text = std::env::var("BLOCKHOST_FAULT").unwrap_or_default();
        let list = text.split_whitespace().filter_map(|rule| rule.split_once('@'));
        Rules {
            list: list.map(|(kind, at)| (kind.to_string(), at.to_string())).collect(),
            ..Rules::default()
        }
    })
}

fn pass(name: &str) -> usize {
    let mut passed = rules().passed.lock().unwrap_or_else(|e| e.into_inner());
    let count = passed.entry(name.to_string()).or_default();
    *count += 1;
    *count
}

#[allow(clippy::disallowed_methods, reason = "a trace for tests, never in the package")]
fn obey(name: &str) -> io::Result<()> {
    if rules().list.is_empty() {
        return Ok(());
    }
    let count = pass(name);
    for (kind, at) in &rules().list {
        let (point, wanted) = match at.rsplit_once(':') {
            Some((point, n)) if n.parse::<usize>().is_ok() => (point, n.parse().unwrap_or(1)),
            _ => (at.as_str(), 1),
        };
        match kind.as_str() {
            "trace" => {
                let mut file = std::fs::OpenOptions::new().append(true).create(true).open(at)?;
                writeln!(file, "{name}")?;
            }
            "kill" if point == name && wanted == count => {
                let me = rustix::process::getpid();
                let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
                std::thread::sleep(Duration::from_secs(5));
            }
            "error" if point == name && wanted == count => {
                return Err(io::Error::other(format!("injected failure at {name}")));
            }
            "sleep" => {
                if let Some((point, milliseconds)) = at.split_once('=')
                    && point == name
                {
                    std::thread::sleep(Duration::from_millis(milliseconds.parse().unwrap_or(0)));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn shorter(name: &str) -> Option<Duration> {
    let (_, milliseconds) = rules()
        .list
        .iter()
        .filter(|(kind, _)| kind == "limit")
        .filter_map(|(_, at)| at.split_once('='))
        .find(|(point, _)| *point == name)?;
    milliseconds.parse().ok().map(Duration::from_millis)
}

fn disk_is_full() -> io::Result<()> {
    for (kind, at) in &rules().list {
        if kind == "enospc" && pass("file write") >= at.parse().unwrap_or(usize::MAX) {
            return Err(io::Error::from_raw_os_error(28));
        }
    }
    Ok(())
}
