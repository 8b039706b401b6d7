//! The join barrier: when it is raised, when it is lifted, how a new generation begins.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::env::Mono;

use super::{Effect, Group, Phase, Preparing, SaveCause};
use crate::group::error::GroupError;
use crate::group::ids::{MemberId, ProtocolName};

/// The shortest time of a barrier, also if its members name no timeout or a negative one: a barrier that is due when it
/// is raised would be checked again and again while static members are awaited.
const BARRIER_MIN: Duration = Duration::from_secs(1);

impl Group {
    /// A member joined: raises the barrier, or lifts it if this was the last missing member.
    pub(super) fn rebalance_or_complete(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Preparing(_) => self.complete_if_all_joined(now, effects),
            Phase::Empty | Phase::Completing { .. } | Phase::Stable { .. } => self.prepare(now, effects),
        }
    }

    /// Raises the join barrier.
    pub(super) fn prepare(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        self.abort_syncs(now, &GroupError::RebalanceInProgress, effects);
        let longest = self.rebalance_timeout();
        if self.phase == Phase::Empty {
            let delay = self.times.initial_delay;
            let left = longest.saturating_sub(delay);
            self.phase = Phase::Preparing(Preparing { until: now + delay, initial: Some((left, false)) });
            if delay.is_zero() {
                self.complete(now, effects);
            }
        } else {
            self.phase = Phase::Preparing(Preparing { until: now + longest, initial: None });
            self.complete_if_all_joined(now, effects);
        }
    }

    /// Lifts the barrier if all members have joined. The first rebalance of a group always waits for its whole delay.
    pub(super) fn complete_if_all_joined(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let Phase::Preparing(Preparing { initial: None, .. }) = self.phase else { return };
        if self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some()) {
            self.complete(now, effects);
        }
    }

    /// The barrier's time is over: extends it if members still join a new group, else continues with those that joined.
    pub(super) fn barrier_lapsed(&mut self, preparing: Preparing, now: Mono, effects: &mut Vec<Effect>) {
        match preparing.initial {
            Some((left, true)) if !left.is_zero() => {
                let delay = self.times.initial_delay.min(left);
                let initial = Some((left.saturating_sub(delay), false));
                self.phase = Phase::Preparing(Preparing { until: now + delay, initial });
            }
            _ => self.complete(now, effects),
        }
    }

    /// Lifts the barrier: removes members that did not join (static ones stay), begins the next generation, answers
    /// joins.
    fn complete(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let absent = self.members.iter().filter(|(_, m)| m.joining.is_none() && m.instance.is_none());
        for id in absent.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.remove(&id, effects);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only absent static members are left: the barrier stays until they join or their sessions expire.
            let until = now + self.rebalance_timeout();
            self.phase = Phase::Preparing(Preparing { until, initial: None });
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.phase = Phase::Empty;
            self.protocol = None;
            self.leader = None;
            effects.push(Effect::Save(SaveCause::Emptied));
            return;
        }
        self.protocol = self.choose_protocol();
        self.phase = Phase::Completing { until: now + self.rebalance_timeout() };
        self.answer_joins(now, effects);
    }

    fn answer_joins(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        for member in self.members.values_mut() {
            // A static member that is away does not hold up the sync barrier.
            member.synced = member.joining.is_none();
            member.assignment = Bytes::new();
        }
        let waiting = self.members.iter_mut().filter_map(|(id, member)| {
            let wait = member.joining.take()?;
            member.is_new = false;
            member.touch(now);
            Some((id.clone(), wait))
        });
        for (id, wait) in waiting.collect::<Vec<_>>() {
            effects.push(Effect::Joined(wait.ticket, Ok(self.joined(&id))));
        }
    }

    /// Makes sure the leader is a member that joined; `false` if none did.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |id: &MemberId| self.members.get(id).is_some_and(|member| member.joining.is_some());
        if self.leader.as_ref().is_some_and(joined) {
            return true;
        }
        let next = self.members.iter().find(|(_, member)| member.joining.is_some()).map(|(id, _)| id.clone());
        match next {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    /// The protocol all speak with most first votes; each member votes for its first that all speak. Ties go to the
    /// name that sorts first, so that the choice does not hang on hash order.
    pub(super) fn choose_protocol(&self) -> Option<ProtocolName> {
        let mut votes: BTreeMap<&ProtocolName, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| self.all_speak(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let best = votes.values().copied().max()?;
        votes.into_iter().find(|(_, n)| *n == best).map(|(name, _)| name.clone())
    }

    /// How long a barrier waits: the longest rebalance timeout of the members, at least [`BARRIER_MIN`].
    pub(super) fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|member| member.rebalance).fold(BARRIER_MIN, Duration::max)
    }

    /// Answers every sync that waits with `error` and forgets assignments that were under way.
    pub(super) fn abort_syncs(&mut self, now: Mono, error: &GroupError, effects: &mut Vec<Effect>) {
        for member in self.members.values_mut() {
            if matches!(self.phase, Phase::Completing { .. }) {
                member.assignment = Bytes::new();
            }
            if let Some(ticket) = member.syncing.take() {
                member.touch(now);
                effects.push(Effect::Synced(ticket, Err(error.clone())));
            }
        }
    }
}
