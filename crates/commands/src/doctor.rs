//! `blockhost-provisioner-doctor`: its flags and what it prints.

use crate::{Common, TextOrJson, answer, confirmed, say, warn};
use clap::Parser;
use provisioner::host::Host;
use provisioner::operation::doctor::{Examined, examine, fix};
use provisioner::plan::doctor::{Finding, Fix, Severity};
use provisioner::store::provisioning_queue::Turn;
use provisioner::value::vm_name::VmName;
use serde_json::json;
use std::process::ExitCode;

/// Compare database, node and files with each other, and say what mends what does not agree
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-doctor",
    version,
    styles = crate::STYLES,
    after_help = "Changes nothing without --fix. --fix restores a lost record; sets hook, route, isolation and bandwidth limits of \
        running VMs; frees disks that a destroy of ours could not free; removes tickets and half-written files of \
        commands that died; sets wrong owners and modes of our own files. All else is left to you.\n\
        Exit codes: 0 nothing but notes, 1 warnings, 2 errors, 3 the command itself failed. doc/doctor.md lists the \
        findings.\n\n\
        Examples:\n  blockhost-provisioner-doctor\n  blockhost-provisioner-doctor web-1\n  \
        blockhost-provisioner-doctor --fix --yes"
)]
pub struct DoctorCommand {
    /// Report only what is about these VMs
    #[arg(value_name = "NAME", value_parser = crate::parse_name)]
    names: Vec<VmName>,
    /// Mend what can be mended safely; asks before on a terminal
    #[arg(long)]
    fix: bool,
    /// Do not ask
    #[arg(short, long, requires = "fix")]
    yes: bool,
    /// Print text or JSON
    #[arg(long, value_enum, default_value_t = TextOrJson::Text)]
    format: TextOrJson,
    #[command(flatten)]
    common: Common,
}

/// The command itself failed: 1 and 2 tell what was found.
const FAILED: u8 = 3;

/// The command's entry point.
pub fn main() -> ExitCode {
    let command: DoctorCommand = crate::parse();
    let common = command.common.clone();
    let mut code = 0;
    let run = crate::run(&common, false, |host| {
        code = command.run(host)?;
        Ok(())
    });
    match run == ExitCode::SUCCESS {
        true => ExitCode::from(code),
        false => ExitCode::from(FAILED),
    }
}

impl DoctorCommand {
    fn run(&self, host: &Host) -> anyhow::Result<u8> {
        let mut examined = examine(host, &self.names)?;
        let mut failed = 0;
        if self.fix {
            let possible = fix::possible(&examined.findings);
            if !possible.is_empty() && self.agreed(&possible)? {
                failed = mend(host, &possible);
                examined = examine(host, &self.names)?;
            }
        }
        match self.format {
            TextOrJson::Text => answer(&text(&examined))?,
            TextOrJson::Json => answer(&format!("{}\n", json(&examined)))?,
        }
        anyhow::ensure!(failed == 0, "{failed} of the fixes failed; see above");
        Ok(exit_code(&examined.findings))
    }

    fn agreed(&self, possible: &[Fix]) -> anyhow::Result<bool> {
        for fix in possible {
            say(&format!("will {}", fix::in_words(fix)));
        }
        let things =
            if possible.len() == 1 { "this".to_string() } else { format!("these {} things", possible.len()) };
        Ok(self.yes || confirmed(&format!("Do {things}?"), "--yes")?)
    }
}

/// Does all of it; how many failed.
fn mend(host: &Host, possible: &[Fix]) -> usize {
    let mut failed = 0;
    for fix in possible {
        match fix::apply(host, fix) {
            Ok(()) => say(&format!("done: {}", fix::in_words(fix))),
            Err(error) => {
                warn(&format!("{error:#}"));
                failed += 1;
            }
        }
    }
    failed
}

fn exit_code(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.kind.severity).min() {
        Some(Severity::Error) => 2,
        Some(Severity::Warning) => 1,
        Some(Severity::Note) | None => 0,
    }
}

fn counts(findings: &[Finding]) -> [usize; 3] {
    let count = |severity| findings.iter().filter(|finding| finding.kind.severity == severity).count();
    [Severity::Error, Severity::Warning, Severity::Note].map(count)
}

fn json(examined: &Examined) -> serde_json::Value {
    let [errors, warnings, notes] = counts(&examined.findings);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "vms": examined.vms,
        "counts": {"error": errors, "warning": warnings, "note": notes},
        "creates": examined.creates,
        "findings": examined.findings,
    })
}

/// So many of one kind are printed in full.
const SHOWN: usize = 20;

/// Text of others stands in findings: control characters are shown by their numbers, as on stderr.
fn text(examined: &Examined) -> String {
    let mut out = String::new();
    let mut of_kind = 0;
    let mut last = "";
    for (index, finding) in examined.findings.iter().enumerate() {
        of_kind = if finding.kind.code == last { of_kind + 1 } else { 1 };
        last = finding.kind.code;
        let ends = examined.findings.get(index + 1).is_none_or(|next| next.kind.code != last);
        if of_kind <= SHOWN {
            out.push_str(&paragraph(finding));
        }
        if ends && of_kind > SHOWN {
            out.push_str(&format!("and {} more of {last}; --format json has all\n\n", of_kind - SHOWN));
        }
    }
    for (word, turn) in [("running", Turn::Running), ("waiting", Turn::Waiting)] {
        out.push_str(&queued(examined, word, turn));
    }
    let [errors, warnings, notes] = counts(&examined.findings);
    let many = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let vms = many(examined.vms, "VM");
    out.push_str(&match examined.findings.is_empty() {
        true => format!("nothing found; checked {vms}\n"),
        false => format!(
            "{}, {}, {}; checked {vms}\n",
            many(errors, "error"),
            many(warnings, "warning"),
            many(notes, "note")
        ),
    });
    out
}

/// A line for the creates that run or wait.
fn queued(examined: &Examined, word: &str, turn: Turn) -> String {
    let names: Vec<&str> = examined
        .creates
        .iter()
        .filter(|create| create.state == turn)
        .map(|create| create.vm.as_str())
        .collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match names.is_empty() {
        true => String::new(),
        false => format!("creates {word}: {}{more}\n", names[..names.len().min(SHOWN)].join(", ")),
    }
}

fn paragraph(finding: &Finding) -> String {
    let line = |text: &str| crate::printable(&text.replace('\n', " "));
    let mut out =
        format!("{}: {}: {}", finding.kind.severity.word(), line(&finding.place), line(&finding.what));
    out.push_str(&format!(" [{}]\n  why:  {}\n", finding.kind.code, finding.kind.why));
    if !finding.left.is_empty() {
        out.push_str(&format!("  left: {}\n", line(&finding.left.join(", "))));
    }
    out.push_str(&format!("  mend: {}\n\n", line(&finding.mend)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioner::plan::doctor::kinds;
    use provisioner::store::provisioning_queue::QueuedCreate;

    fn examined(findings: Vec<Finding>) -> Examined {
        Examined { findings, vms: 2, creates: Vec::new() }
    }

    #[test]
    fn the_forms() {
        let off =
            Finding::new(&kinds::VM_OFF, "VM a (VMID 100)", "it is off", "blockhost-vm-start a").of("a");
        let gone =
            Finding::new(&kinds::VM_MISSING, "VM b\u{1b}[2J", "gone\nnow", "x").with(vec!["vm 101".into()]);
        assert_eq!(exit_code(&[]), 0);
        assert_eq!(exit_code(std::slice::from_ref(&off)), 0);
        assert_eq!(exit_code(&[off.clone(), gone.clone()]), 2);
        assert_eq!(text(&examined(vec![])), "nothing found; checked 2 VMs\n");
        let shown = text(&examined(vec![gone, off]));
        assert_eq!(
            shown,
            "error: VM b\\u{1b}[2J: gone now [vm-missing]\n  why:  its customer has no VM\n  left: vm 101\n  mend: x\n\n\
             note: VM a (VMID 100): it is off [vm-off]\n  why:  its customer may have shut it down, or waits for it\n  \
             mend: blockhost-vm-start a\n\n1 error, 0 warnings, 1 note; checked 2 VMs\n"
        );
    }

    #[test]
    fn creates_are_named_by_their_turn() {
        let create = |n: u32| QueuedCreate {
            vm: format!("web-{n}"),
            pid: 1000 + n,
            state: if n < 3 { Turn::Running } else { Turn::Waiting },
            since: String::new(),
        };
        let shown =
            |count: u32| text(&Examined { creates: (1..=count).map(create).collect(), ..examined(vec![]) });
        assert_eq!(
            shown(3),
            "creates running: web-1, web-2\ncreates waiting: web-3\nnothing found; checked 2 VMs\n"
        );
        assert!(shown(300).contains("web-22 and 278 more\n"), "{}", shown(300));
    }

    #[test]
    fn ten_thousand_of_a_kind_are_not_all_printed() {
        let one = |n| Finding::new(&kinds::VM_OFF, format!("VM {n}"), "off", "start it");
        let shown = text(&examined((0..10_000).map(one).collect()));
        assert!(shown.contains("and 9980 more of vm-off") && shown.len() < 5_000, "{}", shown.len());
    }
}
