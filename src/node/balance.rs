//! Which lane this broker hands to another one: to its preferred leader, or, while this broker's disk refuses
//! producers, to any that has room. Pure.
//!
//! The first replica of a lane's row in the lane table is its preferred leader; the preferred leaders are spread evenly
//! over the brokers. After a broker was down its lanes are led elsewhere, and go back one at a time with a pause
//! between, each only when the preferred leader has all of the log: a transfer costs the lane's producers some
//! milliseconds. A broker with a full disk gets none.

use std::collections::BTreeSet;

use tidewater_storage::model::{LaneId, LogIndex, NodeId, ReplicaId};

use super::membership;
use crate::raft::{LaneMembership, ReplicaProgress};

/// A lane that changed its leader stays for so long.
pub const SETTLED_MS: u64 = 10_000;
/// Between two transfers of this broker.
pub const PAUSE_MS: u64 = 2_000;
/// The preferred leader answered within this time.
const ANSWERS_WITHIN_MS: u64 = 1_000;
/// It may lack this many entries: the transfer waits until it has all.
const BEHIND_MAX: u64 = 64;

/// A lane that this broker leads.
#[derive(Clone, Debug)]
pub struct Led {
    pub lane: LaneId,
    pub preferred: ReplicaId,
    /// Time since this broker became its leader, or since it last failed to hand the lane over.
    pub led_ms: u64,
    /// The end of its log.
    pub last: LogIndex,
    /// How far the preferred leader is, and the time since its last answer.
    pub matched: Option<LogIndex>,
    pub silent_ms: Option<u64>,
    /// The preferred leader votes, and no change of voters is under way.
    pub may_lead: bool,
}

/// The lane to hand over now, and to which replica. `since_ms` is the time since this broker's last transfer.
#[must_use]
pub fn hand_back(here: NodeId, led: &[Led], since_ms: Option<u64>) -> Option<(LaneId, ReplicaId)> {
    if since_ms.is_some_and(|ms| ms < PAUSE_MS) {
        return None;
    }
    let due = led.iter().filter(|lane| {
        lane.preferred.node != here
            && lane.may_lead
            && lane.led_ms >= SETTLED_MS
            && lane.silent_ms.is_some_and(|ms| ms <= ANSWERS_WITHIN_MS)
            && lane.matched.is_some_and(|matched| matched.0.saturating_add(BEHIND_MAX) >= lane.last.0)
    });
    // The caller counts `led_ms` from the last failed transfer, so that such a lane does not keep the others back.
    due.max_by_key(|lane| lane.led_ms).map(|lane| (lane.lane, lane.preferred))
}

/// The voter that a lane with the log's end `last` is handed to by `me`: of those that are caught up and on no full
/// disk, the furthest. A caller that leaves for good hands over to a full disk too.
#[must_use]
pub fn heir(
    me: ReplicaId,
    held: &LaneMembership,
    progress: &[ReplicaProgress],
    last: LogIndex,
    full: &BTreeSet<NodeId>,
) -> Option<ReplicaId> {
    let fit = progress.iter().filter(|found| {
        let votes = found.replica != me && held.is_voter(found.replica);
        votes && !full.contains(&found.replica.node) && membership::is_caught_up(found, last)
    });
    fit.max_by_key(|found| found.matched).map(|found| found.replica)
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::ReplicaIncarnation;

    use super::*;

    fn led(lane: u32) -> Led {
        Led {
            lane: LaneId(lane),
            preferred: ReplicaId { node: NodeId(2), incarnation: ReplicaIncarnation(0) },
            led_ms: SETTLED_MS + u64::from(lane),
            last: LogIndex(1000),
            matched: Some(LogIndex(990)),
            silent_ms: Some(50),
            may_lead: true,
        }
    }

    #[test]
    fn one_lane_at_a_time_goes_back_to_its_preferred_leader() {
        let lanes = [led(1), led(2)];
        assert_eq!(hand_back(NodeId(1), &lanes, None).map(|(lane, _)| lane), Some(LaneId(2)));
        assert_eq!(hand_back(NodeId(1), &lanes, Some(PAUSE_MS - 1)), None);
        assert!(hand_back(NodeId(1), &lanes, Some(PAUSE_MS)).is_some());
        assert_eq!(hand_back(NodeId(2), &lanes, None), None, "it is the preferred leader itself");
    }

    #[test]
    fn the_furthest_voter_with_room_is_the_heir() {
        use tidewater_storage::model::{EntryId, Term};

        let replica = |node| ReplicaId { node: NodeId(node), incarnation: ReplicaIncarnation(0) };
        let held = LaneMembership {
            voters: [1, 2, 3].map(replica).to_vec(),
            learners: vec![replica(4)],
            joint: false,
            at: None,
            committed: true,
        };
        let found = |node, index, answered| ReplicaProgress {
            replica: replica(node),
            matched: Some(EntryId { term: Term(1), index: LogIndex(index) }),
            last_answer_ms: answered,
        };
        let progress = [found(1, 100, Some(0)), found(2, 99, Some(5)), found(3, 100, Some(5)), found(4, 100, Some(5))];
        let heir = |progress: &[_], full: &[i32]| {
            let full = full.iter().copied().map(NodeId).collect();
            heir(replica(1), &held, progress, LogIndex(100), &full).map(|replica| replica.node.0)
        };
        assert_eq!(heir(&progress, &[]), Some(3));
        assert_eq!(heir(&progress, &[1, 3]), Some(2));
        assert_eq!(heir(&progress, &[2, 3]), None);
        assert_eq!(heir(&[found(1, 100, Some(0)), found(2, 100, None)], &[]), None, "it does not answer");
    }

    #[test]
    fn a_preferred_leader_that_is_not_ready_gets_nothing() {
        let unready = [
            Led { led_ms: 100, ..led(1) },
            Led { matched: Some(LogIndex(9)), ..led(1) },
            Led { matched: None, ..led(1) },
            Led { silent_ms: Some(5_000), ..led(1) },
            Led { silent_ms: None, ..led(1) },
            Led { may_lead: false, ..led(1) },
        ];
        for lane in unready {
            assert_eq!(hand_back(NodeId(1), std::slice::from_ref(&lane), None), None, "{lane:?}");
        }
    }
}
