//! What a turn takes: each partition its share of the bytes and files that a turn may hold.
//!
//! Owns: the order and the shares, holes, partitions that cannot be read. Does not own: what may be taken (`plan`), the
//! cut at a record (`translate`). *Message*; one task.

use tidewater_storage::model::{Offset, OffsetRange, PartitionIndex};

use super::typed::Resolved;
use super::{SinkError, TableSink, Unreadable};
use crate::plan::{self, Offsets, PlannedRange};
use crate::read::LogReadError;
use crate::translate::{Room, Stop, Translation};

/// Bytes asked of the log at once, as stored.
const READ_BYTES: usize = 4 << 20;
/// Bytes that are worth a read; a partition's share is no less while the turn has them.
const BYTES_WORTH_READING: usize = 1 << 20;
/// The same of files, of which each partition of the table needs one: a day's backlog of hours takes two turns, however
/// many partitions of the topic share them.
const FILES_WORTH_READING: usize = 16;

/// What one turn read.
pub(super) struct Taken {
    pub(super) translation: Translation,
    pub(super) to: Offsets,
    pub(super) behind: bool,
}

impl TableSink {
    /// Reads into `translation`, each partition its share, up to the caps of a turn. A partition that cannot be read or
    /// whose next value has a schema that cannot be had now, gives the records before that and does not stop the
    /// others; it is an error only if no partition gives any. A conflict that pauses the table ends the turn.
    pub(super) async fn take(
        &mut self,
        ranges: &[PlannedRange],
        from: &Offsets,
        translation: Translation,
    ) -> Result<Taken, SinkError> {
        let mut taken = Taken { translation, to: from.clone(), behind: false };
        let mut failed = None;
        self.status.unreadable.clear();
        let mut ranges = ranges.to_vec();
        // Otherwise partitions with longer backlogs could come before it in every turn.
        let (first, last) = (self.turned_away.take(), std::mem::take(&mut self.short_of_files));
        ranges.sort_by_key(|range| (Some(range.partition) != first, last.contains(&range.partition)));
        for (at, range) in ranges.iter().enumerate() {
            let Some(room) = self.room(&taken.translation, ranges.len() - at) else {
                taken.behind = true;
                self.turned_away.get_or_insert(range.partition);
                break;
            };
            if !range.lost.is_empty() {
                let reason = "removed by retention before the table had it";
                taken.translation.skip(range.partition, range.lost, reason, 0);
            }
            let (next, error) = self.take_partition(range, &room, &mut taken.translation).await;
            if error.is_none() || next.start > range.offsets.start || !range.lost.is_empty() {
                taken.to.insert(range.partition, next.start);
            }
            match error {
                None if next.is_empty() => {}
                None => {
                    taken.behind = true;
                    if next.start == range.offsets.start {
                        self.turned_away.get_or_insert(range.partition);
                    } else if taken.translation.files() >= room.files {
                        self.short_of_files.insert(range.partition);
                    }
                }
                // What comes before the record is taken; then nothing is, of the other partitions either.
                Some(error @ SinkError::Conflict { .. }) => {
                    self.turned_away = Some(range.partition);
                    (taken.behind, self.behind) = (true, true);
                    if next.start == range.offsets.start {
                        return Err(error);
                    }
                    break;
                }
                Some(error) if !is_of_partition(&error) => return Err(error),
                Some(error) => {
                    let unreadable = Unreadable { held_by: error.held_by(), why: error.to_string() };
                    self.status.unreadable.insert(range.partition, unreadable);
                    failed.get_or_insert(error);
                }
            }
        }
        let is_behind =
            |(partition, next): (&PartitionIndex, &Offset)| from.get(partition).is_some_and(|from| next < from);
        assert!(!taken.to.iter().any(is_behind), "a turn moves no partition back: from {from:?} to {:?}", taken.to);
        match failed {
            Some(error) if taken.to == *from => Err(error),
            _ => Ok(taken),
        }
    }

    /// What the first of so many partitions may take beside what the turn holds; `None` if that is not worth a read.
    fn room(&self, taken: &Translation, partitions: usize) -> Option<Room> {
        let (most, files) = (self.config.turn_bytes, self.config.turn_files.max(1));
        let (bytes_left, files_left) = (most.saturating_sub(taken.bytes()), files.saturating_sub(taken.files()));
        if bytes_left <= most / 128 || files_left == 0 {
            return None;
        }
        Some(Room {
            share: taken.bytes() + plan::share(bytes_left, partitions, BYTES_WORTH_READING),
            bytes: most,
            files: taken.files() + plan::share(files_left, partitions, FILES_WORTH_READING),
        })
    }

    /// Takes from one partition until there is no room; returns what is left of the range, and why it could not be read
    /// if so.
    async fn take_partition(
        &mut self,
        range: &PlannedRange,
        room: &Room,
        translation: &mut Translation,
    ) -> (OffsetRange, Option<SinkError>) {
        let mut left = range.offsets;
        while !left.is_empty() && translation.bytes() < room.share {
            let bytes = (room.share - translation.bytes()).min(READ_BYTES);
            let read = match self.log.read(self.config.topic_id, range.partition, left, bytes).await {
                Ok(read) => read,
                Err(error) => return (left, Some(error.into())),
            };
            if read.offsets.start > left.start {
                let hole = OffsetRange::new(left.start, read.offsets.start.min(left.end));
                translation.skip(range.partition, hole, "the log has a hole here", 0);
                left.start = hole.end;
            }
            let before = left.start;
            for batches in read.batches {
                loop {
                    let added = translation.add(range.partition, batches.clone(), left, read.offsets.end, room);
                    left.start = added.next;
                    match added.stop {
                        None => break,
                        Some(Stop::Full) => return (left, None),
                        Some(Stop::Schema) => match self.resolve(translation).await {
                            Ok(Resolved::GoOn) => {}
                            Ok(Resolved::EndTurn) => return (left, None),
                            Ok(Resolved::Conflict(detail)) => {
                                let (partition, offset) = (range.partition, left.start);
                                return (left, Some(SinkError::Conflict { partition, offset, detail }));
                            }
                            Err(error) => return (left, Some(error)),
                        },
                    }
                }
            }
            if left.start == before {
                // The range that the reader reports as covered, so that offsets without records do not stop the table.
                left.start = read.offsets.end.min(left.end);
            }
            if left.start == before {
                return (left, Some(no_progress(range.partition, left).into()));
            }
        }
        (left, None)
    }
}

/// Whether the other partitions may go on.
fn is_of_partition(error: &SinkError) -> bool {
    match error {
        SinkError::Read(LogReadError::NoTopic(_))
        | SinkError::NoSchema { .. }
        | SinkError::Conflict { .. }
        | SinkError::Write(_)
        | SinkError::Commit(_) => false,
        SinkError::Read(_) | SinkError::Schemas(_) => true,
    }
}

fn no_progress(partition: PartitionIndex, left: OffsetRange) -> LogReadError {
    let reason = format!("the log gave nothing of {left}");
    LogReadError::Unavailable { partition, reason }
}
