//! Commands on a terminal: a pseudo-terminal of util-linux's `script`.

use crate::Ended;
use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs a command on a terminal, with `typed` as what somebody types; both of its streams are in `out`, with plain line
/// ends. Environment and folder are the command's.
#[track_caller]
pub fn on_terminal(command: &Command, typed: &str) -> Ended {
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    let line = words.collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--echo", "never", "--command", &line, "/dev/null"]);
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => script.env(key, value),
            None => script.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        script.current_dir(folder);
    }
    let mut child =
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may have ended without reading.
    let _ = input.write_all(typed.as_bytes());
    let ended = Ended::from(child.wait_with_output().unwrap());
    drop(input);
    Ended { out: ended.out.replace("\r\n", "\n"), ..ended }
}

fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_sees_a_terminal_its_arguments_and_what_is_typed() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "test -t 0 && test -t 1 && echo \"$1 $WORD\" && read answer && echo got $answer; exit 3",
            "sh",
            "it's",
        ]);
        command.env("WORD", "here");
        let ended = on_terminal(&command, "yes\n");
        assert_eq!((ended.code, ended.out.as_str()), (Some(3), "it's here\ngot yes\n"));
    }
}
