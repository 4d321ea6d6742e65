//! `tc`: what is set on a device is kept as it was said, until the device is made anew. Wordings and codes as
//! iproute2 6.1 gave them.

use super::ToolOutput;
use crate::node::Shared;
use crate::node::network::Device;

const TALKING: &str = "We have an error talking to the kernel\n";

/// Runs `tc`.
pub(crate) fn run(node: &Shared, argv: &[String]) -> ToolOutput {
    let words: Vec<&str> = argv.iter().map(String::as_str).skip_while(|word| word.starts_with('-')).collect();
    let [object, act, rest @ ..] = words.as_slice() else {
        return ToolOutput::failure(255, "Usage: tc [ OPTIONS ] OBJECT { COMMAND | help }\n");
    };
    let dev = rest.iter().position(|word| *word == "dev").and_then(|at| rest.get(at + 1).copied());
    let Some(dev) = dev else {
        return ToolOutput::failure(255, "Error: dev is required.\n");
    };
    let mut state = node.state();
    let Some(device) = state.network.get_mut(dev) else {
        return ToolOutput::failure(1, format!("Cannot find device \"{dev}\"\n"));
    };
    // What is kept: the words without "dev X".
    let at = rest.iter().position(|word| *word == "dev").unwrap_or(rest.len());
    let spec: Vec<&str> = rest
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != at && *index != at + 1)
        .map(|(_, word)| *word)
        .collect();
    match (*object, *act) {
        ("qdisc", "show" | "list" | "ls") => show(device, dev, "qdisc "),
        ("class", "show" | "list" | "ls") => show(device, dev, "class "),
        ("filter", "show" | "list" | "ls") => show(device, dev, "filter "),
        ("qdisc", act) => qdisc(device, act, &spec),
        ("class", act) => class(device, act, &spec),
        ("filter", act) => filter(device, act, &spec),
        (object, _) => {
            ToolOutput::failure(255, format!("Object \"{object}\" is unknown, try \"tc help\".\n"))
        }
    }
}

fn show(device: &Device, dev: &str, kind: &str) -> ToolOutput {
    let mut text = String::new();
    if kind == "qdisc " && !has(device, Side::Root) {
        text.push_str("qdisc noqueue 0: root refcnt 2 \n");
    }
    for line in device.tc.iter().filter(|line| line.starts_with(kind)) {
        let line = match kind {
            "qdisc " => line.replace(" latency ", " lat "),
            _ => line.replace(" prio ", " pref "),
        };
        text.push_str(&format!("{line} dev {dev}\n"));
    }
    ToolOutput::text(text)
}

/// The two places a qdisc can be: what leaves by the device, what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Root,
    Ingress,
}

/// Where a qdisc, class or filter belongs.
fn side(words: &[&str]) -> Side {
    let ingress =
        words.iter().any(|word| matches!(*word, "ingress" | "clsact" | "ffff:" | "ffff:fff1" | "ffff:fff2"));
    if ingress { Side::Ingress } else { Side::Root }
}

fn line_side(line: &str) -> Side {
    side(&line.split(' ').collect::<Vec<_>>())
}

fn has(device: &Device, place: Side) -> bool {
    device.tc.iter().any(|line| line.starts_with("qdisc ") && line_side(line) == place)
}

fn qdisc(device: &mut Device, act: &str, spec: &[&str]) -> ToolOutput {
    let place = side(spec);
    match act {
        "add" if has(device, place) => ToolOutput::failure(2, "Error: Exclusivity flag on, cannot modify.\n"),
        "add" | "replace" => {
            device.tc.retain(|line| line_side(line) != place);
            device.tc.push(format!("qdisc {}", spec.join(" ")));
            ToolOutput::default()
        }
        "change" => {
            match device.tc.iter_mut().find(|line| line.starts_with("qdisc ") && line_side(line) == place) {
                Some(line) => {
                    *line = format!("qdisc {}", spec.join(" "));
                    ToolOutput::default()
                }
                None => ToolOutput::failure(2, "Error: Cannot find specified qdisc on specified device.\n"),
            }
        }
        "del" | "delete" => {
            if !has(device, place) {
                return ToolOutput::failure(
                    2,
                    match place {
                        Side::Root => "Error: Cannot delete qdisc with handle of zero.\n",
                        Side::Ingress => "Error: Cannot find specified qdisc on specified device.\n",
                    },
                );
            }
            // Classes and filters go with their qdisc.
            device.tc.retain(|line| line_side(line) != place);
            ToolOutput::default()
        }
        other => {
            ToolOutput::failure(255, format!("Command \"{other}\" is unknown, try \"tc qdisc help\".\n"))
        }
    }
}

fn value<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1).copied())
}

fn class(device: &mut Device, act: &str, spec: &[&str]) -> ToolOutput {
    let id = value(spec, "classid").unwrap_or_default().to_owned();
    let same = |line: &String| {
        line.starts_with("class ")
            && value(&line.split(' ').collect::<Vec<_>>(), "classid") == Some(id.as_str())
    };
    let known = device.tc.iter().any(same);
    match act {
        _ if !has(device, Side::Root) => {
            ToolOutput::failure(2, "RTNETLINK answers: No such file or directory\n")
        }
        "add" if known => ToolOutput::failure(2, "RTNETLINK answers: File exists\n"),
        "del" | "delete" | "change" if !known => {
            ToolOutput::failure(2, "RTNETLINK answers: No such file or directory\n")
        }
        "del" | "delete" => {
            device.tc.retain(|line| !same(line));
            ToolOutput::default()
        }
        "add" | "change" | "replace" => {
            device.tc.retain(|line| !same(line));
            device.tc.push(format!("class {}", spec.join(" ")));
            ToolOutput::default()
        }
        other => {
            ToolOutput::failure(255, format!("Command \"{other}\" is unknown, try \"tc class help\".\n"))
        }
    }
}

fn filter(device: &mut Device, act: &str, spec: &[&str]) -> ToolOutput {
    let place = side(spec);
    if !has(device, place) {
        return ToolOutput::failure(2, format!("Error: Parent Qdisc doesn't exists.\n{TALKING}"));
    }
    match act {
        "add" | "replace" | "change" => device.tc.push(format!("filter {}", spec.join(" "))),
        "del" | "delete" => device.tc.retain(|line| !line.starts_with("filter ") || line_side(line) != place),
        other => {
            return ToolOutput::failure(
                255,
                format!("Command \"{other}\" is unknown, try \"tc filter help\".\n"),
            );
        }
    }
    ToolOutput::default()
}
