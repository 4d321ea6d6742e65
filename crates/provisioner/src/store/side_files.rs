//! What create reads beside db.yaml: network modes, the format of one-time passwords, the engine's format of a wallet,
//! name servers.

use super::document::Document;
use super::settings::Settings;
use crate::host::Host;
use crate::value::text::PlainName;
use crate::value::wallet::WalletAddress;
use anyhow::Context;
use std::net::IpAddr;

/// Returns the mode of the network plugins, which is written into each new record: the chosen one, or the only entry of
/// `network-modes.enabled`.
pub fn network_mode(host: &Host, chosen: Option<&PlainName>) -> anyhow::Result<Option<String>> {
    let folder = host.config_file("network-modes.enabled");
    if !folder.exists() {
        return match chosen {
            None => Ok(None),
            Some(mode) => {
                anyhow::bail!("network mode {mode} is not enabled: {} does not exist", folder.display())
            }
        };
    }
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut modes: Vec<String> = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let name = entry.file_name();
        if let Some(mode) = name.to_str().and_then(|n| n.strip_suffix(".json")) {
            // The dispatcher of network modes also refuses a dangling link, but only once the VM exists.
            anyhow::ensure!(
                entry.path().exists(),
                "network mode {mode} is not enabled: {} is a dangling link; enable the mode again or remove the link",
                entry.path().display()
            );
            modes.push(mode.to_string());
        }
    }
    modes.sort();
    let place = folder.display();
    match (chosen, modes.as_slice()) {
        (Some(mode), _) if modes.iter().any(|m| m == mode.as_str()) => Ok(Some(mode.to_string())),
        (Some(mode), _) => {
            anyhow::bail!("network mode {mode} is not enabled; {place} has: {}", modes.join(", "))
        }
        (None, [one]) => Ok(Some(PlainName::parse(one).with_context(|| place.to_string())?.to_string())),
        (None, []) => anyhow::bail!("no network mode is enabled: {place} is empty"),
        (None, several) => anyhow::bail!(
            "several network modes are enabled in {place} ({}); choose one with --network-mode NAME",
            several.join(", ")
        ),
    }
}

/// Reads the settings of one-time passwords from web3-defaults.yaml: length in characters and lifetime in seconds.
pub fn one_time_password(host: &Host) -> anyhow::Result<(u64, u64)> {
    let path = host.config_file("web3-defaults.yaml");
    if !path.exists() {
        return Ok((6, 300));
    }
    let doc = Document::read_yaml(&path)?;
    let length = doc.integer("auth.otp_length", 4, 64)?.unwrap_or(6);
    let ttl = doc.integer("auth.otp_ttl_seconds", 1, 86_400)?.unwrap_or(300);
    Ok((length, ttl))
}

/// Checks a wallet against the pattern of the chain in use (`constraints.address_pattern` of engine.json).
pub fn check_wallet(host: &Host, wallet: &WalletAddress) -> anyhow::Result<()> {
    let path = host.share_dir.join("engine.json");
    if !path.exists() {
        return Ok(());
    }
    let doc = Document::read_json(&path)?;
    let Some(pattern) = doc.text("constraints.address_pattern")? else {
        return Ok(());
    };
    let regex = regex_lite::Regex::new(&pattern).map_err(|error| {
        anyhow::anyhow!(
            "{}: constraints.address_pattern {pattern:?} is not a usable regular expression: {error}",
            path.display()
        )
    })?;
    // The pattern of all Ethereum-like chains, which can be put into words.
    let form = match pattern.as_str() {
        "^0x[0-9a-fA-F]{40}$" => "expected 0x and 40 hexadecimal digits".to_string(),
        other => format!("it does not match {other}"),
    };
    anyhow::ensure!(
        regex.is_match(wallet.as_str()),
        "wallet address {wallet} is not a valid address for this engine: {form} (constraints.address_pattern of {})",
        path.display()
    );
    Ok(())
}

/// Returns the name servers in a `resolv.conf` that a guest can reach: none on loopback, and none that exist on a
/// single link of the host only (H37, H61). At most three, because Proxmox accepts no more.
pub fn host_name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let of_the_link_only = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .map(|ip| ip.to_canonical())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !of_the_link_only(ip))
        .take(3)
        .collect()
}

/// Returns the name servers of new guests: those in db.yaml, otherwise the host's, otherwise those behind the host's
/// resolver on loopback. A guest without any would get the node's own resolver from Proxmox, again at each start.
///
/// # Errors
/// No name servers are found.
pub fn name_servers(settings: &Settings) -> anyhow::Result<Vec<IpAddr>> {
    const HOST: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    let named = settings.dns_servers.clone().filter(|list| !list.is_empty());
    let found = named.or_else(|| {
        HOST.iter()
            .map(|path| host_name_servers(&crate::host::read_file::text(path).unwrap_or_default()))
            .find(|list| !list.is_empty())
    });
    found.ok_or_else(|| {
        anyhow::anyhow!(
            "no name server for the guest: {} names none that a guest can reach (only loopback or link-local ones); set dns_servers in db.yaml",
            HOST[0]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h37_loopback_name_servers_are_left_out() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\nnameserver bad\noptions edns0\n";
        assert_eq!(host_name_servers(text), ["192.0.2.53".parse::<IpAddr>().unwrap()]);
        let none = "nameserver 127.0.0.1\nnameserver fe80::1%vmbr0\nnameserver fe80::1\nnameserver 169.254.1.1\nnameserver ::ffff:127.0.0.53\nsearch a\n";
        assert!(host_name_servers(none).is_empty(), "H61");
    }
}
