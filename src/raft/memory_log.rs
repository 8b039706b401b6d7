//! A journal in memory with the journal's promises and no more: for tests and for measuring what the group itself
//! costs.
//!
//! A write takes effect at once and becomes durable later, in order; a crash keeps the durable writes and any
//! number of the writes after it, in order, because they may have reached the disk.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use tidewater_storage::env::Env;
use tidewater_storage::journal::{JournalEntry, JournalError, LaneLogState};
use tidewater_storage::model::{EntryId, LogIndex};

use super::log_store::{Done, LogDevice};

#[derive(Clone)]
enum Write {
    Append(Vec<JournalEntry>),
    Vote(Bytes),
    Committed(Option<EntryId>),
    Truncate(Option<EntryId>),
    Purge(EntryId),
}

#[derive(Clone, Default)]
struct Image {
    state: LaneLogState,
    entries: VecDeque<JournalEntry>,
}

impl Image {
    fn write(&mut self, write: &Write) {
        match write {
            Write::Append(entries) => {
                for entry in entries {
                    assert!(self.state.last.is_none_or(|last| last.index.0 + 1 == entry.id.index.0), "a hole");
                    self.state.last = Some(entry.id);
                    self.entries.push_back(entry.clone());
                }
            }
            Write::Vote(vote) => self.state.vote = Some(vote.clone()),
            Write::Committed(committed) => self.state.committed = *committed,
            Write::Truncate(last) => {
                self.entries.retain(|entry| last.is_some_and(|last| entry.id.index <= last.index));
                self.state.last = self.entries.back().map(|entry| entry.id).or(self.state.purged);
            }
            Write::Purge(upto) => {
                self.entries.retain(|entry| entry.id.index > upto.index);
                self.state.purged = Some(*upto);
                self.state.last = self.entries.back().map(|entry| entry.id).or(self.state.purged);
            }
        }
    }
}

type Waiting = (Write, Option<Done>);

/// What survives a crash. Clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct MemoryDisk {
    durable: Rc<RefCell<Image>>,
    unsynced: Rc<RefCell<VecDeque<Waiting>>>,
    /// Nothing is kept behind the checkpoint for replicas that lag.
    pub(crate) short: Rc<Cell<bool>>,
    /// A sync takes this much longer than it would.
    pub(crate) slower: Rc<Cell<Duration>>,
}

impl MemoryDisk {
    /// Forgets what was not synced, except the first `kept` writes that got through all the same.
    pub(crate) fn crash(&self, kept: usize) {
        let unsynced = self.unsynced.take();
        for (write, _) in unsynced.iter().take(kept) {
            self.durable.borrow_mut().write(write);
        }
        drop(unsynced);
    }

    pub(crate) fn purged(&self) -> Option<EntryId> {
        self.durable.borrow().state.purged
    }

    /// Takes over what a log without syncs holds.
    pub(crate) fn settle(&self, log: &MemoryLog) {
        *self.durable.borrow_mut() = log.now.borrow().clone();
    }

    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.borrow().len()
    }
}

/// A lane's log on a [`MemoryDisk`].
pub(crate) struct MemoryLog {
    env: Env,
    disk: MemoryDisk,
    now: RefCell<Image>,
    syncing: Rc<Cell<bool>>,
    sync_takes: Option<Duration>,
    broken: Rc<Cell<bool>>,
}

impl MemoryLog {
    /// Opens the log; a sync takes up to `sync_takes`, and none means everything is durable at once.
    pub(crate) fn open(env: &Env, disk: &MemoryDisk, sync_takes: Option<Duration>) -> Self {
        assert_eq!(disk.unsynced(), 0, "crash the disk before it is opened again");
        let now = RefCell::new(disk.durable.borrow().clone());
        Self { env: env.clone(), disk: disk.clone(), now, syncing: Rc::default(), sync_takes, broken: Rc::default() }
    }

    /// Setting it makes every later sync fail.
    pub(crate) fn breaker(&self) -> Rc<Cell<bool>> {
        self.broken.clone()
    }

    fn write(&self, write: Write, done: Option<Done>) {
        self.now.borrow_mut().write(&write);
        if let Some(most) = self.sync_takes {
            self.disk.unsynced.borrow_mut().push_back((write, done));
            self.sync_later(most);
        } else if let Some(done) = done {
            done(Ok(()));
        }
    }

    fn sync_later(&self, most: Duration) {
        if self.syncing.replace(true) {
            return;
        }
        let (env, disk, syncing, broken) =
            (self.env.clone(), self.disk.clone(), self.syncing.clone(), self.broken.clone());
        let most = u64::try_from(most.as_nanos()).expect("a short time");
        drop(self.env.tasks.spawn("memory-log", async move {
            while disk.unsynced() > 0 {
                let batch = disk.unsynced();
                env.tasks.sleep(disk.slower.get() + Duration::from_nanos(env.rng.below(most))).await;
                let written: Vec<_> = disk.unsynced.borrow_mut().drain(..batch).collect();
                for (write, done) in written {
                    disk.durable.borrow_mut().write(&write);
                    if let Some(done) = done {
                        done(if broken.get() { Err(failure()) } else { Ok(()) });
                    }
                }
            }
            syncing.set(false);
        }));
    }
}

fn failure() -> JournalError {
    JournalError::Closed
}

impl LogDevice for MemoryLog {
    fn state(&self) -> LaneLogState {
        self.now.borrow().state.clone()
    }

    fn entry_bytes_max(&self) -> u64 {
        u64::MAX
    }

    fn append(&self, entries: Vec<JournalEntry>, done: Done) {
        self.write(Write::Append(entries), Some(done));
    }

    async fn save_vote(&self, vote: Bytes) -> Result<(), JournalError> {
        let (done, written) = oneshot::channel();
        self.write(Write::Vote(vote), Some(Box::new(move |result| drop(done.send(result)))));
        written.await.expect("the log answers")
    }

    fn save_committed(&self, committed: Option<EntryId>) {
        self.write(Write::Committed(committed), None);
    }

    fn truncate_after(&self, last: Option<EntryId>) {
        self.write(Write::Truncate(last), None);
    }

    fn purge(&self, upto: EntryId) {
        self.write(Write::Purge(upto), None);
    }

    fn is_short(&self, _window: u64) -> bool {
        self.disk.short.get()
    }

    async fn read(&self, range: Range<LogIndex>, max_bytes: usize) -> Result<Vec<JournalEntry>, JournalError> {
        let now = self.now.borrow();
        let first = now.entries.front().map_or(0, |entry| entry.id.index.0);
        let skip = usize::try_from(range.start.0.saturating_sub(first)).expect("a small log");
        let mut bytes = 0;
        let fits = |entry: &&JournalEntry| {
            let fits = entry.id.index < range.end && (bytes == 0 || bytes < max_bytes);
            bytes += 1 + entry.payload.blobs.iter().map(Bytes::len).sum::<usize>();
            fits
        };
        Ok(now.entries.iter().skip(skip).take_while(fits).cloned().collect())
    }
}
