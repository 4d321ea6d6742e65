//! What goes into the image, and what root does not take from a folder that others may change.

use crate::site::{Build, Site, has, run};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

#[test]
fn without_a_package_there_is_no_template() {
    let site = Site::fresh();
    std::fs::remove_dir_all(site.packages()).unwrap();
    has(
        &run(&mut site.build()).refused(),
        &["no package for the template", "template-packages does not exist"],
    );
    std::fs::create_dir(site.packages()).unwrap();
    std::fs::write(site.packages().join("README"), "none yet").unwrap();
    has(&run(&mut site.build()).refused(), &["template-packages holds no .deb file"]);
    assert!(site.node().is_empty());
    assert_eq!(site.web.asked(), [""; 0], "nothing is fetched before what is here was checked");
}

#[test]
fn h29_only_packages_of_root_and_blockhost_are_installed() {
    let site = Site::fresh();
    let secret = site.lab.path("secret.deb");
    std::fs::write(&secret, "!<arch>\ndebian-binary   x").unwrap();
    let bad = site.packages().join("bad.deb");
    symlink(&secret, &bad).unwrap();
    has(&run(&mut site.build()).refused(), &["package bad.deb", "symbolic link"]);
    std::fs::remove_file(&bad).unwrap();
    site.package("bad.deb", "x");
    chown(&bad, Some(4242), None).unwrap();
    has(&run(&mut site.build()).refused(), &["package bad.deb", "must belong to root"]);
    chown(&bad, Some(0), None).unwrap();
    std::fs::set_permissions(&bad, PermissionsExt::from_mode(0o646)).unwrap();
    has(&run(&mut site.build()).refused(), &["package bad.deb", "writable by nobody else"]);
    std::fs::write(&bad, "no package").unwrap();
    std::fs::set_permissions(&bad, PermissionsExt::from_mode(0o644)).unwrap();
    has(&run(&mut site.build()).refused(), &["package bad.deb", "not a Debian package"]);
    assert!(site.node().is_empty());
}

#[test]
fn h29_after_the_installers_chown_the_template_can_be_built() {
    let site = Site::fresh();
    // The installer's last act is `chown -R blockhost:blockhost /var/lib/blockhost`; where this host has no such user,
    // the owner of the state directory stands for it.
    let id = std::process::Command::new("id").args(["-u", "blockhost"]).output().unwrap();
    let owner = String::from_utf8_lossy(&id.stdout).trim().parse().unwrap_or(4242);
    chown(site.lab.path("var"), Some(owner), Some(owner)).unwrap();
    chown(site.packages(), Some(owner), Some(owner)).unwrap();
    for package in std::fs::read_dir(site.packages()).unwrap() {
        chown(package.unwrap().path(), Some(owner), Some(owner)).unwrap();
    }
    run(&mut site.build()).built();
}

#[test]
fn h27_names_of_packages_reach_no_tool() {
    let site = Site::fresh();
    for (number, name) in
        ["-rf.deb", "a b.deb", "a'$(touch x)\".deb", "a:b.deb", "a\nb.deb", "ä.deb"].iter().enumerate()
    {
        site.package(name, &number.to_string());
    }
    let ended = run(&mut site.build()).built();
    has(&ended.err, &["package a\\nb.deb", "package -rf.deb"]);
    let calls = site.lab.control().calls(0).unwrap();
    let call = calls.iter().find(|call| call.kind == "virt-customize").unwrap();
    for number in 1..=7 {
        has(&call.what, &[&format!("--upload 0{number}.deb:/var/tmp/blockhost-template/0{number}.deb")]);
    }
    assert!(!call.what.contains("touch") && !call.what.contains("-rf"), "{}", call.what);
}

#[test]
fn h29_the_cache_is_roots_alone() {
    let site = Site::fresh();
    let cache = site.cache();
    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o770)).unwrap();
    has(&run(&mut site.build()).refused(), &["cache is writable by others"]);
    std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o700)).unwrap();
    chown(&cache, Some(4242), None).unwrap();
    has(&run(&mut site.build()).refused(), &["cache is writable by others"]);
    std::fs::remove_dir(&cache).unwrap();
    let elsewhere = site.lab.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &cache).unwrap();
    has(&run(&mut site.build()).refused(), &["is not a directory"]);
    std::fs::remove_file(&cache).unwrap();
    run(&mut site.build()).built();
    assert_eq!(cache.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    has(&run(site.build().args(["--cache-dir", "cache"])).refused(), &["must be an absolute path"]);
}
