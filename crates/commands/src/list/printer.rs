//! A list on its way to stdout, in each of its forms. The usual columns are written as they come; rows are held only where
//! they are sorted or aligned.

use super::Format;
use super::columns::{Column, Found};
use crate::spaced_json;
use crate::terminal::{Cell, has_colours, one_line, style_of, table};
use chrono::{DateTime, Utc};
use provisioner::operation::list::Row;
use provisioner::operation::node_facts::OnNode;
use serde_json::{Map, Value};

/// How a list is printed.
#[derive(Debug, Clone)]
pub struct Form {
    /// In which form.
    pub format: Format,
    /// Whether a person reads it on a terminal.
    pub terminal: bool,
    /// What is shown; the usual columns where nothing else was asked for.
    pub columns: Vec<Column>,
    /// By which column it is sorted, and whether the other way round; else as in the database.
    pub sort: Option<(Column, bool)>,
    /// What "in 3 days" is counted from.
    pub now: DateTime<Utc>,
}

impl Form {
    /// Whether rows are written as they come.
    fn is_plain(&self) -> bool {
        self.sort.is_none()
            && self.columns == Column::USUAL
            && matches!(self.format, Format::Json | Format::Table)
    }
}

/// A row that is held: what it is sorted by, and its cells.
type Held = (Found, Vec<Found>);

/// Takes rows.
pub struct Printer {
    form: Form,
    /// [`Form::is_plain`], which ten thousand rows need not find out again.
    is_plain: bool,
    out: Vec<u8>,
    held: Vec<Held>,
    aligned: Vec<Vec<Cell>>,
    empty: bool,
}

/// What stands before each value of a row (`facts/contract/commands.md`). Written as it is: having serde quote the same
/// four words for each row is a sixth of the instructions that a list of ten thousand takes.
const KEYS: [&[u8]; 4] = [b"{\"name\": ", b", \"status\": ", b", \"ip\": ", b", \"created\": "];
const HEADER: [&str; 4] = ["NAME", "STATUS", "IP", "CREATED"];

impl Printer {
    /// Nothing printed yet.
    pub fn new(form: &Form) -> Printer {
        let is_plain = form.is_plain();
        let out = if is_plain && form.format == Format::Json { vec![b'['] } else { Vec::new() };
        Printer { form: form.clone(), is_plain, out, held: Vec::new(), aligned: Vec::new(), empty: true }
    }

    /// One VM; `node` is what the node says of it, `live` a word where another source has one.
    pub fn add(&mut self, row: &Row<'_>, node: Option<&OnNode>, live: Option<&'static str>) {
        if self.is_plain {
            return self.add_plain(row);
        }
        let found = |column: Column| column.found(row, node, live);
        let key = self.form.sort.map_or(Found::None, |(column, _)| found(column));
        self.held.push((key, self.form.columns.iter().copied().map(found).collect()));
    }

    fn add_plain(&mut self, row: &Row<'_>) {
        let cells = [row.name, row.status, row.ip, row.created];
        if self.form.format == Format::Json {
            if !self.empty {
                self.out.extend_from_slice(b", ");
            }
            self.empty = false;
            for (key, cell) in KEYS.iter().zip(cells) {
                self.out.extend_from_slice(key);
                // Writing a string to memory cannot fail.
                spaced_json::append(&mut self.out, cell).unwrap_or_else(|error| tracing::error!("{error}"));
            }
            return self.out.push(b'}');
        }
        if self.form.terminal {
            let style = |index, text| if index == 1 { style_of(text) } else { anstyle::Style::new() };
            let cells = cells.iter().enumerate().map(|(index, text)| Cell::styled(text, style(index, text)));
            self.aligned.push(cells.collect());
        } else {
            if self.empty {
                push_line(&mut self.out, &HEADER);
            }
            push_line(&mut self.out, &cells.map(one_cell));
        }
        self.empty = false;
    }

    /// All that is to be printed.
    pub fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        if !self.is_plain {
            return self.finish_held();
        }
        if self.form.format == Format::Json {
            self.out.extend_from_slice(b"]\n");
        } else if self.form.terminal {
            return Ok(table(&HEADER, &self.aligned, has_colours(true)).into_bytes());
        } else if self.empty {
            push_line(&mut self.out, &HEADER);
        }
        Ok(self.out)
    }

    fn finish_held(mut self) -> anyhow::Result<Vec<u8>> {
        if let Some((_, descending)) = self.form.sort {
            // Stable: equal ones stay in the order of the database.
            self.held.sort_by(|(one, _), (other, _)| one.order(other, descending));
        }
        let rows = std::mem::take(&mut self.held).into_iter().map(|(_, row)| row);
        let columns = &self.form.columns;
        match self.form.format {
            Format::Table => {
                let headings: Vec<String> = columns.iter().map(|column| column.heading()).collect();
                let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
                let cells = |row: Vec<Found>| -> Vec<Cell> {
                    columns
                        .iter()
                        .zip(&row)
                        .map(|(column, found)| column.cell(found, self.form.now))
                        .collect()
                };
                if self.form.terminal {
                    let rows: Vec<Vec<Cell>> = rows.map(cells).collect();
                    return Ok(table(&headings, &rows, has_colours(true)).into_bytes());
                }
                push_line(&mut self.out, &headings);
                for row in rows {
                    let cells: Vec<String> = cells(row).into_iter().map(|cell| cell.text).collect();
                    push_line(&mut self.out, &cells);
                }
            }
            Format::Json => {
                self.out.push(b'[');
                for (index, row) in rows.enumerate() {
                    if index > 0 {
                        self.out.extend_from_slice(b", ");
                    }
                    let object: Map<String, Value> = columns
                        .iter()
                        .zip(&row)
                        .map(|(c, found)| (c.key().to_string(), c.json(found)))
                        .collect();
                    spaced_json::append(&mut self.out, &object)?;
                }
                self.out.extend_from_slice(b"]\n");
            }
            Format::Csv => return csv(columns, rows, self.form.terminal),
            Format::Yaml => return Ok(yaml(columns, rows).into_bytes()),
        }
        Ok(self.out)
    }
}

/// As RFC 4180 has it, but for lines that end as everywhere here.
fn csv(
    columns: &[Column],
    rows: impl Iterator<Item = Vec<Found>>,
    terminal: bool,
) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns.iter().map(|column| column.key()))?;
    for row in rows {
        let plain = |found: &Found| if terminal { one_line(&found.plain()) } else { found.plain() };
        writer.write_record(row.iter().map(plain))?;
    }
    Ok(writer.into_inner()?)
}

/// A list of flat mappings. Every text is quoted: to readers of YAML 1.1 a bare `2026-11-27` is a date, `on` a truth value
/// and `0xAb…` a number.
fn yaml(columns: &[Column], rows: impl Iterator<Item = Vec<Found>>) -> String {
    let mut out = String::new();
    for row in rows {
        for (index, (column, found)) in columns.iter().zip(&row).enumerate() {
            let value = match column.json(found) {
                Value::String(text) => crate::terminal::escaped_data(&Value::String(text).to_string()),
                other => other.to_string(),
            };
            out.push_str(if index == 0 { "- " } else { "  " });
            out.push_str(&format!("{}: {value}\n", column.key()));
        }
    }
    if out.is_empty() { "[]\n".to_string() } else { out }
}

fn push_line<T: AsRef<str>>(out: &mut Vec<u8>, cells: &[T]) {
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            out.push(b'\t');
        }
        out.extend_from_slice(cell.as_ref().as_bytes());
    }
    out.push(b'\n');
}

/// Replaces control characters, so that no value from the database can break the table.
fn one_cell(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioner::store::vm_database::RecordView;

    fn form(format: Format, terminal: bool) -> Form {
        let now = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        Form { format, terminal, columns: Column::USUAL.to_vec(), sort: None, now }
    }

    fn printed(form: &Form) -> String {
        let view = RecordView::default();
        let mut printer = Printer::new(form);
        let row = Row { name: "a", status: "active", ip: "10.0.0.20", created: "2026-11-23", view: &view };
        printer.add(&row, None, None);
        let odd = Row { name: "longer-name", status: "destroyed", ip: "", created: "x\ty\"", view: &view };
        printer.add(&odd, None, None);
        let node = OnNode {
            node: "pve".into(),
            state: provisioner::plan::metrics::RunState::Running,
            cpus: 2,
            memory_mb: 2048,
            disk_gb: 20,
            uptime_seconds: 90,
        };
        let row = Row { name: "on", status: "active", ip: "10.0.0.3", created: "", view: &view };
        printer.add(&row, Some(&node), None);
        String::from_utf8(printer.finish().unwrap()).unwrap()
    }

    #[test]
    fn the_usual_columns_are_written_as_programs_know_them() {
        assert_eq!(
            printed(&form(Format::Table, false)),
            "NAME\tSTATUS\tIP\tCREATED\na\tactive\t10.0.0.20\t2026-11-23\nlonger-name\tdestroyed\t\tx y\"\non\tactive\t10.0.0.3\t\n"
        );
        let json = "[{\"name\": \"a\", \"status\": \"active\", \"ip\": \"10.0.0.20\", \"created\": \"2026-11-23\"}, \
             {\"name\": \"longer-name\", \"status\": \"destroyed\", \"ip\": \"\", \"created\": \"x\\ty\\\"\"}, \
             {\"name\": \"on\", \"status\": \"active\", \"ip\": \"10.0.0.3\", \"created\": \"\"}]\n";
        assert_eq!(printed(&form(Format::Json, false)), json);
        assert_eq!(Printer::new(&form(Format::Json, false)).finish().unwrap(), b"[]\n");
        assert_eq!(
            Printer::new(&form(Format::Table, false)).finish().unwrap(),
            b"NAME\tSTATUS\tIP\tCREATED\n"
        );
    }

    #[test]
    fn rows_are_sorted_and_other_columns_shown() {
        let columns = vec![Column::Name, Column::Ip, Column::Memory, Column::Live];
        let mut form = Form { columns, sort: Some((Column::Ip, false)), ..form(Format::Table, false) };
        assert_eq!(
            printed(&form),
            "NAME\tIP\tMEMORY\tLIVE\non\t10.0.0.3\t2048 MB\trunning\na\t10.0.0.20\t-\t-\nlonger-name\t\t-\t-\n"
        );
        form.sort = Some((Column::Name, true));
        form.format = Format::Csv;
        assert_eq!(
            printed(&form),
            "name,ip,memory_mb,live\non,10.0.0.3,2048,running\nlonger-name,,,\na,10.0.0.20,,\n"
        );
        form.format = Format::Json;
        let json: Value = serde_json::from_str(&printed(&form)).unwrap();
        assert_eq!(
            json[0],
            serde_json::json!({"name": "on", "ip": "10.0.0.3", "memory_mb": 2048, "live": "running"})
        );
        assert_eq!((&json[1]["ip"], &json[1]["live"]), (&"".into(), &Value::Null));
        assert_eq!(Printer::new(&form).finish().unwrap(), b"[]\n");
    }

    #[test]
    fn every_text_of_yaml_is_quoted() {
        let form = form(Format::Yaml, false);
        assert!(
            printed(&form)
                .contains("- name: \"on\"\n  status: \"active\"\n  ip: \"10.0.0.3\"\n  created: \"\"\n")
        );
        assert!(printed(&form).contains("created: \"x\\ty\\\"\""));
        assert_eq!(Printer::new(&form).finish().unwrap(), b"[]\n");
    }
}
