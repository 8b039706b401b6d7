//! Makes cuts and releases those that are not kept: [`CutMaker`].
//!
//! Owns: these requests and their order. Does not own: when it is called, what is kept (`thin`). It needs nothing but
//! the bucket: any broker may make a cut, several may at once, and each step may be the last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{LaneId, LogIndex, TimestampMs, TopicId};

use super::index::{CONFLICTS_MAX, CutEntry, CutIndex, CutLane, NUMBER_END, read_index};
use super::object::{Cut, CutLaneState};
use super::thin::KEPT_MS;
use crate::fetch::Indexes;
use crate::format::INDEX_BYTES_MAX;
use crate::keys::{Home, LineageEpoch, Nonce, ObjectKey, ObjectKind, ObjectName, Sequence};
use crate::manifest::Catalogue;
use crate::restore::{LaneEnd, LaneTail, Lanes, RestoreError};
use crate::store::{ObjectStore, PutMode, StoreError};

/// Lanes read at once.
const LANES_AT_ONCE: usize = 8;
/// The put of the index is over by so many times [`CutMaker::within`], or the cut is taken out again: a lane that
/// deletes a whole grace after the making began goes by an index that it read later than that.
const PUT_WITHIN: u32 = 3;
/// Numbers that are tried for a new cut, each twice as far from the one before: those of makers that ended half-way are
/// taken, and where the index was lost, many are.
const NUMBERS_MAX: u32 = 16;
/// While no bundle and no change of a topic comes, a cut is made only this long after the last, and only if a lane was
/// published since: what retention forgets is then no longer held by the old cut.
const QUIET_MS: i64 = 3_600_000;
/// Cut objects that the index does not name are looked for with every so many cuts.
const STRAYS_EVERY: u64 = 64;
const LIST_MAX: usize = 1000;

/// See the header.
#[derive(Clone, Debug)]
pub struct CutMaker {
    pub store: Arc<dyn ObjectStore>,
    pub home: Home,
    /// Indexes of bundles that were read.
    pub indexes: Indexes,
    /// From its first request until the index is put it takes no more than this ([`super::part_of`]).
    pub within: Duration,
    /// Cuts whose put of the index had no answer; shared by clones.
    pub unsettled: Unsettled,
    /// Numbers of cuts that topics are being copied from: they are not released.
    pub in_use: BTreeSet<u64>,
}

/// A cut of which it is not known whether the index names it or ever will.
#[derive(Clone, Debug, Default)]
pub struct Unsettled(Arc<Mutex<Option<(CutEntry, Moment)>>>);

/// A reading of a maker's clocks.
type Moment = (TimestampMs, Duration);

impl Unsettled {
    fn set(&self, cut: Option<(CutEntry, Moment)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }

    fn get(&self) -> Option<(CutEntry, Moment)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The longer of the times that two clocks have measured.
fn between(began: Moment, now: Moment) -> Duration {
    let by_wall = Duration::from_millis(u64::try_from(now.0.since_ms(began.0)).unwrap_or(0));
    now.1.saturating_sub(began.1).max(by_wall)
}

/// What a maker came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutDone {
    /// The newest cut; `None` if nothing was ever archived.
    pub newest: Option<CutEntry>,
    /// It was made now; otherwise nothing has changed since.
    pub made: bool,
    /// How many cuts are kept.
    pub kept: usize,
    /// How many were released.
    pub released: usize,
}

/// Why no cut was made. The next call begins again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    #[error(transparent)]
    Read(#[from] RestoreError),
    /// What a restore of now would meet, too.
    #[error("lane {lane} ends before bundle {at}: {reason}; no cut is made of a damaged archive: see tidewater verify")]
    Damaged { lane: LaneId, at: Sequence, reason: String },
    #[error("a restore has ended this epoch of the cluster")]
    Closed { epoch: Option<LineageEpoch> },
    /// Without the time that it took: callers report an error again only if its text is another one.
    #[error(
        "a cut took more than the {} ms in which it has to be noted; it is given up, and another is made later",
        within.as_millis()
    )]
    Slow { within: Duration },
    #[error("a cut of {lanes} lanes, or the index with it, is larger than 64 MiB, which no reader takes")]
    Large { lanes: usize },
}

impl From<StoreError> for CutError {
    fn from(error: StoreError) -> Self {
        Self::Read(error.into())
    }
}

impl CutError {
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Read(error) => error.disposition(),
            Self::Damaged { .. } => Disposition::Corrupt,
            Self::Closed { .. } => Disposition::Fatal,
            Self::Slow { .. } => Disposition::Retry,
            Self::Large { .. } => Disposition::Refused,
        }
    }
}

/// The cluster as it was read.
struct State {
    /// The catalogue, and its object.
    catalogue: (Catalogue, Bytes),
    lanes: BTreeMap<LaneId, LaneTail>,
}

impl CutMaker {
    /// Makes a cut if anything has changed since the newest, and releases those that are not kept any longer. `clock`
    /// gives the wall clock's time, and the time since any fixed moment; the longer of both says how long it took, as
    /// the second may stand still while a machine sleeps.
    ///
    /// # Errors
    /// [`CutError`]. What is too old is released all the same: an archive of which no cut can be made would otherwise
    /// free nothing for ever.
    pub async fn make(&self, nonce: Nonce, clock: impl Fn() -> (TimestampMs, Duration)) -> Result<CutDone, CutError> {
        let made = match self.settle(&clock).await {
            Ok(()) => self.make_new(nonce, &clock).await,
            Err(error) => Err(error),
        };
        if made.as_ref().is_err_and(|error| !matches!(error, CutError::Closed { .. }))
            && let Err(error) = self.release_old(clock().0).await
        {
            tracing::debug!(%error, "old cuts are not released now");
        }
        made
    }

    async fn make_new(&self, nonce: Nonce, clock: impl Fn() -> (TimestampMs, Duration)) -> Result<CutDone, CutError> {
        let began = clock();
        let took = || between(began, clock());
        let (mut index, mode) = read_index(&*self.store, self.home).await?;
        if index.closed_for.is_some() {
            return Err(CutError::Closed { epoch: index.closed_for });
        }
        let new = match index.cuts.last() {
            Some(newest) if self.is_quiet(newest, began.0).await? => None,
            newest => self.read().await?.filter(|state| newest.is_none_or(|cut| !state.is_in(cut, began.0))),
        };
        // As of after the last read: nothing that is archived later is in the cut. A clock may be put back meanwhile.
        let at = clock().0.max(began.0);
        let mut put = None;
        if let Some(state) = new {
            let entry = self.put_cut(&state, &index, at, nonce).await?;
            index.next = entry.number + 1;
            index.cuts.push(entry.clone());
            put = Some(entry);
        }
        let released = self.outdated(&index, at).await?;
        index.release(&released);
        if put.is_none() && released.is_empty() {
            return Ok(done(&index, false, 0));
        }
        let own: Vec<ObjectKey> = put.iter().map(|cut| cut.key(self.home)).collect();
        let slow = || CutError::Slow { within: self.within };
        // A lane may have deleted by an index that it read before the cut was noted.
        let is_late = || took() > self.within * PUT_WITHIN;
        if took() > self.within && put.is_some() {
            self.store.delete(own).await?;
            return Err(slow());
        }
        let object = index.encode();
        if object.len() > INDEX_BYTES_MAX as usize {
            self.store.delete(own).await?;
            return Err(CutError::Large { lanes: put.map_or(0, |cut| cut.lanes.len()) });
        }
        match self.store.put(&self.home.cuts_key(), object, mode).await {
            Ok(_) => {
                if let Some(late) = put.as_ref().filter(|_| is_late()) {
                    self.withdraw(late).await?;
                    return Err(slow());
                }
            }
            // Another maker was first, or the lost answer was this one's.
            Err(StoreError::Taken { .. }) => {
                let (now, _) = read_index(&*self.store, self.home).await?;
                let is_noted = put.as_ref().is_some_and(|put| now.has(put.number));
                if !is_noted {
                    self.store.delete(own).await?;
                } else if let Some(late) = put.as_ref().filter(|_| is_late()) {
                    self.withdraw(late).await?;
                    return Err(slow());
                }
                // Another's cut is as new as this one would be.
                return Ok(done(&now, is_noted, 0));
            }
            Err(error) => {
                // It may arrive later: the next call looks.
                self.unsettled.set(put.map(|cut| (cut, began)));
                return Err(error.into());
            }
        }
        self.delete(&released).await?;
        if put.as_ref().is_some_and(|cut| cut.number.is_multiple_of(STRAYS_EVERY)) {
            self.sweep(&index).await?;
        }
        Ok(done(&index, put.is_some(), released.len()))
    }

    /// What became of a put of the index without an answer. If the index names the cut, the put may have arrived at any
    /// time: the cut counts if not even now it would be too late, and is taken out otherwise. If not, the index is put
    /// with another content; then the late put finds that it is not the version that it was to replace.
    async fn settle(&self, clock: impl Fn() -> (TimestampMs, Duration)) -> Result<(), CutError> {
        let Some((cut, began)) = self.unsettled.get() else { return Ok(()) };
        let (mut index, mode) = read_index(&*self.store, self.home).await?;
        if index.closed_for.is_some() {
            self.unsettled.set(None);
            return Err(CutError::Closed { epoch: index.closed_for });
        }
        if index.has(cut.number) {
            if between(began, clock()) > self.within * PUT_WITHIN {
                self.withdraw(&cut).await?;
            }
        } else {
            // Some stores compare versions by content: a number that was never the next one makes it a new one.
            index.next = index.next.max(cut.number) + 1;
            match self.store.put(&self.home.cuts_key(), index.encode(), mode).await {
                Ok(_) => self.store.delete(vec![cut.key(self.home)]).await?,
                // Another's put, or the late one: the next call looks again.
                Err(StoreError::Taken { .. }) => {
                    return Err(RestoreError::Busy { key: self.home.cuts_key() }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.unsettled.set(None);
        Ok(())
    }

    /// Releases the cuts that are not kept any longer at `now`, also the newest once it is older than any cut is kept.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn release_old(&self, now: TimestampMs) -> Result<CutDone, CutError> {
        let (mut index, mode) = read_index(&*self.store, self.home).await?;
        if index.closed_for.is_some() {
            return Err(CutError::Closed { epoch: index.closed_for });
        }
        let mut released = self.outdated(&index, now).await?;
        let last = index.cuts.iter().find(|cut| !released.contains(&cut.number));
        if let Some(last) = last.filter(|last| now.since_ms(last.at) >= KEPT_MS)
            && released.len() + 1 == index.cuts.len()
            && !self.needed().await?.contains(&last.number)
        {
            released.insert(last.number);
        }
        self.release(&mut index, mode, &released).await?;
        Ok(done(&index, false, released.len()))
    }

    /// Releases all cuts that are not in use at `now`, as on a disk that is full.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn release_all(&self, now: TimestampMs) -> Result<usize, CutError> {
        let (mut index, mode) = read_index(&*self.store, self.home).await?;
        if index.closed_for.is_some() {
            return Err(CutError::Closed { epoch: index.closed_for });
        }
        let released = index.free(now, &self.needed().await?, |_| true);
        self.release(&mut index, mode, &released).await?;
        Ok(released.len())
    }

    async fn release(&self, index: &mut CutIndex, mode: PutMode, numbers: &BTreeSet<u64>) -> Result<(), CutError> {
        if numbers.is_empty() {
            return Ok(());
        }
        index.release(numbers);
        self.store.put(&self.home.cuts_key(), index.encode(), mode).await?;
        Ok(self.delete(numbers).await?)
    }

    /// Deletes the objects of cuts that are released.
    async fn delete(&self, numbers: &BTreeSet<u64>) -> Result<(), StoreError> {
        let keys = numbers.iter().map(|number| self.home.name(ObjectKind::Cut { number: *number }).key());
        self.store.delete(keys.collect()).await
    }

    /// The cuts that are not kept any longer at `now`. The catalogue is read only if there are any.
    async fn outdated(&self, index: &CutIndex, now: TimestampMs) -> Result<BTreeSet<u64>, CutError> {
        let outdated = index.outdated(now, &self.in_use);
        if outdated.is_empty() {
            return Ok(outdated);
        }
        Ok(index.outdated(now, &self.needed().await?))
    }

    /// Cuts that topics are copied from, as this cluster knows it and as a restore would find it: what the catalogue
    /// names is needed until it says that the copy is complete. A catalogue that nothing can be restored by names none.
    async fn needed(&self) -> Result<BTreeSet<u64>, CutError> {
        let catalogue = match self.catalogue().await {
            Err(CutError::Read(RestoreError::Unreadable { .. })) => None,
            catalogue => catalogue?,
        };
        let named = catalogue.iter().flat_map(|(catalogue, _)| needs(catalogue, self.home));
        Ok(named.chain(self.in_use.iter().copied()).collect())
    }

    /// Takes a cut out of the index again that was noted too late.
    async fn withdraw(&self, cut: &CutEntry) -> Result<(), CutError> {
        for _ in 0..CONFLICTS_MAX {
            let (mut index, mode) = read_index(&*self.store, self.home).await?;
            if index.closed_for.is_some() {
                return Err(CutError::Closed { epoch: index.closed_for });
            }
            index.cuts.retain(|kept| kept.number != cut.number);
            match self.store.put(&self.home.cuts_key(), index.encode(), mode).await {
                Ok(_) => return Ok(self.store.delete(vec![cut.key(self.home)]).await?),
                Err(StoreError::Taken { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RestoreError::Busy { key: self.home.cuts_key() }.into())
    }

    /// Is there neither a bundle nor a change of the catalogue after the newest cut? One request a lane.
    async fn is_quiet(&self, newest: &CutEntry, at: TimestampMs) -> Result<bool, CutError> {
        if at.since_ms(newest.at) >= QUIET_MS {
            return Ok(false);
        }
        if self.catalogue().await?.is_none_or(|(catalogue, _)| catalogue.revision != newest.catalogue) {
            return Ok(false);
        }
        let free = stream::iter(newest.lanes.clone()).map(async |lane| {
            match self.store.head(&self.home.bundle(lane.lane, lane.last.next()).key()).await {
                Ok(_) => Ok(false),
                Err(StoreError::NotFound { .. }) => Ok(true),
                Err(error) => Err(error),
            }
        });
        let free: Vec<bool> = free.buffered(LANES_AT_ONCE).try_collect().await?;
        Ok(free.into_iter().all(|free| free))
    }

    async fn catalogue(&self) -> Result<Option<(Catalogue, Bytes)>, CutError> {
        let key = self.home.name(ObjectKind::Catalogue).key();
        let got = match self.store.get(&key, None).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            got => got?,
        };
        let catalogue = Catalogue::decode(&got.body);
        let catalogue = catalogue.map_err(|error| RestoreError::Unreadable { key, reason: error.to_string() })?;
        Ok(Some((catalogue, got.body)))
    }

    /// Every lane that the catalogue names, then the catalogue again until it names no other lane. `None` if nothing
    /// was ever archived.
    ///
    /// A topic that was deleted meanwhile may be alive in a lane that was read and missing in the catalogue, which a
    /// restore would take for damage: then all is read again. A topic that is both created and cleaned away meanwhile
    /// has no rows, as their objects take a whole grace to go.
    async fn read(&self) -> Result<Option<State>, CutError> {
        let lanes = Lanes {
            store: Arc::clone(&self.store),
            indexes: self.indexes.clone(),
            home: self.home,
            fence: None,
            accept_damage: false,
            now: TimestampMs::NONE,
        };
        let mut read: BTreeMap<LaneId, LaneTail> = BTreeMap::new();
        let mut topics: BTreeSet<TopicId> = BTreeSet::new();
        let mut deleted = 0;
        loop {
            let Some((catalogue, body)) = self.catalogue().await? else { return Ok(None) };
            let found: BTreeSet<TopicId> = catalogue.topics.iter().map(|topic| topic.id).collect();
            if !topics.is_subset(&found) {
                deleted += 1;
                if deleted > CONFLICTS_MAX {
                    return Err(RestoreError::Busy { key: self.home.name(ObjectKind::Catalogue).key() }.into());
                }
                read.clear();
            }
            topics = found;
            let missing: Vec<LaneId> =
                catalogue.lanes.iter().copied().filter(|lane| !read.contains_key(lane)).collect();
            if missing.is_empty() {
                return Ok(Some(State { catalogue: (catalogue, body), lanes: read }));
            }
            let tails = stream::iter(missing).map(|lane| lanes.tail(lane, None));
            let tails: Vec<LaneTail> = tails.buffered(LANES_AT_ONCE).try_collect().await?;
            for tail in tails {
                match &tail.end {
                    LaneEnd::Open => {}
                    LaneEnd::Sealed => return Err(CutError::Closed { epoch: None }),
                    LaneEnd::Damaged { at, reason } => {
                        let (lane, at, reason) = (tail.lane, *at, reason.clone());
                        return Err(CutError::Damaged { lane, at, reason });
                    }
                }
                read.insert(tail.lane, tail);
            }
        }
    }

    /// Puts the cut's object under a number that is free.
    async fn put_cut(
        &self,
        state: &State,
        index: &CutIndex,
        at: TimestampMs,
        nonce: Nonce,
    ) -> Result<CutEntry, CutError> {
        let mut number = index.next;
        for step in (0..NUMBERS_MAX).map(|n| 1_u64 << n) {
            if number >= NUMBER_END {
                break;
            }
            let cut = Cut {
                home: self.home,
                number,
                nonce,
                at,
                catalogue: state.catalogue.1.clone(),
                lanes: state.lanes.values().map(lane_state).collect(),
            };
            let object = cut.encode().ok_or(CutError::Large { lanes: state.lanes.len() })?;
            let entry = CutEntry {
                number,
                at,
                size: object.len() as u64,
                catalogue: state.catalogue.0.revision,
                lanes: state.lanes.values().map(cut_lane).collect(),
                needs: needs(&state.catalogue.0, self.home).filter(|needed| *needed < number).collect(),
                held_until: None,
            };
            match self.store.put(&entry.key(self.home), object, PutMode::IfAbsent).await {
                Ok(_) => return Ok(entry),
                Err(StoreError::Taken { .. }) => number += step,
                Err(error) => return Err(error.into()),
            }
        }
        Err(RestoreError::Busy { key: self.home.cuts_key() }.into())
    }

    /// Deletes cuts that the index has passed and does not name: of makers that were second, or ended.
    async fn sweep(&self, index: &CutIndex) -> Result<(), CutError> {
        let listed = self.store.list(&format!("{}cuts/", self.home.prefix()), None, LIST_MAX).await?;
        let is_stray = |key: &ObjectKey| match ObjectName::parse(key).map(|object| object.kind) {
            Some(ObjectKind::Cut { number }) => {
                number < index.next && index.cuts.iter().all(|cut| cut.number != number)
            }
            _ => false,
        };
        let strays: Vec<ObjectKey> = listed.into_iter().map(|found| found.key).filter(is_stray).collect();
        if !strays.is_empty() {
            self.store.delete(strays).await?;
        }
        Ok(())
    }
}

fn done(index: &CutIndex, made: bool, released: usize) -> CutDone {
    CutDone { newest: index.cuts.last().cloned(), made, kept: index.cuts.len(), released }
}

fn lane_state(tail: &LaneTail) -> CutLaneState {
    CutLaneState {
        lane: tail.lane,
        manifest: tail.manifest.as_ref().map(crate::manifest::PublishedLane::encode),
        last: tail.last,
        last_crc: tail.last_crc,
        written: tail.written,
    }
}

fn cut_lane(tail: &LaneTail) -> CutLane {
    CutLane {
        lane: tail.lane,
        as_of: tail.manifest.as_ref().map_or(LogIndex(0), |published| published.as_of),
        last: tail.last,
    }
}

/// Numbers of the cuts of this home that topics are copied from, ascending.
fn needs(catalogue: &Catalogue, home: Home) -> impl Iterator<Item = u64> {
    let of_archived = catalogue.topics.iter().filter_map(|topic| topic.copy.as_deref());
    let others = catalogue.unarchived.iter().flat_map(|known| &known.topics);
    let copies = of_archived.chain(others.filter_map(|topic| topic.copy.as_deref()));
    let numbers: BTreeSet<u64> = copies.filter_map(|copy| copy.origin.cut_in(home)).collect();
    numbers.into_iter()
}

impl State {
    /// Would a cut of this state be the same as `cut`?
    fn is_in(&self, cut: &CutEntry, at: TimestampMs) -> bool {
        let lanes: Vec<CutLane> = self.lanes.values().map(cut_lane).collect();
        let same_ends = lanes.len() == cut.lanes.len()
            && lanes.iter().zip(&cut.lanes).all(|(a, b)| (a.lane, a.last) == (b.lane, b.last));
        let is_recent = at.since_ms(cut.at) < QUIET_MS;
        self.catalogue.0.revision == cut.catalogue && same_ends && (is_recent || lanes == cut.lanes)
    }
}
