//! A child process's output: passed on line by line while it runs, and complete to the last byte once it has ended.
//!
//! The thread that waits for the child reads the output; there are no reader threads: on a busy host these may not have
//! been scheduled by the time the child ends, and a truncated answer looks like an absence. What a child has written
//! stays in its pipe, so a pipe that is empty after the child's end has delivered everything, even if a grandchild (a
//! daemon started by the child) keeps it open.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Longest line passed on in one piece, in bytes; longer ones are split.
const LINE_MAX: usize = 64 << 10;

/// Which of its two streams a child wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// Result of polling the pipes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Data from a pipe, or the end of one.
    Something,
    /// Both pipes are open, but empty.
    Nothing,
    /// Both pipes have ended.
    End,
}

/// The read ends of a child's pipes.
pub(super) struct ChildOutput {
    pipes: Vec<Pipe>,
}

struct Pipe {
    stream: Stream,
    end: std::fs::File,
    /// The start of a line that has no newline yet.
    line: Vec<u8>,
}

impl ChildOutput {
    /// Takes ownership of the pipes.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses to make the pipes non-blocking.
    pub(super) fn new(pipes: impl IntoIterator<Item = (Stream, OwnedFd)>) -> io::Result<ChildOutput> {
        let pipes = pipes.into_iter().map(|(stream, end)| {
            fcntl_setfl(&end, fcntl_getfl(&end)? | OFlags::NONBLOCK)?;
            Ok(Pipe { stream, end: end.into(), line: Vec::new() })
        });
        Ok(ChildOutput { pipes: pipes.collect::<io::Result<_>>()? })
    }

    /// Waits up to `patience` for output and passes on each complete line.
    pub(super) fn hear(
        &mut self,
        patience: Duration,
        tell: &mut impl FnMut(Stream, &str),
    ) -> io::Result<Heard> {
        if self.pipes.is_empty() {
            return Ok(Heard::End);
        }
        let mut looks: Vec<PollFd<'_>> =
            self.pipes.iter().map(|pipe| PollFd::new(&pipe.end, PollFlags::IN)).collect();
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        match poll(&mut looks, Some(&patience)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Heard::Nothing),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = looks.iter().map(|look| !look.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        self.pipes.retain_mut(|pipe| {
            let goes_on = ready.next() != Some(true) || pipe.read(tell);
            if !goes_on {
                pipe.tell_rest(tell);
            }
            goes_on
        });
        Ok(Heard::Something)
    }

    /// Passes on what has arrived without a final newline.
    pub(super) fn tell_rest(&mut self, tell: &mut impl FnMut(Stream, &str)) {
        for pipe in &mut self.pipes {
            pipe.tell_rest(tell);
        }
    }
}

impl Pipe {
    /// Reads once; returns false at the end of the stream.
    fn read(&mut self, tell: &mut impl FnMut(Stream, &str)) -> bool {
        let mut buffer = [0; 16 << 10];
        let got = match self.end.read(&mut buffer) {
            Ok(0) => return false,
            Ok(got) => got,
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        for part in buffer[..got].split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") || self.line.len() >= LINE_MAX {
                self.tell_rest(tell);
            }
        }
        true
    }

    fn tell_rest(&mut self, tell: &mut impl FnMut(Stream, &str)) {
        if !self.line.is_empty() {
            tell(self.stream, &String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }
}
