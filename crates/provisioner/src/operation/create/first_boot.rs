//! What a guest finds at its first boot: the source of its user-data, its user's keys, its signing key.

use super::Request;
use crate::host::Host;
use crate::host::read_file::{text, text_for_people};
use crate::host::rights::PUBLIC_KEYS;
use crate::plan::cloud_init;
use crate::plan::create_vm::UserData;
use crate::value::text::PlainName;
use crate::value::token::Secret;
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// The template for VMs with wallet login.
const WALLET_LOGIN: &str = "nft-auth";

/// No template has this name.
#[derive(Debug, thiserror::Error)]
#[error("no cloud-init template {name}; available: {others}")]
pub struct NoTemplate {
    /// The requested name.
    pub name: PlainName,
    others: String,
}

/// Returns the source of the VM's user-data: the requested file or template, the template for wallet login, or Proxmox.
/// A missing template is a [`NoTemplate`].
pub fn user_data(host: &Host, request: &Request) -> anyhow::Result<UserData> {
    if let Some(path) = &request.cloud_init_content {
        let text = content_of(host, path)?;
        cloud_init::check(&text).with_context(|| format!("{}: not a usable cloud-config", path.display()))?;
        return Ok(UserData::AsIs(Secret::new(text)));
    }
    let name = match (&request.cloud_init_template, request.no_web3) {
        (Some(template), _) => template.clone(),
        (None, true) => return Ok(UserData::Proxmox),
        (None, false) => PlainName::parse(WALLET_LOGIN)?,
    };
    let mut folders = vec![host.share_dir.join("cloud-init/templates")];
    if host.dev {
        folders.push(PathBuf::from("cloud-init/templates"));
    }
    let path = folders.iter().map(|dir| dir.join(format!("{name}.yaml"))).find(|path| path.is_file());
    match path {
        Some(path) => Ok(UserData::Template { text: text_for_people(&path)?, name }),
        None => Err(NoTemplate { name, others: template_names(&folders) }.into()),
    }
}

/// Returns the content of a file that the caller named; if root called, it was read with root privileges.
fn content_of(host: &Host, path: &Path) -> anyhow::Result<String> {
    let brought = host.brought.iter().flat_map(|brought| &brought.files).find(|(at, _)| at == path);
    match brought {
        Some((_, Ok(text))) => Ok(text.clone()),
        Some((_, Err(why))) => anyhow::bail!("cannot read {}: {why}", path.display()),
        None => text_for_people(path),
    }
}

fn template_names(folders: &[PathBuf]) -> String {
    let files = folders.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let mut names: Vec<String> = files
        .filter_map(|f| f.file_name().to_str().and_then(|n| n.strip_suffix(".yaml")).map(str::to_string))
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() { format!("none ({})", folders[0].display()) } else { names.join(", ") }
}

/// Returns the caller's public keys. The comment is kept only if it is harmless in YAML.
pub fn ssh_keys(host: &Host) -> Vec<String> {
    let Some(home) = &host.home else {
        return Vec::new();
    };
    let texts = match &host.brought {
        Some(brought) => brought.public_keys.clone(),
        None => {
            let files = PUBLIC_KEYS.map(|file| home.join(".ssh").join(file));
            files.iter().filter_map(|file| text(file).ok()).collect()
        }
    };
    texts.iter().filter_map(|text| public_key(text)).collect()
}

/// Reports that there are no keys. As users log in by wallet, and nobody reads a warning that comes with every create,
/// it is a warning only where a key would be the `only_way_in`.
pub fn tell_of_no_keys(host: &Host, only_way_in: bool) {
    let Some(home) = &host.home else {
        return;
    };
    let whose = if host.brought.is_some() { "root's home".into() } else { home.display().to_string() };
    let files = PUBLIC_KEYS.join(", ");
    let text =
        format!("no SSH key found in {whose}/.ssh ({files}): SSH login with a key will not work in this VM");
    if only_way_in {
        tracing::warn!("{text}");
    } else {
        tracing::debug!("{text}");
    }
}

/// Parses `type base64 [comment]` in the first line; `None` for anything else.
fn public_key(text: &str) -> Option<String> {
    let mut words = text.lines().next()?.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let plain = |word: &str, more: &[char]| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
    };
    // A private key in the wrong file does not count.
    let is_key = ["ssh-", "ecdsa-", "sk-"].iter().any(|family| kind.starts_with(family));
    if !is_key || !plain(kind, &['-', '@', '.']) || !plain(key, &['+', '/', '=']) {
        return None;
    }
    let comment = words.next().filter(|word| plain(word, &['-', '@', '.', '_']));
    Some(comment.map_or_else(|| format!("{kind} {key}"), |comment| format!("{kind} {key} {comment}")))
}

/// Generates a guest's signing key: 32 random bytes in hexadecimal.
pub fn signing_key() -> anyhow::Result<Secret> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no random numbers from the system: {e}"))?;
    Ok(Secret::new(random.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h27_public_keys_are_taken_apart() {
        assert_eq!(public_key("ssh-ed25519 AAAA+/= me@host\n"), Some("ssh-ed25519 AAAA+/= me@host".into()));
        assert_eq!(
            public_key("ssh-ed25519 AAAA a: b\n"),
            Some("ssh-ed25519 AAAA".into()),
            "a comment that YAML would read is dropped"
        );
        assert_eq!(public_key("ssh-ed25519 AA\u{7f}A x"), None);
        assert_eq!(public_key("${file(\"/etc/shadow\")} x"), None);
        assert_eq!(public_key("-----BEGIN OPENSSH PRIVATE KEY-----\n"), None);
        assert_eq!(public_key(""), None);
    }
}
