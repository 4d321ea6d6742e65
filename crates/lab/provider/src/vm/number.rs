//! The VMID of a VM whose configuration names none: the node's next free one, serialised between the
//! providers of one machine by a lock file in the temporary folder.
//!
//! Proxmox reserves nothing, so the number handed out last is kept beside the lock and the next caller
//! asks for the one after it. Two hosts, or two users with different temporary folders, still collide.

use crate::{
    api::{Api, ApiError, int},
    diagnostic::Diagnostic,
};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value as Json;
use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

const NAME: &str = "terraform-provider-proxmox-id-gen";
/// A last number older than this is forgotten at the provider's start.
const FRESH: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(6);

/// Where numbers come from.
pub struct Numbers {
    folder: PathBuf,
    random: Option<(i64, i64)>,
}

impl Numbers {
    /// In order, or at random from `[start, end)`.
    pub fn new(random: Option<(i64, i64)>) -> Self {
        let numbers = Self { folder: std::env::temp_dir(), random };
        let last = numbers.last_file();
        let age = fs::metadata(&last).and_then(|meta| meta.modified()).ok();
        let age = age.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_some_and(|age| age > FRESH) {
            let _ = fs::remove_file(last);
        }
        numbers
    }

    fn last_file(&self) -> PathBuf {
        self.folder.join(format!("{NAME}.seq"))
    }

    /// A number that is free now.
    pub async fn next(&self, api: &Api) -> Result<i64, Diagnostic> {
        let lock = self
            .lock()
            .await
            .map_err(|error| Diagnostic::error(format!("unable to lock the ID generator: {error}")))?;
        let until = Instant::now() + LIMIT;
        let mut last =
            fs::read_to_string(self.last_file()).ok().and_then(|text| text.trim().parse::<i64>().ok());
        let found = loop {
            let ask = match (self.random, last) {
                (Some((start, end)), _) => Some(random(start, end)),
                (None, last) => last.map(|last| last + 1),
            };
            let query = ask.map(|id| format!("?vmid={id}")).unwrap_or_default();
            match api.get(&format!("/cluster/nextid{query}")).await {
                Ok(answer) => break number(&answer),
                Err(error) if error.code() == Some(400) && error.is_taken() => last = None,
                Err(error) if Instant::now() >= until => break Err(error),
                Err(error) if error.code().is_some_and(|code| code < 500) => break Err(error),
                Err(_) => {}
            }
            if Instant::now() >= until {
                break Err(ApiError::Deadline);
            }
            tokio::time::sleep(PAUSE).await;
        };
        let id = found.map_err(|error| {
            Diagnostic::error(format!("unable to retrieve the next available VM identifier: {error}"))
        })?;
        fs::write(self.last_file(), id.to_string())
            .map_err(|error| Diagnostic::error(format!("unable to lock the ID generator: {error}")))?;
        drop(lock);
        Ok(id)
    }

    /// Holds the lock as long as the file is open.
    async fn lock(&self) -> io::Result<File> {
        let path = self.folder.join(format!("{NAME}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(PAUSE / 10).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// `nextid` answers with a text or a number.
fn number(answer: &Json) -> Result<i64, ApiError> {
    int(&serde_json::json!({"id": answer}), "id").ok_or(ApiError::NoData)
}

/// Spread well enough for not meeting oneself again at once; what is taken is asked again anyway.
fn random(start: i64, end: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let mixed = (now as u64 ^ u64::from(std::process::id()) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11;
    start + (mixed % (end - start).max(1) as u64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_as_text_or_number() {
        assert_eq!(number(&serde_json::json!("100")).unwrap(), 100);
        assert_eq!(number(&serde_json::json!(101)).unwrap(), 101);
        assert!(number(&Json::Null).is_err());
    }

    #[test]
    fn random_numbers_stay_in_range() {
        assert!((0..1000).all(|_| (10_000..99_999).contains(&random(10_000, 99_999))));
        assert_eq!(random(500, 500), 500);
    }
}
