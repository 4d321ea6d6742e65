//! A child that watches over what we do: it outlives us, and acts when we die.

use super::clock::Deadline;
use super::run_process::{Program, start, wait};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{ExitStatus, Stdio};

/// A child that outlives us and listens: it is told words by a pipe, and sees our death as the pipe's end.
pub struct Lifeline {
    child: std::process::Child,
    pipe: Option<std::process::ChildStdin>,
}

impl Lifeline {
    /// Starts it, in a process group of its own.
    pub fn start(program: &Program<'_>) -> std::io::Result<Lifeline> {
        let mut command = start(program)?;
        let mut child = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let pipe = child.stdin.take();
        Ok(Lifeline { child, pipe })
    }

    /// Tells it a line.
    pub fn say(&mut self, line: &str) -> std::io::Result<()> {
        let pipe = self.pipe.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        pipe.write_all(line.as_bytes())?;
        pipe.write_all(b"\n")?;
        pipe.flush()
    }

    /// Closes the pipe and waits for its end.
    pub fn wait(mut self, deadline: Deadline) -> anyhow::Result<ExitStatus> {
        self.pipe = None;
        match wait(&mut self.child, &deadline)? {
            Some(status) => Ok(status),
            None => anyhow::bail!("it did not end in time"),
        }
    }
}
