//! One classic consumer group as a pure state machine: commands and elapsed time in, new state and effects out.
//!
//! Owns membership, generations, the join and sync barriers and every deadline of the group. Does not own the
//! committed offsets (`offsets.rs`), the log (`coordinator.rs`) or any clock: time is an argument, and answers leave
//! as [`Effect`]s that name the waiting request by its [`Ticket`]. *Shard-local.*
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

/// How long a new member may wait in a join before it is taken for gone. It has no id to heartbeat with, and a client
/// that gave up would stay as a ghost. Kafka: `CLASSIC_GROUP_NEW_MEMBER_SESSION_TIMEOUT_MS`.
const NEW_MEMBER_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Ids that are given out and not yet used, of a group that may have fewer members than this: they are for a moment each.
const PENDING_FLOOR: usize = 100;

/// Names a request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the machine wants done.
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
    Replaced {
        /// Its id now.
        member: MemberId,
        /// And before.
        old: MemberId,
    },
}

/// A join's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The new generation.
    pub generation: i32,
    /// Protocol type.
    pub protocol_type: Option<ProtocolName>,
    /// Protocol chosen.
    pub protocol: Option<ProtocolName>,
    /// Who assigns.
    pub leader: MemberId,
    /// Who is told.
    pub member: MemberId,
    /// Everybody, for the leader; empty for others.
    pub members: Vec<JoinedMember>,
    /// The leader need not assign again (KIP-814).
    pub skip_assignment: bool,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub id: MemberId,
    /// Its static identity.
    pub instance: Option<InstanceId>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// A sync's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Protocol type.
    pub protocol_type: Option<ProtocolName>,
    /// Protocol chosen.
    pub protocol: Option<ProtocolName>,
    /// The member's share.
    pub assignment: Bytes,
}

/// One member.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its static identity.
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
    /// Not been through a rebalance yet.
    is_new: bool,
    /// When it is given up.
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

    /// While a barrier holds its request, a member need not heartbeat (a new one may still be given up).
    fn waits(&self) -> bool {
        !self.is_new && (self.joining.is_some() || self.syncing.is_some())
    }

    fn touch(&mut self, now: Mono) {
        self.deadline = now + self.session;
    }
}

/// Where the group stands.
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
    /// When the barrier is lifted whoever is missing.
    until: Mono,
    /// Set during the first rebalance of an empty group: what is left of the rebalance timeout, and whether somebody
    /// came since the last extension.
    initial: Option<(Duration, bool)>,
}

/// The group's state as Kafka's tools name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateName {
    /// No members.
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignments.
    CompletingRebalance,
    /// Everyone has a share.
    Stable,
    /// Does not exist.
    Dead,
}

impl StateName {
    /// Kafka's spelling.
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

/// One group.
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
    /// Generation.
    pub generation: i32,
    /// Protocol.
    pub protocol: Option<String>,
    /// Leader.
    pub leader: Option<String>,
    /// When it last changed.
    pub changed: TimestampMs,
    /// Members.
    pub members: Vec<SavedMember>,
}

/// What a metadata record says of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedMember {
    /// Its id.
    pub id: String,
    /// Static identity.
    pub instance: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Client host.
    pub client_host: String,
    /// Milliseconds.
    pub rebalance_ms: i32,
    /// Milliseconds.
    pub session_ms: i32,
    /// Its metadata for the group's protocol.
    pub subscription: Bytes,
    /// Its share.
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

    /// The group as its record says, at `now`: members keep their places and have a session's time to be heard. One with
    /// more members than there may be now rebalances, and those that come too late find it full.
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

    /// What the group's metadata record has to say, at the wall clock's `now`.
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

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &GroupId {
        &self.id
    }

    /// Its generation.
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

    /// Its members.
    pub fn members(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter()
    }

    /// Is nobody in it, and nobody about to be?
    #[must_use]
    pub fn is_vacant(&self) -> bool {
        self.phase == Phase::Empty && self.pending.is_empty()
    }

    /// Has it ever been through a rebalance (or is it only what an admin's commit made)?
    #[must_use]
    pub fn was_used(&self) -> bool {
        self.generation > 0
    }

    /// Its state.
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

    /// When a member is given up, if nothing is heard of it.
    #[must_use]
    pub fn deadline_of(&self, member: &MemberId) -> Option<Mono> {
        self.members.get(member).map(|member| member.deadline)
    }

    /// Lets time act: sessions, unused ids and barriers whose deadline is not after `now`.
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

    /// Checks who speaks, as Kafka's `validateMember` does.
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

    /// Takes a member out; whoever waits in its name is told.
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

    /// After members (or only unused ids) went: rebalance, or see whether the barrier is complete now.
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
