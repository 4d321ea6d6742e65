//! What a command asked of the kernel: strace(1), for files that get their names by a rename.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const CALLS: &str = "trace=write,pwrite64,writev,copy_file_range,sendfile,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat";

/// `command` under strace, which writes a file for each thread into `folder`.
pub fn traced(command: &Command, folder: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args([
        "--seccomp-bpf",
        "-ff",
        "-qq",
        "-y",
        "-s",
        "0",
        "-e",
        CALLS,
        "-e",
        "status=successful",
        "-o",
    ]);
    strace.arg(folder.join("calls")).arg(command.get_program()).args(command.get_args());
    strace.current_dir(command.get_current_dir().unwrap_or(Path::new("/"))).env_clear();
    for (key, value) in command.get_envs() {
        strace.env(key, value.unwrap());
    }
    strace
}

/// A file that got its name by a rename.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Renamed {
    pub name: PathBuf,
    /// It was on the disk before, with all that was written.
    pub file_was_synced: bool,
    /// Its folder was put on the disk after.
    pub folder_was_synced: bool,
}

/// All renames below `root` that the files in `folder` tell of.
pub fn renames(folder: &Path, root: &Path) -> BTreeSet<Renamed> {
    let mut all = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let words: Vec<&str> = line.split('"').collect();
            if !(line.starts_with("rename") || line.starts_with("link")) || words.len() < 5 {
                continue;
            }
            let (from, name) = (words[1], PathBuf::from(words[3]));
            if !name.starts_with(root) {
                continue;
            }
            let about = |line: &str, path: &str| line.contains(&format!("<{path}>"));
            let syncs = |line: &str, path: &str| {
                (line.starts_with("fsync(") || line.starts_with("fdatasync(")) && about(line, path)
            };
            let last = lines[..at].iter().rev().find(|line| about(line, from));
            let parent = name.parent().unwrap().to_str().unwrap();
            // That of the next file does not count.
            let mut after = lines[at + 1..].iter().take_while(|line| !line.starts_with("rename"));
            all.insert(Renamed {
                file_was_synced: last.is_some_and(|line| syncs(line, from)),
                folder_was_synced: after.any(|line| syncs(line, parent)),
                name,
            });
        }
    }
    all
}

/// Fails unless each of them was synced before and its folder after, and unless all of `expected` are among them: paths
/// below `root`, in which one `*` stands for any text.
#[track_caller]
pub fn assert_synced(renamed: &BTreeSet<Renamed>, root: &Path, expected: &[&str]) {
    let torn: Vec<&Renamed> =
        renamed.iter().filter(|one| !(one.file_was_synced && one.folder_was_synced)).collect();
    assert!(torn.is_empty(), "a machine that loses its power loses these, old and new: {torn:#?}");
    let names: BTreeSet<&Path> = renamed.iter().map(|one| one.name.strip_prefix(root).unwrap()).collect();
    for pattern in expected {
        let (begin, end) = pattern.split_once('*').unwrap_or((pattern, ""));
        let is_it = |name: &Path| {
            let name = name.to_str().unwrap();
            name.starts_with(begin) && name[begin.len()..].ends_with(end)
        };
        assert!(names.iter().any(|name| is_it(name)), "no {pattern} among {names:#?}");
    }
}
