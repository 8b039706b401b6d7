//! Reads entries back: from memory, or from disk, where neighbours are read together.
//!
//! Owns: the check that the bytes read are the entry asked for. A file that is being read is never recycled: readers
//! hold it. Affinity: shard-local.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::files::JournalFile;
use super::format::{FormatError, Record, decode_record};
use super::lane::RecordAddress;
use super::{JournalEntry, JournalError, JournalInner};
use crate::model::{EntryId, FilePos, LaneId, LogIndex};

/// Records with a larger gap between them are read separately. Bytes.
const GAP_MAX: u64 = 64 << 10;
/// One read of several records; a larger record is read alone. Bytes.
const SPAN_MAX: u64 = 1 << 20;

enum EntrySource {
    Memory(JournalEntry),
    Disk { id: EntryId, file: Rc<JournalFile>, address: RecordAddress },
}

pub(super) async fn read(
    inner: &JournalInner,
    lane: LaneId,
    range: Range<u64>,
    max_bytes: usize,
) -> Result<Vec<JournalEntry>, JournalError> {
    let mut found = find(inner, lane, range, max_bytes).into_iter().peekable();
    let mut entries = Vec::with_capacity(found.len());
    while let Some(first) = found.next() {
        let (id, file, address) = match first {
            EntrySource::Memory(entry) => {
                entries.push(entry);
                continue;
            }
            EntrySource::Disk { id, file, address } => (id, file, address),
        };
        let mut run = vec![(id, address)];
        let mut end = address.at + u64::from(address.len);
        while let Some(EntrySource::Disk { id, address: next, .. }) =
            found.next_if(|next| follows(next, &file, address, end))
        {
            end = next.at + u64::from(next.len);
            run.push((id, next));
        }
        read_run(lane, &file, &run, address.at..end, &mut entries).await?;
    }
    Ok(entries)
}

fn follows(next: &EntrySource, file: &Rc<JournalFile>, first: RecordAddress, end: u64) -> bool {
    match next {
        EntrySource::Disk { file: other, address, .. } => {
            let near = address.at >= end && address.at - end <= GAP_MAX;
            Rc::ptr_eq(file, other) && near && address.at + u64::from(address.len) - first.at <= SPAN_MAX
        }
        EntrySource::Memory(_) => false,
    }
}

/// Where each entry is, looked up at one instant: the log may change while the disk is read.
fn find(inner: &JournalInner, lane: LaneId, range: Range<u64>, max_bytes: usize) -> Vec<EntrySource> {
    let state = inner.state.borrow();
    let Some(log) = state.lanes.get(&lane) else { return Vec::new() };
    let present = log.indexes();
    let (mut found, mut bytes) = (Vec::new(), 0usize);
    for index in range.start.max(present.start)..range.end.min(present.end) {
        let slot = log.slot(index).expect("every index of a log has an entry");
        let id = EntryId { term: slot.term, index: LogIndex(index) };
        let item = match (&slot.payload, slot.address) {
            (Some(payload), _) => {
                bytes = bytes.saturating_add(payload.len());
                EntrySource::Memory(JournalEntry { id, payload: payload.clone() })
            }
            (None, Some(address)) => {
                bytes = bytes.saturating_add(address.len as usize);
                EntrySource::Disk { id, file: Rc::clone(state.file(&address)), address }
            }
            (None, None) => unreachable!("entry {id} of lane {lane} is neither on disk nor in memory"),
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
    run: &[(EntryId, RecordAddress)],
    span: Range<u64>,
    entries: &mut Vec<JournalEntry>,
) -> Result<(), JournalError> {
    assert!(span.start < span.end && span.end <= file.bytes, "records lie within their file");
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
    for (id, address) in run {
        let corrupt = |error| JournalError::Corrupt {
            lane,
            index: id.index,
            file: file.path.clone(),
            at: FilePos(address.at),
            error,
        };
        let at = usize::try_from(address.at - span.start).unwrap_or(usize::MAX);
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
