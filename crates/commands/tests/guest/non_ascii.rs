//! Commands with characters beyond ASCII: two such bytes in a request kill a real guest's agent for everybody (H53).

use crate::support::{command, exec, place, site, vm};
use lab::Lab;
use lab::model::AgentMode;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use provisioner::plan::guest_command::for_guest;
use std::process::{Command, Output, Stdio};

fn qm(lab: &Lab, words: &[&str]) -> (Option<i32>, String) {
    let output = lab.tool("qm").args(words).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn h53_the_lab_is_as_unkind_as_the_node() {
    let lab = site();
    place(&lab, 101, "web-2");
    let run = |text: &str| qm(&lab, &["guest", "exec", "100", "--", "/bin/sh", "-c", text]);
    let ping = |vmid: &str| qm(&lab, &["guest", "cmd", vmid, "ping"]);
    assert_eq!(run("true é").0, Some(0), "one byte too few is the newline");
    let (code, words) = run("echo Grüße");
    assert!(
        code != Some(0) && words.contains("VM 100 qmp command 'guest-exec' failed - got timeout"),
        "{words}"
    );
    for _ in 0..2 {
        let (code, words) = ping("100");
        assert!(code != Some(0) && words.contains("QEMU guest agent is not running"), "{words}");
    }
    assert_ne!(run("true").0, Some(0), "for everybody");
    assert_eq!(ping("101").0, Some(0), "another guest's is well");
    // The agent, or the guest, starts anew.
    lab.control().agent(100, AgentMode::On).unwrap();
    assert_eq!(ping("100").0, Some(0));
    assert_ne!(run("echo €").0, Some(0));
    assert_eq!(qm(&lab, &["stop", "100"]).0, Some(0));
    assert_eq!(qm(&lab, &["start", "100"]).0, Some(0));
    assert_eq!(ping("100").0, Some(0));
}

#[test]
fn h53_a_command_with_any_text_arrives_and_the_agent_lives() {
    let lab = site();
    for (text, printed, code) in [
        ("echo 'Grüße €'", "Grüße €\n", 0),
        ("echo ünï >&1; exit 7", "ünï\n", 7),
        ("printf '%s|' 'a\\b' \"ü'\" '%d' $((1+2)) 100%", "a\\b|ü'|%d|3|100%|", 0),
        ("cat <<E\nä\n\nE\n\n", "ä\n\n", 0),
        ("cat <<'E'\n$HOME `ä` \\303\nE", "$HOME `ä` \\303\n", 0),
        ("echo $0 '日本語 😀'", "/bin/sh 日本語 😀\n", 0),
        ("-ü() { :; }; echo ü", "ü\n", 0),
        ("kill -9 $$ # ü", "", 137),
        ("echo 'ü", "", 2),
    ] {
        let said = exec(&lab, &["--", text]);
        if !text.starts_with('-') {
            assert_eq!((said.code, said.out.as_str()), (Some(code), printed), "{text}: {said:?}");
        }
        exec(&lab, &["true"]).ok();
    }
    let mut input = command(&lab, "blockhost-vm-guest-exec", &["web-1", "--", "cat; echo ü >&2"]);
    let output = input.output().unwrap();
    assert_eq!((output.stdout, output.stderr), (vec![], "ü\n".as_bytes().to_vec()));
    for call in lab.control().calls(0).unwrap() {
        if call.what.contains("guest") {
            // `detail` of a tool is its output, which may be anything.
            let sent =
                if call.kind == "qm" { call.what.clone() } else { format!("{}{}", call.what, call.detail) };
            assert!(sent.is_ascii(), "{call:?}");
        }
    }
    exec(&lab, &[&"ü".repeat(20_000)]).fails(&["could not run the command", "beyond ASCII", "65536"]);
    vm(&lab, "update-gecos", &["web-1", "w", "--nft-id", "1"]).ok();
}

/// What `shell -c text` does.
fn run(shell: &str, text: &str) -> Output {
    let mut command = Command::new(shell);
    command.args(["-c", text]).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    command.output().unwrap_or_else(|error| panic!("{shell}: {error}"))
}

/// Text with everything that shells and printf treat in a way of their own.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => "[a-z0-9 ]{0,4}",
        3 => prop::sample::select(vec![
            "ü", "€", "\u{80}", "\u{ff}", "😀", "'", "\"", "\\", "%", "%s", "\\n", "\\303", "\n", "\n\n", "\t", "\r", "$",
            "$(", ")", "`", "-", "+", "0", "7", ".", "\u{1}", "\u{7f}", "\u{81}", "\u{88}", "\u{1b}", "!", "*", "~", "#",
        ])
        .prop_map(String::from),
        1 => any::<char>().prop_filter("no NUL in an argument", |c| *c != '\0').prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn h53_real_shells_get_exactly_the_text_that_was_meant() {
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    runner
        .run(&text(), |middle| {
            // Sure to need the encoding, and no option.
            let text = format!("ü{middle}");
            let sent = for_guest(&text).unwrap().into_owned();
            prop_assert!(sent.is_ascii());
            let shows = sent.replacen("exec /bin/sh -c ", "printf %s ", 1);
            prop_assert_ne!(&shows, &sent);
            for shell in ["dash", "bash"] {
                let output = run(shell, &shows);
                prop_assert_eq!(output.stdout.as_slice(), text.as_bytes(), "{}: {}", shell, sent);
                prop_assert!(output.stderr.is_empty());
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn h53_an_encoded_command_does_what_the_original_does() {
    let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
    runner
        .run(&(text(), 0u8..=255), |(middle, code)| {
            let quoted = middle.replace('\'', "'\\''");
            // The last one is whatever the text is as a program: a syntax error, words that are no commands.
            for text in [
                format!("printf '%s' 'ü{quoted}'; echo \"$0 $#\" >&2; exit {code}"),
                format!("cat <<'EÖF'\n{middle}\nEÖF\n\n\n"),
                format!("set -f; : ü; exit {code}; {quoted}"),
            ] {
                let sent = for_guest(&text).unwrap();
                let (meant, done) = (run("/bin/sh", &text), run("/bin/sh", &sent));
                prop_assert_eq!(done.status, meant.status, "{}", text);
                prop_assert_eq!(done.stdout, meant.stdout, "{}", text);
                prop_assert_eq!(done.stderr, meant.stderr, "{}", text);
            }
            Ok(())
        })
        .unwrap();
}
