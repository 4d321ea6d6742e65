//! The guest agent: ping, exec, exec-status, and what it tells of the guest.
//!
//! A guest's command is run by the host's own `/bin/sh` in the guest's folder, with the guest's stand-ins for the
//! programs that would change a machine first on its PATH. See `tool::guest` for them.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};

use super::guest_system;
use super::refusal::{Outcome, Refusal};
use super::{Node, Shared, pause};

/// QEMU's agent keeps so much of each stream.
const OUTPUT_LIMIT: u64 = 16 << 20;
/// No command of a test outlives this.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// Programs of the guest that have a stand-in, and files that are its own: a command that names them by their usual
/// path must not reach the host's.
pub(crate) const STAND_INS: &[&str] =
    &["usermod", "getent", "hostname", "hostnamectl", "poweroff", "reboot", "shutdown"];

/// A command that ran or runs in a guest.
#[derive(Debug, Clone)]
pub(crate) struct Execution {
    vmid: u32,
    result: Option<ExecResult>,
    stop: Arc<Notify>,
    over: watch::Sender<bool>,
}

/// How it ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExecResult {
    code: Option<i32>,
    signal: Option<i32>,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// All commands in all guests.
#[derive(Debug, Default)]
pub(crate) struct Executions {
    table: Mutex<(u32, BTreeMap<u32, Execution>)>,
}

impl Executions {
    fn table(&self) -> MutexGuard<'_, (u32, BTreeMap<u32, Execution>)> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what runs in a guest and forgets what ran.
    pub fn guest_is_off(&self, vmid: u32) {
        self.table().1.retain(|_, execution| {
            if execution.vmid == vmid {
                execution.stop.notify_one();
            }
            execution.vmid != vmid
        });
    }
}

/// What must be true before anything is asked of the agent, in Proxmox' order and wording.
///
/// # Errors
/// Missing, not configured, not running, silent. The silent one takes the ping's time.
pub(crate) async fn check(node: &Node, on: &str, vmid: u32) -> Outcome<()> {
    let silent = {
        let state = node.state();
        let guest = state.guest(on, vmid)?;
        if guest.get("agent").is_none() {
            return Err(Refusal::die("No QEMU guest agent configured"));
        }
        if guest.run.is_none() {
            return Err(Refusal::die(format!("VM {vmid} is not running")));
        }
        !guest.agent_answers()
    };
    if silent {
        pause(node.timing().agent_ping).await;
        return Err(Refusal::die("QEMU guest agent is not running"));
    }
    Ok(())
}

/// Starts a command; gives its PID in the guest.
///
/// # Errors
/// As [`check`]; the agent's own error when the program cannot be started.
pub(crate) async fn exec(
    node: &Shared,
    on: &str,
    vmid: u32,
    command: &[String],
    input: Vec<u8>,
) -> Outcome<u32> {
    check(node, on, vmid).await?;
    if lost_bytes(command) > 1 {
        if let Ok(guest) = node.state().guest_mut(on, vmid)
            && let Some(run) = &mut guest.run
        {
            run.agent_stuck = true;
        }
        // Proxmox gives the agent more time for a command than for a ping.
        pause(node.timing().agent_ping * 2).await;
        return Err(Refusal::die(format!("VM {vmid} qmp command 'guest-exec' failed - got timeout")));
    }
    node.log.add("guest", format!("exec {vmid}"), None, json!(command));
    let program = command
        .first()
        .ok_or_else(|| Refusal::parameter("command", "property is missing and it is not optional"))?;
    let root = node.guest_folder(vmid);
    let mut child = run_in_guest(&node.dir, &root, command)
        .spawn()
        .map_err(|_| Refusal::die(format!("Agent error: Guest agent command failed, error was 'Failed to execute child process “{program}” (No such file or directory)'")))?;
    let stop = Arc::new(Notify::new());
    let over = watch::Sender::new(false);
    let pid = {
        let mut table = node.executions.table();
        table.0 += 1;
        let pid = 1_000 + table.0;
        table.1.insert(pid, Execution { vmid, result: None, stop: stop.clone(), over });
        pid
    };
    let shared = node.clone();
    tokio::spawn(async move {
        let mut stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin.take() {
                // A command need not read what it is given.
                let _ = stdin.write_all(&input).await;
            }
        };
        let gather = async {
            let (_, out, err, status) = tokio::join!(write, read(stdout), read(stderr), child.wait());
            (out, err, status)
        };
        let result = tokio::select! {
            (out, err, status) = gather => match status {
                Ok(status) => ExecResult { code: status.code(), signal: status.signal(), out, err },
                Err(_) => ExecResult { signal: Some(9), ..ExecResult::default() },
            },
            () = stop.notified() => ExecResult { signal: Some(9), ..ExecResult::default() },
            () = tokio::time::sleep(COMMAND_LIMIT) => ExecResult { signal: Some(9), ..ExecResult::default() },
        };
        let mut table = shared.executions.table();
        if let Some(execution) = table.1.get_mut(&pid) {
            execution.result = Some(result);
            execution.over.send_replace(true);
        }
    });
    Ok(pid)
}

/// How many bytes a request to the agent lacks at its end: Proxmox writes as many bytes as it has characters. One is
/// its newline, which nobody misses; with more the agent waits for the rest, and is stuck until it is started anew.
fn lost_bytes(command: &[String]) -> usize {
    command.iter().map(|word| word.len() - word.chars().count()).sum()
}

async fn read(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What was read before an error is the output.
        let _ = stream.take(OUTPUT_LIMIT).read_to_end(&mut bytes).await;
    }
    bytes
}

fn run_in_guest(dir: &Path, root: &Path, command: &[String]) -> tokio::process::Command {
    let stand_ins = dir.join("guest-bin");
    let own = |text: &str| guest_paths(text, &stand_ins, root);
    // The helper of this program dies with the lab and then becomes the command.
    let mut process = tokio::process::Command::new(dir.join("bin/.in-guest"));
    let program = command.first().map(String::as_str).unwrap_or_default();
    process.arg(if program == "sh" { "/bin/sh".into() } else { own(program) });
    process.args(command.iter().skip(1).map(|word| own(word)));
    process
        .env_clear()
        .env(
            "PATH",
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", stand_ins.display()),
        )
        .env("LAB_GUEST_ROOT", root)
        .env(crate::tool::client::NODE_PID, std::process::id().to_string())
        .env("HOME", root)
        .current_dir(root)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    process
}

/// A text of the guest with the absolute paths that must not reach the host replaced.
fn guest_paths(text: &str, stand_ins: &Path, root: &Path) -> String {
    let mut text = text.to_owned();
    for name in STAND_INS {
        for folder in ["/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"] {
            text = replace_word(&text, &format!("{folder}{name}"), &stand_ins.join(name).to_string_lossy());
        }
    }
    for file in ["/etc/passwd", "/etc/hostname", "/etc/resolv.conf"] {
        text = replace_word(&text, file, &format!("{}{file}", root.display()));
    }
    text
}

/// Replaces `word` where it is not the end of a longer path nor goes on.
fn replace_word(text: &str, word: &str, with: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let inside = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let free = !rest[..at].chars().next_back().is_some_and(inside)
            && !rest[at + word.len()..]
                .chars()
                .next()
                .is_some_and(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        result.push_str(&rest[..at]);
        result.push_str(if free { with } else { word });
        rest = &rest[at + word.len()..];
    }
    result + rest
}

/// The state of a command. Once it is over the answer is given once.
///
/// # Errors
/// As [`check`]; an unknown PID is the agent's own error.
pub(crate) async fn exec_status(node: &Node, on: &str, vmid: u32, pid: u32) -> Outcome<Value> {
    check(node, on, vmid).await?;
    let mut table = node.executions.table();
    let execution = table
        .1
        .get(&pid)
        .filter(|execution| execution.vmid == vmid)
        .ok_or_else(|| Refusal::die("Agent error: Invalid parameter 'pid'"))?;
    let Some(result) = execution.result.clone() else {
        return Ok(json!({"exited": 0}));
    };
    table.1.remove(&pid);
    let mut answer = json!({"exited": 1});
    if let Some(code) = result.code {
        answer["exitcode"] = json!(code);
    }
    if let Some(signal) = result.signal {
        answer["signal"] = json!(signal);
    }
    for (key, cut, bytes) in
        [("out-data", "out-truncated", &result.out), ("err-data", "err-truncated", &result.err)]
    {
        if !bytes.is_empty() {
            answer[key] = json!(double_encoded(bytes));
        }
        if bytes.len() as u64 == OUTPUT_LIMIT {
            answer[cut] = json!(1);
        }
    }
    Ok(answer)
}

/// Waits until a command is over, at most so long.
pub(crate) async fn wait(node: &Node, pid: u32, limit: Duration) -> bool {
    let over = node.executions.table().1.get(&pid).map(|execution| execution.over.subscribe());
    let Some(mut over) = over else { return true };
    let poll = node.timing().exec_poll;
    let ended = tokio::time::timeout(limit, over.wait_for(|over| *over)).await.is_ok();
    if ended {
        // Proxmox looks once in a while, so the answer comes with the next look.
        pause(poll).await;
    }
    ended
}

/// Each byte taken for a Latin-1 character: the text is UTF-8-encoded a second time on its way out.
fn double_encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// What the agent says of the guest's interfaces.
pub(crate) async fn interfaces(node: &Node, on: &str, vmid: u32) -> Outcome<Value> {
    check(node, on, vmid).await?;
    let state = node.state();
    let guest = state.guest(on, vmid)?;
    let address = |address: &str, length: u8, six: bool| json!({"ip-address": address, "ip-address-type": if six { "ipv6" } else { "ipv4" }, "prefix": length});
    let own: Vec<Value> = guest_system::addresses(guest)
        .iter()
        .map(|(text, length, six)| address(text, *length, *six))
        .chain([address("fe80::be24:11ff:fe00:1", 64, true)])
        .collect();
    let mac = guest.nics().first().map(|(_, nic)| nic.mac.to_lowercase()).unwrap_or_default();
    Ok(json!({"result": [
        {"name": "lo", "hardware-address": "00:00:00:00:00:00",
         "ip-addresses": [address("127.0.0.1", 8, false), address("::1", 128, true)]},
        {"name": "eth0", "hardware-address": mac, "ip-addresses": own,
         "statistics": {"rx-bytes": guest.uptime().as_secs() * guest.behaviour.figures.netin}},
    ]}))
}

/// What the agent says of the guest's file systems: the root, a boot partition without figures, a read-only image.
pub(crate) async fn file_systems(node: &Node, on: &str, vmid: u32) -> Outcome<Value> {
    check(node, on, vmid).await?;
    let state = node.state();
    let guest = state.guest(on, vmid)?;
    let total = guest.boot_disk_size().saturating_sub(200 << 20);
    Ok(json!({"result": [
        {"name": "sda1", "mountpoint": "/", "type": "ext4", "used-bytes": guest.behaviour.figures.fs_used,
         "total-bytes": total, "disk": [{"bus-type": "scsi", "dev": "/dev/sda1"}]},
        {"name": "sda15", "mountpoint": "/boot/efi", "type": "vfat", "disk": []},
        {"name": "loop0", "mountpoint": "/snap/core/1", "type": "squashfs", "used-bytes": 60 << 20,
         "total-bytes": 60 << 20, "disk": []},
    ]}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_guest_do_not_reach_the_host() {
        let own = |text| guest_paths(text, Path::new("/lab/bin"), Path::new("/lab/g"));
        assert_eq!(own("/usr/sbin/usermod"), "/lab/bin/usermod");
        assert_eq!(
            own("x; /usr/sbin/usermod -c a b && grep b /etc/passwd"),
            "x; /lab/bin/usermod -c a b && grep b /lab/g/etc/passwd"
        );
        assert_eq!(own("/home/bin/usermod /etc/passwd-"), "/home/bin/usermod /etc/passwd-");
    }

    #[test]
    fn h25_output_is_encoded_twice() {
        let text = double_encoded("é".as_bytes());
        assert_eq!(text, "Ã©");
        let back: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        assert_eq!(String::from_utf8(back).unwrap(), "é");
    }
}
