//! update-gecos with arbitrary bytes: refused as wrong usage, or written exactly.

use crate::support::{add_user, asked, commands_in_guests, passwd_line, read, site, vm};
use lab::Lab;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

#[test]
fn h27_separators_shell_characters_and_options_are_wrong_usage() {
    let lab = site();
    let before = lab.control().last_call().unwrap();
    let long = "a".repeat(129);
    for wallet in [
        "", "a,b", "a:b", "a\nb", "a b", "a\tb", "$(id)", "`id`", "'", "\"", "\\", "a;b", "ä", "-L",
        "--help=x", &long,
    ] {
        let said = vm(&lab, "update-gecos", &["web-1", "--nft-id", "1", "--", wallet]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{wallet:?}: {said:?}");
    }
    for id in
        ["", "-1", "1.0", "1,2", "0x1f", "1:2", "1\n", " 1", "g", "$(id)", &"f".repeat(65), &"1".repeat(79)]
    {
        let said = vm(&lab, "update-gecos", &["web-1", "w", &format!("--nft-id={id}")]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{id:?}: {said:?}");
    }
    for user in ["", "-l", "a b", "a:b", "root\n", "$(id)", "../x", "ä", &"a".repeat(33)] {
        let said = vm(&lab, "update-gecos", &["web-1", "w", "--nft-id=1", &format!("--username={user}")]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{user:?}: {said:?}");
    }
    vm(&lab, "update-gecos", &["web-1", "w"]).ends(2);
    vm(&lab, "update-gecos", &["web-1", "--nft-id", "1"]).ends(2);
    assert_eq!(lab.control().last_call().unwrap(), before, "nobody was asked");
}

/// Bytes of an argument: of the allowed kind, near it, or anything.
fn argument(allowed: &'static str) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => allowed.prop_map(String::into_bytes),
        2 => ("[a-z0-9]{0,3}", "[ -~\n\t]", "[a-z0-9]{0,3}").prop_map(|(a, b, c)| format!("{a}{b}{c}").into_bytes()),
        1 => proptest::collection::vec(1u8..=255, 0..12),
    ]
}

fn joined(flag: &str, value: &[u8]) -> OsString {
    OsString::from_vec([flag.as_bytes(), value].concat())
}

/// One update with these bytes; what it did.
fn one(lab: &Lab, wallet: &[u8], id: &[u8], user: &[u8]) -> Result<bool, TestCaseError> {
    let passwd = lab.path("guests/100/etc/passwd");
    let fits = !user.is_empty()
        && user.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(b));
    let name = String::from_utf8_lossy(user).into_owned();
    if fits && !read(&passwd).lines().any(|line| line.split(':').next() == Some(&name)) {
        add_user(&passwd, &name);
    }
    let (before, ran) = (read(&passwd), commands_in_guests(lab));
    let mut command = lab.command("blockhost-vm-update-gecos");
    command.arg("web-1").arg(joined("--nft-id=", id)).arg(joined("--username=", user));
    command.arg("--").arg(OsString::from_vec(wallet.to_vec()));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(2) => {
            prop_assert_eq!(read(&passwd), before);
            prop_assert_eq!(commands_in_guests(lab), ran, "refused, and nothing ran in the guest");
            Ok(false)
        }
        Some(0) => {
            let id = std::str::from_utf8(id).unwrap();
            let decimal = id.len() != 64 && id.bytes().all(|b| b.is_ascii_digit());
            let id = if decimal {
                id[..id.len() - 1].trim_start_matches('0').to_string() + &id[id.len() - 1..]
            } else {
                id.into()
            };
            let expected = format!("wallet={},nft={id}", std::str::from_utf8(wallet).unwrap());
            let line = passwd_line(lab, 100, &name);
            prop_assert_eq!(line.split(':').nth(4), Some(expected.as_str()));
            let others = |text: &str| {
                text.lines()
                    .filter(|l| !l.starts_with(&format!("{name}:")))
                    .map(String::from)
                    .collect::<Vec<_>>()
            };
            prop_assert_eq!(others(&read(&passwd)), others(&before), "the other accounts");
            Ok(true)
        }
        other => Err(TestCaseError::fail(format!("exit {other:?}: {said}"))),
    }
}

#[test]
fn h27_arbitrary_bytes_are_refused_or_arrive_exactly() {
    let lab = site();
    let mut runner = TestRunner::new(Config { cases: 120, failure_persistence: None, ..Config::default() });
    let accepted = std::cell::Cell::new(0);
    let bytes = (
        argument("[A-Za-z0-9_]{1,128}"),
        argument("[0-9]{1,78}|[0-9a-fA-F]{64}"),
        argument("[a-z_][a-z0-9_-]{0,12}"),
    );
    runner
        .run(&bytes, |(wallet, id, user)| {
            if one(&lab, &wallet, &id, &user)? {
                accepted.set(accepted.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    println!("{} of 120 were allowed and arrived", accepted.get());
    assert!(accepted.get() > 5, "the property was seen on both sides");
    assert!(
        asked(&lab, 0)
            .iter()
            .all(|what| what.starts_with("qm-update-gecos") || what.starts_with("qm-guest-exec"))
    );
}
