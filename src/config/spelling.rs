//! The name that a mistyped setting was probably meant to be. Pure.

/// The nearest name: at most two letters away, and at most one letter in three, with `_` and `.` equal to `-`.
pub fn meant<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
    let given = plain(given);
    let near = names.map(|name| (distance(given.as_bytes(), plain(name).as_bytes()), name));
    let (edits, name) = near.min_by_key(|(edits, _)| *edits)?;
    (edits <= 2 && edits * 3 <= given.len()).then_some(name)
}

/// `; did you mean …?`, or empty.
#[must_use]
pub fn hint<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> String {
    meant(given, names).map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

/// Levenshtein distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (n, x) in a.iter().enumerate() {
        let mut left = n + 1;
        let mut diagonal = std::mem::replace(&mut row[0], left);
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            (diagonal, left) = (std::mem::replace(cell, best), best);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_meant() {
        let names = ["kafka-addr", "shards", "retention.ms", "retention.bytes"];
        let meant = |given| meant(given, names.into_iter());
        assert_eq!(meant("kafka_addr"), Some("kafka-addr"));
        assert_eq!(meant("kafka-adr"), Some("kafka-addr"));
        assert_eq!(meant("retention-ms"), Some("retention.ms"));
        assert_eq!(meant("retention.byte"), Some("retention.bytes"));
        assert_eq!((meant("shrd"), meant("replicas"), meant("")), (None, None, None));
        assert_eq!(distance(b"kitten", b"sitting"), 3);
    }
}
