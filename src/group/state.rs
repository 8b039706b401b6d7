//! One classic consumer group as a pure state machine: commands and elapsed time in, new state and effects out.
//!
//! Owns membership, generations, the join and sync barriers and every deadline of the group. Does not own the
//! committed offsets (`offsets.rs`), the log (`coordinator.rs`) or any clock: time is an argument, and answers are
//! [`Effect`]s that name the waiting request by its [`Ticket`]. *Shard-local.*
//!
//! States and transitions are those of Kafka's `ClassicGroup`:
//!
//! ```text
//! Empty ──join──▶ Preparing ──all joined / time-out──▶ Completing ──leader's sync, written──▶ Stable
//!   ▲                │  ▲                                   │                                  │
//!   └──all left──────┘  └──join, leave, expiry──────────────┴──────────────────────────────────┘
//! ```

mod join;
mod leave;
mod rebalance;
mod spoken;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::env::Mono;
use tidewater_storage::model::TimestampMs;

use super::error::GroupError;
use super::ids::{GroupId, InstanceId, MemberId, ProtocolName};

pub use join::Join;
pub use leave::Leave;
use spoken::Spoken;
pub use sync::Sync;

/// Limits and delays of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct GroupTimes {
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members after the first.
    pub initial_delay: Duration,
    /// `group.min.session.timeout.ms`.
    pub session_min: Duration,
    /// `group.max.session.timeout.ms`.
    pub session_max: Duration,
    /// `group.max.size`.
    pub members_max: usize,
}

/// How long a new member may wait in a join before it expires. It has no id to send heartbeats with, and a client that
/// gave up would stay a member. Kafka: `CLASSIC_GROUP_NEW_MEMBER_SESSION_TIMEOUT_MS`.
const NEW_MEMBER_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Member ids that may be given out and not yet used, also in a group that allows fewer members: each is for a moment.
const PENDING_FLOOR: usize = 100;

/// Names a request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// An action for the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Answer a waiting join.
    Joined(Ticket, Result<Joined, GroupError>),
    /// Answer a waiting sync.
    Synced(Ticket, Result<Synced, GroupError>),
    /// Write the group's metadata record, then call [`Group::saved`] with this cause.
    Save(SaveCause),
}

/// Why the metadata is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaveCause {
    /// The leader's assignments of this generation.
    Assigned(i32),
    /// The last member left.
    Emptied,
    /// A static member came back under a new id without a rebalance.
    Replaced { member: MemberId, old: MemberId },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub generation: i32,
    pub protocol_type: Option<ProtocolName>,
    pub protocol: Option<ProtocolName>,
    pub leader: MemberId,
    pub member: MemberId,
    /// All members, for the leader; empty for others.
    pub members: Vec<JoinedMember>,
    /// The leader need not assign again (KIP-814).
    pub skip_assignment: bool,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    pub id: MemberId,
    pub instance: Option<InstanceId>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    pub protocol_type: Option<ProtocolName>,
    pub protocol: Option<ProtocolName>,
    pub assignment: Bytes,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub instance: Option<InstanceId>,
    /// As its client names itself.
    pub client_id: String,
    /// Where it connects from.
    pub client_host: String,
    /// How long it may be silent.
    pub session: Duration,
    /// How long it may take to join again.
    pub rebalance: Duration,
    /// Protocols it speaks, best first, with its metadata for each.
    pub protocols: Vec<(ProtocolName, Bytes)>,
    /// Its share in the current generation.
    pub assignment: Bytes,
    /// Its join that waits.
    joining: Option<JoinWait>,
    /// Its sync that waits.
    syncing: Option<Ticket>,
    /// Has it synced in this generation?
    synced: bool,
    /// It has not been through a rebalance yet.
    is_new: bool,
    /// When it expires.
    deadline: Mono,
}

#[derive(Clone, Copy, Debug)]
struct JoinWait {
    ticket: Ticket,
    /// The client understands `skipAssignment` (JoinGroup v9).
    may_skip: bool,
}

impl Member {
    /// Its metadata for `protocol`.
    #[must_use]
    pub fn metadata(&self, protocol: Option<&ProtocolName>) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| Some(name) == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// While a barrier holds its request, a member need not send heartbeats (a new one may still expire).
    fn waits(&self) -> bool {
        !self.is_new && (self.joining.is_some() || self.syncing.is_some())
    }

    fn touch(&mut self, now: Mono) {
        self.deadline = now + self.session;
    }
}

/// The group's state, with its deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Empty,
    Preparing(Preparing),
    /// Joined; members that have not synced by `until` are dropped.
    Completing {
        until: Mono,
    },
    Stable {
        until: Option<Mono>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Preparing {
    /// When the barrier is lifted even if members are missing.
    until: Mono,
    /// Set during the first rebalance of an empty group: the rest of the rebalance timeout, and whether a member joined
    /// since the last extension.
    initial: Option<(Duration, bool)>,
}

/// The group's state as Kafka's tools name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateName {
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignments.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
    Dead,
}

impl StateName {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

#[derive(Debug)]
pub struct Group {
    id: GroupId,
    times: GroupTimes,
    phase: Phase,
    generation: i32,
    protocol_type: Option<ProtocolName>,
    protocol: Option<ProtocolName>,
    leader: Option<MemberId>,
    members: BTreeMap<MemberId, Member>,
    /// Of `members`.
    spoken: Spoken,
    instances: BTreeMap<InstanceId, MemberId>,
    /// Ids handed out and not yet used, with the time they lapse.
    pending: BTreeMap<MemberId, Mono>,
}

/// What a metadata record says of a group: input of [`Group::restore`], output of [`Group::saved_form`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedGroup {
    /// Protocol type; empty for a group that only stores offsets.
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    /// When it last changed.
    pub changed: TimestampMs,
    pub members: Vec<SavedMember>,
}

/// What a metadata record says of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedMember {
    pub id: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub client_host: String,
    /// Milliseconds.
    pub rebalance_ms: i32,
    /// Milliseconds.
    pub session_ms: i32,
    /// Its metadata for the group's protocol.
    pub subscription: Bytes,
    pub assignment: Bytes,
}

impl Group {
    /// A group without members.
    #[must_use]
    pub fn new(id: GroupId, times: GroupTimes) -> Self {
        Self {
            id,
            times,
            phase: Phase::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            spoken: Spoken::default(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    /// The group of a metadata record, at `now`: members keep their assignments and have a session timeout to send a
    /// heartbeat. A group with more members than are allowed now rebalances, and the last to join are refused.
    #[must_use]
    pub fn restore(id: GroupId, times: GroupTimes, saved: SavedGroup, now: Mono) -> Self {
        let mut group = Self::new(id, times);
        group.generation = saved.generation;
        group.protocol_type = (!saved.protocol_type.is_empty()).then(|| saved.protocol_type.into());
        group.protocol = saved.protocol.map(ProtocolName::from);
        group.leader = saved.leader.map(MemberId::from);
        for member in saved.members {
            let id = MemberId::from(member.id);
            let instance = member.instance.map(InstanceId::from);
            if let Some(instance) = &instance {
                group.instances.insert(instance.clone(), id.clone());
            }
            let session = millis(member.session_ms);
            let protocols: Vec<_> =
                group.protocol.iter().map(|name| (name.clone(), member.subscription.clone())).collect();
            group.insert(
                id,
                Member {
                    instance,
                    client_id: member.client_id,
                    client_host: member.client_host,
                    session,
                    rebalance: millis(member.rebalance_ms),
                    protocols,
                    assignment: member.assignment,
                    joining: None,
                    syncing: None,
                    synced: true,
                    is_new: false,
                    deadline: now + session,
                },
            );
        }
        if group.members.len() > times.members_max {
            let until = now + group.rebalance_timeout();
            group.phase = Phase::Preparing(Preparing { until, initial: None });
        } else if !group.members.is_empty() {
            group.phase = Phase::Stable { until: None };
        }
        group
    }

    /// The group's metadata record, at the wall clock's `now`.
    #[must_use]
    pub fn saved_form(&self, now: TimestampMs) -> SavedGroup {
        let members = self.members.iter().map(|(id, member)| SavedMember {
            id: id.to_string(),
            instance: member.instance.as_ref().map(ToString::to_string),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_ms: to_ms(member.rebalance),
            session_ms: to_ms(member.session),
            subscription: member.metadata(self.protocol.as_ref()),
            assignment: member.assignment.clone(),
        });
        SavedGroup {
            protocol_type: self.protocol_type.as_ref().map(ToString::to_string).unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.as_ref().map(ToString::to_string),
            leader: self.leader.as_ref().map(ToString::to_string),
            changed: now,
            members: members.collect(),
        }
    }

    #[must_use]
    pub fn id(&self) -> &GroupId {
        &self.id
    }

    #[must_use]
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// Its protocol type (`consumer`); `None` for a group that only stores offsets.
    #[must_use]
    pub fn protocol_type(&self) -> Option<&ProtocolName> {
        self.protocol_type.as_ref()
    }

    /// Its protocol, once chosen.
    #[must_use]
    pub fn protocol(&self) -> Option<&ProtocolName> {
        self.protocol.as_ref()
    }

    pub fn members(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter()
    }

    /// Has it neither members nor ids given out?
    #[must_use]
    pub fn is_vacant(&self) -> bool {
        self.phase == Phase::Empty && self.pending.is_empty()
    }

    /// Has it ever been through a rebalance? A group created by an admin's commit has not.
    #[must_use]
    pub fn was_used(&self) -> bool {
        self.generation > 0
    }

    #[must_use]
    pub fn state(&self) -> StateName {
        match self.phase {
            Phase::Empty => StateName::Empty,
            Phase::Preparing(_) => StateName::PreparingRebalance,
            Phase::Completing { .. } => StateName::CompletingRebalance,
            Phase::Stable { .. } => StateName::Stable,
        }
    }

    /// When [`Group::expire`] next has something to do; `None` while nothing can lapse.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        let barrier = match self.phase {
            Phase::Empty => None,
            Phase::Preparing(preparing) => Some(preparing.until),
            Phase::Completing { until } => Some(until),
            Phase::Stable { until } => until,
        };
        let sessions = self.members.values().filter(|member| !member.waits()).map(|member| member.deadline);
        barrier.into_iter().chain(sessions).chain(self.pending.values().copied()).min()
    }

    /// When a member expires unless it sends a heartbeat.
    #[must_use]
    pub fn deadline_of(&self, member: &MemberId) -> Option<Mono> {
        self.members.get(member).map(|member| member.deadline)
    }

    /// Expires sessions, unused ids and barriers whose deadline is not after `now`.
    pub fn expire(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        self.pending.retain(|_, deadline| *deadline > now);
        let silent = self.members.iter().filter(|(_, m)| !m.waits() && m.deadline <= now).map(|(id, _)| id.clone());
        let silent = silent.collect::<Vec<_>>();
        for id in &silent {
            self.remove(id, effects);
        }
        self.after_loss(!silent.is_empty(), now, effects);
        match self.phase {
            Phase::Preparing(preparing) if preparing.until <= now => self.barrier_lapsed(preparing, now, effects),
            Phase::Completing { until } | Phase::Stable { until: Some(until) } if until <= now => {
                self.drop_unsynced(now, effects);
            }
            _ => {}
        }
    }

    /// Checks the sender of a request, as Kafka's `validateMember` does.
    fn check_member(&self, id: &MemberId, instance: Option<&InstanceId>) -> Result<(), GroupError> {
        if let Some(instance) = instance {
            match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if current != id => return Err(GroupError::Fenced(instance.clone())),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(GroupError::UnknownMember) }
    }

    fn check_generation(&self, found: i32) -> Result<(), GroupError> {
        if found == self.generation {
            Ok(())
        } else {
            Err(GroupError::IllegalGeneration { current: self.generation, found })
        }
    }

    fn insert(&mut self, id: MemberId, member: Member) {
        self.spoken.add(&member.protocols);
        if let Some(old) = self.members.insert(id, member) {
            self.spoken.take(&old.protocols);
        }
    }

    /// Takes a member out; its waiting requests are refused.
    fn remove(&mut self, id: &MemberId, effects: &mut Vec<Effect>) {
        let Some(member) = self.members.remove(id) else { return };
        self.spoken.take(&member.protocols);
        if let Some(wait) = member.joining {
            effects.push(Effect::Joined(wait.ticket, Err(GroupError::UnknownMember)));
        }
        if let Some(ticket) = member.syncing {
            effects.push(Effect::Synced(ticket, Err(GroupError::UnknownMember)));
        }
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
        if self.leader.as_ref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// After members (or only unused ids) were removed: rebalances, or lifts the barrier if it is complete now.
    fn after_loss(&mut self, of_members: bool, now: Mono, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Preparing(_) => self.complete_if_all_joined(now, effects),
            Phase::Completing { .. } | Phase::Stable { .. } if of_members => self.prepare(now, effects),
            Phase::Empty | Phase::Completing { .. } | Phase::Stable { .. } => {}
        }
    }
}

/// Milliseconds of the wire, negative ones as none.
fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn to_ms(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
