//! The journal's state in memory: lanes, the commits being filled, the files, the counts that say what is free.
//!
//! Owns: every synchronous change, run to completion; no I/O, no await. Records go into the filling commit's buffer
//! in the order of the calls, which is the order they have in the journal. Affinity: shard-local.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;

use super::files::{JournalFile, Spare};
use super::fill::{Done, Effect, Filling};
use super::format::{COMMIT_HEADER_LEN, Kind, RECORD_HEADER_LEN, entry_record_len, optional_id};
use super::lane::{Eviction, LaneState, Place, Placing, Removed, Slot};
use super::{Inner, JournalConfig, JournalError, JournalUsage, LaneEntry, Pin, Pressure};
use crate::env::ALIGNMENT;
use crate::model::{EntryId, LaneId, LogIndex};

/// Room left in every commit for the commit marks that ride along: 33 bytes each.
const MARKS_BYTES: usize = 2048;
const MARK_LEN: usize = RECORD_HEADER_LEN + 17;

/// Names of entries that are gone may stay in the queue of resident ones up to this many, and as many as there are
/// entries: then a sweep's cost is shared by those it removes.
const RESIDENT_GONE_MAX: usize = 1024;

/// The largest record that fits in a commit of its own in a file, and in 32-bit lengths. Bytes.
pub(super) fn entry_bytes_max(config: &JournalConfig) -> u64 {
    config.file_bytes.min(1 << 30).saturating_sub(ALIGNMENT as u64 + MARKS_BYTES as u64)
}

/// A commit that has been given its place and is being written.
pub(super) struct Placed {
    pub(super) file: u64,
    pub(super) position: u64,
    pub(super) len: u64,
    pub(super) sequence: u64,
}

/// The state.
pub(super) struct Books {
    pub(super) config: JournalConfig,
    pub(super) journal: u64,
    pub(super) lanes: BTreeMap<LaneId, LaneState>,
    /// Full commits that wait, then the one being filled. The callers' caps in flight bound them.
    sealed: VecDeque<Filling>,
    filling: Option<Filling>,
    /// Somebody waits for what is in `filling`.
    wanted: bool,
    pub(super) failure: Option<JournalError>,
    /// Sequence of the last commit that is durable.
    pub(super) durable: u64,
    /// Live files by generation; the last is the head.
    pub(super) files: BTreeMap<u64, Rc<JournalFile>>,
    /// Where the next commit goes in the head. Bytes.
    pub(super) position: u64,
    /// The file that becomes the head next, named in the layout already.
    pub(super) next: Option<Rc<JournalFile>>,
    pub(super) spares: Vec<Spare>,
    /// Files that go once a layout without them is durable.
    pub(super) dropping: Vec<Spare>,
    /// What live and spare files together may take: as much as was live at a time lately. Bytes.
    pub(super) footprint: u64,
    pub(super) next_generation: u64,
    pub(super) next_number: u64,
    /// A commit of this length waits for a file that takes it. Bytes.
    pub(super) needed: u64,
    /// The oldest file's entries are being copied.
    pub(super) rewriting: bool,
    /// The file whose lanes' state is on its way to the head.
    moving: u64,
    /// Entries whose payload is in memory, in the order they came, and some that are gone: [`Books::sweep_resident`].
    resident: VecDeque<(LaneId, EntryId)>,
    resident_bytes: usize,
}

impl Books {
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

    /// Takes in a lane as the journal was found.
    pub(super) fn adopt(&mut self, id: LaneId, lane: LaneState) {
        for index in lane.indexes() {
            if let Some(Slot { term, payload: Some(payload), .. }) = lane.slot(index) {
                self.resident_bytes += payload.len();
                self.resident.push_back((id, EntryId { term: *term, index: LogIndex(index) }));
            }
        }
        self.lanes.insert(id, lane);
    }

    pub(super) fn head(&self) -> Option<&Rc<JournalFile>> {
        self.files.values().next_back()
    }

    fn live_bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Takes note of what is live before files are released: a load that fills as many files between any two releases
    /// finds them all again as spares, and none is made and zeroed anew. What is not needed any more shrinks slowly.
    pub(super) fn note_footprint(&mut self) {
        let live = self.live_bytes();
        let shrunk = if live < self.footprint / 2 { self.footprint - self.footprint / 8 } else { self.footprint };
        self.footprint = shrunk.max(live);
    }

    /// Gives up the smallest spares beyond the footprint, but for the few that are always kept. The next file is ready.
    pub(super) fn drop_superfluous(&mut self) {
        let mut held = self.live_bytes() + self.spares.iter().map(|spare| spare.bytes).sum::<u64>();
        while self.spares.len() > self.config.spare_files.max(1) && held > self.footprint {
            let smallest = self.spares.iter().enumerate().min_by_key(|(_, spare)| spare.bytes).map(|(at, _)| at);
            let Some(spare) = smallest.map(|at| self.spares.remove(at)) else { return };
            held -= spare.bytes;
            self.dropping.push(spare);
        }
    }

    /// How large the next new file is: the journal grows with what is live in it, file by file. Bytes.
    pub(super) fn next_file_bytes(&self) -> u64 {
        let live = self.live_bytes();
        let first = self.config.first_file_bytes.min(self.config.file_bytes);
        live.clamp(first, self.config.file_bytes).max(self.needed)
    }

    /// The commit that takes a record of `len` bytes: the one being filled, or a new one if it is full.
    fn filling(&mut self, len: usize) -> Option<&mut Filling> {
        let full = self.filling.as_ref().is_some_and(|filling| !filling.fits(len + MARKS_BYTES));
        if full {
            self.sealed.extend(self.filling.take());
        }
        if self.filling.is_none() {
            let need = COMMIT_HEADER_LEN + len + MARKS_BYTES;
            let buffer = self.head()?.file.alloc_dirty(need.max(self.config.commit_bytes));
            self.filling = Some(Filling::new(buffer));
        }
        self.filling.as_mut()
    }

    fn push_state(&mut self, lane: LaneId, kind: Kind, body: &[u8]) {
        self.wanted = true;
        if let Some(filling) = self.filling(RECORD_HEADER_LEN + body.len()) {
            filling.push_state(lane, kind, body);
        }
    }

    fn push_done(&mut self, done: Done) {
        self.wanted = true;
        if let Some(filling) = self.filling(0) {
            filling.done.push(done);
        }
    }

    /// Takes a removal into the books: memory now, places when the record that says so is durable.
    fn removed(&mut self, removed: Removed) {
        self.resident_bytes -= removed.memory;
        if !removed.places.is_empty()
            && let Some(filling) = self.filling(0)
        {
            filling.effects.push(Effect::Freed { places: removed.places });
        }
        self.sweep_resident();
    }

    /// Forgets the names of entries that are gone, once they are the most of the queue: a load that never fills the
    /// memory evicts nothing, so nothing else would.
    fn sweep_resident(&mut self) {
        let entries: usize = self.lanes.values().map(LaneState::len).sum();
        if self.resident.len() <= RESIDENT_GONE_MAX + 2 * entries {
            return;
        }
        let lanes = &self.lanes;
        self.resident.retain(|(lane, id)| lanes.get(lane).is_some_and(|lane| lane.is_resident(*id)));
        self.resident.shrink_to(2 * self.resident.len());
    }

    /// Names in the queue of resident entries.
    #[cfg(test)]
    pub(super) fn resident_names(&self) -> usize {
        self.resident.len()
    }

    /// The next commit to write, with the marks that ride along. `None`: nothing waits.
    pub(super) fn take_commit(&mut self) -> Option<Filling> {
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

    /// A commit is durable: it counts.
    pub(super) fn committed(&mut self, placed: &Placed, effects: Vec<Effect>) {
        debug_assert!(placed.sequence == self.durable + 1, "commits become durable in order");
        self.durable = placed.sequence;
        self.apply_effects(Some(placed), effects);
    }

    /// Does what becomes true with durability. A commit without a record has no place, and frees at most.
    pub(super) fn apply_effects(&mut self, placed: Option<&Placed>, effects: Vec<Effect>) {
        for effect in effects {
            match (effect, placed) {
                (Effect::Freed { places }, _) => places.iter().for_each(|place| self.free(place)),
                (Effect::Placed { lane, id, at, len }, Some(commit)) => {
                    let place = Place { file: commit.file, at: commit.position + at as u64, len };
                    self.place(lane, id, place);
                }
                (Effect::Meta { lane, kind }, Some(commit)) => self.place_meta(lane, kind, commit.file),
                (Effect::Placed { .. } | Effect::Meta { .. }, None) => {
                    debug_assert!(false, "a record lies in a commit that has a place");
                }
            }
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

    /// Is there a file before the head in which no entry lives?
    pub(super) fn oldest_is_free(&self) -> bool {
        self.files.len() > 1 && self.files.first_key_value().is_some_and(|(_, file)| file.live.get() == 0)
    }

    /// Gives an entry its place and counts it; an entry that is gone counts nowhere.
    pub(super) fn place(&mut self, lane: LaneId, id: EntryId, place: Place) {
        let Some(lane) = self.lanes.get_mut(&lane) else { return };
        if let Placing::Placed { before } = lane.place(id, place) {
            before.iter().for_each(|before| self.free(before));
            if let Some(file) = self.files.get(&place.file) {
                file.live.set(file.live.get() + u64::from(place.len));
            }
        }
    }

    fn free(&self, place: &Place) {
        if let Some(file) = self.files.get(&place.file) {
            file.live.set(file.live.get() - u64::from(place.len));
        }
    }

    /// Drops the oldest payloads from memory until the cap holds.
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

    fn check(&self, lane: LaneId, entries: &[LaneEntry]) -> Result<(), JournalError> {
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

    fn append(&mut self, lane: LaneId, entries: Vec<LaneEntry>) {
        for entry in entries {
            if let Some(filling) = self.filling(entry_record_len(&entry.payload)) {
                filling.push_entry(lane, &entry, false);
            }
            self.resident_bytes += entry.payload.len();
            self.resident.push_back((lane, entry.id));
            let slot = Slot { term: entry.id.term, place: None, payload: Some(entry.payload) };
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

    /// Copies an entry to the head, if it is still where it was read.
    pub(super) fn rewrite(&mut self, lane: LaneId, entry: &LaneEntry, from: Place) -> bool {
        let slot = self.lanes.get(&lane).and_then(|lane| lane.slot(entry.id.index.0));
        if slot.is_none_or(|slot| slot.term != entry.id.term || slot.place != Some(from)) {
            return false;
        }
        if let Some(filling) = self.filling(entry_record_len(&entry.payload)) {
            filling.push_entry(lane, entry, true);
        }
        true
    }

    /// Writes the state of lanes whose newest record of it lies in file `generation` to the head again, once. True
    /// until that is durable; false if there is none there.
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

    pub(super) fn oldest_pins(&self) -> Vec<Pin> {
        let Some((generation, _)) = self.files.first_key_value().filter(|_| self.files.len() > 1) else {
            return Vec::new();
        };
        let last_in = |lane: &LaneState| {
            let mut ids = lane.indexes().rev().filter_map(|index| Some((index, lane.slot(index)?)));
            let (index, slot) = ids.find(|(_, slot)| slot.place.is_some_and(|place| place.file == *generation))?;
            Some(EntryId { term: slot.term, index: LogIndex(index) })
        };
        self.lanes.iter().filter_map(|(lane, state)| Some(Pin { lane: *lane, last: last_in(state)? })).collect()
    }

    fn used_bytes(&self) -> u64 {
        self.live_bytes() - self.head().map_or(0, |head| head.bytes - self.position)
    }

    pub(super) fn usage(&self) -> JournalUsage {
        let ready: u64 = self.files.values().chain(&self.next).map(|file| file.bytes).sum();
        let waiting: usize = self.sealed.iter().chain(&self.filling).map(Filling::used).sum();
        JournalUsage {
            disk_bytes: ready + self.spares.iter().chain(&self.dropping).map(|spare| spare.bytes).sum::<u64>(),
            used_bytes: self.used_bytes(),
            capacity_bytes: self.config.capacity_bytes,
            memory_bytes: self.resident_bytes as u64,
            waiting_bytes: waiting as u64,
            commits: self.durable,
        }
    }

    /// Half full: make room. Within two files of the capacity: stop, so that what frees space still fits.
    pub(super) fn pressure(&self) -> Pressure {
        let used = self.used_bytes();
        let reserve = (2 * self.config.file_bytes).min(self.config.capacity_bytes / 4);
        match used {
            _ if used + reserve >= self.config.capacity_bytes => Pressure::Refuse,
            _ if used >= self.config.capacity_bytes / 2 => Pressure::Release,
            _ => Pressure::None,
        }
    }

    /// All who wait, in order; they will be told of a failure.
    fn take_waiters(&mut self) -> Vec<Done> {
        let commits = std::mem::take(&mut self.sealed).into_iter().chain(self.filling.take());
        commits.flat_map(|commit| commit.done).collect()
    }
}

impl Inner {
    /// A change to the books that needs only its place in the journal.
    pub(super) fn record(&self, change: impl FnOnce(&mut Books)) {
        {
            let mut books = self.books.borrow_mut();
            if books.failure.is_some() {
                return;
            }
            change(&mut books);
        }
        self.commit_wake.raise();
    }

    /// As [`Inner::record`], and returns when it is durable with everything before.
    pub(super) async fn settled(&self, change: impl FnOnce(&mut Books)) -> Result<(), JournalError> {
        let (tell, told) = futures::channel::oneshot::channel();
        {
            let mut books = self.books.borrow_mut();
            if let Some(failure) = &books.failure {
                return Err(failure.clone());
            }
            change(&mut books);
            let done = move |result| {
                // Who waited may have gone.
                let _ = tell.send(result);
            };
            books.push_done(Box::new(done));
        }
        self.commit_wake.raise();
        told.await.unwrap_or(Err(JournalError::Closed))
    }

    pub(super) fn append(&self, lane: LaneId, entries: Vec<LaneEntry>, done: Done) {
        let checked = {
            let mut books = self.books.borrow_mut();
            books.check(lane, &entries).map(|()| books.append(lane, entries))
        };
        match checked {
            Ok(()) => {
                self.books.borrow_mut().push_done(done);
                self.commit_wake.raise();
            }
            Err(error) => done(Err(error)),
        }
    }

    /// Ends the journal: the first failure stays, everyone who waits is told.
    pub(super) fn fail(&self, failure: &JournalError) {
        let waiters = {
            let mut books = self.books.borrow_mut();
            books.failure.get_or_insert_with(|| failure.clone());
            books.take_waiters()
        };
        waiters.into_iter().for_each(|done| done(Err(failure.clone())));
        self.commit_wake.raise();
        self.keep_wake.raise();
    }
}
