//! Reading entries back: from memory, or from their place on disk, neighbours in one read.
//!
//! Owns: the check that what is read is what was written there. A file that is being read is never recycled: readers
//! hold it. Affinity: shard-local.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::files::JournalFile;
use super::format::{FormatError, Record, decode_record};
use super::lane::Place;
use super::{Inner, JournalError, LaneEntry};
use crate::model::{EntryId, FilePos, LaneId, LogIndex};

/// Neighbours further apart than this are read apart. Bytes.
const GAP_MAX: u64 = 64 << 10;
/// One read is at most this, or one entry. Bytes.
const SPAN_MAX: u64 = 1 << 20;

enum Found {
    Memory(LaneEntry),
    Disk { id: EntryId, file: Rc<JournalFile>, place: Place },
}

pub(super) async fn read(
    inner: &Inner,
    lane: LaneId,
    range: Range<u64>,
    max_bytes: usize,
) -> Result<Vec<LaneEntry>, JournalError> {
    let mut found = find(inner, lane, range, max_bytes).into_iter().peekable();
    let mut entries = Vec::with_capacity(found.len());
    while let Some(first) = found.next() {
        let (id, file, place) = match first {
            Found::Memory(entry) => {
                entries.push(entry);
                continue;
            }
            Found::Disk { id, file, place } => (id, file, place),
        };
        let mut run = vec![(id, place)];
        let mut end = place.at + u64::from(place.len);
        while let Some(Found::Disk { id, place: next, .. }) = found.next_if(|next| follows(next, &file, place, end)) {
            end = next.at + u64::from(next.len);
            run.push((id, next));
        }
        read_run(lane, &file, &run, place.at..end, &mut entries).await?;
    }
    Ok(entries)
}

fn follows(next: &Found, file: &Rc<JournalFile>, first: Place, end: u64) -> bool {
    match next {
        Found::Disk { file: other, place, .. } => {
            let near = place.at >= end && place.at - end <= GAP_MAX;
            Rc::ptr_eq(file, other) && near && place.at + u64::from(place.len) - first.at <= SPAN_MAX
        }
        Found::Memory(_) => false,
    }
}

/// What to read, decided at once: the log may change while the disk works.
fn find(inner: &Inner, lane: LaneId, range: Range<u64>, max_bytes: usize) -> Vec<Found> {
    let books = inner.books.borrow();
    let Some(state) = books.lanes.get(&lane) else { return Vec::new() };
    let present = state.indexes();
    let (mut found, mut bytes) = (Vec::new(), 0usize);
    for index in range.start.max(present.start)..range.end.min(present.end) {
        let Some(slot) = state.slot(index) else { break };
        let id = EntryId { term: slot.term, index: LogIndex(index) };
        let item = match (&slot.payload, slot.place) {
            (Some(payload), _) => {
                bytes = bytes.saturating_add(payload.len());
                Found::Memory(LaneEntry { id, payload: payload.clone() })
            }
            (None, Some(place)) => {
                let Some(file) = books.files.get(&place.file) else { break };
                bytes = bytes.saturating_add(place.len as usize);
                Found::Disk { id, file: file.clone(), place }
            }
            (None, None) => break,
        };
        if bytes > max_bytes && !found.is_empty() {
            break;
        }
        found.push(item);
    }
    found
}

async fn read_run(
    lane: LaneId,
    file: &JournalFile,
    run: &[(EntryId, Place)],
    span: Range<u64>,
    entries: &mut Vec<LaneEntry>,
) -> Result<(), JournalError> {
    let index = run.first().map_or(LogIndex(0), |(id, _)| id.index);
    let len = usize::try_from(span.end - span.start).unwrap_or(usize::MAX);
    let read_failed = |error| JournalError::Read {
        lane,
        index,
        file: file.path.clone(),
        at: FilePos(span.start),
        error: Arc::new(error),
    };
    let bytes = file.file.read_at(span.start, len).await.map_err(read_failed)?;
    for (id, place) in run {
        let corrupt = |error| JournalError::Corrupt {
            lane,
            index: id.index,
            file: file.path.clone(),
            at: FilePos(place.at),
            error,
        };
        let at = usize::try_from(place.at - span.start).unwrap_or(usize::MAX);
        let located = decode_record(&bytes, at).map_err(corrupt)?;
        match located.record {
            Record::Entry(entry) | Record::Rewritten(entry) if entry.id == *id && located.lane == lane => {
                entries.push(entry);
            }
            _ => return Err(corrupt(FormatError::Field { field: "entry id", value: id.index.0 })),
        }
    }
    Ok(())
}
