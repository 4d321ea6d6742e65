//! The node's own cloud-init on a host that exists already.

use super::bare::Bare;
use super::namespace::answer;
use lab::Lab;
use std::fs;
use std::path::PathBuf;

const FILES: [&str; 2] =
    ["etc/cloud/cloud-init.disabled", "etc/cloud/cloud.cfg.d/zz-blockhost-datasource.cfg"];

fn from_cloud_image(lab: &Lab) -> [PathBuf; 2] {
    fs::create_dir_all(lab.path("etc/cloud")).unwrap();
    fs::write(lab.path("etc/cloud/cloud.cfg"), "datasource_list: [ NoCloud, None ]\n").unwrap();
    FILES.map(|file| lab.path(file))
}

#[test]
fn h60_setup_switches_the_nodes_cloud_init_off_on_a_host_that_exists() {
    let bare = Bare::without_provider();
    let files = from_cloud_image(&bare.0);
    bare.ok("db_config");
    assert!(files.iter().all(|file| file.exists()));
    assert_eq!(bare.text("etc/cloud/cloud.cfg"), "datasource_list: [ NoCloud, None ]\n");
    // The step of its own needs no configuration that can be read, and changes nothing else.
    for file in &files {
        fs::remove_file(file).unwrap();
    }
    fs::write(bare.0.path("etc/blockhost/db.yaml"), "bridge: [").unwrap();
    let done = bare.setup("cloud-init", "");
    assert_eq!(answer(&done)["ok"], true);
    assert!(files.iter().all(|file| file.exists()));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("switched off from the next boot on"), "{said}");
    let again = bare.setup("cloud-init", "");
    assert_eq!(answer(&again)["ok"], true);
    assert!(!String::from_utf8_lossy(&again.stderr).contains("switched off"), "{again:?}");
}

#[test]
fn h60_reapply_warns_until_the_nodes_cloud_init_is_off() {
    let lab = Lab::builder().no_terraform().start().unwrap();
    let reapply = || {
        let done = lab.command("blockhost-provisioner-reapply").output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stderr).unwrap()
    };
    assert!(!reapply().contains("cloud-init.disabled"), "a node without cloud-init");
    let files = from_cloud_image(&lab);
    let said = reapply();
    assert!(
        said.contains("warning: ") && said.contains("as root: blockhost-provisioner-setup cloud-init"),
        "{said}"
    );
    assert!(!files.iter().any(|file| file.exists()), "reapply writes nothing there");
    let mended = lab.command("blockhost-provisioner-setup").arg("cloud-init").output().unwrap();
    assert!(mended.status.success(), "{mended:?}");
    assert!(!reapply().contains("blockhost-provisioner-setup cloud-init"));
}
