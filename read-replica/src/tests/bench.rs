//! A source (a simulated lane and its archiver), its bucket, and a follower of it on another machine.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tidewater_storage::env::sim::World;
use tidewater_storage::env::{Env, Task};
use tidewater_storage::model::{Offset, OffsetRange, PartitionId};
use tidewater_tiering::archive::sim::{SimLane, partition};
use tidewater_tiering::archive::{ArchiveConfig, Archiver, ArchiverParts, LaneState};
use tidewater_tiering::bucket::{Bucket, CatalogueKeeper, Claim};
use tidewater_tiering::fetch::{FetchConfig, RemoteError, RemoteReader};
use tidewater_tiering::follow::Changes;
use tidewater_tiering::keys::{ClusterId, ClusterName, LineageEpoch, Nonce};
use tidewater_tiering::manifest::Row;
use tidewater_tiering::retention::RetentionPolicy;
use tidewater_tiering::store::{Faults, SimBucket};
use uuid::Uuid;

use crate::{LaneFollower, LaneParts, ReplicaConfig};

/// The follower's machine, as the bucket knows it.
pub(super) const FOLLOWER: u32 = 3;

pub(super) struct Bench {
    pub(super) world: Rc<World>,
    pub(super) env: Env,
    pub(super) sim: SimBucket,
    pub(super) bucket: Bucket,
    pub(super) lane: Rc<SimLane>,
    pub(super) partitions: Vec<PartitionId>,
    source: RemoteReader,
    pub(super) reader: RemoteReader,
    pub(super) follower: LaneFollower,
    pub(super) changes: Rc<RefCell<BTreeSet<PartitionId>>>,
    /// Log starts and ends that were shown.
    shown: RefCell<BTreeMap<PartitionId, (Offset, Offset)>>,
}

pub(super) fn name() -> ClusterName {
    ClusterName::new("tidewater").expect("legal")
}

/// An archiver that does in seconds what takes hours.
fn archive_config() -> ArchiveConfig {
    ArchiveConfig {
        bundle_bytes_max: 6_000,
        part_bytes_min: 2_500,
        part_bytes_eager: 4_000,
        waiting_bytes_max: 12_000,
        object_bytes_max: 9_000,
        gather_bundles: 12,
        gather_after: Duration::from_secs(8),
        gather_row_bytes_max: 3_000,
        publish_interval: Duration::from_secs(1),
        delete_grace: Duration::from_secs(20),
        retention_interval: Duration::from_secs(2),
        sweep_interval: Duration::from_secs(15),
        tick: Duration::from_millis(50),
        housekeeping_interval: Duration::from_millis(200),
        backoff: (Duration::from_millis(20), Duration::from_millis(500)),
        ..ArchiveConfig::default()
    }
}

impl Bench {
    pub(super) fn new(seed: u64, faults: Faults, partitions: usize) -> Self {
        let poll = (Duration::from_millis(100), Duration::from_millis(500));
        let manifest_interval = Duration::from_secs(5);
        Self::with(seed, faults, partitions, ReplicaConfig { poll, manifest_interval, ..ReplicaConfig::default() })
    }

    pub(super) fn with_manifests_every(seed: u64, faults: Faults, partitions: usize, every: Duration) -> Self {
        let config = ReplicaConfig { manifest_interval: every, ..ReplicaConfig::default() };
        Self::with(seed, faults, partitions, config)
    }

    fn with(seed: u64, faults: Faults, partitions: usize, config: ReplicaConfig) -> Self {
        let world = Rc::new(World::new(seed));
        let env = world.env();
        let sim = SimBucket::new(&world.env_of(9), Faults::default());
        let claim = Claim {
            cluster: ClusterId(Uuid::from_u128(7)),
            epoch: LineageEpoch::FIRST,
            name: name(),
            confirmed: false,
        };
        let open = Bucket::open(sim.store(), &claim, Nonce(1), env.clock.wall());
        let bucket = world.block_on(open).expect("opens");
        sim.set_faults(faults);
        let fetch =
            |dir: &str| FetchConfig { root: Some(name().root_key()), ..FetchConfig::new(PathBuf::from(dir), 0) };
        let source = world.block_on(RemoteReader::open(env.clone(), sim.store(), fetch("/source"))).expect("opens");
        let machine = world.env_of(30);
        let store = sim.store_for(FOLLOWER);
        let reader = RemoteReader::open(machine.clone(), store.clone(), fetch("/replica"));
        let reader = world.block_on(reader).expect("opens");
        let lane = SimLane::new(env.clone(), bucket.home);
        let partitions: Vec<PartitionId> =
            (0..partitions).map(|n| partition(1 + n as u128 / 2, n as i32 % 2)).collect();
        partitions.iter().for_each(|id| lane.create(*id, RetentionPolicy::default()));
        let changes = Rc::new(RefCell::new(BTreeSet::new()));
        let heard = Rc::clone(&changes);
        let follower = LaneFollower::new(LaneParts {
            env: machine.clone(),
            store,
            indexes: reader.indexes(),
            name: name(),
            home: bucket.home,
            lane: lane.lane(),
            config,
            changed: Rc::new(move |changes: &Changes| heard.borrow_mut().extend(changes.partitions.iter().copied())),
        });
        let running = follower.clone();
        drop(machine.tasks.spawn("follower", async move { running.run().await }));
        let shown = RefCell::default();
        Self { world, env, sim, bucket, lane, partitions, source, reader, follower, changes, shown }
    }

    /// Keeps about so many bytes of a partition.
    pub(super) fn retain(&self, nth: usize, bytes: u64) {
        let policy = RetentionPolicy { retention_ms: None, retention_bytes: Some(bytes) };
        let mut logs = self.lane.logs.borrow_mut();
        let log = logs.get_mut(&self.partitions[nth]).expect("there");
        log.facts.as_mut().expect("lives").retention = policy;
    }

    /// Starts an archiver.
    pub(super) fn archive(&self) -> Task<()> {
        let archiver = Archiver::new(ArchiverParts {
            env: self.env.clone(),
            host: Rc::new(Rc::clone(&self.lane)),
            bucket: self.bucket.clone(),
            catalogue: Rc::new(CatalogueKeeper::new(self.bucket.clone(), self.env.clock.clone())),
            indexes: self.source.indexes(),
            config: archive_config(),
        });
        self.env.tasks.spawn("archiver", async move {
            let _ = archiver.run().await;
        })
    }

    /// An archiver runs for `time` while others append and read, and is then dropped wherever it is. Gives the reads
    /// that brought something.
    pub(super) fn live_for(&self, time: Duration, appends: u64) -> u64 {
        let task = self.archive();
        let (steps, mut reads) = (20, 0);
        for _ in 0..steps {
            for _ in 0..self.env.rng.below(appends + 1) {
                let id = self.any();
                self.lane.append(id, 1 + self.env.rng.below(4), 1 + self.env.rng.below(700) as usize);
            }
            self.world.run_for(time / steps);
            self.nothing_falls();
            let id = self.any();
            reads += u64::from(self.read_once(id));
        }
        task.cancel();
        self.lane.new_term();
        reads
    }

    fn any(&self) -> PartitionId {
        self.partitions[self.env.rng.below(self.partitions.len() as u64) as usize]
    }

    /// Good weather until everything is archived and followed and nothing moves any more.
    pub(super) fn settle(&self) {
        self.sim.set_faults(Faults { latency_max: Duration::from_millis(5), ..Faults::default() });
        let task = self.archive();
        for _ in 0..30 {
            self.world.run_for(Duration::from_secs(5));
            self.nothing_falls();
        }
        task.cancel();
        self.lane.new_term();
        self.world.run_for(Duration::from_secs(10));
    }

    /// Ends and log starts do not fall, and never pass what the source has archived.
    pub(super) fn nothing_falls(&self) {
        for id in &self.partitions {
            let partition = self.follower.partition(*id);
            let now = (partition.log_start(), partition.high_watermark());
            let before = self.shown.borrow_mut().insert(*id, now).unwrap_or_default();
            assert!(before.0 <= now.0 && before.1 <= now.1, "{id}: {before:?} then {now:?}");
            // A bundle lies in the bucket before the source's own state has it.
            let end = self.lane.logs.borrow()[id].end();
            assert!(now.1 <= end, "{id}: {now:?}, the log ends at {end}");
        }
    }

    /// One read from anywhere: the truth, or an error that passes. Did it bring anything?
    fn read_once(&self, id: PartitionId) -> bool {
        let partition = self.follower.partition(id);
        let (start, end) = (partition.log_start(), partition.high_watermark());
        if start >= end {
            return false;
        }
        let from = Offset::new(start.get() + self.env.rng.below(end.get() - start.get()));
        let max = 1 + self.env.rng.below(6_000) as usize;
        match self.world.block_on(partition.read_batches(&self.reader, from, max)) {
            Ok(Some(read)) => {
                let bytes: Vec<u8> = read.batches.iter().flat_map(|piece| piece.to_vec()).collect();
                assert!(bytes == self.lane.logs.borrow()[&id].bytes(read.range), "{id} {}", read.range);
                true
            }
            Ok(None) => false,
            // The log start passed it while it was read.
            Err(RemoteError::BelowStart { .. }) => false,
            Err(error) => {
                assert!(error.disposition().passes(), "{error}");
                false
            }
        }
    }

    /// Every partition has the source's ends, and reads back byte for byte.
    pub(super) fn equals_source(&self) {
        for id in &self.partitions {
            let truth = self.lane.with_partition(*id, |manifest| (manifest.log_start, manifest.archived_end));
            let partition = self.follower.partition(*id);
            assert_eq!(Some((partition.log_start(), partition.high_watermark())), truth, "{id}");
            self.reads_back(*id);
        }
    }

    pub(super) fn reads_back(&self, id: PartitionId) {
        let partition = self.follower.partition(id);
        let (mut next, mut bytes) = (partition.log_start(), Vec::new());
        let all = OffsetRange::new(next, partition.high_watermark());
        while next < all.end {
            let read = self.world.block_on(partition.read_batches(&self.reader, next, 4_000));
            let read = read.expect("reads").expect("known");
            assert!(read.range.end > next, "progress");
            next = read.range.end;
            read.batches.iter().for_each(|piece| bytes.extend_from_slice(piece));
        }
        assert!(bytes == self.lane.logs.borrow()[&id].bytes(all), "{id} reads back byte for byte");
    }

    /// Do rows that the follower knows name objects that are not there?
    pub(super) fn rows_are_gone(&self) -> bool {
        let objects = self.sim.objects();
        let gone = |row: &Row| !objects.contains_key(row.object().key().as_str());
        self.partitions.iter().any(|id| {
            self.follower.with_partition(*id, |known| known.manifest().rows.iter().any(gone)).unwrap_or(false)
        })
    }
}
