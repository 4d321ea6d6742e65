//! A child process that guards our work: it outlives us and acts if we die.

use super::clock::Deadline;
use super::run_process::{Program, start, wait};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{ExitStatus, Stdio};

/// A guarding child process: it receives lines through a pipe, and notices our death by the pipe's end.
pub struct Lifeline {
    child: std::process::Child,
    pipe: Option<std::process::ChildStdin>,
}

impl Lifeline {
    /// Starts the program in its own process group.
    pub fn start(program: &Program<'_>) -> std::io::Result<Lifeline> {
        let mut command = start(program)?;
        let mut child = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let pipe = child.stdin.take();
        Ok(Lifeline { child, pipe })
    }

    /// Sends the child a line.
    pub fn say(&mut self, line: &str) -> std::io::Result<()> {
        let pipe = self.pipe.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        pipe.write_all(line.as_bytes())?;
        pipe.write_all(b"\n")?;
        pipe.flush()
    }

    /// Closes the pipe and waits for the child to end.
    pub fn wait(mut self, deadline: Deadline) -> anyhow::Result<ExitStatus> {
        self.pipe = None;
        match wait(&mut self.child, &deadline)? {
            Some(status) => Ok(status),
            None => anyhow::bail!("the child process did not exit in time"),
        }
    }
}
