//! The effect of each entry of a data lane's log: a function of the log alone, so that all replicas of a lane reach the
//! same state. Shard-local.

use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{EntryId, LogIndex, Offset, PartitionId, Term, TimestampMs};
use tidewater_tiering::manifest;

use super::command::{CopiedRange, EntryError, LaneCommand, LaneOp, PlacedBatch};
use super::lane::{DataLane, log_settings};
use super::lane_events::LaneEvent;
use super::replica::{Birth, Replica};
use crate::config::topic::TopicConfig;
use crate::partition::message::{ProduceDone, ProduceError};
use crate::raft::{Answer, Apply};

/// The effect of an entry, for its proposer.
#[derive(Debug)]
pub enum Outcome {
    /// Per batch, in order.
    Batches(Vec<Result<ProduceDone, ProduceError>>),
    /// A command took effect, now or before.
    Done,
    /// A command, or one of a list, is older than the newest that was applied, which follows revision `newest` of the
    /// controller: it had no effect.
    Stale { newest: u64 },
    /// An archive command was applied, or why it was rejected.
    Archive(Result<manifest::Applied, manifest::Rejected>),
    /// The entry could not be understood: it changed nothing, and the lane stopped.
    Refused(EntryError),
}

/// The outcome within an answer of Raft's.
///
/// # Panics
/// When the answer is none of [`DataLane`]'s: nothing is known of the entry's effect then, and the broker must stop.
#[must_use]
pub fn outcome(answer: Answer) -> Outcome {
    match answer.take::<Outcome>() {
        Ok(outcome) => outcome,
        Err(_) => unreachable!("a data lane applied an entry and answered no outcome"),
    }
}

impl DataLane {
    fn apply_entry(&self, id: EntryId, payload: &Payload) -> Result<Outcome, EntryError> {
        Ok(match LaneOp::decode(payload)? {
            LaneOp::Batches { at, producers_after_ms, batches } => {
                Outcome::Batches(self.apply_batches(id, at, producers_after_ms, batches))
            }
            LaneOp::Command(command) => match self.apply_command(id, command) {
                true => Outcome::Done,
                false => Outcome::Stale { newest: self.revision.get() },
            },
            LaneOp::Archive(bytes) => {
                let command = manifest::Command::decode(&bytes)?;
                Outcome::Archive(self.apply_archive(id, &command))
            }
        })
    }

    fn apply_batches(
        &self,
        id: EntryId,
        at: TimestampMs,
        producers_after_ms: i64,
        batches: Vec<PlacedBatch>,
    ) -> Vec<Result<ProduceDone, ProduceError>> {
        let (replicas, now) = (self.replicas.borrow(), self.env.clock.now());
        // A checkpoint can cover only entries that are applied soon after a start.
        let repeats = id.index <= self.covered_upto.get();
        let append = |placed: PlacedBatch| {
            let partition = placed.partition;
            let replica = replicas.get(partition).ok_or(ProduceError::UnknownPartition(partition))?;
            if repeats && self.is_covered(partition, id.index) {
                return Err(ProduceError::NotLeader(None));
            }
            self.dirty.mark(partition, &replica.marks);
            replica.append(placed, id, at, now, producers_after_ms)
        };
        batches.into_iter().map(append).collect()
    }

    /// The lane decides first; only what it accepts reaches the partitions, dropped ones included.
    fn apply_archive(&self, id: EntryId, command: &manifest::Command) -> Result<manifest::Applied, manifest::Rejected> {
        let applied = self.archive.borrow_mut().apply(id.index, command)?;
        if let manifest::Command::Bundled(manifest::Bundled { events: Some(upto), .. }) = command {
            self.events.borrow_mut().forget(*upto);
        }
        // Retention moves it by this command alone; a partition that is gone has no readers.
        if let manifest::Command::Trimmed(manifest::Trimmed { partition, log_start: to, .. }) = command
            && self.replica(*partition).is_some()
        {
            self.note(id.index, LaneEvent::LogStartMoved { partition: *partition, to: *to });
        }
        self.dirty.notify();
        let (home, mut result) = (self.archive.borrow().home, Ok(applied));
        for partition in command.partitions() {
            if self.is_covered(partition, id.index) {
                continue;
            }
            let share = match self.replica(partition) {
                Some(replica) => {
                    self.engine.touch_partition(partition);
                    self.dirty.mark(partition, &replica.marks);
                    replica.with_manifest(|manifest| manifest.apply(home, self.id, id.index, command))
                }
                None => match self.gone.borrow_mut().get_mut(&partition) {
                    Some(manifest) => manifest.apply(home, self.id, id.index, command),
                    None => continue,
                },
            };
            result = result.and(share);
        }
        result
    }

    /// Does the checkpoint this partition was recovered from hold the effect of that entry already?
    fn is_covered(&self, partition: PartitionId, index: LogIndex) -> bool {
        self.covered.borrow().get(&partition).is_some_and(|as_of| index <= *as_of)
    }

    /// Is a command that follows `revision` of the controller not older than those applied before?
    fn is_current(&self, revision: u64) -> bool {
        let is_current = revision >= self.revision.get();
        if is_current {
            self.revision.set(revision);
        }
        is_current
    }

    /// False if it, or one of a list, was out of date. What the checkpoint of a partition covers is not applied to it
    /// again. The lane's own state does not hold the entry, else it would not be applied: the lane's events are noted.
    fn apply_command(&self, id: EntryId, command: LaneCommand) -> bool {
        if command.revision().is_some_and(|revision| !self.is_current(revision)) {
            return false;
        }
        match command {
            LaneCommand::Commands { commands } => {
                // The decoder refuses nested lists. Each is applied, also after one that is out of date.
                let current: Vec<bool> = commands.into_iter().map(|command| self.apply_command(id, command)).collect();
                return current.into_iter().all(|current| current);
            }
            LaneCommand::Create { partition, topic, overrides, epoch_base, copied, revision } => {
                if let Some(replica) = self.replica(partition) {
                    if self.is_covered(partition, id.index) && replica.may_be_created_at(id.index) {
                        self.note(id.index, LaneEvent::Created { partition, topic, overrides, epoch_base });
                        self.note_start(id.index, partition, copied);
                    }
                    return true;
                }
                let settings = log_settings(&TopicConfig::resolve(&overrides));
                let log = self.engine.create_partition(partition, self.id, id, settings);
                let (name, configs) = (topic.clone(), overrides.clone());
                let replica = Replica::born(partition, self.id, id.index, Birth { topic, epoch_base }, overrides, log);
                let replica = match copied {
                    Some(copied) => replica.born_as_copy(copied, id.index),
                    None => replica,
                };
                replica.set_revision(revision);
                self.dirty.mark(partition, &replica.marks);
                self.replicas.borrow_mut().insert(Rc::new(replica));
                self.engine.touch_partition(partition);
                self.note(id.index, LaneEvent::Created { partition, topic: name, overrides: configs, epoch_base });
                self.note_start(id.index, partition, copied);
            }
            // A checkpoint holds no partition whose drop it covers; a partition of that id would be another one.
            LaneCommand::Drop { partition, .. } if self.is_covered(partition, id.index) => {}
            LaneCommand::Drop { partition, .. } => {
                if let Some(replica) = self.replicas.borrow_mut().remove(partition) {
                    replica.waiters.all();
                    self.engine.drop_partition(partition, id);
                    self.gone.borrow_mut().insert(partition, replica.manifest().clone());
                    self.note(id.index, LaneEvent::Dropped { partition });
                }
            }
            LaneCommand::Clean { partition } => {
                self.gone.borrow_mut().remove(&partition);
            }
            LaneCommand::Configure { partition, .. } if self.is_covered(partition, id.index) => {}
            LaneCommand::Configure { partition, overrides, revision } => {
                if let Some(replica) = self.replica(partition) {
                    replica.configure(overrides);
                    replica.set_revision(revision);
                    replica.log.set_settings(log_settings(&replica.config()));
                    self.engine.touch_partition(partition);
                    self.dirty.mark(partition, &replica.marks);
                }
            }
            LaneCommand::Trim { partition, to } => {
                if let Some(replica) = self.replica(partition) {
                    if !self.is_covered(partition, id.index) {
                        replica.trim(to);
                        self.engine.touch_partition(partition);
                        self.dirty.mark(partition, &replica.marks);
                    }
                    // What the entry says: the log start of a partition that is covered may be a later one.
                    self.note(id.index, LaneEvent::LogStartMoved { partition, to });
                }
            }
        }
        true
    }

    /// A partition that a copy begins above 0 is, for readers of the bucket, one whose log start has moved.
    fn note_start(&self, index: LogIndex, partition: PartitionId, copied: Option<CopiedRange>) {
        if let Some(to) = copied.map(|copied| copied.start).filter(|start| *start > Offset::ZERO) {
            self.note(index, LaneEvent::LogStartMoved { partition, to });
        }
    }

    fn note(&self, index: LogIndex, event: LaneEvent) {
        self.events.borrow_mut().push(self.id, index, event);
        self.dirty.notify();
    }
}

impl Apply for DataLane {
    fn apply(&self, id: EntryId, payload: &Payload) -> Answer {
        Answer::of(match self.status.apply(id, || self.apply_entry(id, payload)) {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => Outcome::Refused(error),
            None => Outcome::Refused(EntryError::Stopped),
        })
    }

    fn applied_blank(&self, id: EntryId) {
        self.status.applied_blank(id);
    }

    fn membership(&self, blob: Bytes) {
        self.status.set_membership(blob);
    }

    fn leading(&self, term: Term, _ready_at: EntryId) {
        self.status.set_leading(term);
        self.leadership_changed();
    }

    fn following(&self, _term: Term) {
        self.status.set_following();
        self.replicas.borrow().iter().for_each(|replica| replica.waiters.all());
        self.leadership_changed();
    }
}

#[cfg(test)]
mod equal_replicas;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidewater_storage::env::sim::World;
    use tidewater_storage::model::{LaneId, TopicName};

    use super::*;
    use crate::partition::fixture::Fixture;
    use crate::partition::state::lane::RecoveredState;

    #[test]
    fn a_lane_stops_at_an_entry_of_a_newer_version_and_does_not_start_past_it() {
        let partition = r#"{"topic":"00000000-0000-0000-0000-000000000000","index":0,"incarnation":0}"#;
        let drop = format!(r#"{{"drop":{{"partition":{partition}}}}}"#);
        let unknown_field = format!(r#"{{"drop":{{"partition":{partition},"unless":1}}}}"#);
        // The first of the two could be applied; it must not be.
        let half = format!(r#"{{"batch":{{"commands":[{drop},{unknown_field}]}}}}"#);
        let meta = |kind: u8, rest: &[u8]| Bytes::from([&[kind][..], rest].concat());
        let metas = [
            meta(9, b"new"),
            meta(6, b"{\"merge\":1}"),
            meta(3, b""),
            meta(6, unknown_field.as_bytes()),
            meta(6, half.as_bytes()),
        ];
        for (seed, meta) in (1..).zip(metas) {
            let world = World::new(seed);
            let env = world.env();
            world.block_on(async {
                let shard = Fixture::open(&env).await;
                let before = shard.lane.status.applied().expect("has applied");
                let blobs = if seed == 3 { vec![Bytes::from_static(b"\xff\xffnew")] } else { Vec::new() };
                let newer = Payload { meta, blobs, verified: false };
                let raft = shard.lane.status.raft().expect("is attached").clone();
                let (id, answer) = raft.propose(newer).await.expect("is committed");
                assert!(matches!(outcome(answer), Outcome::Refused(_)), "seed {seed}");
                // Of what comes after it nothing may be kept either.
                let after = LaneCommand::Drop { partition: shard.address(0).id, revision: 0 };
                let after = raft.propose(LaneOp::Command(after).encode()).await;
                assert!(after.is_ok() && shard.lane.replica(shard.address(0).id).is_some());
                assert_eq!(shard.lane.status.applied(), Some(before), "a checkpoint holds what was understood");
                assert_eq!(shard.lane.status.leading(), None, "it is not served");
                raft.shutdown().await;
                shard.engine.close().await;
                let error = Fixture::try_open(&env).await.err().expect("does not start");
                assert_eq!((error.lane, error.entry), (shard.lane.id, id));
            });
        }
    }

    /// A controller's copy that lags knows no topic that is newer, and topics that are deleted.
    #[test]
    fn a_leader_with_an_older_image_changes_nothing_of_its_predecessor() {
        let world = World::new(5);
        let env = world.env();
        world.block_on(async {
            let shard = Fixture::open(&env).await;
            let [legacy, fresh, gone] = [0, 1, 2].map(|n| shard.address(n).id);
            let create = |partition, revision| LaneCommand::Create {
                partition,
                topic: TopicName::new("orders").expect("legal"),
                overrides: BTreeMap::new(),
                epoch_base: 0,
                copied: None,
                revision,
            };
            let configure = |partition, revision: u64| {
                let overrides = BTreeMap::from([("retention.ms".to_owned(), revision.to_string())]);
                LaneCommand::Configure { partition, overrides, revision }
            };
            let drop = |partition, revision| LaneCommand::Drop { partition, revision };
            let apply = async |command: LaneCommand| {
                shard.lane.propose(LaneOp::Command(command)).await.expect("is committed").1
            };
            assert!(matches!(apply(create(gone, 7)).await, Outcome::Done));
            let newest = LaneCommand::together(vec![create(fresh, 9), drop(gone, 9)]);
            assert!(matches!(apply(newest).await, Outcome::Done));
            let list = LaneCommand::together(vec![configure(fresh, 8), create(gone, 8), drop(fresh, 8)]);
            for late in [list, configure(fresh, 8), drop(fresh, 8), drop(legacy, 8), create(gone, 8), drop(legacy, 0)] {
                let outcome = apply(late.clone()).await;
                assert!(matches!(outcome, Outcome::Stale { newest: 9 }), "{late:?}: {outcome:?}");
            }
            let of = |id| shard.lane.replica(id).map(|replica| (replica.revision(), replica.overrides().len()));
            assert_eq!((of(fresh), of(gone)), (Some((9, 0)), None));
            assert!(of(legacy).is_some(), "made by a version without revisions");
            assert!(matches!(apply(configure(legacy, 9)).await, Outcome::Done), "the same revision may come again");
            assert_eq!((of(legacy), shard.lane.revision()), (Some((9, 1)), 9));
            assert!(matches!(apply(drop(legacy, 10)).await, Outcome::Done));
            assert_eq!((of(legacy), shard.lane.revision()), (None, 10));
        });
    }

    /// A follower writes no bundle; what its leader's bundles carry it must not keep either.
    #[test]
    fn events_are_forgotten_where_their_bundle_is_applied() {
        let world = World::new(6);
        let env = world.env();
        world.block_on(async {
            let shard = Fixture::open(&env).await;
            let trim = LaneCommand::Trim { partition: shard.address(0).id, to: Offset::ZERO };
            let trimmed = shard.lane.propose(LaneOp::Command(trim.clone())).await.expect("is applied").0;
            shard.lane.propose(LaneOp::Command(trim)).await.expect("is applied");
            assert_eq!(shard.lane.events(LogIndex(0)).len(), 3, "with the creation");
            let bundle = |sequence, events| {
                let (ends, parts) = (Vec::new(), Vec::new());
                let bundled = manifest::Bundled { sequence, size: 1, index: Default::default(), ends, parts, events };
                LaneOp::Archive(manifest::Command::Bundled(bundled).encode())
            };
            let next = || shard.lane.archive().last.next();
            shard.lane.propose(bundle(next(), Some(trimmed.index))).await.expect("is applied");
            assert_eq!(shard.lane.events(LogIndex(0)).len(), 1);
            // One that is rejected carries nothing.
            let last = shard.lane.status.applied().expect("has applied").index;
            let outcome = shard.lane.propose(bundle(next().next(), Some(last))).await.expect("is applied").1;
            assert!(matches!(outcome, Outcome::Archive(Err(_))), "{outcome:?}");
            assert_eq!(shard.lane.events(LogIndex(0)).len(), 1);
        });
    }

    #[test]
    fn what_the_checkpoint_of_a_partition_covers_is_not_applied_again() {
        let world = World::new(7);
        let env = world.env();
        world.block_on(async {
            let shard = Fixture::open(&env).await;
            let id = shard.address(0).id;
            let of = |bytes: u64| BTreeMap::from([("segment.bytes".to_owned(), bytes.to_string())]);
            let born = |index| {
                let log = shard.lane.replica(id).expect("is there").log.clone();
                let birth = Birth { topic: TopicName::new("orders").expect("legal"), epoch_base: 0 };
                Replica::born(id, LaneId(1), LogIndex(index), birth, of(2_000_000), log)
            };
            // A partition as of entry 9, in a lane as of entry 4: entries 5 to 9 are applied again.
            let at = |index| EntryId { term: Term(1), index: LogIndex(index) };
            let recovered =
                RecoveredState { applied: Some(at(4)), blob: Bytes::new(), replicas: vec![(born(5), LogIndex(9))] };
            let fresh = manifest::LaneManifest::new(shard.lane.archive().home, LaneId(1));
            let lane = DataLane::recover(LaneId(1), env.clone(), shard.engine.clone(), recovered, fresh);
            let lane = lane.expect("a new lane");
            let create = LaneCommand::Create {
                partition: id,
                topic: TopicName::new("orders").expect("legal"),
                overrides: of(1_000_000),
                epoch_base: 0,
                copied: None,
                revision: 0,
            };
            let configure = |bytes| LaneCommand::Configure { partition: id, overrides: of(bytes), revision: 0 };
            for (index, command) in [
                (5, create),
                (6, configure(1_000_000)),
                (7, LaneCommand::Trim { partition: id, to: Offset::ZERO }),
                (8, LaneCommand::Drop { partition: id, revision: 0 }),
            ] {
                Apply::apply(&lane, at(index), &LaneOp::Command(command).encode());
                let replica = lane.replica(id).expect("it was not dropped");
                assert_eq!(replica.overrides(), of(2_000_000), "entry {index} is older than the partition");
            }
            let events = lane.events(LogIndex(0));
            assert!(
                matches!(events.as_slice(), [LaneEvent::Created { .. }, LaneEvent::LogStartMoved { .. }]),
                "the lane's own checkpoint did not hold them: {events:?}"
            );
            Apply::apply(&lane, at(9), &LaneOp::Command(configure(1_000_000)).encode());
            Apply::apply(&lane, at(10), &LaneOp::Command(configure(3_000_000)).encode());
            assert_eq!(lane.replica(id).expect("is there").overrides(), of(3_000_000));
        });
    }
}
