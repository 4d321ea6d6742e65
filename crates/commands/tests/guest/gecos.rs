//! update-gecos: what is written, for whom, and that it is read back.

use crate::support::{
    Ended, WALLET, add_user, edit_database, passwd_line, read, replace_guest_program, set_field, site, vm,
    vm_with,
};
use lab::Lab;
use std::time::{Duration, Instant};

const TOKEN: &str = "ABCDEF0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789";
const LARGEST: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639935";

fn update(lab: &Lab, wallet: &str, id: &str) -> Ended {
    vm(lab, "update-gecos", &["web-1", wallet, "--nft-id", id])
}

#[test]
fn wallets_and_ids_of_every_chain() {
    let lab = site();
    let cardano = format!("addr_test1{}", "qz9".repeat(30));
    for (wallet, id, written) in [
        (WALLET, "0", "0"),
        (WALLET, "42", "42"),
        ("bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "18446744073709551616", "18446744073709551616"),
        ("4vJ9JU1bJJE96FWSJKvHsmmFADCg4gpZQff4P3bkLKi", LARGEST, LARGEST),
        (&cardano, TOKEN, TOKEN),
        ("_", "deadBEEF", "deadBEEF"),
        (&"a".repeat(128), &"9".repeat(64), &"9".repeat(64)),
        (WALLET, "007", "7"),
    ] {
        let said = update(&lab, wallet, id).ok();
        let gecos = format!("wallet={wallet},nft={written}");
        assert_eq!((said.out.as_str(), said.err), ("", format!("VM web-1: the GECOS is {gecos}\n")));
        assert_eq!(
            passwd_line(&lab, 100, "admin"),
            format!("admin:x:1002:1002:{gecos}:/home/admin:/bin/bash")
        );
    }
    // Again, and nothing else in the file has changed.
    update(&lab, WALLET, "42").ok();
    update(&lab, WALLET, "42").ok();
    let passwd = read(&lab.path("guests/100/etc/passwd"));
    assert_eq!(
        passwd,
        format!(
            "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
             admin:x:1002:1002:wallet={WALLET},nft=42:/home/admin:/bin/bash\n"
        )
    );
}

#[test]
fn the_user_is_the_flags_then_the_records_then_admin() {
    let lab = site();
    let passwd = lab.path("guests/100/etc/passwd");
    for user in ["alice", "bob_2"] {
        add_user(&passwd, user);
    }
    let gecos = |user: &str| passwd_line(&lab, 100, user).split(':').nth(4).unwrap().to_string();
    set_field(&lab, "web-1", "username", "alice".into());
    update(&lab, "w", "1").ok();
    assert_eq!((gecos("alice"), gecos("admin")), ("wallet=w,nft=1".into(), "Debian,,,".into()));
    vm(&lab, "update-gecos", &["web-1", "w", "--nft-id", "2", "--username", "bob_2"]).ok();
    assert_eq!((gecos("alice"), gecos("bob_2")), ("wallet=w,nft=1".into(), "wallet=w,nft=2".into()));
    // Records of the older package often have none.
    edit_database(&lab, |all| {
        all["vms"]["web-1"].as_object_mut().unwrap().remove("username");
    });
    update(&lab, "w", "3").ok();
    assert_eq!((gecos("admin"), gecos("alice")), ("wallet=w,nft=3".into(), "wallet=w,nft=1".into()));
    // The guest knows no such user: said, and not a success.
    vm(&lab, "update-gecos", &["web-1", "w", "--nft-id", "2", "--username", "carol"]).fails(&[
        "VM web-1 (VMID 100): failed to change the GECOS of user carol",
        "user 'carol' does not exist",
    ]);
    set_field(&lab, "web-1", "username", "$(reboot)".into());
    update(&lab, "w", "4").fails(&["VM web-1", "username"]);
}

#[test]
fn the_prefix_of_a_name_is_another_user() {
    let lab = site();
    let passwd = lab.path("guests/100/etc/passwd");
    add_user(&passwd, "admin2");
    vm(&lab, "update-gecos", &["web-1", "w", "--nft-id", "1", "--username", "admin2"]).ok();
    assert!(passwd_line(&lab, 100, "admin").contains(":Debian,,,:"));
}

#[test]
fn success_is_said_only_when_the_guest_has_it() {
    let lab = site();
    // Exit 0, and nothing done.
    replace_guest_program(&lab, "usermod", "exit 0");
    let arguments = ["web-1", "w", "--nft-id", "1"];
    vm_with(&lab, "limit@update-gecos=1500", "update-gecos", &arguments).fails(&[
        "VM web-1 (VMID 100): the GECOS of user admin should be \"wallet=w,nft=1\"",
        "the guest has \"Debian,,,\"",
        "try again later",
    ]);
    // Something else was done.
    replace_guest_program(&lab, "usermod", "sed -i \"s/Debian,,,/${2%?}/\" \"$LAB_GUEST_ROOT/etc/passwd\"");
    vm_with(&lab, "limit@update-gecos=1500", "update-gecos", &["web-1", "w", "--nft-id", "12"])
        .fails(&["should be \"wallet=w,nft=12\"", "the guest has \"wallet=w,nft=1\""]);
    // The user is gone when it is read back.
    replace_guest_program(&lab, "usermod", "sed -i /^admin:/d \"$LAB_GUEST_ROOT/etc/passwd\"");
    update(&lab, "w", "1").fails(&["the guest has no user admin", "getent exited with 2"]);
    replace_guest_program(
        &lab,
        "usermod",
        "echo 'usermod: cannot lock /etc/passwd; try again later.' >&2; exit 1",
    );
    update(&lab, "w", "1").fails(&["failed to change the GECOS", "cannot lock /etc/passwd"]);
}

#[test]
fn h48_a_change_that_comes_late_is_waited_for() {
    let lab = site();
    // Longer than the root agent waits for it.
    let text = read(&lab.path("guest-bin/usermod"));
    let script = text.lines().last().unwrap().to_string();
    replace_guest_program(&lab, "usermod", &format!("sleep 4\n{script}"));
    let begun = Instant::now();
    update(&lab, "w", "5").ok();
    assert!(begun.elapsed() > Duration::from_secs(4));
    assert!(passwd_line(&lab, 100, "admin").contains(":wallet=w,nft=5:"));
}
