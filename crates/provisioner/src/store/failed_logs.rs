//! The terraform logs of failed creates: `<state>/failed/NAME-TIME.log`. Rolling back removes the VM's own directory,
//! but the reason why an order failed must not be lost with it.
//!
//! Written before anything is rolled back, so if a create dies while it rolls back, whoever continues keeps the log.
//! The newest [`KEPT`] logs are kept; failing to keep one causes a warning and stops nothing.

use crate::host::{Host, read_file, replace_file};
use crate::store::node_access::NodeAccess;
use crate::value::vm_name::VmName;
use chrono::{DateTime, Utc};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Number of logs that are kept, over all VMs.
const KEPT: usize = 20;
/// Bytes of a log that are kept, counted from its end, where the reason is.
const LIMIT: u64 = 256 * 1024;

/// Keeps the log of this create, without the API token; `None` if the log is empty or cannot be kept. `began_at` is the
/// start of the create, so a repeated rollback writes the same file again.
pub fn keep(
    host: &Host,
    access: &NodeAccess,
    name: &VmName,
    began_at: DateTime<Utc>,
    log: &Path,
) -> Option<PathBuf> {
    let bytes = end_of(log).ok().filter(|bytes| !bytes.is_empty())?;
    let secrets = [access.token.reveal(), access.token.secret_part()];
    let text = String::from_utf8_lossy(&bytes);
    let text = secrets
        .iter()
        .filter(|secret| !secret.is_empty())
        .fold(text.into_owned(), |text, secret| text.replace(secret, "[secret]"));
    let folder = host.state_dir.join("failed");
    let path = folder.join(format!("{name}-{}.log", began_at.format("%Y%m%dT%H%M%SZ")));
    let written = replace_file::make_folder(host.doors, &folder, 0o770).and_then(|()| {
        replace_file::replace(host.doors, &path, text.as_bytes(), replace_file::PRIVATE, "failed-log")
    });
    if let Err(error) = written {
        tracing::warn!("VM {name}: failed to keep terraform's log in {}: {error}", folder.display());
        return None;
    }
    rotate(&folder);
    Some(path)
}

fn end_of(log: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = read_file::open_up_to(log, u64::MAX)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LIMIT)))?;
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes the oldest logs first, by the time in their names; files of others are left alone.
fn rotate(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let time_of = |path: &PathBuf| -> Option<String> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".log")?;
        let (_, time) = stem.rsplit_once('-')?;
        (time.len() == 16 && time.ends_with('Z')).then(|| time.to_string())
    };
    let mut logs: Vec<(String, PathBuf)> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter_map(|path| Some((time_of(&path)?, path)))
        .collect();
    logs.sort();
    let too_many = logs.len().saturating_sub(KEPT);
    for (_, path) in &logs[..too_many] {
        if let Err(error) = replace_file::remove(path) {
            tracing::debug!("{}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_what_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let name = |n: usize| folder.path().join(format!("web-{}-20261127T0000{n:02}Z.log", n % 3));
        for n in 0..KEPT + 5 {
            std::fs::write(name(n), "x").unwrap();
        }
        for other in ["notes.txt", "web-1.log", "web-1-old.log"] {
            std::fs::write(folder.path().join(other), "x").unwrap();
        }
        rotate(folder.path());
        let left = |n: usize| name(n).exists();
        assert!((0..5).all(|n| !left(n)) && (5..KEPT + 5).all(left));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), KEPT + 3);
    }

    #[test]
    fn of_a_long_log_the_end_is_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [vec![b'a'; 300 * 1024], b"the reason".to_vec()].concat()).unwrap();
        let end = end_of(file.path()).unwrap();
        assert!(end.len() as u64 == LIMIT && end.ends_with(b"the reason"));
    }
}
