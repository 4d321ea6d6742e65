//! A test that is killed in the middle: a lab with a guest in which a command runs. `crates/lab/tests/harness.rs` kills
//! it and looks whether anything is left.
#![allow(clippy::unwrap_used, reason = "what cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "it stands for a test")]

use lab::Lab;
use std::time::Duration;

fn main() {
    let lab = Lab::builder().no_terraform().start().unwrap();
    for line in ["qm clone 9001 100", "qm start 100", "qm guest exec 100 --synchronous 0 -- sleep 600"] {
        let words: Vec<&str> = line.split(' ').collect();
        let done = lab.tool(words[0]).args(&words[1..]).output().unwrap();
        assert!(done.status.success(), "{line}: {done:?}");
    }
    println!("lab in {}", lab.dir().display());
    std::thread::sleep(Duration::from_secs(60));
}
