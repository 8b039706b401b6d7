//! The journal: one per shard, the durable form of the Raft logs of all its lanes, votes included.
//!
//! In the order an entry takes: `state` checks it and `fill` encodes it into the commit being filled → `commit` writes
//! that commit and runs its completions → `read` reads entries back → `release` recycles files and moves what pins the
//! oldest. `recover` and `scan` open a journal, `inspect` only looks. `lane` is one lane's log in memory, `files` one
//! file, `format` and `layout` the bytes (`FORMAT.md`).
//!
//! Does not own: what entries mean, when they are purged, what clients are answered.
//!
//! **Ordering.** Completions run in the order of their appends, each only when everything before it is durable.
//! **Durability.** One write makes a commit durable (O_DSYNC); no sync follows it. [`LaneLog::save_vote`] returns after
//! that write. [`LaneLog::truncate_after`], [`LaneLog::purge`] and [`LaneLog::save_committed`] return at once: records
//! that follow theirs in the journal are never durable without them. **Commit.** All queued records make one aligned
//! write; meanwhile the next commit is filled. No timers. **Errors.** A failed write ends the journal: every pending
//! and every later call gets the error, and the process must end and recover. **Crash.** What was completed is there
//! after [`Journal::open`]; the commit in flight is there as a whole or not at all. Damage to an older commit is an
//! error, never skipped. **Space.** The oldest file is recycled once it holds no live entry (neither purged nor
//! rewritten later) and no lane's newest vote, purge or commit mark; the journal itself copies those three to the head.
//! Callers look at [`Journal::pressure`] before they propose, and bound what they have in flight.
//!
//! Invariants: J1 commits are numbered from 1 without gaps, and one write at most is in flight; so a valid commit
//! proves that all before it were durable. J2 a file is written only under a generation that the durable layout names.
//! J3 of a lane and index, the record at the later place counts. J4 a payload leaves memory only after its commit is
//! durable.
//!
//! In names and comments here, *commit* is one durable write and *committed* means Raft-committed.
//! Affinity: shard-local.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::lock::Mutex;

use crate::env::{Env, Notify};
use crate::metrics::{JournalCounters, JournalCounts};
use crate::model::{EntryId, LaneId, LogIndex};

mod commit;
mod error;
mod files;
mod fill;
pub mod format;
pub mod inspect;
mod lane;
pub mod layout;
mod read;
mod recover;
mod release;
mod scan;
mod state;

pub use error::{JournalError, JournalOpenError};
pub use fill::Completion;
use state::JournalState;

/// One entry of a lane. A *message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    pub id: EntryId,
    pub payload: Payload,
}

/// An entry's content, opaque here. Batches stay separate so that they are copied once, into the commit's buffer.
#[derive(Clone, Default)]
pub struct Payload {
    /// The entry as the Raft layer encoded it, without its batches.
    pub meta: Bytes,
    /// Kafka batches, unchanged.
    pub blobs: Vec<Bytes>,
    /// Every blob is a batch whose own checksum was verified. The journal's checksum is then derived from it, and large
    /// batches are not read again. Not stored.
    pub verified: bool,
}

impl Payload {
    /// Bytes of meta and blobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.meta.len() + self.blobs.iter().map(Bytes::len).sum::<usize>()
    }

    /// Has it no bytes?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// By content, whether verified or not.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.meta == other.meta && self.blobs == other.blobs
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} B meta, {} blobs, {} B)", self.meta.len(), self.blobs.len(), self.len())
    }
}

/// The ends of a lane's log, and its vote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneLogState {
    pub purged: Option<EntryId>,
    /// Last entry; equal to `purged` if no entry follows it.
    pub last: Option<EntryId>,
    /// Last entry known to be committed: may be behind; never beyond `last` after a restart.
    pub committed: Option<EntryId>,
    /// The vote as the Raft layer encoded it.
    pub vote: Option<Bytes>,
}

/// Sizes of one journal.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The first file, at most `file_bytes`. Each next file is as large as all live files together, so a little-used
    /// journal stays small and a loaded one reaches full files after four. Bytes.
    pub first_file_bytes: u64,
    /// The largest file. Each is written and synced with zeroes before its first use. Bytes.
    pub file_bytes: u64,
    /// All live files together; see [`Pressure`] for what happens at half of it and near it. Bytes.
    pub capacity_bytes: u64,
    /// Payloads of durable entries kept in memory. Bytes.
    pub memory_bytes: usize,
    /// A commit holds up to this; a larger entry makes a commit of its own. Bytes.
    pub commit_bytes: usize,
    /// Free files always kept for reuse, beside the prepared next file. More are kept while live and free files
    /// together take no more than recently were live at one time.
    pub spare_files: usize,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            first_file_bytes: 8 << 20,
            file_bytes: 64 << 20,
            capacity_bytes: 1 << 30,
            memory_bytes: 64 << 20,
            commit_bytes: 1 << 20,
            spare_files: 2,
        }
    }
}

/// How short of space the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Less than half of the capacity is used.
    None,
    /// Half full: checkpoint and purge, oldest first.
    Release,
    /// Nearly full: admit no proposal. Votes, purges and commands that free space still fit.
    Refuse,
}

/// Space and memory that a journal takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalUsage {
    /// Files on disk, spare ones included. Bytes.
    pub disk_bytes: u64,
    /// Live files, of the head only the part that is written. Bytes.
    pub used_bytes: u64,
    /// The limit for live files. Bytes.
    pub capacity_bytes: u64,
    /// Payloads in memory. Bytes.
    pub memory_bytes: u64,
    /// Records encoded and not yet written. Bytes.
    pub waiting_bytes: u64,
    /// Commits since the journal was made.
    pub commits: u64,
}

/// A lane whose entries keep the oldest file from being recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePin {
    pub lane: LaneId,
    /// The lane's last entry in that file: purge up to it, or call [`Journal::rewrite_oldest`].
    pub last: EntryId,
}

pub(crate) struct JournalInner {
    env: Env,
    dir: PathBuf,
    state: RefCell<JournalState>,
    counters: JournalCounters,
    /// To `commit::run`: records are queued, or the next file is ready.
    commit_wake: Notify,
    /// To `release::run`: a file became free, or the next file is needed.
    keep_wake: Notify,
    /// Held by `commit::run` for as long as it may write.
    committing: Mutex<()>,
    /// Held by `release::run` while it changes files.
    keeping: Mutex<()>,
    /// The disk is full and the next file cannot be made; a commit may be waiting for that file.
    stalled: Cell<bool>,
}

/// The journal. Shard-local; clones share it.
#[derive(Clone)]
pub struct Journal {
    inner: Rc<JournalInner>,
}

impl Journal {
    /// Opens the journal in `dir`, or makes it there, recovers every lane's log and starts the journal's two tasks.
    ///
    /// # Errors
    /// [`JournalOpenError`]: the shard must neither serve nor vote.
    pub async fn open(env: Env, dir: &Path, config: JournalConfig) -> Result<Self, JournalOpenError> {
        Self::open_behind(env, dir, config, None).await
    }

    /// As [`Journal::open`], for a caller that applies all entries after those in `covered` at once: their payloads
    /// stay in memory, as far as they fit, instead of being read a second time. Of a lane that is not in `covered`,
    /// every entry is applied.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub async fn open_behind(
        env: Env,
        dir: &Path,
        config: JournalConfig,
        covered: Option<BTreeMap<LaneId, LogIndex>>,
    ) -> Result<Self, JournalOpenError> {
        let begun = env.clock.now();
        let state = recover::open(&env, dir, config, covered).await?;
        let (usage, took) = (state.usage(), env.clock.now().since(begun));
        tracing::debug!(
            dir = %dir.display(), ?took, used_mib = usage.used_bytes >> 20, kept_mib = usage.memory_bytes >> 20,
            commits = usage.commits, "journal read"
        );
        let inner = Rc::new(JournalInner {
            env: env.clone(),
            dir: dir.to_path_buf(),
            state: RefCell::new(state),
            counters: JournalCounters::default(),
            commit_wake: Notify::default(),
            keep_wake: Notify::default(),
            committing: Mutex::default(),
            keeping: Mutex::default(),
            stalled: Cell::new(false),
        });
        drop(env.tasks.spawn("journal commit", commit::run(inner.clone())));
        drop(env.tasks.spawn("journal files", release::run(inner.clone())));
        inner.keep_wake.notify();
        Ok(Self { inner })
    }

    /// A lane's log; empty if the journal does not know the lane.
    #[must_use]
    pub fn lane(&self, lane: LaneId) -> LaneLog {
        self.inner.state.borrow_mut().lanes.entry(lane).or_default();
        LaneLog { inner: self.inner.clone(), lane }
    }

    /// Every lane that has a vote, an entry or a purged entry.
    #[must_use]
    pub fn lanes(&self) -> Vec<(LaneId, LaneLogState)> {
        let state = self.inner.state.borrow();
        let states = state.lanes.iter().map(|(lane, state)| (*lane, state.state()));
        states.filter(|(_, state)| *state != LaneLogState::default()).collect()
    }

    /// Removes a lane with its vote and its log. Returns at once; durable with the next commit.
    pub fn forget(&self, lane: LaneId) {
        self.inner.record(|state| state.forget(lane));
    }

    /// Returns when everything recorded before the call is durable.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], [`JournalError::Closed`].
    pub async fn flush(&self) -> Result<(), JournalError> {
        self.inner.record_durably(|_| {}).await
    }

    /// Resolves once the disk is full, when a commit could wait for space for ever.
    async fn stalled(&self) {
        while !self.inner.stalled.get() {
            self.inner.env.tasks.sleep(release::FULL_RETRY).await;
        }
    }

    /// Is the lane's log durable up to and including this entry, or purged that far?
    #[must_use]
    pub fn is_durable(&self, lane: LaneId, upto: LogIndex) -> bool {
        self.inner.state.borrow().lanes.get(&lane).is_some_and(|lane| lane.is_durable(upto))
    }

    /// Space and memory that the journal takes now.
    #[must_use]
    pub fn usage(&self) -> JournalUsage {
        self.inner.state.borrow().usage()
    }

    /// Counters since the journal was opened.
    #[must_use]
    pub fn counts(&self) -> JournalCounts {
        self.inner.counters.counts()
    }

    /// Whether callers should make room or stop proposing.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.inner.state.borrow().pressure()
    }

    /// The largest record of an entry that [`LaneLog::append`] accepts; see [`format::entry_record_len`]. Bytes.
    #[must_use]
    pub fn entry_bytes_max(&self) -> u64 {
        state::entry_bytes_max(&self.inner.state.borrow().config)
    }

    /// Sequence of the last durable commit; never decreases. A checkpoint stores it, so that a start notices a journal
    /// that lost more than a torn last commit.
    #[must_use]
    pub fn durable_sequence(&self) -> u64 {
        self.inner.state.borrow().durable
    }

    /// Lanes whose entries keep the oldest file, unless that file is the head.
    #[must_use]
    pub fn oldest_pins(&self) -> Vec<FilePin> {
        self.inner.state.borrow().oldest_pins()
    }

    /// Copies the entries that keep the oldest file to the head; the copies are durable when it returns, and the file
    /// is recycled. Returns the bytes copied, 0 if no entry keeps the file.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], or an entry could not be read back.
    pub async fn rewrite_oldest(&self) -> Result<u64, JournalError> {
        release::rewrite_oldest(&self.inner).await
    }

    /// The disk is short of space: removes free files, except for the few that are always kept.
    pub fn give_up_spares(&self) {
        let mut state = self.inner.state.borrow_mut();
        if state.footprint > 0 && state.spares.len() > state.config.spare_files.max(1) {
            state.footprint = 0;
            drop(state);
            self.inner.keep_wake.notify();
        }
    }

    /// The failure that ended the journal, if any.
    #[must_use]
    pub fn failure(&self) -> Option<JournalError> {
        self.inner.state.borrow().failure.clone()
    }

    /// Flushes, then ends the journal's tasks; once it returns, no write is under way and the directory may be opened
    /// again, also while clones of this handle exist. Later calls get [`JournalError::Closed`].
    ///
    /// # Errors
    /// [`JournalError::Poisoned`].
    pub async fn close(&self) -> Result<(), JournalError> {
        let flushed = match select(pin!(self.flush()), pin!(self.stalled())).await {
            Either::Left((flushed, _)) => flushed,
            Either::Right(((), _)) => Err(JournalError::Closed),
        };
        self.inner.fail(&JournalError::Closed);
        drop(self.inner.keeping.lock().await);
        drop(self.inner.committing.lock().await);
        self.inner.state.borrow().hand_over_files()?;
        flushed
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("dir", &self.inner.dir).field("usage", &self.usage()).finish()
    }
}

/// One lane's log in the journal. Shard-local; clones are the same log.
#[derive(Clone)]
pub struct LaneLog {
    inner: Rc<JournalInner>,
    lane: LaneId,
}

impl LaneLog {
    /// The lane this is the log of.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// The ends of the log, including entries that are not durable yet.
    #[must_use]
    pub fn state(&self) -> LaneLogState {
        self.inner.state.borrow().lanes.get(&self.lane).map(lane::LaneState::state).unwrap_or_default()
    }

    /// See [`Journal::entry_bytes_max`].
    #[must_use]
    pub fn entry_bytes_max(&self) -> u64 {
        state::entry_bytes_max(&self.inner.state.borrow().config)
    }

    /// How short of space the journal of all lanes is.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.inner.state.borrow().pressure()
    }

    /// Bytes of live files of the journal of all lanes.
    #[must_use]
    pub fn journal_bytes(&self) -> u64 {
        self.inner.state.borrow().usage().used_bytes
    }

    /// Appends entries, which must continue the log; they are readable at once. `done` runs, in the order of the calls,
    /// when the entries and everything before them are durable. It runs with an error if they will not become durable,
    /// possibly before this returns.
    pub fn append(&self, entries: Vec<JournalEntry>, done: Completion) {
        self.inner.append(self.lane, entries, done);
    }

    /// Saves the vote, which is durable when this returns.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], [`JournalError::Closed`].
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), JournalError> {
        self.inner.record_durably(|state| state.save_vote(self.lane, vote)).await
    }

    /// Saves how far the lane's log is committed. Written with the next commit; does not cause one.
    pub fn save_committed(&self, committed: Option<EntryId>) {
        let mut state = self.inner.state.borrow_mut();
        let lane = state.lanes.entry(self.lane).or_default();
        lane.committed_dirty |= lane.committed != committed;
        lane.committed = committed;
    }

    /// Removes every entry after `keep` (`None`: every entry).
    pub fn truncate_after(&self, keep: Option<EntryId>) {
        self.inner.record(|state| state.truncate_after(self.lane, keep));
    }

    /// Removes every entry up to and including `upto`. Beyond the last entry it leaves an empty log that ends at
    /// `upto`.
    pub fn purge(&self, upto: EntryId) {
        self.inner.record(|state| state.purge(self.lane, upto));
    }

    /// Entries of a range, from memory or disk: as many as fit in `max_bytes` of payload, but at least one if the range
    /// has one. Indexes before the first entry are skipped.
    ///
    /// # Errors
    /// [`JournalError::Read`], [`JournalError::Corrupt`].
    pub async fn read(&self, range: Range<LogIndex>, max_bytes: usize) -> Result<Vec<JournalEntry>, JournalError> {
        read::read(&self.inner, self.lane, range.start.0..range.end.0, max_bytes).await
    }
}

impl fmt::Debug for LaneLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneLog").field("lane", &self.lane).field("state", &self.state()).finish()
    }
}

#[cfg(test)]
mod tests;
