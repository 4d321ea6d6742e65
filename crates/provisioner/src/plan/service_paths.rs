//! Directories outside the state directory that the services write: which ones their units could never write, and the
//! drop-in for the others.
//!
//! In `debian/blockhost-gc.service` and `debian/blockhost-reapply.service` only `/var/lib/blockhost` and
//! `/run/blockhost` are writable, and some directories are not visible at all.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

/// The units that write these directories.
pub const UNITS: [&str; 2] = ["blockhost-gc.service", "blockhost-reapply.service"];

/// Directories that the units cannot write, and the setting responsible. The tests compare this with `debian/`.
const HIDDEN: [(&str, &str); 12] = [
    ("/home", "ProtectHome=yes"),
    ("/root", "ProtectHome=yes"),
    ("/run/user", "ProtectHome=yes"),
    ("/tmp", "PrivateTmp=yes"),
    ("/var/tmp", "PrivateTmp=yes"),
    ("/dev", "PrivateDevices=yes"),
    ("/proc", "ProtectKernelTunables=yes"),
    ("/sys", "ProtectKernelTunables=yes"),
    ("/usr", "ProtectSystem=strict"),
    ("/boot", "ProtectSystem=strict"),
    ("/efi", "ProtectSystem=strict"),
    ("/etc", "ProtectSystem=strict"),
];
/// Too broad to be made writable, although directories below may be.
const TOO_WIDE: [&str; 3] = ["/", "/var", "/var/lib"];

/// A directory, by its configured and its real path.
#[derive(Debug, Clone, Copy)]
pub struct Place<'p> {
    /// The configuration key that names it, with its file.
    pub named: &'p str,
    /// The path as configured.
    pub path: &'p Path,
    /// The path with all links resolved.
    pub real: &'p Path,
    /// Whether it is in the state directory, which the units can write already.
    pub in_state_dir: bool,
    /// The state directory.
    pub state_dir: &'p Path,
}

/// Fails for a path that no unit file could name.
pub fn check_spelling(named: &str, path: &Path) -> anyhow::Result<()> {
    let plain = path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !has_control(path);
    anyhow::ensure!(
        plain,
        "{named}: {path:?} is not allowed: expected an absolute path without '..' and control characters"
    );
    Ok(())
}

/// Whether a path contains control characters, which would start lines of their own in a unit file.
pub fn has_control(path: &Path) -> bool {
    path.to_string_lossy().chars().any(char::is_control)
}

/// Returns the directory that is hidden from the units and contains this path, and the setting of the unit that hides
/// it.
pub fn hidden(path: &Path) -> Option<(&'static str, &'static str)> {
    HIDDEN.into_iter().find(|(folder, _)| path.starts_with(folder))
}

impl Place<'_> {
    /// Fails for directories that the services could never write. `exempt`: paths to which the units' restrictions do
    /// not matter.
    pub fn check(&self, exempt: impl Fn(&Path) -> bool) -> anyhow::Result<()> {
        let Place { named, real, in_state_dir: ours, .. } = *self;
        let path = self.path.display();
        let state_dir = self.state_dir.display();
        let shown =
            if real == self.path { String::new() } else { format!(" (it leads to {})", real.display()) };
        // If the state directory itself was moved to a hidden place, the units do not matter.
        if ours && hidden(self.state_dir).is_some() {
            return Ok(());
        }
        for one in [self.path, real].into_iter().filter(|path| !exempt(path)) {
            anyhow::ensure!(
                ours || !TOO_WIDE.iter().any(|wide| one == Path::new(wide)),
                "{named}: {path}{shown} is not allowed: the services could then write everywhere below it; use a directory of \
                 its own, like {state_dir}"
            );
            if let Some((folder, why)) = hidden(one) {
                anyhow::bail!(
                    "{named}: {path}{shown} is below {folder}, which blockhost-gc.service and \
                     blockhost-reapply.service cannot write ({why}), so each of their runs would fail; use a \
                     directory below {state_dir}, or one like /srv/blockhost"
                );
            }
        }
        Ok(())
    }
}

/// Returns the drop-in. `-`: a missing directory (a disk that is not mounted) must not keep the service from starting;
/// the service reports more clearly what is missing.
pub fn drop_in(db_yaml: &Path, state_dir: &Path, paths: &[PathBuf]) -> String {
    let mut text = format!(
        "# Made by blockhost-provisioner-setup (steps terraform and db_config), which removes it once it is not needed:\n\
         # directories that {} names outside of {}.\n[Service]\n",
        db_yaml.display(),
        state_dir.display()
    );
    for path in paths {
        let _ = writeln!(text, "ReadWritePaths=\"-{}\"", escaped(&path.to_string_lossy()));
    }
    text
}

/// Escapes a path for systemd's quotes: `%` begins a specifier, a backslash an escape.
fn escaped(path: &str) -> String {
    path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_judged_by_its_name_and_by_where_it_leads() {
        let state_dir = Path::new("/var/lib/blockhost");
        let refused = |path: &str, real: &str, in_state_dir, state_dir| {
            let (path, real) = (Path::new(path), Path::new(real));
            let place = Place { named: "db.yaml: db_file", path, real, in_state_dir, state_dir };
            place.check(|path| path.starts_with("/tmp/lab")).err().map(|error| error.to_string())
        };
        for (path, real, ours, why) in [
            ("/srv/tf", "/srv/tf", false, None),
            ("/srv/tf", "/home/tf", false, Some("(it leads to /home/tf) is below /home")),
            ("/home/tf", "/srv/tf", false, Some("is below /home")),
            ("/srv/tf", "/var", false, Some("everywhere below it")),
            ("/var/lib", "/var/lib", true, None),
            ("/var/lib/blockhost/tf", "/root/tf", true, Some("ProtectHome=yes")),
            ("/tmp/lab/tf", "/tmp/lab/tf", false, None),
            ("/tmp/lab/tf", "/tmp/other", false, Some("PrivateTmp=yes")),
        ] {
            let text = refused(path, real, ours, state_dir);
            assert_eq!(text.is_some(), why.is_some(), "{path} {real}: {text:?}");
            assert!(text.is_none_or(|text| text.contains(why.unwrap())), "{path} {real}");
        }
        // If the state directory itself is in a hidden place, the units do not matter.
        assert_eq!(refused("/home/b/tf", "/home/b/tf", true, Path::new("/home/b")), None);
    }

    #[test]
    fn the_drop_in_is_written_as_systemd_reads_it() {
        let text = drop_in(
            Path::new("/etc/blockhost/db.yaml"),
            Path::new("/var/lib/blockhost"),
            &["/srv/a b".into(), "/mnt/100%\"x\\y".into()],
        );
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            ["[Service]", "ReadWritePaths=\"-/srv/a b\"", "ReadWritePaths=\"-/mnt/100%%\\\"x\\\\y\""]
        );
    }

    #[test]
    fn the_units_hide_what_this_table_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../debian");
        for unit in UNITS {
            let text = std::fs::read_to_string(folder.join(unit)).unwrap();
            for (_, key) in HIDDEN {
                assert!(text.lines().any(|line| line == key), "{unit}: {key}");
            }
            for key in ["ProtectHome", "ProtectSystem", "PrivateTmp", "ReadWritePaths"] {
                assert!(text.contains(&format!("\n{key}=")), "{unit}: {key}");
            }
        }
    }
}
