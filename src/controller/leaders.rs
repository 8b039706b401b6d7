//! Which broker leads each lane now, and whose disk is full. Not part of the controller's state: brokers report it to
//! each other, and the report of the highest term counts. Immutable once shared, spread to every shard like an image.
//! Node-wide.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, LeaderEpoch, NodeId, Term};

use super::image::PartitionImage;

/// The leader of every lane that has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaders {
    lanes: BTreeMap<LaneId, LaneLeader>,
    /// How often it has changed.
    changes: u64,
    /// Brokers that were lost a moment ago: what they led has no leader now, and its epoch stays.
    lost: BTreeSet<NodeId>,
    /// Brokers whose disk is full, as they reported last.
    full: BTreeSet<NodeId>,
}

/// A lane's leader as it described itself last, or as one of its followers knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneLeader {
    pub node: NodeId,
    /// The term in which it leads.
    pub term: Term,
    /// Brokers whose replicas are caught up, the leader among them; empty if only followers have reported this term.
    pub in_sync: Vec<NodeId>,
    /// The controller's revision that the lane's partitions agree with; 0 if only followers have reported this term.
    pub followed: u64,
}

/// What one broker knows of the lanes that it carries. A message between brokers, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderReport {
    /// The broker that reports.
    pub from: NodeId,
    pub lanes: Vec<LaneReport>,
    /// Does its disk refuse producers? `None` in a report about some lanes only, and from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
}

/// A lane as one of its replicas sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneReport {
    pub lane: LaneId,
    /// The term that the replica is in.
    pub term: Term,
    /// The leader of that term, as far as the replica knows.
    pub leader: Option<NodeId>,
    /// Of a leader: [`LaneLeader::in_sync`].
    pub in_sync: Vec<NodeId>,
    /// Of a leader that serves: [`LaneLeader::followed`].
    pub followed: u64,
}

impl Leaders {
    /// The lane's leader; `None` while none is known.
    #[must_use]
    pub fn of(&self, lane: LaneId) -> Option<&LaneLeader> {
        self.lanes.get(&lane).filter(|leader| !self.lost.contains(&leader.node))
    }

    /// Brokers whose disk is full: they are given no lane to lead.
    #[must_use]
    pub fn full(&self) -> &BTreeSet<NodeId> {
        &self.full
    }

    /// All lanes that have a leader.
    pub fn iter(&self) -> impl Iterator<Item = (LaneId, &LaneLeader)> {
        let led = self.lanes.iter().filter(|(_, leader)| !self.lost.contains(&leader.node));
        led.map(|(lane, leader)| (*lane, leader))
    }

    /// The epoch in which a partition's leader appends; the partition's base as long as none was known.
    #[must_use]
    pub fn epoch(&self, partition: &PartitionImage) -> LeaderEpoch {
        let term = self.lanes.get(&partition.lane).map_or(Term(0), |leader| leader.term);
        partition.epoch_in(term)
    }

    /// Is this table at least as new as `other`, which the same controller made?
    pub(super) fn is_since(&self, other: &Self) -> bool {
        self.changes >= other.changes
    }

    /// Does a shard learn the same from `other`? What lanes have followed is the controller's business.
    #[must_use]
    pub fn are_shown_by(&self, other: &Self) -> bool {
        let same = |(a, b): (&LaneLeader, &LaneLeader)| (a.node, a.term, &a.in_sync) == (b.node, b.term, &b.in_sync);
        (&self.lost, &self.full) == (&other.lost, &other.full)
            && self.lanes.len() == other.lanes.len()
            && self.lanes.iter().all(|(lane, a)| other.lanes.get(lane).is_some_and(|b| same((a, b))))
    }

    /// These, while the lanes that these brokers led have no leader.
    #[must_use]
    pub fn without(&self, lost: &BTreeSet<NodeId>) -> Self {
        Self { lost: lost.clone(), ..self.clone() }
    }

    /// Takes a report; true if it changed anything.
    ///
    /// A higher term counts, from any broker; within a term, what the leader itself reports. A leader that reports a
    /// lane without a leader has stepped down: the lane then has none until the next one reports.
    pub fn see(&mut self, report: &LeaderReport) -> bool {
        let mut changed = false;
        for lane in &report.lanes {
            changed |= self.see_lane(report.from, lane);
        }
        changed |= match report.full {
            Some(true) => self.full.insert(report.from),
            Some(false) => self.full.remove(&report.from),
            None => false,
        };
        self.changes += u64::from(changed);
        changed
    }

    fn see_lane(&mut self, from: NodeId, report: &LaneReport) -> bool {
        let held = self.lanes.get(&report.lane);
        let Some(node) = report.leader else {
            let stepped_down = held.is_some_and(|held| held.node == from && held.term <= report.term);
            return stepped_down && self.lanes.remove(&report.lane).is_some();
        };
        let of_leader = node == from;
        let (in_sync, followed) = if of_leader { (report.in_sync.clone(), report.followed) } else { (Vec::new(), 0) };
        let next = LaneLeader { node, term: report.term, in_sync, followed };
        let counts = held.is_none_or(|held| held.term < next.term || held.term == next.term && of_leader);
        if !counts || held == Some(&next) {
            return false;
        }
        self.lanes.insert(report.lane, next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId(3);

    fn report(from: i32, term: u64, leader: Option<i32>, followed: u64) -> LeaderReport {
        let leader = leader.map(NodeId);
        let in_sync = leader.into_iter().filter(|leader| leader.0 == from).collect();
        let lane = LaneReport { lane: LANE, term: Term(term), leader, in_sync, followed };
        LeaderReport { from: NodeId(from), lanes: vec![lane], full: None }
    }

    fn leads(leaders: &Leaders) -> Option<(i32, u64, u64)> {
        leaders.of(LANE).map(|leader| (leader.node.0, leader.term.0, leader.followed))
    }

    #[test]
    fn the_highest_term_counts_in_any_order_of_reports() {
        let reports = [report(1, 3, Some(1), 7), report(2, 4, Some(2), 5), report(3, 4, Some(2), 0)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut leaders = Leaders::default();
            for n in order {
                leaders.see(&reports[n]);
            }
            assert_eq!(leads(&leaders), Some((2, 4, 5)), "{order:?}");
        }
    }

    #[test]
    fn only_the_leader_itself_says_what_it_has_followed() {
        let mut leaders = Leaders::default();
        assert!(leaders.see(&report(3, 4, Some(2), 0)));
        assert_eq!(leads(&leaders), Some((2, 4, 0)));
        assert!(leaders.see(&report(2, 4, Some(2), 9)));
        assert!(!leaders.see(&report(3, 4, Some(2), 0)), "a follower's report of the same term changes nothing");
        assert_eq!(leads(&leaders), Some((2, 4, 9)));
        assert!(!leaders.see(&report(2, 4, Some(2), 9)), "the same again is no change");
    }

    #[test]
    fn a_full_disk_is_known_until_its_broker_reports_room() {
        let mut leaders = Leaders::default();
        let full = |from, full| LeaderReport { full, ..report(from, 4, Some(2), 0) };
        assert!(leaders.see(&full(3, Some(true))));
        assert!(!leaders.see(&full(3, None)), "a report about lanes says nothing of it");
        assert_eq!(leaders.full(), &BTreeSet::from([NodeId(3)]));
        assert!(!leaders.are_shown_by(&Leaders { full: BTreeSet::new(), ..leaders.clone() }));
        assert!(leaders.see(&full(3, Some(false))));
        assert!(leaders.full().is_empty());
        let older = r#"{"from":3,"lanes":[]}"#;
        assert_eq!(serde_json::from_str::<LeaderReport>(older).expect("reads").full, None);
    }

    #[test]
    fn the_lanes_of_a_lost_broker_have_no_leader() {
        let mut leaders = Leaders::default();
        leaders.see(&report(2, 4, Some(2), 9));
        assert_eq!(leads(&leaders.without(&BTreeSet::from([NodeId(3)]))), Some((2, 4, 9)));
        assert_eq!(leads(&leaders.without(&BTreeSet::from([NodeId(2)]))), None);
    }

    #[test]
    fn a_leader_that_steps_down_leaves_the_lane_without_one() {
        let mut leaders = Leaders::default();
        leaders.see(&report(2, 4, Some(2), 9));
        assert!(!leaders.see(&report(3, 5, None, 0)), "a candidate's term ends no leader");
        assert!(!leaders.see(&report(2, 3, None, 0)), "an old report neither");
        assert!(leaders.see(&report(2, 5, None, 0)));
        assert_eq!(leads(&leaders), None);
    }
}
