//! Three brokers, one lane, one bucket: archiving and local retention under a change of leader.

mod rebuilt;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::env::sim::World;
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::{LogIndex, NodeId, Offset, Term};
use tidewater_tiering::archive::ArchiveConfig;
use tidewater_tiering::bucket::{Bucket, Claim};
use tidewater_tiering::fetch::{FetchConfig, RemoteReader};
use tidewater_tiering::format::{DataIndex, DataKind, ObjectBuilder, Seal};
use tidewater_tiering::keys::{ClusterId, ClusterName, LineageEpoch, Nonce, ObjectKey, ObjectKind};
use tidewater_tiering::manifest::Root;
use tidewater_tiering::store::{Faults, PutMode, SimBucket};
use uuid::Uuid;

use super::run::{Archives, Cadence, Opening, Tier, start_with};
use crate::controller::client::ControllerHandle;
use crate::controller::image::ClusterImage;
use crate::kafka::handlers::fixture::{cluster, leaders_of};
use crate::partition::message::ProduceError;
use crate::partition::state::command::{LaneCommand, LaneOp};
use crate::partition::superseded::SupersededBy;
use crate::partition::three::{Broker, NODES, Three, address};
use crate::shard::mesh::Mesh;

const GRACE: Duration = Duration::from_secs(30);

struct Archived {
    three: Three,
    sim: SimBucket,
    archives: BTreeMap<NodeId, Archives>,
    sequence: Cell<i32>,
}

fn in_three(seed: u64, act: impl AsyncFnOnce(&Archived)) {
    let world = World::new(seed);
    world.block_on(async {
        let three = Three::open(&world).await;
        let sim = SimBucket::new(&world.env_of(9), usual());
        let mut archives = BTreeMap::new();
        for broker in &three.brokers {
            archives.insert(broker.node, archive(broker, &sim).await);
        }
        act(&Archived { three, sim, archives, sequence: Cell::new(0) }).await;
    });
}

fn usual() -> Faults {
    Faults { latency_max: Duration::from_millis(9), ..Faults::default() }
}

fn cadence() -> Cadence {
    let archive = ArchiveConfig {
        publish_interval: Duration::from_secs(1),
        delete_grace: GRACE,
        sweep_interval: Duration::from_secs(10),
        tick: Duration::from_millis(50),
        ..ArchiveConfig::default()
    };
    Cadence { archive, retention_interval: Duration::from_secs(1), ..Cadence::default() }
}

fn caller(node: NodeId) -> u32 {
    node.0.unsigned_abs()
}

async fn archive(broker: &Broker, sim: &SimBucket) -> Archives {
    let (env, store) = (&broker.env, sim.store_for(caller(broker.node)));
    let fetch = FetchConfig::new(PathBuf::from("/cache"), 1 << 20);
    let remote = Rc::new(RemoteReader::open(env.clone(), Arc::clone(&store), fetch).await.expect("opens"));
    broker.partitions.set_remote(Rc::clone(&remote));
    let (home, name) = (broker.lane.archive().home, ClusterName::new("three").expect("legal"));
    let (tier, opening) = Tier::over(Arc::clone(&store), home, name.clone());
    let claim = Claim { cluster: home.cluster, epoch: home.epoch, name, confirmed: false };
    let opened = Bucket::open(store, &claim, Nonce(caller(broker.node).into()), env.clock.wall()).await;
    opening.send_replace(Opening::Open(opened.expect("opens")));
    let image = ClusterImage { here: broker.node, ..cluster(&[("other", 1), ("orders", 1)]) };
    let controller = ControllerHandle::new(Arc::new(image), Mesh::new(1, 16).0);
    controller.set_leaders(Arc::new(leaders_of(1, 1)));
    start_with(env, &broker.partitions, &broker.engine, &controller, &tier, &remote, cadence())
}

fn archived_end(broker: &Broker) -> Offset {
    broker.lane.replica(address().id).map_or(Offset::ZERO, |replica| replica.manifest().archived_end)
}

impl Archived {
    /// Short lags, small segments, little local space.
    async fn configure(&self, leader: &Broker) {
        let pairs = [
            ("archive.lag.ms", "100"),
            ("retention.ms", "-1"),
            ("local.retention.ms", "-1"),
            ("local.retention.bytes", "1000"),
        ];
        let overrides = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let configure = LaneCommand::Configure { partition: address().id, overrides, revision: 2 };
        leader.lane.propose(LaneOp::Command(configure)).await.expect("is applied");
        self.three.converge().await;
        for broker in &self.three.brokers {
            let log = &broker.lane.replica(address().id).expect("is there").log;
            log.set_settings(LogSettings { segment_bytes: 2_000, segment_ms: 3_600_000 });
        }
    }

    async fn send(&self, to: &Broker, records: i32) {
        for _ in 0..records {
            to.send(1, self.sequence.replace(self.sequence.get() + 1)).await.expect("is stored");
        }
    }

    /// Waits until the broker has applied that all it holds is in the bucket; how long that took.
    async fn until_archived(&self, broker: &Broker) -> Duration {
        let env = &self.three.env;
        let begun = env.clock.now();
        while archived_end(broker) < broker.lane.replica(address().id).expect("is there").high_watermark() {
            env.tasks.sleep(Duration::from_millis(10)).await;
            assert!(env.clock.now().since(begun) < Duration::from_secs(120), "archiving stands still");
        }
        env.clock.now().since(begun)
    }

    /// Brokers with an archiver.
    fn archivers(&self) -> Vec<NodeId> {
        let runs = |(node, archives): (&NodeId, &Archives)| (!archives.status().is_empty()).then_some(*node);
        self.archives.iter().filter_map(runs).collect()
    }

    /// An object of the partition that nothing names.
    async fn put_stray(&self) -> ObjectKey {
        let home = self.three.brokers[0].lane.archive().home;
        let kind = ObjectKind::Segment { partition: address().id, base: Offset::ZERO, term: Term(1), nonce: Nonce(7) };
        let key = home.name(kind).key();
        let put = self.sim.store().put(&key, Bytes::from_static(b"stray"), PutMode::Overwrite).await;
        put.expect("puts");
        key
    }
}

#[test]
fn the_next_leader_goes_on_with_the_archive_within_seconds() {
    for seed in 0..4 {
        in_three(seed, async |cluster| {
            let three = &cluster.three;
            let old = three.leader_of(&NODES).await;
            cluster.configure(old).await;
            cluster.send(old, 20).await;
            cluster.until_archived(old).await;
            assert_eq!(cluster.archivers(), [old.node], "only the leader archives");
            three.cut_off(old.node, true);
            let new = three.leader_of(&Three::others(old.node)).await;
            cluster.send(new, 20).await;
            let took = cluster.until_archived(new).await;
            assert!(took < Duration::from_secs(3), "{took:?}");
            three.cut_off(old.node, false);
            three.converge().await;
            three.env.tasks.sleep(Duration::from_secs(20)).await;
            let leader = three.leader_of(&NODES).await;
            cluster.until_archived(leader).await;
            three.converge().await;
            assert_eq!(cluster.archivers(), [leader.node], "the archiver of the old term has ended");
            for broker in &three.brokers {
                assert_eq!(archived_end(broker), archived_end(leader));
                assert!(broker.lane.archive().stopped.is_none());
                assert!(broker.lane.events(LogIndex(0)).is_empty(), "a bundle carries them: no replica keeps them");
            }
        });
    }
}

#[test]
fn followers_trim_their_disks_behind_the_archived_end() {
    in_three(5, async |cluster| {
        let three = &cluster.three;
        let leader = three.leader_of(&NODES).await;
        cluster.configure(leader).await;
        cluster.send(leader, 200).await;
        cluster.until_archived(leader).await;
        three.converge().await;
        three.env.tasks.sleep(Duration::from_secs(10)).await;
        for broker in &three.brokers {
            let bounds = broker.lane.replica(address().id).expect("is there").log.bounds();
            assert!(bounds.start > Offset::ZERO && bounds.start <= archived_end(broker), "{}: {bounds:?}", broker.node);
            assert!(bounds.bytes < 6_000, "{}: {bounds:?}", broker.node);
        }
        // The next leader serves all of it, from the bucket too.
        three.cut_off(leader.node, true);
        let new = three.leader_of(&Three::others(leader.node)).await;
        assert!(!new.read(0, None).await.expect("is read").batches.is_empty());
    });
}

#[test]
fn a_leader_that_reaches_the_bucket_but_no_peer_deletes_nothing() {
    in_three(6, async |cluster| {
        let three = &cluster.three;
        let old = three.leader_of(&NODES).await;
        cluster.configure(old).await;
        cluster.send(old, 20).await;
        cluster.until_archived(old).await;
        let stray = cluster.put_stray().await;
        // The others reach each other and not the bucket: any object that goes was deleted by the old leader.
        three.cut_off(old.node, true);
        let others = Three::others(old.node);
        let away = Faults { down: true, ..usual() };
        others.iter().for_each(|node| cluster.sim.set_faults_for(caller(*node), Some(away)));
        let before = cluster.sim.objects();
        three.env.tasks.sleep(GRACE * 4).await;
        let after = cluster.sim.objects();
        let gone: Vec<&String> = before.keys().filter(|key| !after.contains_key(*key)).collect();
        assert_eq!(gone, Vec::<&String>::new());
        others.iter().for_each(|node| cluster.sim.set_faults_for(caller(*node), None));
        three.env.tasks.sleep(GRACE * 4).await;
        assert!(!cluster.sim.objects().contains_key(stray.as_str()), "their leader removes it");
    });
}

#[test]
fn a_bucket_that_is_emptied_ends_archiving_and_no_local_byte_goes_until_it_is_back() {
    in_three(9, async |cluster| {
        let three = &cluster.three;
        let leader = three.leader_of(&NODES).await;
        cluster.configure(leader).await;
        cluster.send(leader, 50).await;
        cluster.until_archived(leader).await;
        // A first manifest would need no earlier one to be there.
        let manifest = leader.lane.archive().home.lane_manifest(leader.lane.id).key();
        while !cluster.sim.objects().contains_key(manifest.as_str()) {
            three.env.tasks.sleep(Duration::from_millis(10)).await;
        }
        let held = cluster.sim.objects();
        cluster.sim.wipe();
        three.env.tasks.sleep(Duration::from_secs(70)).await;
        let log = |broker: &Broker| broker.lane.replica(address().id).expect("is there").log.bounds();
        let starts: Vec<Offset> = three.brokers.iter().map(|broker| log(broker).start).collect();
        for (node, archives) in &cluster.archives {
            let why = archives.root_gone().expect("every broker knows it");
            assert!(why.contains("three/root is gone"), "{node}: {why}");
        }
        assert_eq!(cluster.archivers(), Vec::<NodeId>::new());
        let archived = archived_end(leader);
        cluster.send(leader, 100).await;
        three.env.tasks.sleep(Duration::from_secs(300)).await;
        assert_eq!(archived_end(leader), archived, "nothing is archived beside the loss");
        assert_eq!(three.brokers.iter().map(|broker| log(broker).start).collect::<Vec<_>>(), starts);
        let there = cluster.sim.objects();
        assert!(!there.contains_key(manifest.as_str()), "no new manifest hides the loss: {:?}", there.keys());
        // Nor does the next leader.
        three.cut_off(leader.node, true);
        let next = three.leader_of(&Three::others(leader.node)).await;
        three.env.tasks.sleep(Duration::from_secs(100)).await;
        assert_eq!(archived_end(next), archived);
        three.cut_off(leader.node, false);

        // Another cluster that takes the name does not make it right.
        let key = ClusterName::new("three").expect("legal").root_key();
        let root = Root::decode(&held[key.as_str()]).expect("decodes");
        let foreign = Root { cluster: ClusterId(Uuid::from_u128(77)), ..root.clone() };
        cluster.sim.tamper(key.as_str(), Some(foreign.encode()));
        three.env.tasks.sleep(Duration::from_secs(60)).await;
        assert!(cluster.archives.values().all(|archives| archives.root_gone().is_some()));
        // An outage is no loss, and no return either.
        cluster.sim.set_faults(Faults { down: true, ..usual() });
        three.env.tasks.sleep(Duration::from_secs(60)).await;
        assert!(cluster.archives.values().all(|archives| archives.root_gone().is_some()));
        cluster.sim.set_faults(usual());
        held.into_iter().for_each(|(key, body)| cluster.sim.tamper(&key, Some(body)));
        three.env.tasks.sleep(Duration::from_secs(30)).await;
        assert!(cluster.archives.values().all(|archives| archives.root_gone().is_none()));
        let leader = three.leader_of(&NODES).await;
        cluster.until_archived(leader).await;
        three.converge().await;
        three.env.tasks.sleep(Duration::from_secs(10)).await;
        assert!(three.brokers.iter().zip(&starts).all(|(broker, start)| log(broker).start > *start), "they trim again");
    });
}

#[test]
fn a_bucket_that_does_not_answer_is_not_taken_for_an_emptied_one() {
    in_three(10, async |cluster| {
        let three = &cluster.three;
        let leader = three.leader_of(&NODES).await;
        cluster.configure(leader).await;
        cluster.send(leader, 5).await;
        cluster.until_archived(leader).await;
        cluster.sim.set_faults(Faults { down: true, ..usual() });
        three.env.tasks.sleep(Duration::from_secs(300)).await;
        assert!(cluster.archives.values().all(|archives| archives.root_gone().is_none()));
        assert_eq!(cluster.archivers(), [leader.node]);
        cluster.sim.set_faults(usual());
        cluster.send(leader, 5).await;
        cluster.until_archived(leader).await;
    });
}

/// What a producer of a superseded broker is answered.
fn superseded() -> ProduceError {
    ProduceError::Superseded(SupersededBy { own: LineageEpoch(1), next: LineageEpoch(2) })
}

#[test]
fn a_cluster_that_was_restored_elsewhere_stores_nothing_any_more() {
    in_three(7, async |cluster| {
        let three = &cluster.three;
        let leader = three.leader_of(&NODES).await;
        cluster.configure(leader).await;
        cluster.send(leader, 5).await;
        cluster.until_archived(leader).await;
        // An answer that is damaged says nothing.
        let key = ClusterName::new("three").expect("legal").root_key();
        let body = cluster.sim.objects()[key.as_str()].clone();
        cluster.sim.tamper(key.as_str(), Some(Bytes::from_static(b"{")));
        three.env.tasks.sleep(Duration::from_secs(130)).await;
        cluster.send(leader, 1).await;
        let root = Root::decode(&body).expect("decodes");
        let next = Root { epoch: LineageEpoch(2), from: Some(root.home()), ..root };
        cluster.sim.tamper(key.as_str(), Some(next.encode()));
        three.env.tasks.sleep(Duration::from_secs(70)).await;
        for broker in three.brokers.iter().filter(|broker| broker.leads()) {
            assert_eq!(broker.send(2, 0).await, Err(superseded()), "{}", broker.node);
        }
        // Every broker knows it, the next leader as well.
        three.cut_off(leader.node, true);
        let new = three.leader_of(&Three::others(leader.node)).await;
        assert_eq!(new.send(2, 0).await, Err(superseded()));
        assert!(!new.read(0, None).await.expect("is read").batches.is_empty(), "readers are served");
    });
}

#[test]
fn a_seal_at_the_next_bundle_is_enough() {
    in_three(8, async |cluster| {
        let three = &cluster.three;
        let leader = three.leader_of(&NODES).await;
        cluster.configure(leader).await;
        cluster.send(leader, 5).await;
        cluster.until_archived(leader).await;
        let (home, lane, last) = {
            let archive = leader.lane.archive();
            (archive.home, archive.lane, archive.last)
        };
        let seal = ObjectBuilder::new(DataIndex {
            kind: DataKind::Bundle,
            home,
            lane,
            sequence: last.next(),
            term: Term(0),
            log_index: LogIndex(0),
            previous: leader.lane.archive().last_crc,
            written: three.env.clock.wall(),
            partitions: Vec::new(),
            producers: None,
            events: Vec::new(),
            seal: Some(Seal { next_epoch: LineageEpoch(2), last }),
            cut: None,
        });
        let key = home.bundle(lane, last.next()).key();
        let put = cluster.sim.store().put_pieces(&key, seal.finish().pieces, PutMode::IfAbsent).await;
        put.expect("the key is free");
        cluster.send(leader, 1).await;
        // Well before a minute has passed.
        three.env.tasks.sleep(Duration::from_secs(30)).await;
        assert_eq!(leader.send(2, 0).await, Err(superseded()));
        assert!(leader.lane.archive().stopped.is_some());
    });
}
