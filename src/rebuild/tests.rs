//! Two engines, one of which is copied from the other while that goes on: constant writes, bundles, trims, creations
//! and drops, crashes of the replica. At equal applied entries, states and bytes are equal.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tidewater_storage::engine::{Engine, EngineConfig, Recovered};
use tidewater_storage::env::Env;
use tidewater_storage::env::sim::World;
use tidewater_storage::journal::{JournalConfig, Payload};
use tidewater_storage::model::{
    EntryId, LaneId, LogIndex, NodeId, Offset, OffsetRange, PartitionId, ReplicaId, ReplicaIncarnation, ShardId,
    TimestampMs, TopicName,
};
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
use tidewater_tiering::manifest::LaneManifest;

use super::message::{Reply, Request};
use super::*;
use crate::node::source::ShardSource;
use crate::partition::fixture::Fixture;
use crate::partition::shard::PartitionShard;
use crate::partition::state::command::{LaneCommand, LaneOp};
use crate::partition::state::lane::{DataLane, RecoveredState};
use crate::partition::state::replica::Replica;
use crate::raft::{Apply as _, Lane};

const LANE: LaneId = LaneId(1);
const REPLICA: ReplicaId = ReplicaId { node: NodeId(2), incarnation: ReplicaIncarnation(3) };
const MACHINE: u32 = 1;

struct LeadersLanes(Rc<DataLane>);

impl LaneSource for LeadersLanes {
    fn raft(&self, lane: LaneId) -> Option<Lane> {
        (lane == LANE).then(|| self.0.status.raft().cloned()).flatten()
    }

    fn archived_end(&self, partition: PartitionId) -> Offset {
        self.0.replica(partition).map_or(Offset::ZERO, |replica| replica.manifest().archived_end)
    }

    fn archived_bytes(&self, partition: PartitionId) -> u64 {
        self.0.replica(partition).map_or(0, |replica| replica.manifest().bytes())
    }
}

/// A connection that takes its time.
struct Wire {
    env: Env,
    source: Rc<RebuildSource>,
    /// On purpose: what changed before the last entry was fixed is left out.
    skips_last_round: bool,
    settled: Cell<bool>,
}

impl RebuildCalls for Wire {
    fn call(&self, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            match Request::decode(&request).expect("is read") {
                Request::Settle { .. } => self.settled.set(true),
                Request::Open { .. } => self.settled.set(false),
                Request::Next { .. } if self.skips_last_round && self.settled.get() => {
                    return Ok(Reply::Round { changed: 0 }.encode());
                }
                _ => {}
            }
            self.env.tasks.sleep(Duration::from_micros(self.env.rng.below(800))).await;
            assert_eq!(lane_of(&request), Some(LANE));
            self.source.answer(&request).await
        })
    }
}

/// The replica, as far as it is made of its disk.
struct Follower {
    engine: Engine,
    partitions: Rc<PartitionShard>,
    lane: Option<Rc<DataLane>>,
}

fn small() -> EngineConfig {
    let journal = JournalConfig { first_file_bytes: 32 << 10, file_bytes: 1 << 20, ..JournalConfig::default() };
    EngineConfig { journal, recent_bytes: 32 << 10, write_back_bytes: 8 << 10, ..EngineConfig::default() }
}

fn recover(
    env: &Env,
    engine: &Engine,
    home: Home,
    applied: Option<EntryId>,
    blob: Bytes,
    partitions: Vec<(PartitionId, LogIndex, Bytes)>,
) -> Rc<DataLane> {
    let replicas = partitions.into_iter().map(|(id, as_of, state)| {
        let log = engine.partition(id).expect("its log is there");
        (Replica::decode(id, LANE, &state, log).expect("is read"), as_of)
    });
    let state = RecoveredState { applied, blob, replicas: replicas.collect() };
    let lane = DataLane::recover(LANE, env.clone(), engine.clone(), state, LaneManifest::new(home, LANE));
    Rc::new(lane.expect("is read"))
}

impl Follower {
    async fn open(env: &Env, home: Home) -> Self {
        let (engine, recovered) = Engine::open(env.clone(), PathBuf::from("/shard"), small()).await.expect("opens");
        let partitions = Rc::new(PartitionShard::new(ShardId(0), env.clone()));
        let source = ShardSource { partitions: Rc::clone(&partitions), controller: None };
        engine.set_source(Rc::new(source));
        let mut this = Self { engine, partitions, lane: None };
        let Recovered { lanes, partitions } = recovered;
        if let Some(lane) = lanes.into_iter().find(|lane| lane.lane == LANE && !lane.rebuilding) {
            let parts = partitions.into_iter().map(|part| (part.id, part.as_of.1, part.state)).collect();
            let lane = recover(env, &this.engine, home, lane.applied, lane.state, parts);
            this.partitions.add_lane(Rc::clone(&lane), this.engine.clone());
            this.lane = Some(lane);
        } else {
            assert!(partitions.is_empty(), "of an unfinished copy nothing is left");
        }
        this.engine.start();
        this
    }

    async fn rebuild(&mut self, env: &Env, home: Home, wire: &Wire) {
        let all = RebuildProgress::default();
        all.set_waiting([LANE].iter(), env.clock.now());
        all.expect(LANE, survey(LANE, wire).await.expect("the leader counts"));
        let progress = all.of(LANE);
        let copied = loop {
            let options = CopyOptions { lane: LANE, me: REPLICA, calls: wire, progress: progress.clone() };
            match copy(env, &self.engine, options).await {
                Ok(copied) => break copied,
                // The leader has not applied more than this replica had.
                Err(CopyError::Leader { .. }) => env.tasks.sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("with this seed the copy is refused: {error}"),
            }
        };
        assert!(self.engine.is_rebuilding(LANE) && progress.round.get() > 0);
        let ((copied_bytes, bytes), facts) = (progress.bytes.get(), all.facts(env.clock.now()).expect("is shown"));
        assert_eq!((facts.replicas_done, facts.replicas, facts.copied_bytes), (0, 1, copied_bytes));
        assert!(copied_bytes <= bytes && facts.lanes[0].partitions_done <= facts.lanes[0].partitions, "{facts:?}");
        let parts = copied.partitions.iter().map(|part| (part.id, part.as_of, part.state.clone())).collect();
        let lane = recover(env, &self.engine, home, Some(copied.at), copied.state.clone(), parts);
        self.partitions.add_lane(Rc::clone(&lane), self.engine.clone());
        settle(&self.engine, &copied, wire).await.expect("is durable");
        self.lane = Some(lane);
    }

    /// Applies what the leader's log holds after what this replica has; false if that is purged.
    async fn catch_up(&self, leader: &Engine, upto: EntryId) -> bool {
        let lane = self.lane.as_ref().expect("is there");
        while lane.status.applied().is_none_or(|applied| applied < upto) {
            let next = lane.status.applied().map_or(LogIndex(0), |applied| applied.index.next());
            let entries = leader.lane(LANE).read(next..upto.index.next(), 1 << 20).await.expect("is read");
            if entries.first().is_none_or(|first| first.id.index != next) {
                return false;
            }
            for entry in entries {
                let Payload { meta, blobs, verified } = entry.payload;
                match meta.first() {
                    Some(1) => drop(lane.apply(entry.id, &Payload { meta: meta.slice(1..), blobs, verified })),
                    Some(0) => lane.applied_blank(entry.id),
                    kind => unreachable!("the lane's members do not change meanwhile: {kind:?}"),
                }
            }
        }
        true
    }
}

/// What the clients do, until told to stop.
async fn clients(env: Env, shard: Rc<Fixture>, running: Rc<Cell<bool>>) {
    let (mut made, mut dropped) = (1, 0);
    while running.get() {
        env.tasks.sleep(Duration::from_micros(env.rng.below(3000))).await;
        let n = env.rng.below(made) as i32;
        let id = shard.address(n).id;
        let op = match env.rng.below(200) {
            0 | 1 if made < 60 => {
                // Ids of partitions are never used again.
                made += 1;
                let local = if made % 2 == 0 { "0" } else { "-1" };
                let overrides = [("retention.ms", "-1"), ("local.retention.ms", local), ("segment.bytes", "20000")];
                LaneCommand::Create {
                    partition: shard.address(made as i32 - 1).id,
                    topic: TopicName::new("orders").expect("legal"),
                    overrides: overrides.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                    epoch_base: 0,
                    copied: None,
                    revision: 0,
                }
            }
            2 if made - dropped > 4 => {
                dropped += u64::from(shard.lane.replica(id).is_some());
                LaneCommand::Drop { partition: id, revision: 0 }
            }
            3..10 => {
                let Some(replica) = shard.lane.replica(id) else { continue };
                let (start, end) = (replica.log_start().get(), replica.high_watermark().get());
                let to = start + env.rng.below((end - start) / 4 + 1);
                LaneCommand::Trim { partition: id, to: Offset::new(to) }
            }
            10..14 => LaneCommand::Configure {
                partition: id,
                overrides: BTreeMap::from([("segment.bytes".to_owned(), (1 << (14 + env.rng.below(6))).to_string())]),
                revision: 0,
            },
            _ => {
                let at = TimestampMs(env.clock.wall().0);
                let parts = (0..1 + env.rng.below(4)).map(|_| shard.record(env.rng.below(made) as i32, at)).collect();
                let _ = shard.router.produce(parts).await;
                continue;
            }
        };
        shard.lane.propose(LaneOp::Command(op)).await.expect("is applied");
    }
}

async fn bytes_of(replica: &Replica, from: Offset) -> Vec<u8> {
    let (mut out, mut next, end) = (Vec::new(), from, replica.log.end());
    while next < end {
        let read = replica.log.read(next, end, 1 << 20).await.expect("is read");
        next = read.range.end;
        read.batches.iter().for_each(|batch| out.extend_from_slice(batch));
    }
    out
}

async fn compare(seed: u64, leader: &DataLane, copy: &DataLane) -> u64 {
    assert_eq!(leader.status.applied(), copy.status.applied(), "seed {seed}");
    assert_eq!(leader.encode(), copy.encode(), "seed {seed}: the lane's state");
    let ids = |lane: &DataLane| lane.replicas().iter().map(|replica| replica.id).collect::<Vec<_>>();
    assert_eq!(ids(leader), ids(copy), "seed {seed}");
    let mut local = 0;
    for id in ids(leader) {
        let (a, b) = (leader.replica(id).expect("is there"), copy.replica(id).expect("is there"));
        assert_eq!(a.encode(), b.encode(), "seed {seed}: the state of {id}");
        assert_eq!(a.log.end(), b.log.end(), "seed {seed}: {id}");
        let archived = a.manifest().archived_end;
        assert!(b.log.bounds().start <= archived.max(a.log.bounds().start), "seed {seed}: bytes of {id} are nowhere");
        let from = a.log.bounds().start.max(b.log.bounds().start);
        local += OffsetRange::new(from, a.log.end()).count();
        assert_eq!(bytes_of(&a, from).await, bytes_of(&b, from).await, "seed {seed}: the bytes of {id}");
    }
    local
}

fn run(seed: u64, skips_last_round: bool) -> (u64, u32) {
    let world = World::new(seed);
    let env = world.env();
    let dice = world.env_of(99).rng;
    let shard = Rc::new(world.block_on(Fixture::with_bucket(&env)));
    let home = Home { cluster: ClusterId(uuid::Uuid::from_u128(1)), epoch: LineageEpoch(1) };
    let raft = shard.lane.status.raft().expect("is attached").clone();
    world.block_on(raft.add_learner(REPLICA)).expect("is added");
    let source = RebuildSource::new(&env, &shard.engine, Rc::new(LeadersLanes(Rc::clone(&shard.lane))));
    let running = Rc::new(Cell::new(true));
    drop(env.tasks.spawn("clients", clients(env.clone(), Rc::clone(&shard), Rc::clone(&running))));
    world.run_for(Duration::from_millis(dice.below(6000)));
    let mut rebuilds = 0;
    for life in 0..4 {
        let own = world.env_of(MACHINE);
        let follower: Rc<RefCell<Option<Follower>>> = Rc::default();
        // The replica's whole life is a task of its machine, so that a crash may end it anywhere.
        let (kept, shard2, source2, count) =
            (follower.clone(), Rc::clone(&shard), source.clone(), Rc::new(Cell::new(0)));
        let counted = count.clone();
        drop(own.tasks.spawn("replica", {
            let own = own.clone();
            async move {
                let mut follower = Follower::open(&own, home).await;
                let wire = Wire { env: own.clone(), source: source2, skips_last_round, settled: Cell::new(false) };
                loop {
                    let upto = shard2.lane.status.applied().expect("has applied");
                    let level = follower.lane.is_some() && follower.catch_up(&shard2.engine, upto).await;
                    if level {
                        break;
                    }
                    counted.set(counted.get() + 1);
                    if let Some(lane) = follower.lane.take() {
                        // A layer above that no longer answers for the lane.
                        drop(lane);
                        follower.partitions = Rc::new(PartitionShard::new(ShardId(0), own.clone()));
                        let source = ShardSource { partitions: Rc::clone(&follower.partitions), controller: None };
                        follower.engine.set_source(Rc::new(source));
                    }
                    follower.rebuild(&own, home, &wire).await;
                }
                kept.replace(Some(follower));
            }
        }));
        let last = life == 3;
        if !last {
            world.run_for(Duration::from_micros(dice.below(1 << (10 + dice.below(9)))));
            drop(follower.take());
            rebuilds += count.get();
            world.crash_node(MACHINE);
            if dice.below(2) == 0 {
                world.run_for(Duration::from_millis(dice.below(4000)));
            }
            continue;
        }
        let watch = world.env_of(98);
        world.block_on(async {
            while follower.borrow().is_none() {
                watch.tasks.sleep(Duration::from_millis(5)).await;
            }
        });
        rebuilds += count.get();
        running.set(false);
        // The archiver comes to rest.
        world.run_for(Duration::from_secs(30));
        let follower = follower.take().expect("is there");
        let upto = shard.lane.status.applied().expect("has applied");
        let local = world.block_on(async {
            assert!(follower.catch_up(&shard.engine, upto).await, "seed {seed}: the log was held");
            compare(seed, &shard.lane, follower.lane.as_ref().expect("is there")).await
        });
        return (local, rebuilds);
    }
    unreachable!("the last life returns")
}

#[test]
fn a_lane_that_is_copied_while_it_goes_on_equals_its_leader() {
    let (mut local, mut rebuilds) = (0, 0);
    for seed in 1..=12 {
        let (records, again) = run(seed, false);
        local += records;
        rebuilds += again;
    }
    assert!(local > 500 && rebuilds > 12, "{local} records and {rebuilds} rebuilds");
}

#[test]
#[should_panic(expected = "seed")]
fn a_copy_without_its_last_round_is_noticed() {
    for seed in 1..=4 {
        run(seed, true);
    }
}
