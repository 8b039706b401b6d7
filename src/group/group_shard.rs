//! The groups of one partition of `__consumer_offsets`, and their answers. *Shard-local*; nothing here waits.
//!
//! Owns the groups and the replies that are outstanding. Does not own the log: a change that must be written is queued
//! as an [`Intent`] and comes back through [`GroupShard::finish`](super::append).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tidewater_storage::env::Mono;
use tidewater_storage::model::{Offset, TimestampMs, TopicId};

use super::append::{Intent, LogState};
use super::coordinator::GroupSettings;
use super::error::GroupError;
use super::ids::{GroupId, MemberId, ProtocolName};
use super::message::{
    Answer, Ask, Commit, CommitAsk, DescribedGroup, DescribedMember, FetchAsk, FetchedOffset, GroupProgress, Heartbeat,
    ListedGroup,
};
use super::offsets::Offsets;
use super::record::GroupRecord;
use super::state::{Effect, Group, Join, Joined, StateName, Sync, Synced, Ticket};
use super::subscription;
use crate::controller::image::ClusterImage;

/// A group, its offsets, and its last record in the log.
#[derive(Debug)]
pub(super) struct HeldGroup {
    pub(super) group: Group,
    pub(super) offsets: Offsets,
    /// The value of its last metadata record.
    pub(super) saved: Option<Bytes>,
    /// When it last had members.
    pub(super) in_use_until: TimestampMs,
    /// The time it is queued for in the deadline queue.
    pub(super) queued: Option<Mono>,
}

/// The groups of a partition.
#[derive(Debug)]
pub(super) struct GroupShard {
    pub(super) groups: BTreeMap<GroupId, HeldGroup>,
    pub(super) settings: GroupSettings,
    /// What must be written, in order.
    pub(super) queue: VecDeque<Intent>,
    pub(super) queue_bytes: usize,
    pub(super) log: LogState,
    /// Topics with offsets here, as they were when an offset was committed.
    topics: HashMap<Arc<str>, TopicId>,
    /// Offsets are held of topics that an image lacked while it did not know all topics.
    has_unknown: bool,
    joins: HashMap<Ticket, Answer<Joined>>,
    syncs: HashMap<Ticket, Answer<Synced>>,
    tickets: u64,
}

/// Bytes and entries of queued writes; beyond that commits are refused and clients retry.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;
const QUEUE_LEN_MAX: usize = 8192;

/// The time of a request, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) now: Mono,
    pub(super) wall: TimestampMs,
}

impl GroupShard {
    pub(super) fn new(groups: BTreeMap<GroupId, HeldGroup>, settings: GroupSettings, log: LogState) -> Self {
        Self {
            groups,
            settings,
            queue: VecDeque::new(),
            queue_bytes: 0,
            log,
            topics: HashMap::new(),
            has_unknown: false,
            joins: HashMap::new(),
            syncs: HashMap::new(),
            tickets: 0,
        }
    }

    /// Answers, now or once the change is written.
    pub(super) fn ask(&mut self, at: Clocks, ask: Ask, image: &ClusterImage) {
        match ask {
            Ask::Join(id, join, reply) => self.join(at, id, *join, reply),
            Ask::Sync(id, sync, reply) => self.sync(at, &id, *sync, reply),
            Ask::Heartbeat(id, beat, reply) => reply.send(self.heartbeat(at, &id, &beat)),
            Ask::Leave(id, leaves, reply) => match self.groups.get_mut(&id) {
                None => reply.send(Ok(leaves.iter().map(|_| Err(GroupError::UnknownMember)).collect())),
                Some(slot) => {
                    let mut effects = Vec::new();
                    reply.send(Ok(slot.group.leave(at.now, &leaves, &mut effects)));
                    self.act(at, &id, effects);
                }
            },
            Ask::Commit(id, commit, reply) => self.commit(at, id, *commit, image, reply),
            Ask::Fetch(id, wanted, reply) => reply.send(Ok(self.fetch(&id, wanted))),
            Ask::List(reply) => reply.send(Ok(self.list())),
            Ask::Progress(reply) => reply.send(Ok(self.progress())),
            Ask::Describe(id, reply) => {
                reply.send(self.groups.get(&id).map(describe).ok_or(GroupError::NotFound));
            }
            Ask::Delete(id, reply) => self.delete(id, reply),
            Ask::DeleteOffsets(id, keys, reply) => self.delete_offsets(id, keys, reply),
        }
    }

    /// Answers everything that waits with an error: the groups are led elsewhere, or will be read again.
    pub(super) fn abandon(self, error: &GroupError) {
        self.joins.into_values().for_each(|reply| reply.send(Err(error.clone())));
        self.syncs.into_values().for_each(|reply| reply.send(Err(error.clone())));
        self.queue.into_iter().for_each(|intent| intent.refuse(error.clone()));
    }

    /// Is the group queued for a time before this member expires?
    pub(super) fn is_looked_at_in_time(&self, id: &GroupId, member: &MemberId) -> bool {
        let Some(slot) = self.groups.get(id) else { return false };
        slot.queued.is_some_and(|at| slot.group.deadline_of(member).is_none_or(|deadline| at <= deadline))
    }

    /// Lets time act on a group.
    pub(super) fn expire(&mut self, at: Clocks, id: &GroupId) {
        let Some(slot) = self.groups.get_mut(id) else { return };
        slot.queued = None;
        let mut effects = Vec::new();
        slot.group.expire(at.now, &mut effects);
        self.act(at, id, effects);
    }

    /// Carries out the effects; drops a group that has no members and no state.
    pub(super) fn act(&mut self, at: Clocks, id: &GroupId, effects: Vec<Effect>) {
        if let Some(held) = self.groups.get(id).filter(|_| !effects.is_empty()) {
            let (generation, state) = (held.group.generation(), held.group.state().as_str());
            let members: Vec<_> = held.group.members().map(|(member, _)| member.as_str()).collect();
            tracing::debug!(group = %id, generation, state, ?members, ?effects, "a group changes");
        }
        for effect in effects {
            match effect {
                Effect::Joined(ticket, answer) => {
                    self.joins.remove(&ticket).into_iter().for_each(|reply| reply.send(answer.clone()));
                }
                Effect::Synced(ticket, answer) => {
                    self.syncs.remove(&ticket).into_iter().for_each(|reply| reply.send(answer.clone()));
                }
                Effect::Save(cause) => {
                    let Some(slot) = self.groups.get_mut(id) else { continue };
                    slot.in_use_until = at.wall;
                    let saved = Some(slot.group.saved_form(at.wall));
                    let record = GroupRecord::Group { group: id.to_string(), saved }.encode();
                    self.queue(Intent::Save { group: id.clone(), cause, record });
                }
            }
        }
        if self.groups.get(id).is_some_and(HeldGroup::is_nothing) {
            self.groups.remove(id);
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn slot(&mut self, id: &GroupId, wall: TimestampMs) -> &mut HeldGroup {
        let times = self.settings.times();
        self.groups.entry(id.clone()).or_insert_with(|| HeldGroup {
            group: Group::new(id.clone(), times),
            offsets: Offsets::default(),
            saved: None,
            in_use_until: wall,
            queued: None,
        })
    }

    fn join(&mut self, at: Clocks, id: GroupId, join: Join, reply: Answer<Joined>) {
        if join.member.is_some() && !self.groups.contains_key(&id) {
            return reply.send(Err(GroupError::UnknownMember));
        }
        let ticket = self.ticket();
        self.joins.insert(ticket, reply);
        let mut effects = Vec::new();
        self.slot(&id, at.wall).group.join(at.now, join, ticket, &mut effects);
        self.act(at, &id, effects);
    }

    fn sync(&mut self, at: Clocks, id: &GroupId, sync: Sync, reply: Answer<Synced>) {
        let ticket = self.ticket();
        let Some(slot) = self.groups.get_mut(id) else { return reply.send(Err(GroupError::UnknownMember)) };
        self.syncs.insert(ticket, reply);
        let mut effects = Vec::new();
        slot.group.sync(at.now, sync, ticket, &mut effects);
        self.act(at, id, effects);
    }

    fn heartbeat(&mut self, at: Clocks, id: &GroupId, beat: &Heartbeat) -> Result<(), GroupError> {
        let slot = self.groups.get_mut(id).ok_or(GroupError::UnknownMember)?;
        slot.group.heartbeat(at.now, &beat.member, beat.instance.as_ref(), beat.generation)
    }

    fn commit(
        &mut self,
        at: Clocks,
        id: GroupId,
        ask: CommitAsk,
        image: &ClusterImage,
        reply: Answer<Vec<Result<(), GroupError>>>,
    ) {
        if let Err(error) = self.may_commit(at, &id, &ask) {
            return reply.send(Err(error));
        }
        let max = self.settings.metadata_max;
        let expires_at = ask.retention_ms.map(|keep| at.wall.plus_ms(keep));
        let mut answers = Vec::with_capacity(ask.offsets.len());
        let mut commits = Vec::with_capacity(ask.offsets.len());
        for (topic, partition, commit) in ask.offsets {
            let known = image.topic(&topic).filter(|t| t.partition(partition).is_some());
            answers.push(match known {
                None => Err(GroupError::UnknownPartition),
                Some(_) if commit.metadata.len() > max => {
                    Err(GroupError::MetadataTooLarge { found: commit.metadata.len(), max })
                }
                Some(image) => {
                    self.topics.insert(Arc::clone(&topic), image.id);
                    let commit = Commit { at: at.wall, expires_at, topic: Some(image.id), ..commit };
                    commits.push((topic, partition, commit));
                    Ok(())
                }
            });
        }
        if commits.is_empty() {
            return reply.send(Ok(answers));
        }
        let intent = Intent::commit(id, commits, answers, reply);
        let (found, max) = (intent.bytes(), super::append::INTENT_BYTES_MAX);
        if found > max {
            intent.refuse(GroupError::CommitTooLarge { found, max });
        } else {
            self.queue(intent);
        }
    }

    fn may_commit(&mut self, at: Clocks, id: &GroupId, ask: &CommitAsk) -> Result<(), GroupError> {
        match self.groups.get_mut(id) {
            Some(slot) => slot.group.commit(at.now, ask.member.as_ref(), ask.instance.as_ref(), ask.generation)?,
            None if ask.generation >= 0 => return Err(GroupError::NotFound),
            // A group that only stores offsets exists once its first commit is written.
            None => {}
        }
        if self.queue.len() < QUEUE_LEN_MAX && self.queue_bytes < QUEUE_BYTES_MAX {
            Ok(())
        } else {
            Err(GroupError::NotAvailable)
        }
    }

    /// Applies commits whose record is at `offset`. Commits to a topic that was deleted while they waited are removed:
    /// a new topic of that name has other records.
    pub(super) fn committed(
        &mut self,
        id: &GroupId,
        commits: Vec<(Arc<str>, i32, Commit)>,
        wall: TimestampMs,
        place: Offset,
    ) {
        let is_current = |(topic, _, commit): &(Arc<str>, i32, Commit)| self.topics.get(topic) == commit.topic.as_ref();
        let (current, late): (Vec<_>, Vec<_>) = commits.into_iter().partition(is_current);
        if !late.is_empty() {
            let keys = late.into_iter().map(|(topic, partition, _)| (topic, partition)).collect();
            // Nothing is in flight now, and commits to the new topic may wait: the removal goes before them.
            self.queue_first(Intent::Remove { group: id.clone(), keys, answer: None });
        }
        if current.is_empty() {
            return;
        }
        let slot = self.slot(id, wall);
        for (topic, partition, commit) in current {
            slot.offsets.set(&topic, partition, commit, place);
        }
    }

    fn fetch(&self, id: &GroupId, wanted: FetchAsk) -> Vec<FetchedOffset> {
        let offsets = self.groups.get(id).map(|slot| &slot.offsets);
        let Some(wanted) = wanted else {
            let all = offsets.into_iter().flat_map(Offsets::iter);
            return all
                .map(|(topic, partition, commit)| FetchedOffset {
                    topic: Arc::clone(topic),
                    partition,
                    commit: Some(commit.clone()),
                })
                .collect();
        };
        let one = |topic: &Arc<str>, partition| FetchedOffset {
            topic: Arc::clone(topic),
            partition,
            commit: offsets.and_then(|offsets| offsets.get(topic, partition)).cloned(),
        };
        let mut found = Vec::new();
        for (topic, partitions) in wanted {
            let topic: Arc<str> = topic.into();
            found.extend(partitions.into_iter().map(|partition| one(&topic, partition)));
        }
        found
    }

    fn list(&self) -> Vec<ListedGroup> {
        let listed = |(id, slot): (&GroupId, &HeldGroup)| ListedGroup {
            id: id.clone(),
            protocol_type: name(slot.group.protocol_type()),
            state: slot.group.state(),
        };
        self.groups.iter().map(listed).collect()
    }

    fn progress(&self) -> Vec<GroupProgress> {
        let of = |(id, slot): (&GroupId, &HeldGroup)| GroupProgress {
            id: id.clone(),
            state: slot.group.state(),
            members: slot.group.members().count(),
            offsets: slot
                .offsets
                .iter()
                .filter_map(|(topic, n, commit)| Some((Arc::clone(topic), n, commit.offset.position()?)))
                .collect(),
        };
        self.groups.iter().map(of).collect()
    }

    fn delete(&mut self, id: GroupId, reply: Answer<()>) {
        match self.may_delete(&id) {
            Ok(()) => self.queue(Intent::Delete { group: id, reply: Some(reply) }),
            Err(error) => reply.send(Err(error)),
        }
    }

    /// A group that exists and has no members can be deleted.
    pub(super) fn may_delete(&self, id: &GroupId) -> Result<(), GroupError> {
        match self.groups.get(id) {
            None => Err(GroupError::NotFound),
            Some(slot) if !slot.group.is_vacant() => Err(GroupError::NotEmpty),
            Some(_) => Ok(()),
        }
    }

    fn delete_offsets(&mut self, id: GroupId, keys: Vec<(String, i32)>, reply: Answer<Vec<Result<(), GroupError>>>) {
        let Some(slot) = self.groups.get(&id) else { return reply.send(Err(GroupError::NotFound)) };
        let Some(subscribed) = slot.subscribed() else { return reply.send(Err(GroupError::NotEmpty)) };
        let mut answers = Vec::with_capacity(keys.len());
        let mut gone: Vec<(Arc<str>, i32)> = Vec::with_capacity(keys.len());
        for (topic, partition) in keys {
            if subscribed.has(&topic) {
                answers.push(Err(GroupError::Subscribed));
                continue;
            }
            answers.push(Ok(()));
            if slot.offsets.get(&topic, partition).is_some() {
                gone.push((topic.into(), partition));
            }
        }
        if gone.is_empty() {
            return reply.send(Ok(answers));
        }
        self.queue(Intent::Remove { group: id, keys: gone, answer: Some((answers, reply)) });
    }

    pub(super) fn queue(&mut self, intent: Intent) {
        self.queue_bytes += intent.bytes();
        self.queue.push_back(intent);
    }

    fn queue_first(&mut self, intent: Intent) {
        self.queue_bytes += intent.bytes();
        self.queue.push_front(intent);
    }

    /// Removes lapsed offsets and groups without members and offsets.
    pub(super) fn sweep(&mut self, wall: TimestampMs) {
        let due = self.groups.keys().filter(|id| self.lapsed(id, wall).is_some()).cloned().collect::<Vec<_>>();
        due.into_iter().for_each(|group| self.queue(Intent::Sweep { group }));
    }

    /// The group's lapsed offsets.
    pub(super) fn lapsed(&self, id: &GroupId, wall: TimestampMs) -> Option<Intent> {
        let slot = self.groups.get(id)?;
        let vacant = slot.group.is_vacant();
        // A group that consumes keeps the offsets of what it subscribes to; those of topics it has left lapse.
        let subscribed = slot.subscribed().filter(|_| vacant || slot.group.state() == StateName::Stable)?;
        if vacant && slot.offsets.is_empty() {
            return Some(Intent::Delete { group: id.clone(), reply: None });
        }
        let in_use_until = if vacant && slot.group.was_used() { slot.in_use_until } else { TimestampMs::NONE };
        let mut keys = slot.offsets.lapsed(wall, self.settings.offsets_retention_ms, in_use_until);
        keys.retain(|(topic, _)| !subscribed.has(topic));
        (!keys.is_empty()).then(|| Intent::Remove { group: id.clone(), keys, answer: None })
    }

    /// Offsets of topics that were deleted (and perhaps created again) are forgotten, and their removal is written.
    pub(super) fn follow_topics(&mut self, image: &ClusterImage) {
        // A source's topics are not deleted because this broker has not read its catalogue yet.
        if !image.knows_all_topics() {
            return;
        }
        if self.has_unknown {
            self.learn_topics(image);
        }
        let is_current = |topic: &Arc<str>, id: &TopicId| image.topic(topic).is_some_and(|now| now.id == *id);
        let gone = self.topics.iter().filter(|(topic, id)| !is_current(topic, id));
        let gone = gone.map(|(topic, _)| Arc::clone(topic)).collect::<Vec<_>>();
        for topic in gone {
            self.topics.remove(&topic);
            self.keep_life(&topic, None);
        }
    }

    /// After loading: notes each topic's id; offsets of a deleted topic of the same name are removed. Those of a topic
    /// that may be a source's stay until [`GroupShard::follow_topics`] has an image that knows all topics.
    pub(super) fn learn_topics(&mut self, image: &ClusterImage) {
        let held = self.groups.values().flat_map(|slot| slot.offsets.iter()).map(|(topic, _, _)| Arc::clone(topic));
        let held = held.collect::<BTreeSet<_>>();
        self.has_unknown = false;
        for topic in held {
            let now = image.topic(&topic).map(|known| known.id);
            if now.is_none() && !image.knows_all_topics() {
                self.has_unknown = true;
                continue;
            }
            self.keep_life(&topic, now);
            if let Some(id) = now {
                self.topics.insert(topic, id);
            }
        }
    }

    fn keep_life(&mut self, topic: &Arc<str>, now: Option<TopicId>) {
        let mut intents = Vec::new();
        for (id, slot) in &mut self.groups {
            let keys =
                slot.offsets.keep_life(topic, now).into_iter().map(|n| (Arc::clone(topic), n)).collect::<Vec<_>>();
            if !keys.is_empty() {
                intents.push(Intent::Remove { group: id.clone(), keys, answer: None });
            }
        }
        intents.into_iter().for_each(|intent| self.queue(intent));
    }
}

/// What the members of a group subscribe to.
enum Subscribed {
    Everything,
    To(BTreeSet<String>),
}

impl Subscribed {
    fn has(&self, topic: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::To(topics) => topics.contains(topic),
        }
    }
}

impl HeldGroup {
    /// Never used, nothing stored: a join that was refused, an id that was never taken up.
    fn is_nothing(&self) -> bool {
        self.group.is_vacant() && !self.group.was_used() && self.offsets.is_empty() && self.saved.is_none()
    }

    /// Topics its members subscribe to; `None` when it has members and they are no consumers. A member whose
    /// subscription cannot be read counts as subscribed to everything.
    fn subscribed(&self) -> Option<Subscribed> {
        if self.group.is_vacant() {
            return Some(Subscribed::To(BTreeSet::new()));
        }
        if self.group.protocol_type().map(ProtocolName::as_str) != Some("consumer") {
            return None;
        }
        let metadata = self.group.members().flat_map(|(_, member)| member.protocols.iter().map(|(_, bytes)| bytes));
        let topics = metadata.map(subscription::topics).collect::<Option<Vec<_>>>();
        Some(topics.map_or(Subscribed::Everything, |topics| Subscribed::To(topics.into_iter().flatten().collect())))
    }
}

fn name(name: Option<&ProtocolName>) -> String {
    name.map(ToString::to_string).unwrap_or_default()
}

/// Protocol, metadata and shares are shown only of a stable group, as Kafka does.
fn describe(slot: &HeldGroup) -> DescribedGroup {
    let group = &slot.group;
    let stable = group.state() == StateName::Stable;
    let members = group.members().map(|(id, member)| DescribedMember {
        id: id.clone(),
        instance: member.instance.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        metadata: if stable { member.metadata(group.protocol()) } else { Bytes::new() },
        assignment: if stable { member.assignment.clone() } else { Bytes::new() },
    });
    DescribedGroup {
        state: group.state(),
        protocol_type: name(group.protocol_type()),
        protocol: if stable { name(group.protocol()) } else { String::new() },
        members: members.collect(),
    }
}
