//! How a command ended.

use serde_json::Value;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Output;

/// What a command printed, and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code; `None`: killed by a signal.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Standard output, which must be UTF-8.
    pub out: String,
    /// Standard error, which must be UTF-8.
    pub err: String,
}

impl From<Output> for Ended {
    #[track_caller]
    fn from(output: Output) -> Ended {
        Ended {
            code: output.status.code(),
            signal: output.status.signal(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// This exit code, and no panic. With 0: `list` and `status` answer and end well whatever they find wrong, which they
    /// say on standard error.
    #[track_caller]
    pub fn ends(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// Exit code 0 without an `error:` on standard error.
    #[track_caller]
    pub fn ok(self) -> Ended {
        let ended = self.ends(0);
        assert!(!ended.err.contains("error:"), "{ended:#?}");
        ended
    }

    /// SIGKILL.
    #[track_caller]
    pub fn was_killed(self) -> Ended {
        assert_eq!((self.code, self.signal), (None, Some(9)), "{self:#?}");
        self
    }

    /// The lines of standard error that begin with `error: `.
    fn errors(&self) -> Vec<&str> {
        self.err.lines().filter(|line| line.starts_with("error: ")).collect()
    }

    /// Exit code 1 with exactly one `error: ` line, which is given, and no result on standard output.
    #[track_caller]
    pub fn failed(self) -> String {
        let ended = self.ends(1);
        let errors = ended.errors();
        assert_eq!(errors.len(), 1, "{ended:#?}");
        let result = ended.out.lines().any(|line| line.starts_with('{'));
        assert!(!result, "a failed command printed a result: {ended:#?}");
        errors[0].to_owned()
    }

    /// Exit code 1, nothing on standard output, exactly one `error: ` line, which holds all these words.
    #[track_caller]
    pub fn fails(self, words: &[&str]) -> Ended {
        assert_eq!(self.out, "", "{self:#?}");
        has(&self.clone().failed(), words);
        self
    }

    /// [`Ended::fails`], and nothing else on standard error: the one line is for a person.
    #[track_caller]
    pub fn fails_in_one_line(&self, words: &[&str]) {
        self.ends_in_one_line(1, words);
    }

    /// The same with exit code 2: the arguments themselves are wrong.
    #[track_caller]
    pub fn is_wrong_usage(&self, words: &[&str]) {
        self.ends_in_one_line(2, words);
    }

    #[track_caller]
    fn ends_in_one_line(&self, code: i32, words: &[&str]) {
        let ended = self.clone().ends(code);
        assert_eq!(ended.out, "", "{words:?}: {ended:#?}");
        // On a busy machine one that waits for its turn says so.
        let is_of_a_wait = |line: &&str| line.contains(": waiting for another operation on it");
        let lines: Vec<&str> = ended.err.lines().filter(|line| !is_of_a_wait(line)).collect();
        assert!(lines.len() == 1 && lines[0].starts_with("error: "), "{words:?}: {ended:#?}");
        has(lines[0], words);
    }

    /// Exit code 1 with one `error: ` line or more, for a command that reports on many VMs; one line of standard error
    /// holds all these words.
    #[track_caller]
    pub fn fails_in_part(self, words: &[&str]) -> Ended {
        let ended = self.ends(1);
        assert!(!ended.errors().is_empty(), "{ended:#?}");
        ended.says_in_one_line(words)
    }

    /// Standard error holds all these words.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Ended {
        has(&self.err, words);
        self
    }

    /// One line of standard error holds all these words.
    #[track_caller]
    pub fn says_in_one_line(self, words: &[&str]) -> Ended {
        let found = self.err.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line holds {words:?}: {self:#?}");
        self
    }

    /// The result of a create: its two lines, of which the first is for older callers.
    #[track_caller]
    pub fn result(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:#?}");
        let lines: Vec<&str> = self.out.lines().collect();
        assert_eq!(lines.len(), 2, "{self:#?}");
        assert_eq!(lines[0], format!("BLOCKHOST_RESULT: {}", lines[1]));
        serde_json::from_str(lines[1]).unwrap_or_else(|error| panic!("no result: {error}: {self:#?}"))
    }
}

/// The text holds all these words.
#[track_caller]
pub(crate) fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    fn ended(code: i32, out: &str, err: &str) -> Ended {
        Ended { code: Some(code), signal: None, out: out.into(), err: err.into() }
    }

    #[test]
    fn each_judgement_refuses_what_it_must() {
        type Judge = fn(Ended);
        let judges: [(&str, Judge); 7] = [
            ("ok", |ended| drop(ended.ok())),
            ("failed", |ended| drop(ended.failed())),
            ("fails", |ended| drop(ended.fails(&["why"]))),
            ("fails_in_one_line", |ended| ended.fails_in_one_line(&["why"])),
            ("is_wrong_usage", |ended| ended.is_wrong_usage(&["why"])),
            ("fails_in_part", |ended| drop(ended.fails_in_part(&["why", "web-1"]))),
            ("result", |ended| drop(ended.result())),
        ];
        let error = "error: web-1: why\n";
        let two = format!("{error}{error}");
        for (ended, passes) in [
            (ended(0, "", ""), "ok"),
            (ended(0, "", "a warning\n"), "ok"),
            (ended(0, "", error), ""),
            (ended(0, "BLOCKHOST_RESULT: {}\n{}\n", ""), "ok result"),
            (ended(0, "BLOCKHOST_RESULT: {\"a\":1}\n{}\n", ""), "ok"),
            (ended(0, "{}\n", ""), "ok"),
            (ended(1, "", error), "failed fails fails_in_one_line fails_in_part"),
            (ended(1, "", &format!("a notice\n{error}")), "failed fails fails_in_part"),
            (ended(1, "a report\n", error), "failed fails_in_part"),
            (ended(1, "{}\n", error), "fails_in_part"),
            (ended(1, "", &two), "fails_in_part"),
            (ended(1, "", "error: web-1\nerror: why\n"), ""),
            (ended(1, "", "error: nothing\n"), "failed"),
            (ended(1, "", "why web-1\n"), ""),
            (ended(1, "", &format!("{error}thread 'main' panicked\n")), ""),
            (ended(2, "", error), "is_wrong_usage"),
            (ended(101, "", error), ""),
        ] {
            let passed: Vec<&str> = judges
                .iter()
                .filter(|(_, judge)| catch_unwind(|| judge(ended.clone())).is_ok())
                .map(|(name, _)| *name)
                .collect();
            assert_eq!(passed.join(" "), passes, "{ended:?}");
        }
    }
}
