//! The file task: prepares the next file before it is needed, recycles the oldest, rewrites what pins it.
//!
//! Owns: the order of effects of reuse. A file is reused only after (1) the purges that freed it are durable, (2) the
//! newest votes and marks that lay in it are durable at the head, (3) a layout that names its new generation is
//! durable. A crash before (3) finds the old files unchanged. Affinity: shard-local.

use std::rc::Rc;
use std::time::Duration;

use super::commit::poisoned;
use super::files::{SpareFile, write_layout};
use super::lane::RecordAddress;
use super::{JournalError, JournalInner, Pressure, read};
use crate::env::is_disk_full;
use crate::model::{EntryId, LaneId, LogIndex};

/// Rewritten entries are made durable in groups of this. Bytes.
const REWRITE_STEP: u64 = 1 << 20;
/// On a full disk, the time until the next file is tried again.
pub(super) const FULL_RETRY: Duration = Duration::from_millis(500);

/// Runs until the journal fails or is closed. Never waits for a commit: a commit may be waiting for the next file.
pub(super) async fn run(inner: Rc<JournalInner>) {
    while inner.state.borrow().failure.is_none() {
        let keeping = inner.keeping.lock().await;
        let kept = keep(&inner).await;
        drop(keeping);
        match kept {
            Ok(()) => {
                inner.stalled.set(false);
                inner.keep_wake.notified().await;
            }
            Err(JournalError::Poisoned { error, .. }) if is_disk_full(&error) => {
                tracing::warn!(dir = %inner.dir.display(), "disk full: the journal cannot make its next file, writes wait; free space on this file system");
                inner.stalled.set(true);
                inner.env.tasks.sleep(FULL_RETRY).await;
            }
            Err(failure) => inner.fail(&failure),
        }
    }
}

async fn keep(inner: &Rc<JournalInner>) -> Result<(), JournalError> {
    release(inner);
    drop_files(inner).await?;
    prepare(inner).await?;
    inner.state.borrow_mut().drop_superfluous();
    drop_files(inner).await?;
    let rewrite = {
        let mut state = inner.state.borrow_mut();
        let sparse = state.files.first_key_value().is_some_and(|(_, file)| file.live.get() * 4 <= file.bytes);
        let wanted = sparse && state.files.len() > 1 && !state.rewriting && state.pressure() > Pressure::None;
        state.rewriting |= wanted;
        wanted
    };
    if rewrite {
        let shared = inner.clone();
        let work = async move {
            if let Err(error) = rewrite_oldest(&shared).await {
                tracing::warn!(%error, "entries in the oldest journal file could not be rewritten; the file stays, trying again");
            }
            shared.state.borrow_mut().rewriting = false;
        };
        drop(inner.env.tasks.spawn("journal rewrite", work));
    }
    Ok(())
}

/// Moves every free file at the oldest end to the spares, or to those to be unlinked. A file with newest votes or marks
/// is released in a later round: the commit that copies them to the head wakes this task.
fn release(inner: &JournalInner) {
    let mut state = inner.state.borrow_mut();
    if state.oldest_is_free() {
        state.note_footprint();
    }
    while state.oldest_is_free() {
        let oldest = *state.files.first_key_value().expect("there is a head").0;
        if state.move_meta(oldest) {
            inner.commit_wake.notify();
            break;
        }
        let file = state.files.remove(&oldest).expect("the oldest file is there");
        assert_eq!(file.live.get(), 0, "no live entry lies in a file that is released");
        assert!(!state.files.is_empty(), "the head is never released");
        let wanted = file.bytes >= state.next_file_bytes();
        let spare =
            SpareFile { number: file.number, path: file.path.clone(), file: file.file.clone(), bytes: file.bytes };
        // A reader may still hold the file; then it is not overwritten.
        if wanted && Rc::try_unwrap(file).is_ok() {
            state.spares.push(spare);
        } else {
            state.dropping.push(spare);
        }
    }
}

/// Prepares the next file, unless it is prepared.
async fn prepare(inner: &JournalInner) -> Result<(), JournalError> {
    let (spare, number, bytes) = {
        let mut state = inner.state.borrow_mut();
        if state.next.is_some() {
            return Ok(());
        }
        let fits = state.spares.iter().rposition(|spare| spare.bytes >= state.needed);
        let spare = fits.map(|at| state.spares.remove(at));
        let number = state.next_number;
        state.next_number += u64::from(spare.is_none());
        (spare, number, state.next_file_bytes())
    };
    let spare = match spare {
        Some(spare) => spare,
        None => {
            let created = SpareFile::create(&inner.env, &inner.dir, number, bytes).await;
            created.map_err(|error| poisoned("making a file", &inner.dir, error))?
        }
    };
    let (layout, next) = {
        let mut state = inner.state.borrow_mut();
        let next = spare.clone().used_as(state.next_generation);
        assert!(next.generation > state.head().generation, "generations of the journal's files increase");
        state.next_generation += 1;
        (state.layout(Some(&next)), next)
    };
    if let Err(error) = write_layout(&inner.env, &inner.dir, &layout).await {
        inner.state.borrow_mut().spares.push(spare);
        return Err(poisoned("writing the layout", &inner.dir, error));
    }
    inner.state.borrow_mut().next = Some(next);
    inner.commit_wake.notify();
    Ok(())
}

/// Unlinks the files to be dropped, once a layout without them is durable. On a full disk they stay until a layout can
/// be written.
async fn drop_files(inner: &JournalInner) -> Result<(), JournalError> {
    let layout = {
        let state = inner.state.borrow();
        if state.dropping.is_empty() {
            return Ok(());
        }
        state.layout(None)
    };
    let written = write_layout(&inner.env, &inner.dir, &layout).await;
    written.map_err(|error| poisoned("writing the layout", &inner.dir, error))?;
    let files = std::mem::take(&mut inner.state.borrow_mut().dropping);
    for file in files {
        let removed = inner.env.disk.remove_file(&file.path).await;
        removed.map_err(|error| poisoned("removing a file", &file.path, error))?;
    }
    Ok(())
}

/// See [`super::Journal::rewrite_oldest`].
pub(super) async fn rewrite_oldest(inner: &JournalInner) -> Result<u64, JournalError> {
    let pinning = entries_in_oldest(inner);
    let (mut copied, mut waiting) = (0, 0);
    for (lane, id, address) in pinning {
        let entries = read::read(inner, lane, id.index.0..id.index.0 + 1, 0).await?;
        let Some(entry) = entries.first().filter(|entry| entry.id == id) else { continue };
        let mut rewritten = false;
        inner.record(|state| rewritten = state.rewrite(lane, entry, address));
        if rewritten {
            copied += u64::from(address.len);
            waiting += u64::from(address.len);
        }
        if waiting >= REWRITE_STEP {
            inner.record_durably(|_| {}).await?;
            waiting = 0;
        }
    }
    inner.record_durably(|_| {}).await?;
    inner.keep_wake.notify();
    Ok(copied)
}

/// The live entries in the oldest file, unless that is the head.
fn entries_in_oldest(inner: &JournalInner) -> Vec<(LaneId, EntryId, RecordAddress)> {
    let state = inner.state.borrow();
    let Some((oldest, _)) = state.files.first_key_value().filter(|_| state.files.len() > 1) else { return Vec::new() };
    let mut pinning = Vec::new();
    for (lane, log) in &state.lanes {
        for index in log.indexes() {
            let slot = log.slot(index).expect("every index of a log has an entry");
            if let Some(address) = slot.address.filter(|address| address.file == *oldest) {
                pinning.push((*lane, EntryId { term: slot.term, index: LogIndex(index) }, address));
            }
        }
    }
    pinning
}
