//! A pager for a person at a terminal, safe also where root runs us: no shell, no commands of the pager's own, nothing of
//! root's environment (`systemctl` and `git` have learned the same).
//!
//! By then root has become user blockhost ([`super::rights`]), and so is the pager. What root's environment says came perhaps
//! from somebody else by sudo, so there only `less` of the system is used.

use super::Host;
use super::replace_file;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where root's pager may be.
const SYSTEM: [&str; 2] = ["/usr/bin/less", "/bin/less"];
/// Quits where all fits on the screen, does not clear it, and shows control characters as such.
const OPTIONS: &str = "FX";

/// A pager that was started; what is written to it is shown.
pub struct Pager(Child);

impl Pager {
    /// The user's pager; `None` where there is none, or the user wants none (`PAGER=cat`).
    pub fn start(host: &Host) -> Option<Pager> {
        let is_root = host.brought.is_some() || replace_file::are_root();
        let (program, arguments) = match is_root {
            true => (SYSTEM.map(PathBuf::from).into_iter().find(|path| path.exists())?, Vec::new()),
            false => chosen(std::env::var_os("PAGER"))?,
        };
        #[allow(
            clippy::disallowed_methods,
            reason = "it owns the terminal, has no deadline, and writes nowhere else"
        )]
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped());
        if is_root {
            let kept = [
                ("TERM", std::env::var_os("TERM")),
                ("LANG", std::env::var_os("LANG")),
                ("LC_ALL", std::env::var_os("LC_ALL")),
                ("LC_CTYPE", std::env::var_os("LC_CTYPE")),
            ];
            command.env_clear();
            command.envs(kept.into_iter().filter_map(|(name, value)| Some((name, value?))));
            command.env("PATH", "/usr/bin:/bin").current_dir("/");
        }
        if is_root || std::env::var_os("LESS").is_none() {
            command.env("LESS", OPTIONS);
        }
        // No `!command`, no `v` editor, no file of its history.
        command.env("LESSSECURE", "1").env("LESSHISTFILE", "-");
        match command.spawn() {
            Ok(child) => Some(Pager(child)),
            Err(error) => {
                tracing::debug!("cannot start the pager: {error}");
                None
            }
        }
    }

    /// Waits until the person has seen enough.
    pub fn finish(mut self) -> io::Result<()> {
        drop(self.0.stdin.take());
        self.0.wait().map(drop)
    }
}

impl Write for Pager {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0.stdin {
            Some(pipe) => pipe.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.stdin.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// The words of `PAGER`, or `less` where it is not set. No shell reads them.
fn chosen(pager: Option<OsString>) -> Option<(PathBuf, Vec<String>)> {
    let Some(pager) = pager.filter(|pager| !pager.is_empty()) else {
        let known = SYSTEM.map(PathBuf::from).into_iter().find(|path| path.exists());
        return known.map(|path| (path, Vec::new()));
    };
    let pager = pager.into_string().ok()?;
    let mut words = pager.split_whitespace().map(str::to_string);
    let program =
        words.next().filter(|program| Path::new(program).file_name().is_some_and(|name| name != "cat"))?;
    Some((PathBuf::from(program), words.collect()))
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn the_words_of_a_pager_are_words_and_no_commands() {
        let chosen =
            |text: &str| chosen(Some(text.into())).map(|(path, words)| (path.display().to_string(), words));
        assert_eq!(chosen("most -s"), Some(("most".into(), vec!["-s".into()])));
        assert_eq!(chosen("less; id"), Some(("less;".into(), vec!["id".into()])), "which is no program");
        for none in ["cat", "/bin/cat", " ", "/"] {
            assert_eq!(chosen(none), None, "{none:?}");
        }
    }
}
