//! Timestamps in the form that the database uses.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};

/// Formats `moment` like the database's other writers: UTC, `+00:00`, six fractional digits.
pub fn to_text(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Micros, false)
}

/// Parses a moment with any offset (`Z`, `+00:00`, `-0500`, a blank instead of `T`). A text without an offset is
/// refused: guessing a time zone could take paid time from a customer. So is a year before 1970 or after 9999: nobody
/// has paid for that, other readers of the file cannot represent it, and calculations with it overflow.
pub fn from_text(text: &str) -> Option<DateTime<Utc>> {
    const FORMS: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];
    let rfc = DateTime::parse_from_rfc3339(text).ok();
    rfc.or_else(|| FORMS.iter().find_map(|form| DateTime::parse_from_str(text, form).ok()))
        .map(|t| t.to_utc())
        .filter(|t| is_readable(*t))
}

/// Whether other readers of the file can also represent this moment.
pub fn is_readable(moment: DateTime<Utc>) -> bool {
    (1970..=9999).contains(&moment.year())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_with_six_digits_and_read_with_any_offset() {
        let moment = from_text("2026-11-23T01:09:55.123456+00:00").unwrap();
        assert_eq!(to_text(moment), "2026-11-23T01:09:55.123456+00:00");
        for same in [
            "2026-11-23T01:09:55.123456Z",
            "2026-11-22T20:09:55.123456-05:00",
            "2026-11-23 02:09:55.123456+0100",
        ] {
            assert_eq!(from_text(same), Some(moment), "{same}");
        }
        assert_eq!(to_text(from_text("2026-11-23T01:09:55Z").unwrap()), "2026-11-23T01:09:55.000000+00:00");
        for bad in [
            "2026-11-23T01:09:55",
            "2026-11-23",
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "0000-01-01T00:00:00Z",
            "-0001-01-01T00:00:00Z",
            "+12026-11-23T01:09:55Z",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert_eq!(from_text(bad), None, "{bad}");
        }
    }
}
