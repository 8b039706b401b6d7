//! What must precede what in a restore, and the decisions between the steps.
//!
//! ```text
//! attempt    root read → the data directory names the attempt (id, epoch, source), durably
//! root       root PUT if it is the version that was judged: epoch + 1, `from`, `attempt`; `catalogue` is still the
//!              source's → a broker of the source that starts, or reads the root again, stops
//! lane       manifest PUT if it is the version read: closed, so no later publication and no later licence to delete
//!              → bundles read up to the first free key → seal PUT if absent there (a bundle came first: read it)
//! lanes      every lane of the source's catalogue is sealed → the catalogue read again, until it names no other lane
//! cut        only to go back: every lane of the source is sealed → the source's index of cuts PUT if it is the version
//!              read: closed, so no later release of the cut → the cut is read, lanes and catalogue as they are in it
//! home       nothing of the source changes any more → the plan, equal in every attempt → pages → lane manifests →
//!              catalogue, all in the home of the new epoch
//! switch     root PUT if it is the version of this attempt: `catalogue` is the new home's
//!              → the data directory knows that the switch was made → a broker serves
//! ```
//!
//! Up to the switch nothing reads the new home, and each step may be repeated: a restore that was killed is run again
//! with the same data directory and finds what it did. Another restore finds the root taken and is refused, or takes
//! over with an epoch of its own from the same source; the switch of the first then meets another version of the root.
//! After the switch everything that the new epoch needs is in the bucket, so the data directory may be lost again.
//!
//! A broker of the source that was only cut off may write until the seal: what it has put into the bucket before
//! counts. What it puts later lies where nothing reads it. Deletes that it was allowed before its manifest was closed
//! concern objects that the closed manifest does not name.
//!
//! Pure. Everything is a *message*.

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, LogIndex, Term, TimestampMs};
use uuid::Uuid;

use crate::follow::{RootError, served_home};
use crate::format::{DataIndex, DataKind, Seal};
use crate::keys::{ClusterName, Home, LineageEpoch, ObjectKind, Sequence};
use crate::manifest::{PublishedLane, Root};

/// Leader epochs of a restored cluster begin at its lineage epoch times two to this power.
pub const EPOCH_BASE_BITS: u32 = 20;
/// Producer ids of a restored cluster begin at its lineage epoch times two to this power.
pub const PRODUCER_ID_BITS: u32 = 40;
/// The last lineage epoch whose leader epochs fit into Kafka's 32 bits.
pub const EPOCH_MAX: LineageEpoch = LineageEpoch((1 << (31 - EPOCH_BASE_BITS)) - 1);

/// A restore, as the data directory it prepares names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Random.
    pub id: Uuid,
    /// The home that it reads.
    pub source: Home,
    /// The epoch that it makes.
    pub epoch: LineageEpoch,
    /// The unfinished restore that it takes the root from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Uuid>,
    /// The cut of the source that it goes back to; `None`: all that was archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<u64>,
}

/// Why a restore does not begin, or ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreRefusal {
    #[error(
        "another restore of cluster {name} is under way: attempt {attempt} makes epoch {epoch} since {}; let it end, run it \
         again with its own --data-dir, or give --take-over if it never will", began.0
    )]
    Underway {
        name: ClusterName,
        attempt: Uuid,
        epoch: LineageEpoch,
        /// Milliseconds since 1970.
        began: TimestampMs,
    },
    #[error(
        "cluster {name} went on without this restore: it is in epoch {found}, and this attempt restores epoch {source_epoch} \
         into epoch {own}; give an empty --data-dir to restore what is there now"
    )]
    Overtaken { name: ClusterName, found: LineageEpoch, source_epoch: LineageEpoch, own: LineageEpoch },
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("cluster {name} was restored {EPOCH_MAX} times, and there are no leader epochs left for another one")]
    Exhausted { name: ClusterName },
}

/// What to do about the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootStep {
    /// Put this one over the version judged.
    Raise(Box<Root>),
    /// This attempt has the root.
    Held,
    /// This attempt has made the switch.
    Switched,
}

/// The attempt to note in the data directory before anything is written to the bucket.
///
/// # Errors
/// Another restore is under way, and `take_over` is not asked for.
pub fn begin(root: &Root, id: Uuid, take_over: bool) -> Result<Attempt, RestoreRefusal> {
    let (source, name) = (served_home(root)?, root.name.clone());
    let is_complete = source == root.home();
    if !is_complete && !take_over {
        let attempt = root.attempt.unwrap_or_default();
        return Err(RestoreRefusal::Underway { name, attempt, epoch: root.epoch, began: root.began });
    }
    if root.epoch >= EPOCH_MAX {
        return Err(RestoreRefusal::Exhausted { name });
    }
    let over = root.attempt.filter(|_| !is_complete);
    Ok(Attempt { id, source, epoch: LineageEpoch(root.epoch.0 + 1), over, cut: None })
}

impl Attempt {
    /// The home that it writes.
    #[must_use]
    pub fn home(&self) -> Home {
        Home { cluster: self.source.cluster, epoch: self.epoch }
    }

    /// What to do about the root as it is now.
    ///
    /// # Errors
    /// Another restore has it.
    pub fn on_root(&self, found: &Root, now: TimestampMs) -> Result<RootStep, RestoreRefusal> {
        let (served, name) = (served_home(found)?, found.name.clone());
        let is_complete = served == found.home();
        if found.attempt == Some(self.id) && found.home() == self.home() {
            return Ok(if is_complete { RootStep::Switched } else { RootStep::Held });
        }
        if served != self.source {
            let (own, source_epoch) = (self.epoch, self.source.epoch);
            return Err(RestoreRefusal::Overtaken { name, found: served.epoch, source_epoch, own });
        }
        let is_taken_over = found.attempt == self.over && found.epoch < self.epoch;
        if !is_complete && !is_taken_over {
            let attempt = found.attempt.unwrap_or_default();
            return Err(RestoreRefusal::Underway { name, attempt, epoch: found.epoch, began: found.began });
        }
        Ok(RootStep::Raise(Box::new(Root {
            epoch: self.epoch,
            from: Some(self.source),
            attempt: Some(self.id),
            began: now,
            ..found.clone()
        })))
    }

    /// The root that makes the switch, over `held`, the root of this attempt.
    #[must_use]
    pub fn switched(&self, held: &Root) -> Root {
        assert_eq!((held.attempt, held.home()), (Some(self.id), self.home()), "the root is of this attempt");
        Root { catalogue: self.home().name(ObjectKind::Catalogue).key(), ..held.clone() }
    }

    /// A lane's manifest with which no later one can be published; `None` if the one found is closed.
    #[must_use]
    pub fn closing(&self, lane: LaneId, found: Option<PublishedLane>, now: TimestampMs) -> Option<PublishedLane> {
        let open = found.unwrap_or_else(|| never_published(self.source, lane, now));
        open.closed_for.is_none().then_some(PublishedLane { closed_for: Some(self.epoch), ..open })
    }

    /// The seal after the bundle `last`, whose index has the checksum `last_crc`.
    #[must_use]
    pub fn seal(&self, lane: LaneId, last: Sequence, last_crc: u32, now: TimestampMs) -> DataIndex {
        DataIndex {
            kind: DataKind::Bundle,
            home: self.source,
            lane,
            sequence: last.next(),
            term: Term(0),
            log_index: LogIndex(0),
            previous: last_crc,
            written: now,
            partitions: Vec::new(),
            events: Vec::new(),
            seal: Some(Seal { next_epoch: self.epoch, last }),
            cut: None,
            producers: None,
        }
    }
}

/// What a lane that has published nothing would have published at its beginning.
#[must_use]
pub(super) fn never_published(home: Home, lane: LaneId, now: TimestampMs) -> PublishedLane {
    PublishedLane {
        home,
        lane,
        term: Term(0),
        as_of: LogIndex(0),
        follow_from: Sequence::NONE.next(),
        last_crc: 0,
        written: now,
        pages: Vec::new(),
        objects: Some(Vec::new()),
        pins: Vec::new(),
        closed_for: None,
    }
}

/// What lies at a lane's next bundle key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyContent {
    /// The next bundle: take it and look at the key after it.
    Bundle,
    /// A seal: the lane has ended before it.
    Seal,
    /// An object of another lane or cluster.
    Foreign,
}

/// Judges an index found at the key of bundle `sequence` of a lane.
#[must_use]
pub fn judge_key(home: Home, lane: LaneId, sequence: Sequence, found: &DataIndex) -> KeyContent {
    let own = (found.home, found.lane, found.sequence, found.kind) == (home, lane, sequence, DataKind::Bundle);
    match found.seal {
        Some(seal) if own && seal.last.next() == sequence => KeyContent::Seal,
        None if own => KeyContent::Bundle,
        _ => KeyContent::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ClusterId;

    const NOW: TimestampMs = TimestampMs(7);

    fn first() -> Root {
        let name = ClusterName::new("tidewater").expect("legal");
        Root::new(name, ClusterId(Uuid::from_u128(9)), TimestampMs(1))
    }

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn raised(attempt: &Attempt, found: &Root) -> Root {
        match attempt.on_root(found, NOW) {
            Ok(RootStep::Raise(root)) => *root,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn an_attempt_finds_its_own_root_at_every_step() {
        let attempt = begin(&first(), id(1), false).expect("begins");
        assert_eq!((attempt.epoch, attempt.source, attempt.over), (LineageEpoch(2), first().home(), None));
        let held = raised(&attempt, &first());
        assert_eq!((held.epoch, held.from, held.attempt), (LineageEpoch(2), Some(first().home()), Some(id(1))));
        assert_eq!(held.catalogue, first().catalogue, "readers stay with the source");
        assert_eq!(attempt.on_root(&held, NOW), Ok(RootStep::Held));
        let switched = attempt.switched(&held);
        assert_eq!(attempt.on_root(&switched, NOW), Ok(RootStep::Switched));
        assert_eq!(served_home(&switched), Ok(attempt.home()));
        let next = begin(&switched, id(2), false).expect("the restored cluster is lost, too");
        assert_eq!((next.source, next.epoch), (attempt.home(), LineageEpoch(3)));
    }

    #[test]
    fn of_two_attempts_one_has_the_root() {
        let (a, b) = (begin(&first(), id(1), false).expect("begins"), begin(&first(), id(2), false).expect("begins"));
        let held = raised(&a, &first());
        let refused = |attempt: &Attempt, root: &Root| attempt.on_root(root, NOW).expect_err("is refused");
        assert!(matches!(refused(&b, &held), RestoreRefusal::Underway { attempt, .. } if attempt == id(1)));
        let switched = a.switched(&held);
        assert!(matches!(refused(&b, &switched), RestoreRefusal::Overtaken { .. }));
        assert!(matches!(begin(&held, id(3), false), Err(RestoreRefusal::Underway { .. })));

        let over = begin(&held, id(3), true).expect("takes over");
        assert_eq!((over.epoch, over.source, over.over), (LineageEpoch(3), first().home(), Some(id(1))));
        let taken = raised(&over, &held);
        assert!(matches!(refused(&a, &taken), RestoreRefusal::Underway { attempt, .. } if attempt == id(3)));
        assert!(matches!(refused(&over, &switched), RestoreRefusal::Overtaken { .. }), "the switch came first");
        assert_eq!(over.on_root(&over.switched(&taken), NOW), Ok(RootStep::Switched));
    }

    #[test]
    fn leader_epochs_end_with_the_last_lineage_epoch() {
        let base = |epoch: u32| i32::try_from(u64::from(epoch) << EPOCH_BASE_BITS);
        assert!(base(EPOCH_MAX.0).is_ok() && base(EPOCH_MAX.0 + 1).is_err());
        let last = Root { epoch: EPOCH_MAX, ..first() };
        let last = Root { catalogue: last.home().name(ObjectKind::Catalogue).key(), ..last };
        assert!(matches!(begin(&last, id(1), false), Err(RestoreRefusal::Exhausted { .. })));
    }

    #[test]
    fn what_lies_at_a_bundles_key_is_told_apart() {
        let attempt = begin(&first(), id(1), false).expect("begins");
        let (home, lane) = (first().home(), LaneId(3));
        let seal = attempt.seal(lane, Sequence(4), 9, NOW);
        assert_eq!(judge_key(home, lane, Sequence(5), &seal), KeyContent::Seal);
        assert_eq!(judge_key(home, LaneId(4), Sequence(5), &seal), KeyContent::Foreign);
        let bundle = DataIndex { seal: None, ..seal.clone() };
        assert_eq!(judge_key(home, lane, Sequence(5), &bundle), KeyContent::Bundle);
        assert_eq!(judge_key(home, lane, Sequence(6), &bundle), KeyContent::Foreign);
        assert_eq!(judge_key(attempt.home(), lane, Sequence(5), &bundle), KeyContent::Foreign);
    }
}
