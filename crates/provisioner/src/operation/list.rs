//! `blockhost-vm-list`: all records, from the database alone unless the node is to be queried.

use super::Context;
use super::status::{LiveWord, Shown};
use super::unfinished;
use crate::store::vm_database::{DatabaseError, Fields, RecordView};
use chrono::{DateTime, Utc};

/// One line of the list.
pub struct Row<'a> {
    /// The VM's name.
    pub name: &'a str,
    /// The status in the database, or with `--live` the one reported by the node.
    pub status: &'a str,
    /// Its IPv4 address.
    pub ip: &'a str,
    /// Date of creation.
    pub created: &'a str,
    /// The whole record as it stands, for more columns.
    pub view: &'a RecordView<'a>,
}

/// Which records are listed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those that are shown so (with `live` also "unknown").
    pub status: Option<Shown>,
    /// Those of this owner.
    pub wallet: Option<String>,
    /// Those that are not destroyed and whose time is over by then.
    pub expired_by: Option<DateTime<Utc>>,
}

impl Filter {
    /// Whether a record is listed, by what stands in it.
    fn takes(&self, view: &RecordView<'_>) -> bool {
        let is_owner = |wallet: &String| is_same_wallet(&view.wallet_text(), wallet);
        let is_over =
            |then: &DateTime<Utc>| !view.is_destroyed() && view.expires_at().is_some_and(|end| end <= *then);
        self.wallet.as_ref().is_none_or(is_owner) && self.expired_by.as_ref().is_none_or(is_over)
    }

    fn needs_more_fields(&self) -> bool {
        self.wallet.is_some() || self.expired_by.is_some()
    }
}

/// Capitals in an address of Ethereum are a checksum, and some programs drop them; elsewhere they count.
fn is_same_wallet(one: &str, other: &str) -> bool {
    if other.starts_with("0x") { one.eq_ignore_ascii_case(other) } else { one == other }
}

/// Gathers the records in file order by `row`, beginning with `new`, which is called again where the file was caught
/// half-written. A bad record is skipped with a warning. `all_fields`: a row's view has all that we know, not only what
/// a list shows by default.
pub fn list<T>(
    ctx: &Context<'_>,
    filter: &Filter,
    live: Option<LiveWord<'_>>,
    all_fields: bool,
    new: impl Fn() -> T,
    mut row: impl FnMut(&mut T, Row<'_>),
) -> Result<T, DatabaseError> {
    let only = filter.status;
    let filters = filter.needs_more_fields();
    // Querying the node requires the VM's identity.
    let all_fields = all_fields || filters || live.is_some();
    let fields = if all_fields { Fields::All } else { Fields::Listed };
    let begin = || (new(), Vec::new());
    let (gathered, warnings) = ctx.database.gather(fields, begin, |(gathered, warnings), view| {
        let (ip, created) = (view.ip_text(), view.created_date());
        let mut skip =
            |why: String| warnings.push(format!("{}: {why}; skipped", ctx.database.path().display()));
        let Some(status) = view.status() else {
            return skip(view.to_record().err().unwrap_or_default());
        };
        if filters && !filter.takes(view) {
            return;
        }
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
            row(gathered, Row { name: &view.key, status: shown.as_str(), ip: &ip, created: &created, view });
        }
    })?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if live.is_some() {
        // The node may have a VM that the database does not know yet, or has only a tombstone of.
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

#[cfg(test)]
mod tests {
    use super::is_same_wallet;

    #[test]
    fn capitals_count_where_they_are_no_checksum() {
        assert!(is_same_wallet("0xAB", "0xab") && is_same_wallet("bc1q", "bc1q"));
        assert!(
            !is_same_wallet("4vJ9", "4VJ9") && !is_same_wallet("0xAB", "0xAC") && !is_same_wallet("", "0xAC")
        );
    }
}
