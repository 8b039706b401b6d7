//! What a restored cluster knows of its restore.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{Offset, PartitionId, TimestampMs, TopicId};

/// How long retention deletes nothing after a restore, unless the operator ends the hold before. Milliseconds.
pub const HOLD_MS: i64 = 24 * 60 * 60 * 1000;

/// See the header. Controller state of a restored cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The lineage epoch of this cluster, and the one that it was restored from.
    pub epoch: u32,
    pub source: u32,
    /// When it was restored.
    pub restored: TimestampMs,
    /// Until then, retention deletes nothing; `None`: an operator has ended the hold.
    pub hold_until: Option<TimestampMs>,
    /// What leader epochs are counted from, in every partition.
    pub epoch_base: i32,
    /// Where the partitions of each topic ended, by number.
    pub ends: BTreeMap<TopicId, Vec<Offset>>,
}

impl Lineage {
    /// Does retention delete nothing at `now`?
    #[must_use]
    pub fn holds(&self, now: TimestampMs) -> bool {
        self.hold_until.is_some_and(|until| now < until)
    }

    /// Where a partition ended; `None` if it was made after the restore.
    #[must_use]
    pub fn end_of(&self, partition: PartitionId) -> Option<Offset> {
        self.ends.get(&partition.topic)?.get(usize::try_from(partition.index.0).ok()?).copied()
    }
}
