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
use crate::partition::read::readable::Readable;

/// Tries of a search that a moving log start overtakes, before it fails with a retriable error.
const SEARCHES_MAX: usize = 8;

/// The reader of the bucket.
pub type Remote = Rc<RemoteReader>;

/// Reads one partition from `part.from`: at least one batch if any is visible, about `room` bytes. The caller may lower
/// `room` while the read waits for the disk.
///
/// # Errors
/// Out of range, damaged, or not available now.
pub async fn read<P: Readable>(
    partition: &P,
    remote: Option<&Remote>,
    part: &ReadPart,
    room: &Cell<usize>,
) -> Result<ReadDone, ReadError> {
    let readable = partition.readable();
    if part.from < readable.start || part.from > readable.end {
        if part.from > readable.end && !partition.is_beyond() {
            return Err(ReadError::BucketUnavailable(format!("offset {} is not known here yet", part.from)));
        }
        return Err(ReadError::OutOfRange { offset: part.from, valid: readable });
    }
    let until = match part.isolation {
        Isolation::ReadUncommitted => partition.high_watermark(),
        Isolation::ReadCommitted => partition.last_stable_offset(),
    };
    room.set(room.get().min(part.max_bytes.max(1)));
    let batches = if part.from >= until || room.get() == 0 {
        Vec::new()
    } else {
        batches_within(partition, remote, part.from, until, room).await?.0
    };
    Ok(ReadDone { batches, ..nothing(partition) })
}

/// An answer without batches: the partition's offsets only.
#[must_use]
pub fn nothing<P: Readable>(partition: &P) -> ReadDone {
    ReadDone {
        batches: Vec::new(),
        high_watermark: partition.high_watermark(),
        last_stable_offset: partition.last_stable_offset(),
        log_start: partition.log_start(),
    }
}

/// Whole batches from the one that holds `from` on, and the offsets they cover.
///
/// # Errors
/// As [`read`].
pub async fn batches<P: Readable>(
    partition: &P,
    remote: Option<&Remote>,
    from: Offset,
    until: Offset,
    max_bytes: usize,
) -> Result<(Vec<Bytes>, OffsetRange), ReadError> {
    batches_within(partition, remote, from, until, &Cell::new(max_bytes)).await
}

async fn batches_within<P: Readable>(
    partition: &P,
    remote: Option<&Remote>,
    from: Offset,
    until: Offset,
    room: &Cell<usize>,
) -> Result<(Vec<Bytes>, OffsetRange), ReadError> {
    if let Some(log) = partition.local().filter(|log| from >= log.bounds().start) {
        match log.read_within(from, until, room).await {
            Ok(read) => return Ok((read.batches, read.range)),
            // Trimmed since `bounds` was read: the offset is in the bucket, or below the log start.
            Err(LogReadError::BelowStart { .. }) => {
                let valid = partition.readable();
                if from < valid.start {
                    return Err(ReadError::OutOfRange { offset: from, valid });
                }
            }
            // The bucket has a copy.
            Err(error) if remote.is_some() && partition.has_archived(from) => {
                if partition.is_new_damage(error.damaged().map(|offsets| offsets.start)) {
                    tracing::warn!(partition = %partition.id(), topic = %partition.topic(), offset = %from, %error,
                        "local data is damaged or cannot be read; readers get it from the bucket");
                }
            }
            Err(error) => return Err(local_error(partition, from, error)),
        }
    }
    let Some(remote) = remote else {
        return Err(ReadError::BucketUnavailable("no bucket is attached".into()));
    };
    let read_once = async || {
        let view = partition.view(from);
        let until = until.min(view.archived_end);
        remote.read_batches(view, from, until, room.get()).await
    };
    let mut read = read_once().await;
    if read.as_ref().is_err_and(is_outdated) && partition.refresh().await {
        read = read_once().await;
    }
    read.map(|read| (read.batches, read.range)).map_err(|error| remote_error(partition, from, error))
}

/// Does the error say that what named the objects may be too old?
fn is_outdated(error: &RemoteError) -> bool {
    matches!(error, RemoteError::Missing { .. } | RemoteError::BadIndex { .. })
}

fn local_error<P: Readable>(partition: &P, from: Offset, error: LogReadError) -> ReadError {
    match error {
        LogReadError::BelowStart { .. } | LogReadError::AboveEnd { .. } => {
            ReadError::OutOfRange { offset: from, valid: partition.readable() }
        }
        LogReadError::Corrupt { .. } => {
            tracing::error!(partition = %partition.id(), topic = %partition.topic(), offset = %from, %error,
                "local data is damaged; the bucket or a restore may have it");
            ReadError::Corrupt(error.to_string())
        }
        error => {
            tracing::error!(partition = %partition.id(), topic = %partition.topic(), offset = %from, %error, "cannot read local data");
            ReadError::Unavailable
        }
    }
}

fn remote_error<P: Readable>(partition: &P, from: Offset, error: RemoteError) -> ReadError {
    let (id, topic) = (partition.id(), partition.topic());
    let judged = judge_remote(partition.readable(), from, &error);
    match (&judged, &error) {
        (ReadError::OutOfRange { .. }, _) => {}
        (_, RemoteError::Denied { .. }) => {
            tracing::warn!(partition = %id, %topic, offset = %from, %error, "readers of archived records wait: check the bucket's credentials (expired?), its policy and this machine's clock");
        }
        (_, RemoteError::BelowStart { .. } | RemoteError::AboveEnd { .. }) => {
            tracing::warn!(partition = %id, %topic, offset = %from, %error, "neither the local log nor the bucket has a readable offset; its readers wait");
        }
        (ReadError::Corrupt(_), _) => {
            tracing::error!(partition = %id, %topic, offset = %from, %error, "archived data cannot be read");
        }
        _ => {}
    }
    judged
}

/// The answer to a reader of `from` when the bucket fails and `valid` can be read now. Only damaged bytes are answered
/// as damage, because consumers give up on it.
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
fn search_error<P: Readable>(partition: &P, start: Offset, error: RemoteError) -> ReadError {
    match remote_error(partition, start, error) {
        ReadError::OutOfRange { .. } => overtaken(),
        error => error,
    }
}

/// Finds an offset.
///
/// # Errors
/// As [`read`].
pub async fn list_offset<P: Readable>(
    partition: &P,
    remote: Option<&Remote>,
    spec: OffsetSpec,
) -> Result<Option<ListedOffset>, ReadError> {
    let boundary = |offset| {
        let leader_epoch = partition.epoch_at(offset);
        Ok(Some(ListedOffset { offset, timestamp: None, leader_epoch }))
    };
    match spec {
        OffsetSpec::Earliest => boundary(partition.log_start()),
        OffsetSpec::Latest => boundary(partition.high_watermark()),
        OffsetSpec::LatestStable => boundary(partition.last_stable_offset()),
        OffsetSpec::EarliestLocal => {
            let start = partition.local().map_or(partition.high_watermark(), |log| log.bounds().start);
            boundary(start.max(partition.log_start()))
        }
        OffsetSpec::LatestTiered => match partition.archived_end().get().checked_sub(1) {
            None => Ok(None),
            Some(last) => boundary(Offset::new(last)),
        },
        OffsetSpec::EarliestPendingUpload if partition.is_uploaded() => {
            boundary(partition.archived_end().max(partition.log_start()))
        }
        OffsetSpec::EarliestPendingUpload => Ok(None),
        OffsetSpec::AtTime(time) => at_time(partition, remote, time).await,
        OffsetSpec::MaxTimestamp => max_timestamp(partition, remote).await,
    }
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
    /// `None` of a partition without a local log.
    local_start: Option<Offset>,
}

impl Span {
    fn of<P: Readable>(partition: &P) -> Self {
        Self { readable: partition.readable(), local_start: partition.local().map(|log| log.bounds().start) }
    }

    /// Where the bucket's part of the search ends.
    fn cold_end(&self) -> Offset {
        self.local_start.unwrap_or(self.readable.end)
    }

    /// The bucket's part of the search, if records are only there. The manifest gets a new log start later than the
    /// log.
    fn cold<P: Readable>(&self, partition: &P) -> Option<ReadView> {
        (self.readable.start < self.cold_end()).then(|| {
            let mut view = partition.whole_view();
            view.log_start = view.log_start.max(self.readable.start);
            view
        })
    }

    fn hot(&self) -> OffsetRange {
        OffsetRange::new(self.readable.start.max(self.cold_end()), self.readable.end)
    }

    /// Did the search cover everything? During the reads the local log may have been trimmed, so that the trimmed
    /// records were searched neither there nor in the bucket; and the log start may have passed the record found.
    fn held<P: Readable>(&self, partition: &P, found: Option<&ListedOffset>) -> bool {
        let now = Self::of(partition);
        let is_cold = found.is_some_and(|found| found.offset < self.cold_end());
        let covered = is_cold || now.local_start.is_none_or(|start| start <= self.hot().start);
        covered && found.is_none_or(|found| found.offset >= now.readable.start)
    }
}

/// The first record at or after `time`, exact over bucket and log. The bucket is asked first, for records below the
/// log.
async fn at_time<P: Readable>(
    partition: &P,
    remote: Option<&Remote>,
    time: TimestampMs,
) -> Result<Option<ListedOffset>, ReadError> {
    for _ in 0..SEARCHES_MAX {
        let span = Span::of(partition);
        let mut found = None;
        if let (Some(view), Some(remote)) = (span.cold(partition), remote) {
            let cold = match remote.find_time(view, time, span.cold_end()).await {
                Err(error) if is_outdated(&error) && partition.refresh().await => continue,
                cold => cold.map_err(|e| search_error(partition, span.readable.start, e))?,
            };
            found = cold.map(|found| listed(partition, found.offset, found.timestamp));
        }
        if let (None, Some(log)) = (found, partition.local()) {
            let hot = log.find_time(time, span.hot()).await;
            let hot = hot.map_err(|e| local_error(partition, span.hot().start, e))?;
            found = hot.map(|found| listed(partition, found.offset, found.timestamp));
        }
        if span.held(partition, found.as_ref()) {
            return Ok(found);
        }
    }
    Err(overtaken())
}

/// The first record that has the greatest timestamp.
async fn max_timestamp<P: Readable>(partition: &P, remote: Option<&Remote>) -> Result<Option<ListedOffset>, ReadError> {
    for _ in 0..SEARCHES_MAX {
        let span = Span::of(partition);
        if span.readable.is_empty() {
            return Ok(None);
        }
        let mut found = None;
        if let (Some(view), Some(remote)) = (span.cold(partition), remote) {
            let cold = match remote.max_timestamp(view, span.cold_end()).await {
                Err(error) if is_outdated(&error) && partition.refresh().await => continue,
                cold => cold.map_err(|e| search_error(partition, span.readable.start, e))?,
            };
            found = cold.map(|found| listed(partition, found.offset, found.timestamp));
        }
        let mut hot = None;
        if let Some(log) = partition.local() {
            let last = log.max_timestamp_from(span.hot().start).await;
            let last = last.map_err(|e| local_error(partition, span.hot().start, e))?;
            hot = last.map(|found| listed(partition, found.offset, found.timestamp));
        }
        // Both parts must be covered; of equal timestamps the earlier record counts, as in Kafka.
        let whole = span.held(partition, hot.as_ref()) && span.held(partition, found.as_ref());
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

fn listed<P: Readable>(partition: &P, offset: Offset, timestamp: TimestampMs) -> ListedOffset {
    ListedOffset { offset, timestamp: Some(timestamp), leader_epoch: partition.epoch_at(offset) }
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
