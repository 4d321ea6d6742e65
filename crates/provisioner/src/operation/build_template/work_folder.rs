//! The directory in which only root works: it has the downloads, the images being changed, and the journal entry.
//!
//! ```text
//!   /var/cache/blockhost-provisioner      root, 0700; the state folder would not do: user blockhost may write it (H29)
//!     build.lock                          one builder at a time
//!     template.json                       what is under way on the node (journal.rs)
//!     images/NAME                         the publisher's image, checked against its sum before each use
//!     images/NAME.SUM.part                one that is still on its way
//!     work/                               this run's; emptied by the next
//!     customised-RECIPE.qcow2             complete, for a next run within a day if no template came of it
//! ```

use crate::host::Host;
use crate::host::doors::Doors;
use crate::host::large_file;
use crate::host::lock_file::LockFile;
use crate::host::replace_file;
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// Path of the journal entry of a running or killed build, for readers.
pub fn note_of_a_build(folder: &Path) -> PathBuf {
    folder.join("template.json")
}

/// The locked directory.
pub struct WorkFolder {
    /// Of the host that it is on.
    pub doors: Doors,
    path: PathBuf,
    _lock: LockFile,
}

impl WorkFolder {
    /// Opens the directory for this run alone; fails if another build is running, and names it.
    pub fn open(host: &Host, path: &Path) -> anyhow::Result<WorkFolder> {
        anyhow::ensure!(
            path.is_absolute(),
            "the cache directory {} must be an absolute path",
            path.display()
        );
        replace_file::make_folder(host.doors, path, 0o700)?;
        check(path)?;
        let lock = path.join("build.lock");
        let Some(mut held) = LockFile::try_lock(&lock)? else {
            let holder = crate::host::lock_file::read_note(&lock);
            anyhow::bail!("another template build is running ({holder}); wait until it finishes");
        };
        held.note(&format!("blockhost-build-template, PID {}", std::process::id()));
        let folder = WorkFolder { doors: host.doors, path: path.to_owned(), _lock: held };
        replace_file::make_folder(host.doors, &folder.images(), 0o700)?;
        replace_file::remove_tree(&folder.work())?;
        Ok(folder)
    }

    /// Directory of downloaded images.
    pub fn images(&self) -> PathBuf {
        self.path.join("images")
    }

    /// Directory of this run's files.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Creates the directory of this run's files.
    pub fn make_work(&self) -> anyhow::Result<()> {
        Ok(replace_file::make_folder(self.doors, &self.work(), 0o700)?)
    }

    /// Path of the journal entry.
    pub fn journal(&self) -> PathBuf {
        note_of_a_build(&self.path)
    }

    /// Path of the customised image of a recipe.
    pub fn customised(&self, recipe: &str, format: &str) -> PathBuf {
        self.path.join(format!("customised-{recipe}.{format}"))
    }

    /// Removes this run's files and all customised images, which have become a template.
    pub fn tidy(&self) -> anyhow::Result<()> {
        replace_file::remove_tree(&self.work())?;
        self.remove_customised(None)
    }

    /// Removes all customised images except `keep`: they are large, and one of an older recipe is never used again.
    pub fn remove_customised(&self, keep: Option<&Path>) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.path)?.flatten() {
            let path = entry.path();
            let customised = entry.file_name().as_encoded_bytes().starts_with(b"customised-");
            if customised && keep != Some(path.as_path()) {
                replace_file::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Fails if the disk has less than `bytes` of free space.
    pub fn need(&self, bytes: u64, what: &str) -> anyhow::Result<()> {
        let free = crate::host::free_kib(&self.path).unwrap_or(u64::MAX);
        anyhow::ensure!(
            free >= bytes / 1024,
            "{} has {} MiB free, but {} MiB are needed for {what}",
            self.path.display(),
            free >> 10,
            bytes >> 20
        );
        Ok(())
    }
}

/// Checks that nobody else can change the directory, so that root follows no link set by another user.
fn check(path: &Path) -> anyhow::Result<()> {
    let found = path.symlink_metadata().with_context(|| format!("cannot examine {}", path.display()))?;
    anyhow::ensure!(found.is_dir(), "{} is not a directory", path.display());
    let open = large_file::open_folder(path).with_context(|| format!("cannot open {}", path.display()))?;
    anyhow::ensure!(
        large_file::ours_alone(&open)?,
        "{} is writable by others: it must belong to the running user, with mode 0700",
        path.display()
    );
    Ok(())
}
