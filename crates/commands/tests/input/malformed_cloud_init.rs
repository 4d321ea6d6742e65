//! Cloud-init texts that cannot be used: said before anything is taken, and never shown (hazards H27, H30).

use crate::support::{Ended, assert_same, create, host_tree, vm, with_key};
use lab::Lab;

const SECRET: &str = "hunter2-very-secret";

fn is_refused(lab: &Lab, arguments: &[&str], words: &[&str]) {
    let (host, node) = (host_tree(lab), lab.control().snapshot().unwrap());
    let hidden = |ended: &Ended| assert!(!format!("{ended:?}").contains(SECRET), "{ended:?}");
    let ended = create(lab, "vm-1", arguments);
    ended.fails_in_one_line(words);
    hidden(&ended);
    let mut loud = arguments.to_vec();
    loud.push("-vv");
    hidden(&create(lab, "vm-1", &loud));
    let mut dry = vec!["vm-1", "--owner-wallet", crate::support::WALLET];
    dry.extend(arguments);
    vm(lab, "create", &dry).fails_in_one_line(words);
    assert_same(&host, &host_tree(lab), &format!("{words:?}"));
    assert_eq!(node, lab.control().snapshot().unwrap());
}

fn texts() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let line = |text: &str| format!("#cloud-config\npassword: {SECRET}\n{text}\n").into_bytes();
    vec![
        ("no header", format!("password: {SECRET}\n").into_bytes(), "#cloud-config"),
        ("header later", format!("\n#cloud-config\npassword: {SECRET}\n").into_bytes(), "#cloud-config"),
        ("another header", format!("#cloud-config-archive\n- {SECRET}\n").into_bytes(), "#cloud-config"),
        ("a script", format!("#!/bin/sh\necho {SECRET}\n").into_bytes(), "#cloud-config"),
        ("not YAML", line("users: [a, b"), "not valid YAML"),
        ("not YAML at the secret", format!("#cloud-config\na: \"{SECRET}\n").into_bytes(), "not valid YAML"),
        ("tabs", format!("#cloud-config\na:\n\tb: {SECRET}\n").into_bytes(), "not valid YAML"),
        ("unknown anchor", format!("#cloud-config\na: *{SECRET}\n").into_bytes(), "not valid YAML"),
        ("a list", format!("#cloud-config\n- {SECRET}\n").into_bytes(), "mapping"),
        ("a text", format!("#cloud-config\n{SECRET}\n").into_bytes(), "mapping"),
        ("nothing", b"#cloud-config\n".to_vec(), "mapping"),
        ("empty", b"".to_vec(), "#cloud-config"),
        ("binary", [b"#cloud-config\n\xff\xfe".as_slice(), SECRET.as_bytes()].concat(), "UTF-8"),
        ("too large", line(&format!("x: {}", "y".repeat(1024 * 1024))), "1 MiB"),
    ]
}

#[test]
fn h27_h30_content_files_that_cannot_be_used() {
    let lab = with_key(Lab::builder().no_terraform().start().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("user-data");
    let shown = path.display().to_string();
    for (_, bytes, word) in texts() {
        std::fs::write(&path, bytes).unwrap();
        is_refused(&lab, &["--cloud-init-content", &shown], &[&shown, word]);
        is_refused(&lab, &["--no-web3", "--cloud-init-content", &shown], &[&shown, word]);
    }
    let folder = dir.path().display().to_string();
    is_refused(&lab, &["--cloud-init-content", &folder], &[&folder, "directory"]);
    let missing = dir.path().join("none").display().to_string();
    is_refused(&lab, &["--cloud-init-content", &missing], &[&missing, "does not exist"]);
}

#[test]
fn h27_h30_templates_that_cannot_be_used() {
    let lab = with_key(Lab::builder().no_terraform().start().unwrap());
    let path = lab.path("share/cloud-init/templates/mine.yaml");
    for (_, bytes, word) in texts() {
        std::fs::write(&path, bytes).unwrap();
        let place = if word == "UTF-8" { "mine.yaml" } else { "cloud-init template mine" };
        is_refused(&lab, &["--cloud-init", "mine"], &[place, word]);
    }
    // A value that would end the scalar it stands in: the keys come from a file of the caller.
    std::fs::write(&path, "#cloud-config\nkeys: [${SSH_KEYS}]\n").unwrap();
    is_refused(&lab, &["--cloud-init", "mine"], &["cloud-init template mine", "YAML"]);
    is_refused(&lab, &["--cloud-init", "none"], &["none", "devbox, mine, nft-auth, webserver"]);
}

#[test]
fn duplicate_keys_are_taken_as_pyyaml_takes_them_and_the_text_arrives_as_it_is() {
    let lab = with_key(Lab::builder().start().unwrap());
    let text = "#cloud-config\r\nhostname: a\nhostname: b\n# $VM_NAME ${VM_NAME} $$ %{x} ${file(\"/etc/hostname\")}\nruncmd: [\"ü\"]";
    let path = lab.path("home/user-data");
    std::fs::write(&path, text).unwrap();
    create(&lab, "vm-1", &["--cloud-init-content", path.to_str().unwrap()]).ok();
    assert_eq!(lab.control().snapshot().unwrap().snippets["blockhost-vm-1-user.yaml"], text);
}
