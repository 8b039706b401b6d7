//! How far the rebuilds of a shard are, for operators. Owns the figures; who rebuilds what is its caller's.
//! Shard-local.
//!
//! Rebuilds that follow each other within [`GAP`] count as one: after the loss of a disk all lanes of a broker are
//! rebuilt, and the operator waits for the last of them. Bytes that are still to be copied are estimates: a leader
//! counts them when a lane waits for its turn ([`Forecast`]) and again when its copy begins.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidewater_storage::env::Mono;
use tidewater_storage::model::{LaneId, NodeId};

/// A rebuild that begins later than this after the last one counts as another one.
const GAP: Duration = Duration::from_secs(30);

/// What a leader expects that a copy of a lane takes. A message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    pub partitions: u64,
    /// Bytes of batches that are copied.
    pub bytes: u64,
    /// Bytes of batches in the bucket, which are not copied.
    pub bucket_bytes: u64,
}

/// How far the copy of one lane is. Shard-local.
#[derive(Debug, Default)]
pub struct CopyProgress {
    pub round: Cell<u32>,
    /// Partitions that were pulled at least once, and how many the lane has.
    pub partitions: Cell<(u64, u64)>,
    /// Bytes of batches pulled, and an estimate of what there is to pull.
    pub bytes: Cell<(u64, u64)>,
    /// Bytes of the lane in the bucket, which are not copied.
    pub bucket_bytes: Cell<u64>,
    /// Bytes pulled by this try and by those before it.
    pulled: Cell<u64>,
}

/// A lane that is being rebuilt or waits for it.
#[derive(Debug, Default)]
struct Lane {
    copy: Rc<CopyProgress>,
    /// The broker it is copied from.
    from: Option<NodeId>,
    /// Why it cannot be copied now.
    waits: Option<String>,
}

/// The rebuilds of a shard.
#[derive(Debug, Default)]
pub struct RebuildProgress {
    lanes: RefCell<BTreeMap<LaneId, Lane>>,
    /// Of the present rebuild: when it began, and what is done of it.
    begun: Cell<Option<Mono>>,
    finished_at: Cell<Option<Mono>>,
    done: Cell<Done>,
    /// Since the start of the process.
    counts: Cell<Done>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Done {
    replicas: u64,
    /// Bytes of their last, successful copy.
    copied_bytes: u64,
    bucket_bytes: u64,
    /// Bytes pulled, also by copies that failed.
    pulled_bytes: u64,
}

/// The rebuild of a broker's replicas at one moment. A message; JSON between brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RebuildFacts {
    /// Replicas of lanes that are rebuilt.
    pub replicas_done: u64,
    /// Those, and the ones that are being copied or wait.
    pub replicas: u64,
    /// Bytes of batches copied.
    pub copied_bytes: u64,
    /// Bytes of batches to be copied in all, as far as the leaders have counted.
    pub bytes: u64,
    /// Bytes of batches of these replicas that stay in the bucket.
    pub bucket_bytes: u64,
    /// For how long it has been going on.
    pub since_ms: u64,
    /// Those that are not rebuilt yet.
    pub lanes: Vec<LaneRebuild>,
}

/// A replica that is being copied or waits. A message; JSON between brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneRebuild {
    pub lane: u32,
    /// The broker it is copied from; `None` while it waits.
    pub from: Option<i32>,
    /// Each round brings what changed during the one before it; 0 before the first.
    pub round: u32,
    pub partitions_done: u64,
    pub partitions: u64,
    pub copied_bytes: u64,
    pub bytes: u64,
    pub bucket_bytes: u64,
    /// Why it cannot be copied now.
    pub waits: Option<String>,
}

/// Totals since the start of the process. A message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RebuildCounts {
    pub replicas: u64,
    /// Also those of copies that failed.
    pub copied_bytes: u64,
}

impl CopyProgress {
    /// A copy begins, from nothing.
    pub fn begin(&self, forecast: Forecast) {
        self.partitions.set((0, forecast.partitions));
        self.bytes.set((0, forecast.bytes));
        self.bucket_bytes.set(forecast.bucket_bytes);
    }

    /// More bytes of batches came. Returns how many have come since the copy began.
    pub fn add_bytes(&self, bytes: u64) -> u64 {
        let (before, all) = self.bytes.get();
        let done = before + bytes;
        self.bytes.set((done, all.max(done)));
        self.pulled.set(self.pulled.get() + bytes);
        done
    }
}

impl RebuildProgress {
    /// These lanes have to be rebuilt; others that did not have their turn no longer have to.
    pub fn set_waiting<'a>(&self, lanes: impl Iterator<Item = &'a LaneId> + Clone, now: Mono) {
        let mut held = self.lanes.borrow_mut();
        held.retain(|lane, known| known.copy.round.get() > 0 || lanes.clone().any(|waits| waits == lane));
        for lane in lanes {
            held.entry(*lane).or_default();
        }
        let over = self.finished_at.get().is_none_or(|at| now.since(at) >= GAP);
        if held.is_empty() && over {
            self.begun.set(None);
        } else if self.begun.get().is_none() && !held.is_empty() {
            self.begun.set(Some(now));
            self.done.take();
        }
    }

    /// Lanes that wait and of which no leader has counted the bytes.
    #[must_use]
    pub fn unknown(&self) -> Vec<LaneId> {
        let lanes = self.lanes.borrow();
        let unknown = lanes.iter().filter(|(_, lane)| lane.copy.partitions.get().1 == 0 && lane.copy.round.get() == 0);
        unknown.map(|(lane, _)| *lane).collect()
    }

    /// A leader has counted what a lane holds whose copy has not begun.
    pub fn expect(&self, lane: LaneId, forecast: Forecast) {
        if let Some(lane) = self.lanes.borrow().get(&lane).filter(|lane| lane.copy.round.get() == 0) {
            lane.copy.begin(forecast);
        }
    }

    /// The figures of a lane, for its copy.
    #[must_use]
    pub fn of(&self, lane: LaneId) -> Rc<CopyProgress> {
        Rc::clone(&self.lanes.borrow_mut().entry(lane).or_default().copy)
    }

    /// The lane is copied from a broker now.
    pub fn copies(&self, lane: LaneId, from: NodeId) {
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes.entry(lane).or_default();
        (lane.from, lane.waits) = (Some(from), None);
    }

    /// The lane cannot be copied now; it is tried again.
    pub fn waits(&self, lane: LaneId, why: String) {
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes.entry(lane).or_default();
        (lane.from, lane.waits) = (None, Some(why));
    }

    /// The lane has been rebuilt.
    pub fn finish(&self, lane: LaneId, now: Mono) {
        let Some(lane) = self.lanes.borrow_mut().remove(&lane) else { return };
        self.finished_at.set(Some(now));
        for total in [&self.done, &self.counts] {
            let mut done = total.get();
            done.replicas += 1;
            done.copied_bytes += lane.copy.bytes.get().0;
            done.bucket_bytes += lane.copy.bucket_bytes.get();
            done.pulled_bytes += lane.copy.pulled.get();
            total.set(done);
        }
    }

    /// `None` while nothing is being rebuilt.
    #[must_use]
    pub fn facts(&self, now: Mono) -> Option<RebuildFacts> {
        let (begun, lanes) = (self.begun.get()?, self.lanes.borrow());
        if lanes.is_empty() {
            return None;
        }
        let done = self.done.get();
        let mut facts = RebuildFacts {
            replicas_done: done.replicas,
            replicas: done.replicas + lanes.len() as u64,
            copied_bytes: done.copied_bytes,
            bytes: done.copied_bytes,
            bucket_bytes: done.bucket_bytes,
            since_ms: u64::try_from(now.since(begun).as_millis()).unwrap_or(u64::MAX),
            lanes: lanes.iter().map(|(id, lane)| lane.facts(*id)).collect(),
        };
        for lane in &facts.lanes {
            facts.copied_bytes += lane.copied_bytes;
            facts.bytes += lane.bytes;
            facts.bucket_bytes += lane.bucket_bytes;
        }
        Some(facts)
    }

    #[must_use]
    pub fn counts(&self) -> RebuildCounts {
        let (done, lanes) = (self.counts.get(), self.lanes.borrow());
        let under_way: u64 = lanes.values().map(|lane| lane.copy.pulled.get()).sum();
        RebuildCounts { replicas: done.replicas, copied_bytes: done.pulled_bytes + under_way }
    }
}

impl Lane {
    fn facts(&self, lane: LaneId) -> LaneRebuild {
        let ((partitions_done, partitions), (copied_bytes, bytes)) =
            (self.copy.partitions.get(), self.copy.bytes.get());
        LaneRebuild {
            lane: lane.0,
            from: self.from.map(|from| from.0),
            round: self.copy.round.get(),
            partitions_done,
            partitions,
            copied_bytes,
            bytes,
            bucket_bytes: self.copy.bucket_bytes.get(),
            waits: self.waits.clone(),
        }
    }
}

impl RebuildFacts {
    /// Adds another shard of the same broker.
    pub fn add(&mut self, other: Self) {
        self.replicas_done += other.replicas_done;
        self.replicas += other.replicas;
        self.copied_bytes = self.copied_bytes.saturating_add(other.copied_bytes);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.bucket_bytes = self.bucket_bytes.saturating_add(other.bucket_bytes);
        self.since_ms = self.since_ms.max(other.since_ms);
        self.lanes.extend(other.lanes);
    }

    /// How much longer it takes at the rate so far, in ms; `None` while there is no rate.
    #[must_use]
    pub fn left_ms(&self) -> Option<u64> {
        let left = self.bytes.saturating_sub(self.copied_bytes);
        let by_rate = u128::from(self.since_ms) * u128::from(left);
        let ms = by_rate.checked_div(u128::from(self.copied_bytes))?;
        Some(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn at(seconds: u64) -> Mono {
        Mono::ZERO + Duration::from_secs(seconds)
    }

    fn forecast(bytes: u64) -> Forecast {
        Forecast { partitions: 10, bytes, bucket_bytes: 5 * bytes }
    }

    #[test]
    fn lanes_that_wait_are_copied_and_done_add_up() {
        let all = RebuildProgress::default();
        assert_eq!(all.facts(at(0)), None);
        all.set_waiting([LaneId(1), LaneId(2), LaneId(3)].iter(), at(0));
        assert_eq!(all.unknown(), [LaneId(1), LaneId(2), LaneId(3)]);
        (1..=3).for_each(|lane| all.expect(LaneId(lane), forecast(GIB)));
        for lane in [1, 2] {
            let copy = all.of(LaneId(lane));
            all.copies(LaneId(lane), NodeId(2));
            copy.begin(forecast(GIB));
            copy.round.set(1);
            copy.add_bytes(GIB / u64::from(lane));
        }
        all.finish(LaneId(1), at(30));
        all.set_waiting([LaneId(3)].iter(), at(30));
        let facts = all.facts(at(30)).expect("under way");
        assert_eq!((facts.replicas_done, facts.replicas), (1, 3));
        assert_eq!((facts.copied_bytes, facts.bytes, facts.bucket_bytes), (GIB + GIB / 2, 3 * GIB, 15 * GIB));
        assert_eq!((facts.since_ms, facts.left_ms()), (30_000, Some(30_000)));
        assert_eq!(
            facts.lanes.iter().map(|lane| (lane.lane, lane.from)).collect::<Vec<_>>(),
            [(2, Some(2)), (3, None)]
        );
        assert_eq!(all.counts(), RebuildCounts { replicas: 1, copied_bytes: GIB + GIB / 2 });
    }

    #[test]
    fn a_rebuild_soon_after_another_continues_its_count() {
        let all = RebuildProgress::default();
        for (lane, second, done_before) in [(1, 0, 0), (2, 20, 1), (3, 100, 0)] {
            all.set_waiting([LaneId(lane)].iter(), at(second));
            let facts = all.facts(at(second)).expect("under way");
            assert_eq!((facts.replicas_done, facts.replicas), (done_before, done_before + 1), "lane {lane}");
            all.of(LaneId(lane)).round.set(1);
            all.finish(LaneId(lane), at(second + 1));
            all.set_waiting([].iter(), at(second + 2));
            assert_eq!(all.facts(at(second + 2)), None, "nothing is left");
            if lane == 2 {
                all.set_waiting([].iter(), at(90));
            }
        }
        assert_eq!(all.counts().replicas, 3);
    }

    #[test]
    fn a_copy_that_begins_again_counts_its_bytes_once() {
        let all = RebuildProgress::default();
        all.set_waiting([LaneId(1)].iter(), at(0));
        let copy = all.of(LaneId(1));
        copy.begin(forecast(100));
        copy.round.set(1);
        copy.add_bytes(60);
        all.waits(LaneId(1), "no leader".to_owned());
        copy.begin(forecast(100));
        assert_eq!(copy.add_bytes(10), 10);
        let facts = all.facts(at(1)).expect("under way");
        assert_eq!((facts.copied_bytes, facts.bytes, all.counts().copied_bytes), (10, 100, 70));
        assert_eq!(facts.lanes[0].waits.as_deref(), Some("no leader"));
        assert_eq!(RebuildFacts::default().left_ms(), None, "no rate yet");
    }
}
