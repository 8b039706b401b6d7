//! What a lane's leader does next so that the lane's Raft membership becomes what the lane table says. Pure.
//!
//! One step at a time, each idempotent, so that a leader that ends half way leaves what the next one continues:
//! learners are added first, catch up, and become voters in one joint change that also removes the voters that are not
//! wanted. A replica of an earlier incarnation, whose disk is lost, is such a voter. Voters are never fewer in between
//! than before and wanted.

use std::collections::BTreeSet;
use std::fmt;

use tidewater_storage::model::{LogIndex, ReplicaId};

use crate::raft::{LaneMembership, ReplicaProgress};

type Set = BTreeSet<ReplicaId>;

/// A learner that lacks at most this many entries becomes a voter.
pub const CAUGHT_UP_ENTRIES: u64 = 256;
/// A replica that has not answered for this long counts as down.
pub const ANSWERS_WITHIN_MS: u64 = 2_000;

/// The replicas that the lane table wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub voters: BTreeSet<ReplicaId>,
    /// Of the controller's lane: the brokers that only follow.
    pub learners: BTreeSet<ReplicaId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddLearner(ReplicaId),
    ChangeVoters(BTreeSet<ReplicaId>),
    /// Remove a learner.
    Remove(ReplicaId),
    /// This leader is not wanted: another one has to take over before it is removed.
    Transfer(ReplicaId),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner(replica) => write!(f, "replica {replica} learns"),
            Self::ChangeVoters(voters) => {
                let voters: Vec<String> = voters.iter().map(ToString::to_string).collect();
                write!(f, "the voters are {}", voters.join(", "))
            }
            Self::Remove(replica) => write!(f, "replica {replica} is removed"),
            Self::Transfer(replica) => write!(f, "replica {replica} leads"),
        }
    }
}

/// The next step of the leader `me`, whose log ends at `last`; `None`: nothing to do now.
#[must_use]
pub fn plan(
    me: ReplicaId,
    members: &LaneMembership,
    wanted: &Wanted,
    last: LogIndex,
    progress: &[ReplicaProgress],
) -> Option<Step> {
    // One change at a time.
    if wanted.voters.is_empty() || !members.committed {
        return None;
    }
    let (voters, learners): (Set, Set) =
        (members.voters.iter().copied().collect(), members.learners.iter().copied().collect());
    let fit = |replica: &ReplicaId| {
        *replica == me || progress.iter().any(|found| found.replica == *replica && is_caught_up(found, last))
    };
    if members.joint {
        // The next change leaves the joint state. Its target must be a set that the one under way could have had.
        return Some(Step::ChangeVoters(target(&voters, wanted, &fit)));
    }
    let all: Set = wanted.voters.union(&wanted.learners).copied().collect();
    let held: Set = voters.union(&learners).copied().collect();
    if let Some(missing) = all.difference(&held).next() {
        return Some(Step::AddLearner(*missing));
    }
    if voters != wanted.voters {
        let target = target(&voters, wanted, &fit);
        if target != voters {
            if !target.contains(&me) {
                let mut heirs = target.intersection(&voters).peekable();
                if heirs.peek().is_none() {
                    return Some(Step::ChangeVoters(target.into_iter().chain([me]).collect()));
                }
                return heirs.find(|heir| fit(heir)).map(|heir| Step::Transfer(*heir));
            }
            return Some(Step::ChangeVoters(target));
        }
    }
    learners.iter().find(|learner| !all.contains(learner)).map(|learner| Step::Remove(*learner))
}

/// Whether a replica answers and has nearly all of a log that ends at `last`.
#[must_use]
pub fn is_caught_up(progress: &ReplicaProgress, last: LogIndex) -> bool {
    progress.last_answer_ms.is_some_and(|ms| ms <= ANSWERS_WITHIN_MS)
        && progress.matched.is_some_and(|matched| matched.index.0.saturating_add(CAUGHT_UP_ENTRIES) >= last.0)
}

/// The voters to change to: all wanted ones once those that are new have caught up. Before that, an odd number that is
/// larger than now, if that is a step on the way; else the voters of now.
fn target(voters: &Set, wanted: &Wanted, fit: &impl Fn(&ReplicaId) -> bool) -> Set {
    let ready: Set = wanted.voters.iter().filter(|replica| voters.contains(replica) || fit(replica)).copied().collect();
    if ready == wanted.voters {
        return ready;
    }
    let grown: Set = voters.union(&ready).copied().collect();
    let on_the_way = grown.is_subset(&wanted.voters) && grown.len() % 2 == 1;
    if on_the_way { grown } else { voters.clone() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidewater_storage::model::{EntryId, NodeId, ReplicaIncarnation, Term};

    use super::*;

    fn replica(node: i32, incarnation: u32) -> ReplicaId {
        ReplicaId { node: NodeId(node), incarnation: ReplicaIncarnation(incarnation) }
    }

    fn set(nodes: &[i32]) -> BTreeSet<ReplicaId> {
        nodes.iter().map(|node| replica(*node, 0)).collect()
    }

    fn wanted(nodes: &[i32]) -> Wanted {
        Wanted { voters: set(nodes), learners: BTreeSet::new() }
    }

    fn of(voters: Set, learners: Set) -> LaneMembership {
        let (voters, learners) = (voters.into_iter().collect(), learners.into_iter().collect());
        LaneMembership { voters, learners, joint: false, at: None, committed: true }
    }

    fn members(voters: &[i32], learners: &[i32]) -> LaneMembership {
        of(set(voters), set(learners))
    }

    fn at(node: i32, matched: u64) -> ReplicaProgress {
        let matched = Some(EntryId { term: Term(1), index: LogIndex(matched) });
        ReplicaProgress { replica: replica(node, 0), matched, last_answer_ms: Some(10) }
    }

    const LAST: LogIndex = LogIndex(10_000);

    #[test]
    fn a_lane_is_widened_when_all_learners_have_caught_up() {
        let (me, wanted) = (replica(1, 0), wanted(&[1, 2, 3]));
        let next = |members: &LaneMembership, progress: &[ReplicaProgress]| plan(me, members, &wanted, LAST, progress);
        assert_eq!(next(&members(&[1], &[]), &[]), Some(Step::AddLearner(replica(2, 0))));
        assert_eq!(next(&members(&[1], &[2]), &[]), Some(Step::AddLearner(replica(3, 0))));
        let both = members(&[1], &[2, 3]);
        assert_eq!(next(&both, &[at(2, 9_990), at(3, 12)]), None, "two voters survive less than one");
        let asleep = ReplicaProgress { last_answer_ms: Some(60_000), ..at(3, 10_000) };
        assert_eq!(next(&both, &[at(2, 9_990), asleep]), None);
        assert_eq!(next(&both, &[at(2, 9_990), at(3, 9_990)]), Some(Step::ChangeVoters(set(&[1, 2, 3]))));
        assert_eq!(next(&members(&[1, 2, 3], &[]), &[]), None);
    }

    #[test]
    fn a_lost_disk_is_replaced_in_one_change() {
        let me = replica(1, 0);
        let wanted = Wanted { voters: [replica(1, 0), replica(2, 0), replica(3, 7)].into(), ..Wanted::default() };
        let mut now = members(&[1, 2, 3], &[]);
        let next = |members: &LaneMembership, progress: &[ReplicaProgress]| plan(me, members, &wanted, LAST, progress);
        assert_eq!(next(&now, &[]), Some(Step::AddLearner(replica(3, 7))));
        now.learners.push(replica(3, 7));
        assert_eq!(next(&now, &[]), None);
        let caught_up = ReplicaProgress { replica: replica(3, 7), ..at(3, 10_000) };
        assert_eq!(next(&now, &[caught_up]), Some(Step::ChangeVoters(wanted.voters.clone())));
        let now = of(wanted.voters.clone(), set(&[3]));
        assert_eq!(next(&now, &[]), Some(Step::Remove(replica(3, 0))));
    }

    #[test]
    fn a_leader_that_is_not_wanted_hands_over_first() {
        let now = members(&[1, 2, 3], &[]);
        let next = |progress: &[ReplicaProgress]| plan(replica(1, 0), &now, &wanted(&[2, 3]), LAST, progress);
        assert_eq!(next(&[at(2, 3), at(3, 10_000)]), Some(Step::Transfer(replica(3, 0))));
        assert_eq!(next(&[]), None);
        assert_eq!(
            plan(replica(2, 0), &now, &wanted(&[2, 3]), LAST, &[at(3, 10_000)]),
            Some(Step::ChangeVoters(set(&[2, 3])))
        );
    }

    #[test]
    fn brokers_beyond_the_controllers_voters_learn() {
        let wanted = Wanted { voters: set(&[1, 2, 3]), learners: set(&[4]) };
        let next = |members: &LaneMembership| plan(replica(1, 0), members, &wanted, LAST, &[at(4, 10_000)]);
        assert_eq!(next(&members(&[1, 2, 3], &[])), Some(Step::AddLearner(replica(4, 0))));
        assert_eq!(next(&members(&[1, 2, 3], &[4])), None);
    }

    #[test]
    fn a_joint_state_that_a_leader_left_is_ended() {
        let joint = LaneMembership { joint: true, ..members(&[1, 2, 3], &[]) };
        let next = plan(replica(2, 0), &joint, &wanted(&[1, 2, 3]), LAST, &[]);
        assert_eq!(next, Some(Step::ChangeVoters(set(&[1, 2, 3]))));
        let under_way = LaneMembership { committed: false, ..joint };
        assert_eq!(plan(replica(2, 0), &under_way, &wanted(&[1, 2, 3]), LAST, &[]), None);
    }

    #[test]
    fn an_unknown_lane_is_left_alone() {
        assert_eq!(plan(replica(1, 0), &members(&[1], &[]), &Wanted::default(), LAST, &[]), None);
    }

    fn sets() -> impl Strategy<Value = BTreeSet<ReplicaId>> {
        prop::collection::btree_set((1..6_i32, 0..2_u32).prop_map(|(node, inc)| replica(node, inc)), 1..5)
    }

    proptest! {
        /// From any membership to any wanted one, with leaders that change and replicas that catch up: it ends, and no
        /// step leaves fewer voters than the smaller of before and wanted, or a voter that has not caught up.
        #[test]
        fn every_membership_comes_to_the_wanted_one(before in sets(), voters in sets(), learners in sets()) {
            let wanted = Wanted { learners: learners.difference(&voters).copied().collect(), voters };
            let (mut now_voters, mut now_learners) = (before.clone(), Set::new());
            let mut me = *before.iter().next().expect("not empty");
            let mut caught_up: Set = before.clone();
            for _ in 0..40 {
                let progress: Vec<ReplicaProgress> =
                    caught_up.iter().map(|replica| ReplicaProgress { replica: *replica, ..at(1, LAST.0) }).collect();
                let now = of(now_voters.clone(), now_learners.clone());
                let Some(step) = plan(me, &now, &wanted, LAST, &progress) else { break };
                match step {
                    Step::AddLearner(replica) => {
                        prop_assert!(!now_voters.contains(&replica) && now_learners.insert(replica));
                        caught_up.insert(replica);
                    }
                    Step::Remove(replica) => prop_assert!(now_learners.remove(&replica)),
                    Step::Transfer(heir) => {
                        prop_assert!(now_voters.contains(&heir) && heir != me);
                        me = heir;
                    }
                    Step::ChangeVoters(to) => {
                        prop_assert!(to.contains(&me) && to.is_subset(&caught_up));
                        prop_assert!(to.len() >= now_voters.len().min(wanted.voters.len()));
                        // A voter that is removed becomes nothing; openraft keeps no learner of it.
                        now_learners.retain(|learner| !to.contains(learner));
                        now_voters = to;
                    }
                }
            }
            prop_assert_eq!(&now_voters, &wanted.voters);
            prop_assert_eq!(&now_learners, &wanted.learners);
        }
    }
}
