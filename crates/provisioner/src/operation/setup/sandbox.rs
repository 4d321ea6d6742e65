//! Directories outside the usual place, and the sandbox of our services.
//!
//! With `debian/blockhost-gc.service` and `debian/blockhost-reapply.service`, only `/var/lib/blockhost` is writable,
//! and some directories are not visible at all. A drop-in for each unit adds terraform's directory or the database if
//! it is elsewhere; where no drop-in would help, the step refuses: a gc that fails every night leaves unpaid VMs
//! running.

use super::{Setup, db_config};
use crate::host::Host;
use crate::host::accounts::Account;
use crate::host::replace_file;
use crate::host::run_process::{self, Input, Program};
use crate::plan::service_paths::{self, UNITS, has_control};
use crate::store::document::Document;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILE: &str = "blockhost-paths.conf";
const RELOAD: Duration = Duration::from_secs(60);

/// A directory that the services write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The configuration key that names it, with its file.
    named: String,
    path: PathBuf,
}

/// Returns the directories that the configuration will name after step db_config.
pub(super) fn places(setup: &Setup<'_>) -> anyhow::Result<Vec<Place>> {
    let file = setup.configuration_file("db.yaml");
    let document = if file.exists() { Document::read_yaml(&file)? } else { Document::empty(&file) };
    let terraform = if setup.choices.terraform_dir_is_given {
        "terraform_dir of the wizard's answers".to_owned()
    } else {
        format!("{}: terraform_dir", file.display())
    };
    let database = db_config::db_file(setup, &document)?;
    let folder = database.parent().unwrap_or(Path::new("/"));
    Ok(vec![
        Place { named: terraform, path: setup.choices.terraform_dir.clone() },
        Place { named: format!("{}: db_file", file.display()), path: folder.to_path_buf() },
    ])
}

/// Refuses directories that the services could never write to.
pub(super) fn check(host: &Host, places: &[Place]) -> anyhow::Result<()> {
    for Place { named, path } in places {
        service_paths::check_spelling(named, path)?;
        let real = &resolved(path);
        let (in_state_dir, state_dir) = (is_ours(host, real), &host.state_dir);
        let place = service_paths::Place { named, path, real, in_state_dir, state_dir };
        place.check(|path| is_of_lab(host, path))?;
    }
    Ok(())
}

/// Writes the drop-ins for directories outside the state directory, and removes drop-ins that are no longer needed.
/// `besides`: a directory that stays in use until the configuration names another.
pub(super) fn write(setup: &Setup<'_>, places: &[Place], besides: Option<&Path>) -> anyhow::Result<()> {
    let host = setup.host;
    let paths = places.iter().map(|place| place.path.as_path()).chain(besides);
    let mut outside: Vec<PathBuf> = Vec::new();
    // The directory in use now has not been checked: a line break in it would become a line of the unit.
    let paths = paths.filter(|path| path.is_absolute() && !has_control(path));
    for path in paths.map(resolved).filter(|path| !is_ours(host, path)) {
        if !outside.contains(&path) {
            outside.push(path);
        }
    }
    let ours = host.config_dirs.first().map_or(Path::new("/etc/blockhost"), PathBuf::as_path);
    let text = service_paths::drop_in(&ours.join("db.yaml"), &host.state_dir, &outside);
    let units = host.etc().join("systemd/system");
    let mut changed = !outside.is_empty();
    for unit in UNITS {
        let folder = units.join(format!("{unit}.d"));
        let path = folder.join(FILE);
        if outside.is_empty() {
            if !crate::host::is_there(&path) {
                continue;
            }
            replace_file::remove(&path)?;
            replace_file::remove_empty_folder(&folder);
            changed = true;
            continue;
        }
        replace_file::make_folders(setup.host.doors, &folder, 0o755)?;
        replace_file::replace_as(setup.host.doors, &path, text.as_bytes(), 0o644, Account::own(), "sandbox")?;
    }
    if !changed {
        return Ok(());
    }
    host.step("setup.sandbox.written")?;
    // Even if the text is unchanged: an earlier run may have failed here.
    reload(host, &units)
}

/// Whether the path is in the state directory, which the units already have.
fn is_ours(host: &Host, real: &Path) -> bool {
    real.starts_with(resolved(&host.state_dir))
}

/// Makes systemd read the unit files again. In an image being built, and in a lab, there is no systemd.
fn reload(host: &Host, units: &Path) -> anyhow::Result<()> {
    let file = format!("{}.d", units.join(UNITS[0]).display());
    if units != Path::new("/etc/systemd/system") || !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let program = Program {
        name: "systemctl",
        arguments: vec!["daemon-reload".into()],
        folder: Path::new("/"),
        environment: Vec::new(),
        without: &[],
    };
    run_process::run(
        host.doors,
        &program,
        Input::Nothing,
        host.deadline(RELOAD).left(),
        &host.interrupt,
        |_, _| {},
    )
    .and_then(|ended| ended.successful(&program))
    .with_context(|| {
        format!("{file} is written, but systemd does not know it; run systemctl daemon-reload")
    })?;
    Ok(())
}

/// Resolves links in the part of the path that exists.
fn resolved(path: &Path) -> PathBuf {
    let mut rest = PathBuf::new();
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
        let Some(name) = ancestor.file_name() else { break };
        rest = if rest.as_os_str().is_empty() { name.into() } else { Path::new(name).join(rest) };
    }
    path.to_path_buf()
}

/// A lab is in /tmp with everything it has, and no systemd unit works in it.
fn is_of_lab(host: &Host, path: &Path) -> bool {
    let root = host.root();
    root != Path::new("/") && [resolved(&root), root].iter().any(|root| path.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::interrupt::Interrupt;

    fn host(root: &str) -> Host {
        let mut host = Host::from_environment(Interrupt::never());
        host.config_dirs = vec![Path::new(root).join("etc/blockhost")];
        host.state_dir = Path::new(root).join("var/lib/blockhost");
        host
    }

    fn refused(host: &Host, path: &str) -> Option<String> {
        let place = Place { named: "/etc/blockhost/db.yaml: db_file".into(), path: path.into() };
        check(host, &[place]).err().map(|error| error.to_string())
    }

    #[test]
    fn what_the_units_hide_is_refused_with_key_and_reason() {
        let host = host("/");
        for (path, why) in [
            ("/home/blockhost/tf", "ProtectHome=yes"),
            ("/root", "ProtectHome=yes"),
            ("/run/user/1000/tf", "ProtectHome=yes"),
            ("/tmp/tf", "PrivateTmp=yes"),
            ("/var/tmp/tf", "PrivateTmp=yes"),
            ("/dev/shm/tf", "PrivateDevices=yes"),
            ("/proc/tf", "ProtectKernelTunables=yes"),
            ("/usr/local/tf", "ProtectSystem=strict"),
            ("/etc/blockhost", "ProtectSystem=strict"),
            ("/boot/tf", "ProtectSystem=strict"),
            ("/", "everywhere"),
            ("/var/lib", "everywhere"),
            ("/srv/../home/tf", "without '..'"),
            ("/srv/a\nb", "control characters"),
            ("srv/tf", "absolute"),
        ] {
            let text = refused(&host, path).unwrap_or_else(|| panic!("{path} passes"));
            assert!(
                text.starts_with("/etc/blockhost/db.yaml: db_file: ") && text.contains(why),
                "{path}: {text}"
            );
        }
        for path in
            ["/srv/tf", "/var/lib/blockhost", "/var/lib/other/tf", "/homes/tf", "/mnt/a b", "/opt/100%"]
        {
            assert_eq!(refused(&host, path), None, "{path}");
        }
    }

    #[test]
    fn a_lab_may_use_all_that_lies_in_it_and_nothing_else_that_is_hidden() {
        // Where TMPDIR is, other directories are hidden.
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let root = dir.path().to_str().unwrap();
        let host = host(root);
        for below in ["srv/tf", "home/tf", "var/lib/blockhost/terraform"] {
            assert_eq!(refused(&host, &format!("{root}/{below}")), None);
        }
        assert!(refused(&host, &format!("{root}-other/tf")).unwrap().contains("PrivateTmp"));
        assert!(refused(&host, "/home/tf").unwrap().contains("ProtectHome"));
    }

    #[test]
    fn a_link_is_judged_by_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = host("/");
        host.state_dir = dir.path().join("state");
        for folder in ["state", "elsewhere"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let path = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("/home", path("elsewhere/link")).unwrap();
        std::os::unix::fs::symlink("/home", path("state/terraform")).unwrap();
        std::os::unix::fs::symlink(path("elsewhere"), path("state/vms")).unwrap();
        let shown = |name: &str| path(name).display().to_string();
        for name in ["elsewhere/link/tf", "state/terraform"] {
            // /tmp itself is hidden from the services too, but the paths of a lab are not checked.
            host.config_dirs = vec![path("etc/blockhost")];
            let text = refused(&host, &shown(name)).unwrap();
            assert!(text.contains("it leads to /home") && text.contains("ProtectHome"), "{text}");
        }
        assert_eq!(refused(&host, &shown("state/vms")), None);
        assert!(
            !is_ours(&host, &resolved(&path("state/vms"))) && is_ours(&host, &resolved(&path("state/new")))
        );
        let real = resolved(&path("elsewhere"));
        assert_eq!(resolved(&path("state/vms/new/one")), real.join("new/one"));
    }
}
