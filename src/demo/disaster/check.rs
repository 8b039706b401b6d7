//! Reads a cluster's log of the topic and compares it with what was written.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::super::content::Checksum;
use super::super::error::DemoError;
use super::super::progress::Phase;
use super::super::read::{Read, read};
use super::super::write::Written;
use super::TOPIC;
use crate::client::Client;

/// The log of each partition as it must be: all offsets from 0 to the end, with this checksum.
pub(super) type Expected = BTreeMap<i32, (u64, Checksum)>;

/// Reads what is expected from the brokers at `bootstrap`; how many records that are.
///
/// # Errors
/// A record is not there, not at its offset, or another one than was written.
pub(super) async fn check(whose: &str, bootstrap: &str, expected: &Expected, phase: &Phase) -> Result<u64, DemoError> {
    let mut readers = JoinSet::new();
    for (partition, (end, _)) in expected {
        let client = Client::connect(bootstrap).await?;
        let all = Written { start: 0, end: *end, sum: Checksum::default() };
        readers.spawn(read(client, TOPIC, *partition, (0, *end), all, phase.clone()));
    }
    let (mut records, mut differences) = (0, Vec::new());
    while let Some(done) = readers.join_next().await {
        let (partition, found) = done??;
        records += found.records;
        let wanted = expected.get(&partition).copied().unwrap_or_default();
        differences.extend(difference(partition, found, wanted).map(|text| format!("{whose}: {text}")));
    }
    if differences.is_empty() { Ok(records) } else { Err(DemoError::NotRestored(differences.join("; "))) }
}

fn difference(partition: i32, found: Read, (end, sum): (u64, Checksum)) -> Option<String> {
    if found.records != end || found.holes > 0 {
        return Some(format!(
            "partition {partition} has {} of the records below offset {end}, {} at an unexpected offset",
            found.records, found.holes
        ));
    }
    (found.sum != sum).then(|| {
        format!(
            "partition {partition}: checksum {:016x} was written below offset {end}, {:016x} is there",
            sum.0, found.sum.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_moved_and_other_records_are_differences() {
        let right = Read { records: 9, holes: 0, sum: Checksum(5) };
        let expected = (9, Checksum(5));
        assert_eq!(difference(0, right, expected), None);
        assert!(difference(0, Read { records: 8, ..right }, expected).is_some());
        assert!(difference(0, Read { holes: 1, ..right }, expected).is_some());
        assert!(difference(0, Read { sum: Checksum(6), ..right }, expected).is_some());
    }
}
