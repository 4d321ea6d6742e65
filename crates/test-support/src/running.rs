//! Commands: to their end, or in the background. Each has a time limit: one that hangs fails its test and no other.

use crate::Ended;
use crate::waiting::LONG;
use rustix::process::{Pid, Signal, kill_process};
use std::borrow::BorrowMut;
use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Runs a command to its end, with nothing on standard input.
#[track_caller]
pub fn run(command: impl BorrowMut<Command>) -> Ended {
    start(command).wait()
}

/// Starts a command whose output is kept, with nothing on standard input.
#[track_caller]
pub fn start(mut command: impl BorrowMut<Command>) -> Running {
    let command = command.borrow_mut();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    Running(Some(child))
}

/// A command in the background; killed when the test fails.
#[derive(Debug)]
pub struct Running(Option<Child>);

impl Running {
    /// The process.
    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.child().try_wait().unwrap().is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap(), signal).unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGKILL, and its end.
    pub fn kill(mut self) {
        self.child().kill().unwrap();
        self.child().wait().unwrap();
        self.0 = None;
    }

    /// Its end, which must come within [`LONG`].
    #[track_caller]
    pub fn wait(self) -> Ended {
        self.wait_for(LONG)
    }

    /// The same with another limit, for what takes minutes.
    #[track_caller]
    pub fn wait_for(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        let child = self.child();
        let (out, err) = (child.stdout.take().map(reader), child.stderr.take().map(reader));
        let status: ExitStatus = loop {
            if let Some(status) = self.child().try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "a command hangs: {}", command_line(self.pid()));
            std::thread::sleep(Duration::from_millis(2));
        };
        self.0 = None;
        let stdout = bytes(out, deadline, status);
        Output { status, stdout, stderr: bytes(err, deadline, status) }.into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command_line(pid: u32) -> String {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ")
}

fn reader(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (done, bytes) = channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = pipe.read_to_end(&mut all);
        let _ = done.send(all);
    });
    bytes
}

/// What was read; a pipe that a process of the command's keeps open is a failure as well.
#[track_caller]
fn bytes(read: Option<Receiver<Vec<u8>>>, deadline: Instant, status: ExitStatus) -> Vec<u8> {
    let Some(read) = read else { return Vec::new() };
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let ended = (status.code(), status.signal());
    read.recv_timeout(left).unwrap_or_else(|_| panic!("ended with {ended:?}, but its output is still open"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_ends_with_what_it_printed() {
        let ended = run(sh("read x; echo out$x; printf err >&2; exit 3"));
        assert_eq!((ended.code, ended.signal), (Some(3), None));
        assert_eq!((ended.out.as_str(), ended.err.as_str()), ("out\n", "err"));
        run(sh("kill -KILL $$")).was_killed();
        // More than a pipe holds, on both.
        let script = "head -c 300000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero | tr '\\0' y >&2";
        let ended = run(sh(script)).ok();
        assert_eq!((ended.out.len(), ended.err.len()), (300_000, 300_000));
    }

    #[test]
    fn a_command_that_hangs_or_leaves_its_output_open_fails() {
        let refused = |script: &'static str| {
            let panic = std::panic::catch_unwind(|| start(sh(script)).wait_for(Duration::from_millis(300)));
            panic.unwrap_err().downcast_ref::<String>().cloned().unwrap()
        };
        assert!(refused("exec sleep 600").contains("a command hangs: sleep 600"));
        assert!(refused("sleep 3 & exit 0").contains("its output is still open"));
    }

    #[test]
    fn a_command_in_the_background_goes_with_its_test() {
        let mut running =
            start(sh("trap 'echo told; exit 0' TERM; echo begun; while :; do sleep 0.01; done"));
        let mut begun = [0; 6];
        running.child().stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        assert!(running.is_alive());
        running.terminate();
        assert_eq!(running.wait().ok().out, "told\n");
        let running = start(sh("exec sleep 600"));
        let pid = running.pid();
        drop(running);
        assert_eq!(command_line(pid), "");
    }
}
