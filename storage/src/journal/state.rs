//! The journal's state in memory: lanes, queued commits, files, and per file the bytes of live entries.
//!
//! Owns: every synchronous change; no I/O, no await. Records are encoded into the commit being filled in the order of
//! the calls, which is their order in the journal. Affinity: shard-local.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;

use super::files::{JournalFile, SpareFile};
use super::fill::{CommitBuffer, CommitEffect, Completion};
use super::format::{COMMIT_HEADER_LEN, Kind, RECORD_HEADER_LEN, entry_record_len, optional_id};
use super::lane::{EntrySlot, Eviction, LaneState, Placement, RecordAddress, RemovedEntries};
use super::{FilePin, JournalConfig, JournalEntry, JournalError, JournalInner, JournalUsage, Pressure};
use crate::env::ALIGNMENT;
use crate::model::{EntryId, LaneId, LogIndex};

/// Room left in every commit for the committed marks written with it, [`MARK_LEN`] each. Bytes.
const MARKS_BYTES: usize = 2048;
const MARK_LEN: usize = RECORD_HEADER_LEN + 17;

/// The queue of resident entries may hold this many ids of removed entries, and one for each present entry, before it
/// is swept: so the cost of a sweep is spread over the ids it removes.
const RESIDENT_GONE_MAX: usize = 1024;

/// The largest record that fits in a commit of its own, in one file and in 32-bit lengths. Bytes.
pub(super) fn entry_bytes_max(config: &JournalConfig) -> u64 {
    config.file_bytes.min(1 << 30).saturating_sub(ALIGNMENT as u64 + MARKS_BYTES as u64)
}

/// Where the commit being written lies, and its number.
pub(super) struct PlacedCommit {
    /// Generation of its file.
    pub(super) file: u64,
    pub(super) position: u64,
    pub(super) len: u64,
    pub(super) sequence: u64,
}

/// See the header.
pub(super) struct JournalState {
    pub(super) config: JournalConfig,
    /// The journal's random id.
    pub(super) journal: u64,
    pub(super) lanes: BTreeMap<LaneId, LaneState>,
    /// Full commits that are not written yet, then the one being filled. The callers' limits in flight bound them.
    sealed: VecDeque<CommitBuffer>,
    filling: Option<CommitBuffer>,
    /// A caller waits for what is in `filling`.
    wanted: bool,
    pub(super) failure: Option<JournalError>,
    /// Sequence of the last durable commit.
    pub(super) durable: u64,
    /// Live files by generation, at least one; the last is the head, which is written to.
    pub(super) files: BTreeMap<u64, Rc<JournalFile>>,
    /// Where the next commit goes in the head. Bytes.
    pub(super) position: u64,
    /// The next head; the durable layout already names it.
    pub(super) next: Option<Rc<JournalFile>>,
    pub(super) spares: Vec<SpareFile>,
    /// Files to unlink once a layout without them is durable.
    pub(super) dropping: Vec<SpareFile>,
    /// What live and spare files together may take: about the most that recently was live at one time. Bytes.
    pub(super) footprint: u64,
    pub(super) next_generation: u64,
    pub(super) next_number: u64,
    /// A commit of this length waits for a file that has room for it. Bytes.
    pub(super) needed: u64,
    /// The oldest file's entries are being copied.
    pub(super) rewriting: bool,
    /// The oldest file, by generation, whose votes and marks were already queued at the head.
    moving: u64,
    /// Entries whose payload is in memory, in the order of arrival, and some removed ones; see
    /// [`JournalState::sweep_resident`].
    resident: VecDeque<(LaneId, EntryId)>,
    resident_bytes: usize,
}

impl JournalState {
    pub(super) fn new(journal: u64, config: JournalConfig) -> Self {
        Self {
            config,
            journal,
            lanes: BTreeMap::new(),
            sealed: VecDeque::new(),
            filling: None,
            wanted: false,
            failure: None,
            durable: 0,
            files: BTreeMap::new(),
            position: 0,
            next: None,
            spares: Vec::new(),
            dropping: Vec::new(),
            footprint: 0,
            next_generation: 1,
            next_number: 1,
            needed: 0,
            rewriting: false,
            moving: 0,
            resident: VecDeque::new(),
            resident_bytes: 0,
        }
    }

    /// Takes in a lane that recovery read.
    pub(super) fn adopt(&mut self, id: LaneId, lane: LaneState) {
        for index in lane.indexes() {
            if let Some(EntrySlot { term, payload: Some(payload), .. }) = lane.slot(index) {
                self.resident_bytes += payload.len();
                self.resident.push_back((id, EntryId { term: *term, index: LogIndex(index) }));
            }
        }
        let before = self.lanes.insert(id, lane);
        assert!(before.is_none(), "recovery adopts lane {id} once");
    }

    /// The file that is written to.
    pub(super) fn head(&self) -> &Rc<JournalFile> {
        self.files
            .values()
            .next_back()
            .expect("an open journal has a head: recovery refuses a layout without live files")
    }

    fn live_bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Notes what is live before files are released. A load that fills as many files between two releases then finds
    /// them all as spares, and none has to be zeroed again. Without that load the footprint shrinks slowly.
    pub(super) fn note_footprint(&mut self) {
        let live = self.live_bytes();
        let shrunk = if live < self.footprint / 2 { self.footprint - self.footprint / 8 } else { self.footprint };
        self.footprint = shrunk.max(live);
    }

    /// Moves the smallest spares beyond the footprint to `dropping`, except for the few that are always kept.
    pub(super) fn drop_superfluous(&mut self) {
        let mut held = self.live_bytes() + self.spares.iter().map(|spare| spare.bytes).sum::<u64>();
        while self.spares.len() > self.config.spare_files.max(1) && held > self.footprint {
            let smallest = self.spares.iter().enumerate().min_by_key(|(_, spare)| spare.bytes).map(|(at, _)| at);
            let Some(spare) = smallest.map(|at| self.spares.remove(at)) else { return };
            held -= spare.bytes;
            self.dropping.push(spare);
        }
    }

    /// Size of the next new file: as large as all live files together, within the configured limits. Bytes.
    pub(super) fn next_file_bytes(&self) -> u64 {
        let live = self.live_bytes();
        let first = self.config.first_file_bytes.min(self.config.file_bytes);
        live.clamp(first, self.config.file_bytes).max(self.needed)
    }

    /// The commit with room for a record of `len` bytes: the one being filled, or a new one.
    fn filling(&mut self, len: usize) -> &mut CommitBuffer {
        let full = self.filling.as_ref().is_some_and(|filling| !filling.fits(len + MARKS_BYTES));
        if full {
            self.sealed.extend(self.filling.take());
        }
        match self.filling.take() {
            Some(filling) => self.filling.insert(filling),
            None => {
                let need = COMMIT_HEADER_LEN + len + MARKS_BYTES;
                let buffer = self.head().file.alloc_dirty(need.max(self.config.commit_bytes));
                self.filling.insert(CommitBuffer::new(buffer))
            }
        }
    }

    fn push_state(&mut self, lane: LaneId, kind: Kind, body: &[u8]) {
        self.wanted = true;
        self.filling(RECORD_HEADER_LEN + body.len()).push_state(lane, kind, body);
    }

    fn push_done(&mut self, done: Completion) {
        self.wanted = true;
        self.filling(0).done.push(done);
    }

    /// Counts a removal: memory at once, files when the record that removes the entries is durable.
    fn removed(&mut self, removed: RemovedEntries) {
        assert!(removed.memory <= self.resident_bytes, "an entry's payload is counted in memory once");
        self.resident_bytes -= removed.memory;
        if !removed.addresses.is_empty() {
            self.filling(0).effects.push(CommitEffect::RecordsFreed { addresses: removed.addresses });
        }
        self.sweep_resident();
    }

    /// Drops the ids of removed entries once they are most of the queue. Eviction alone does not: a load that never
    /// fills the memory evicts nothing.
    fn sweep_resident(&mut self) {
        let entries: usize = self.lanes.values().map(LaneState::len).sum();
        if self.resident.len() <= RESIDENT_GONE_MAX + 2 * entries {
            return;
        }
        let lanes = &self.lanes;
        self.resident.retain(|(lane, id)| lanes.get(lane).is_some_and(|lane| lane.is_resident(*id)));
        self.resident.shrink_to(2 * self.resident.len());
    }

    /// Ids in the queue of resident entries.
    #[cfg(test)]
    pub(super) fn resident_names(&self) -> usize {
        self.resident.len()
    }

    /// The next commit to write, with all new committed marks that fit. `None` if no caller waits for one.
    pub(super) fn take_commit(&mut self) -> Option<CommitBuffer> {
        let mut commit = match self.sealed.pop_front() {
            Some(commit) => commit,
            None if std::mem::take(&mut self.wanted) => self.filling.take()?,
            None => return None,
        };
        if !commit.is_empty() {
            for (id, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.committed_dirty) {
                if !commit.fits(MARK_LEN) {
                    break;
                }
                commit.push_state(*id, Kind::Committed, &optional_id(lane.committed));
                lane.committed_dirty = false;
            }
        }
        Some(commit)
    }

    /// Notes that a commit is durable.
    pub(super) fn made_durable(&mut self, placed: &PlacedCommit, effects: Vec<CommitEffect>) {
        assert_eq!(placed.sequence, self.durable + 1, "commits become durable in order");
        assert_eq!(placed.file, self.head().generation, "a commit is written to the head");
        assert_eq!(placed.position, self.position, "a commit follows the one before it");
        self.position = placed.position + placed.len;
        self.durable = placed.sequence;
        self.apply_effects(Some(placed), effects);
    }

    /// Applies what becomes true with durability. A commit without records is not written, so it has no address; it can
    /// only free others.
    pub(super) fn apply_effects(&mut self, placed: Option<&PlacedCommit>, effects: Vec<CommitEffect>) {
        let mut gone = Vec::new();
        for effect in effects {
            match (effect, placed) {
                (CommitEffect::RecordsFreed { addresses }, _) => {
                    addresses.iter().for_each(|address| self.free(address))
                }
                (CommitEffect::EntryPlaced { lane, id, at, len }, Some(commit)) => {
                    let address = RecordAddress { file: commit.file, at: commit.position + at as u64, len };
                    gone.extend(self.place(lane, id, address));
                }
                (CommitEffect::LaneState { lane, kind }, Some(commit)) => self.place_meta(lane, kind, commit.file),
                (CommitEffect::EntryPlaced { .. } | CommitEffect::LaneState { .. }, None) => {
                    unreachable!("a record was in a commit that was not written")
                }
            }
        }
        if !gone.is_empty() {
            self.filling(0).effects.push(CommitEffect::RecordsFreed { addresses: gone });
        }
    }

    pub(super) fn place_meta(&mut self, lane: LaneId, kind: Kind, file: u64) {
        let Some(lane) = self.lanes.get_mut(&lane) else { return };
        match kind {
            Kind::Vote => lane.meta.vote = file,
            Kind::Purge => lane.meta.purged = file,
            Kind::Committed => lane.meta.committed = file,
            Kind::Entry | Kind::Rewritten | Kind::TruncateAfter | Kind::Forget => {}
        }
    }

    /// Is there a file before the head that holds no live entry?
    pub(super) fn oldest_is_free(&self) -> bool {
        self.files.len() > 1 && self.files.first_key_value().is_some_and(|(_, file)| file.live.get() == 0)
    }

    /// Sets a durable entry's address and counts its bytes as live. Returns the address if the entry was removed while
    /// its commit was in flight. The record that removes it may not be durable yet, and a power cut would bring the
    /// entry back, so its bytes stay live until the commit that is filled now: that one holds the record, or follows
    /// it.
    fn place(&mut self, lane: LaneId, id: EntryId, address: RecordAddress) -> Option<RecordAddress> {
        let placement = self.lanes.get_mut(&lane).map_or(Placement::Gone, |lane| lane.place(id, address));
        self.file(&address).add_live(address.len);
        match placement {
            Placement::Placed { before } => {
                before.iter().for_each(|before| self.free(before));
                None
            }
            Placement::Gone => Some(address),
        }
    }

    fn free(&self, address: &RecordAddress) {
        self.file(address).remove_live(address.len);
    }

    /// The file that holds a live record: it stays until the record is freed.
    pub(super) fn file(&self, address: &RecordAddress) -> &Rc<JournalFile> {
        self.files.get(&address.file).expect("a live record's file is not recycled")
    }

    /// Drops the oldest payloads from memory until they fit in `memory_bytes`.
    pub(super) fn evict(&mut self) {
        while self.resident_bytes > self.config.memory_bytes {
            let Some((lane, id)) = self.resident.front().copied() else { return };
            match self.lanes.get_mut(&lane).map(|lane| lane.evict(id)) {
                Some(Eviction::NotDurable) => return,
                Some(Eviction::Freed(bytes)) => self.resident_bytes -= bytes,
                None => {}
            }
            self.resident.pop_front();
        }
    }

    fn check(&self, lane: LaneId, entries: &[JournalEntry]) -> Result<(), JournalError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut expected = self.lanes.get(&lane).and_then(LaneState::expected);
        let max = entry_bytes_max(&self.config);
        for entry in entries {
            if let Some(expected) = expected.filter(|expected| *expected != entry.id.index) {
                return Err(JournalError::NotContiguous { lane, found: entry.id, expected });
            }
            let bytes = entry_record_len(&entry.payload) as u64;
            if bytes > max {
                return Err(JournalError::EntryTooLarge { lane, id: entry.id, bytes, max });
            }
            expected = Some(entry.id.index.next());
        }
        Ok(())
    }

    fn append(&mut self, lane: LaneId, entries: Vec<JournalEntry>) {
        for entry in entries {
            self.filling(entry_record_len(&entry.payload)).push_entry(lane, &entry, false);
            self.resident_bytes += entry.payload.len();
            self.resident.push_back((lane, entry.id));
            let slot = EntrySlot { term: entry.id.term, address: None, payload: Some(entry.payload) };
            self.lanes.entry(lane).or_default().push(entry.id, slot);
        }
    }

    pub(super) fn save_vote(&mut self, lane: LaneId, vote: Bytes) {
        self.push_state(lane, Kind::Vote, &vote);
        self.lanes.entry(lane).or_default().vote = Some(vote);
    }

    pub(super) fn truncate_after(&mut self, lane: LaneId, keep: Option<EntryId>) {
        self.push_state(lane, Kind::TruncateAfter, &optional_id(keep));
        let removed = self.lanes.entry(lane).or_default().truncate_after(keep);
        self.removed(removed);
    }

    pub(super) fn purge(&mut self, lane: LaneId, upto: EntryId) {
        self.push_state(lane, Kind::Purge, &optional_id(Some(upto)));
        let removed = self.lanes.entry(lane).or_default().purge(upto);
        self.removed(removed);
    }

    pub(super) fn forget(&mut self, lane: LaneId) {
        self.push_state(lane, Kind::Forget, &[]);
        if let Some(mut state) = self.lanes.remove(&lane) {
            let removed = state.clear();
            self.removed(removed);
        }
    }

    /// Copies an entry to the head if it is still at the address it was read from.
    pub(super) fn rewrite(&mut self, lane: LaneId, entry: &JournalEntry, from: RecordAddress) -> bool {
        let slot = self.lanes.get(&lane).and_then(|lane| lane.slot(entry.id.index.0));
        if slot.is_none_or(|slot| slot.term != entry.id.term || slot.address != Some(from)) {
            return false;
        }
        self.filling(entry_record_len(&entry.payload)).push_entry(lane, entry, true);
        true
    }

    /// Queues a copy of every vote, purge and committed mark whose newest record lies in file `generation`. True until
    /// the copies are durable; false if that file holds no such record. Queues only once for a file.
    pub(super) fn move_meta(&mut self, generation: u64) -> bool {
        let mut records = Vec::new();
        for (id, lane) in &self.lanes {
            if let Some(vote) = lane.vote.as_ref().filter(|_| lane.meta.vote == generation) {
                records.push((*id, Kind::Vote, vote.clone()));
            }
            if lane.purged.is_some() && lane.meta.purged == generation {
                records.push((*id, Kind::Purge, Bytes::copy_from_slice(&optional_id(lane.purged))));
            }
            if lane.committed.is_some() && lane.meta.committed == generation {
                records.push((*id, Kind::Committed, Bytes::copy_from_slice(&optional_id(lane.committed))));
            }
        }
        if self.moving != generation {
            self.moving = generation;
            for (lane, kind, body) in &records {
                self.push_state(*lane, *kind, body);
            }
        }
        !records.is_empty()
    }

    pub(super) fn oldest_pins(&self) -> Vec<FilePin> {
        let Some((generation, _)) = self.files.first_key_value().filter(|_| self.files.len() > 1) else {
            return Vec::new();
        };
        let last_in = |lane: &LaneState| {
            let mut ids = lane.indexes().rev().filter_map(|index| Some((index, lane.slot(index)?)));
            let (index, slot) =
                ids.find(|(_, slot)| slot.address.is_some_and(|address| address.file == *generation))?;
            Some(EntryId { term: slot.term, index: LogIndex(index) })
        };
        self.lanes.iter().filter_map(|(lane, state)| Some(FilePin { lane: *lane, last: last_in(state)? })).collect()
    }

    fn used_bytes(&self) -> u64 {
        self.live_bytes() - (self.head().bytes - self.position)
    }

    pub(super) fn usage(&self) -> JournalUsage {
        let ready: u64 = self.files.values().chain(&self.next).map(|file| file.bytes).sum();
        let waiting: usize = self.sealed.iter().chain(&self.filling).map(CommitBuffer::used).sum();
        JournalUsage {
            disk_bytes: ready + self.spares.iter().chain(&self.dropping).map(|spare| spare.bytes).sum::<u64>(),
            used_bytes: self.used_bytes(),
            capacity_bytes: self.config.capacity_bytes,
            memory_bytes: self.resident_bytes as u64,
            waiting_bytes: waiting as u64,
            commits: self.durable,
        }
    }

    /// [`Pressure::Release`] from half of the capacity on, [`Pressure::Refuse`] within two files of it: purges, votes
    /// and rewrites still need that room.
    pub(super) fn pressure(&self) -> Pressure {
        let used = self.used_bytes();
        let reserve = (2 * self.config.file_bytes).min(self.config.capacity_bytes / 4);
        match used {
            _ if used + reserve >= self.config.capacity_bytes => Pressure::Refuse,
            _ if used >= self.config.capacity_bytes / 2 => Pressure::Release,
            _ => Pressure::None,
        }
    }

    /// The completions of all queued commits, in order.
    fn take_waiters(&mut self) -> Vec<Completion> {
        let commits = std::mem::take(&mut self.sealed).into_iter().chain(self.filling.take());
        commits.flat_map(|commit| commit.done).collect()
    }
}

impl JournalInner {
    /// Makes a change whose record becomes durable with a later commit.
    pub(super) fn record(&self, change: impl FnOnce(&mut JournalState)) {
        {
            let mut state = self.state.borrow_mut();
            if state.failure.is_some() {
                return;
            }
            change(&mut state);
        }
        self.commit_wake.notify();
    }

    /// As [`JournalInner::record`], and returns when the record and everything before it are durable.
    pub(super) async fn record_durably(&self, change: impl FnOnce(&mut JournalState)) -> Result<(), JournalError> {
        let (sender, durable) = futures::channel::oneshot::channel();
        {
            let mut state = self.state.borrow_mut();
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            change(&mut state);
            let done = move |result| {
                // The caller may have been dropped.
                let _ = sender.send(result);
            };
            state.push_done(Box::new(done));
        }
        self.commit_wake.notify();
        durable.await.unwrap_or(Err(JournalError::Closed))
    }

    pub(super) fn append(&self, lane: LaneId, entries: Vec<JournalEntry>, done: Completion) {
        let checked = {
            let mut state = self.state.borrow_mut();
            state.check(lane, &entries).map(|()| state.append(lane, entries))
        };
        match checked {
            Ok(()) => {
                self.state.borrow_mut().push_done(done);
                self.commit_wake.notify();
            }
            Err(error) => done(Err(error)),
        }
    }

    /// Ends the journal: keeps the first failure and fails all queued completions.
    pub(super) fn fail(&self, failure: &JournalError) {
        let waiters = {
            let mut state = self.state.borrow_mut();
            state.failure.get_or_insert_with(|| failure.clone());
            state.take_waiters()
        };
        waiters.into_iter().for_each(|done| done(Err(failure.clone())));
        self.commit_wake.notify();
        self.keep_wake.notify();
    }
}
