//! The committer: takes what waits, writes it durably, completes it, one commit at a time.
//!
//! Owns: the only writes to journal files after recovery, and the decision that a failed one ends the journal. One
//! durable write is in flight at most, so a valid commit proves all before it durable; the next commit fills
//! meanwhile. Affinity: shard-local.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::books::Placed;
use super::files::JournalFile;
use super::fill::{Done, Filling};
use super::format::CommitHeader;
use super::{Inner, JournalError};
use crate::env::AlignedBuf;

/// The committer's task: ends when the journal fails or is closed.
pub(super) async fn run(inner: Rc<Inner>) {
    loop {
        let commit = inner.books.borrow_mut().take_commit();
        match commit {
            Some(mut commit) => {
                let done = std::mem::take(&mut commit.done);
                if let Err(failure) = write(&inner, commit).await {
                    give_up(&inner, &failure, done);
                    return;
                }
                done.into_iter().for_each(|done| done(Ok(())));
            }
            None if inner.books.borrow().failure.is_some() => return,
            None => inner.commit_wake.wait().await,
        }
    }
}

/// The failure is known to everyone before anybody who waits is told.
fn give_up(inner: &Inner, failure: &JournalError, done: Vec<Done>) {
    tracing::error!(%failure, "journal is given up");
    inner.books.borrow_mut().failure.get_or_insert_with(|| failure.clone());
    done.into_iter().for_each(|done| done(Err(failure.clone())));
    inner.fail(failure);
}

pub(super) fn poisoned(action: &'static str, file: &Path, error: io::Error) -> JournalError {
    JournalError::Poisoned { action, file: file.to_path_buf(), error: Arc::new(error) }
}

async fn write(inner: &Inner, mut commit: Filling) -> Result<(), JournalError> {
    if commit.is_empty() {
        inner.books.borrow_mut().apply_effects(None, commit.effects);
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
    let oldest_is_free = {
        let mut books = inner.books.borrow_mut();
        books.position = placed.position + placed.len;
        books.committed(&placed, commit.effects);
        books.evict();
        books.oldest_is_free()
    };
    if oldest_is_free {
        inner.keep_wake.raise();
    }
    Ok(())
}

fn place(inner: &Inner, head: &JournalFile, commit: &mut Filling, len: u64) -> (Placed, AlignedBuf) {
    let books = inner.books.borrow();
    let header = CommitHeader {
        journal: books.journal,
        generation: head.generation,
        sequence: books.durable + 1,
        durable: books.durable,
        position: books.position,
        length: 0,
        records: 0,
        records_crc: 0,
    };
    let placed = Placed { file: head.generation, position: books.position, len, sequence: header.sequence };
    (placed, commit.seal(header))
}

/// The head, if `len` bytes fit in it, else the next file made the head; waits for one to be ready.
async fn room_for(inner: &Inner, len: u64) -> Result<Rc<JournalFile>, JournalError> {
    loop {
        {
            let mut books = inner.books.borrow_mut();
            if let Some(failure) = books.failure.clone() {
                return Err(failure);
            }
            let position = books.position;
            if let Some(head) = books.head().filter(|head| position + len <= head.bytes).cloned() {
                books.needed = 0;
                return Ok(head);
            }
            if let Some(next) = books.next.take() {
                next.first_sequence.set(books.durable + 1);
                books.files.insert(next.generation, next);
                books.position = 0;
                inner.keep_wake.raise();
                continue;
            }
            books.needed = len;
        }
        inner.keep_wake.raise();
        inner.commit_wake.wait().await;
    }
}
