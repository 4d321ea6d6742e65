//! guest-exec: exit code, stdout and stderr of the guest's command come out as they are, and its words go in as they
//! are.

use crate::support::{command, exec, site, vm};

fn bytes(lab: &lab::Lab, text: &str) -> (Option<i32>, Vec<u8>, Vec<u8>) {
    let output = command(lab, "blockhost-vm-guest-exec", &["web-1", text]).output().unwrap();
    (output.status.code(), output.stdout, output.stderr)
}

#[test]
fn the_exit_code_is_the_commands() {
    let lab = site();
    for code in [0, 1, 2, 3, 124, 127, 255] {
        let said = exec(&lab, &[&format!("exit {code}")]);
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(code), "", ""));
    }
    assert_eq!(exec(&lab, &["no-such-program"]).ends(127).out, "");
}

#[test]
fn h25_a_signal_is_128_and_its_number() {
    let lab = site();
    // Not HUP: under nohup(1) the lab, and with it its guests' shells, ignores it.
    for (signal, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139), ("USR1", 138)] {
        let said = exec(&lab, &[&format!("echo before; kill -{signal} $$; echo after")]);
        assert_eq!(said.ends(code).out, "before\n", "{signal}");
    }
}

#[test]
fn h25_output_arrives_byte_for_byte_though_it_comes_encoded_twice() {
    let lab = site();
    let (code, out, err) = bytes(&lab, "printf 'é €\\n\\tzwölf'; printf 'Föhler\\r\\n' >&2; exit 7");
    assert_eq!(
        (code, out.as_slice(), err.as_slice()),
        (Some(7), "é €\n\tzwölf".as_bytes(), "Föhler\r\n".as_bytes())
    );
    // What looks like double encoding is what it is.
    assert_eq!(bytes(&lab, "printf 'Ã©'").1, "Ã©".as_bytes());
    // Bytes that are no text: each one alone, all together, on both streams.
    let all: Vec<u8> = (0..=255).collect();
    let escapes: String = all.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let (code, out, err) = bytes(&lab, &format!("printf '{escapes}'; printf '{escapes}' >&2"));
    assert_eq!((code, &out, &err), (Some(0), &all, &all));
    assert_eq!(bytes(&lab, "printf '\\303'").1, [0xc3]);
    assert_eq!(bytes(&lab, "true"), (Some(0), vec![], vec![]));
}

#[test]
fn stderr_has_the_guests_words_and_nothing_of_ours() {
    let lab = site();
    assert_eq!(exec(&lab, &["echo oops >&2"]).err, "oops\n");
    assert_eq!(vm(&lab, "guest-exec", &["--quiet", "web-1", "echo oops >&2; false"]).ends(1).err, "oops\n");
}

#[test]
fn the_words_are_joined_by_blanks_and_options_of_the_command_are_its_own() {
    let lab = site();
    for (arguments, printed) in [
        (&["echo", "a", "b"][..], "a b\n"),
        (&["echo", "a  b"], "a b\n"),
        (&["echo", "'a  b'"], "a  b\n"),
        (&["echo", "\"$((1 + 2))\"", "&&", "echo", "x"], "3\nx\n"),
        (&["echo a; echo b | tr b c"], "a\nc\n"),
        (&["printf '%s.' \"a b\" 'c'"], "a b.c."),
        (&["echo -e -v --quiet --help --timeout 3"], "-e -v --quiet --help --timeout 3\n"),
        // After the command's first word everything belongs to it, with or without a double dash before.
        (&["echo", "--timeout", "3", "-v", "--help", "--", "x"], "--timeout 3 -v --help -- x\n"),
        (&["--", "echo", "--timeout", "3", "--", "x"], "--timeout 3 -- x\n"),
        (&["--timeout", "9", "echo", "--timeout", "3"], "--timeout 3\n"),
        (&["--timeout=9", "--", "echo", "hi"], "hi\n"),
        (&["-q", "echo", "hi"], "hi\n"),
        // A double dash is needed where the command itself begins with a dash, and then that is all it takes.
        (&["--", "-x() { echo odd; }; echo even"], ""),
        (&["--", "--", "x"], ""),
        (&["echo", "a\nb"], "a\n"),
        (&["echo '${HOME}' '$(id)' '`id`' '\\'"], "${HOME} $(id) `id` \\\n"),
        (&["echo", "ünï"], "ünï\n"),
    ] {
        let said = exec(&lab, arguments);
        assert_eq!(said.out, printed, "{arguments:?}: {said:?}");
        let expected = if printed.is_empty() || arguments.contains(&"a\nb") { 127 } else { 0 };
        // dash says 2 for a syntax error.
        assert!(
            said.code == Some(expected) || (printed.is_empty() && said.code == Some(2)),
            "{arguments:?}: {said:?}"
        );
    }
    let said = vm(&lab, "guest-exec", &["--timeout", "9", "web-1", "echo", "before the name"]);
    assert_eq!(said.ok().out, "before the name\n");
}

#[test]
fn a_command_that_begins_with_a_dash_is_a_command() {
    let lab = site();
    for text in ["-x", "+e", "-c true"] {
        let said = exec(&lab, &["--", text]).ends(127);
        assert!(said.err.contains("not found"), "{text}: {said:?}");
    }
}

#[test]
fn wrong_usage_is_2_and_asks_nobody() {
    let lab = site();
    let before = lab.control().last_call().unwrap();
    for arguments in [
        &[][..],
        &["--timeout", "0", "true"],
        &["--timeout", "3601", "true"],
        &["--timeout", "x", "true"],
        &["--timeot", "5", "true"],
        &["-z", "true"],
    ] {
        let said = exec(&lab, arguments);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{arguments:?}: {said:?}");
    }
    vm(&lab, "guest-exec", &["../web-1", "true"]).ends(2);
    assert_eq!(lab.control().last_call().unwrap(), before);
    // What is no command is refused by the root agent.
    exec(&lab, &["  "]).fails(&["VM web-1 (VMID 100)", "could not run the command", "1 to 65536 bytes"]);
    exec(&lab, &[&"x".repeat(70_000)]).fails(&["could not run the command", "1 to 65536 bytes"]);
}

#[test]
fn big_output_is_bounded_and_said() {
    const MIB: usize = 1 << 20;
    let lab = site();
    let (code, out, err) = bytes(&lab, "yes 1234567 | head -c 1048576; echo x >&2; exit 3");
    assert_eq!((code, out.len(), err.as_slice()), (Some(3), MIB, &b"x\n"[..]), "just fits");
    for (what, source, size) in [
        // More would take the lab, on a busy machine, longer than the root agent waits for a tool.
        ("text", "yes ab12345", 1_200_000),
        ("two-byte letters", "yes ääää", 1_200_000),
        ("zeros", "cat /dev/zero", 1_200_000),
    ] {
        let text = format!("{source} | head -c {size}; {source} | head -c {size} >&2; exit 5");
        let (code, out, err) = bytes(&lab, &text);
        assert!(err.len() > MIB, "{what}: {}", String::from_utf8_lossy(&err));
        let tail = String::from_utf8_lossy(&err[MIB..]).into_owned();
        println!(
            "{what}: of {size} bytes on each stream {} and {} arrived",
            out.len(),
            err.len() - tail.len()
        );
        assert_eq!((code, out.len()), (Some(5), MIB), "{what}");
        assert_eq!(tail, "warning: VM web-1: the command's output was too long and is cut\n", "{what}");
    }
}
