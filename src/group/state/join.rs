//! Joining: new members, static ones that come back, members that join again (Kafka: `classicGroupJoinToConsumer…`'s
//! classic half, KIP-345, KIP-394, KIP-814).

use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::env::Mono;

use super::{
    Effect, Group, JoinWait, Joined, JoinedMember, Member, NEW_MEMBER_TIMEOUT, PENDING_FLOOR, Phase, SaveCause, Ticket,
};
use crate::group::error::GroupError;
use crate::group::ids::{InstanceId, MemberId, ProtocolName};
use crate::limits::{GROUP_MEMBER_BYTES_MAX, GROUP_PROTOCOLS_MAX};

/// A request to join.
#[derive(Clone, Debug)]
pub struct Join {
    /// `None` for a client that has no id yet.
    pub member: Option<MemberId>,
    /// The id for a client that has none: unique, drawn outside, because the state machine has no randomness.
    pub fresh: MemberId,
    pub instance: Option<InstanceId>,
    /// A new dynamic member must come back with its id (JoinGroup v4).
    pub id_required: bool,
    /// The client understands `skipAssignment` (JoinGroup v9).
    pub may_skip: bool,
    /// As the client names itself.
    pub client_id: String,
    /// Where it connects from.
    pub client_host: String,
    /// How long it may be silent.
    pub session: Duration,
    /// How long it may take to join again.
    pub rebalance: Duration,
    pub protocol_type: ProtocolName,
    pub protocols: Vec<(ProtocolName, Bytes)>,
}

impl Join {
    /// Bytes that the group keeps of the member.
    fn bytes(&self) -> usize {
        let protocols = self.protocols.iter().map(|(name, metadata)| name.as_str().len() + metadata.len());
        let instance = self.instance.as_ref().map_or(0, |instance| instance.as_str().len());
        protocols.sum::<usize>() + instance + self.client_id.len() + self.client_host.len()
    }
}

impl Group {
    /// A member joins; its answer comes as [`Effect::Joined`] under `ticket`, now or when the barrier lifts.
    pub fn join(&mut self, now: Mono, join: Join, ticket: Ticket, effects: &mut Vec<Effect>) {
        if let Err(error) = self.try_join(now, join, ticket, effects) {
            effects.push(Effect::Joined(ticket, Err(error)));
        }
    }

    fn try_join(&mut self, now: Mono, join: Join, ticket: Ticket, fx: &mut Vec<Effect>) -> Result<(), GroupError> {
        if join.session < self.times.session_min || join.session > self.times.session_max {
            return Err(GroupError::InvalidSessionTimeout(super::to_ms(join.session)));
        }
        let (found, max) = (join.bytes(), GROUP_MEMBER_BYTES_MAX);
        if found > max {
            return Err(GroupError::MemberTooLarge { found, max });
        }
        if !self.has_room_for(join.member.as_ref()) {
            if let Some(id) = &join.member {
                self.pending.remove(id);
            }
            return Err(GroupError::Full(self.times.members_max));
        }
        if !self.speaks_with_all(&join) {
            return Err(GroupError::InconsistentProtocol);
        }
        match join.member.clone() {
            None => self.join_new(now, join, ticket, fx),
            Some(id) => self.join_known(now, id, join, ticket, fx),
        }
    }

    fn has_room_for(&self, member: Option<&MemberId>) -> bool {
        let known = member.and_then(|id| self.members.get(id));
        let taken = match self.phase {
            Phase::Empty => return true,
            Phase::Preparing(_) if known.is_some_and(|m| m.joining.is_some()) => return true,
            Phase::Preparing(_) => self.members.values().filter(|m| m.joining.is_some()).count(),
            Phase::Completing { .. } | Phase::Stable { .. } if known.is_some() => return true,
            Phase::Completing { .. } | Phase::Stable { .. } => self.members.len(),
        };
        taken < self.times.members_max
    }

    /// Of the group's type, with no more protocols than may be, and with one that every member speaks?
    fn speaks_with_all(&self, join: &Join) -> bool {
        let counts = 1..=GROUP_PROTOCOLS_MAX;
        if join.protocol_type.as_str().is_empty() || !counts.contains(&join.protocols.len()) {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        self.protocol_type.as_ref() == Some(&join.protocol_type)
            && join.protocols.iter().any(|(name, _)| self.all_speak(name))
    }

    pub(super) fn all_speak(&self, protocol: &ProtocolName) -> bool {
        self.spoken.by(protocol) == self.members.len()
    }

    fn join_new(&mut self, now: Mono, join: Join, ticket: Ticket, fx: &mut Vec<Effect>) -> Result<(), GroupError> {
        if let Some(instance) = &join.instance {
            match self.instances.get(instance).cloned() {
                Some(old) => self.replace_static(now, &old, join, ticket, fx),
                None => self.admit(now, join.fresh.clone(), join, ticket, fx),
            }
            return Ok(());
        }
        if join.id_required {
            self.give_id(join.fresh.clone(), now + join.session);
            return Err(GroupError::MemberIdRequired(join.fresh));
        }
        self.admit(now, join.fresh.clone(), join, ticket, fx);
        Ok(())
    }

    /// Notes an id that was given out. There are never more of them than members allowed, so that a client that asks
    /// again and again cannot fill the memory. The id that would lapse first is forgotten; its client asks for another.
    fn give_id(&mut self, id: MemberId, lapses: Mono) {
        while self.pending.len() >= self.times.members_max.max(PENDING_FLOOR) {
            let first = self.pending.iter().min_by_key(|(_, lapses)| **lapses).map(|(id, _)| id.clone());
            let Some(first) = first else { break };
            self.pending.remove(&first);
        }
        self.pending.insert(id, lapses);
    }

    fn join_known(
        &mut self,
        now: Mono,
        id: MemberId,
        join: Join,
        ticket: Ticket,
        fx: &mut Vec<Effect>,
    ) -> Result<(), GroupError> {
        if join.instance.is_none() && self.pending.remove(&id).is_some() {
            self.admit(now, id, join, ticket, fx);
            return Ok(());
        }
        self.check_member(&id, join.instance.as_ref())?;
        let same = self.members.get(&id).is_some_and(|member| member.protocols == join.protocols);
        let leads = self.leader.as_ref() == Some(&id);
        match self.phase {
            Phase::Empty => return Err(GroupError::UnknownMember),
            // It joined before and did not get the answer, or a follower joins again for no reason: nothing changes.
            Phase::Completing { .. } if same => fx.push(Effect::Joined(ticket, Ok(self.joined(&id)))),
            Phase::Stable { .. } if same && !leads => fx.push(Effect::Joined(ticket, Ok(self.joined(&id)))),
            Phase::Preparing(_) | Phase::Completing { .. } | Phase::Stable { .. } => {
                self.update(&id, join, ticket, fx);
                self.rebalance_or_complete(now, fx);
            }
        }
        Ok(())
    }

    /// A member that was not one before.
    fn admit(&mut self, now: Mono, id: MemberId, join: Join, ticket: Ticket, fx: &mut Vec<Effect>) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(id.clone());
        }
        if let Some(instance) = &join.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        if let Phase::Preparing(preparing) = &mut self.phase {
            preparing.initial = preparing.initial.map(|(left, _)| (left, true));
        }
        let wait = JoinWait { ticket, may_skip: join.may_skip };
        let member = Member {
            instance: join.instance,
            client_id: join.client_id,
            client_host: join.client_host,
            session: join.session,
            rebalance: join.rebalance,
            protocols: join.protocols,
            assignment: Bytes::new(),
            joining: Some(wait),
            syncing: None,
            synced: false,
            is_new: true,
            deadline: now + NEW_MEMBER_TIMEOUT,
        };
        self.insert(id, member);
        self.rebalance_or_complete(now, fx);
    }

    /// A member joins again; its join that still waits is refused.
    fn update(&mut self, id: &MemberId, join: Join, ticket: Ticket, fx: &mut Vec<Effect>) {
        let Some(member) = self.members.get_mut(id) else { return };
        if let Some(old) = member.joining.replace(JoinWait { ticket, may_skip: join.may_skip }) {
            fx.push(Effect::Joined(old.ticket, Err(GroupError::RebalanceInProgress)));
        }
        member.session = join.session;
        member.rebalance = join.rebalance;
        self.spoken.add(&join.protocols);
        self.spoken.take(&member.protocols);
        member.protocols = join.protocols;
        member.client_id = join.client_id;
        member.client_host = join.client_host;
    }

    /// A static member's new process takes over its id, assignment and, in a stable group, generation.
    fn replace_static(&mut self, now: Mono, old: &MemberId, join: Join, ticket: Ticket, fx: &mut Vec<Effect>) {
        let Some(mut member) = self.members.remove(old) else { return };
        let id = join.fresh.clone();
        if let Some(instance) = member.instance.clone() {
            if let Some(wait) = member.joining.take() {
                fx.push(Effect::Joined(wait.ticket, Err(GroupError::Fenced(instance.clone()))));
            }
            if let Some(waiting) = member.syncing.take() {
                fx.push(Effect::Synced(waiting, Err(GroupError::Fenced(instance.clone()))));
            }
            self.instances.insert(instance, id.clone());
        }
        member.deadline = now + join.session;
        self.members.insert(id.clone(), member);
        if self.leader.as_ref() == Some(old) {
            self.leader = Some(id.clone());
        }
        self.update(&id, join, ticket, fx);
        match self.phase {
            Phase::Stable { .. } if self.choose_protocol() == self.protocol => {
                fx.push(Effect::Save(SaveCause::Replaced { member: id, old: old.clone() }));
            }
            _ => self.rebalance_or_complete(now, fx),
        }
    }

    /// The replacement of a static member is written (or not): answers its join with the current generation.
    ///
    /// A client that does not know `skipAssignment` gets the id that it replaced as the leader, so that it does not
    /// assign partitions again.
    pub(super) fn replacement_saved(
        &mut self,
        id: &MemberId,
        old: &MemberId,
        saved: Result<(), GroupError>,
        now: Mono,
        fx: &mut Vec<Effect>,
    ) {
        if !matches!(self.phase, Phase::Stable { .. }) {
            return;
        }
        let Some(wait) = self.members.get_mut(id).and_then(|member| member.joining.take()) else { return };
        if let Err(error) = saved {
            self.members.get_mut(id).into_iter().for_each(|member| member.touch(now));
            fx.push(Effect::Joined(wait.ticket, Err(error)));
            return;
        }
        let mut joined = self.joined(id);
        let leads = joined.leader == *id;
        joined.skip_assignment = leads && wait.may_skip;
        if leads && !wait.may_skip {
            joined.leader = old.clone();
            joined.members.clear();
        }
        self.members.get_mut(id).into_iter().for_each(|member| member.touch(now));
        fx.push(Effect::Joined(wait.ticket, Ok(joined)));
    }

    /// The answer to a join of this generation.
    pub(super) fn joined(&self, id: &MemberId) -> Joined {
        let leader = self.leader.clone().unwrap_or_else(|| MemberId::from(""));
        let list = |(id, member): (&MemberId, &Member)| JoinedMember {
            id: id.clone(),
            instance: member.instance.clone(),
            metadata: member.metadata(self.protocol.as_ref()),
        };
        let members = if leader == *id { self.members.iter().map(list).collect() } else { Vec::new() };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            member: id.clone(),
            members,
            skip_assignment: false,
        }
    }
}
