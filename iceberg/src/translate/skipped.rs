//! [`Skipped`]: offsets that are left out of a table, joined where they touch.
//!
//! Pure. A producer with a wrong codec makes a million batches that do not open; they are one range.

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{OffsetRange, PartitionIndex};

/// Characters of a reason at the most: it goes into a snapshot's summary.
const REASON_CHARS_MAX: usize = 200;

/// Offsets that are not in the table, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub partition: i32,
    pub start: u64,
    pub end: u64,
    /// Why; of joined ranges, why the first.
    pub reason: String,
}

impl Skipped {
    /// `range` of `partition`, because of `reason`, which is cut to 200 characters.
    #[must_use]
    pub fn new(partition: PartitionIndex, range: OffsetRange, reason: &str) -> Self {
        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
        Self { partition: partition.0, start: range.start.get(), end: range.end.get(), reason }
    }

    /// How many offsets.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether `next` begins where this ends, for the same reason.
    fn is_followed_by(&self, next: &Self) -> bool {
        self.partition == next.partition && self.end == next.start && kind(&self.reason).eq(kind(&next.reason))
    }
}

/// A reason without its figures: two checksums never differ alike.
fn kind(reason: &str) -> impl Iterator<Item = char> {
    reason.chars().filter(|c| !c.is_ascii_hexdigit())
}

/// Adds `next`, joined to its partition's last range where that ends. Returns whether it became a new range.
pub fn join(ranges: &mut Vec<Skipped>, next: Skipped) -> bool {
    let last = ranges.iter_mut().rev().find(|range| range.partition == next.partition);
    match last {
        Some(last) if last.is_followed_by(&next) => {
            last.end = next.end;
            false
        }
        _ => {
            ranges.push(next);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_of_one_kind_are_joined() {
        let skipped =
            |partition, start, end, reason: &str| Skipped { partition, start, end, reason: reason.to_owned() };
        let mut ranges = Vec::new();
        for (partition, start, end, reason) in [
            (0, 5, 7, "batch checksum is 0x00c0ffee, its header says 0x12345678"),
            (0, 7, 9, "batch checksum is 0x99, its header says 0xabcdef01"),
            (1, 9, 10, "batch checksum is 0x1, its header says 0x2"),
            (0, 9, 12, "batch checksum is 0x3, its header says 0x4"),
            (0, 12, 13, "batch has magic 7"),
            (0, 14, 15, "batch has magic 7"),
        ] {
            join(&mut ranges, skipped(partition, start, end, reason));
        }
        let seen: Vec<_> = ranges.iter().map(|r| (r.partition, r.start, r.end)).collect();
        assert_eq!(seen, [(0, 5, 12), (1, 9, 10), (0, 12, 13), (0, 14, 15)]);
        assert_eq!(ranges[0].reason, "batch checksum is 0x00c0ffee, its header says 0x12345678");
    }
}
