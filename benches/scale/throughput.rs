//! What `verify` reads of a directory bucket in a second ÷ raw GETs of the same objects in the same run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tidewater_storage::model::{LaneId, LeaderEpoch, LogIndex, Offset, PartitionId, PartitionIndex, Term, TopicName};
use tidewater_tiering::format::{DataKind, ObjectBuilder};
use tidewater_tiering::keys::{ClusterId, ClusterName, Nonce, ObjectKind, Sequence};
use tidewater_tiering::manifest::{
    Catalogue, CataloguePartition, CatalogueTopic, LaneManifest, LogFacts, PartitionManifest, PublishRequest, Root,
    plan_publish,
};
use tidewater_tiering::store::{Buffers, ObjectKey, ObjectStore, PutMode, StoreOptions, open};
use tidewater_tiering::verify::{VerifyRequest, verify};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::archive::{NOW, a_batch, header, segment_row};
use crate::report::{Samples, Table, cpu_per_gb, mb_per_s, ratio};
use crate::{Run, machine};

const LANE: LaneId = LaneId(1);
/// Bytes of a raw GET, and how many at once: as verify reads.
const GET_BYTES: u64 = 8 << 20;
const GETS_AT_ONCE: usize = 16;
/// Rounds of objects that are in the page cache. The medians count.
const ROUNDS: usize = 5;

/// A directory bucket with the data objects of one partition.
struct DirectoryBucket {
    runtime: Runtime,
    store: Arc<dyn ObjectStore>,
    name: ClusterName,
    /// Data objects with their sizes.
    objects: Vec<(ObjectKey, u64)>,
}

pub fn run(run: &Run) {
    let (objects, batch) = run.pick((32, 1_000_000), (3, 40_000));
    let dir = run.dir("throughput");
    let make = |name: &str| DirectoryBucket::make(&dir.path().join(name), objects, batch);
    let (first, second) = (make("first"), make("second"));
    let table = Table::new(&["objects", "what", "rate", "÷ raw GETs", "processor"]);
    let row = |place: &str, what: &str, samples: &Samples, raw: &Samples| {
        table.row(&[
            place.to_owned(),
            what.to_owned(),
            mb_per_s(samples.rate()),
            ratio(samples.rate(), raw.rate()),
            cpu_per_gb(samples.cpu, samples.bytes),
        ]);
    };
    // They were written past the page cache, so each first read is the disk's.
    let (checked, raw) = (first.verify(), second.raw());
    row("on the disk", "raw GETs of 8 M, 16 at once", &raw, &raw);
    row("on the disk", "verify", &checked, &raw);
    let (mut raws, mut checks) = (Vec::new(), Vec::new());
    for _ in 0..run.pick(ROUNDS, 1) {
        raws.push(first.raw());
        checks.push(first.verify());
    }
    let (raw, checked) = (median(raws), median(checks));
    row("in the page cache", "raw GETs of 8 M, 16 at once", &raw, &raw);
    row("in the page cache", "verify", &checked, &raw);
}

fn median(mut rounds: Vec<Samples>) -> Samples {
    rounds.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    rounds.swap_remove(rounds.len() / 2)
}

impl DirectoryBucket {
    /// With objects of 64 batches each.
    fn make(dir: &Path, objects: u64, batch: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let url = format!("file://{}", dir.display());
        let store = open(&url, runtime.handle().clone(), &StoreOptions::default()).expect("the store opens");
        let name = ClusterName::new("tidewater").expect("legal");
        let mut bucket = Self { runtime, store, name, objects: Vec::new() };
        bucket.fill(objects, batch);
        bucket
    }

    fn put(&self, key: &ObjectKey, pieces: Vec<Bytes>) {
        self.runtime.block_on(self.store.put_pieces(key, pieces, PutMode::Overwrite)).expect("the disk takes it");
    }

    fn fill(&mut self, objects: u64, batch: usize) {
        let root = Root::new(self.name.clone(), ClusterId(Uuid::from_u128(0x7177)), NOW);
        let (home, id) = (root.home(), PartitionId { index: PartitionIndex(0), ..PartitionId::default() });
        let value: Bytes = (0..batch).map(|n| (n * 31 % 251) as u8).collect::<Vec<u8>>().into();
        let mut manifest = PartitionManifest::new(id, Offset::ZERO, LogIndex(1));
        for n in 0..objects {
            let base = Offset::new(n * 64);
            let mut builder = ObjectBuilder::new(header(home, DataKind::Segment, LANE, Sequence(0), 0));
            builder.begin(id, base, Offset::ZERO);
            (0..64).for_each(|at| builder.push(&a_batch(base.get() + at, 1, &value)));
            let len = builder.data_len();
            let built = builder.finish();
            let object = home.name(ObjectKind::Segment { partition: id, base, term: Term(7), nonce: Nonce(n) });
            let offsets = built.index.partition(id).expect("it holds the partition").offsets;
            manifest.rows.push(segment_row(object, offsets, len, built.at));
            manifest.archived_end = offsets.end;
            self.objects.push((object.key(), built.size));
            self.put(&object.key(), built.pieces);
        }
        let state = LaneManifest::new(home, LANE);
        let facts = |_| LogFacts::default();
        let (as_of, term) = (LogIndex(2), Term(7));
        let request = PublishRequest { lane: &state, partitions: &[&manifest], facts: &facts, as_of, term, now: NOW };
        let plan = plan_publish(&request, || Nonce(u64::MAX));
        plan.pages.into_iter().for_each(|(page, body)| self.put(&page.key(), vec![body]));
        self.put(&plan.name.key(), vec![plan.manifest]);
        let topic = CatalogueTopic {
            id: id.topic,
            name: TopicName::new("orders").expect("legal"),
            configs: BTreeMap::new(),
            partitions: vec![CataloguePartition {
                incarnation: id.incarnation,
                lane: LANE,
                epoch_base: LeaderEpoch(0),
            }],
            revision: 1,
            copy: None,
        };
        let catalogue = Catalogue { lanes: vec![LANE], topics: vec![topic], ..Catalogue::new(home, NOW) };
        self.put(&home.name(ObjectKind::Catalogue).key(), vec![catalogue.encode()]);
        self.put(&self.name.root_key(), vec![root.encode()]);
    }

    fn bytes(&self) -> u64 {
        self.objects.iter().map(|(_, size)| size).sum()
    }

    fn raw(&self) -> Samples {
        let ranges = self.objects.iter().flat_map(|(key, size)| {
            let of = |at: u64| (key.clone(), at..(at + GET_BYTES).min(*size));
            (0..*size).step_by(usize::try_from(GET_BYTES).expect("8 MiB")).map(of).collect::<Vec<_>>()
        });
        let buffers = Buffers::new(64 << 20);
        let (read, samples) = self.timed(async {
            let gets = stream::iter(ranges).map(|(key, range)| {
                let buffers = &buffers;
                async move { self.store.get_into(&key, range, buffers).await.expect("it is there").body.len() as u64 }
            });
            gets.buffer_unordered(GETS_AT_ONCE).fold(0, |sum, bytes| async move { sum + bytes }).await
        });
        assert_eq!(read, self.bytes());
        samples
    }

    fn verify(&self) -> Samples {
        let request = VerifyRequest { name: self.name.clone(), quick: false };
        let (report, samples) = self.timed(verify(Arc::clone(&self.store), &request, &|_| {}));
        let report = report.expect("there is a root");
        assert!(report.is_whole(), "{:?}", report.findings);
        assert_eq!(report.objects, self.objects.len() as u64);
        samples
    }

    /// Runs what reads all objects once.
    fn timed<T>(&self, read: impl Future<Output = T>) -> (T, Samples) {
        let (begun, cpu) = (Instant::now(), machine::cpu_of(std::process::id()));
        let done = self.runtime.block_on(read);
        let mut samples = Samples::default();
        samples.cpu = machine::cpu_of(std::process::id()).saturating_sub(cpu);
        samples.add(begun.elapsed(), self.bytes());
        (done, samples)
    }
}
