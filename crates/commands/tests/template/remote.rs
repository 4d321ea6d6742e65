//! A node by ssh.

use crate::site::{Build, Site, has, run};

fn left_there(site: &Site) -> Vec<String> {
    let log = std::fs::read_to_string(site.lab.path("ssh-log")).unwrap_or_default();
    let folders = log.lines().filter_map(|line| line.split("'-m' '0700' '").nth(1)?.strip_suffix('\''));
    folders.filter(|folder| std::path::Path::new(folder).exists()).map(str::to_owned).collect()
}

#[test]
fn h27_a_template_on_another_node_by_ssh() {
    let site = Site::fresh();
    let ended = run(site.build().args(["--host", "root@pve-1.example.org"])).built();
    assert!(ended.err.contains("making VM 9001"), "{ended:?}");
    let log = std::fs::read_to_string(site.lab.path("ssh-log")).unwrap();
    assert!(log.lines().all(|line| line.starts_with("root@pve-1.example.org: '")), "{log}");
    has(
        &log,
        &[
            "'qm' 'create' '9001' '--name' 'debian-12-web3-template' '--description' 'BlockHost template debian",
        ],
    );
    let disk = std::fs::read(site.lab.path("imported/local-lvm-vm-9001-disk-0")).unwrap();
    assert!(disk.starts_with(&crate::site::image(1)), "the image came over whole");
    assert_eq!(left_there(&site), [""; 0]);
    assert_eq!(site.files(), Site::files_at_rest());
    let node = site.lab.control().snapshot().unwrap();
    assert!(node.guests[&9001].description.contains(&node.guests[&9001].uuid));
    // And in the place of that one.
    run(site.build().args(["--host", "root@pve-1.example.org"])).built();
    assert_eq!(left_there(&site), [""; 0]);
}

#[test]
fn a_node_that_lets_nobody_in_is_said_at_once() {
    let site = Site::fresh();
    std::fs::write(site.lab.path("ssh-refuses"), "").unwrap();
    let error = run(site.build().args(["--host", "root@pve-1"])).refused();
    has(&error, &["cannot work on root@pve-1 by ssh", "Connection refused", "try: ssh root@pve-1"]);
    assert_eq!(site.web.asked(), [""; 0]);
}

#[test]
fn h05_a_remote_build_killed_anywhere_leaves_nothing_over_there() {
    for point in
        ["template.journalled", "spawn.ssh:9", "template.brought", "template.imported", "template.verified"]
    {
        let site = Site::fresh();
        run(site.faulty(&format!("kill@{point}")).args(["--host", "root@pve-1"])).was_killed();
        // The next one is called for this machine: what is left over there goes all the same.
        run(&mut site.build()).built();
        assert_eq!(left_there(&site), [""; 0], "{point}");
        assert_eq!(site.files(), Site::files_at_rest(), "{point}");
    }
}
