//! Reading a partition of `__consumer_offsets` back into groups, on first use. *Shard-local.*

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use tidewater_storage::env::Mono;
use tidewater_storage::model::record::{Record, read_all};
use tidewater_storage::model::{BatchHeader, Offset, PartitionId, TimestampMs, TopicName};

use super::append::LogState;
use super::coordinator::GroupSettings;
use super::group_shard::HeldGroup;
use super::ids::GroupId;
use super::offsets::{Commit, Offsets};
use super::record::{GroupRecord, RecordError};
use super::state::{Group, SavedGroup};
use crate::controller::image::ClusterImage;
use crate::partition::message::{Isolation, PartitionAddress, ReadDone, ReadError, ReadPart};
use crate::partition::router::Router;

/// Bytes asked for at a time.
const READ_BYTES: usize = 1 << 20;
/// What a batch may unpack to. The coordinator writes uncompressed batches of half of this at most.
const UNPACKED_MAX: usize = 16 << 20;

/// Why the state could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The partition did not answer.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What it holds is no batch.
    #[error("batch at offset {at}: {why}")]
    Batch { at: Offset, why: String },
    /// A read within the log that brought nothing: what is there would be taken for all there is.
    #[error("nothing can be read at offset {at}, before the log's end at {end}")]
    Nothing {
        at: Offset,
        /// Where the log ends.
        end: Offset,
    },
}

impl LoadError {
    /// Will the partition be served soon: just created, or its lane about to lead?
    pub(super) fn is_early(&self) -> bool {
        matches!(self, Self::Read(ReadError::UnknownPartition(_) | ReadError::NotLeader(_)))
    }
}

/// What the log says of a group.
#[derive(Debug, Default)]
struct Loaded {
    offsets: Offsets,
    saved: Option<(SavedGroup, Bytes)>,
}

/// What a restore left of the cluster's topics. Offsets that were committed before it may lie beyond the records that
/// came back; they are taken as the end of those, so that a group neither fails nor leaves out what is written now.
#[derive(Clone, Debug, Default)]
pub(super) struct RestoredEnds {
    /// The end of the partition that is read: records from here on were written after the restore.
    own: Offset,
    /// By topic and number.
    ends: BTreeMap<TopicName, Vec<Offset>>,
}

impl RestoredEnds {
    /// Of the partition of `__consumer_offsets` that is to be read.
    pub(super) fn of(image: &ClusterImage, partition: PartitionId) -> Self {
        let Some(lineage) = &image.lineage else { return Self::default() };
        let ends = lineage.ends.iter().filter_map(|(id, ends)| Some((image.names.get(id)?.clone(), ends.clone())));
        Self { own: lineage.end_of(partition).unwrap_or_default(), ends: ends.collect() }
    }

    /// What the record at `at` commits.
    fn clamp(&self, at: Offset, topic: &str, partition: i32, commit: Commit) -> Commit {
        let end = self.ends.get(topic).and_then(|ends| ends.get(usize::try_from(partition).ok()?));
        match (commit.offset.position(), end) {
            (Some(position), Some(end)) if at < self.own && position > *end => {
                Commit { offset: (*end).into(), ..commit }
            }
            _ => commit,
        }
    }
}

/// A partition's groups, read from its log.
#[derive(Debug, Default)]
pub(super) struct Loading {
    restored: RestoredEnds,
    groups: BTreeMap<GroupId, Loaded>,
    log: LogState,
    skipped: u64,
}

/// Reads the whole log.
///
/// # Errors
/// The log cannot be read or is damaged.
pub(super) async fn load(
    router: &Router,
    partition: PartitionAddress,
    restored: RestoredEnds,
) -> Result<Loading, LoadError> {
    let mut loading = Loading { restored, ..Loading::default() };
    loop {
        let done = read(router, partition, loading.log.end).await?;
        loading.log.end = loading.log.end.max(done.log_start);
        let before = loading.log.end;
        for run in &done.batches {
            loading.take(run.clone())?;
        }
        if loading.log.end >= done.high_watermark {
            return Ok(loading);
        }
        if loading.log.end == before {
            return Err(LoadError::Nothing { at: before, end: done.high_watermark });
        }
    }
}

/// Reads from `from`, or from the log start if that is later.
async fn read(router: &Router, partition: PartitionAddress, from: Offset) -> Result<ReadDone, ReadError> {
    let part = |from| ReadPart {
        address: partition,
        from,
        max_bytes: READ_BYTES,
        isolation: Isolation::ReadUncommitted,
        epoch: None,
    };
    let first = |answers: Vec<_>| answers.into_iter().next().unwrap_or(Err(ReadError::Unavailable));
    match first(router.read(vec![part(from)], READ_BYTES).await) {
        Err(ReadError::OutOfRange { valid, .. }) if from < valid.start => {
            first(router.read(vec![part(valid.start)], READ_BYTES).await)
        }
        answer => answer,
    }
}

impl Loading {
    /// Takes batches back to back.
    fn take(&mut self, mut run: Bytes) -> Result<(), LoadError> {
        while !run.is_empty() {
            let bad = |at, why: String| LoadError::Batch { at, why };
            let header = BatchHeader::parse(&run).map_err(|e| bad(self.log.end, e.to_string()))?;
            let records = read_all(&header, &run, UNPACKED_MAX).map_err(|e| bad(header.base_offset, e.to_string()))?;
            if header.next_offset() > self.log.end && !header.is_control() {
                let fresh = records.into_iter().filter(|record| record.offset >= self.log.end);
                fresh.collect::<Vec<_>>().into_iter().for_each(|record| self.apply(record));
                self.log.bytes += u64::from(header.len);
            }
            self.log.end = self.log.end.max(header.next_offset());
            run.advance((header.len as usize).min(run.len()));
        }
        Ok(())
    }

    fn apply(&mut self, record: Record) {
        let Some(key) = &record.key else { return };
        match GroupRecord::decode(key, record.value.as_ref()) {
            Ok(GroupRecord::Offset { group, topic, partition, commit }) => {
                let loaded = self.groups.entry(group.into()).or_default();
                let commit = commit.map(|commit| self.restored.clamp(record.offset, &topic, partition, commit));
                match commit {
                    Some(commit) => loaded.offsets.set(&topic, partition, commit, record.offset),
                    None => loaded.offsets.remove(&topic, partition, record.offset),
                }
            }
            Ok(GroupRecord::Group { group, saved }) => {
                self.groups.entry(group.into()).or_default().saved = saved.zip(record.value.clone());
            }
            Err(RecordError::Kind(kind)) => {
                if !std::mem::replace(&mut self.log.holds_unknown, true) {
                    tracing::warn!(offset = %record.offset, kind, "__consumer_offsets holds records of another version; this one does not cut that partition's log");
                }
            }
            Err(error) => {
                self.skipped += 1;
                tracing::warn!(offset = %record.offset, %error, "a record of __consumer_offsets is left out: it was written by another version or program");
            }
        }
    }

    /// The groups as of `now`: members have a session timeout to send a heartbeat.
    pub(super) fn finish(
        self,
        settings: &GroupSettings,
        now: Mono,
        wall: TimestampMs,
    ) -> (BTreeMap<GroupId, HeldGroup>, LogState) {
        let wanted = self.groups.into_iter().filter(|(_, loaded)| loaded.saved.is_some() || !loaded.offsets.is_empty());
        let groups = wanted.map(|(id, loaded)| {
            let (saved, value) = loaded.saved.map_or((None, None), |(saved, value)| (Some(saved), Some(value)));
            let empty = saved.as_ref().is_none_or(|saved| saved.members.is_empty());
            let changed = saved.as_ref().map_or(TimestampMs::NONE, |saved| saved.changed);
            let group = match saved {
                Some(saved) => Group::restore(id.clone(), settings.times(), saved, now),
                None => Group::new(id.clone(), settings.times()),
            };
            let in_use_until = if empty { changed } else { wall };
            (id, HeldGroup { group, offsets: loaded.offsets, saved: value, in_use_until, queued: None })
        });
        (groups.collect(), self.log)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn offsets_of_before_a_restore_end_where_the_records_do() {
        let orders = TopicName::new("orders").expect("legal");
        let ends = BTreeMap::from([(orders, vec![Offset::new(50), Offset::new(0)])]);
        let restored = RestoredEnds { own: Offset::new(9), ends };
        let commit = |offset: i64| Commit {
            offset: crate::group::offsets::CommittedOffset(offset),
            leader_epoch: None,
            metadata: Arc::from(""),
            at: TimestampMs(1),
            expires_at: None,
            topic: None,
        };
        let clamped = |at, topic: &str, partition, offset| {
            restored.clamp(Offset::new(at), topic, partition, commit(offset)).offset.0
        };
        assert_eq!((clamped(8, "orders", 0, 51), clamped(8, "orders", 0, 50), clamped(8, "orders", 1, 3)), (50, 50, 0));
        assert_eq!(clamped(9, "orders", 0, 51), 51, "committed after the restore");
        assert_eq!((clamped(8, "orders", 2, 51), clamped(8, "later", 0, 51)), (51, 51), "made after the restore");
        assert_eq!(clamped(8, "orders", 0, -1), -1);
        let never = RestoredEnds::default();
        assert_eq!(never.clamp(Offset::ZERO, "orders", 0, commit(51)).offset.0, 51);
    }
}
