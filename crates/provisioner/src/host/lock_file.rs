//! Locks kept by the kernel (`flock`): a dead process holds none (hazard H18).

use super::clock::Deadline;
use super::interrupt::Interrupt;
use super::replace_file::{SHARED, give_to_owner_of};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A lock that is held until this value is dropped.
#[derive(Debug)]
pub struct LockFile {
    file: File,
    path: PathBuf,
}

/// Why a lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process held the lock until the deadline.
    #[error("{path} is locked by another process{holder}, waited {waited} s")]
    Held {
        /// The lock file.
        path: String,
        /// The holder, if the file names it: ` (blockhost-vm-create, PID 123)`.
        holder: String,
        /// Seconds waited.
        waited: u64,
    },
    /// The lock file cannot be created or opened.
    #[error("cannot open lock file {path}: {source}")]
    Open {
        /// The lock file.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// A signal arrived while waiting.
    #[error(transparent)]
    Interrupted(#[from] super::interrupt::Interrupted),
}

impl LockFile {
    /// Takes the lock if nobody holds it.
    pub fn try_lock(path: &Path) -> Result<Option<LockFile>, LockError> {
        loop {
            let file =
                open(path).map_err(|source| LockError::Open { path: path.display().to_string(), source })?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
                Err(std::fs::TryLockError::Error(source)) => {
                    return Err(LockError::Open { path: path.display().to_string(), source });
                }
            }
            // The previous holder may have removed the file after we opened it; then we have locked a file that nobody
            // else will find.
            let same = match (file.metadata(), path.symlink_metadata()) {
                (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
                _ => false,
            };
            if same {
                return Ok(Some(LockFile { file, path: path.to_path_buf() }));
            }
        }
    }

    /// Returns the holder's note while the lock is held; `None` if nobody holds it or that cannot be determined.
    /// Creates no file. It takes a shared lock for a moment, which no waiter mistakes for a holder's.
    pub fn holder(path: &Path) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)).then(|| read_note(path))
    }

    /// Takes the lock, waiting for others until `deadline` or a signal.
    pub fn lock(path: &Path, deadline: Deadline, interrupt: &Interrupt) -> Result<LockFile, LockError> {
        let total = deadline.left();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = LockFile::try_lock(path)? {
                return Ok(lock);
            }
            if interrupt.requested() {
                return Err(super::interrupt::Interrupted.into());
            }
            if deadline.passed() {
                let holder = match read_note(path) {
                    note if note.is_empty() => String::new(),
                    note => format!(" ({note})"),
                };
                return Err(LockError::Held {
                    path: path.display().to_string(),
                    holder,
                    waited: total.as_secs_f64().round() as u64,
                });
            }
            deadline.sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(25));
        }
    }

    /// Writes the holder's name into the lock file, for people and for error messages; only the kernel's lock counts.
    pub fn note(&mut self, text: &str) {
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())
        };
        // If the note cannot be written (full disk), the lock holds all the same.
        let _ = write(&mut self.file);
    }

    /// Removes the file and releases the lock.
    pub fn remove(self) {
        let _ = super::replace_file::remove(&self.path);
    }

    /// Turns the lock into a file for a child process: as the child's standard input, it is held until its last copy is
    /// closed.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Whether another process holds a record lock (`fcntl`) on a file, as terraform does on the state it works with. Not
/// there, or not ours to write, is not locked.
pub fn is_record_locked(path: &Path) -> bool {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    // Locked for this moment only: the lock goes with the descriptor.
    rustix::fs::open(path, flags, Mode::empty()).is_ok_and(|file| {
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
    })
}

/// Returns the first line of the holder's note in the lock file.
pub fn read_note(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = super::read_file::open(path) {
        let _ = file.take(200).read_to_string(&mut text);
    }
    text.lines().next().unwrap_or_default().trim().to_string()
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(SHARED))?);
    let data = file.metadata()?;
    if !data.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Whoever creates it, members of the directory's group can use it, regardless of umask and of root being the
    // creator.
    if data.mode() & 0o777 != SHARED && data.uid() == rustix::process::geteuid().as_raw() {
        if let Some(folder) = path.parent() {
            give_to_owner_of(&file, folder)?;
        }
        file.set_permissions(PermissionsExt::from_mode(SHARED))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::doors::Doors;

    #[test]
    fn h18_a_lock_excludes_others_and_goes_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut first = LockFile::try_lock(&path).unwrap().unwrap();
        assert_eq!(LockFile::holder(&dir.path().join("none")), None);
        first.note("blockhost-vm-create, PID 7");
        assert_eq!(LockFile::holder(&path).as_deref(), Some("blockhost-vm-create, PID 7"));
        assert!(LockFile::try_lock(&path).unwrap().is_none());
        let soon = Doors::real().deadline(Duration::from_millis(20));
        let error = LockFile::lock(&path, soon, &Interrupt::never()).unwrap_err().to_string();
        assert!(error.contains("blockhost-vm-create, PID 7"), "{error}");
        drop(first);
        // A program that another test is just starting has a copy of it until the program's own code runs.
        let deadline = Doors::real().deadline(Duration::from_secs(10));
        while LockFile::holder(&path).is_some() {
            assert!(!deadline.passed(), "held after its holder has gone");
            std::thread::yield_now();
        }
        while LockFile::try_lock(&path).unwrap().is_none() {
            assert!(!deadline.passed(), "held by nobody");
            std::thread::yield_now();
        }
        assert_eq!(path.metadata().unwrap().mode() & 0o777, SHARED);
    }

    #[test]
    fn a_lock_file_that_was_removed_while_we_waited_is_not_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = LockFile::try_lock(&path).unwrap().unwrap();
        let stale = open(&path).unwrap();
        first.remove();
        let second = LockFile::try_lock(&path).unwrap().unwrap();
        let deadline = Doors::real().deadline(Duration::from_secs(10));
        while stale.try_lock().is_err() {
            assert!(!deadline.passed(), "the removed file can be locked, but is nobody's lock");
            std::thread::yield_now();
        }
        drop(second);
    }

    #[test]
    fn a_symbolic_link_is_no_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(LockFile::try_lock(&path), Err(LockError::Open { .. })));
    }
}
