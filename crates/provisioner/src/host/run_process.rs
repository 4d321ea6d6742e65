//! The door for child processes. No shell, ever: a program and its arguments.

use super::failpoint;
use super::replace_file::{are_root, owner_of};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// A program to be started; never printed with `{:?}`, which would show its environment.
pub struct Program<'a> {
    /// Name, looked up on PATH.
    pub name: &'a str,
    /// Arguments, without secrets: every local user can read them.
    pub arguments: Vec<OsString>,
    /// Working folder.
    pub folder: &'a Path,
    /// Variables added to our own environment.
    pub environment: Vec<(&'static str, OsString)>,
    /// Variables whose names begin with one of these are not passed on.
    pub without: &'a [&'a str],
}

/// A child that goes on when we are killed: it has a process group of its own, writes to a file, and holds
/// `lock` as its standard input until it and its own children have ended.
///
/// Run by root, the child becomes the owner of its working folder, so that what it writes stays usable for
/// user blockhost and nothing in that folder runs with root's rights.
pub fn spawn_outliving(program: &Program<'_>, output: &Path, lock: File) -> std::io::Result<Child> {
    #[cfg(debug_assertions)]
    if let Some(machine) = super::simulated::machine() {
        failpoint::reached(&format!("spawn.{}", program.name))?;
        return machine.spawn(program, output, lock).map(Child::Simulated);
    }
    #[allow(clippy::disallowed_methods, reason = "the log of a child, emptied for each run")]
    let log = File::create(output)?;
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
    failpoint::reached(&format!("spawn.{}", program.name))?;
    command.spawn().map(Child::Process)
}

#[allow(clippy::disallowed_methods, reason = "this is the room that starts processes")]
fn start(program: &Program<'_>) -> std::io::Result<Command> {
    let executable = find(program.name).ok_or_else(|| {
        std::io::Error::other(format!("{} is not installed (not found on PATH)", program.name))
    })?;
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

/// No core dump of ours or of a child of ours: it would hold the token and cloud-init text (hazard H30).
pub fn forbid_core_dumps() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // Lowering a limit needs no right; a system that refuses all the same writes none by default.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

/// The executable called `name` on PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|candidate| {
        rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file()
    })
}

/// A child process that was started here.
pub enum Child {
    /// A process of this machine.
    Process(std::process::Child),
    /// One of a simulated machine.
    #[cfg(debug_assertions)]
    Simulated(Box<dyn super::simulated::Process>),
}

impl Child {
    /// Its PID.
    pub fn id(&self) -> u32 {
        match self {
            Child::Process(child) => child.id(),
            #[cfg(debug_assertions)]
            Child::Simulated(child) => child.id(),
        }
    }

    /// How it ended; `None` while it runs.
    pub fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        match self {
            Child::Process(child) => child.try_wait(),
            #[cfg(debug_assertions)]
            Child::Simulated(child) => Ok(child.try_wait()),
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        match self {
            Child::Process(child) => {
                if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
            #[cfg(debug_assertions)]
            Child::Simulated(child) => child.terminate(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h30_no_core_dump_is_written() {
        forbid_core_dumps();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
