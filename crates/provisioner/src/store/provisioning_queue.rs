//! Queues creates in order (hazard H18).
//!
//! Each create holds a ticket: a numbered file in `<run>/creates/` with a kernel lock on it. A create may proceed when
//! fewer than the limit of the lower tickets are alive. `<run>/creates/queue.lock` guards the numbering and
//! `<run>/provisioning.lock`, which engines read: it contains the PID of a running create.

use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::interrupt::Interrupt;
use crate::host::lock_file::{LockFile, read_note};
use crate::host::patience::Patience;
use crate::host::replace_file::{self, SHARED};
use crate::value::timestamp;
use crate::value::vm_name::VmName;
use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

const QUEUE_LOCK_WAIT: Duration = Duration::from_secs(20);
/// Higher than counting will ever reach; above it the numbering would soon overflow.
const LAST: u64 = u64::MAX / 2;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A place in the queue of creates; giving it up (also by dying) lets the next create proceed.
pub struct Ticket<'h> {
    host: &'h Host,
    number: u64,
    lock: Option<LockFile>,
}

impl<'h> Ticket<'h> {
    /// Takes the next number.
    pub fn draw(host: &'h Host, vm_name: &str) -> anyhow::Result<Ticket<'h>> {
        let folder = host.run_dir.join("creates");
        replace_file::make_folder(host.doors, &folder, 0o770)
            .with_context(|| format!("the queue of creates needs {}", host.run_dir.display()))?;
        let _guard = guard(host)?;
        let number = tickets(&folder)?.last().map_or(1, |last| last + 1);
        let mut lock = LockFile::try_lock(&folder.join(number.to_string()))?
            .context("a new ticket is already locked")?;
        lock.note(&format!("{} {vm_name}", std::process::id()));
        let ticket = Ticket { host, number, lock: Some(lock) };
        publish(host, &folder)?;
        Ok(ticket)
    }

    /// Waits until fewer than `limit` earlier creates are alive. `say` is called with a message about what it waits
    /// for.
    pub fn wait_turn(&self, limit: u32, deadline: Deadline, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let folder = self.host.run_dir.join("creates");
        let total = deadline.left();
        let mut last = String::new();
        let mut patience = Patience::new(self.host.doors);
        loop {
            let (ahead, behind) = {
                let _guard = guard(self.host)?;
                let others = tickets(&folder)?.into_iter().filter(|n| *n != self.number);
                let (lower, higher): (Vec<u64>, Vec<u64>) = others.partition(|n| *n < self.number);
                let living = |numbers: Vec<u64>| -> Vec<String> {
                    let paths = numbers.into_iter().map(|n| folder.join(n.to_string()));
                    paths.filter_map(|path| alive(&path)).collect()
                };
                (living(lower), living(higher).len())
            };
            if ahead.len() < limit as usize {
                return Ok(());
            }
            anyhow::ensure!(
                !deadline.passed(),
                "waited {} s for other creates to finish ({}); nothing was reserved; try again or raise \
                 --queue-timeout",
                total.as_secs_f64().round(),
                in_words(&ahead)
            );
            let now = in_words(&ahead);
            if now != last {
                let creates = if ahead.len() == 1 { "another create" } else { "other creates" };
                let place = ahead.len() + 1;
                say(&format!("waiting for {creates}: {now} (place {place} of {})", place + behind));
                last = now;
            }
            patience.still(|| format!("still waiting for {} other creates", ahead.len()));
            self.host.sleep(LOOK_AGAIN);
            self.host.interrupt.check()?;
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let folder = self.host.run_dir.join("creates");
        // If anything here fails, the kernel's lock still ends with this process, and the next create cleans up.
        let guard = guard(self.host);
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
        if guard.is_ok() {
            let _ = publish(self.host, &folder);
        }
    }
}

/// Removes the leftovers of creates that died: their tickets, and `provisioning.lock`, which tells engines that a
/// create is running. Any command may call this; a directory that is missing or inaccessible is ignored.
pub fn tidy(host: &Host) {
    let folder = host.run_dir.join("creates");
    let is_left = host.run_dir.join("provisioning.lock").exists()
        || tickets(&folder).is_ok_and(|numbers| !numbers.is_empty());
    if is_left && let Ok(Some(_guard)) = LockFile::try_lock(&folder.join("queue.lock")) {
        let _ = publish(host, &folder);
    }
}

/// What [`tidy`] would remove. Changes nothing; while somebody numbers tickets there is nothing to tell.
pub fn stale(host: &Host) -> Vec<PathBuf> {
    let folder = host.run_dir.join("creates");
    let numbers = tickets(&folder).unwrap_or_default();
    if LockFile::holder(&folder.join("queue.lock")).is_some() {
        return Vec::new();
    }
    let paths = numbers.into_iter().map(|number| folder.join(number.to_string()));
    let (live, dead): (Vec<PathBuf>, Vec<PathBuf>) = paths.partition(|path| LockFile::holder(path).is_some());
    let published =
        Some(host.run_dir.join("provisioning.lock")).filter(|path| live.is_empty() && path.exists());
    dead.into_iter().chain(published).collect()
}

/// A create that has a place in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedCreate {
    /// The VM that it makes.
    pub vm: String,
    /// Its process, for readers only.
    pub pid: u32,
    /// Whether its turn has come.
    pub state: Turn,
    /// When it took its place; UTC, as in the database.
    pub since: String,
}

/// Whether a create's turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// It works.
    Running,
    /// It waits for those before it.
    Waiting,
}

/// The creates that are alive now, in the order of their places; `limit` of them run. Changes nothing and waits for
/// nobody: a create that is just taking its place may be missing.
pub fn creates(host: &Host, limit: u32) -> Vec<QueuedCreate> {
    let folder = host.run_dir.join("creates");
    let paths =
        tickets(&folder).unwrap_or_default().into_iter().map(|number| folder.join(number.to_string()));
    let living = paths.filter_map(|path| Some((LockFile::holder(&path)?, path)));
    let state = |place: usize| if place < limit as usize { Turn::Running } else { Turn::Waiting };
    let known = living.enumerate().filter_map(|(place, (note, path))| {
        let (pid, vm) = note.split_once(' ')?;
        let since = DateTime::<Utc>::from(path.metadata().and_then(|file| file.modified()).ok()?);
        Some(QueuedCreate {
            vm: VmName::parse(vm.trim_end()).ok()?.to_string(),
            pid: pid.parse().ok()?,
            state: state(place),
            since: timestamp::to_text(since),
        })
    });
    known.collect()
}

fn guard(host: &Host) -> anyhow::Result<LockFile> {
    let path = host.run_dir.join("creates/queue.lock");
    LockFile::lock(&path, host.deadline(QUEUE_LOCK_WAIT), &Interrupt::never())
        .context("failed to lock the queue of creates")
}

/// Returns the numbers of all tickets in ascending order, including dead ones. A name that we would not write (`007`,
/// or a number too high to continue from) is not a ticket.
fn tickets(folder: &Path) -> anyhow::Result<Vec<u64>> {
    let listing = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut numbers: Vec<u64> = Vec::new();
    for entry in listing {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| Some((name, name.parse::<u64>().ok()?)));
        numbers.extend(
            number
                .filter(|(name, number)| *number <= LAST && *name == number.to_string())
                .map(|(_, number)| number),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Returns the note of a live ticket (`PID name`); a dead ticket is removed. Called with the queue locked, so that a
/// ticket is never seen between its creation and its locking.
fn alive(path: &Path) -> Option<String> {
    match LockFile::try_lock(path) {
        Ok(Some(dead)) => {
            dead.remove();
            None
        }
        Ok(None) => Some(read_note(path)),
        Err(_) => None,
    }
}

/// Writes the PID of a running create into `provisioning.lock`, or removes the file.
fn publish(host: &Host, folder: &Path) -> anyhow::Result<()> {
    let path: PathBuf = host.run_dir.join("provisioning.lock");
    let live = tickets(folder)?.into_iter().filter_map(|n| alive(&folder.join(n.to_string()))).next();
    match live.as_deref().and_then(|note| note.split(' ').next()) {
        Some(pid) => replace_file::replace(
            host.doors,
            &path,
            format!("{pid}\n").as_bytes(),
            SHARED,
            "provisioning-lock",
        )?,
        None => replace_file::remove(&path)?,
    }
    Ok(())
}

fn in_words(notes: &[String]) -> String {
    let one = |note: &String| match note.split_once(' ') {
        Some((pid, name)) => format!("{name} (PID {pid})"),
        None => note.clone(),
    };
    notes.iter().map(one).collect::<Vec<_>>().join(", ")
}
