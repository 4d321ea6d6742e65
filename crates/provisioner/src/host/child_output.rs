//! What a child prints: told line by line while it works, and whole to its last byte once it has ended.
//!
//! Read by the thread that waits for the child, not by threads of their own: on a busy machine these may not have had
//! their turn when the child has ended, and an answer that is cut short looks like an absence. What a child has written
//! lies in its pipe, so a pipe that is empty after the child's end has given everything, even where a grandchild (a
//! daemon that the child started) keeps it open.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Longest line that is told in one piece, in bytes.
const LINE_MAX: usize = 64 << 10;

/// Which of its two streams a child wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// What a look at the pipes has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Bytes, or the end of one of them.
    Something,
    /// Both are empty, but open.
    Nothing,
    /// Both have ended.
    End,
}

/// The reading ends of a child's pipes.
pub(super) struct ChildOutput {
    pipes: Vec<Pipe>,
}

struct Pipe {
    stream: Stream,
    end: std::fs::File,
    /// Begun, and not yet ended by a newline.
    line: Vec<u8>,
}

impl ChildOutput {
    /// Takes the pipes over.
    ///
    /// # Errors
    ///
    /// The kernel's refusal to make them non-blocking.
    pub(super) fn new(pipes: impl IntoIterator<Item = (Stream, OwnedFd)>) -> io::Result<ChildOutput> {
        let pipes = pipes.into_iter().map(|(stream, end)| {
            fcntl_setfl(&end, fcntl_getfl(&end)? | OFlags::NONBLOCK)?;
            Ok(Pipe { stream, end: end.into(), line: Vec::new() })
        });
        Ok(ChildOutput { pipes: pipes.collect::<io::Result<_>>()? })
    }

    /// Waits at most `patience` for output, and tells the lines that are complete.
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

    /// Tells what has come without a newline at its end.
    pub(super) fn tell_rest(&mut self, tell: &mut impl FnMut(Stream, &str)) {
        for pipe in &mut self.pipes {
            pipe.tell_rest(tell);
        }
    }
}

impl Pipe {
    /// Reads once; false at the end of the stream.
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
