//! The archiver against a bucket that loses answers and writes late, dropped at any await and started again: after any
//! of it every archived offset reads back byte for byte, and no object stays that nothing names.

#![allow(clippy::panic)]

mod clocks;
mod cuts;
mod damage;
mod gone;
mod late_index;
mod local_damage;
mod misplaced;
mod parts;
mod put_back;
mod rebuilt;
mod restored;
mod scrub;
mod sweep;
mod topic;
mod two_leaders;
mod verify;
mod verify_cuts;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidewater_storage::env::Env;
use tidewater_storage::env::sim::World;
use tidewater_storage::model::{Offset, OffsetRange, PartitionId, TimestampMs};
use uuid::Uuid;

use super::sim::{SimLane, partition};
use super::*;
use crate::bucket::{BucketError, Claim, RootRefusal};
use crate::fetch::{FetchConfig, RemoteError, RemoteReader};
use crate::keys::{ClusterId, ClusterName, LineageEpoch, Nonce, ObjectKey, ObjectKind, ObjectName, Sequence};
use crate::manifest::{LaneManifest, PublishedLane};
use crate::retention::RetentionPolicy;
use crate::store::{Faults, SimBucket};

/// A lane, its bucket, its reader and its archiver of the moment.
struct Bench {
    world: Rc<World>,
    env: Env,
    sim: SimBucket,
    bucket: Bucket,
    reader: RemoteReader,
    lane: Rc<SimLane>,
    config: ArchiveConfig,
    partitions: Vec<PartitionId>,
    /// What the archivers of all lives did.
    done: RefCell<ArchiveStatus>,
}

fn quick() -> ArchiveConfig {
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
        scrub_interval: Duration::from_secs(6),
        scrub_bytes: 20_000,
        pending_max: (usize::MAX, usize::MAX),
        tick: Duration::from_millis(50),
        housekeeping_interval: Duration::from_millis(200),
        backoff: (Duration::from_millis(20), Duration::from_millis(500)),
        short_of_space: (Duration::from_secs(5), Duration::from_secs(1)),
    }
}

fn claim(id: u128, confirmed: bool) -> Claim {
    let name = ClusterName::new("tidewater").expect("legal");
    Claim { cluster: ClusterId(Uuid::from_u128(id)), epoch: LineageEpoch::FIRST, name, confirmed }
}

async fn open(sim: &SimBucket, env: &Env) -> Bucket {
    loop {
        let opened = Bucket::open(sim.store(), &claim(7, false), Nonce(env.rng.next_u64()), env.clock.wall()).await;
        match opened {
            Ok(bucket) => return bucket,
            Err(error) => assert!(error.disposition().passes(), "{error}"),
        }
    }
}

impl Bench {
    fn new(seed: u64, faults: Faults, partitions: usize) -> Self {
        let world = Rc::new(World::new(seed));
        let env = world.env();
        let sim = SimBucket::new(&world.env_of(9), faults);
        let bucket = world.block_on(open(&sim, &env));
        let root = Some(claim(7, false).name.root_key());
        let fetch = FetchConfig { chunk_bytes: 4096, root, ..FetchConfig::new(PathBuf::from("/cache"), 256 << 10) };
        let reader = world.block_on(RemoteReader::open(env.clone(), sim.store(), fetch)).expect("opens");
        let lane = SimLane::new(env.clone(), bucket.home);
        let partitions: Vec<PartitionId> =
            (0..partitions).map(|n| partition(1 + n as u128 / 2, n as i32 % 2)).collect();
        partitions.iter().for_each(|id| lane.create(*id, RetentionPolicy::default()));
        Self { world, env, sim, bucket, reader, lane, config: quick(), partitions, done: RefCell::default() }
    }

    fn archiver(&self) -> Archiver<Rc<SimLane>> {
        self.archiver_with(self.config.clone())
    }

    fn archiver_with(&self, config: ArchiveConfig) -> Archiver<Rc<SimLane>> {
        Archiver::new(ArchiverParts {
            env: self.env.clone(),
            host: Rc::new(Rc::clone(&self.lane)),
            bucket: self.bucket.clone(),
            catalogue: Rc::new(CatalogueKeeper::new(self.bucket.clone(), self.env.clock.clone())),
            indexes: self.reader.indexes(),
            config,
        })
    }

    fn append_some(&self, draws: u64) {
        for _ in 0..draws {
            let id = self.partitions[self.env.rng.below(self.partitions.len() as u64) as usize];
            let (records, size) = (1 + self.env.rng.below(4), 1 + self.env.rng.below(700) as usize);
            self.lane.append(id, records, size);
        }
    }

    /// Runs an archiver for `time`, while others append and trim, then drops it wherever it is and begins a new term.
    fn live_for(&self, time: Duration, appends: u64) {
        let archiver = self.archiver();
        let running = archiver.clone();
        let task = self.env.tasks.spawn("archiver", async move { running.run().await });
        let steps = 20;
        for _ in 0..steps {
            self.append_some(self.env.rng.below(appends + 1));
            self.world.run_for(time / steps);
            if archiver.status().probed {
                let id = self.partitions[self.env.rng.below(self.partitions.len() as u64) as usize];
                let archived = self.lane.with_partition(id, |m| m.archived_end);
                if let (Some(archived), 0) = (archived, self.env.rng.below(3)) {
                    self.lane.trim_local(id, Offset::new(self.env.rng.below(archived.get() + 1)));
                }
            }
        }
        task.cancel();
        self.lane.new_term();
        let (mut done, status) = (self.done.borrow_mut(), archiver.status());
        done.adopted += status.adopted;
        done.segments += status.segments;
        done.gathered += status.gathered;
        done.parts_adopted += status.parts_adopted;
        done.published += status.published;
        done.deleted += status.deleted;
        done.swept += status.swept;
    }

    /// Good weather until everything is archived and nothing moves any more.
    fn settle(&self) {
        self.sim.set_faults(Faults { latency_max: Duration::from_millis(5), ..Faults::default() });
        let archiver = self.archiver();
        let running = archiver.clone();
        let task = self.env.tasks.spawn("archiver", async move { running.run().await });
        for _ in 0..40 {
            self.world.run_for(Duration::from_secs(5));
        }
        assert!(self.lane.unarchived().is_empty(), "all is archived: {:?}", archiver.status());
        assert_eq!(archiver.status().stopped, None);
        task.cancel();
        self.lane.new_term();
        let (mut done, status) = (self.done.borrow_mut(), archiver.status());
        done.adopted += status.adopted;
        done.segments += status.segments;
        done.gathered += status.gathered;
        done.parts_adopted += status.parts_adopted;
        done.published += status.published;
        done.deleted += status.deleted;
        done.swept += status.swept;
    }

    fn read_back(&self, id: PartitionId) -> Result<(Offset, Vec<u8>), RemoteError> {
        let (start, end) =
            self.lane.with_partition(id, |m| (m.first_covered().max(m.log_start), m.archived_end)).expect("there");
        let mut next = start;
        let mut bytes = Vec::new();
        while next < end {
            let view = self.lane.with_partition(id, |m| RemoteReader::view(m, next)).expect("there");
            let max = 1 + self.env.rng.below(6_000) as usize;
            let read = self.world.block_on(self.reader.read_batches(view, next, end, max))?;
            assert!(read.range.end > next && read.range.start <= next, "progress: {:?} from {next}", read.range);
            assert_eq!(read.bytes as usize, read.batches.iter().map(Bytes::len).sum::<usize>());
            next = read.range.end;
            read.batches.iter().for_each(|piece| bytes.extend_from_slice(piece));
        }
        Ok((start, bytes))
    }

    /// Reads from anywhere, sometimes on from there; counts right answers and errors, and panics at a wrong one.
    async fn read_at_random(&self, id: PartitionId, reads: u64) -> (u64, u64) {
        let rng = &self.env.rng;
        let (start, end) =
            self.lane.with_partition(id, |m| (m.first_covered().max(m.log_start), m.archived_end)).expect("there");
        let (mut good, mut bad, mut next) = (0, 0, start);
        for _ in 0..reads {
            if next >= end || rng.below(4) == 0 {
                next = Offset::new(start.get() + rng.below(end.get() - start.get()));
            }
            let view = self.lane.with_partition(id, |m| RemoteReader::view(m, next)).expect("there");
            match self.reader.read_batches(view, next, end, 1 + rng.below(6_000) as usize).await {
                Ok(read) => {
                    let bytes: Vec<u8> = read.batches.iter().flat_map(|piece| piece.to_vec()).collect();
                    assert!(bytes == self.lane.logs.borrow()[&id].bytes(read.range), "{id} {}", read.range);
                    (good, next) = (good + 1, read.range.end);
                }
                Err(_) => bad += 1,
            }
        }
        (good, bad)
    }

    fn all_reads_back(&self) {
        for id in self.partitions.iter().filter(|id| self.lane.with_partition(**id, |_| ()).is_some()) {
            let (start, bytes) = self.read_back(*id).expect("reads");
            let logs = self.lane.logs.borrow();
            let log = logs.get(id).expect("there");
            let end = self.lane.with_partition(*id, |m| m.archived_end).expect("there");
            assert!(bytes == log.bytes(OffsetRange::new(start, end)), "{id} reads back byte for byte");
        }
    }

    /// No object is deleted that a row names, or that a settled bundle names as its part.
    fn named_objects_exist(&self) {
        let objects = self.sim.objects();
        self.lane.with_manifests(|lane, all| {
            let rows = all.iter().flat_map(|manifest| manifest.rows.iter().map(crate::manifest::Row::object));
            let parts = lane.live.values().flat_map(|live| live.parts.iter().copied());
            let gone = rows.chain(parts).find(|object| !objects.contains_key(object.key().as_str()));
            assert_eq!(gone.map(|object| object.to_string()), None);
        });
    }

    /// Keys that neither the lane nor a partition names.
    fn orphans(&self) -> Vec<String> {
        let named_by_partition = |name: &ObjectName| {
            self.lane.with_manifests(|_, all| {
                all.iter().any(|m| m.names(name) || m.pending.iter().any(|(object, _)| object == name))
            })
        };
        let parts = self.lane.with_lane(LaneManifest::parts);
        let orphan = |key: &String| {
            let Some(name) = ObjectName::parse(&ObjectKey::new(key).expect("legal")) else { return false };
            let catalogue = matches!(name.kind, ObjectKind::Catalogue);
            let is_named = |lane: &LaneManifest| lane.names(&name) || parts.contains(&name);
            !catalogue && !self.lane.with_lane(is_named) && !named_by_partition(&name)
        };
        self.sim.objects().into_keys().filter(orphan).collect()
    }
}

#[test]
fn whatever_happens_the_archive_reads_back_and_nothing_stays_behind() {
    let seeds = std::env::var("TIDEWATER_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let mut done = ArchiveStatus::default();
    for seed in 0..seeds {
        let bench = Bench::new(seed, Faults::rough(), 4);
        let lives = 3 + bench.env.rng.below(5);
        for life in 0..lives {
            let down = bench.env.rng.below(5) == 0;
            bench.sim.set_faults(Faults { down, ..Faults::rough() });
            let time = Duration::from_millis(300 + bench.env.rng.below(9_000));
            bench.live_for(time, 6);
            bench.named_objects_exist();
            if life % 2 == 0 {
                bench.sim.set_faults(Faults::default());
                bench.all_reads_back();
            }
        }
        bench.settle();
        bench.all_reads_back();
        assert_eq!(bench.orphans(), Vec::<String>::new(), "seed {seed}");
        let pending = bench.lane.with_manifests(|_, all| all.iter().map(|m| m.pending.len()).sum::<usize>());
        assert_eq!(pending, 0, "seed {seed}: nothing waits to be deleted");
        let life = bench.done.borrow();
        done.adopted += life.adopted;
        done.segments += life.segments;
        done.gathered += life.gathered;
        done.parts_adopted += life.parts_adopted;
        done.deleted += life.deleted;
        done.swept += life.swept;
    }
    let rare = done.adopted.min(done.segments).min(done.gathered).min(done.deleted).min(done.swept);
    assert!(rare.min(done.parts_adopted) > 0, "the runs met everything at least once: {done:?}");
}

#[test]
fn the_same_seed_runs_the_same() {
    let run = |seed| {
        let bench = Bench::new(seed, Faults::rough(), 3);
        bench.live_for(Duration::from_secs(8), 6);
        bench.live_for(Duration::from_secs(8), 6);
        bench.sim.objects().into_iter().collect::<Vec<_>>()
    };
    assert!(run(11) == run(11));
    assert!(run(11) != run(12));
}

#[test]
fn segments_replace_bundles_and_quiet_partitions_are_gathered() {
    let bench = Bench::new(3, Faults::default(), 4);
    for _ in 0..6 {
        (0..30).for_each(|_| bench.lane.append(bench.partitions[0], 3, 200));
        bench.lane.append(bench.partitions[1], 1, 50);
        bench.live_for(Duration::from_secs(4), 0);
    }
    bench.settle();
    let kinds = |id| {
        bench
            .lane
            .with_partition(id, |m| m.rows.iter().map(|row| row.object().kind).collect::<Vec<_>>())
            .expect("there")
    };
    assert!(kinds(bench.partitions[0]).iter().any(|kind| matches!(kind, ObjectKind::Segment { .. })));
    assert!(kinds(bench.partitions[1]).iter().any(|kind| matches!(kind, ObjectKind::Gathered { .. })));
    bench.all_reads_back();
    assert!(bench.lane.rejected.borrow().is_empty(), "{:?}", bench.lane.rejected.borrow());
    let manifest = bench.bucket.home.lane_manifest(bench.lane.lane()).key();
    let published = PublishedLane::decode(&bench.sim.objects()[manifest.as_str()]).expect("decodes");
    assert_eq!(published.follow_from, bench.lane.with_lane(|lane| lane.last.next()));
}

#[test]
fn a_row_that_must_stay_does_not_make_gathering_due() {
    let mut bench = Bench::new(3, Faults::default(), 4);
    bench.config.gather_bundles = 1000;
    // Larger than the bound, in a segment that does not close.
    bench.lane.append(bench.partitions[0], 1, 5_000);
    bench.live_for(Duration::from_secs(1), 0);
    let archiver = bench.archiver();
    let running = archiver.clone();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    for _ in 0..80 {
        bench.partitions.iter().skip(1).for_each(|id| bench.lane.append(*id, 1, 20));
        bench.world.run_for(Duration::from_secs(1));
    }
    let gathered = archiver.status().gathered;
    assert!((8..=12).contains(&gathered), "{gathered} in ten times gather_after");
    task.cancel();
}

#[test]
fn retention_moves_the_start_and_empties_the_bucket_of_what_is_below() {
    let bench = Bench::new(4, Faults::default(), 2);
    let policy = RetentionPolicy { retention_ms: None, retention_bytes: Some(20_000) };
    for id in &bench.partitions {
        bench.lane.logs.borrow_mut().get_mut(id).and_then(|log| log.facts.as_mut()).expect("there").retention = policy;
    }
    for _ in 0..8 {
        bench.live_for(Duration::from_secs(5), 12);
    }
    bench.settle();
    for id in &bench.partitions {
        let (start, bytes) = bench.lane.with_partition(*id, |m| (m.log_start, m.bytes())).expect("there");
        assert!(start > Offset::ZERO && bytes < 45_000, "{start} {bytes}");
        let view = bench.lane.with_partition(*id, |m| RemoteReader::view(m, Offset::ZERO)).expect("there");
        let below = bench.world.block_on(bench.reader.read_batches(view, Offset::ZERO, start, 1));
        assert!(matches!(below, Err(RemoteError::BelowStart { .. })));
    }
    bench.all_reads_back();
    assert_eq!(bench.orphans(), Vec::<String>::new());
}

#[test]
fn a_deleted_topic_leaves_nothing() {
    let bench = Bench::new(5, Faults::rough(), 4);
    bench.live_for(Duration::from_secs(20), 12);
    let topic = bench.partitions[0].topic;
    bench.lane.drop_topic(topic);
    bench.live_for(Duration::from_secs(5), 6);
    bench.settle();
    let dropped: BTreeSet<PartitionId> = bench.partitions.iter().filter(|id| id.topic == topic).copied().collect();
    assert_eq!(*bench.lane.clean.borrow(), dropped);
    let of_topic = bench.sim.objects().into_keys().filter(|key| key.contains(&topic.to_string())).collect::<Vec<_>>();
    assert_eq!(of_topic, Vec::<String>::new());
    let catalogue = bench.world.block_on(bench.bucket.catalogue()).expect("reads").expect("there").0;
    assert!(catalogue.topics.iter().all(|entry| entry.id != topic));
    assert_eq!(catalogue.lanes, [bench.lane.lane()]);
    bench.all_reads_back();
    assert_eq!(bench.orphans(), Vec::<String>::new());
}

#[test]
fn a_foreign_bundle_stops_the_lane_visibly() {
    let bench = Bench::new(6, Faults::default(), 1);
    bench.live_for(Duration::from_secs(5), 6);
    let next = bench.lane.with_lane(|lane| lane.next_bundle());
    bench.sim.tamper(next.key().as_str(), Some(Bytes::from_static(b"something else")));
    bench.live_for(Duration::from_secs(5), 6);
    let stopped = bench.archiver().status().stopped.expect("stopped");
    assert!(stopped.contains("not a readable bundle"), "{stopped}");
    let objects = bench.sim.objects();
    assert_eq!(objects[next.key().as_str()], Bytes::from_static(b"something else"), "never overwritten");
}

#[test]
fn a_stopped_lane_goes_on_by_an_operators_word_and_only_when_the_reason_is_gone() {
    let bench = Bench::new(6, Faults::default(), 1);
    bench.live_for(Duration::from_secs(5), 6);
    let next = bench.lane.with_lane(|lane| lane.next_bundle());
    assert_eq!(bench.world.block_on(bench.archiver().resume()), Ok(None), "nothing had stopped it");
    bench.sim.tamper(next.key().as_str(), Some(Bytes::from_static(b"something else")));
    bench.live_for(Duration::from_secs(30), 6);
    let reason = bench.archiver().status().stopped.expect("stopped");
    assert_eq!(bench.world.block_on(bench.archiver().resume()), Ok(Some(reason.clone())));
    assert_eq!(bench.archiver().status().stopped, None);
    bench.live_for(Duration::from_secs(30), 6);
    assert_eq!(bench.archiver().status().stopped, Some(reason.clone()), "the reason is still there");
    bench.sim.tamper(next.key().as_str(), None);
    assert_eq!(bench.world.block_on(bench.archiver().resume()), Ok(Some(reason)));
    bench.settle();
    bench.all_reads_back();
}

#[test]
fn a_rotten_local_range_keeps_only_its_own_partition_back() {
    let bench = Bench::new(7, Faults::default(), 2);
    (0..10).for_each(|_| bench.lane.append(bench.partitions[0], 1, 100));
    (0..10).for_each(|_| bench.lane.append(bench.partitions[1], 1, 100));
    bench.lane.logs.borrow_mut().get_mut(&bench.partitions[0]).expect("there").rotten = Some(Offset::new(4));
    bench.live_for(Duration::from_secs(3), 0);
    let ends = |n: usize| bench.lane.with_partition(bench.partitions[n], |m| m.archived_end).expect("there");
    assert_eq!((ends(0), ends(1)), (Offset::new(4), Offset::new(10)));
    let bad = bench.lane.with_partition(bench.partitions[0], |m| m.quarantined.clone()).expect("there");
    assert_eq!(bad.len(), 1, "{bad:?}");
    bench.all_reads_back();
}

#[test]
fn damaged_objects_are_typed_errors_and_scrubbing_quarantines_or_repairs_them() {
    let bench = Bench::new(8, Faults::default(), 1);
    let id = bench.partitions[0];
    (0..10).for_each(|_| bench.lane.append(id, 2, 100));
    bench.live_for(Duration::from_secs(2), 0);
    let bundle = bench.lane.with_partition(id, |m| m.rows[0].object()).expect("there").key();
    let mut body = BytesMut::from(&bench.sim.objects()[bundle.as_str()][..]);
    body[70] ^= 1;
    bench.sim.tamper(bundle.as_str(), Some(body.freeze()));
    let read = bench.read_back(id);
    assert!(matches!(read, Err(RemoteError::Corrupt { .. })), "{read:?}");
    let report = bench.world.block_on(bench.archiver().scrub(None, u64::MAX)).expect("scrubs");
    assert_eq!(
        (report.quarantined.len(), report.repaired.len()),
        (1, 0),
        "no closed segment to repair from: {report:?}"
    );
    bench.sim.tamper(bundle.as_str(), None);
    let gone = RemoteReader::view(&bench.lane.with_partition(id, Clone::clone).expect("there"), Offset::ZERO);
    bench.sim.set_faults(Faults { down: true, ..Faults::default() });
    let read = bench.world.block_on(bench.reader.read_batches(gone, Offset::ZERO, Offset::new(5), 1000));
    assert!(read.expect_err("down").disposition().passes());
}

#[test]
fn a_bucket_that_answers_badly_gives_the_truth_or_an_error() {
    let seeds = std::env::var("TIDEWATER_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let (mut good, mut bad) = (0, 0);
    for seed in 20..20 + seeds {
        let bench = Bench::new(seed, Faults::default(), 2);
        bench.live_for(Duration::from_secs(5), 40);
        bench.settle();
        let latency_max = Duration::from_millis(300);
        let answers = Faults { throttled: 50, lost_answers: 50, torn: 50, corrupt: 50, ..Faults::default() };
        bench.sim.set_faults(Faults { latency_max, ..answers });
        for _ in 0..40 {
            for id in &bench.partitions {
                let (start, bytes) = match bench.read_back(*id) {
                    Ok(read) => read,
                    Err(RemoteError::Corrupt { .. } | RemoteError::BadIndex { .. }) => {
                        bad += 1;
                        continue;
                    }
                    Err(error) => {
                        assert!(error.disposition().passes(), "{error}");
                        bad += 1;
                        continue;
                    }
                };
                good += 1;
                let end = bench.lane.with_partition(*id, |m| m.archived_end).expect("there");
                let logs = bench.lane.logs.borrow();
                let log = logs.get(id).expect("there").bytes(OffsetRange::new(start, end));
                assert!(bytes == log, "{id} reads back byte for byte");
            }
        }
        bench.sim.set_faults(Faults::default());
        bench.all_reads_back();
    }
    assert!(good > 0 && bad > 0, "{good} reads, {bad} errors");
}

#[test]
fn readers_beside_each_other_over_a_bad_bucket_get_the_truth_or_an_error() {
    let seeds = std::env::var("TIDEWATER_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let (mut good, mut bad) = (0, 0);
    for seed in 40..40 + seeds {
        let bench = Bench::new(seed, Faults::default(), 1);
        bench.live_for(Duration::from_secs(5), 40);
        bench.settle();
        let latency_max = Duration::from_millis(100);
        bench.sim.set_faults(Faults { latency_max, torn: 50, corrupt: 300, ..Faults::default() });
        let readers = (0..6).map(|_| bench.read_at_random(bench.partitions[0], 60));
        for (right, errors) in bench.world.block_on(futures::future::join_all(readers)) {
            good += right;
            bad += errors;
        }
    }
    assert!(good > 0 && bad > 0, "{good} reads, {bad} errors");
}

#[test]
fn offsets_are_found_by_time_exactly() {
    let bench = Bench::new(9, Faults::default(), 1);
    let id = bench.partitions[0];
    for _ in 0..10 {
        bench.live_for(Duration::from_secs(1), 2);
    }
    bench.settle();
    let logs = bench.lane.logs.borrow();
    let records: Vec<_> = logs[&id]
        .batches
        .iter()
        .flat_map(|b| tidewater_storage::model::record::read_all(&b.header, &b.bytes, 1 << 20).expect("reads"))
        .collect();
    let view = || bench.lane.with_partition(id, crate::fetch::ReadView::whole).expect("there");
    for at in records.iter().map(|r| r.timestamp).chain([TimestampMs(0), TimestampMs(i64::MAX)]) {
        let found = bench.world.block_on(bench.reader.find_time(view(), at, Offset::MAX)).expect("reads");
        let truth = records.iter().find(|r| r.timestamp >= at).map(|r| (r.offset, r.timestamp));
        assert_eq!(found.map(|f| (f.offset, f.timestamp)), truth);
    }
    let last = bench.world.block_on(bench.reader.max_timestamp(view(), Offset::MAX)).expect("reads").expect("some");
    assert_eq!(Some(last.timestamp), records.iter().map(|r| r.timestamp).max());
}

#[test]
fn a_batch_that_does_not_open_is_found_by_its_header() {
    let bench = Bench::new(9, Faults::default(), 1);
    let id = bench.partitions[0];
    for batches in 0..3 {
        bench.lane.append(id, 3, 50);
        if batches == 1 {
            bench.lane.append_closed(id, 4, 50);
        }
        bench.live_for(Duration::from_secs(1), 0);
    }
    let closed = bench.lane.logs.borrow()[&id].batches[2].header;
    let view = || bench.lane.with_partition(id, crate::fetch::ReadView::whole).expect("there");
    let find = |at| bench.world.block_on(bench.reader.find_time(view(), at, Offset::MAX)).expect("reads");
    let found = find(closed.max_timestamp).map(|found| (found.offset, found.timestamp));
    // As `first_in_batch` of the local log tells it.
    assert_eq!(found, Some((closed.base_offset, closed.max_timestamp)));
    let after = find(TimestampMs(closed.max_timestamp.0 + 1)).expect("the last batch");
    assert_eq!(after.offset, closed.next_offset());
    assert!(bench.world.block_on(bench.reader.max_timestamp(view(), Offset::MAX)).expect("reads").is_some());
}

#[test]
fn a_fresh_data_directory_on_a_taken_name_is_refused() {
    let bench = Bench::new(10, Faults::default(), 1);
    let open = |claim: Claim| {
        bench.world.block_on(async { Bucket::open(bench.sim.store(), &claim, Nonce(1), TimestampMs(1)).await })
    };
    assert!(matches!(open(claim(8, false)), Err(BucketError::Refused(RootRefusal::Foreign { .. }))));
    assert!(open(claim(7, true)).is_ok());
    bench.sim.tamper("tidewater/root", None);
    assert!(matches!(open(claim(7, true)), Err(BucketError::Refused(RootRefusal::Vanished { .. }))));
}
