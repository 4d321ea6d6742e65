//! Prometheus' own judge of its text format.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Fails where the judge, which `tests/packages.sh` puts into `target/`, has anything to say.
#[track_caller]
pub fn promtool(text: &str) {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/promtool");
    let program = if fetched.exists() { fetched.as_path() } else { Path::new("promtool") };
    let mut command = Command::new(program);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    let mut child =
        child.unwrap_or_else(|error| panic!("promtool: {error}; tests/packages.sh fetches it, as root"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let judged = child.wait_with_output().unwrap();
    // Its advice stands on stderr, with exit code 0 or not.
    let words = String::from_utf8_lossy(&judged.stderr).into_owned();
    assert!(judged.status.success() && words.is_empty(), "{words}");
}
