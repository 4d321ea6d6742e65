//! `blockhost-vm-list`: every record, from the database alone unless the node is asked for.

use super::Context;
use super::status::{LiveWord, Shown};
use super::unfinished;
use crate::store::vm_database::{DatabaseError, Fields};
use serde::Serialize;

/// One line of the list; names and order of its keys in JSON are the contract's (`facts/contract/commands.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row<'a> {
    /// The VM's name.
    pub name: &'a str,
    /// The database's status, or with `--live` what the node says.
    pub status: &'a str,
    /// Its IPv4 address.
    pub ip: &'a str,
    /// The date of its creation.
    pub created: &'a str,
}

/// Gathers the records in file order by `row`, beginning with `new`, which is called again where the file was caught
/// half-written. `only` filters by what is shown (with `live` also "unknown"); a bad
/// record is skipped with a warning.
pub fn list<T>(
    ctx: &Context<'_>,
    only: Option<Shown>,
    live: Option<LiveWord<'_>>,
    new: impl Fn() -> T,
    mut row: impl FnMut(&mut T, Row<'_>),
) -> Result<T, DatabaseError> {
    // Asking the node takes an identity.
    let fields = if live.is_some() { Fields::All } else { Fields::Listed };
    let begin = || (new(), Vec::new());
    let (gathered, warnings) = ctx.database.gather(fields, begin, |(gathered, warnings), view| {
        let (ip, created) = (view.ip_text(), view.created_date());
        let mut skip =
            |why: String| warnings.push(format!("{}: {why}; skipped", ctx.database.path().display()));
        let Some(status) = view.status() else {
            return skip(view.to_record().err().unwrap_or_default());
        };
        let mut shown = Shown::from(status);
        if let Some(live) = live {
            match view.to_record() {
                Ok(record) => {
                    let (word, reason) = live(&record);
                    warnings.extend(reason);
                    shown = word;
                }
                Err(why) => return skip(why),
            }
        }
        if only.is_none_or(|wanted| wanted == shown) {
            row(gathered, Row { name: &view.key, status: shown.as_str(), ip: &ip, created: &created });
        }
    })?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if live.is_some() {
        // A machine may be there of which the database knows nothing yet, or nothing but a tombstone.
        for name in unfinished::names(ctx) {
            if !matches!(ctx.record(&name), Ok(Some(record)) if record.is_live())
                && let Some(under_way) = unfinished::of_name(ctx, &name)
            {
                tracing::info!("VM {name}: {under_way}");
            }
        }
    }
    Ok(gathered)
}
