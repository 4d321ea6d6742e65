//! What `terraform … -json` prints, read line by line (`facts/terraform.md`, section 3).

use serde_json::Value;

/// A diagnostic of severity error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What failed, in the words of terraform or the provider.
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

/// A line of the log that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something has begun or ended, for the progress display.
    Progress(String),
    /// An error.
    Error(Diagnostic),
    /// Something that went on all the same: a disk that could not be freed.
    Warning(Diagnostic),
    /// A line that is no JSON: terraform's own complaint before it could speak JSON.
    Plain(String),
}

/// Terraform's warnings about `-target`, which every run of ours has.
const ABOUT_TARGETS: [&str; 2] = ["Resource targeting is in effect", "Applied changes may be incomplete"];

/// Reads one line; `None` for what nobody needs to see (warnings about targets among it).
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

/// What a failure means for the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The VMID belongs to somebody else by now: choose another (H46).
    VmidTaken,
    /// Template or guest were busy: the same again, later (H22).
    Busy,
    /// Anything else.
    Other,
}

/// Anything that is there already though nothing of this VMID should be: a configuration, a volume, an rbd image, a
/// dataset, a logical volume. Each storage has a wording of its own (`facts/proxmox.md`), and all of them say "exists".
/// Words about another VM alone are not about this one, and a unit of systemd that is going goes by itself.
fn says_exists(words: &str, vmid: u32) -> bool {
    let words = words.to_ascii_lowercase();
    let mut said = words.match_indices("exists").map(|(at, _)| &words[..at]);
    let is_said = said.any(|before| {
        !["not ", "no longer ", "n't ", ".scope already "].iter().any(|other| before.ends_with(other))
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

/// The volume of this VMID that an error names: `local-lvm:vm-100-cloudinit`, or without its storage.
pub fn volume_of(words: &str, vmid: u32) -> Option<String> {
    let parts = words.split(|c: char| c.is_whitespace() || "'\"`(),;[]".contains(c));
    let names = parts.map(|part| part.trim_end_matches([':', '.', '!']));
    let found = names.filter_map(|part| {
        let (place, name) = part.rsplit_once(['/', ':']).unwrap_or(("", part));
        let of_vm = ["vm", "base", "subvol"].iter().any(|kind| name.starts_with(&format!("{kind}-{vmid}-")));
        let folder = format!("/{vmid}");
        of_vm.then(|| match part.contains(':') {
            true => part.to_string(),
            // Directory storages keep images in a folder of the VMID.
            false if place.ends_with(&folder) => format!("{vmid}/{name}"),
            false => name.to_string(),
        })
    });
    found.max_by_key(|name| name.contains(':'))
}

/// Whether a request may have been carried out although its answer never came (H57).
pub fn lost_its_answer(diagnostics: &[Diagnostic]) -> bool {
    const LOST: [&str; 11] = [
        "EOF",
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
    // One that said nothing was killed.
    LOST.iter().any(|w| words.contains(w)) || words.contains("ended with signal")
}

/// Sorts a failure by its words (`facts/provider.md`, section 4).
pub fn kind_of(diagnostics: &[Diagnostic], vmid: u32) -> FailureKind {
    let words: String = diagnostics.iter().map(|d| format!("{} {}\n", d.summary, d.detail)).collect();
    if says_exists(&words, vmid) || words.contains(&format!("lock-{vmid}.conf")) {
        FailureKind::VmidTaken
    } else if words.contains("got timeout")
        && (words.contains("can't lock file") || words.contains("trying to acquire"))
        || ["VM is locked (", "HTTP 595", "HTTP 596", "HTTP 599"].iter().any(|w| words.contains(w))
    {
        FailureKind::Busy
    } else {
        FailureKind::Other
    }
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
}
