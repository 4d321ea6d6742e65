//! The template with the real virt-customize: our scripts run inside a small Debian, whose disk is looked into
//! afterwards. The node is a lab.
//!
//! The image is made once by `tests/template/make-image.sh` (mmdebstrap, some minutes) and kept below target/.
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
#![allow(dead_code, reason = "the shorthands of the lab's own suite are shared")]

#[path = "../template/site.rs"]
#[allow(unused_imports, reason = "what the lab's own suite takes from there is shared")]
mod site;
#[path = "../template/web.rs"]
mod web;

use site::{Build, Ended, IMAGE, Site, has, start};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The folder of the image, its key and its packages.
static PARTS: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let own = std::env::current_exe().unwrap();
    // target/debug/deps/real_template-…
    let folder = own.ancestors().nth(3).unwrap().join("template-image");
    let made = Command::new(root.join("tests/template/make-image.sh")).arg(&folder).output().unwrap();
    assert!(made.status.success(), "make-image.sh: {}", String::from_utf8_lossy(&made.stderr));
    folder
});

/// No KVM where tests run; a small machine of its own is emulated.
const LIBGUESTFS: [(&str, &str); 2] =
    [("LIBGUESTFS_BACKEND", "direct"), ("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")];

/// An emulated machine takes minutes.
fn run(command: &mut Command) -> Ended {
    start(command).wait_for(std::time::Duration::from_secs(1_800))
}

/// A node without a template, the real virt-customize, and these packages.
fn site(packages: &[&str]) -> Site {
    let site = Site::fresh();
    std::fs::remove_file(site.lab.path("bin/virt-customize")).unwrap();
    let image = std::fs::read(PARTS.join("image.qcow2")).unwrap();
    site.publish(&image);
    site.web.put("/key.asc", std::fs::read(PARTS.join("key.asc")).unwrap());
    std::fs::remove_dir_all(site.packages()).unwrap();
    std::fs::create_dir(site.packages()).unwrap();
    for folder in packages {
        for package in std::fs::read_dir(PARTS.join(folder)).unwrap().flatten() {
            std::fs::copy(package.path(), site.packages().join(package.file_name())).unwrap();
        }
    }
    site
}

fn build(site: &Site) -> Command {
    let mut build = site.build();
    build.envs(LIBGUESTFS).env("BLOCKHOST_SECRET", "must-stay-here");
    build.args(["--nodejs-repository", "file:/opt/repo/node"]);
    build
}

/// What a script says inside the disk that was imported.
fn inside(site: &Site, script: &str) -> String {
    let disk = site.lab.path("imported/local-lvm-vm-9001-disk-0");
    let said = Command::new("guestfish")
        .envs(LIBGUESTFS)
        .args(["--ro", "--format=qcow2", "-i", "-a"])
        .arg(disk)
        .args(["sh", script])
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    String::from_utf8_lossy(&said.stdout).into_owned()
}

const LOOK: &str = r#"
dpkg-query -W -f='${Package} ${Version} ${db:Status-Status}\n' qemu-guest-agent nodejs web3-auth-svc web3-dependency
echo "node $(node --version)"
echo "auth $(SYSTEMD_OFFLINE=1 systemctl is-enabled web3-auth-svc)"
echo "agent $(SYSTEMD_OFFLINE=1 systemctl is-enabled qemu-guest-agent)"
echo "first line of sshd_config: $(head -n 1 /etc/ssh/sshd_config)"
grep -i '^[^a-z]*kbdinteractive' /etc/ssh/sshd_config
echo "machine-id $(stat -c '%F %s' /etc/machine-id)"
ls -d /etc/ssh/ssh_host_* /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/tmp/blockhost* \
    /usr/sbin/policy-rc.d /tmp/builder.log /run/sshd /var/cache/apt/archives/*.deb /var/cache/apt/*.bin 2>/dev/null
ls -A /var/lib/apt/lists /tmp /var/tmp | grep -v ':$'
grep -rl must-stay-here /etc /var /root /tmp 2>/dev/null
cat /etc/apt/sources.list.d/nodesource.sources
"#;

const SEEN: &str = "\
nodejs 22.99.0-1nodesource1 installed
qemu-guest-agent 1:7.2 installed
web3-auth-svc 1.5-1 installed
web3-dependency 2.0 installed
node v22.99.0
auth enabled
agent static
first line of sshd_config: Include /etc/ssh/sshd_config.d/*.conf
#KbdInteractiveAuthentication no
machine-id regular empty file 0
Types: deb
URIs: file:/opt/repo/node
Suites: nodistro
Components: main
Architectures: amd64
Signed-By: /etc/apt/keyrings/nodesource.asc
";

#[test]
fn the_image_has_what_a_template_needs_and_nothing_that_it_must_not() {
    let site = site(&["packages"]);
    let ended = run(&mut build(&site)).built();
    assert_eq!(ended.out, site::READY);
    has(&ended.err, &["image: Running: install.sh", "image: Running: check.sh"]);
    let seen = inside(&site, LOOK);
    let lines: Vec<&str> = seen.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, SEEN.lines().collect::<Vec<_>>());
    assert_eq!(site.files(), Site::files_at_rest());
}

#[test]
fn a_package_that_cannot_be_installed_is_named_and_nothing_reaches_the_node() {
    let site = site(&["packages", "broken"]);
    let error = run(&mut build(&site)).refused();
    has(&error, &["installing the packages of template-packages failed", "the postinst of broken says no"]);
    assert!(site.node().is_empty());
    assert!(site.web.asked().contains(&IMAGE.to_owned()));
    assert!(!site.files().iter().any(|file| file.starts_with("customised-")), "{:?}", site.files());
}

#[test]
fn an_image_that_is_not_as_it_should_be_is_refused_by_the_last_look() {
    let site = site(&["plain"]);
    let error = run(build(&site).args(["--nodejs-suite", "old"])).refused();
    has(&error, &["the image is not as it should be: node --version says \"v18.0.0\", expected v22"]);
    assert!(site.node().is_empty());
}
