//! The commit task: takes the queued commits one by one, writes each durably, then runs its completions.
//!
//! Owns: the only writes to journal files after recovery, and the decision that a failed one ends the journal. One
//! durable write is in flight at most, so a valid commit proves that all before it were durable. Affinity: shard-local.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::files::JournalFile;
use super::fill::{CommitBuffer, Completion};
use super::format::CommitHeader;
use super::state::PlacedCommit;
use super::{JournalError, JournalInner};
use crate::env::{ALIGNMENT, AlignedBuf};

/// Runs until the journal fails or is closed.
pub(super) async fn run(inner: Rc<JournalInner>) {
    let _committing = inner.committing.lock().await;
    loop {
        let commit = inner.state.borrow_mut().take_commit();
        match commit {
            Some(mut commit) => {
                let done = std::mem::take(&mut commit.done);
                if let Err(failure) = write(&inner, commit).await {
                    end(&inner, &failure, done);
                    return;
                }
                done.into_iter().for_each(|done| done(Ok(())));
            }
            None if inner.state.borrow().failure.is_some() => return,
            None => inner.commit_wake.notified().await,
        }
    }
}

/// Sets the failure before any completion runs: what a completion calls next must already fail.
fn end(inner: &JournalInner, failure: &JournalError, done: Vec<Completion>) {
    tracing::error!(%failure, "journal ended after a failed write");
    inner.state.borrow_mut().failure.get_or_insert_with(|| failure.clone());
    done.into_iter().for_each(|done| done(Err(failure.clone())));
    inner.fail(failure);
}

pub(super) fn poisoned(action: &'static str, file: &Path, error: io::Error) -> JournalError {
    JournalError::Poisoned { action, file: file.to_path_buf(), error: Arc::new(error) }
}

async fn write(inner: &JournalInner, mut commit: CommitBuffer) -> Result<(), JournalError> {
    if commit.is_empty() {
        inner.state.borrow_mut().apply_effects(None, commit.effects);
        wake_keeper(inner);
        return Ok(());
    }
    let len = commit.padded_len() as u64;
    let head = room_for(inner, len).await?;
    let (placed, buffer) = place(inner, &head, &mut commit, len);
    let (clock, counters) = (&inner.env.clock, &inner.counters);
    let begun = clock.now();
    head.file.write_at(buffer, placed.position).await.map_err(|error| poisoned("write", &head.path, error))?;
    counters.written_bytes.add(len);
    counters.write.note(clock.now().since(begun));
    {
        let mut state = inner.state.borrow_mut();
        state.made_durable(&placed, commit.effects);
        state.evict();
    }
    wake_keeper(inner);
    Ok(())
}

/// If the commit has freed the oldest file.
fn wake_keeper(inner: &JournalInner) {
    if inner.state.borrow().oldest_is_free() {
        inner.keep_wake.notify();
    }
}

fn place(inner: &JournalInner, head: &JournalFile, commit: &mut CommitBuffer, len: u64) -> (PlacedCommit, AlignedBuf) {
    let state = inner.state.borrow();
    let header = CommitHeader {
        journal: state.journal,
        generation: head.generation,
        sequence: state.durable + 1,
        durable: state.durable,
        position: state.position,
        // The records' fields are filled in by `seal`.
        length: 0,
        records: 0,
        records_crc: 0,
    };
    let placed = PlacedCommit { file: head.generation, position: state.position, len, sequence: header.sequence };
    let buffer = commit.seal(header);
    assert_eq!(buffer.len() as u64, len, "a commit is as long as the room that was made for it");
    assert!(placed.position.is_multiple_of(ALIGNMENT as u64), "a commit begins at a block");
    assert!(placed.position + len <= head.bytes, "a commit ends within its file");
    (placed, buffer)
}

/// The head if it has room for `len` bytes, else the next file, which becomes the head. Waits until that is ready.
async fn room_for(inner: &JournalInner, len: u64) -> Result<Rc<JournalFile>, JournalError> {
    loop {
        {
            let mut state = inner.state.borrow_mut();
            if let Some(failure) = state.failure.clone() {
                return Err(failure);
            }
            let position = state.position;
            if position + len <= state.head().bytes {
                state.needed = 0;
                return Ok(Rc::clone(state.head()));
            }
            if let Some(next) = state.next.take() {
                assert!(next.generation > state.head().generation, "generations of the journal's files increase");
                next.first_sequence.set(state.durable + 1);
                state.files.insert(next.generation, next);
                state.position = 0;
                inner.keep_wake.notify();
                continue;
            }
            state.needed = len;
        }
        inner.keep_wake.notify();
        inner.commit_wake.notified().await;
    }
}
