//! What a guest gets at its first boot: cloud-init (`facts/contract/cloud-init.md`; hazard H37), account, network mode.

use crate::support::{Commands, WALLET, add_settings, edit, guest, read, record, terraform_vm, world, write};
use lab::{Lab, LabBuilder};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt as _;

/// The user-data on the node.
fn user_data(lab: &Lab, name: &str) -> String {
    lab.control().snapshot().unwrap().snippets[&format!("blockhost-{name}-user.yaml")].clone()
}

/// It holds these lines, blanks at their ends aside.
#[track_caller]
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|own| own.trim() == *line), "{line:?} is not in:\n{text}");
    }
}

fn keys_in_home(lab: &Lab) -> String {
    std::fs::create_dir_all(lab.path("home/.ssh")).unwrap();
    write(&lab.path("home/.ssh/id_ed25519.pub"), "ssh-ed25519 AAAAC3Nza+/= me@host\n");
    write(&lab.path("home/.ssh/id_rsa.pub"), "ssh-rsa AAAAB3Nza== other: odd comment\n");
    "\n      - ssh-ed25519 AAAAC3Nza+/= me@host\n      - ssh-rsa AAAAB3Nza==".to_owned()
}

#[test]
fn the_default_template_is_filled_in() {
    let lab = Lab::builder().start().unwrap();
    let keys = keys_in_home(&lab);
    let said = lab.made_with("web-1", &["--nft-token-id", "42", "--username", "alice"]);
    assert!(!said.err.contains("ssh public key"), "{said:?}");
    let text = user_data(&lab, "web-1");
    has(
        &text,
        &[
            "#cloud-config",
            "hostname: web-1",
            "fqdn: 2.vm.blockhost.example",
            "- name: alice",
            &format!("gecos: \"wallet={WALLET},nft=42\""),
            "signing_host = \"2.vm.blockhost.example\"",
            "signing_domain = \"2.vm.blockhost.example\"",
            "ip = \"192.168.122.200\"",
            "ipv6 = \"2a11:6c7:f04:276::2\"",
            "otp_length = 6",
            "otp_ttl_seconds = 300",
            "echo \"$HOME $(hostname) $1 ${HOSTNAME:-none} costs 5$\"",
        ],
    );
    assert!(text.contains(&format!("ssh_authorized_keys: {keys}\n")), "{text}");
    // What the guest made of it.
    let vm = guest(&lab, 100);
    assert_eq!(vm.hostname, "web-1");
    assert!(vm.passwd.contains(&format!("alice:x:1000:1000:wallet={WALLET},nft=42:")), "{}", vm.passwd);
    let own = terraform_vm(&lab, "web-1");
    assert_eq!(own["initialization"]["user_data_file_id"], "local:snippets/blockhost-web-1-user.yaml");
    assert_eq!(own["initialization"].get("user_account"), None, "Proxmox would ignore it");
}

#[test]
fn secrets_differ_and_stay_where_they_belong() {
    let lab = Lab::builder().start().unwrap();
    let secret = |name: &str| {
        let text = user_data(&lab, name);
        let line = text.lines().find(|line| line.contains("secret_key")).unwrap().to_owned();
        line.split('"').nth(1).unwrap().to_owned()
    };
    let mut all = Vec::new();
    for name in ["web-1", "web-2"] {
        let said = lab.made_with(name, &["-vv"]);
        let key = secret(name);
        assert!(
            key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()),
            "{key}"
        );
        assert!(!said.err.contains(&key) && !said.out.contains(&key));
        all.push(key);
    }
    assert_ne!(all[0], all[1]);
    let found = lab.tool("grep").args(["-rlF", &all[0], "."]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "below the state folder");
    for kind in ["user", "meta"] {
        let path = lab.path(format!("node/var/lib/vz/snippets/blockhost-web-1-{kind}.yaml"));
        let data = path.metadata().unwrap();
        assert_eq!((data.mode() & 0o777, data.uid(), data.gid()), (0o600, 0, 0), "{kind}");
    }
}

#[test]
fn other_templates_and_a_text_of_ones_own() {
    let lab = Lab::builder().start().unwrap();
    lab.made_with("web-1", &["--cloud-init", "webserver"]);
    has(&user_data(&lab, "web-1"), &["- nginx", "<p>web-1 at 192.168.122.200 2a11:6c7:f04:276::2</p>"]);
    lab.made_with("web-2", &["--cloud-init", "devbox"]);
    has(
        &user_data(&lab, "web-2"),
        &["packages: [git, build-essential]", &format!("gecos: \"wallet={WALLET}\"")],
    );
    let own = "#cloud-config\nhostname: $VM_NAME\nruncmd:\n  - echo ${WALLET_ADDRESS} $$\n";
    write(&lab.path("own.yaml"), own);
    let path = lab.path("own.yaml").display().to_string();
    lab.made_with("web-3", &["--cloud-init-content", &path]);
    assert_eq!(user_data(&lab, "web-3"), own, "as it is");
    lab.vm("create", &["web-4", "--no-web3", "--cloud-init-content", &path, "--apply"]).ok();
    assert_eq!(user_data(&lab, "web-4"), own);
    // All of it goes with the VM.
    for name in ["web-1", "web-2", "web-3", "web-4"] {
        lab.vm("destroy", &[name]).ok();
    }
    assert!(lab.control().snapshot().unwrap().snippets.is_empty());
}

#[test]
fn an_unknown_template_lists_those_there_are() {
    let lab = Lab::builder().start().unwrap();
    let before = world(&lab);
    let words = ["no cloud-init template nope", "devbox, nft-auth, webserver"];
    lab.create("web-1", &["--cloud-init", "nope"]).fails(&words);
    lab.vm("create", &["web-1", "--no-web3", "--cloud-init", "nope", "--apply"]).fails(&words);
    // The current folder is not looked at, unless this is a developer's machine.
    std::fs::create_dir_all(lab.path("var/cloud-init/templates")).unwrap();
    write(&lab.path("var/cloud-init/templates/local.yaml"), "#cloud-config\nhostname: $VM_NAME\n");
    lab.create("web-1", &["--cloud-init", "local"]).fails(&["no cloud-init template local"]);
    for path in ["../templates/nft-auth", "/etc/hostname", "a/b"] {
        assert_eq!(lab.create("web-1", &["--cloud-init", path]).code, Some(2), "{path}");
    }
    world(&lab).same(&before, "refused");
    let mut command =
        lab.vm_command("create", &["web-1", "--owner-wallet", WALLET, "--cloud-init", "local", "--apply"]);
    let said = crate::support::run(command.env("BLOCKHOST_DEV", "1"));
    said.ok();
    assert_eq!(user_data(&lab, "web-1"), "#cloud-config\nhostname: web-1\n");
}

#[test]
fn without_web3_proxmox_makes_the_account() {
    let lab = Lab::builder().start().unwrap();
    keys_in_home(&lab);
    lab.vm("create", &["web-1", "--no-web3", "--username", "bob", "--apply"]).ok();
    let own = terraform_vm(&lab, "web-1");
    let account =
        json!({"username": "bob", "keys": ["ssh-ed25519 AAAAC3Nza+/= me@host", "ssh-rsa AAAAB3Nza=="]});
    assert_eq!(own["initialization"]["user_account"], account);
    assert_eq!(own["initialization"].get("user_data_file_id"), None);
    let snippets: Vec<String> = lab.control().snapshot().unwrap().snippets.into_keys().collect();
    assert_eq!(snippets, ["blockhost-web-1-meta.yaml"], "no user-data of ours");
    let vm = guest(&lab, 100);
    assert_eq!((vm.config["ciuser"].as_str(), vm.hostname.as_str()), ("bob", "web-1"));
    assert!(vm.passwd.contains("bob:x:"), "{}", vm.passwd);
    let made = record(&lab, "web-1");
    assert_eq!(
        (&made["wallet_address"], made.get("owner_wallet"), &made["username"]),
        (&Value::Null, None, &"bob".into())
    );
    // With a template of ours the account is its matter.
    lab.vm("create", &["web-2", "--no-web3", "--cloud-init", "webserver", "--apply"]).ok();
    has(&user_data(&lab, "web-2"), &["- nginx", "- name: admin"]);
    assert_eq!(terraform_vm(&lab, "web-2")["initialization"].get("user_account"), None);
    assert_eq!(record(&lab, "web-2")["wallet_address"], Value::Null);
}

#[test]
fn who_has_no_key_is_told_so() {
    let lab = Lab::builder().start().unwrap();
    let only_key = lab.vm("create", &["web-0", "--no-web3", "--apply"]).ok();
    only_key.says(&["warning: no SSH key found in ", "home/.ssh", "id_ed25519.pub", "will not work"]);
    // Wallet login needs none, and a warning of every create would not be read.
    let made = lab.made("web-1");
    assert!(!made.err.contains("SSH key"), "{made:?}");
    has(&user_data(&lab, "web-1"), &["ssh_authorized_keys: []"]);
    std::fs::create_dir_all(lab.path("home/.ssh")).unwrap();
    write(&lab.path("home/.ssh/id_rsa.pub"), "-----BEGIN OPENSSH PRIVATE KEY-----\nno key\n");
    let told = lab.vm("create", &["web-2", "--owner-wallet", WALLET, "-v", "--apply"]).ok();
    told.says(&["debug: no SSH key found"]);
    has(&user_data(&lab, "web-2"), &["ssh_authorized_keys: []"]);
}

#[test]
fn the_signing_host_follows_zone_and_addresses() {
    let broker = |lab: &Lab, text: &str| write(&lab.path("etc/blockhost/broker-allocation.json"), text);
    let lab = Lab::builder().start().unwrap();
    broker(&lab, "{\"prefix\": \"2a11:6c7:f04:276::/120\", \"gateway\": \"2a11:6c7:f04:276::1\"}");
    lab.made("web-1");
    has(
        &user_data(&lab, "web-1"),
        &["fqdn: web-1.local", "signing_host = \"[2a11:6c7:f04:276::2]\"", "signing_domain = \"\""],
    );
    // The low 64 bits in lower-case hexadecimal; manual mode, another prefix length.
    broker(&lab, "{\"prefix\": \"2001:db8:0:1:ab::/80\", \"mode\": \"manual\", \"dns_zone\": \"z.example\"}");
    lab.made("web-2");
    has(
        &user_data(&lab, "web-2"),
        &["fqdn: ab000000000002.z.example", "signing_host = \"ab000000000002.z.example\""],
    );
    let init = &terraform_vm(&lab, "web-2")["initialization"]["ip_config"][0]["ipv6"];
    assert_eq!(init, &json!({"address": "2001:db8:0:1:ab::2/80", "gateway": "2001:db8:0:1:ab::1"}));
    std::fs::remove_file(lab.path("etc/blockhost/broker-allocation.json")).unwrap();
    lab.made("web-3");
    has(
        &user_data(&lab, "web-3"),
        &["fqdn: web-3.local", "signing_host = \"192.168.122.202\"", "signing_domain = \"\"", "ipv6 = \"\""],
    );
    assert_eq!(terraform_vm(&lab, "web-3")["initialization"]["ip_config"][0].get("ipv6"), None);
    edit(&lab.path("etc/blockhost/web3-defaults.yaml"), "otp_length: 6", "otp_length: 8");
    lab.made("web-4");
    has(&user_data(&lab, "web-4"), &["otp_length = 8"]);
}

#[test]
fn h37_cloud_init_never_runs_again() {
    for settings in ["dns_servers: [192.0.2.53, 2001:db8::53]", ""] {
        let lab = Lab::builder().db_yaml(settings).start().unwrap();
        lab.made("web-1");
        let uuid = record(&lab, "web-1")["smbios_uuid"].as_str().unwrap().to_owned();
        let meta = &lab.control().snapshot().unwrap().snippets["blockhost-web-1-meta.yaml"];
        let expected = format!("instance-id: \"blockhost-{uuid}\"\nlocal-hostname: \"web-1\"\n");
        assert_eq!(meta, &expected);
        let vm = guest(&lab, 100);
        assert_eq!((vm.instance_id.as_str(), vm.cloud_init_runs), (format!("blockhost-{uuid}").as_str(), 1));
        if !settings.is_empty() {
            assert_eq!(vm.config["nameserver"], "192.0.2.53 2001:db8::53");
        }
        // Everything that would make a new instance of it on a plain Proxmox.
        lab.control().host_resolver("198.51.100.99").unwrap();
        lab.control().set(100, "net0", "virtio=BC:24:11:99:99:99,bridge=vmbr0").unwrap();
        lab.control().set(100, "ipconfig0", "ip=192.168.122.222/24").unwrap();
        lab.control().rename(100, "renamed").unwrap();
        lab.vm("stop", &["web-1"]).ok();
        lab.vm("start", &["web-1"]).ok();
        lab.control().reboot_node().unwrap();
        crate::support::until("the node's own start", || guest(&lab, 100).starts == 3);
        assert_eq!(guest(&lab, 100).cloud_init_runs, 1);
    }
}

#[test]
fn h61_what_the_node_would_fill_in_is_explicit_whatever_the_login() {
    let lab = Lab::builder().start().unwrap();
    lab.vm("create", &["web-1", "--no-web3", "--apply"]).ok();
    let vm = guest(&lab, 100);
    // Proxmox appends it to the name in its own user-data.
    assert_eq!(vm.config["searchdomain"], "local");
    assert!(!vm.config["nameserver"].is_empty());
    assert_eq!(vm.config["cicustom"], "meta=local:snippets/blockhost-web-1-meta.yaml");
    assert_eq!((vm.hostname.as_str(), vm.cloud_init_runs), ("web-1", 1));
    assert!(vm.passwd.contains("admin:x:"), "the user-data is Proxmox' own: {}", vm.passwd);
    // The node's name servers change, and what else a hash would be made of.
    lab.control().host_resolver("198.51.100.99").unwrap();
    lab.control().set(100, "net0", "virtio=BC:24:11:99:99:99,bridge=vmbr0").unwrap();
    lab.vm("stop", &["web-1"]).ok();
    lab.vm("start", &["web-1"]).ok();
    assert_eq!((guest(&lab, 100).starts, guest(&lab, 100).cloud_init_runs), (2, 1));
    lab.vm("destroy", &["web-1"]).ok();
    assert!(lab.control().snapshot().unwrap().snippets.is_empty(), "it goes with the VM");
}

#[test]
fn h37_loopback_servers_are_not_given_to_guests() {
    let lab = Lab::builder().start().unwrap();
    lab.made("web-1");
    let given = guest(&lab, 100).config.get("nameserver").cloned().unwrap_or_default();
    let host = read("/etc/resolv.conf".as_ref());
    for server in given.split_whitespace() {
        assert!(host.contains(server) && !server.starts_with("127.") && server != "::1", "{given}");
    }
}

fn mode_of(builder: LabBuilder, flags: &[&str]) -> Option<Value> {
    let lab = builder.start().unwrap();
    lab.made_with("web-1", flags);
    record(&lab, "web-1").get("network_mode").cloned()
}

#[test]
fn the_network_mode_is_the_one_enabled() {
    assert_eq!(mode_of(Lab::builder(), &[]), Some("broker".into()));
    assert_eq!(mode_of(Lab::builder().network_modes(&["manual"]), &[]), Some("manual".into()));
    assert_eq!(mode_of(Lab::builder().no_network_modes(), &[]), None);
    let two = ["manual", "onion"];
    assert_eq!(
        mode_of(Lab::builder().network_modes(&two), &["--network-mode", "onion"]),
        Some("onion".into())
    );
    for (modes, flags, words) in [
        ([].as_slice(), [].as_slice(), "no network mode is enabled"),
        (&two, &[], "(manual, onion)"),
        (&two, &["--network-mode", "broker"], "has: manual, onion"),
    ] {
        let lab = Lab::builder().network_modes(modes).start().unwrap();
        let before = world(&lab);
        lab.create("web-1", flags).fails(&["network mode", words, "network-modes.enabled"]);
        world(&lab).same(&before, "refused");
    }
    let lab = Lab::builder().no_network_modes().start().unwrap();
    lab.create("web-1", &["--network-mode", "broker"]).fails(&["broker is not enabled", "does not exist"]);
}

#[test]
fn sizes_owner_purpose_and_tags_arrive() {
    let lab = Lab::builder().start().unwrap();
    add_settings(&lab, "cpu_type: host");
    let flags =
        ["--cpu", "4", "--memory", "4096", "--disk", "40", "--owner", "Ann", "--purpose", "a shop, 2 €"];
    lab.made_with("web-1", &[flags.as_slice(), &["--tags", "web", "eu-1", "--expiry-days", "2"]].concat());
    let vm = guest(&lab, 100);
    let config = |key: &str| vm.config[key].as_str();
    assert_eq!((config("cores"), config("memory"), config("cpu")), ("4", "4096", "host"));
    assert!(config("scsi0").contains("size=40G"), "{}", config("scsi0"));
    assert_eq!(
        (vm.tags.as_str(), vm.pool.as_deref(), vm.onboot),
        ("blockhost;eu-1;web", Some("blockhost"), true)
    );
    let made = record(&lab, "web-1");
    assert_eq!((&made["owner"], &made["purpose"]), (&"Ann".into(), &"a shop, 2 €".into()));
    let days = |key: &str| made[key].as_str().unwrap()[8..10].parse::<u32>().unwrap();
    assert!(
        [2, 2 + 31 - 30].contains(&((days("expires_at") + 31 - days("created_at")) % 31))
            || days("expires_at") < 3
    );
}
