//! The keeper of files: has the next file ready before it is needed, recycles the oldest, moves what pins it.
//!
//! Owns: the order of effects of reuse. A file is reused only after (1) the purges that freed it are durable, (2) the
//! state of lanes that lay in it is durable at the head, (3) a layout that names its new generation is durable.
//! Until (3) a crash finds the old files as they were. Affinity: shard-local.

use std::rc::Rc;
use std::time::Duration;

use super::commit::poisoned;
use super::files::{Spare, write_layout};
use super::lane::Place;
use super::{Inner, JournalError, Pressure, read};
use crate::env::is_disk_full;
use crate::model::{EntryId, LaneId, LogIndex};

/// Rewritten entries wait for each other's sync in groups of this. Bytes.
const REWRITE_STEP: u64 = 1 << 20;
/// How long until a full disk is asked again for the next file.
pub(super) const FULL_RETRY: Duration = Duration::from_millis(500);

/// The keeper's task: ends when the journal fails or is closed. It never waits for a commit, because a commit may be
/// waiting for the file that it is to make.
pub(super) async fn run(inner: Rc<Inner>) {
    while inner.books.borrow().failure.is_none() {
        let keeping = inner.keeping.lock().await;
        let kept = keep(&inner).await;
        drop(keeping);
        match kept {
            Ok(()) => {
                inner.stalled.set(false);
                inner.keep_wake.wait().await;
            }
            Err(JournalError::Poisoned { error, .. }) if is_disk_full(&error) => {
                tracing::warn!(dir = %inner.dir.display(), "disk full: the journal has no next file and writes wait; free space on this file system");
                inner.stalled.set(true);
                inner.env.tasks.sleep(FULL_RETRY).await;
            }
            Err(failure) => inner.fail(&failure),
        }
    }
}

async fn keep(inner: &Rc<Inner>) -> Result<(), JournalError> {
    release(inner);
    drop_files(inner).await?;
    prepare(inner).await?;
    inner.books.borrow_mut().drop_superfluous();
    drop_files(inner).await?;
    let rewrite = {
        let mut books = inner.books.borrow_mut();
        let sparse = books.files.first_key_value().is_some_and(|(_, file)| file.live.get() * 4 <= file.bytes);
        let wanted = sparse && books.files.len() > 1 && !books.rewriting && books.pressure() > Pressure::None;
        books.rewriting |= wanted;
        wanted
    };
    if rewrite {
        let shared = inner.clone();
        let work = async move {
            if let Err(error) = rewrite_oldest(&shared).await {
                tracing::warn!(%error, "entries in the oldest journal file could not be moved, the file stays; tried again");
            }
            shared.books.borrow_mut().rewriting = false;
        };
        drop(inner.env.tasks.spawn("journal rewrite", work));
    }
    Ok(())
}

/// Takes every file that is free off the oldest end: to the spares, or to those that are dropped. One whose lanes' state
/// has to move first goes in a later round: the commit that moves it wakes the keeper.
fn release(inner: &Inner) {
    let mut books = inner.books.borrow_mut();
    if books.oldest_is_free() {
        books.note_footprint();
    }
    while books.oldest_is_free() {
        let Some(oldest) = books.files.first_key_value().map(|(generation, _)| *generation) else { break };
        if books.move_meta(oldest) {
            inner.commit_wake.raise();
            break;
        }
        let Some(file) = books.files.remove(&oldest) else { break };
        let wanted = file.bytes >= books.next_file_bytes();
        let spare = Spare { number: file.number, path: file.path.clone(), file: file.file.clone(), bytes: file.bytes };
        // Somebody may still read from it: then it is not written over.
        if wanted && Rc::try_unwrap(file).is_ok() {
            books.spares.push(spare);
        } else {
            books.dropping.push(spare);
        }
    }
}

/// Makes the next file ready, if it is not.
async fn prepare(inner: &Inner) -> Result<(), JournalError> {
    let (spare, number, bytes) = {
        let mut books = inner.books.borrow_mut();
        if books.next.is_some() {
            return Ok(());
        }
        let fits = books.spares.iter().rposition(|spare| spare.bytes >= books.needed);
        let spare = fits.map(|at| books.spares.remove(at));
        let number = books.next_number;
        books.next_number += u64::from(spare.is_none());
        (spare, number, books.next_file_bytes())
    };
    let spare = match spare {
        Some(spare) => spare,
        None => {
            let created = Spare::create(&inner.env, &inner.dir, number, bytes).await;
            created.map_err(|error| poisoned("making a file", &inner.dir, error))?
        }
    };
    let (layout, next) = {
        let mut books = inner.books.borrow_mut();
        let next = spare.clone().used_as(books.next_generation);
        books.next_generation += 1;
        (books.layout(Some(&next)), next)
    };
    if let Err(error) = write_layout(&inner.env, &inner.dir, &layout).await {
        inner.books.borrow_mut().spares.push(spare);
        return Err(poisoned("writing the layout", &inner.dir, error));
    }
    inner.books.borrow_mut().next = Some(next);
    inner.commit_wake.raise();
    Ok(())
}

/// Unlinks files that no durable layout names any more. On a full disk they wait until a layout can be written.
async fn drop_files(inner: &Inner) -> Result<(), JournalError> {
    let layout = {
        let books = inner.books.borrow();
        if books.dropping.is_empty() {
            return Ok(());
        }
        books.layout(None)
    };
    let written = write_layout(&inner.env, &inner.dir, &layout).await;
    written.map_err(|error| poisoned("writing the layout", &inner.dir, error))?;
    let files = std::mem::take(&mut inner.books.borrow_mut().dropping);
    for file in files {
        let removed = inner.env.disk.remove_file(&file.path).await;
        removed.map_err(|error| poisoned("removing a file", &file.path, error))?;
    }
    Ok(())
}

/// See [`super::Journal::rewrite_oldest`].
pub(super) async fn rewrite_oldest(inner: &Inner) -> Result<u64, JournalError> {
    let pinning = pinning(inner);
    let (mut copied, mut waiting) = (0, 0);
    for (lane, id, place) in pinning {
        let entries = read::read(inner, lane, id.index.0..id.index.0 + 1, 0).await?;
        let Some(entry) = entries.first().filter(|entry| entry.id == id) else { continue };
        let mut rewritten = false;
        inner.record(|books| rewritten = books.rewrite(lane, entry, place));
        if rewritten {
            copied += u64::from(place.len);
            waiting += u64::from(place.len);
        }
        if waiting >= REWRITE_STEP {
            inner.settled(|_| {}).await?;
            waiting = 0;
        }
    }
    inner.settled(|_| {}).await?;
    inner.keep_wake.raise();
    Ok(copied)
}

/// Entries whose place is the oldest file, when that is not the head.
fn pinning(inner: &Inner) -> Vec<(LaneId, EntryId, Place)> {
    let books = inner.books.borrow();
    let Some((oldest, _)) = books.files.first_key_value().filter(|_| books.files.len() > 1) else { return Vec::new() };
    let mut pinning = Vec::new();
    for (lane, state) in &books.lanes {
        for index in state.indexes() {
            let Some(slot) = state.slot(index) else { continue };
            if let Some(place) = slot.place.filter(|place| place.file == *oldest) {
                pinning.push((*lane, EntryId { term: slot.term, index: LogIndex(index) }, place));
            }
        }
    }
    pinning
}
