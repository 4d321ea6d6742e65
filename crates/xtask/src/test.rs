//! `cargo xtask test`: all that CI runs, each part also after an earlier one has failed.

use crate::python;
use crate::sh::{cargo, command, root, shown, shown_and_read};
use std::process::Command;

#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// A part that passes or fails as one.
    fn part(&mut self, name: &str, result: anyhow::Result<bool>) -> bool {
        let good = match result {
            Ok(good) => good,
            Err(error) => {
                println!("{error:#}");
                false
            }
        };
        println!("==> {name}: {}", if good { "passed" } else { "FAILED" });
        *(if good { &mut self.passed } else { &mut self.failed }) += 1;
        good
    }
}

/// Runs everything; whether nothing failed.
pub fn run() -> anyhow::Result<bool> {
    let mut tally = Tally::default();
    tally.part("rustfmt", shown(cargo(&["fmt", "--all", "--check"])));
    tally.part(
        "clippy",
        shown(cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])),
    );
    // The lab starts the commands, the node and the provider from target/: they must be there and current.
    if tally.part("build", shown(cargo(&["build", "--workspace", "--quiet"]))) {
        rust_tests(&mut tally)?;
    }
    match python::environment() {
        Ok(venv) => {
            let scripts = shell_scripts()?;
            let mut shellcheck = command(venv.join("bin/shellcheck"), &["--severity=style"]);
            shellcheck.args(&scripts);
            tally.part("shellcheck", shown(shellcheck));
            python_tests(
                &mut tally,
                command(venv.join("bin/python"), &["-m", "pytest", "-q", "tests/python"]),
            )?;
        }
        Err(error) => {
            tally.part("Python environment", Err(error));
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

fn rust_tests(tally: &mut Tally) -> anyhow::Result<()> {
    let (mut passed, mut failed) = (0, 0);
    let test = cargo(&["test", "--workspace", "--no-fail-fast"]);
    let good = shown_and_read(test, |line| {
        if let Some((p, f)) = result_of(line) {
            passed += p;
            failed += f;
        }
    })?;
    tally.passed += passed;
    // A test binary that could not be built or was killed has no result line.
    tally.failed += if good { failed } else { failed.max(1) };
    Ok(())
}

/// `test result: ok. 12 passed; 0 failed; …`
fn result_of(line: &str) -> Option<(u64, u64)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| counts.split("; ").find_map(|part| part.strip_suffix(word)?.trim().parse().ok());
    Some((count(" passed")?, count(" failed")?))
}

fn python_tests(tally: &mut Tally, pytest: Command) -> anyhow::Result<()> {
    let (mut passed, mut failed) = (0, 0);
    let good = shown_and_read(pytest, |line| {
        let count = |word: &str| -> u64 {
            let words: Vec<&str> = line.split_whitespace().collect();
            words
                .windows(2)
                .find(|w| w[1].trim_end_matches(',') == word)
                .and_then(|w| w[0].parse().ok())
                .unwrap_or(0)
        };
        if line.contains(" in ")
            && (line.contains("passed") || line.contains("failed") || line.contains("error"))
        {
            passed = count("passed");
            failed = count("failed") + count("error") + count("errors");
        }
    })?;
    tally.passed += passed;
    tally.failed += if good { failed } else { failed.max(1) };
    Ok(())
}

/// Every shell script of the tree: by its ending or its first line.
fn shell_scripts() -> anyhow::Result<Vec<String>> {
    let listed = command("git", &["ls-files", "--cached", "--others", "--exclude-standard"]).output()?;
    let mut scripts = Vec::new();
    for path in String::from_utf8_lossy(&listed.stdout).lines() {
        let Ok(text) = std::fs::read(root().join(path)) else {
            continue;
        };
        let first = text.split(|b| *b == b'\n').next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        if first.starts_with("#!") && (first.ends_with("sh") || first.contains("sh -")) {
            scripts.push(path.to_string());
        }
    }
    Ok(scripts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";
        assert_eq!(result_of(line), Some((12, 3)));
        assert_eq!(result_of("test result: nonsense"), None);
        assert_eq!(result_of("running 3 tests"), None);
    }
}
