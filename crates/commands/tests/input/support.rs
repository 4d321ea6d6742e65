//! Running commands with a limit, and comparing what lies on disk.

use lab::Lab;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";

/// A command that hangs is a failure of its own; generous, because test machines are busy.
const LIMIT: Duration = Duration::from_secs(90);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The last line of stdout as the result object.
    pub fn result(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(self.stdout.lines().last().unwrap_or_default())
            .unwrap_or_else(|e| panic!("no result: {e}: {self:?}"))
    }

    /// Exit 0.
    pub fn ok(self) -> Ended {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Exit 1, nothing on stdout, and stderr is one line for a person that holds all of `words`.
    pub fn refused_in_one_line(&self, words: &[&str]) {
        self.ended_in_one_line(1, words);
    }

    /// The same with exit 2: the arguments themselves are wrong.
    pub fn wrong_usage(&self, words: &[&str]) {
        self.ended_in_one_line(2, words);
    }

    fn ended_in_one_line(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{words:?}: {self:?}");
        assert_eq!(self.stdout, "", "{words:?}: {self:?}");
        // On a busy machine one that waits for its turn says so.
        let is_of_a_wait = |line: &&str| line.contains(": waiting for another operation on it (");
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !is_of_a_wait(line)).collect();
        assert!(lines.len() == 1 && lines[0].starts_with("error: "), "{words:?}: {self:?}");
        for word in words {
            assert!(lines[0].contains(word), "{word:?} is missing: {self:?}");
        }
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, stderr) = (read_all(child.stdout.take().unwrap()), read_all(child.stderr.take().unwrap()));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{:?} hangs", command.get_program());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ended { code: status.code(), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// `blockhost-vm-<verb> <arguments>` in the lab.
pub fn vm(lab: &Lab, verb: &str, arguments: &[&str]) -> Ended {
    run(lab.command(&format!("blockhost-vm-{verb}")).args(arguments))
}

/// A create with a wallet, and `--apply`.
pub fn create(lab: &Lab, name: &str, more: &[&str]) -> Ended {
    let mut arguments = vec![name, "--owner-wallet", WALLET, "--apply"];
    arguments.extend(more);
    vm(lab, "create", &arguments)
}

/// A lab whose user has an ssh key, so that stderr holds nothing but what a test provokes.
pub fn with_key(lab: Lab) -> Lab {
    std::fs::create_dir_all(lab.path("home/.ssh")).unwrap();
    std::fs::write(lab.path("home/.ssh/id_ed25519.pub"), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@host\n")
        .unwrap();
    lab
}

/// Polls until `done`; fails after a generous limit.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A JSON file.
pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}: {text}", path.display()))
}

/// The lab's database.
pub fn database(lab: &Lab) -> Value {
    json(&lab.path("var/vms.json"))
}

/// One file, folder, link or socket, with everything about it that a write would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub inode: u64,
    pub changed: (i64, i64),
    pub content: Vec<u8>,
}

/// Everything below the folders.
pub fn tree(roots: &[PathBuf]) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    for root in roots {
        look(root, &mut seen);
    }
    assert!(!seen.is_empty());
    seen
}

/// The audit trail grows with each command, and has its own tests.
fn is_trail(path: &Path) -> bool {
    path.ends_with("var/audit")
}

fn look(path: &Path, seen: &mut BTreeMap<PathBuf, Seen>) {
    let Ok(data) = path.symlink_metadata() else { return };
    let content = if data.is_symlink() {
        path.read_link().unwrap().into_os_string().into_encoded_bytes()
    } else if data.is_file() {
        std::fs::read(path).unwrap_or_default()
    } else {
        Vec::new()
    };
    let is_socket = std::os::unix::fs::FileTypeExt::is_socket(&data.file_type());
    let it = Seen {
        // The lab's root agent gives its socket to the group a moment after it listens.
        mode: if is_socket { 0 } else { data.mode() },
        uid: data.uid(),
        gid: data.gid(),
        inode: data.ino(),
        // The state folder itself changes when the trail begins; whatever else begins in it is seen by its name.
        changed: if path.ends_with("var") || is_socket { (0, 0) } else { (data.ctime(), data.ctime_nsec()) },
        content,
    };
    seen.insert(path.to_path_buf(), it);
    if data.is_dir() {
        let entries = path.read_dir().unwrap().flatten().map(|entry| entry.path());
        entries.filter(|entry| !is_trail(entry)).for_each(|entry| look(&entry, seen));
    }
}

/// What our commands may write: configuration, state, run folder, home, share. (Sockets answer without changing.)
pub fn host_tree(lab: &Lab) -> BTreeMap<PathBuf, Seen> {
    tree(&["etc", "var", "run", "home", "share"].map(|name| lab.path(name)))
}

/// Fails with the paths that differ.
pub fn assert_same(before: &BTreeMap<PathBuf, Seen>, after: &BTreeMap<PathBuf, Seen>, why: &str) {
    let all = before.keys().chain(after.keys());
    let differ: std::collections::BTreeSet<&PathBuf> =
        all.filter(|path| before.get(*path) != after.get(*path)).collect();
    assert!(differ.is_empty(), "{why}: changed: {differ:?}");
}

/// Whether every file has the content it had; lock files and the folders that hold them may have come.
pub fn assert_same_content(before: &BTreeMap<PathBuf, Seen>, after: &BTreeMap<PathBuf, Seen>, why: &str) {
    let kept = |all: &BTreeMap<PathBuf, Seen>| -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let files = all.iter().filter(|(path, seen)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !(name.ends_with(".lock") || seen.mode & 0o170_000 == 0o040_000)
        });
        files.map(|(path, seen)| (path.clone(), (seen.mode, seen.content.clone()))).collect()
    };
    let (before, after) = (kept(before), kept(after));
    let all = before.keys().chain(after.keys());
    let differ: std::collections::BTreeSet<&PathBuf> =
        all.filter(|path| before.get(*path) != after.get(*path)).collect();
    assert!(differ.is_empty(), "{why}: changed: {differ:?}");
}
