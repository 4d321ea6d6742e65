//! Reads `/etc/network/interfaces` and the files it includes, as far as needed before an interface's settings move to a
//! bridge: Proxmox carries over addresses and routers, and nothing else.

use std::path::{Path, PathBuf};

/// The file that Proxmox writes.
pub const MAIN_FILE: &str = "/etc/network/interfaces";

/// One `iface` stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza {
    /// The file that contains it.
    pub file: PathBuf,
    /// The interface's name.
    pub name: String,
    /// `inet` or `inet6`; empty if the stanza names none (ifupdown2).
    pub family: String,
    /// `static`, `manual`, `dhcp`, `auto` …; may be empty like the family.
    pub method: String,
    /// The option lines below it, with single spaces.
    pub options: Vec<String>,
}

/// One part of a file; parts are in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A stanza.
    Stanza(Stanza),
    /// Other files, given by a pattern relative to the file's own directory; only the last part of the pattern may
    /// contain stars.
    Include(String),
}

/// Parses `text`, the contents of `file`.
pub fn parts(file: &Path, text: &str) -> Vec<Part> {
    let text = text.replace("\\\n", " ");
    let mut found = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["iface", name, rest @ ..] => {
                let word = |at: usize| rest.get(at).map_or_else(String::new, |word| (*word).to_owned());
                let mut options = Vec::new();
                if rest.len() > 2 {
                    options.push(rest[2..].join(" "));
                }
                found.push(Part::Stanza(Stanza {
                    file: file.to_owned(),
                    name: (*name).to_owned(),
                    family: word(0),
                    method: word(1),
                    options,
                }));
                open = true;
            }
            ["source", pattern] => {
                open = false;
                found.push(Part::Include((*pattern).to_owned()));
            }
            ["source-directory", directory] => {
                open = false;
                found.push(Part::Include(format!("{directory}/*")));
            }
            [first, ..] if is_keyword(first) => open = false,
            _ if open => {
                if let Some(Part::Stanza(stanza)) = found.last_mut() {
                    stanza.options.push(words.join(" "));
                }
            }
            _ => {}
        }
    }
    found
}

fn is_keyword(word: &str) -> bool {
    [
        "auto",
        "mapping",
        "rename",
        "vlan",
        "template",
        "no-auto-down",
        "no-scripts",
        "source",
        "source-directory",
    ]
    .contains(&word)
        || word.starts_with("allow-")
}

/// Whether a file's name matches the last part of a pattern.
pub fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((start, end)) => {
            name.starts_with(start)
                && name.ends_with(end.rsplit('*').next().unwrap_or_default())
                && !name.starts_with('.')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_and_what_is_included_are_told_apart() {
        for (text, shown) in [
            ("# iface x inet static\n\nauto lo\niface lo inet loopback\n", "lo inet loopback []"),
            (
                "iface eno1 inet static\n\taddress  192.0.2.7/24\n\tup ip route add \\\n\t 10.0.0.0/8 dev eno1\n",
                "eno1 inet static [address 192.0.2.7/24; up ip route add 10.0.0.0/8 dev eno1]",
            ),
            ("iface eno1 inet static address 192.0.2.7/24\n", "eno1 inet static [address 192.0.2.7/24]"),
            ("iface vnet1\n bridge_ports none\n", "vnet1   [bridge_ports none]"),
            ("iface a inet manual\nallow-hotplug b\n mtu 9000\n", "a inet manual []"),
            ("iface a inet manual\nsource x/*.cfg\n mtu 9000\n", "a inet manual [] | x/*.cfg"),
            ("source-directory /etc/x\niface a inet dhcp", "/etc/x/* | a inet dhcp []"),
            ("mtu 9000\nsource\n", ""),
        ] {
            let show = |part: &Part| match part {
                Part::Include(pattern) => pattern.clone(),
                Part::Stanza(s) => format!("{} {} {} [{}]", s.name, s.family, s.method, s.options.join("; ")),
            };
            let found: Vec<String> = parts(Path::new("/x"), text).iter().map(show).collect();
            assert_eq!(found.join(" | "), shown, "{text}");
        }
    }

    #[test]
    fn names_fit_patterns_as_a_shell_takes_them() {
        for (pattern, name, wanted) in [
            ("*", "sdn", true),
            ("*", ".hidden", false),
            ("*.cfg", "a.cfg", true),
            ("*.cfg", "a.cfg.bak", false),
            ("50-*.cfg", "51-a.cfg", false),
            ("sdn", "sdn", true),
            ("sdn", "sdn2", false),
        ] {
            assert_eq!(fits(pattern, name), wanted, "{pattern} {name}");
        }
    }
}
