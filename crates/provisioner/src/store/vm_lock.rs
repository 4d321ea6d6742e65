//! One operation per VM at a time (hazard H19): every command that changes a VM holds `<state>/journal/<name>.lock`.

use crate::host::Host;
use crate::host::lock_file::{LockError, LockFile};
use crate::host::replace_file;
use crate::value::vm_name::VmName;
use anyhow::Context;
use std::path::PathBuf;
use std::time::Duration;

/// How long to wait before saying so.
const SILENT: Duration = Duration::from_secs(1);

/// Returns the directory of journal entries and VM locks, which is created on first use and is writable by group
/// blockhost.
pub fn journal_folder(host: &Host) -> anyhow::Result<PathBuf> {
    let folder = host.state_dir.join("journal");
    replace_file::make_folder(host.doors, &folder, 0o770)?;
    Ok(folder)
}

/// The lock of one VM, held while an operation works on it.
#[derive(Debug)]
pub struct VmLock(LockFile);

impl VmLock {
    /// Waits for other operations on the VM, for `limit` at most. `verb` is shown to other commands that wait for this
    /// one.
    pub fn acquire(host: &Host, name: &VmName, verb: &str, limit: Duration) -> anyhow::Result<VmLock> {
        let path = journal_folder(host)?.join(format!("{name}.lock"));
        let limit = host.limit("vm-lock", limit);
        let deadline = host.deadline(limit);
        let mut lock = LockFile::lock(&path, deadline.at_most(SILENT), &host.interrupt);
        if let Err(LockError::Held { holder, .. }) = &lock
            && !deadline.passed()
        {
            let most = limit.as_secs();
            tracing::info!("VM {name}: waiting for another operation on it{holder}, at most {most} s");
            lock = LockFile::lock(&path, deadline, &host.interrupt);
        }
        if let Err(LockError::Held { holder, .. }) = &lock {
            let waited = limit.as_secs_f64().round();
            anyhow::bail!(
                "VM {name}: another operation is in progress{holder}; waited {waited} s; try again later"
            );
        }
        Ok(VmLock::noted(lock.with_context(|| format!("VM {name}"))?, verb))
    }

    /// Takes the lock if nobody holds it.
    pub fn try_take(host: &Host, name: &VmName, verb: &str) -> anyhow::Result<Option<VmLock>> {
        let path = journal_folder(host)?.join(format!("{name}.lock"));
        Ok(LockFile::try_lock(&path)?.map(|lock| VmLock::noted(lock, verb)))
    }

    fn noted(mut lock: LockFile, verb: &str) -> VmLock {
        lock.note(&format!("{verb}, PID {}", std::process::id()));
        VmLock(lock)
    }

    /// Releases the lock and removes its file, for a VM that is gone.
    pub fn forget(self) {
        self.0.remove();
    }
}
