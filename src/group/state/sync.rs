//! The sync barrier, heartbeats, and who may commit offsets.

use bytes::Bytes;
use tidewater_storage::env::Mono;

use super::{Effect, Group, Phase, SaveCause, Synced, Ticket};
use crate::group::error::GroupError;
use crate::group::ids::{InstanceId, MemberId, ProtocolName};

/// A request for (from the leader: with) assignments.
#[derive(Clone, Debug)]
pub struct Sync {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub generation: i32,
    /// Protocol type, from v5 on.
    pub protocol_type: Option<ProtocolName>,
    /// Protocol, from v5 on.
    pub protocol: Option<ProtocolName>,
    /// The shares, from the leader.
    pub assignments: Vec<(MemberId, Bytes)>,
}

impl Group {
    /// A member syncs; its answer comes as [`Effect::Synced`] under `ticket`.
    pub fn sync(&mut self, now: Mono, sync: Sync, ticket: Ticket, effects: &mut Vec<Effect>) {
        if let Err(error) = self.try_sync(now, sync, ticket, effects) {
            effects.push(Effect::Synced(ticket, Err(error)));
        }
    }

    fn try_sync(&mut self, now: Mono, sync: Sync, ticket: Ticket, fx: &mut Vec<Effect>) -> Result<(), GroupError> {
        self.check_member(&sync.member, sync.instance.as_ref())?;
        self.check_generation(sync.generation)?;
        let differs = |given: &Option<ProtocolName>, have: &Option<ProtocolName>| given.is_some() && given != have;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        let leads = self.leader.as_ref() == Some(&sync.member);
        let Some(member) = self.members.get_mut(&sync.member) else { return Err(GroupError::UnknownMember) };
        match self.phase {
            Phase::Empty => return Err(GroupError::UnknownMember),
            Phase::Preparing(_) => return Err(GroupError::RebalanceInProgress),
            Phase::Stable { .. } => {
                member.synced = true;
                member.touch(now);
                let assignment = member.assignment.clone();
                fx.push(Effect::Synced(ticket, Ok(self.synced_with(assignment))));
                self.forget_sync_deadline();
            }
            Phase::Completing { .. } => {
                member.synced = true;
                if let Some(old) = member.syncing.replace(ticket) {
                    fx.push(Effect::Synced(old, Err(GroupError::RebalanceInProgress)));
                }
                if leads {
                    for (id, assignment) in sync.assignments {
                        self.members.get_mut(&id).into_iter().for_each(|member| member.assignment = assignment.clone());
                    }
                    fx.push(Effect::Save(SaveCause::Assigned(self.generation)));
                }
            }
        }
        Ok(())
    }

    /// The metadata written for `cause` is committed, or could not be written.
    pub fn saved(&mut self, now: Mono, cause: &SaveCause, outcome: Result<(), GroupError>, effects: &mut Vec<Effect>) {
        match cause {
            SaveCause::Emptied => {}
            SaveCause::Replaced { member, old } => self.replacement_saved(member, old, outcome, now, effects),
            SaveCause::Assigned(generation) => {
                let Phase::Completing { until } = self.phase else { return };
                if *generation != self.generation {
                    return;
                }
                match outcome {
                    Ok(()) => self.assign(now, until, effects),
                    Err(error) => {
                        self.abort_syncs(now, &error, effects);
                        self.prepare(now, effects);
                    }
                }
            }
        }
    }

    /// The assignments are written: the group is stable and every waiting member gets its assignment.
    fn assign(&mut self, now: Mono, until: Mono, effects: &mut Vec<Effect>) {
        self.phase = Phase::Stable { until: Some(until) };
        let (protocol_type, protocol) = (self.protocol_type.clone(), self.protocol.clone());
        for member in self.members.values_mut() {
            if let Some(ticket) = member.syncing.take() {
                member.touch(now);
                let assignment = member.assignment.clone();
                let synced = Synced { protocol_type: protocol_type.clone(), protocol: protocol.clone(), assignment };
                effects.push(Effect::Synced(ticket, Ok(synced)));
            }
        }
        self.forget_sync_deadline();
    }

    fn synced_with(&self, assignment: Bytes) -> Synced {
        Synced { protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    fn forget_sync_deadline(&mut self) {
        if matches!(self.phase, Phase::Stable { .. }) && self.members.values().all(|member| member.synced) {
            self.phase = Phase::Stable { until: None };
        }
    }

    /// Removes members that joined a generation and never synced.
    pub(super) fn drop_unsynced(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let silent = self.members.iter().filter(|(_, member)| !member.synced).map(|(id, _)| id.clone());
        let silent = silent.collect::<Vec<_>>();
        for id in &silent {
            self.remove(id, effects);
        }
        if !silent.is_empty() {
            self.prepare(now, effects);
        } else if let Phase::Completing { .. } = self.phase {
            // All members synced; the write is missing, and its end calls `saved`.
            self.phase = Phase::Completing { until: now + self.rebalance_timeout() };
        } else {
            self.forget_sync_deadline();
        }
    }

    /// Extends a member's session.
    ///
    /// # Errors
    /// Kafka's answers to a heartbeat; [`GroupError::RebalanceInProgress`] extends the session too.
    pub fn heartbeat(
        &mut self,
        now: Mono,
        id: &MemberId,
        instance: Option<&InstanceId>,
        generation: i32,
    ) -> Result<(), GroupError> {
        self.check_member(id, instance)?;
        self.check_generation(generation)?;
        let Some(member) = self.members.get_mut(id) else { return Err(GroupError::UnknownMember) };
        member.touch(now);
        match self.phase {
            Phase::Empty => Err(GroupError::UnknownMember),
            Phase::Preparing(_) => Err(GroupError::RebalanceInProgress),
            Phase::Completing { .. } | Phase::Stable { .. } => Ok(()),
        }
    }

    /// May this request commit offsets? A member's commit is a sign of life too.
    ///
    /// `generation` below 0, no member and no instance: an admin, or a consumer that assigns partitions by itself.
    ///
    /// # Errors
    /// Kafka's answers to an offset commit.
    pub fn commit(
        &mut self,
        now: Mono,
        id: Option<&MemberId>,
        instance: Option<&InstanceId>,
        generation: i32,
    ) -> Result<(), GroupError> {
        if generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        if generation < 0 && id.is_none() && instance.is_none() {
            return Err(GroupError::UnknownMember);
        }
        let none = MemberId::from("");
        let id = id.unwrap_or(&none);
        self.check_member(id, instance)?;
        self.check_generation(generation)?;
        if let Phase::Completing { .. } = self.phase {
            return Err(GroupError::RebalanceInProgress);
        }
        self.members.get_mut(id).into_iter().for_each(|member| member.touch(now));
        Ok(())
    }
}
