//! Which cuts a home has: [`CutIndex`], JSON, moved by put-if-match.
//!
//! Owns: its content and form (`FORMAT.md` §8), reading it, closing it. Does not own: what is added to it and taken out
//! (`make`).

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, LogIndex, TimestampMs};

use super::thin::thin;
use crate::format::FORMAT_VERSION;
use crate::keys::{Home, LineageEpoch, ObjectKey, ObjectKind, Sequence};
use crate::manifest::{PointerError, from_json, to_json};
use crate::restore::RestoreError;
use crate::store::{ObjectStore, PutMode, StoreError};

const WHAT: &str = "tidewater cuts";
/// How often a put that met another writer is tried again.
pub(super) const CONFLICTS_MAX: usize = 16;
/// Numbers of cuts are below this.
pub(super) const NUMBER_END: u64 = u64::MAX / 2;

/// What lies at `<cluster>/<epoch>/cuts/index`. A *message*.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutIndex {
    pub what: String,
    /// Version of all formats.
    pub format: u16,
    pub home: Home,
    /// Greater than the number of every cut that was ever in it.
    pub next: u64,
    /// By number.
    pub cuts: Vec<CutEntry>,
    /// A restore of this home has begun: no cut is added or released any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_for: Option<LineageEpoch>,
}

/// A cut that is kept. A *message*.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutEntry {
    pub number: u64,
    /// When its last read was over, by its maker's clock: nothing that was archived later is in it. All that was
    /// archived when its making began is.
    pub at: TimestampMs,
    /// Bytes of the cut's object.
    pub size: u64,
    /// Revision of the catalogue in it.
    pub catalogue: u64,
    /// By lane.
    pub lanes: Vec<CutLane>,
    /// Numbers of cuts of this home that topics are copied from which are not complete in this cut, ascending: a
    /// restore to it goes on with them. All are below its own number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<u64>,
    /// Someone begins a copy from it: until then it stays, though no maker knows of the copy yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<TimestampMs>,
}

/// How far a cut reaches in a lane. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutLane {
    pub lane: LaneId,
    /// Log index that the lane manifest in the cut is as of, 0 if there was none: what is to be deleted by a later
    /// intent may be reached by the cut.
    pub as_of: LogIndex,
    /// The last bundle that is in the cut; 0 if there is none.
    pub last: Sequence,
}

impl CutIndex {
    /// Of a home without cuts.
    #[must_use]
    pub fn new(home: Home) -> Self {
        let (what, format) = (WHAT.to_owned(), FORMAT_VERSION);
        Self { what, format, home, next: 1, cuts: Vec::new(), closed_for: None }
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        let object = to_json(self);
        assert_eq!(Self::decode(&object).as_ref(), Ok(self), "an index of cuts reads back as it was written");
        object
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`PointerError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PointerError> {
        const INDEX: &str = "index of cuts";
        let index: Self = from_json(INDEX, bytes)?;
        let malformed = |detail: &str| PointerError::Malformed { what: INDEX, detail: detail.to_owned() };
        if index.what != WHAT {
            return Err(malformed(&format!("it says it is {:?}", index.what)));
        }
        if index.next > NUMBER_END {
            return Err(malformed("the next number is beyond all that are given"));
        }
        let numbers = index.cuts.is_sorted_by(|a, b| a.number < b.number);
        if !numbers || index.cuts.last().is_some_and(|last| last.number >= index.next) {
            return Err(malformed("numbers of cuts are out of order"));
        }
        if !index.cuts.iter().all(|cut| cut.lanes.is_sorted_by(|a, b| a.lane < b.lane)) {
            return Err(malformed("lanes of a cut are out of order"));
        }
        let needs_earlier = |cut: &CutEntry| cut.needs.is_sorted() && cut.needs.last() < Some(&cut.number);
        if !index.cuts.iter().all(needs_earlier) {
            return Err(malformed("a cut needs cuts out of order, or one that is no earlier cut"));
        }
        Ok(index)
    }

    /// The last intent to delete, in this lane, that no cut is in the way of; `None`: no cut is in the way of any.
    #[must_use]
    pub fn horizon(&self, lane: LaneId) -> Option<LogIndex> {
        let in_lane = |cut: &CutEntry| cut.lanes.iter().find(|found| found.lane == lane).map(|found| found.as_of);
        self.cuts.iter().filter_map(in_lane).min()
    }

    /// The newest cut with nothing that was archived after `at`; the newest of all without `at`.
    #[must_use]
    pub fn find(&self, at: Option<TimestampMs>) -> Option<&CutEntry> {
        self.cuts.iter().rev().find(|cut| at.is_none_or(|at| cut.at <= at))
    }

    /// The cuts that are not kept any longer at `now`, but for those `in_use` or held and those that a kept cut needs.
    #[must_use]
    pub fn outdated(&self, now: TimestampMs, in_use: &BTreeSet<u64>) -> BTreeSet<u64> {
        let cuts: Vec<(u64, TimestampMs)> = self.cuts.iter().map(|cut| (cut.number, cut.at)).collect();
        let outdated: BTreeSet<u64> = thin(&cuts, now).into_iter().collect();
        self.free(now, in_use, |cut| outdated.contains(&cut.number))
    }

    /// The cuts that `may_go`, but for those `in_use` or held at `now` and those that a cut which stays needs.
    pub(super) fn free(
        &self,
        now: TimestampMs,
        in_use: &BTreeSet<u64>,
        may_go: impl Fn(&CutEntry) -> bool,
    ) -> BTreeSet<u64> {
        let (mut needed, mut free) = (in_use.clone(), BTreeSet::new());
        // What a cut needs is earlier than it.
        for cut in self.cuts.iter().rev() {
            let is_held = cut.held_until.is_some_and(|until| now < until);
            if may_go(cut) && !is_held && !needed.contains(&cut.number) {
                free.insert(cut.number);
            } else {
                needed.extend(&cut.needs);
            }
        }
        free
    }

    /// Is that cut kept?
    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        self.cuts.iter().any(|cut| cut.number == number)
    }

    /// Takes cuts out.
    pub fn release(&mut self, numbers: &BTreeSet<u64>) {
        self.cuts.retain(|cut| !numbers.contains(&cut.number));
    }
}

/// The index of a home with the condition of the next put over it. A home that has none has no cuts.
///
/// # Errors
/// What the store says, or that it does not decode.
pub async fn read_index(store: &dyn ObjectStore, home: Home) -> Result<(CutIndex, PutMode), RestoreError> {
    let key = home.cuts_key();
    let got = match store.get(&key, None).await {
        Err(StoreError::NotFound { .. }) => return Ok((CutIndex::new(home), PutMode::IfAbsent)),
        got => got?,
    };
    let index = decode_of(home, &key, &got.body)?;
    Ok((index, PutMode::IfMatch(got.etag)))
}

fn decode_of(home: Home, key: &ObjectKey, body: &[u8]) -> Result<CutIndex, RestoreError> {
    let unreadable = |reason: String| RestoreError::Unreadable { key: key.clone(), reason };
    let index = CutIndex::decode(body).map_err(|error| unreadable(error.to_string()))?;
    if index.home == home {
        return Ok(index);
    }
    Err(unreadable(format!("it says that it is of epoch {} of cluster {}", index.home.epoch, index.home.cluster)))
}

/// Ends the making and releasing of cuts in a home that a restore goes on from; the cuts that stay.
///
/// # Errors
/// As [`read_index`]; [`RestoreError::Busy`].
pub async fn close_index(store: &dyn ObjectStore, home: Home, epoch: LineageEpoch) -> Result<CutIndex, RestoreError> {
    for _ in 0..CONFLICTS_MAX {
        let (mut index, mode) = read_index(store, home).await?;
        if index.closed_for.is_some() {
            return Ok(index);
        }
        index.closed_for = Some(epoch);
        match store.put(&home.cuts_key(), index.encode(), mode).await {
            // Whether it was this put is read next.
            Ok(_) | Err(StoreError::Taken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(RestoreError::Busy { key: home.cuts_key() })
}

/// Keeps a cut until then at least, for a copy that is about to begin; `false` if it is not kept any more. After a
/// restore nothing is released, and nothing needs to be held.
///
/// # Errors
/// As [`read_index`]; [`RestoreError::Busy`].
pub async fn hold_cut(
    store: &dyn ObjectStore,
    home: Home,
    number: u64,
    until: TimestampMs,
) -> Result<bool, RestoreError> {
    for _ in 0..CONFLICTS_MAX {
        let (mut index, mode) = read_index(store, home).await?;
        let is_closed = index.closed_for.is_some();
        let Some(cut) = index.cuts.iter_mut().find(|cut| cut.number == number) else { return Ok(false) };
        if is_closed || cut.held_until.is_some_and(|held| held >= until) {
            return Ok(true);
        }
        cut.held_until = Some(until);
        match store.put(&home.cuts_key(), index.encode(), mode).await {
            // Whether it was this put is read next.
            Ok(_) | Err(StoreError::Taken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(RestoreError::Busy { key: home.cuts_key() })
}

/// Releases the oldest cut that has the lane, unless it is the newest of all; the cut. `None` also after a restore. It
/// goes even if a topic is copied from it: what it holds back is as much as the lane's state has room for, and no later
/// cut holds back any of it.
///
/// # Errors
/// As [`read_index`]; [`RestoreError::Busy`].
pub async fn release_oldest(
    store: &dyn ObjectStore,
    home: Home,
    lane: LaneId,
) -> Result<Option<CutEntry>, RestoreError> {
    for _ in 0..CONFLICTS_MAX {
        let (mut index, mode) = read_index(store, home).await?;
        let has_lane = |cut: &CutEntry| cut.lanes.iter().any(|found| found.lane == lane);
        let Some(at) = index.cuts.iter().position(has_lane) else { return Ok(None) };
        if index.closed_for.is_some() || at + 1 == index.cuts.len() {
            return Ok(None);
        }
        let oldest = index.cuts.remove(at);
        match store.put(&home.cuts_key(), index.encode(), mode).await {
            Ok(_) => {
                store.delete(vec![oldest.key(home)]).await?;
                return Ok(Some(oldest));
            }
            Err(StoreError::Taken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(RestoreError::Busy { key: home.cuts_key() })
}

impl CutEntry {
    /// Where the cut lies.
    #[must_use]
    pub fn key(&self, home: Home) -> ObjectKey {
        home.name(ObjectKind::Cut { number: self.number }).key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ClusterId;

    fn index() -> CutIndex {
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch(3) };
        let entry = |number: u64, as_of: &[(u32, u64)]| CutEntry {
            number,
            at: TimestampMs(number as i64 * 60_000),
            size: 5,
            catalogue: 1,
            lanes: as_of
                .iter()
                .map(|(lane, as_of)| CutLane { lane: LaneId(*lane), as_of: LogIndex(*as_of), last: Sequence(1) })
                .collect(),
            needs: Vec::new(),
            held_until: None,
        };
        let cuts = vec![entry(4, &[(1, 70), (2, 8)]), entry(5, &[(1, 90), (2, 9), (3, 0)])];
        CutIndex { next: 6, cuts, ..CutIndex::new(home) }
    }

    #[test]
    fn the_horizon_of_a_lane_is_its_oldest_cuts_and_a_lane_that_came_later_has_its_own() {
        let index = index();
        let horizon = |lane| index.horizon(LaneId(lane)).map(|found| found.0);
        assert_eq!([1, 2, 3, 4].map(horizon), [Some(70), Some(8), Some(0), None]);
    }

    #[test]
    fn a_time_finds_the_newest_cut_before_it() {
        let index = index();
        let found = |at: Option<i64>| index.find(at.map(TimestampMs)).map(|cut| cut.number);
        assert_eq!([None, Some(300_000), Some(299_999), Some(239_999)].map(found), [Some(5), Some(5), Some(4), None]);
    }

    #[test]
    fn what_a_copy_is_taken_from_stays_with_every_cut_that_has_the_copy() {
        let mut index = index();
        let cut = index.cuts[0].clone();
        // Of the same minute: all but the first and the newest are outdated.
        index.cuts = (4..9).map(|number| CutEntry { number, ..cut.clone() }).collect();
        index.next = 9;
        let outdated = |index: &CutIndex, in_use: &[u64]| -> Vec<u64> {
            index.outdated(cut.at, &in_use.iter().copied().collect()).into_iter().collect()
        };
        assert_eq!(outdated(&index, &[]), [5, 6, 7]);
        assert_eq!(outdated(&index, &[6]), [5, 7]);
        index.cuts[2].held_until = Some(TimestampMs(cut.at.0 + 1));
        assert_eq!(outdated(&index, &[]), [5, 7]);
        index.cuts[2].held_until = Some(cut.at);
        assert_eq!(outdated(&index, &[]), [5, 6, 7]);
        // Copies of cut 7 and of cut 6 were under way at cuts 8 and 7.
        index.cuts[4].needs = vec![7];
        index.cuts[3].needs = vec![6];
        assert_eq!(outdated(&index, &[]), [5]);
        assert_eq!(CutIndex::decode(&index.encode()), Ok(index.clone()));
        // A cut that goes itself holds nothing.
        index.cuts[4].needs.clear();
        assert_eq!(outdated(&index, &[]), [5, 6, 7]);
        index.release(&BTreeSet::from([5, 6, 7]));
        assert_eq!(index.cuts.iter().map(|cut| cut.number).collect::<Vec<_>>(), [4, 8]);
    }

    #[test]
    fn numbers_out_of_order_and_newer_formats_are_refused() {
        let refused = |change: fn(&mut CutIndex)| {
            let mut index = index();
            change(&mut index);
            CutIndex::decode(&to_json(&index)).expect_err("refused").to_string()
        };
        assert!(refused(|index| index.next = 5).contains("out of order"));
        assert!(refused(|index| index.cuts.swap(0, 1)).contains("out of order"));
        assert!(refused(|index| index.cuts[1].needs = vec![5]).contains("no earlier cut"));
        assert!(refused(|index| index.cuts[1].needs = vec![3, 2]).contains("out of order"));
        assert!(refused(|index| index.next = u64::MAX).contains("beyond all"));
        assert!(refused(|index| index.what = "root".to_owned()).contains("it says it is"));
        assert!(refused(|index| index.format = 99).contains("update this one"));
        assert_eq!(CutIndex::decode(&index().encode()), Ok(index()));
    }

    #[test]
    fn the_sample_is_read_and_written_again_as_it_was() {
        let sample = include_bytes!("../../../tests/golden/tiering/cuts_v1.json");
        assert_eq!(CutIndex::decode(sample).expect("readable").encode(), sample[..]);
    }
}
