//! Every file we read, malformed: one line that names file and key, and nothing changes (hazards H17, H30).

use crate::support::{assert_same, create, host_tree, run, vm, with_key};
use lab::Lab;
use std::path::{Path, PathBuf};

/// Writes `content` (or removes the file), runs `check`, puts the old content back.
fn with_file(path: &Path, content: Option<&[u8]>, check: impl FnOnce()) {
    let old = std::fs::read(path).ok();
    put(path, content);
    check();
    put(path, old.as_deref());
}

fn put(path: &Path, content: Option<&[u8]>) {
    match content {
        Some(bytes) => std::fs::write(path, bytes).unwrap(),
        None => drop(std::fs::remove_file(path)),
    }
}

/// A create is refused with these words, and nothing changes on host and node.
fn refused(lab: &Lab, why: &str, words: &[&str]) {
    let (host, node) = (host_tree(lab), lab.control().snapshot().unwrap());
    create(lab, "vm-1", &[]).fails_in_one_line(words);
    // Without --apply the same is known.
    vm(lab, "create", &["vm-1", "--owner-wallet", crate::support::WALLET]).fails_in_one_line(words);
    assert_same(&host, &host_tree(lab), why);
    assert_eq!(node, lab.control().snapshot().unwrap(), "{why}");
}

/// The lab's db.yaml with a line replaced or added.
fn yaml(lab: &Lab, key: &str, line: &str) -> String {
    let text = std::fs::read_to_string(lab.path("etc/blockhost/db.yaml")).unwrap();
    let mut out = String::new();
    let mut skipping = false;
    for old in text.lines() {
        if !old.starts_with(' ') {
            skipping = old.starts_with(&format!("{key}:"));
        }
        if !skipping {
            out.push_str(old);
            out.push('\n');
        }
    }
    out + line + "\n"
}

#[test]
fn h17_db_yaml_malformed_as_a_whole_stops_every_command() {
    let lab = with_key(Lab::builder().start().unwrap());
    create(&lab, "vm-0", &[]).ok();
    let path = lab.path("etc/blockhost/db.yaml");
    let whole = std::fs::read(&path).unwrap();
    let cases: [(&str, Option<&[u8]>, &str); 9] = [
        ("missing", None, "does not exist"),
        ("empty", Some(b""), "found nothing"),
        ("a list", Some(b"- a\n- b\n"), "found a list"),
        ("a text", Some(b"hello\n"), "found \"hello\""),
        ("no YAML", Some(b"a: [1, 2\nb: }\n"), "not valid YAML"),
        ("tabs", Some(b"ip_pool:\n\tstart: 1\n"), "not valid YAML"),
        ("no text", Some(b"db_file: \xff\xfe\n"), "not valid UTF-8"),
        ("NUL", Some(b"bridge: \0\n"), "db.yaml"),
        ("relative path", Some(b"db_file: vms.json\n"), "db_file"),
    ];
    for (why, content, word) in cases {
        with_file(&path, content, || {
            let (host, node) = (host_tree(&lab), lab.control().snapshot().unwrap());
            for verb in ["start", "stop", "kill", "destroy"] {
                vm(&lab, verb, &["vm-0"]).fails_in_one_line(&["db.yaml", word]);
            }
            create(&lab, "vm-1", &[]).fails_in_one_line(&["db.yaml", word]);
            let status = vm(&lab, "status", &["vm-0"]).ends(0);
            assert_eq!(status.out, "unknown\n", "{why}");
            assert!(status.err.contains("db.yaml") && status.err.contains(word), "{why}: {status:?}");
            for (arguments, empty) in
                [(&["--format", "json"][..], "[]\n"), (&[][..], "NAME\tSTATUS\tIP\tCREATED\n")]
            {
                let list = vm(&lab, "list", arguments).ends(0);
                assert_eq!(list.out, empty, "{why}");
                assert!(list.err.contains("db.yaml") && list.err.contains(word), "{why}: {list:?}");
                assert_eq!(list.err.lines().count(), 1, "{why}: {list:?}");
            }
            assert_same(&host, &host_tree(&lab), why);
            assert_eq!(node, lab.control().snapshot().unwrap(), "{why}");
        });
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    vm(&lab, "stop", &["vm-0"]).fails_in_one_line(&["db.yaml", "directory"]);
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, whole).unwrap();
    vm(&lab, "stop", &["vm-0"]).ok();
}

#[test]
fn h17_each_key_of_db_yaml_is_checked_before_anything_is_taken() {
    let lab = with_key(Lab::builder().start().unwrap());
    let path = lab.path("etc/blockhost/db.yaml");
    for (key, line, words) in [
        ("db_file", "db_file: [a]", ["db_file", "a list"]),
        ("terraform_dir", "terraform_dir: terraform", ["terraform_dir", "absolute"]),
        ("terraform_dir", "terraform_dir: /nowhere/at/all", ["/nowhere/at/all", "does not exist"]),
        ("bridge", "bridge: yes", ["bridge", "text"]),
        ("bridge", "bridge: \"vmbr0,firewall=1\"", ["bridge", "vmbr0,firewall=1"]),
        ("bridge", "bridge: --help", ["bridge", "--help"]),
        ("default_expiry_days", "default_expiry_days: -3", ["default_expiry_days", "-3"]),
        ("default_expiry_days", "default_expiry_days: 36501", ["default_expiry_days", "36500"]),
        ("gc_grace_days", "gc_grace_days: soon", ["gc_grace_days", "soon"]),
        ("vmid_range", "x: 1", ["vmid_range", "missing"]),
        ("vmid_range", "vmid_range: 100-999", ["vmid_range", "mapping"]),
        ("vmid_range", "vmid_range: {start: 100}", ["vmid_range.end", "missing"]),
        ("vmid_range", "vmid_range: {start: 300, end: 200}", ["vmid_range", "is after"]),
        ("vmid_range", "vmid_range: {start: 99, end: 200}", ["vmid_range.start", "99"]),
        ("vmid_range", "vmid_range: {start: 100, end: 1.5}", ["vmid_range.end", "1.5"]),
        ("vmid_range", "vmid_pool: {start: x, end: 200}", ["vmid_pool.start", "x"]),
        ("ip_pool", "x: 1", ["ip_pool", "missing"]),
        ("ip_pool", "ip_pool: []", ["ip_pool", "a list"]),
        (
            "ip_pool",
            "ip_pool: {network: 10.0.0.0, start: 2, end: 9, gateway: 1}",
            ["ip_pool.network", "10.0.0.0"],
        ),
        (
            "ip_pool",
            "ip_pool: {network: 10.0.0.0/24, start: 10.0.1.2, end: 9, gateway: 1}",
            ["ip_pool.start", "outside"],
        ),
        (
            "ip_pool",
            "ip_pool: {network: 10.0.0.0/24, start: 2, end: 999, gateway: 1}",
            ["ip_pool.end", "999"],
        ),
        ("ip_pool", "ip_pool: {network: 10.0.0.0/24, start: 2, end: 9}", ["ip_pool.gateway", "missing"]),
        (
            "ip_pool",
            "ip_pool: {network: 10.0.0.0/24, start: 20, end: 9, gateway: 1}",
            ["ip_pool", "is after"],
        ),
        (
            "ip_pool",
            "ip_pool: {network: 10.0.0.0/24, start: true, end: 9, gateway: 1}",
            ["ip_pool.start", "true"],
        ),
        (
            "ip_pool",
            "ip_pool: {network: 10.0.0.0/24, start: -2, end: 9, gateway: 1}",
            ["ip_pool.start", "-2"],
        ),
        ("ipv6_pool", "ipv6_pool: {start: 1, end: 9}", ["ipv6_pool.start", "1"]),
        ("ipv6_pool", "ipv6_pool: {start: 9, end: 3}", ["ipv6_pool", "is after"]),
        ("fields", "fields: [status]", ["fields", "a list"]),
        ("fields", "fields: {status: \"\"}", ["fields.status", "empty"]),
        ("fields", "fields: {status: 5}", ["fields.status", "5"]),
        ("fields", "fields: {status: state, vmid: state}", ["fields", "state"]),
        ("fields", "fields: {vmid: username}", ["fields.vmid", "username"]),
        ("cpu_type", "cpu_type: \"host,flags=+x\"", ["cpu_type", "host,flags"]),
        ("cpu_type", "cpu_type: \"${file(\\\"/etc/hostname\\\")}\"", ["cpu_type", "not allowed"]),
        ("dns_servers", "dns_servers: 1.1.1.1", ["dns_servers", "list"]),
        ("dns_servers", "dns_servers: [1.1.1.1, one]", ["dns_servers", "one"]),
        ("guest_ready_timeout", "guest_ready_timeout: 0", ["guest_ready_timeout", "0"]),
        ("guest_ready_timeout", "guest_ready_timeout: 3m", ["guest_ready_timeout", "3m"]),
        ("max_parallel_creates", "max_parallel_creates: 0", ["max_parallel_creates", "0"]),
        ("clone_mode", "clone_mode: quick", ["clone_mode", "quick"]),
        ("snippet_storage", "snippet_storage: ../local", ["snippet_storage", "../local"]),
        ("pve_pool", "pve_pool: a/b", ["pve_pool", "a/b"]),
        ("gc_max_share", "gc_max_share: 1.5", ["gc_max_share", "1.5"]),
        ("gc_max_share", "gc_max_share: .nan", ["line", ".nan"]),
        ("gc_max_gap_days", "gc_max_gap_days: never", ["gc_max_gap_days", "never"]),
    ] {
        with_file(&path, Some(yaml(&lab, key, line).as_bytes()), || {
            let file = if line.contains("/nowhere") { "terraform.tfvars" } else { "db.yaml" };
            refused(&lab, line, &[file, words[0], words[1]]);
        });
    }
}

#[test]
fn h17_h30_tfvars_token_and_provider_file() {
    let lab = with_key(Lab::builder().start().unwrap());
    let terraform = lab.path("var/terraform");
    let token = lab.token();
    let good = std::fs::read_to_string(terraform.join("terraform.tfvars")).unwrap();
    let replaced = |old: &str, new: &str| good.replace(old, new);
    let secret = token.split('=').nth(1).unwrap();
    let tfvars = [
        (None, "does not exist"),
        (Some(String::new()), "proxmox_node is missing"),
        (Some(good[..good.len() / 3].to_string()), "line"),
        (Some(replaced("proxmox_node = \"pve\"", "proxmox_node = pve")), "line 2"),
        (Some(replaced("\"pve\"", "\"p/e\"")), "proxmox_node"),
        (Some(replaced("\"pve\"", "\"${file(\\\"/etc/hostname\\\")}\"")), "proxmox_node"),
        (Some(replaced("\"local-lvm\"", "\"local lvm\"")), "proxmox_storage"),
        (Some(replaced("\"vmbr0\"", "\"vmbr0;id\"")), "proxmox_bridge"),
        (Some(replaced("proxmox_storage", "storage")), "proxmox_storage is missing"),
        (Some(format!("{good}disk_datastore = \"-x\"\n")), "disk_datastore"),
        (Some(format!("{good}{token}")), "line"),
        (Some(format!("{good}list = [\n")), "not closed"),
    ];
    let path = terraform.join("terraform.tfvars");
    for (content, word) in tfvars {
        with_file(&path, content.as_deref().map(str::as_bytes), || {
            refused(&lab, word, &["terraform.tfvars", word]);
        });
    }
    let path = lab.path("etc/blockhost/pve-token");
    for content in [
        String::new(),
        "\n".to_string(),
        token.replace('=', ":"),
        format!("{token} x"),
        format!("{token}\nX-Evil: 1"),
        token.replace("blockhost", "block host"),
        format!("\"{token}\""),
        secret.to_string(),
    ] {
        with_file(&path, Some(content.as_bytes()), || {
            refused(&lab, "pve-token", &["pve-token", "user@realm!name=secret"]);
            let shown = create(&lab, "vm-1", &["-vv"]).err;
            assert!(!shown.contains(secret), "{shown}");
        });
    }
    with_file(&path, Some(b"\xff\xfe"), || refused(&lab, "binary token", &["pve-token", "UTF-8"]));
    // Neither file has a token.
    with_file(&path, None, || {
        let text = good.lines().filter(|l| !l.contains("api_token")).collect::<Vec<_>>().join("\n");
        with_file(&terraform.join("terraform.tfvars"), Some(text.as_bytes()), || {
            refused(&lab, "no token", &["pve-token", "terraform.tfvars", "no API token"]);
        });
    });
    let path = terraform.join("provider.tf.json");
    for (content, word) in [
        (None, "does not exist"),
        (Some(""), "not valid JSON"),
        (Some("{\"provider\": "), "not valid JSON"),
        (Some("[]"), "a list"),
        (Some(r#"{"provider": {"proxmox": {"endpoint": 8006}}}"#), "provider.proxmox.endpoint"),
        (Some(r#"{"provider": {"proxmox": {"endpoint": "http://127.0.0.1:8006"}}}"#), "https://"),
        (Some(r#"{"provider": {"proxmox": {"endpoint": "file:///etc/passwd"}}}"#), "https://"),
        (Some(r#"{"provider": {"proxmox": {"endpoint": ""}}}"#), "https://"),
        (Some(r#"{"provider": 5}"#), "provider"),
    ] {
        with_file(&path, content.map(str::as_bytes), || refused(&lab, word, &["provider.tf.json", word]));
    }
    create(&lab, "vm-1", &[]).ok();
}

#[test]
fn h17_broker_web3_engine_and_network_modes() {
    let lab = with_key(Lab::builder().start().unwrap());
    let etc = lab.path("etc/blockhost");
    for (content, word) in [
        ("", "not valid JSON"),
        ("{\"prefix\": ", "not valid JSON"),
        ("[]", "a list"),
        ("{}", "prefix is missing"),
        ("{\"prefix\": 64}", "prefix"),
        ("{\"prefix\": \"2a11::\"}", "2a11::"),
        ("{\"prefix\": \"2a11::/129\"}", "2a11::/129"),
        ("{\"prefix\": \"2a11::/128\"}", "2a11::/128"),
        ("{\"prefix\": \"192.0.2.0/24\"}", "192.0.2.0/24"),
        ("{\"prefix\": \"2a11::/120\", \"dns_zone\": 5}", "dns_zone"),
        ("{\"prefix\": \"2a11::/120\", \"dns_zone\": \"a b\"}", "dns_zone"),
        ("{\"prefix\": \"2a11::/120\", \"dns_zone\": \"x\\\"\\n: y\"}", "dns_zone"),
    ] {
        with_file(&etc.join("broker-allocation.json"), Some(content.as_bytes()), || {
            refused(&lab, content, &["broker-allocation.json", word]);
        });
    }
    for (content, word) in [
        ("", "found nothing"),
        ("- x\n", "a list"),
        ("auth: [", "not valid YAML"),
        ("auth: 5\n", "auth"),
        ("auth: {otp_length: six}\n", "auth.otp_length"),
        ("auth: {otp_length: 0}\n", "auth.otp_length"),
        ("auth: {otp_length: 99999999999999999999}\n", "auth.otp_length"),
        ("auth: {otp_ttl_seconds: -1}\n", "auth.otp_ttl_seconds"),
        ("auth: {otp_ttl_seconds: 1.5}\n", "auth.otp_ttl_seconds"),
    ] {
        with_file(&etc.join("web3-defaults.yaml"), Some(content.as_bytes()), || {
            refused(&lab, content, &["web3-defaults.yaml", word]);
        });
    }
    for (content, word) in [
        ("", "not valid JSON"),
        ("[1]", "a list"),
        ("{\"constraints\": []}", "constraints"),
        ("{\"constraints\": {\"address_pattern\": 5}}", "constraints.address_pattern"),
        ("{\"constraints\": {\"address_pattern\": \"^0x(\"}}", "not a usable regular expression"),
        ("{\"constraints\": {\"address_pattern\": \"^bc1[a-z0-9]+$\"}}", "does not match"),
    ] {
        with_file(&lab.path("share/engine.json"), Some(content.as_bytes()), || {
            refused(&lab, content, &["engine.json", word]);
        });
    }
    let modes = etc.join("network-modes.enabled");
    let place = modes.display().to_string();
    with_file(&modes.join("broker.json"), None, || refused(&lab, "empty", &[&place, "no network mode"]));
    with_file(&modes.join("manual.json"), Some(b"{}"), || {
        refused(&lab, "several", &[&place, "several", "broker, manual", "--network-mode"]);
        vm(&lab, "create", &["vm-1", "--no-web3", "--network-mode", "manual"]).ok();
        let other = vm(&lab, "create", &["vm-1", "--no-web3", "--network-mode", "none", "--apply"]);
        other.fails_in_one_line(&["none", "broker, manual"]);
    });
    with_file(&modes.join("broker.json"), None, || {
        with_file(&modes.join("a b.json"), Some(b"{}"), || refused(&lab, "odd name", &[&place, "a b"]));
    });
    // A link to nowhere is no enabled mode: the dispatcher would refuse it when the VM is there.
    let link = modes.join("broker.json");
    with_file(&link, None, || {
        std::os::unix::fs::symlink("../network-modes.available/broker.json", &link).unwrap();
        let words = [link.display().to_string(), "dangling link".to_string()];
        refused(&lab, "dangling", &[&words[0], &words[1]]);
        let named = vm(&lab, "create", &["vm-1", "--no-web3", "--network-mode", "broker", "--apply"]);
        named.fails_in_one_line(&[&words[0], &words[1]]);
        std::fs::remove_file(&link).unwrap();
    });
    let aside: PathBuf = etc.join("aside");
    std::fs::rename(&modes, &aside).unwrap();
    std::fs::write(&modes, "broker").unwrap();
    refused(&lab, "a file", &[&place, "Not a directory"]);
    std::fs::remove_file(&modes).unwrap();
    let wanted = ["vm-1", "--no-web3", "--network-mode", "broker", "--apply"];
    vm(&lab, "create", &wanted).fails_in_one_line(&[&place, "does not exist"]);
    std::fs::rename(&aside, &modes).unwrap();
    create(&lab, "vm-1", &[]).ok();
}

#[test]
fn a_file_of_the_current_folder_steers_nothing_unless_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("config")).unwrap();
    std::fs::write(dir.path().join("config/db.yaml"), "db_file: /dev/null\n").unwrap();
    let list = |dev: bool| {
        let mut command = crate::hammer::mock_command(dir.path(), "list");
        if dev {
            command.env("BLOCKHOST_DEV", "1");
        }
        run(&mut command).ends(0).err
    };
    assert!(list(false).contains("no-etc/db.yaml does not exist"), "{}", list(false));
    assert!(list(true).contains("/dev/null"), "{}", list(true));
}

#[test]
fn h31_an_unchecked_certificate_off_loopback_is_refused_by_every_verb_before_a_byte_is_sent() {
    let lab = with_key(Lab::builder().start().unwrap());
    crate::support::create(&lab, "vm-1", &[]).ok();
    // Somebody who stands in between would listen here; this machine's own address, which is not loopback.
    let outside = std::net::UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()))
        .map_or_else(|_| "192.0.2.1".to_owned(), |address| address.ip().to_string());
    let listener = std::net::TcpListener::bind((outside.as_str(), 0));
    let port = listener.as_ref().map_or(8006, |listener| listener.local_addr().unwrap().port());
    let path = lab.path("var/terraform/provider.tf.json");
    let good = std::fs::read_to_string(&path).unwrap();
    for insecure in [serde_json::json!(true), "true".into(), "${true}".into(), 1.into()] {
        let mut file: serde_json::Value = serde_json::from_str(&good).unwrap();
        let block = &mut file["provider"]["proxmox"];
        let block = if block.is_array() { &mut block[0] } else { block };
        block["endpoint"] = format!("https://{outside}:{port}").into();
        block["insecure"] = insecure.clone();
        std::fs::write(&path, file.to_string()).unwrap();
        for arguments in [
            &["create", "vm-2", "--owner-wallet", crate::support::WALLET, "--apply"][..],
            &["destroy", "vm-1"],
        ] {
            let ended = vm(&lab, arguments[0], &arguments[1..]);
            // A destroy may do without the API.
            let refused = ended.code == Some(1) && ended.err.contains("unchecked certificate");
            assert!(refused || arguments[0] == "destroy" && ended.code == Some(0), "{insecure}: {ended:?}");
        }
        if let Ok(listener) = &listener {
            listener.set_nonblocking(true).unwrap();
            assert!(listener.accept().is_err(), "{insecure}: somebody was connected to");
        }
    }
    std::fs::write(&path, good).unwrap();
    vm(&lab, "destroy", &["vm-1"]).ok();
}
