//! Suggests what an unknown word may have been meant to be.

/// Returns the known name most similar to `name`, if one is similar enough: up to a third of its letters may differ,
/// but at least one and at most three.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    known
        .map(|other| (strsim::damerau_levenshtein(&lower, &other.to_ascii_lowercase()), other))
        .filter(|(distance, _)| *distance <= (name.len() / 3).clamp(1, 3))
        .min()
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_a_name_that_is_like_it_is_suggested() {
        let known = || ["web-1", "web-7", "database"].into_iter();
        assert_eq!(nearest("webb-7", known()), Some("web-7"));
        assert_eq!(nearest("WEB-1", known()), Some("web-1"));
        assert_eq!(nearest("databaes", known()), Some("database"));
        for name in ["nobody", "x", "mail-1"] {
            assert_eq!(nearest(name, known()), None, "{name}");
        }
    }
}
