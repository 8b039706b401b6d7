//! Brokers of a cluster that are wrong on purpose, at the seams of the simulated world: what the simulation must
//! notice.
//!
//! | defect | made by |
//! | --- | --- |
//! | acknowledge before the majority | the leader's transport answers "stored" for followers by itself |
//! | vote without sync | syncs of the journal do nothing while a vote is written |
//! | drop from a stale image | an old image of the topics claims to be the newest |
//! | a lease without a quorum (reads and sweeps while deposed) | heartbeats are answered by the leader's own transport |
//! | a rebuild that loses the vote | a broker whose disk was lost comes back under the same raft id, as if new |
//! | a replacement under the same id | the lane table gives an empty broker the replica of the lost one |
//! | a batch answered by watermark | one that a leader proposed is answered when its watermark has passed that offset |

use tidewater::raft::network::PeerRequest;

use super::plan::ClusterPlan;
use super::run::run;
use crate::defects::caught;

/// Seeds within which a defect must be noticed.
const SEEDS: u64 = 40;

#[test]
fn every_defect_of_a_cluster_is_caught() {
    let escapes = |defect: &Defect| {
        let run = |seed| drop(run(ClusterPlan::with_defect(*defect, seed), false));
        caught(&format!("{defect:?}"), SEEDS, run).is_none()
    };
    let escaped: Vec<_> = Defect::ALL.into_iter().filter(escapes).collect();
    assert!(escaped.is_empty(), "no check failed within {SEEDS} seeds: {escaped:?}");
}

/// See the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    AckBeforeMajority,
    VoteWithoutSync,
    DropFromStaleImage,
    LeaseWithoutQuorum,
    RebirthUnderTheSameId,
    ReplaceUnderTheSameId,
    AnswerByWatermark,
}

impl Defect {
    pub(crate) const ALL: [Self; 7] = [
        Self::AckBeforeMajority,
        Self::VoteWithoutSync,
        Self::DropFromStaleImage,
        Self::LeaseWithoutQuorum,
        Self::RebirthUnderTheSameId,
        Self::ReplaceUnderTheSameId,
        Self::AnswerByWatermark,
    ];

    /// Does the transport of such a broker answer an append by itself?
    pub(crate) fn lies_for(self, request: &PeerRequest) -> bool {
        let PeerRequest::Append { entries, .. } = request else { return false };
        match self {
            Self::AckBeforeMajority => !entries.is_empty(),
            Self::LeaseWithoutQuorum => entries.is_empty(),
            _ => false,
        }
    }
}
