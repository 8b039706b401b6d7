//! Is a bundle found at the lane's next key made of this log's own records?
//!
//! Owns: that comparison, run by run, by checksums. Does not own: what else a found bundle must be (`order`), its
//! command (`bundle`). Shard-local. A bundle that is to be adopted is not archived here yet, so its records are still
//! in the local log of every replica that has applied them. A term and a log index alone do not distinguish a
//! predecessor's last bundle from one that the same data directory wrote before it was put back from a backup: both
//! count on from the same index.

use tidewater_storage::model::{Offset, OffsetRange, PartitionId, RunSum, run};

use super::host::LaneHost;
use super::verify;
use crate::format::DataIndex;

/// The first run of `found` beyond the archived end whose records the local log does not have, or has with other bytes.
/// A run that cannot be read here, or is damaged here, does not count.
pub(super) async fn foreign_run<H: LaneHost>(host: &H, found: &DataIndex) -> Option<(PartitionId, OffsetRange)> {
    for entry in &found.partitions {
        let partition = entry.partition;
        let end = host.with_partition(partition, |manifest| (!manifest.dropped).then_some(manifest.archived_end));
        let Some(Some(archived_end)) = end else { continue };
        let sums = entry.extents.iter().flat_map(|extent| &extent.runs).map(|run| run.sum);
        for sum in sums.filter(|sum| sum.offsets.start >= archived_end) {
            if is_foreign(host, partition, sum).await {
                return Some((partition, sum.offsets));
            }
        }
    }
    None
}

async fn is_foreign<H: LaneHost>(host: &H, partition: PartitionId, sum: RunSum) -> bool {
    let mut crc = run::seed(partition, sum.offsets.start);
    let (mut next, mut left) = (sum.offsets.start, u64::from(sum.len));
    while next < sum.offsets.end {
        let wanted = OffsetRange::new(next, sum.offsets.end);
        let Ok(read) = host.read(partition, wanted, left.max(1)).await else { return false };
        let Ok(batches) = verify::batches(partition, wanted, read) else { return false };
        let begins = batches.first().map(|batch| batch.header.base_offset);
        let Some(end) = batches.last().map(|batch| batch.header.next_offset()) else { return true };
        if begins != Some(next) || end > sum.offsets.end {
            return true;
        }
        for batch in &batches {
            crc = run::extend(crc, &batch.bytes);
            left = left.saturating_sub(batch.bytes.len() as u64);
        }
        next = Offset::max(next, end);
    }
    crc != sum.crc
}
