//! The key pair that the installer's system check requires, and its line in root's `authorized_keys`.
//!
//! Nothing of ours uses the key: the root agent puts snippets on the node. So its line permits nothing (`restrict` and
//! a command that fails), and only root can read the private key (hazard H29). The line that an older package left,
//! which was a root shell for user blockhost, is replaced by this one.

use super::Setup;
use crate::host::Host;
use crate::host::accounts::Account;
use crate::host::doors::Doors;
use crate::host::replace_file::{self, PRIVATE};
use crate::host::run_process::{self, Input, Program};
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const OPTIONS: &str = "restrict,command=\"/bin/false\"";

/// Creates what is missing.
pub(super) fn make(setup: &Setup<'_>) -> anyhow::Result<()> {
    let (private, public) =
        (setup.configuration_file("terraform_ssh_key"), setup.configuration_file("terraform_ssh_key.pub"));
    let root = rustix::process::geteuid().as_raw();
    let owner = Account { uid: root, gid: rustix::process::getegid().as_raw() };
    let complete = crate::host::read_file::text(&public).is_ok_and(|text| blob(&text).is_some())
        && std::fs::metadata(&private).is_ok_and(|data| data.is_file() && data.len() > 0);
    let (key, line) = if complete {
        (crate::host::read_file::bytes(&private)?, crate::host::read_file::text(&public)?)
    } else {
        generate(setup)?
    };
    // Even if both exist: an older package made the private key readable for group blockhost.
    replace_file::replace_as(setup.host.doors, &private, &key, PRIVATE, owner, "ssh-key")?;
    replace_file::replace_as(setup.host.doors, &public, line.as_bytes(), 0o644, owner, "ssh-key-public")?;
    authorize(setup.host.doors, &home_of_root(setup.host), line.trim())
}

fn generate(setup: &Setup<'_>) -> anyhow::Result<(Vec<u8>, String)> {
    let folder = &setup.host.config_dirs[0];
    replace_file::make_folder(setup.host.doors, folder, 0o755)?;
    let temporary = tempfile::Builder::new()
        .prefix(".ssh-key-")
        .tempdir_in(folder)
        .with_context(|| format!("cannot create a directory in {}", folder.display()))?;
    let words = ["-q", "-t", "ed25519", "-N", "", "-C", "blockhost, may do nothing", "-f", "key"];
    let program = Program {
        name: "ssh-keygen",
        arguments: words.iter().map(Into::into).collect(),
        folder: temporary.path(),
        environment: vec![],
        without: &[],
    };
    let limit = Duration::from_secs(30);
    run_process::run(setup.host.doors, &program, Input::Nothing, limit, &setup.host.interrupt, |_, _| {})?
        .successful(&program)?;
    let read = |name: &str| crate::host::read_file::bytes(temporary.path().join(name));
    Ok((read("key")?, String::from_utf8(read("key.pub")?).context("ssh-keygen wrote no text")?))
}

/// Returns the key itself, in base64, from a public key or a line of `authorized_keys`.
fn blob(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    words.find(|word| word.starts_with("ssh-") || word.starts_with("ecdsa-"))?;
    words.next().filter(|word| word.starts_with("AAAA"))
}

/// Returns root's home: the one in the environment if root owns it, which with sudo may not be the case.
fn home_of_root(host: &Host) -> PathBuf {
    let own = rustix::process::geteuid().as_raw();
    let named =
        host.home.as_ref().filter(|home| replace_file::owner_of(home).is_ok_and(|(uid, _)| uid == own));
    named.cloned().unwrap_or_else(|| PathBuf::from("/root"))
}

/// Puts the key into `authorized_keys` with our options, once. On a Proxmox node the file is a link into `/etc/pve`,
/// shared by the cluster: the link stays, and its target is replaced.
fn authorize(doors: Doors, home: &Path, public: &str) -> anyhow::Result<()> {
    let folder = home.join(".ssh");
    replace_file::make_folder(doors, &folder, 0o700)?;
    let link = folder.join("authorized_keys");
    let path = match link.symlink_metadata() {
        Ok(found) if found.is_symlink() => link.canonicalize().with_context(|| {
            format!("{} is a dangling symbolic link (is /etc/pve mounted?)", link.display())
        })?,
        _ => link,
    };
    let old = match crate::host::read_file::text(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let new = with_line(&old, public);
    if new != old {
        replace_file::replace(doors, &path, new.as_bytes(), 0o600, "authorized-keys")?;
    }
    Ok(())
}

fn with_line(old: &str, public: &str) -> String {
    let own = blob(public);
    let mut lines: Vec<&str> = old.lines().filter(|line| own.is_none() || blob(line) != own).collect();
    let line = format!("{OPTIONS} {public}");
    lines.push(&line);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "ssh-ed25519 AAAAC3Nza blockhost, may do nothing";

    #[test]
    fn h29_the_key_may_do_nothing_even_where_it_could_do_all() {
        let old = "# mine\nssh-rsa AAAAB3 me@home\nfrom=\"::1\" ssh-ed25519 AAAAC3Nza old\nssh-ed25519 AAAAC3Nza root shell\n";
        let new = with_line(old, PUBLIC);
        assert_eq!(new, format!("# mine\nssh-rsa AAAAB3 me@home\n{OPTIONS} {PUBLIC}\n"));
        assert_eq!(with_line(&new, PUBLIC), new);
        assert_eq!(with_line("ssh-rsa AAAAB3 x", PUBLIC), format!("ssh-rsa AAAAB3 x\n{OPTIONS} {PUBLIC}\n"));
    }

    #[test]
    fn a_link_into_the_cluster_stays_a_link() {
        let home = tempfile::tempdir().unwrap();
        let shared = home.path().join("shared_keys");
        std::fs::write(&shared, "ssh-rsa AAAAB3 admin\n").unwrap();
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let link = home.path().join(".ssh/authorized_keys");
        std::os::unix::fs::symlink(&shared, &link).unwrap();
        authorize(Doors::real(), home.path(), PUBLIC).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert!(std::fs::read_to_string(&shared).unwrap().ends_with(&format!("{OPTIONS} {PUBLIC}\n")));
        std::fs::remove_file(&shared).unwrap();
        let error = authorize(Doors::real(), home.path(), PUBLIC).unwrap_err().to_string();
        assert!(error.contains("is /etc/pve mounted?"), "{error}");
    }
}
