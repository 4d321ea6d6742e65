//! Reads the output of `terraform … -json` line by line (`facts/terraform.md`, section 3).

use serde_json::Value;

/// A diagnostic: an error or a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What failed, as reported by terraform or the provider.
    pub summary: String,
    /// Why.
    pub detail: String,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        match (one_line(&self.summary), one_line(&self.detail)) {
            (summary, detail) if detail.is_empty() || detail == summary => f.write_str(&summary),
            (summary, detail) => write!(f, "{summary}: {detail}"),
        }
    }
}

/// A relevant line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something started or ended; for the progress display.
    Progress(String),
    /// An error.
    Error(Diagnostic),
    /// A problem that did not stop the run, like a disk that could not be freed.
    Warning(Diagnostic),
    /// A line that is not JSON: an error of terraform from before it can print JSON.
    Plain(String),
}

/// Terraform's warnings about `-target`, which occur in all our runs.
const ABOUT_TARGETS: [&str; 2] = ["Resource targeting is in effect", "Applied changes may be incomplete"];

/// Reads one line; `None` for lines that nobody needs to see (including warnings about targets).
pub fn parse_line(line: &str) -> Option<Event> {
    let line = line.trim();
    if line.is_empty() {
        return None;
    }
    let Ok(Value::Object(event)) = serde_json::from_str::<Value>(line) else {
        return Some(Event::Plain(line.to_string()));
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_string();
    match text(event.get("type")).as_str() {
        "apply_start" | "apply_progress" | "apply_complete" | "apply_errored" => {
            Some(Event::Progress(text(event.get("@message"))))
        }
        "diagnostic" => {
            let diagnostic = event.get("diagnostic")?;
            let is_error = text(diagnostic.get("severity")) == "error";
            let diagnostic = Diagnostic {
                summary: text(diagnostic.get("summary")),
                detail: text(diagnostic.get("detail")),
            };
            match ABOUT_TARGETS.contains(&diagnostic.summary.as_str()) {
                _ if is_error => Some(Event::Error(diagnostic)),
                true => None,
                false => Some(Event::Warning(diagnostic)),
            }
        }
        _ => None,
    }
}

/// What a failure means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Somebody else has taken the VMID in the meantime: choose another (H46).
    VmidTaken,
    /// Template or guest were busy: try the same again later (H22).
    Busy,
    /// Any other failure.
    Other,
}

/// Whether something already exists that should not for this VMID: a configuration, a volume, an rbd image, a dataset,
/// a logical volume. Each storage has its own wording (`facts/proxmox.md`), but all of them contain "exists". Messages
/// that only name another VM do not count, and neither does a systemd unit that is being stopped, which goes away by
/// itself.
fn says_exists(words: &str, vmid: u32) -> bool {
    let words = words.to_ascii_lowercase();
    let mut said = words.match_indices("exists").map(|(at, _)| &words[..at]);
    let is_said = said.any(|before| {
        !["not ", "no longer ", "n't ", ".scope already ", "systemd1.unit"]
            .iter()
            .any(|other| before.ends_with(other))
    });
    if !is_said && !words.contains("(17)") && !words.contains("eexist") {
        return false;
    }
    let mut named = vec![];
    for mark in ["vm ", "vm-", "base-", "subvol-", "qemu-server/"] {
        let after = words.match_indices(mark).map(|(at, mark)| &words[at + mark.len()..]);
        named.extend(after.filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse::<u32>().ok()
        }));
    }
    named.is_empty() || named.contains(&vmid)
}

/// Returns the volume of this VMID named in an error: `local-lvm:vm-100-cloudinit`, or without its storage.
pub fn volume_of(words: &str, vmid: u32) -> Option<String> {
    let parts = words.split(|c: char| c.is_whitespace() || "'\"`(),;[]".contains(c));
    let names = parts.map(|part| part.trim_end_matches([':', '.', '!']));
    let found = names.filter_map(|part| {
        let (place, name) = part.rsplit_once(['/', ':']).unwrap_or(("", part));
        let of_vm = ["vm", "base", "subvol"].iter().any(|kind| name.starts_with(&format!("{kind}-{vmid}-")));
        let folder = format!("/{vmid}");
        of_vm.then(|| match part.contains(':') {
            true => part.to_string(),
            // Directory storages keep images in a directory named after the VMID.
            false if place.ends_with(&folder) => format!("{vmid}/{name}"),
            false => name.to_string(),
        })
    });
    found.max_by_key(|name| name.contains(':'))
}

/// How the message about a terraform begins that a signal ended: nothing is known of the requests it had sent.
pub const WAS_KILLED: &str = "terraform was killed";

/// Whether a request may have been carried out although its answer was lost (H57).
pub fn lost_its_answer(diagnostics: &[Diagnostic]) -> bool {
    const LOST: [&str; 15] = [
        "EOF",
        "server closed idle connection",
        "use of closed network connection",
        "HTTP 502",
        "HTTP 504",
        "connection refused",
        "connection reset",
        "broken pipe",
        "context canceled",
        "context deadline exceeded",
        "timeout",
        "timed out",
        "HTTP 595",
        "HTTP 596",
        "HTTP 599",
    ];
    let words: String = diagnostics.iter().map(|d| format!("{} {}\n", d.summary, d.detail)).collect();
    // A terraform that ended without output was killed.
    LOST.iter().any(|w| words.contains(w)) || words.contains(WAS_KILLED)
}

/// Classifies a failure by its message (`facts/provider.md`, section 4).
pub fn kind_of(diagnostics: &[Diagnostic], vmid: u32) -> FailureKind {
    let words: String = diagnostics.iter().map(|d| format!("{} {}\n", d.summary, d.detail)).collect();
    if says_exists(&words, vmid) || words.contains(&format!("lock-{vmid}.conf")) {
        FailureKind::VmidTaken
    } else if is_passing(&words) {
        FailureKind::Busy
    } else {
        FailureKind::Other
    }
}

/// Whether the message is about a condition that goes away by itself: a lock not acquired in time, a cluster without
/// quorum, systemd still busy, a storage or another node unreachable, the API's daemon restarting (`facts/provider.md`,
/// section 4).
pub fn is_passing(words: &str) -> bool {
    let words = words.to_lowercase();
    let has = |some: &str| words.contains(some);
    // One class for each of Proxmox's own sources: PVE::Tools::lock_file, PVE::Cluster::cfs_lock, the file system's
    // write guard, PVE::AbstractConfig, PVE::Systemd, PVE::Storage, the proxy between nodes.
    let lock = has("got timeout") && (has("lock file") || has("trying to acquire") || has("lock-"))
        || has("got lock request timeout")
        || has("lock") && has("unable to acquire")
        || has("cfs-lock") && has("timeout")
        || has("'-locked command timed out");
    let cluster = has("no quorum")
        || has("cluster not ready")
        || has("cluster filesystem not online")
        || has("configuration filesystem not mounted");
    let guest = has("vm is locked (");
    // Both are from systemd; 249 and 252, which Proxmox VE 8 has, print the second.
    let scope = has(".scope already exists") || has(".scope was already loaded");
    let systemd = has("timeout waiting on systemd") || scope;
    let storage = has("storage '") && (has("is not online") || has("connection check for storage"))
        || has("command '") && has("failed: got timeout");
    let proxy = has("proxy loop detected");
    let http = [502, 503, 504, 595, 596, 599].iter().any(|code| has(&format!("http {code}")));
    let connection = words.contains("\": eof")
        || words.contains(": eof\n")
        || words.trim_end().ends_with(": eof")
        || [
            "connection refused",
            "connection reset",
            "connection error",
            "unexpected eof",
            "broken pipe",
            "tls handshake timeout",
            "i/o timeout",
        ]
        .iter()
        .any(|w| has(w));
    lock || cluster || guest || systemd || storage || proxy || http || connection
}

/// Returns the errors of one run for a person, each reason once. The provider repeats it in parentheses (`X (X)`) and
/// for each of its own tries (`#1: X #2: X #3: X`).
pub fn said_once(diagnostics: &[Diagnostic]) -> String {
    let mut all: Vec<String> = Vec::new();
    for diagnostic in diagnostics {
        let words = without_repetition(&diagnostic.to_string());
        if !all.contains(&words) {
            all.push(words);
        }
    }
    all.join("; ")
}

fn without_repetition(words: &str) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let (head, mut rest) = match words.find("#1: ") {
        Some(at) => words.split_at(at),
        None => return without_echo(words),
    };
    for number in 1.. {
        let Some(text) = rest.strip_prefix(&format!("#{number}: ")) else { break };
        let next = text.find(&format!(" #{}: ", number + 1));
        let (reason, after) = next.map_or((text, ""), |at| (&text[..at], &text[at + 1..]));
        let reason = without_echo(reason);
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
        rest = after;
    }
    format!("{head}{}", reasons.join("; then "))
}

/// Returns `… X (X)` without the repetition.
fn without_echo(words: &str) -> String {
    let trimmed = words.trim();
    let Some(inner) = trimmed.strip_suffix(')') else { return trimmed.to_string() };
    let echo = inner.match_indices(" (").find_map(|(at, _)| {
        let (before, echo) = (&inner[..at], &inner[at + 2..]);
        (!echo.is_empty() && before.ends_with(echo)).then_some(before)
    });
    echo.unwrap_or(trimmed).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_progress_are_kept_and_target_warnings_are_not() {
        let error = r#"{"@level":"error","@message":"Error: VM clone","diagnostic":{"severity":"error","summary":"VM clone","detail":"received an HTTP 500 response -\n Reason: x"},"type":"diagnostic"}"#;
        let Some(Event::Error(diagnostic)) = parse_line(error) else { panic!() };
        assert_eq!(diagnostic.to_string(), "VM clone: received an HTTP 500 response - Reason: x");
        let warning = r#"{"@level":"warn","@message":"Warning: Resource targeting is in effect","diagnostic":{"severity":"warning","summary":"Resource targeting is in effect","detail":""},"type":"diagnostic"}"#;
        assert_eq!(parse_line(warning), None);
        let warning = warning.replace("Resource targeting is in effect", "disk stuck");
        assert!(matches!(parse_line(&warning), Some(Event::Warning(d)) if d.to_string() == "disk stuck"));
        let progress = r#"{"@message":"a.b: Creating...","type":"apply_start"}"#;
        assert_eq!(parse_line(progress), Some(Event::Progress("a.b: Creating...".into())));
        assert_eq!(parse_line("Error: Unclosed object"), Some(Event::Plain("Error: Unclosed object".into())));
    }

    #[test]
    fn h57_what_tells_of_a_lost_answer() {
        let says = |words: &str| {
            lost_its_answer(&[Diagnostic { summary: "error cloning VM 9001".into(), detail: words.into() }])
        };
        for words in [
            "Reason: Post \"https://127.0.0.1:8006/api2/json/nodes/pve/qemu/9001/clone\": EOF",
            "unexpected EOF",
            "http: server closed idle connection",
            "read tcp 127.0.0.1:40000->127.0.0.1:8006: use of closed network connection",
            "read: connection reset by peer",
            "net/http: TLS handshake timeout",
            "received an HTTP 596 response",
            "received an HTTP 504 response - Reason: Gateway Timeout",
        ] {
            assert!(says(words), "{words}");
        }
        assert!(!says("received an HTTP 500 response - Reason: unable to create VM 100"));
    }

    #[test]
    fn h63_every_storages_way_to_say_exists() {
        let kind = |detail: &str| {
            kind_of(&[Diagnostic { summary: "error creating VM".into(), detail: detail.into() }], 100)
        };
        let said = [
            (
                "lvcreate 'pve/vm-100-cloudinit' error: Logical Volume \"vm-100-cloudinit\" already exists in volume group \"pve\"",
                Some("vm-100-cloudinit"),
            ),
            ("volume 'local-lvm:vm-100-cloudinit' already exists", Some("local-lvm:vm-100-cloudinit")),
            (
                "zfs error: cannot create 'rpool/data/vm-100-disk-0': dataset already exists",
                Some("vm-100-disk-0"),
            ),
            ("rbd create 'vm-100-disk-0' error: rbd: create error: (17) File exists", Some("vm-100-disk-0")),
            ("rbd: create error: (17) File exists", None),
            (
                "disk image '/var/lib/vz/images/100/vm-100-disk-0.qcow2' already exists",
                Some("100/vm-100-disk-0.qcow2"),
            ),
            ("local:100/vm-100-disk-0.qcow2 exists", Some("local:100/vm-100-disk-0.qcow2")),
            ("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", None),
        ];
        for (words, volume) in said {
            assert_eq!(kind(words), FailureKind::VmidTaken, "{words}");
            assert_eq!(volume_of(words, 100).as_deref(), volume, "{words}");
        }
        for words in
            ["storage 'x' does not exist", "VM 102 already exists", "volume vm-1000-disk-0 already exists"]
        {
            assert_ne!(kind(words), FailureKind::VmidTaken, "{words}");
        }
    }

    #[test]
    fn h46_h22_failures_are_sorted_by_their_words() {
        let said =
            |detail: &str| vec![Diagnostic { summary: "error creating VM".into(), detail: detail.into() }];
        assert_eq!(
            kind_of(&said("unable to create VM 101: config file already exists"), 101),
            FailureKind::VmidTaken
        );
        assert_eq!(
            kind_of(&said("unable to create VM 102: config file already exists"), 101),
            FailureKind::Other
        );
        assert_eq!(
            kind_of(&said("can't lock file '/var/lock/qemu-server/lock-9001.conf' - got timeout"), 101),
            FailureKind::Busy
        );
        for busy in ["VM is locked (backup)", "received an HTTP 596 response - Reason: Connection timed out"]
        {
            assert_eq!(kind_of(&said(busy), 101), FailureKind::Busy, "{busy}");
        }
        assert_eq!(kind_of(&said("storage full"), 101), FailureKind::Other);
    }

    #[test]
    fn h22_what_passes_by_itself_is_told_from_what_does_not() {
        for passing in [
            "can't lock file '/var/lock/qemu-server/lock-9001.conf' - got timeout",
            "error during cfs-locked 'storage-nfs' operation: got lock request timeout",
            "cfs-lock 'storage-ceph' error: got lock request timeout",
            "error with cfs lock 'storage-nfs': unable to acquire lock",
            "cfs-lock 'file-user_cfg' error: no quorum!",
            "cluster not ready - no quorum?",
            "storage 'nfs' is not online",
            "proxy loop detected",
            "timeout waiting on systemd",
            "start failed: org.freedesktop.systemd1.UnitExists: Unit 105.scope already exists.",
            "start failed: org.freedesktop.systemd1.UnitExists: Unit 105.scope was already loaded or has a fragment file.",
            "clone failed: 'storage-nfs'-locked command timed out - aborting",
            "cfs-lock 'storage-nfs' error: pve cluster filesystem not online.",
            "pve configuration filesystem not mounted",
            "connection check for storage 'nfs' failed - rpcinfo",
            "command '/sbin/vgs --separator : --noheadings' failed: got timeout",
            "VM is locked (snapshot-delete)",
            "received an HTTP 503 response - Reason: Service Unavailable",
            "failed to perform HTTP POST request (path: nodes/pve/qemu/9001/clone) - Reason: Post \"https://127.0.0.1:8006/x\": EOF",
            "Post \"https://127.0.0.1:8006/x\": dial tcp 127.0.0.1:8006: connect: connection refused",
            "read tcp 127.0.0.1:1->127.0.0.1:8006: read: connection reset by peer",
        ] {
            assert!(is_passing(passing), "{passing}");
            // None of them means that somebody has the VMID.
            if !passing.contains("lock-") {
                let said = [Diagnostic { summary: passing.into(), detail: String::new() }];
                assert_eq!(kind_of(&said, 105), FailureKind::Busy, "{passing}");
            }
        }
        for last in [
            "Can't use an undefined value as an ARRAY reference",
            "rbd: create error: (17) File exists",
            "storage full",
            "unable to create VM 101: config file already exists",
            "HTTP 401",
            "HTTP 500 response - Reason: lvextend failed",
            "VM quit/powerdown failed - got timeout",
            "the reference is unexpected",
        ] {
            assert!(!is_passing(last), "{last}");
        }
    }

    #[test]
    fn a_reason_is_said_once() {
        let once = |text: &str| said_once(&[Diagnostic { summary: text.into(), detail: String::new() }]);
        assert_eq!(once("Reason: storage is full (storage is full)"), "Reason: storage is full");
        assert_eq!(
            once("Permission check failed (/vms/1, VM.Clone)"),
            "Permission check failed (/vms/1, VM.Clone)"
        );
        assert_eq!(
            once("VM clone: All attempts fail: #1: a (a) #2: a (a) #3: a (a)"),
            "VM clone: All attempts fail: a"
        );
        assert_eq!(once("All attempts fail: #1: a #2: b #3: a"), "All attempts fail: a; then b");
        let same = Diagnostic { summary: "x".into(), detail: "x".into() };
        assert_eq!(said_once(&[same.clone(), same]), "x");
    }
}
