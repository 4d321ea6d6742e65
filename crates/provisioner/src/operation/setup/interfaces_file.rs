//! Reads `/etc/network/interfaces` with everything it includes ([`crate::plan::interfaces_file`]).

use crate::plan::interfaces_file::{Part, Stanza, fits, parts};
use std::path::{Path, PathBuf};

/// Maximum nesting of includes.
const DEPTH: usize = 4;

/// Returns all stanzas of `file` and of the files it includes. Files that cannot be read are skipped, as ifupdown does.
pub(super) fn read(file: &Path) -> Vec<Stanza> {
    let mut found = Vec::new();
    add(file, DEPTH, &mut found);
    found
}

fn add(file: &Path, depth: usize, found: &mut Vec<Stanza>) {
    let Ok(text) = crate::host::read_file::text(file) else { return };
    for part in parts(file, &text) {
        match part {
            Part::Stanza(stanza) => found.push(stanza),
            Part::Include(pattern) if depth > 0 => {
                for path in matching(file, &pattern) {
                    add(&path, depth - 1, found);
                }
            }
            Part::Include(_) => {}
        }
    }
}

/// Returns the files that match a pattern; asterisks are supported only in its last component, where everybody puts
/// them.
fn matching(file: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern);
    let (Some(directory), Some(name)) =
        (pattern.parent(), pattern.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    if !name.contains('*') {
        return vec![pattern];
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .filter(|path| fits(name, path.file_name().and_then(|name| name.to_str()).unwrap_or_default()))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_of_included_files_are_found_with_their_options() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("interfaces.d")).unwrap();
        let main = dir.path().join("interfaces");
        std::fs::write(
            &main,
            "# x\nauto lo\niface lo inet loopback\nauto eno1\niface eno1 inet static\n\taddress  192.0.2.7/24\n\tup ip route add \\\n\t 10.0.0.0/8 dev eno1\n\niface eno1 inet6 auto\nsource interfaces.d/*\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("interfaces.d/sdn"), "auto vnet1\niface vnet1\n\tbridge_ports none\n")
            .unwrap();
        let found = read(&main);
        let show: Vec<String> = found
            .iter()
            .map(|s| format!("{} {} {} [{}]", s.name, s.family, s.method, s.options.join("; ")))
            .collect();
        assert_eq!(
            show,
            [
                "lo inet loopback []",
                "eno1 inet static [address 192.0.2.7/24; up ip route add 10.0.0.0/8 dev eno1]",
                "eno1 inet6 auto []",
                "vnet1   [bridge_ports none]",
            ]
        );
        assert!(found[3].file.ends_with("interfaces.d/sdn"));
        assert!(read(&dir.path().join("none")).is_empty());
    }
}
