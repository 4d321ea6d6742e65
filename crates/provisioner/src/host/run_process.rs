//! The only place that starts child processes. Never through a shell: always a program and its arguments.
//!
//! There are two kinds: terraform, which must outlive us ([`spawn_outliving`]), and everything else, which is waited
//! for and dies with us ([`run`]).

use super::accounts::Account;
pub use super::child_output::Stream;
use super::child_output::{ChildOutput, Heard};
use super::clock::Deadline;
use super::doors::Doors;
use super::interrupt::{Interrupt, Interrupted};
use super::replace_file::{are_root, owner_of};
use anyhow::Context as _;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// A program to start. Never printed with `{:?}`, which would show its environment.
pub struct Program<'a> {
    /// A name, looked up on PATH, or an absolute path.
    pub name: &'a str,
    /// Arguments, without secrets: every local user can read them.
    pub arguments: Vec<OsString>,
    /// Working directory.
    pub folder: &'a Path,
    /// Variables added to our own environment.
    pub environment: Vec<(&'static str, OsString)>,
    /// Prefixes of environment variables that are not passed on.
    pub without: &'a [&'a str],
}

/// Starts a child that goes on if we are killed: it has its own process group, writes to a file, and holds `lock` as
/// its standard input until it and its own children have ended.
///
/// If root starts it, the child becomes the owner of its working directory, so that what it writes stays usable for
/// user blockhost and nothing in that directory runs with root privileges.
pub fn spawn_outliving(
    doors: Doors,
    program: &Program<'_>,
    output: &Path,
    lock: File,
) -> std::io::Result<Child> {
    if let Some(machine) = doors.machine() {
        doors.reached(&format!("spawn.{}", program.name))?;
        return machine.spawn(program, output, lock).map(Child::Simulated);
    }
    let log = super::replace_file::empty_log(output)?;
    let mut command = start(program)?;
    if are_root() {
        let (uid, gid) = owner_of(program.folder)?;
        super::replace_file::give_to_owner_of(&log, program.folder)?;
        if uid != 0 {
            command.gid(gid).uid(uid);
        }
    }
    command
        .process_group(0)
        .stdin(Stdio::from(lock))
        .stderr(Stdio::from(log.try_clone()?))
        .stdout(Stdio::from(log));
    doors.reached(&format!("spawn.{}", program.name))?;
    command.spawn().map(Child::Process)
}

#[allow(clippy::disallowed_methods, reason = "this is the room that starts processes")]
pub(super) fn start(program: &Program<'_>) -> std::io::Result<Command> {
    let executable = find(program.name).ok_or_else(|| {
        std::io::Error::other(format!("{} is not installed (not found on PATH)", program.name))
    })?;
    tracing::debug!("running {} in {}", program.name, program.folder.display());
    let mut command = Command::new(executable);
    command.args(&program.arguments).current_dir(program.folder);
    for (name, _) in std::env::vars_os() {
        if program.without.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(name);
        }
    }
    command.envs(program.environment.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

/// Sends SIGTERM to a process that is not our child; one that has already ended is fine.
pub fn terminate(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Path of this very program, to start one of its hidden steps.
pub fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot tell which program this is")
}

/// The lines of standard input as they arrive, until its end.
pub fn lines_of_input() -> impl Iterator<Item = String> {
    std::io::stdin().lines().map_while(Result::ok)
}

/// A child's standard input.
pub enum Input {
    /// Nothing.
    Nothing,
    /// This text.
    Text(String),
    /// A file, from its current position.
    File(File),
}

/// How a child ended, and its output.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its complete standard output.
    pub stdout: String,
    /// The end of its standard error.
    pub stderr: String,
}

/// Why a child did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program is not on PATH, or the kernel could not start it.
    #[error("cannot run {program}: {source}")]
    NotStarted {
        /// Its name.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It exceeded its time limit and was killed.
    #[error("{call} did not finish within {} s and was stopped{}", limit.as_secs(), after(last_words))]
    TimedOut {
        /// Program and arguments.
        call: String,
        /// Its time limit.
        limit: Duration,
        /// The end of its output.
        last_words: String,
    },
    /// It exited with an error, or a signal ended it.
    #[error("{call} failed ({how}){}", after(last_words))]
    Failed {
        /// Program and arguments.
        call: String,
        /// `exit code 2`, `signal 9`.
        how: String,
        /// The end of its output.
        last_words: String,
    },
    /// It printed more than `STDOUT_MAX`.
    #[error("{call} printed more than {} MiB", STDOUT_MAX >> 20)]
    TooMuch {
        /// Program and arguments.
        call: String,
    },
    /// A signal asked us to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

fn after(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// Limit of standard output in bytes; the list of all guests of a large cluster has a few MiB.
const STDOUT_MAX: usize = 32 << 20;
/// Bytes of standard error that are kept, counted from the end.
const STDERR_MAX: usize = 64 << 10;
/// Bytes of a failed child's output that an error message repeats.
const LAST_WORDS: usize = 1_000;
/// Time between SIGTERM and SIGKILL when a child is stopped.
const GRACE: Duration = Duration::from_secs(5);

impl Ended {
    /// The end of its output: of standard error, or if that is empty, of standard output (`qm` prints a task's failure
    /// to either).
    pub fn last_words(&self) -> String {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let words = said.trim();
        let from = words.len().saturating_sub(LAST_WORDS);
        let from = (from..=words.len()).find(|at| words.is_char_boundary(*at)).unwrap_or(0);
        words[from..].trim().replace('\n', " ")
    }

    /// Returns itself if the exit code is 0, else an error.
    pub fn successful(self, program: &Program<'_>) -> Result<Ended, RunError> {
        self.successful_as(|| program.call())
    }

    /// As [`Ended::successful`], with another description of program and arguments.
    pub fn successful_as(self, call: impl FnOnce() -> String) -> Result<Ended, RunError> {
        if self.status.success() {
            return Ok(self);
        }
        let how = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        };
        Err(RunError::Failed { call: call(), how, last_words: self.last_words() })
    }
}

impl Program<'_> {
    /// Program and arguments for a message; the environment is never shown.
    pub fn call(&self) -> String {
        let words = self.arguments.iter().map(|word| word.to_string_lossy());
        std::iter::once(self.name.into()).chain(words).collect::<Vec<_>>().join(" ")
    }
}

/// Runs a program to its end, for at most `limit` (hazard H23). When the time is over or we are interrupted, it gets
/// SIGTERM, and SIGKILL 5 s later; if we die, the kernel kills it. `heard` is called with each line as it arrives.
///
/// An exit code other than 0 is not an error here, as it says little with `qm` (hazard H32). [`Ended::successful`]
/// makes it one.
pub fn run(
    doors: Doors,
    program: &Program<'_>,
    input: Input,
    limit: Duration,
    interrupt: &Interrupt,
    heard: impl FnMut(Stream, &str),
) -> Result<Ended, RunError> {
    run_as(doors, program, None, input, limit, interrupt, heard)
}

/// How much time a child gets.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Time for the work itself.
    pub work: Duration,
    /// Between SIGTERM and SIGKILL: one of our own programs rolls back what it left half done.
    pub grace: Duration,
}

impl From<Duration> for Limit {
    fn from(work: Duration) -> Limit {
        Limit { work, grace: GRACE }
    }
}

/// As [`run`], but with only the privileges of `account` if we are another user: for work in directories that belong to
/// it, in which root must neither run a program nor follow a link.
pub fn run_as(
    doors: Doors,
    program: &Program<'_>,
    account: Option<Account>,
    input: Input,
    limit: impl Into<Limit>,
    interrupt: &Interrupt,
    mut heard: impl FnMut(Stream, &str),
) -> Result<Ended, RunError> {
    if let Some(machine) = doors.machine() {
        return machine.run(program);
    }
    let Limit { work: limit, grace } = limit.into();
    let not_started = |source| RunError::NotStarted { program: program.name.to_owned(), source };
    let mut command = start_dying_with_us(program, account).map_err(not_started)?;
    let (stdin, text) = match input {
        Input::Nothing => (Stdio::null(), None),
        Input::Text(text) => (Stdio::piped(), Some(text)),
        Input::File(file) => (Stdio::from(file), None),
    };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    doors.reached(&format!("spawn.{}", program.name)).map_err(not_started)?;
    let mut child = command.spawn().map_err(not_started)?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), text) {
        // A child that ends without reading breaks the pipe; its exit code shows what happened.
        std::thread::spawn(move || pipe.write_all(text.as_bytes()));
    }
    let out = child.stdout.take().map(|pipe| (Stream::Out, OwnedFd::from(pipe)));
    let error = child.stderr.take().map(|pipe| (Stream::Error, OwnedFd::from(pipe)));
    let mut output = ChildOutput::new(out.into_iter().chain(error)).map_err(not_started)?;
    let deadline = doors.deadline(limit);
    let mut kept = Kept::default();
    let mut keep = |kept: &mut Kept, stream, line: &str| {
        heard(stream, line.trim_end_matches(['\n', '\r']));
        kept.keep(stream, line);
    };
    let mut has_ended = false;
    let end = loop {
        if kept.too_much {
            break Some(RunError::TooMuch { call: program.call() });
        }
        if interrupt.requested() {
            break Some(Interrupted.into());
        }
        if deadline.passed() {
            let last_words = kept.last_words();
            break Some(RunError::TimedOut { call: program.call(), limit, last_words });
        }
        let patience =
            if has_ended { Duration::ZERO } else { deadline.left().min(Duration::from_millis(20)) };
        match output.hear(patience, &mut |stream, line| keep(&mut kept, stream, line)).map_err(not_started)? {
            Heard::Something => {}
            // A grandchild (a daemon that the child started) may keep the pipes open long after the child itself has
            // ended.
            Heard::Nothing => {
                if has_ended {
                    break None;
                }
                // One more read gets what it wrote between the last read and its end.
                has_ended = matches!(child.try_wait(), Ok(Some(_)));
            }
            Heard::End => break None,
        }
    };
    output.tell_rest(&mut |stream, line| keep(&mut kept, stream, line));
    let Some(error) = end else {
        let status = wait(&mut child, &deadline).map_err(not_started)?;
        return match status {
            Some(status) => Ok(Ended { status, stdout: kept.stdout, stderr: kept.stderr }),
            None => {
                let last_words = kept.last_words();
                stop(doors, &mut child, grace);
                Err(RunError::TimedOut { call: program.call(), limit, last_words })
            }
        };
    };
    stop(doors, &mut child, grace);
    Err(error)
}

/// Prepares a command that the kernel kills when we die. The standard library could request that only through unsafe
/// code in the child, so `setpriv` of util-linux, which every Debian has, requests it and then becomes the program.
#[allow(clippy::disallowed_methods, reason = "this is the room that starts processes")]
fn start_dying_with_us(program: &Program<'_>, account: Option<Account>) -> std::io::Result<Command> {
    let plain = start(program)?;
    let own = rustix::process::geteuid().as_raw();
    let account = account.filter(|account| account.uid != own);
    let Some(setpriv) = find("setpriv") else {
        return match account {
            Some(_) => Err(std::io::Error::other("setpriv is not installed (package util-linux)")),
            None => Ok(plain),
        };
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]);
    if let Some(Account { uid, gid }) = account {
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
    }
    command.arg("--").arg(plain.get_program()).args(plain.get_args());
    command.current_dir(program.folder);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Ok(command)
}

/// A child's output so far.
#[derive(Default)]
struct Kept {
    stdout: String,
    stderr: String,
    too_much: bool,
}

impl Kept {
    fn keep(&mut self, stream: Stream, line: &str) {
        match stream {
            Stream::Out => {
                self.stdout.push_str(line);
                self.too_much |= self.stdout.len() > STDOUT_MAX;
            }
            Stream::Error => {
                self.stderr.push_str(line);
                if self.stderr.len() > 2 * STDERR_MAX {
                    let from = self.stderr.len() - STDERR_MAX;
                    let from = (from..).find(|at| self.stderr.is_char_boundary(*at)).unwrap_or(0);
                    self.stderr.drain(..from);
                }
            }
        }
    }

    fn last_words(&self) -> String {
        let (stdout, stderr) = (self.stdout.clone(), self.stderr.clone());
        Ended { status: ExitStatus::from_raw(0), stdout, stderr }.last_words()
    }
}

pub(super) fn wait(
    child: &mut std::process::Child,
    deadline: &Deadline,
) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if deadline.passed() {
            return Ok(None);
        }
        deadline.sleep(Duration::from_millis(5));
    }
}

/// Stops a child and the other processes of its group.
fn stop(doors: Doors, child: &mut std::process::Child, grace: Duration) {
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let signal = |signal| group.map(|group| rustix::process::kill_process_group(group, signal));
    signal(rustix::process::Signal::TERM);
    if !matches!(wait(child, &doors.deadline(grace)), Ok(Some(_))) {
        signal(rustix::process::Signal::KILL);
        let _ = child.wait();
    }
}

/// Disables core dumps of this process and its children: they would contain the token and cloud-init text (hazard H30).
pub fn forbid_core_dumps() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // Lowering a limit needs no privilege; a system that refuses it nonetheless writes no core dumps by default.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

/// Finds the executable `name` on PATH; an absolute path is returned as it is.
pub fn find(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') {
        return Some(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|candidate| {
        rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file()
    })
}

/// A child process that was started here.
pub enum Child {
    /// A real process.
    Process(std::process::Child),
    /// A process of a simulated host.
    Simulated(Box<dyn super::simulated::Process>),
}

impl Child {
    /// Returns its PID.
    pub fn id(&self) -> u32 {
        match self {
            Child::Process(child) => child.id(),
            Child::Simulated(child) => child.id(),
        }
    }

    /// How it ended; `None` while it is running.
    pub fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        match self {
            Child::Process(child) => child.try_wait(),
            Child::Simulated(child) => Ok(child.try_wait()),
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        match self {
            Child::Process(child) => {
                if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
            Child::Simulated(child) => child.terminate(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Program<'static> {
        let arguments = vec!["-c".into(), script.into()];
        Program { name: "sh", arguments, folder: Path::new("/"), environment: vec![], without: &[] }
    }

    fn run_for(script: &str, input: Input, limit: u64) -> Result<Ended, RunError> {
        run(Doors::real(), &sh(script), input, Duration::from_secs(limit), &Interrupt::never(), |_, _| {})
    }

    #[test]
    fn a_child_is_heard_line_by_line_and_whole() {
        let mut heard = Vec::new();
        let script = "read word; echo one $word; echo two >&2; printf three; exit 7";
        let input = Input::Text("given\n".into());
        let limit = Duration::from_secs(20);
        let ended = run(Doors::real(), &sh(script), input, limit, &Interrupt::never(), |stream, line| {
            heard.push((stream, line.to_owned()));
        })
        .unwrap();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("one given\nthree", "two\n"));
        assert_eq!(ended.status.code(), Some(7));
        assert!(
            heard.contains(&(Stream::Out, "one given".into()))
                && heard.contains(&(Stream::Error, "two".into()))
        );
        let error = ended.successful(&sh("x")).unwrap_err().to_string();
        assert_eq!(error, "sh -c x failed (exit code 7): two");
    }

    #[test]
    fn h32_what_a_child_printed_is_whole_on_a_busy_machine_too() {
        // A truncated answer looks like an absence: a storage that is not listed, a VM that does not exist.
        struct Done<'a>(&'a std::sync::atomic::AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _done = Done(&done);
            for _ in 0..64 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            // A grandchild keeps the pipes open, so their end cannot show that everything was read.
            for _ in 0..4 {
                let ended =
                    run_for("sleep 4302 & printf 'first\nlast'; printf w >&2; kill $$", Input::Nothing, 60);
                let ended = ended.unwrap();
                let _ = std::process::Command::new("pkill").args(["-f", "^sleep 4302"]).status();
                assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("first\nlast", "w"));
            }
        });
    }

    #[test]
    fn h23_a_child_that_takes_too_long_is_stopped_with_its_children() {
        let error = run_for("trap '' TERM; echo begun; sleep 4301 & wait; sleep 4301", Input::Nothing, 1)
            .unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
        assert!(error.to_string().ends_with("did not finish within 1 s and was stopped: begun"), "{error}");
        let left = std::process::Command::new("pgrep").args(["-f", "^sleep 4301"]).output();
        assert!(left.is_ok_and(|left| left.stdout.is_empty()), "a grandchild stayed");
    }

    #[test]
    fn h23_a_daemon_that_keeps_the_pipes_holds_nobody_up() {
        let ended = run_for("sleep 20 & echo done", Input::Nothing, 15).unwrap();
        assert_eq!(ended.stdout, "done\n");
    }

    #[test]
    fn a_signal_to_us_ends_the_child() {
        let interrupt = Interrupt::never();
        interrupt.request(true);
        let ended = run(
            Doors::real(),
            &sh("sleep 60"),
            Input::Nothing,
            Duration::from_secs(30),
            &interrupt,
            |_, _| {},
        );
        assert!(matches!(ended, Err(RunError::Interrupted(_))));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let program = Program { name: "no-such-tool", ..sh("") };
        let ended = run(
            Doors::real(),
            &program,
            Input::Nothing,
            Duration::from_secs(1),
            &Interrupt::never(),
            |_, _| {},
        );
        let error = ended.unwrap_err().to_string();
        assert_eq!(error, "cannot run no-such-tool: no-such-tool is not installed (not found on PATH)");
    }

    #[test]
    fn last_words_are_bounded_and_on_one_line() {
        let ended = run_for("printf 'ä%.0s' $(seq 3000); echo; echo end", Input::Nothing, 20).unwrap();
        let words = ended.last_words();
        assert!(words.len() <= LAST_WORDS && words.ends_with("ä end"), "{words}");
    }

    #[test]
    fn h30_no_core_dump_is_written() {
        forbid_core_dumps();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
