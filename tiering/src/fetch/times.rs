//! Searches by time over what is archived: exact, reading only runs that may hold the answer.
//!
//! Owns: the search. Does not own: reading runs (`fetch`). Shard-local. A row's and a run's greatest timestamp bound
//! what is inside from above, so everything below the time asked for is passed over unread.

use std::ops::ControlFlow;

use tidewater_storage::model::record::read;
use tidewater_storage::model::{Batch, Offset, OffsetRange, PartitionId, TimestampMs};

use super::error::RemoteError;
use super::locate::{LocatedRun, ReadView, Step};
use super::rows::RowWalk;
use super::{RemoteReader, RemoteTime};

/// What the records of one batch may unpack to. Kafka's own cap on a batch is 1 MiB by default; this is far above.
const UNPACKED_BYTES_MAX: usize = 256 << 20;

pub(super) async fn find_time(
    reader: &RemoteReader,
    view: ReadView,
    at_or_after: TimestampMs,
    until: Offset,
) -> Result<Option<RemoteTime>, RemoteError> {
    let readable = OffsetRange::new(view.log_start, until.min(view.archived_end));
    let mut view = view;
    view.steps.retain(|step| max_timestamp_of(step) >= at_or_after);
    let mut walk = RowWalk::new(reader.indexes(), view);
    let mut next = readable.start;
    while let Some(row) = walk.next_at(next).await? {
        let offsets = row.offsets.intersect(&readable);
        next = row.offsets.end;
        if row.max_timestamp < at_or_after || offsets.is_empty() {
            continue;
        }
        for located in reader.locate(walk.partition(), &row, offsets).await? {
            if located.run.max_timestamp < at_or_after {
                continue;
            }
            let mut found = None;
            each_record(reader, walk.partition(), &located, offsets, at_or_after, |record| {
                found = Some(record);
                ControlFlow::Break(())
            })
            .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

pub(super) async fn max_timestamp(
    reader: &RemoteReader,
    view: ReadView,
    until: Offset,
) -> Result<Option<RemoteTime>, RemoteError> {
    let readable = OffsetRange::new(view.log_start, until.min(view.archived_end));
    let mut best: Option<RemoteTime> = None;
    let mut steps = view.steps.clone();
    // The most promising first; what cannot beat the best is never read.
    steps.sort_by_key(|step| (std::cmp::Reverse(max_timestamp_of(step)), step.offsets().start));
    for step in steps {
        if best.is_some_and(|best| max_timestamp_of(&step) < best.timestamp) {
            break;
        }
        let mut walk = RowWalk::new(reader.indexes(), ReadView { steps: vec![step], ..view.clone() });
        let mut next = step.offsets().start;
        while let Some(row) = walk.next_at(next).await? {
            next = row.offsets.end;
            let offsets = row.offsets.intersect(&readable);
            if offsets.is_empty() || best.is_some_and(|best| row.max_timestamp < best.timestamp) {
                continue;
            }
            for located in reader.locate(walk.partition(), &row, offsets).await? {
                let least = best.map_or(TimestampMs(i64::MIN), |best| best.timestamp);
                if located.run.max_timestamp < least {
                    continue;
                }
                each_record(reader, walk.partition(), &located, offsets, least, |record| {
                    best = Some(best.filter(|best| !beats(&record, best)).unwrap_or(record));
                    ControlFlow::Continue(())
                })
                .await?;
            }
        }
    }
    Ok(best)
}

fn beats(record: &RemoteTime, best: &RemoteTime) -> bool {
    record.timestamp > best.timestamp || (record.timestamp == best.timestamp && record.offset < best.offset)
}

fn max_timestamp_of(step: &Step) -> TimestampMs {
    match step {
        Step::Row(row) => row.max_timestamp,
        Step::Page(page) => page.max_timestamp,
    }
}

/// Shows the records of a run that lie in `offsets` and at or after `least`, one by one until `show` answers `Break`.
async fn each_record(
    reader: &RemoteReader,
    partition: PartitionId,
    located: &LocatedRun,
    offsets: OffsetRange,
    least: TimestampMs,
    mut show: impl FnMut(RemoteTime) -> ControlFlow<()>,
) -> Result<(), RemoteError> {
    let (_, run) = reader.read_run(partition, located, false).await?;
    let object = located.chunk.object;
    let bad = |reason: String| RemoteError::BadIndex { object, reason };
    for batch in Batch::split_all(run).map_err(|error| bad(error.to_string()))? {
        let header = &batch.header;
        let inside = header.offsets().intersect(&offsets);
        if header.max_timestamp < least || header.is_control() || inside.is_empty() {
            continue;
        }
        // A batch that does not open is found by its header, as in the local log: its content concerns only its
        // consumers.
        let closed = RemoteTime { offset: inside.start, timestamp: header.max_timestamp };
        let Ok(records) = read(header, &batch.bytes, UNPACKED_BYTES_MAX) else {
            if show(closed).is_break() {
                return Ok(());
            }
            continue;
        };
        for record in records {
            let opened = record.map(|record| RemoteTime { offset: record.offset, timestamp: record.timestamp });
            let (time, more) = opened.map_or((closed, false), |time| (time, true));
            if time.timestamp >= least && offsets.contains(time.offset) && show(time).is_break() {
                return Ok(());
            }
            if !more {
                break;
            }
        }
    }
    Ok(())
}
