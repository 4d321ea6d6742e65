//! `blockhost-vm-list`: every record, from the database alone unless the node is asked for.

use super::Context;
use super::status::live_status;
use crate::host::clock::Deadline;
use crate::store::vm_database::{DatabaseError, Status};
use std::time::Duration;

/// The admin panel waits 15 s.
const LIVE_LIMIT: Duration = Duration::from_secs(12);

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Calls `row` for each record in file order. `only` filters by what is shown (with `live` also "unknown"); a bad
/// record is skipped with a warning.
pub fn list(
    ctx: &Context<'_>,
    only: Option<&str>,
    live: bool,
    row: &mut dyn FnMut(Row<'_>),
) -> Result<(), DatabaseError> {
    let deadline = Deadline::after(LIVE_LIMIT);
    ctx.database.for_each(|view| {
        let (status, ip, created) = (view.status_text(), view.ip_text(), view.created_date());
        if Status::parse(&status).is_none() {
            let why = view.to_record().err().unwrap_or_default();
            return tracing::warn!("{}: {why}; skipped", ctx.database.path().display());
        }
        let mut shown: &str = &status;
        if live {
            match view.to_record() {
                Ok(record) => {
                    let (word, reason) = live_status(ctx, &record, deadline.at_most(Duration::from_secs(2)));
                    if let Some(reason) = reason {
                        tracing::warn!("{reason}");
                    }
                    shown = word.as_str();
                }
                Err(why) => return tracing::warn!("{}: {why}; skipped", ctx.database.path().display()),
            }
        }
        if only.is_none_or(|wanted| wanted == shown) {
            row(Row { name: &view.key, status: shown, ip: &ip, created: &created });
        }
    })
}
