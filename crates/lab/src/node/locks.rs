//! The guests' file locks, `/var/lock/qemu-server/lock-<id>.conf`: held for the whole of start, stop and shutdown.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::refusal::{Outcome, Refusal};

/// The lock, as long as this value lives.
#[derive(Debug)]
pub(crate) enum FileLock {
    /// Alone.
    Exclusive(#[allow(dead_code, reason = "held, not read")] OwnedRwLockWriteGuard<()>),
    /// With others: clones of one stopped source.
    Shared(#[allow(dead_code, reason = "held, not read")] OwnedRwLockReadGuard<()>),
}

#[derive(Debug, Default)]
pub(crate) struct FileLocks {
    locks: Mutex<HashMap<u32, Arc<RwLock<()>>>>,
}

impl FileLocks {
    fn of(&self, vmid: u32) -> Arc<RwLock<()>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).entry(vmid).or_default().clone()
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// Proxmox' wording when it was not to be had in `wait_ms` milliseconds.
    pub async fn exclusive(&self, vmid: u32, wait_ms: u64) -> Outcome<FileLock> {
        match tokio::time::timeout(Duration::from_millis(wait_ms), self.of(vmid).write_owned()).await {
            Ok(guard) => Ok(FileLock::Exclusive(guard)),
            Err(_) => Err(got_timeout(vmid)),
        }
    }

    /// The same, together with others that only read.
    pub async fn shared(&self, vmid: u32, wait_ms: u64) -> Outcome<FileLock> {
        match tokio::time::timeout(Duration::from_millis(wait_ms), self.of(vmid).read_owned()).await {
            Ok(guard) => Ok(FileLock::Shared(guard)),
            Err(_) => Err(got_timeout(vmid)),
        }
    }
}

fn got_timeout(vmid: u32) -> Refusal {
    Refusal::die(format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout"))
}
