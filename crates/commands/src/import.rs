//! `blockhost-provisioner-import`: its flags and what it prints (`facts/schema/provisioner-import.json`).

use crate::{Common, answer};
use clap::{Parser, ValueEnum};
use provisioner::operation::Context;
use provisioner::operation::import::{Imported, Row, Verdict, import};
use serde_json::{Value, json};

/// How the VMs are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table, and a sentence for each VM with something to say
    Table,
    /// One JSON object
    Json,
}

/// Show the VMs of the older package, and move them into the form of this one
#[derive(Debug, Parser)]
#[command(
    name = "blockhost-provisioner-import",
    version,
    styles = crate::STYLES,
    after_help = "Without --apply nothing is changed. VMs keep running in any case. A VM that is not proven to be ours is\n\
        left as it is, and so is one whose import fails; the others go on. Run again, it goes on where it stopped.\n\n\
        Exit codes: 0 if all was shown or moved, 1 if a VM was not moved or could not be looked at.\n\n\
        Examples:\n  blockhost-provisioner-import\n  blockhost-provisioner-import --apply"
)]
pub struct ImportCommand {
    /// Move the VMs (default: show what would be done)
    #[arg(long)]
    apply: bool,
    /// Print a table or JSON
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    common: Common,
}

/// The command's entry point.
pub fn main() -> std::process::ExitCode {
    let command: ImportCommand = crate::parse();
    crate::run(&command.common, false, |host| {
        let done = import(&Context::open(host, false)?, command.apply)?;
        if let Some(remark) = &done.remark {
            crate::warn(remark);
        }
        answer(&match command.format {
            Format::Table => table(&done.rows),
            Format::Json => format!("{}\n", as_json(&done, command.apply)),
        })?;
        crate::say(&summary(&done, command.apply));
        let not_known = done.count(Verdict::Unknown);
        let not_moved = done.count(Verdict::Refused) + done.count(Verdict::Failed);
        anyhow::ensure!(not_known == 0, "could not look at {}; see above", vms(not_known));
        anyhow::ensure!(not_moved == 0 || !command.apply, "did not move {}; see above", vms(not_moved));
        Ok(())
    })
}

fn vms(count: usize) -> String {
    format!("{count} VM{}", if count == 1 { "" } else { "s" })
}

fn summary(done: &Imported, applied: bool) -> String {
    if done.rows.is_empty() {
        return "no VM of the older package is left".to_string();
    }
    let [ready, moved, waiting, refused, failed] =
        [Verdict::Ready, Verdict::Imported, Verdict::Waiting, Verdict::Refused, Verdict::Failed]
            .map(|verdict| done.count(verdict));
    let mut words = match applied {
        false => format!("{} can be moved (--apply does it)", vms(ready)),
        true => format!("moved {}", vms(moved)),
    };
    for (count, what) in
        [(refused, "cannot be moved"), (failed, "failed"), (waiting, "waiting for the next start")]
    {
        if count > 0 {
            words.push_str(&format!(", {count} {what}"));
        }
    }
    words
}

const HEADER: [&str; 7] = ["NAME", "STATUS", "RECORD", "STATE", "NODE", "FINDINGS", "RESULT"];

fn table(rows: &[Row]) -> String {
    let number = |vmid: Option<u32>| vmid.map_or_else(|| "-".to_string(), |vmid| vmid.to_string());
    let mut lines: Vec<[String; 7]> = vec![HEADER.map(str::to_string)];
    for row in rows {
        let power = match row.running {
            Some(true) => " running",
            Some(false) => " stopped",
            None => "",
        };
        let findings: Vec<&str> = row.findings.iter().map(|finding| finding.as_str()).collect();
        lines.push([
            one_cell(&row.name),
            row.status.map_or("-", |status| status.as_str()).to_string(),
            number(row.record_vmid),
            number(row.state_vmid),
            format!("{}{power}", number(row.node_vmid)),
            if findings.is_empty() { "-".to_string() } else { findings.join(",") },
            row.verdict.as_str().to_string(),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    let details: Vec<&Row> = rows.iter().filter(|row| !row.detail.is_empty()).collect();
    if !details.is_empty() {
        text.push('\n');
    }
    for row in details {
        text.push_str(&format!("{}: {}\n", one_cell(&row.name), one_cell(&row.detail)));
    }
    text
}

/// A cell cannot break the table, whatever stands in a file or a tool's words.
fn one_cell(text: &str) -> String {
    crate::printable(&text.replace(|c: char| c.is_control(), " "))
}

fn as_json(done: &Imported, applied: bool) -> Value {
    let vms: Vec<Value> = done
        .rows
        .iter()
        .map(|row| {
            let findings: Vec<&str> = row.findings.iter().map(|finding| finding.as_str()).collect();
            json!({
                "name": row.name,
                "status": row.status.map(|status| status.as_str()),
                "record_vmid": row.record_vmid,
                "state_vmid": row.state_vmid,
                "node_vmid": row.node_vmid,
                "running": row.running,
                "uuid": row.uuid.map(|uuid| uuid.to_string()),
                "findings": findings,
                "result": row.verdict.as_str(),
                "detail": row.detail,
            })
        })
        .collect();
    json!({ "applied": applied, "remark": done.remark, "vms": vms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioner::plan::import::Finding;
    use provisioner::value::vm_record::Status;

    fn row(name: &str, verdict: Verdict, detail: &str) -> Row {
        Row {
            name: name.into(),
            status: Some(Status::Active),
            record_vmid: Some(105),
            state_vmid: Some(100),
            node_vmid: Some(100),
            running: Some(true),
            uuid: None,
            findings: vec![Finding::NoUuid, Finding::WrongVmid],
            verdict,
            detail: detail.into(),
        }
    }

    #[test]
    fn a_table_lines_up_and_nothing_breaks_it() {
        let rows = [
            row("web-001", Verdict::Ready, ""),
            Row {
                node_vmid: None,
                running: None,
                status: None,
                ..row("x\n\u{1b}[2J", Verdict::Refused, "a\tb\nc")
            },
        ];
        assert_eq!(
            table(&rows),
            "NAME     STATUS  RECORD  STATE  NODE         FINDINGS            RESULT\n\
             web-001  active  105     100    100 running  no-uuid,wrong-vmid  ready\n\
             x  [2J   -       105     100    -            no-uuid,wrong-vmid  refused\n\n\
             x  [2J: a b c\n"
        );
    }

    #[test]
    fn the_last_line_counts() {
        let all = |rows: Vec<Row>| Imported { rows, remark: None };
        assert_eq!(summary(&all(Vec::new()), true), "no VM of the older package is left");
        let mixed = all(vec![
            row("a", Verdict::Ready, ""),
            row("b", Verdict::Refused, ""),
            row("c", Verdict::Waiting, ""),
        ]);
        assert_eq!(
            summary(&mixed, false),
            "1 VM can be moved (--apply does it), 1 cannot be moved, 1 waiting for the next start"
        );
        assert_eq!(
            summary(&all(vec![row("a", Verdict::Imported, ""), row("b", Verdict::Imported, "")]), true),
            "moved 2 VMs"
        );
    }
}
