//! Checks what was read from the local log before any of it goes into an object that replaces or archives.
//!
//! Owns: cutting reads into batches and every check on them: Kafka's CRC, offsets that continue, the run sums taken
//! when the batches were applied. Does not own: what happens to a range that fails (`archive`: quarantine). Pure.

use tidewater_storage::model::{Batch, BatchError, Offset, OffsetRange, PartitionId, RunSum, run};

use super::host::LocalRead;

/// A range that must not be archived as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRange {
    /// Not a batch, or its CRC does not hold.
    #[error("{offsets}: {cause}")]
    Batch {
        /// From where on.
        offsets: OffsetRange,
        /// What is wrong.
        cause: BatchError,
    },
    /// A batch is missing or came twice.
    #[error("{offsets}: expected offset {expected}, found {found}")]
    Discontinuous {
        /// What was read.
        offsets: OffsetRange,
        /// Next offset due.
        expected: Offset,
        /// Offset found.
        found: Offset,
    },
    /// Bytes are not those that were applied.
    #[error("{offsets}: bytes do not match the checksum taken when they were applied")]
    Sum { offsets: OffsetRange },
}

impl BadRange {
    /// What to quarantine.
    #[must_use]
    pub fn offsets(&self) -> OffsetRange {
        match self {
            Self::Batch { offsets, .. } | Self::Discontinuous { offsets, .. } | Self::Sum { offsets } => *offsets,
        }
    }
}

/// The batches of `read`, which was asked for `wanted` of `partition`: all checked, the first one holding
/// `wanted.start`, each continuing the one before. Batches that begin at or after `wanted.end` are cut off.
///
/// # Errors
/// The first range that fails.
pub fn batches(partition: PartitionId, wanted: OffsetRange, read: LocalRead) -> Result<Vec<Batch>, BadRange> {
    let mut out: Vec<Batch> = Vec::new();
    let mut expected = wanted.start;
    for mut piece in read.batches {
        while !piece.is_empty() {
            let from = OffsetRange::new(expected, wanted.end);
            let bad = |cause| BadRange::Batch { offsets: from, cause };
            let batch = Batch::split_from(&mut piece).map_err(bad)?;
            let found = batch.header.base_offset;
            let first = out.is_empty() && batch.header.offsets().contains(expected);
            if found != expected && !first {
                return Err(BadRange::Discontinuous { offsets: from, expected, found });
            }
            batch.header.verify_crc(&batch.bytes).map_err(|cause| {
                let offsets = batch.header.offsets();
                BadRange::Batch { offsets, cause }
            })?;
            expected = batch.header.next_offset();
            out.push(batch);
        }
    }
    check_sums(partition, &out, &read.sums)?;
    out.retain(|batch| batch.header.base_offset < wanted.end);
    Ok(out)
}

/// Sums whose run does not begin and end at batches of this read say nothing about it.
fn check_sums(partition: PartitionId, batches: &[Batch], sums: &[RunSum]) -> Result<(), BadRange> {
    for sum in sums {
        let first = batches.partition_point(|batch| batch.header.base_offset < sum.offsets.start);
        let after = batches.partition_point(|batch| batch.header.next_offset() <= sum.offsets.end);
        let Some(run) = batches.get(first..after) else { continue };
        let begins = run.first().is_some_and(|batch| batch.header.base_offset == sum.offsets.start);
        let ends = run.last().is_some_and(|batch| batch.header.next_offset() == sum.offsets.end);
        if !(begins && ends) {
            continue;
        }
        let seed = run::seed(partition, sum.offsets.start);
        let crc = run.iter().fold(seed, |crc, batch| run::extend(crc, &batch.bytes));
        let len: u64 = run.iter().map(|batch| u64::from(batch.header.len)).sum();
        if crc != sum.crc || len != u64::from(sum.len) {
            return Err(BadRange::Sum { offsets: sum.offsets });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use tidewater_storage::model::record::{BatchBuilder, Record};
    use tidewater_storage::model::{Compression, LeaderEpoch, TimestampMs, batch};

    use super::*;

    fn made(base: u64, records: u64) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        (0..records)
            .for_each(|n| builder.push(Record::new(TimestampMs(n as i64), None, Some(Bytes::from_static(b"v")))));
        let mut bytes = BytesMut::from(&builder.build()[..]);
        batch::patch(&mut bytes, Offset::new(base), LeaderEpoch(0));
        bytes.freeze()
    }

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange::new(Offset::new(start), Offset::new(end))
    }

    fn sum(start: u64, end: u64, bytes: &[&Bytes]) -> RunSum {
        let seed = run::seed(PartitionId::default(), Offset::new(start));
        let crc = bytes.iter().fold(seed, |crc, bytes| run::extend(crc, bytes));
        RunSum { offsets: range(start, end), len: bytes.iter().map(|b| b.len() as u32).sum(), crc }
    }

    #[test]
    fn good_batches_pass_and_what_is_beyond_is_cut() {
        let (a, b, c) = (made(5, 3), made(8, 2), made(10, 1));
        let joined = Bytes::from([a.to_vec(), b.to_vec()].concat());
        let read =
            LocalRead { batches: vec![joined, c.clone()], sums: vec![sum(5, 10, &[&a, &b]), sum(10, 20, &[&c])] };
        let got = batches(PartitionId::default(), range(5, 10), read).expect("good");
        assert_eq!(got.iter().map(|b| b.header.base_offset.get()).collect::<Vec<_>>(), [5, 8]);
    }

    #[test]
    fn holes_flips_and_other_partitions_bytes_fail() {
        let check = |batches_in: Vec<Bytes>, sums| {
            batches(PartitionId::default(), range(5, 99), LocalRead { batches: batches_in, sums }).expect_err("bad")
        };
        assert!(matches!(check(vec![made(6, 1)], vec![]), BadRange::Discontinuous { .. }));
        let mut flipped = BytesMut::from(&made(5, 1)[..]);
        if let Some(last) = flipped.last_mut() {
            *last ^= 1;
        }
        assert!(matches!(check(vec![flipped.freeze()], vec![]), BadRange::Batch { .. }));
        let mut epoch = BytesMut::from(&made(5, 1)[..]);
        batch::patch(&mut epoch, Offset::new(5), LeaderEpoch(9));
        let sums = vec![sum(5, 6, &[&made(5, 1)])];
        assert_eq!(check(vec![epoch.freeze()], sums), BadRange::Sum { offsets: range(5, 6) });
    }
}
