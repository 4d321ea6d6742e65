//! What runs inside a guest: cloud-init's work at the first start, the passwd file, the host name, the addresses.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::guest::Guest;
use super::refusal::{Outcome, Refusal};

/// The guest's operating system as far as anybody asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct GuestSystem {
    /// The guest's folder `D/guests/<vmid>`, once it was started.
    pub root: Option<PathBuf>,
    pub hostname: String,
    /// The instance-id cloud-init worked for last.
    pub instance_id: String,
    pub cloud_init_runs: u32,
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n";

impl GuestSystem {
    /// The text of the guest's passwd file; empty before the first start.
    pub fn passwd(&self) -> String {
        self.root
            .as_ref()
            .and_then(|root| fs::read_to_string(root.join("etc/passwd")).ok())
            .unwrap_or_default()
    }
}

/// Where the host asks for names. A guest whose configuration says nothing about that gets it at each start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub server: String,
    pub domain: String,
}

impl Resolver {
    /// What a guest gets: its own part by part, else the host's.
    fn of(guest: &Guest, host: &Self) -> Self {
        let own = |key: &str, host: &str| guest.get(key).unwrap_or(host).to_owned();
        Self { server: own("nameserver", &host.server), domain: own("searchdomain", &host.domain) }
    }

    fn file(&self) -> String {
        let servers = self.server.split_whitespace().map(|server| format!("nameserver {server}\n"));
        let domain = self.domain.split_whitespace().collect::<Vec<_>>().join(" ");
        let search = if domain.is_empty() { String::new() } else { format!("search {domain}\n") };
        servers.chain([search]).collect()
    }
}

/// The cloud-init data of one start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloudInit {
    /// None where the network configuration is a file of somebody's.
    resolver: Option<Resolver>,
    user: String,
    instance_id: String,
    hostname: Option<String>,
}

/// Makes what the cloud-init ISO would hold; `None` without a cloud-init drive.
///
/// A replaced part is used whole: with `user=` neither ciuser nor sshkeys nor the name reach the guest. The
/// instance-id is a hash of user-data and network-config unless `meta=` fixes one.
///
/// # Errors
/// A snippet is missing.
pub(crate) fn cloud_init(guest: &Guest, snippets: &Path, host: &Resolver) -> Outcome<Option<CloudInit>> {
    if !guest.drives().iter().any(|(_, drive)| drive.is_cloudinit()) {
        return Ok(None);
    }
    let mut custom = BTreeMap::new();
    for part in guest.get("cicustom").unwrap_or("").split(',').filter(|part| !part.is_empty()) {
        if let Some((kind, volid)) = part.split_once('=') {
            custom.insert(kind, snippet(snippets, volid)?);
        }
    }
    let user = match custom.get("user") {
        Some(text) => text.clone(),
        None => generated_user_data(guest),
    };
    let resolver = (!custom.contains_key("network")).then(|| Resolver::of(guest, host));
    let network = custom.get("network").cloned().unwrap_or_else(|| network_config(guest, resolver.as_ref()));
    let meta = custom.get("meta").map(|text| yaml(text)).unwrap_or_default();
    let text_of =
        |value: &serde_json::Value, key: &str| value.get(key).and_then(|v| v.as_str()).map(String::from);
    let parsed = yaml(&user);
    Ok(Some(CloudInit {
        resolver,
        instance_id: text_of(&meta, "instance-id").unwrap_or_else(|| hash(&user, &network)),
        hostname: text_of(&parsed, "hostname")
            .or_else(|| text_of(&parsed, "fqdn"))
            .or_else(|| text_of(&meta, "local-hostname")),
        user,
    }))
}

/// Does what cloud-init does when the guest comes up with this ISO: for a known instance-id nothing but the network's
/// resolver, which is written at each start.
pub(crate) fn boot(system: &mut GuestSystem, root: &Path, data: Option<&CloudInit>) {
    let passwd = root.join("etc/passwd");
    if !passwd.is_file() {
        let made = fs::create_dir_all(root.join("etc")).and_then(|()| fs::write(&passwd, PASSWD));
        if let Err(error) = made {
            eprintln!("lab: {}: {error}", passwd.display());
        }
        system.hostname = "localhost".into();
    }
    system.root = Some(root.into());
    let Some(data) = data else { return };
    if let Some(resolver) = &data.resolver {
        super::files::replace(&root.join("etc/resolv.conf"), resolver.file().as_bytes());
    }
    if system.instance_id == data.instance_id {
        return;
    }
    system.instance_id.clone_from(&data.instance_id);
    system.cloud_init_runs += 1;
    if let Some(hostname) = &data.hostname {
        system.hostname.clone_from(hostname);
    }
    let mut text = fs::read_to_string(&passwd).unwrap_or_default();
    let mut next = 1000 + text.lines().filter(|line| line.contains(":/home/")).count();
    for (name, gecos) in users(&yaml(&data.user)) {
        if !text.lines().any(|line| line.split(':').next() == Some(name.as_str())) {
            text.push_str(&format!("{name}:x:{next}:{next}:{gecos}:/home/{name}:/bin/bash\n"));
            next += 1;
        }
    }
    super::files::replace(&passwd, text.as_bytes());
    super::files::replace(&root.join("etc/hostname"), format!("{}\n", system.hostname).as_bytes());
}

/// The users a user-data text makes: name and GECOS.
fn users(data: &serde_json::Value) -> Vec<(String, String)> {
    let mut users = Vec::new();
    if let Some(name) = data.get("user").and_then(|user| user.as_str().or_else(|| user.get("name")?.as_str()))
    {
        users.push((name.to_owned(), String::new()));
    }
    for user in data.get("users").and_then(|users| users.as_array()).into_iter().flatten() {
        let name = user.as_str().or_else(|| user.get("name")?.as_str());
        let gecos = user.get("gecos").and_then(|gecos| gecos.as_str()).unwrap_or("");
        match name {
            Some("default") | None => {}
            Some(name) => users.push((name.to_owned(), gecos.to_owned())),
        }
    }
    users
}

/// A text that cloud-init could not read has no keys.
fn yaml(text: &str) -> serde_json::Value {
    serde_yaml::from_str(text).unwrap_or_default()
}

fn snippet(folder: &Path, volid: &str) -> Outcome<String> {
    let missing = || Refusal::die(format!("volume '{volid}' does not exist"));
    let name =
        volid.strip_prefix("local:snippets/").filter(|name| !name.contains('/')).ok_or_else(missing)?;
    fs::read_to_string(folder.join(name)).map_err(|_| missing())
}

fn generated_user_data(guest: &Guest) -> String {
    let user = guest.get("ciuser").unwrap_or("debian");
    format!("#cloud-config\nhostname: {}\nuser: {user}\nusers:\n  - default\n", guest.name())
}

/// Version 1, matched by MAC; without `nameserver` or `searchdomain` the host's is written in, and its change is a new guest.
fn network_config(guest: &Guest, resolver: Option<&Resolver>) -> String {
    let mut text = String::from("version: 1\n");
    for (number, nic) in guest.nics() {
        let address = guest.get(&format!("ipconfig{number}")).unwrap_or("");
        text.push_str(&format!("{} {address}\n", nic.mac));
    }
    text.push_str(&resolver.map(Resolver::file).unwrap_or_default());
    text
}

fn hash(user: &str, network: &str) -> String {
    (0u8..3)
        .map(|round| {
            let mut hasher = DefaultHasher::new();
            (round, user, network).hash(&mut hasher);
            format!("{:016x}", hasher.finish())
        })
        .collect::<String>()[..40]
        .to_owned()
}

/// The addresses of the guest's first NIC, `(address, prefix length, is IPv6)`.
pub(crate) fn addresses(guest: &Guest) -> Vec<(String, u8, bool)> {
    guest
        .get("ipconfig0")
        .unwrap_or("")
        .split(',')
        .filter_map(|part| {
            let (key, value) = part.split_once('=')?;
            let (address, length) = value.split_once('/')?;
            matches!(key, "ip" | "ip6").then_some(())?;
            Some((address.to_owned(), length.parse().ok()?, key == "ip6"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_from_the_user_data() {
        let text =
            "#cloud-config\nusers:\n  - default\n  - name: admin\n    gecos: wallet=0x1\n  - name: ops\n";
        assert_eq!(
            users(&yaml(text)),
            [("admin".to_owned(), "wallet=0x1".to_owned()), ("ops".to_owned(), String::new())]
        );
        assert_eq!(users(&yaml("#cloud-config\nusers: [")), []);
    }

    #[test]
    fn a_known_instance_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let mut system = GuestSystem::default();
        let host = Resolver { server: "192.0.2.1 192.0.2.2".into(), domain: "a.example".into() };
        let mut data = CloudInit {
            resolver: Some(host),
            user: "#cloud-config\nusers:\n  - name: admin\n".into(),
            instance_id: "one".into(),
            hostname: Some("web-1".into()),
        };
        boot(&mut system, root.path(), Some(&data));
        boot(&mut system, root.path(), Some(&data));
        assert_eq!((system.cloud_init_runs, system.hostname.as_str()), (1, "web-1"));
        assert!(system.passwd().contains("admin:x:1000:1000::/home/admin:/bin/bash\n"));
        let resolver = || fs::read_to_string(root.path().join("etc/resolv.conf")).unwrap();
        assert_eq!(resolver(), "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.example\n");
        data.resolver = Some(Resolver { server: "192.0.2.3".into(), domain: String::new() });
        boot(&mut system, root.path(), Some(&data));
        assert_eq!((system.cloud_init_runs, resolver().as_str()), (1, "nameserver 192.0.2.3\n"));
        data.instance_id = "two".into();
        boot(&mut system, root.path(), Some(&data));
        assert_eq!(system.cloud_init_runs, 2);
        assert_eq!(system.passwd().matches("admin:x").count(), 1);
    }
}
