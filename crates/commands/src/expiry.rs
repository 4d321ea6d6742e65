//! What the commands have in common that set the end of a VM's time: moments on the command line, and words for them.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use provisioner::host::doors::Doors;
use provisioner::operation::resume::shortens;
use provisioner::value::timestamp;

/// A moment of the command line: a date (its midnight, UTC), or a time with its zone.
pub fn parse_moment(text: &str) -> Result<DateTime<Utc>, String> {
    let midnight = |date: NaiveDate| date.and_hms_opt(0, 0, 0).map(|time| time.and_utc());
    let moment = timestamp::from_text(text).or_else(|| text.parse().ok().and_then(midnight));
    let moment = moment.filter(|moment| timestamp::is_readable(*moment));
    moment.ok_or_else(|| {
        "expected a date such as 2027-03-01, or a time with its zone such as 2027-03-01T12:00:00Z".to_string()
    })
}

/// Parses a moment that lies in the future.
pub fn parse_future(text: &str) -> Result<DateTime<Utc>, String> {
    let end = parse_moment(text)?;
    if end <= Doors::real().now() { Err(format!("{} has passed", timestamp::to_text(end))) } else { Ok(end) }
}

/// How far away the expiry is, and what it was before if it has changed.
pub fn distance(end: DateTime<Utc>, before: Option<DateTime<Utc>>, now: DateTime<Utc>) -> String {
    let distance =
        if end < now { format!("{} ago", in_days(now - end)) } else { format!("in {}", in_days(end - now)) };
    match before {
        Some(before) if before != end => format!("{distance}; before: {}", timestamp::to_text(before)),
        Some(_) => format!("{distance}, unchanged"),
        None => format!("{distance}; before: unknown"),
    }
}

/// That time is taken away which was paid for, and what does not; `None` where none is.
pub fn earlier(
    before: Option<DateTime<Utc>>,
    after: Option<DateTime<Utc>>,
    moves: &str,
    flag: &str,
    now: DateTime<Utc>,
) -> Option<String> {
    let (before, after) = before.zip(after).filter(|_| shortens(before, after, now))?;
    Some(format!(
        "the expiry {moves} EARLIER, from {} to {} ({} less); {flag} adds to the current expiry",
        timestamp::to_text(before),
        timestamp::to_text(after),
        in_days(before - after),
    ))
}

/// A length of time in whole days, to the nearest: 30 days from now are not 29 a millisecond later.
pub fn in_days(time: TimeDelta) -> String {
    match (time + TimeDelta::hours(12)).num_days() {
        0 => "less than a day".to_string(),
        1 => "1 day".to_string(),
        days => format!("{days} days"),
    }
}
