//! Which lane this broker hands to its preferred leader. Pure.
//!
//! The first replica of a lane's row in the lane table is its preferred leader; the preferred leaders are spread evenly
//! over the brokers. After a broker was down its lanes are led elsewhere, and go back one at a time with a pause
//! between, each only when the preferred leader has all of the log: a transfer costs the lane's producers some
//! milliseconds.

use tidewater_storage::model::{LaneId, LogIndex, NodeId, ReplicaId};

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
