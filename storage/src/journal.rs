//! The journal: one per shard, the durable form of the Raft logs of all its lanes, votes included.
//!
//! Owns: group commit, the entries' places and recent payloads, recovery, the space of its files. Does not own: what
//! entries mean, when they are purged, what is told to clients. Bytes on disk: `FORMAT.md`.
//!
//! **Ordering.** Completions run in the order of their appends, each only when everything before it is durable.
//! **Durability.** [`LaneLog::save_vote`] returns after the sync. [`LaneLog::truncate_after`], [`LaneLog::purge`] and
//! [`LaneLog::save_committed`] need only their place: what follows them in the journal is never durable without them.
//! **Commit.** What waits is one aligned, durable write; while it is under way the next commit fills. No timers.
//! **Errors.** A failed write or sync poisons the journal: all who wait get the error and so does everyone after; the
//! process must end and recover. **Crash.** Whatever was completed is there after [`Journal::open`]; a commit that was
//! under way may be there as a whole or not at all. Damage to anything older is refused, never skipped.
//! **Space.** A file is recycled when it is the oldest and no entry that is not purged and no lane's newest vote,
//! purge or commit mark lies in it; the latter are moved to the head by the journal itself. Callers watch
//! [`Journal::pressure`] before they propose, and cap what they have in flight.
//!
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

use crate::env::Env;
use crate::metrics::{JournalCounters, JournalCounts};
use crate::model::{EntryId, LaneId, LogIndex};

mod books;
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
mod wake;

use books::Books;
pub use error::{JournalError, JournalOpenError};
pub use fill::Done;
use wake::Wake;

/// One entry of a lane. A *message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneEntry {
    /// Term and index.
    pub id: EntryId,
    /// Content.
    pub payload: Payload,
}

/// An entry's content: opaque here. Kept apart so that batches are copied once, into the journal's buffer.
#[derive(Clone, Default)]
pub struct Payload {
    /// What the Raft layer encoded.
    pub meta: Bytes,
    /// Kafka batches as they came.
    pub blobs: Vec<Bytes>,
    /// Every blob is a batch whose own checksum was verified: the journal's is then made from it, without reading large
    /// ones again. Not kept on disk.
    pub verified: bool,
}

impl Payload {
    /// Bytes of meta and blobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.meta.len() + self.blobs.iter().map(Bytes::len).sum::<usize>()
    }

    /// Nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// By content.
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

/// A lane's log in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneLogState {
    /// Last entry purged.
    pub purged: Option<EntryId>,
    /// Last entry; what was purged if there is none after it.
    pub last: Option<EntryId>,
    /// Last entry known committed: a hint, never beyond `last` after a restart.
    pub committed: Option<EntryId>,
    /// The vote as the Raft layer encoded it.
    pub vote: Option<Bytes>,
}

/// Sizes.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The first file, at most `file_bytes`. Each next one is as large as all live ones together, so a journal that is little
    /// used stays small and one under load has its full files after a few. Bytes.
    pub first_file_bytes: u64,
    /// The largest file. Each is written and synced with zeroes before its first use. Bytes.
    pub file_bytes: u64,
    /// All live files together; over half of it space is sought, near it proposals should stop. Bytes.
    pub capacity_bytes: u64,
    /// Payloads of recent entries kept in memory. Bytes.
    pub memory_bytes: usize,
    /// A commit takes what waits up to this; one larger entry makes a commit of its own. Bytes.
    pub commit_bytes: usize,
    /// Free files kept for reuse in any case, beside the one that is always ready. More are kept as far as live and free
    /// ones together take no more than was live at a time lately.
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
    /// Not at all.
    None,
    /// Over half full: checkpoint and purge, oldest first.
    Release,
    /// Nearly full: admit no proposal; votes, purges and commands that free space still find room.
    Refuse,
}

/// Space and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalUsage {
    /// Files on disk, spare ones included. Bytes.
    pub disk_bytes: u64,
    /// Live files, up to the head's end. Bytes.
    pub used_bytes: u64,
    /// The limit for live files. Bytes.
    pub capacity_bytes: u64,
    /// Payloads in memory. Bytes.
    pub memory_bytes: u64,
    /// Records that wait to be written. Bytes.
    pub waiting_bytes: u64,
    /// Commits since the journal was made.
    pub commits: u64,
}

/// What keeps the oldest file from being recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The lane.
    pub lane: LaneId,
    /// Its last entry in that file: purge up to it, or [`Journal::rewrite_oldest`].
    pub last: EntryId,
}

pub(crate) struct Inner {
    env: Env,
    dir: PathBuf,
    books: RefCell<Books>,
    counters: JournalCounters,
    /// For the committer: records wait, or a file became ready.
    commit_wake: Wake,
    /// For the keeper of files.
    keep_wake: Wake,
    /// Held by the keeper while it changes files.
    keeping: Mutex<()>,
    /// The disk is full, and the keeper cannot make the file that a commit may be waiting for.
    stalled: Cell<bool>,
}

/// The journal. Shard-local; clones share it.
#[derive(Clone)]
pub struct Journal {
    inner: Rc<Inner>,
}

impl Journal {
    /// Opens the journal in `dir`, making it if there is none, recovers every lane's log and starts its two tasks.
    ///
    /// # Errors
    /// [`JournalOpenError`]: nothing may be served or voted from this journal.
    pub async fn open(env: Env, dir: &Path, config: JournalConfig) -> Result<Self, JournalOpenError> {
        Self::open_behind(env, dir, config, None).await
    }

    /// As [`Journal::open`], where entries behind those in `covered` will be applied at once: their payloads stay in memory
    /// when the journal is read, as far as they fit, instead of being read again. A lane that is not in it is covered
    /// nowhere.
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
        let books = recover::open(&env, dir, config, covered).await?;
        let (usage, took) = (books.usage(), env.clock.now().since(begun));
        tracing::debug!(
            dir = %dir.display(), ?took, used_mib = usage.used_bytes >> 20, kept_mib = usage.memory_bytes >> 20,
            commits = usage.commits, "journal read"
        );
        let inner = Rc::new(Inner {
            env: env.clone(),
            dir: dir.to_path_buf(),
            books: RefCell::new(books),
            counters: JournalCounters::default(),
            commit_wake: Wake::default(),
            keep_wake: Wake::default(),
            keeping: Mutex::default(),
            stalled: Cell::new(false),
        });
        drop(env.tasks.spawn("journal commit", commit::run(inner.clone())));
        drop(env.tasks.spawn("journal files", release::run(inner.clone())));
        inner.keep_wake.raise();
        Ok(Self { inner })
    }

    /// A lane's log, empty if nothing is known of the lane.
    #[must_use]
    pub fn lane(&self, lane: LaneId) -> LaneLog {
        self.inner.books.borrow_mut().lanes.entry(lane).or_default();
        LaneLog { inner: self.inner.clone(), lane }
    }

    /// Every lane that has a vote, an entry or a past.
    #[must_use]
    pub fn lanes(&self) -> Vec<(LaneId, LaneLogState)> {
        let books = self.inner.books.borrow();
        let states = books.lanes.iter().map(|(lane, state)| (*lane, state.state()));
        states.filter(|(_, state)| *state != LaneLogState::default()).collect()
    }

    /// Forgets a lane and all it had. Needs only its place in the journal.
    pub fn forget(&self, lane: LaneId) {
        self.inner.record(|books| books.forget(lane));
    }

    /// Returns when everything placed so far is durable.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], [`JournalError::Closed`].
    pub async fn flush(&self) -> Result<(), JournalError> {
        self.inner.settled(|_| {}).await
    }

    /// Resolves when the disk is full and a commit may wait for room that nobody makes.
    async fn stalled(&self) {
        while !self.inner.stalled.get() {
            self.inner.env.tasks.sleep(release::FULL_RETRY).await;
        }
    }

    /// Is the lane's log durable up to and with this entry, or purged that far?
    #[must_use]
    pub fn is_durable(&self, lane: LaneId, upto: LogIndex) -> bool {
        self.inner.books.borrow().lanes.get(&lane).is_some_and(|lane| lane.is_durable(upto))
    }

    /// Space and memory used.
    #[must_use]
    pub fn usage(&self) -> JournalUsage {
        self.inner.books.borrow().usage()
    }

    /// What was counted since it was opened.
    #[must_use]
    pub fn counts(&self) -> JournalCounts {
        self.inner.counters.counts()
    }

    /// Should the callers make room, or stop?
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.inner.books.borrow().pressure()
    }

    /// The largest entry's record that [`LaneLog::append`] takes: see [`format::entry_record_len`]. Bytes.
    #[must_use]
    pub fn entry_bytes_max(&self) -> u64 {
        books::entry_bytes_max(&self.inner.books.borrow().config)
    }

    /// Sequence of the last durable commit: never falls. A checkpoint that stores it can tell a journal that lost
    /// more than its tail.
    #[must_use]
    pub fn durable_sequence(&self) -> u64 {
        self.inner.books.borrow().durable
    }

    /// Lanes whose entries keep the oldest file, when that is not the one being written.
    #[must_use]
    pub fn oldest_pins(&self) -> Vec<Pin> {
        self.inner.books.borrow().oldest_pins()
    }

    /// Copies the entries that keep the oldest file to the head and returns how many bytes that took; 0 if there is
    /// nothing to copy. Durable when it returns; the file is then recycled.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], or reading an entry back failed.
    pub async fn rewrite_oldest(&self) -> Result<u64, JournalError> {
        release::rewrite_oldest(&self.inner).await
    }

    /// The disk is short: gives up free files but for the few that are always kept.
    pub fn give_up_spares(&self) {
        let mut books = self.inner.books.borrow_mut();
        if books.footprint > 0 && books.spares.len() > books.config.spare_files.max(1) {
            books.footprint = 0;
            drop(books);
            self.inner.keep_wake.raise();
        }
    }

    /// The failure that ended it, if any.
    #[must_use]
    pub fn failure(&self) -> Option<JournalError> {
        self.inner.books.borrow().failure.clone()
    }

    /// Flushes, then ends the journal's tasks; once it returns the directory may be opened again. Later calls get
    /// [`JournalError::Closed`].
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
    inner: Rc<Inner>,
    lane: LaneId,
}

impl LaneLog {
    /// Which lane.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// The log in short, with what is not durable yet.
    #[must_use]
    pub fn state(&self) -> LaneLogState {
        self.inner.books.borrow().lanes.get(&self.lane).map(lane::LaneState::state).unwrap_or_default()
    }

    /// See [`Journal::entry_bytes_max`].
    #[must_use]
    pub fn entry_bytes_max(&self) -> u64 {
        books::entry_bytes_max(&self.inner.books.borrow().config)
    }

    /// Appends entries, which must continue the log; readable at once. `done` runs when they and everything before
    /// are durable, in order; with an error if they never will be, possibly before this returns.
    pub fn append(&self, entries: Vec<LaneEntry>, done: Done) {
        self.inner.append(self.lane, entries, done);
    }

    /// Saves the vote; durable when it returns.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], [`JournalError::Closed`].
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), JournalError> {
        self.inner.settled(|books| books.save_vote(self.lane, vote)).await
    }

    /// Notes what is committed. Rides along with the next commit; nothing waits for it.
    pub fn save_committed(&self, committed: Option<EntryId>) {
        let mut books = self.inner.books.borrow_mut();
        let lane = books.lanes.entry(self.lane).or_default();
        lane.committed_dirty |= lane.committed != committed;
        lane.committed = committed;
    }

    /// Removes every entry after `keep` (`None`: every entry).
    pub fn truncate_after(&self, keep: Option<EntryId>) {
        self.inner.record(|books| books.truncate_after(self.lane, keep));
    }

    /// Removes every entry up to and with `upto`. Beyond the last entry it leaves an empty log that ends at `upto`.
    pub fn purge(&self, upto: EntryId) {
        self.inner.record(|books| books.purge(self.lane, upto));
    }

    /// Entries of a range, from memory or disk: as many as fit in `max_bytes` of payload, at least one if there is
    /// one, none beyond the end. Indexes before the first entry are skipped.
    ///
    /// # Errors
    /// [`JournalError::Read`], [`JournalError::Corrupt`].
    pub async fn read(&self, range: Range<LogIndex>, max_bytes: usize) -> Result<Vec<LaneEntry>, JournalError> {
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
