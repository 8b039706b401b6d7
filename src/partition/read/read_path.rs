//! Reads and searches of one partition: chooses between the local log and the bucket. Within the local log,
//! `storage/src/log/read.rs` chooses between memory and disk.
//!
//! Shard-local. Reads of the log and of the bucket verify their sums; a batch that fails is an error here and never
//! reaches a client.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::disposition::Disposition;
use tidewater_storage::log::ReadError as LogReadError;
use tidewater_storage::model::{LeaderEpoch, Offset, OffsetRange, TimestampMs};
use tidewater_tiering::fetch::{ReadView, RemoteError, RemoteReader};

use crate::partition::message::{EpochEnd, Isolation, ListedOffset, OffsetSpec, ReadDone, ReadError, ReadPart};
use crate::partition::state::replica::Replica;

/// Tries of a search that a moving log start overtakes, before it fails with a retriable error.
const SEARCHES_MAX: usize = 8;

/// The reader of the bucket.
pub type Remote = Rc<RemoteReader>;

/// Reads one partition from `part.from`: at least one batch if any is visible, about `room` bytes. The caller may lower
/// `room` while the read waits for the disk.
///
/// # Errors
/// Out of range, damaged, or not available now.
pub async fn read(
    replica: &Replica,
    remote: Option<&Remote>,
    part: &ReadPart,
    room: &Cell<usize>,
) -> Result<ReadDone, ReadError> {
    let readable = replica.readable();
    if part.from < readable.start || part.from > readable.end {
        return Err(ReadError::OutOfRange { offset: part.from, valid: readable });
    }
    let until = match part.isolation {
        Isolation::ReadUncommitted => replica.high_watermark(),
        Isolation::ReadCommitted => replica.last_stable_offset(),
    };
    room.set(room.get().min(part.max_bytes.max(1)));
    let batches = if part.from >= until || room.get() == 0 {
        Vec::new()
    } else {
        batches_within(replica, remote, part.from, until, room).await?.0
    };
    Ok(ReadDone { batches, ..nothing(replica) })
}

/// An answer without batches: the partition's offsets only.
#[must_use]
pub fn nothing(replica: &Replica) -> ReadDone {
    ReadDone {
        batches: Vec::new(),
        high_watermark: replica.high_watermark(),
        last_stable_offset: replica.last_stable_offset(),
        log_start: replica.log_start(),
    }
}

/// Whole batches from the one that holds `from` on, and the offsets they cover.
///
/// # Errors
/// As [`read`].
pub async fn batches(
    replica: &Replica,
    remote: Option<&Remote>,
    from: Offset,
    until: Offset,
    max_bytes: usize,
) -> Result<(Vec<Bytes>, OffsetRange), ReadError> {
    batches_within(replica, remote, from, until, &Cell::new(max_bytes)).await
}

async fn batches_within(
    replica: &Replica,
    remote: Option<&Remote>,
    from: Offset,
    until: Offset,
    room: &Cell<usize>,
) -> Result<(Vec<Bytes>, OffsetRange), ReadError> {
    if from >= replica.log.bounds().start {
        match replica.log.read_within(from, until, room).await {
            Ok(read) => return Ok((read.batches, read.range)),
            // Trimmed since `bounds` was read: the offset is in the bucket, or below the log start.
            Err(LogReadError::BelowStart { .. }) => {
                let valid = replica.readable();
                if from < valid.start {
                    return Err(ReadError::OutOfRange { offset: from, valid });
                }
            }
            // The bucket has a copy.
            Err(error) if remote.is_some() && is_archived(replica, from) => {
                if replica.is_new_damage(error.damaged().map(|offsets| offsets.start)) {
                    tracing::warn!(partition = %replica.id, topic = %replica.topic(), offset = %from, %error,
                        "local data is damaged or cannot be read; readers get it from the bucket");
                }
            }
            Err(error) => return Err(local_error(replica, from, error)),
        }
    }
    let Some(remote) = remote else {
        return Err(ReadError::BucketUnavailable("no bucket is attached".into()));
    };
    let view = RemoteReader::view(&replica.manifest(), from);
    let until = until.min(view.archived_end);
    match remote.read_batches(view, from, until, room.get()).await {
        Ok(read) => Ok((read.batches, read.range)),
        Err(error) => Err(remote_error(replica, from, error)),
    }
}

/// Does the bucket hold a good copy of it?
fn is_archived(replica: &Replica, offset: Offset) -> bool {
    let manifest = replica.manifest();
    offset < manifest.archived_end && manifest.quarantine_in(OffsetRange::new(offset, offset.next())).is_none()
}

fn local_error(replica: &Replica, from: Offset, error: LogReadError) -> ReadError {
    match error {
        LogReadError::BelowStart { .. } | LogReadError::AboveEnd { .. } => {
            ReadError::OutOfRange { offset: from, valid: replica.readable() }
        }
        LogReadError::Corrupt { .. } => {
            tracing::error!(partition = %replica.id, topic = %replica.topic(), offset = %from, %error,
                "local data is damaged; the bucket or a restore may have it");
            ReadError::Corrupt(error.to_string())
        }
        error => {
            tracing::error!(partition = %replica.id, topic = %replica.topic(), offset = %from, %error, "cannot read local data");
            ReadError::Unavailable
        }
    }
}

fn remote_error(replica: &Replica, from: Offset, error: RemoteError) -> ReadError {
    let (partition, topic) = (replica.id, replica.topic());
    let judged = judge_remote(replica.readable(), from, &error);
    match (&judged, &error) {
        (ReadError::OutOfRange { .. }, _) => {}
        (_, RemoteError::Denied { .. }) => {
            tracing::warn!(%partition, %topic, offset = %from, %error, "readers of archived records wait: check the bucket's credentials (expired?), its policy and this machine's clock");
        }
        (_, RemoteError::BelowStart { .. } | RemoteError::AboveEnd { .. }) => {
            tracing::warn!(%partition, %topic, offset = %from, %error, "neither the local log nor the bucket has a readable offset; its readers wait");
        }
        (ReadError::Corrupt(_), _) => {
            tracing::error!(%partition, %topic, offset = %from, %error, "archived data cannot be read");
        }
        _ => {}
    }
    judged
}

/// The answer to a reader of `from` when the bucket fails and `valid` can be read now. Only damaged bytes are answered as
/// damage, because consumers give up on it.
fn judge_remote(valid: OffsetRange, from: Offset, error: &RemoteError) -> ReadError {
    match error {
        // The log start moved meanwhile, and objects below it are deleted from the bucket.
        _ if from < valid.start => ReadError::OutOfRange { offset: from, valid },
        RemoteError::BelowStart { .. } | RemoteError::AboveEnd { .. } if from > valid.end => {
            ReadError::OutOfRange { offset: from, valid }
        }
        // Still readable: OUT_OF_RANGE would send the consumer to the start or the end.
        RemoteError::BelowStart { .. } | RemoteError::AboveEnd { .. } => {
            ReadError::BucketUnavailable(error.to_string())
        }
        // A refusal (an expired token, a wrong clock) says nothing about the stored bytes.
        error => match error.disposition() {
            Disposition::Corrupt => ReadError::Corrupt(error.to_string()),
            _ => ReadError::BucketUnavailable(error.to_string()),
        },
    }
}

/// As [`remote_error`], of a search that began at `start`: it has no offset of its own that could be out of range.
fn search_error(replica: &Replica, start: Offset, error: RemoteError) -> ReadError {
    match remote_error(replica, start, error) {
        ReadError::OutOfRange { .. } => overtaken(),
        error => error,
    }
}

/// Finds an offset.
///
/// # Errors
/// As [`read`].
pub async fn list_offset(
    replica: &Replica,
    remote: Option<&Remote>,
    spec: OffsetSpec,
) -> Result<Option<ListedOffset>, ReadError> {
    let boundary = |offset| {
        let leader_epoch = epoch_at(replica, offset);
        Ok(Some(ListedOffset { offset, timestamp: None, leader_epoch }))
    };
    match spec {
        OffsetSpec::Earliest => boundary(replica.log_start()),
        OffsetSpec::Latest => boundary(replica.high_watermark()),
        OffsetSpec::LatestStable => boundary(replica.last_stable_offset()),
        OffsetSpec::EarliestLocal => boundary(replica.log.bounds().start.max(replica.log_start())),
        OffsetSpec::LatestTiered => match replica.manifest().archived_end.get().checked_sub(1) {
            None => Ok(None),
            Some(last) => boundary(Offset::new(last)),
        },
        OffsetSpec::EarliestPendingUpload if replica.config().archived => {
            let archived_end = replica.manifest().archived_end;
            boundary(archived_end.max(replica.log_start()))
        }
        OffsetSpec::EarliestPendingUpload => Ok(None),
        OffsetSpec::AtTime(time) => at_time(replica, remote, time).await,
        OffsetSpec::MaxTimestamp => max_timestamp(replica, remote).await,
    }
}

/// The leader epoch in which the record at `offset` was appended.
#[must_use]
pub fn epoch_at(replica: &Replica, offset: Offset) -> Option<LeaderEpoch> {
    let epochs = replica.epochs();
    let n = epochs.partition_point(|(_, start)| *start <= offset);
    n.checked_sub(1).and_then(|n| epochs.get(n)).map(|(epoch, _)| *epoch)
}

/// The end of epoch `asked`, as from Kafka's epoch cache: the greatest epoch not above it and the start of the next.
/// `current` is the leader's own epoch, in which it may not have appended yet. `None` for an epoch above all known.
#[must_use]
pub fn epoch_end(
    epochs: &[(LeaderEpoch, Offset)],
    current: Option<LeaderEpoch>,
    end: Offset,
    asked: LeaderEpoch,
) -> Option<EpochEnd> {
    let newest = current.max(epochs.last().map(|(epoch, _)| *epoch));
    if newest.is_none_or(|newest| asked > newest) {
        return None;
    }
    let above = epochs.partition_point(|(epoch, _)| *epoch <= asked);
    let begins = epochs.get(above).map_or(end, |(_, start)| *start);
    let below = above.checked_sub(1).and_then(|n| epochs.get(n)).map(|(epoch, _)| *epoch);
    // The leader's own epoch holds even before its first batch; below all known, the asked one ends where they begin.
    let epoch = if newest == Some(asked) { asked } else { below.unwrap_or(asked) };
    Some(EpochEnd { epoch, end: begins })
}

/// The offsets of a search: in the bucket below `local_start`, in the log from there on.
struct Span {
    readable: OffsetRange,
    local_start: Offset,
}

impl Span {
    fn of(replica: &Replica) -> Self {
        Self { readable: replica.readable(), local_start: replica.log.bounds().start }
    }

    /// The bucket's part of the search, if records are only there. The manifest gets a new log start later than the log.
    fn cold(&self, replica: &Replica) -> Option<ReadView> {
        (self.readable.start < self.local_start).then(|| {
            let mut view = ReadView::whole(&replica.manifest());
            view.log_start = view.log_start.max(self.readable.start);
            view
        })
    }

    fn hot(&self) -> OffsetRange {
        OffsetRange::new(self.readable.start.max(self.local_start), self.readable.end)
    }

    /// Did the search cover everything? During the reads the local log may have been trimmed, so that the trimmed records
    /// were searched neither there nor in the bucket; and the log start may have passed the record found.
    fn held(&self, replica: &Replica, found: Option<&ListedOffset>) -> bool {
        let now = Self::of(replica);
        let cold = found.is_some_and(|found| found.offset < self.local_start);
        (cold || now.local_start <= self.hot().start) && found.is_none_or(|found| found.offset >= now.readable.start)
    }
}

/// The first record at or after `time`, exact over bucket and log. The bucket is asked first, for records below the log.
async fn at_time(
    replica: &Replica,
    remote: Option<&Remote>,
    time: TimestampMs,
) -> Result<Option<ListedOffset>, ReadError> {
    for _ in 0..SEARCHES_MAX {
        let span = Span::of(replica);
        let mut found = None;
        if let (Some(view), Some(remote)) = (span.cold(replica), remote) {
            let cold = remote.find_time(view, time, span.local_start).await;
            let cold = cold.map_err(|e| search_error(replica, span.readable.start, e))?;
            found = cold.map(|found| listed(replica, found.offset, found.timestamp));
        }
        if found.is_none() {
            let hot = replica.log.find_time(time, span.hot()).await;
            let hot = hot.map_err(|e| local_error(replica, span.hot().start, e))?;
            found = hot.map(|found| listed(replica, found.offset, found.timestamp));
        }
        if span.held(replica, found.as_ref()) {
            return Ok(found);
        }
    }
    Err(overtaken())
}

/// The first record that has the greatest timestamp.
async fn max_timestamp(replica: &Replica, remote: Option<&Remote>) -> Result<Option<ListedOffset>, ReadError> {
    for _ in 0..SEARCHES_MAX {
        let span = Span::of(replica);
        if span.readable.is_empty() {
            return Ok(None);
        }
        let mut found = None;
        if let (Some(view), Some(remote)) = (span.cold(replica), remote) {
            let cold = remote.max_timestamp(view, span.local_start).await;
            let cold = cold.map_err(|e| search_error(replica, span.readable.start, e))?;
            found = cold.map(|found| listed(replica, found.offset, found.timestamp));
        }
        let hot = replica.log.max_timestamp_from(span.hot().start).await;
        let hot = hot.map_err(|e| local_error(replica, span.hot().start, e))?;
        let hot = hot.map(|found| listed(replica, found.offset, found.timestamp));
        // Both parts must be covered; of equal timestamps the earlier record counts, as in Kafka.
        let whole = span.held(replica, hot.as_ref()) && span.held(replica, found.as_ref());
        if hot.is_some_and(|hot| found.is_none_or(|found| hot.timestamp > found.timestamp)) {
            found = hot;
        }
        if whole {
            return Ok(found);
        }
    }
    Err(overtaken())
}

fn overtaken() -> ReadError {
    ReadError::BucketUnavailable("the log start moved during the search".into())
}

fn listed(replica: &Replica, offset: Offset, timestamp: TimestampMs) -> ListedOffset {
    ListedOffset { offset, timestamp: Some(timestamp), leader_epoch: epoch_at(replica, offset) }
}

#[cfg(test)]
mod with_bucket;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidewater_storage::model::{LaneId, PartitionId};
    use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch, Sequence};

    use super::*;
    use crate::kafka::error_code::ErrorCode;

    #[test]
    fn only_damage_is_answered_as_damage() {
        let valid = OffsetRange::new(Offset::new(10), Offset::new(20));
        let (partition, from) = (PartitionId::default(), Offset::new(12));
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
        let (object, reason) = (home.bundle(LaneId(1), Sequence(1)), || "ExpiredToken".to_owned());
        let code = |from, error: &RemoteError| ErrorCode::from(&judge_remote(valid, from, error));

        let denied = RemoteError::Denied { object, reason: reason() };
        let missing = RemoteError::Missing { partition, object };
        let late = RemoteError::Deadline { partition, after: Duration::from_secs(20) };
        let bad = RemoteError::BadIndex { object, reason: reason() };
        assert_eq!(code(from, &denied), ErrorCode::KAFKA_STORAGE_ERROR, "an expired token passes");
        assert_eq!(code(from, &late), ErrorCode::KAFKA_STORAGE_ERROR);
        assert_eq!(code(from, &missing), ErrorCode::CORRUPT_MESSAGE);
        assert_eq!(code(from, &bad), ErrorCode::CORRUPT_MESSAGE);

        let below = RemoteError::BelowStart { partition, offset: from, start: Offset::new(15) };
        let above = RemoteError::AboveEnd { partition, offset: from, end: Offset::ZERO };
        for error in [&below, &above, &missing] {
            let trimmed = judge_remote(valid, Offset::new(9), error);
            assert_eq!(trimmed, ReadError::OutOfRange { offset: Offset::new(9), valid }, "trimmed under the reader");
        }
        for error in [&below, &above] {
            assert_eq!(code(from, error), ErrorCode::KAFKA_STORAGE_ERROR, "it is readable: no reason to jump");
            assert_eq!(code(Offset::new(21), error), ErrorCode::OFFSET_OUT_OF_RANGE);
        }
    }

    #[test]
    fn epochs_end_where_the_next_begins() {
        let table = [(LeaderEpoch(2), Offset::new(10)), (LeaderEpoch(5), Offset::new(20))];
        let end = |current, asked| {
            epoch_end(&table, current, Offset::new(30), LeaderEpoch(asked)).map(|e| (e.epoch.0, e.end.get()))
        };
        assert_eq!(end(None, 1), Some((1, 10)), "before all known");
        assert_eq!(end(None, 2), Some((2, 20)));
        assert_eq!(end(None, 4), Some((2, 20)), "an epoch without records");
        assert_eq!(end(None, 5), Some((5, 30)));
        assert_eq!(end(None, 6), None);
        let leads = Some(LeaderEpoch(7));
        assert_eq!(end(leads, 5), Some((5, 30)), "nothing written in 7 yet");
        assert_eq!(end(leads, 6), Some((5, 30)));
        assert_eq!(end(leads, 7), Some((7, 30)));
        assert_eq!(end(leads, 8), None);
        let none = epoch_end(&[], leads, Offset::ZERO, LeaderEpoch(7));
        assert_eq!(none, Some(EpochEnd { epoch: LeaderEpoch(7), end: Offset::ZERO }));
        assert_eq!(epoch_end(&[], None, Offset::ZERO, LeaderEpoch(0)), None);
    }
}
