//! The only connection to the root agent: one request per connection, in frames of a 4-byte length and JSON
//! (`facts/contract/root-agent.md`).

use super::clock::Deadline;
use super::doors::Doors;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::{Map, Value, json};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const FRAME_LIMIT: u32 = 10 * 1024 * 1024;

/// Why the root agent did not carry out a request. "Could not ask" differs from "asked, and the answer is no".
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AgentError {
    /// The socket does not exist.
    #[error(
        "the root agent's socket {0} does not exist; is blockhost-root-agent running? (systemctl status blockhost-root-agent)"
    )]
    NoSocket(String),
    /// This user may not open the socket.
    #[error("no permission for the root agent's socket {0}; is this user in group blockhost?")]
    NotPermitted(String),
    /// The socket exists, but no daemon listens.
    #[error(
        "the root agent refuses connections at {0}; it has crashed or is still starting (systemctl restart \
         blockhost-root-agent)"
    )]
    Refused(String),
    /// The connection ended before the answer was complete; whether the action was carried out is unknown (H48).
    #[error(
        "the root agent closed the connection before answering {0}; it is unknown whether it was carried out"
    )]
    ClosedEarly(String),
    /// The answer is not a JSON object.
    #[error("the root agent's answer to {0} is not JSON")]
    NotJson(String),
    /// The answer is larger than a frame may be.
    #[error("the root agent's answer to {0} is larger than 10 MiB")]
    TooLarge(String),
    /// No answer in time; whether the action was or will be carried out is unknown (H48).
    #[error("the root agent did not answer {action} within {seconds} s; {}", after_silence(action))]
    TimedOut {
        /// The action.
        action: String,
        /// The time limit in seconds.
        seconds: u64,
    },
    /// Any other error of the socket.
    #[error("cannot talk to the root agent about {action}: {why}")]
    Broken {
        /// The action.
        action: String,
        /// The operating system's error message.
        why: String,
    },
    /// The agent refused the request, or its tool failed.
    #[error("the root agent refused {action}: {}", with_way_out(error))]
    Said {
        /// The action.
        action: String,
        /// The agent's error text.
        error: String,
        /// `identity`, `missing`, `elsewhere`, `locked`, `range`, `bridge` or `failed`; empty from other actions.
        code: String,
        /// The agent gave up waiting for its tool, which may have acted.
        unknown: bool,
    },
}

/// A tool's error text, with advice in the three cases that operators meet.
pub fn with_way_out(words: &str) -> String {
    // The text contains the advice already, having been passed on.
    if ["wait until the ", "deleted outside BlockHost", "try again when the guest"]
        .iter()
        .any(|sign| words.contains(sign))
    {
        return words.to_string();
    }
    if let Some((_, rest)) = words.split_once("VM is locked (") {
        let lock = rest.split(')').next().unwrap_or_default();
        return format!(
            "{words}: wait until the {lock} ends, or remove a stale lock with qm unlock and the VMID"
        );
    }
    let advice = match words {
        words if words.contains("does not exist in the cluster") => {
            " (deleted outside BlockHost?); restore it from a backup, or close its record with blockhost-vm-destroy"
        }
        words if words.contains("QEMU guest agent is not running") => {
            "; try again when the guest has booted, and make sure that qemu-guest-agent is running in it"
        }
        _ => "",
    };
    format!("{words}{advice}")
}

/// What a missing answer means: a query has changed nothing.
fn after_silence(action: &str) -> &'static str {
    match action {
        "vm-state" | "vm-find" | "guest-list" | "host-inventory" | "volume-list" => {
            "see systemctl status blockhost-root-agent"
        }
        _ => "it may still carry it out (see systemctl status blockhost-root-agent)",
    }
}

impl AgentError {
    /// The code of the agent's refusal; empty if it gave none.
    pub fn code(&self) -> &str {
        match self {
            AgentError::Said { code, .. } => code,
            _ => "",
        }
    }

    /// Whether the root agent does not know the action: it, or its plugin, is older than this command.
    pub fn is_unknown_action(&self) -> bool {
        matches!(self, AgentError::Said { error, code, .. }
            if code.is_empty() && error.to_ascii_lowercase().contains("unknown action"))
    }

    /// Whether the action may have been carried out all the same: then the caller checks the state and never guesses
    /// (H48).
    pub fn outcome_unknown(&self) -> bool {
        match self {
            AgentError::NoSocket(_) | AgentError::NotPermitted(_) | AgentError::Refused(_) => false,
            AgentError::Said { unknown, .. } => *unknown,
            _ => true,
        }
    }
}

/// Asks the root agent to carry out `action` and returns its answer, which contains `"ok": true`.
pub fn call(
    doors: Doors,
    socket: &Path,
    action: &str,
    params: Value,
    deadline: Deadline,
) -> Result<Map<String, Value>, AgentError> {
    let begun = doors.stopwatch();
    // Parameters may be secret; the VMID they are about is not.
    let about = params.get("vmid").map(|vmid| format!(" of VMID {vmid}")).unwrap_or_default();
    let answer = exchange(doors, socket, action, params, deadline);
    let words = answer.as_ref().map_or_else(|error| error.code().to_string(), |_| "ok".to_string());
    let words = if words.is_empty() { "failed" } else { &words };
    tracing::debug!("root agent: {action}{about}: {words} ({} ms)", begun.elapsed().as_millis());
    answer
}

fn exchange(
    doors: Doors,
    socket: &Path,
    action: &str,
    params: Value,
    deadline: Deadline,
) -> Result<Map<String, Value>, AgentError> {
    let limit = deadline.left();
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            AgentError::TimedOut { action: action.to_string(), seconds: limit.as_secs().max(1) }
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            AgentError::ClosedEarly(action.to_string())
        }
        _ => AgentError::Broken { action: action.to_string(), why: error.to_string() },
    };
    let mut stream = open(doors, socket, deadline).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => AgentError::NoSocket(socket.display().to_string()),
        io::ErrorKind::PermissionDenied => AgentError::NotPermitted(socket.display().to_string()),
        io::ErrorKind::ConnectionRefused => AgentError::Refused(socket.display().to_string()),
        _ => broken(error),
    })?;
    let request = json!({ "action": action, "params": params }).to_string().into_bytes();
    let length = u32::try_from(request.len()).ok().filter(|n| *n <= FRAME_LIMIT);
    let Some(length) = length else {
        return Err(AgentError::Broken {
            action: action.to_string(),
            why: "the request is larger than 10 MiB".into(),
        });
    };
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&request);
    stream.set_write_timeout(Some(remaining(deadline))).map_err(broken)?;
    stream.write_all(&frame).map_err(broken)?;
    if let Some(machine) = doors.machine() {
        machine.answer();
    }

    let mut header = [0; 4];
    read_exact(&mut stream, &mut header, deadline).map_err(broken)?;
    let length = u32::from_be_bytes(header);
    if length > FRAME_LIMIT {
        return Err(AgentError::TooLarge(action.to_string()));
    }
    let mut body = vec![0; length as usize];
    read_exact(&mut stream, &mut body, deadline).map_err(broken)?;
    let Ok(Value::Object(answer)) = serde_json::from_slice(&body) else {
        return Err(AgentError::NotJson(action.to_string()));
    };
    if answer.get("ok") == Some(&Value::Bool(true)) {
        return Ok(answer);
    }
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_string();
    let error = match text("error") {
        words if words.is_empty() => "no reason given".to_string(),
        words => words,
    };
    let unknown = answer.get("unknown") == Some(&Value::Bool(true));
    Err(AgentError::Said { action: action.to_string(), error, code: text("code"), unknown })
}

/// Connects without blocking past the deadline: connect would block while the backlog of the busy single-lane daemon is
/// full.
fn open(doors: Doors, socket: &Path, deadline: Deadline) -> io::Result<UnixStream> {
    if let Some(machine) = doors.machine() {
        return machine.connect();
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(socket)?;
    loop {
        match connect(&fd, &address) {
            Ok(()) => break,
            Err(rustix::io::Errno::AGAIN) if !deadline.passed() => deadline.sleep(Duration::from_millis(5)),
            Err(error) => return Err(error.into()),
        }
    }
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// `read_exact` with a deadline for the whole read, not for each piece.
fn read_exact(stream: &mut UnixStream, mut buffer: &mut [u8], deadline: Deadline) -> io::Result<()> {
    while !buffer.is_empty() {
        if deadline.passed() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(remaining(deadline)))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer = &mut buffer[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn remaining(deadline: Deadline) -> Duration {
    deadline.left().max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A daemon for one connection that reads the request and answers with these bytes.
    fn answering(bytes: Vec<u8>, wait: Duration) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut header = [0; 4];
            stream.read_exact(&mut header).unwrap();
            let mut body = vec![0; u32::from_be_bytes(header) as usize];
            stream.read_exact(&mut body).unwrap();
            std::thread::sleep(wait);
            let _ = stream.write_all(&bytes);
        });
        (dir, path)
    }

    fn framed(text: &str) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    }

    fn ask(bytes: Vec<u8>) -> Result<Map<String, Value>, AgentError> {
        let (_dir, path) = answering(bytes, Duration::ZERO);
        let doors = Doors::real();
        call(doors, &path, "vm-state", json!({"vmid": 100}), doors.deadline(Duration::from_secs(5)))
    }

    #[test]
    fn every_way_of_failing_has_its_own_words() {
        assert!(ask(framed(r#"{"ok": true, "exists": false}"#)).is_ok());
        assert_eq!(ask(vec![]), Err(AgentError::ClosedEarly("vm-state".into())));
        assert_eq!(ask(vec![0, 0, 0, 9, b'{']), Err(AgentError::ClosedEarly("vm-state".into())));
        assert_eq!(ask(framed("rubbish")), Err(AgentError::NotJson("vm-state".into())));
        assert_eq!(ask(framed("[1]")), Err(AgentError::NotJson("vm-state".into())));
        assert_eq!(ask(vec![0x7f, 0, 0, 0]), Err(AgentError::TooLarge("vm-state".into())));
        let said = ask(framed(r#"{"ok": false, "error": "not ours", "code": "identity"}"#)).unwrap_err();
        assert_eq!(said.code(), "identity");
        assert!(said.to_string().contains("not ours") && !said.outcome_unknown());
        let slow = ask(framed(r#"{"ok": false, "error": "timed out", "code": "failed", "unknown": true}"#));
        assert!(slow.unwrap_err().outcome_unknown(), "H48: its tool may have acted");
        assert!(ask(framed(r#"{"ok": 1}"#)).unwrap_err().to_string().contains("no reason"));
    }

    #[test]
    fn h23_a_silent_agent_is_given_up_at_the_deadline() {
        let (_dir, path) = answering(framed("{}"), Duration::from_secs(30));
        let doors = Doors::real();
        let deadline = doors.deadline(Duration::from_millis(50));
        let error = call(doors, &path, "qm-stop", json!({}), deadline).unwrap_err();
        assert!(matches!(error, AgentError::TimedOut { .. }) && error.outcome_unknown(), "{error}");
    }

    #[test]
    fn no_socket_and_a_dead_socket_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let doors = Doors::real();
        let ask = || call(doors, &path, "x", json!({}), doors.deadline(Duration::from_secs(1))).unwrap_err();
        assert!(matches!(ask(), AgentError::NoSocket(_)));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(ask(), AgentError::Refused(_)));
    }
}
