//! Waiting for the tasks (UPIDs) that Proxmox starts for what takes longer.

use super::{Api, ApiError, Json, list, segment, string, text};
use crate::version::Version;

/// From this version on warnings of a task are passed on instead of being failures, and the task's log is
/// part of an error.
const TELLS_LOG: Version = Version(0, 101, 0);

/// Whether a task that ended with `WARNINGS: n` has failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Warnings never are failures (clone, since 0.57.1).
    Lenient,
    /// They are before 0.101.
    ByVersion,
    /// They are none once the task's log could be read, in each version (start).
    WhenLogIsRead,
}

/// How a task ended that did not fail.
#[derive(Debug, PartialEq)]
pub enum Ended {
    /// With `OK`.
    Well,
    /// With `WARNINGS: n`; the warnings of its log (none where the version does not ask for it).
    WithWarnings(Vec<String>),
}

impl Api {
    /// Waits for the task an answer names. Fails when the task does, when the answer names none, or at the
    /// deadline: the task goes on then.
    pub async fn wait(&self, answer: Json, tolerance: Tolerance) -> Result<Ended, ApiError> {
        let upid = string(answer)?;
        let (node, id) = (node_of(&upid)?, segment(&upid));
        let timeout = || ApiError::Other(format!("timeout while waiting for task {upid:?} to complete"));
        let exit = loop {
            match self.get(&format!("/nodes/{node}/tasks/{id}/status")).await {
                Ok(status) if text(&status, "status") != "running" => {
                    break text(&status, "exitstatus").to_string();
                }
                Ok(_) => {}
                // "no such task" is tried again for ever.
                Err(error) if error.code() == Some(400) => {}
                Err(ApiError::Deadline) => return Err(timeout()),
                Err(error) => return Err(ApiError::Other(format!("error retrieving task status: {error}"))),
            }
            self.pause(1.0).await.map_err(|_| timeout())?;
        };
        if exit == "OK" {
            return Ok(Ended::Well);
        }
        let tells_log = self.version >= TELLS_LOG;
        let is_warned = exit.starts_with("WARNINGS:");
        let log = match tells_log {
            true => self.task_log(node, &id).await.unwrap_or_default(),
            false if is_warned && tolerance == Tolerance::WhenLogIsRead => self.task_log(node, &id).await?,
            false => Vec::new(),
        };
        if is_warned && (tells_log || tolerance != Tolerance::ByVersion) {
            let warnings = log.into_iter().filter(|line| line.contains("WARN:")).collect();
            return Ok(Ended::WithWarnings(warnings));
        }
        let mut message = format!("task {upid:?} failed to complete with exit code: {exit}");
        if !log.is_empty() {
            message += &format!("\ntask log:\n{}", log.join("\n"));
        }
        Err(ApiError::Other(message))
    }

    /// The lines of a task's log.
    async fn task_log(&self, node: &str, id: &str) -> Result<Vec<String>, ApiError> {
        let answer = self.get(&format!("/nodes/{node}/tasks/{id}/log")).await;
        let lines = answer
            .and_then(list)
            .map_err(|error| ApiError::Other(format!("error retrieving task log: {error}")))?;
        Ok(lines.iter().map(|line| text(line, "t").to_string()).collect())
    }
}

/// The node of `UPID:node:pid:pstart:starttime:type:id:user:`. The provider reads the whole and refuses
/// what has another form.
fn node_of(upid: &str) -> Result<&str, ApiError> {
    let parts: Vec<&str> = upid.split(':').collect();
    let hexadecimal = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_hexdigit());
    match parts.as_slice() {
        ["UPID", node, pid, pstart, start, kind, _id, user, ""]
            if [pid, pstart, start].iter().all(|part| hexadecimal(part))
                && !node.is_empty()
                && !kind.is_empty()
                && !user.is_empty() =>
        {
            Ok(node)
        }
        _ => Err(ApiError::Other(format!("unexpected task ID format: {upid:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upids_are_checked() {
        let good = "UPID:pve:00001001:0001A2B3:6B03AF29:qmclone:9001:root@pam!t:";
        assert_eq!(node_of(good).unwrap(), "pve");
        for bad in ["", "UPID:pve", &good.replace("6B03AF29", "xyz"), &good.replace("qmclone", "")] {
            assert!(node_of(bad).is_err(), "{bad}");
        }
    }
}
