//! The stand-ins inside a guest: programs that would change a machine work on the guest's own folder instead.
//!
//! They run as processes of their own, called by the guest's commands, and find the folder in `LAB_GUEST_ROOT`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::client::ask;
use crate::node::files::replace;

/// Runs a stand-in.
///
/// # Errors
/// No guest folder, or it cannot be read.
pub(crate) fn run(name: &str, argv: &[String]) -> anyhow::Result<ExitCode> {
    let root = PathBuf::from(
        std::env::var_os("LAB_GUEST_ROOT").context("LAB_GUEST_ROOT is not set: not inside a guest")?,
    );
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let (code, stdout, stderr) = match name {
        "usermod" => usermod(&root, &words)?,
        "getent" => getent(&root, &words)?,
        "hostname" => (0, std::fs::read_to_string(root.join("etc/hostname"))?, String::new()),
        "hostnamectl" => (0, String::new(), String::new()),
        "poweroff" | "shutdown" => power_off(&root)?,
        // The machine stays, and so do its taps.
        "reboot" => (0, String::new(), String::new()),
        other => bail!("there is no stand-in {other}"),
    };
    let _ = std::io::stdout().write_all(stdout.as_bytes());
    let _ = std::io::stderr().write_all(stderr.as_bytes());
    Ok(ExitCode::from(code))
}

type Done = (u8, String, String);

/// `usermod -c TEXT USER`, with shadow's messages and codes.
fn usermod(root: &Path, words: &[&str]) -> anyhow::Result<Done> {
    let mut comment = None;
    let mut user = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-c" | "--comment" => comment = words.next().copied(),
            "--" => {}
            word if word.starts_with("--comment=") => comment = word.strip_prefix("--comment="),
            word if word.starts_with('-') => {
                return Ok((
                    2,
                    String::new(),
                    format!("usermod: invalid option -- '{}'\n", word.trim_start_matches('-')),
                ));
            }
            word => user = Some(word),
        }
    }
    let Some((comment, user)) = comment.zip(user) else {
        return Ok((2, String::new(), "Usage: usermod [options] LOGIN\n".into()));
    };
    if comment.contains([':', '\n']) {
        return Ok((3, String::new(), format!("usermod: invalid field '{comment}'\n")));
    }
    let path = root.join("etc/passwd");
    let text = std::fs::read_to_string(&path)?;
    let mut found = false;
    let changed: String = text
        .lines()
        .map(|line| {
            let mut fields: Vec<&str> = line.split(':').collect();
            if fields.len() == 7 && fields[0] == user {
                found = true;
                fields[4] = comment;
            }
            format!("{}\n", fields.join(":"))
        })
        .collect();
    if !found {
        return Ok((6, String::new(), format!("usermod: user '{user}' does not exist\n")));
    }
    replace(&path, changed.as_bytes());
    Ok((0, String::new(), String::new()))
}

fn getent(root: &Path, words: &[&str]) -> anyhow::Result<Done> {
    let text = std::fs::read_to_string(root.join("etc/passwd"))?;
    match words {
        ["passwd"] => Ok((0, text, String::new())),
        ["passwd", users @ ..] => {
            let lines: Vec<&str> =
                text.lines().filter(|line| users.contains(&line.split(':').next().unwrap_or(""))).collect();
            let code = if lines.len() == users.len() { 0 } else { 2 };
            Ok((code, lines.iter().map(|line| format!("{line}\n")).collect(), String::new()))
        }
        _ => Ok((1, String::new(), "Unknown database\n".into())),
    }
}

fn power_off(root: &Path) -> anyhow::Result<Done> {
    let vmid: u32 = root.file_name().and_then(|name| name.to_str()).unwrap_or("").parse()?;
    let dir = root.parent().and_then(Path::parent).context("the guest's folder is not in a lab")?;
    ask(dir, &json!({"op": "power", "vmid": vmid, "power": "stopped"}))?;
    Ok((0, String::new(), String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usermod_changes_one_field_of_one_line() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let path = root.path().join("etc/passwd");
        std::fs::write(&path, "root:x:0:0:root:/root:/bin/bash\nadmin:x:1000:1000::/home/admin:/bin/bash\n")
            .unwrap();
        assert_eq!(usermod(root.path(), &["-c", "wallet=0x1,nft=2", "admin"]).unwrap().0, 0);
        assert_eq!(usermod(root.path(), &["-c", "x", "nobody"]).unwrap().0, 6);
        assert_eq!(usermod(root.path(), &["-c", "a:b", "admin"]).unwrap().0, 3);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "root:x:0:0:root:/root:/bin/bash\nadmin:x:1000:1000:wallet=0x1,nft=2:/home/admin:/bin/bash\n"
        );
        assert_eq!(getent(root.path(), &["passwd", "admin"]).unwrap().0, 0);
        assert_eq!(getent(root.path(), &["passwd", "nobody"]).unwrap().0, 2);
    }
}
