//! The VM database: one JSON file that programs in other languages read and write at any moment
//! (`facts/contract/database.md`; hazards H14 to H17).
//!
//! Readers take no lock: rename makes each read consistent, and a half-written file (one engine writes in place) is
//! read again for up to a second. Writers hold `<file>.lock`. Values that do not change keep their exact text.

mod contents;
mod record;
mod record_view;
mod scan;

pub use contents::{Contents, NewRecord};

pub use record_view::{Fields, RecordView};

use crate::host::clock::Deadline;
use crate::host::doors::Doors;
use crate::host::interrupt::Interrupt;
use crate::host::lock_file::LockFile;
use crate::host::read_file;
use crate::host::replace_file::{self, SHARED};
use crate::value::field_names::FieldNames;
use crate::value::json_text::whole_number;
use crate::value::vm_record::VmRecord;
use anyhow::Context;
use scan::Query;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Maximum size of the database in bytes; enough for far more than a hundred thousand VMs.
const LIMIT: u64 = 1 << 30;
/// How long a file that does not parse is read again before it is reported as corrupt.
const TORN_READ: Duration = Duration::from_secs(1);
/// How long a writer waits for the lock. Other writers hold it for milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// Why the database cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// The file does not exist.
    #[error(
        "the VM database {0} does not exist; if VMs were created on this host it was lost: restore it from a backup"
    )]
    Missing(String),
    /// The file cannot be read.
    #[error("cannot read the VM database {0}: {1}")]
    Unreadable(String, String),
    /// The contents of the file are not valid; it is left unchanged.
    #[error(
        "the VM database {path} is corrupt: {why}; left unchanged (restore it from a backup or repair it manually)"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong, and where.
        why: String,
    },
}

/// The database file and the names of its fields.
#[derive(Debug, Clone)]
pub struct VmDatabase {
    doors: Doors,
    path: PathBuf,
    fields: FieldNames,
    torn_read: Duration,
    /// The file stayed unreadable for the whole time, so a command that reads it five times waits only once.
    is_corrupt: Arc<AtomicBool>,
}

impl VmDatabase {
    /// The database at `path`.
    pub fn new(doors: Doors, path: &Path, fields: &FieldNames) -> VmDatabase {
        VmDatabase {
            doors,
            path: path.to_path_buf(),
            fields: fields.clone(),
            torn_read: TORN_READ,
            is_corrupt: Arc::default(),
        }
    }

    /// The same, for a caller that cannot wait for the usual time while a torn file is read again.
    pub fn giving_up_after(self, torn_read: Duration) -> VmDatabase {
        VmDatabase { torn_read, ..self }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the record of `name`, reading as little as possible of the others.
    pub fn record(&self, name: &str) -> Result<Option<Result<VmRecord, String>>, DatabaseError> {
        let query = Query::at(&self.fields, name);
        self.read(|file| {
            let mut found = None;
            Ok(scan::records(file, &query, &mut |view| found = Some(view.to_record()))?.map(|()| found))
        })
    }

    /// Calls `visit` with these fields of every record, in file order. If the file turns out to be torn and is read
    /// again, gathering starts over (`new`), because half of the records of a torn file are useless.
    pub fn gather<T>(
        &self,
        fields: Fields,
        new: impl Fn() -> T,
        mut visit: impl FnMut(&mut T, &RecordView<'_>),
    ) -> Result<T, DatabaseError> {
        let query = Query::at_all(&self.fields, fields);
        self.read(|file| {
            let mut gathered = new();
            Ok(scan::records(file, &query, &mut |view| visit(&mut gathered, view))?.map(|()| gathered))
        })
    }

    /// Returns the current `next_vmid`, without checking the records: good enough to query the node beforehand.
    pub fn next_vmid_hint(&self) -> Result<Option<u32>, DatabaseError> {
        let json = self.read(|file| scan::top_level(file, "next_vmid"))?;
        Ok(json.and_then(|json| whole_number(&json)))
    }

    /// Passes the whole contents to `look`, which changes nothing.
    pub fn inspect<T>(&self, read: impl FnOnce(&Contents<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.with_contents(|contents| read(contents))
    }

    /// Reads, changes and writes the file under its lock. If `change` fails, nothing is written.
    pub fn update<T>(
        &self,
        change: impl FnOnce(&mut Contents<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let _lock = self.lock()?;
        self.with_contents(|contents| {
            let result = change(contents)?;
            if contents.changed() {
                replace_file::replace(
                    self.doors,
                    &self.path,
                    contents.to_text().as_bytes(),
                    SHARED,
                    "database",
                )?;
            }
            Ok(result)
        })
    }

    /// Creates an empty database if there is none. `loss` says why a missing file means that the database was lost, if
    /// it does.
    pub fn make_if_missing(
        &self,
        first_vmid: u32,
        loss: impl FnOnce() -> anyhow::Result<Option<String>>,
    ) -> anyhow::Result<()> {
        if self.path.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        if self.path.exists() {
            return Ok(());
        }
        if let Some(why) = loss()? {
            return Err(self.lost(&why));
        }
        let empty = format!(
            "{{\n  \"vms\": {{}},\n  \"next_vmid\": {first_vmid},\n  \"allocated_ips\": [],\n  \"allocated_ipv6\": []\n}}\n"
        );
        Ok(replace_file::replace(self.doors, &self.path, empty.as_bytes(), SHARED, "database")?)
    }

    /// Returns the error for a file that must have been lost, because of `why`.
    pub fn lost(&self, why: &str) -> anyhow::Error {
        anyhow::anyhow!(
            "the VM database {} is missing although {why}: it was lost; restore it from a backup before creating VMs",
            self.path.display()
        )
    }

    fn lock(&self) -> anyhow::Result<LockFile> {
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        // Never interrupted: the lock is held for milliseconds, and rolling back after a signal needs it.
        LockFile::lock(Path::new(&path), self.doors.deadline(LOCK_WAIT), &Interrupt::never())
            .context("failed to lock the VM database")
    }

    /// Reads and parses the file and passes the contents to `work`. A file that does not parse is read again for up to
    /// a second.
    fn with_contents<T>(
        &self,
        work: impl FnOnce(&mut Contents<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let deadline = self.doors.deadline(self.torn_read);
        loop {
            let bytes = self.bytes()?;
            match as_text(&bytes).and_then(|text| Contents::parse(text, &self.fields)) {
                Ok(mut contents) => {
                    self.is_corrupt.store(false, Ordering::Relaxed);
                    return work(&mut contents);
                }
                Err(why) => self.read_again_or_fail(why, deadline)?,
            }
        }
    }

    /// The same, for a single pass through the file.
    fn read<T>(
        &self,
        mut pass: impl FnMut(&mut File) -> io::Result<Result<T, String>>,
    ) -> Result<T, DatabaseError> {
        let deadline = self.doors.deadline(self.torn_read);
        loop {
            let mut file =
                read_file::open_up_to(&self.path, LIMIT).map_err(|error| self.cannot_read(&error))?;
            match pass(&mut file).map_err(|error| self.cannot_read(&error))? {
                Ok(value) => {
                    self.is_corrupt.store(false, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(why) => self.read_again_or_fail(why, deadline)?,
            }
        }
    }

    fn bytes(&self) -> Result<Vec<u8>, DatabaseError> {
        read_file::bytes_up_to(&self.path, LIMIT).map_err(|error| self.cannot_read(&error))
    }

    fn cannot_read(&self, error: &io::Error) -> DatabaseError {
        match error.kind() {
            io::ErrorKind::NotFound => DatabaseError::Missing(self.path.display().to_string()),
            _ => DatabaseError::Unreadable(self.path.display().to_string(), error.to_string()),
        }
    }

    fn read_again_or_fail(&self, why: String, deadline: Deadline) -> Result<(), DatabaseError> {
        if deadline.passed() || self.is_corrupt.load(Ordering::Relaxed) {
            self.is_corrupt.store(true, Ordering::Relaxed);
            return Err(self.corrupt(why));
        }
        deadline.sleep(Duration::from_millis(50));
        Ok(())
    }

    fn corrupt(&self, why: String) -> DatabaseError {
        DatabaseError::Corrupt { path: self.path.display().to_string(), why }
    }
}

fn as_text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to()))
}

#[cfg(test)]
mod tests;
