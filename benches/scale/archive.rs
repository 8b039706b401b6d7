//! Makes the bucket of a cluster of any size, as its archivers would have left it: root, catalogue, lane manifests with
//! their pages, spill pages, and bundles that no manifest covers yet.
//!
//! Data objects that a manifest names are not made: their keys and sizes are there. The object of the first partition's
//! first row is made, so that it can be read.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Batch, Compression, Incarnation, LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, PartitionIndex,
    ProducerEpoch, ProducerId, Term, TimestampMs, TopicId, TopicName, batch,
};
use tidewater_tiering::format::{
    BuiltObject, DataIndex, DataKind, EpochStart, IndexRef, ObjectBuilder, ProducerBatch, ProducerState, TRAILER_LEN,
};
use tidewater_tiering::keys::{ClusterId, ClusterName, Home, Nonce, ObjectKind, ObjectName, Sequence};
use tidewater_tiering::manifest::{
    Catalogue, CataloguePartition, CatalogueTopic, LaneManifest, Live, LogFacts, PartitionManifest, PublishRequest,
    Root, Row, Source, plan_publish, plan_spill,
};
use uuid::Uuid;

use crate::store::{Content, Objects};

pub const NOW: TimestampMs = TimestampMs(1_767_225_600_000);
/// Records of a row.
const RECORDS: u64 = 10;
/// Data bytes that a segment object would have, and bytes of its index.
const SEGMENT_BYTES: u64 = 64 << 20;
const INDEX_BYTES: u32 = 2_500;
const PARTITIONS_OF_TOPIC: usize = 100;

/// What an archive is made of.
#[derive(Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    pub lanes: usize,
    pub partitions: usize,
    /// Rows of each partition.
    pub rows: u64,
    /// The last rows of each partition, which name bundles that it shares with the others of its lane. All others name
    /// segment objects of its own.
    pub shared_rows: u64,
    /// Bundles of each lane that its manifest does not cover. Each holds something of every partition.
    pub tail: u64,
}

/// A bucket with an archive in it, and what measurements must know of it.
pub struct Archive {
    pub name: ClusterName,
    pub objects: Objects,
    /// The row whose object can be read.
    pub readable: Option<(PartitionId, Row)>,
}

struct Maker {
    shape: Shape,
    home: Home,
    objects: Objects,
    nonces: u64,
    readable: Option<(PartitionId, Row)>,
}

pub fn make(shape: Shape) -> Archive {
    let name = ClusterName::new("tidewater").expect("legal");
    let root = Root::new(name.clone(), ClusterId(Uuid::from_u128(0x7177)), NOW);
    let mut maker = Maker { shape, home: root.home(), objects: Objects::new(), nonces: 0, readable: None };
    maker.put(name.root_key().to_string(), root.encode());
    maker.catalogue();
    (0..shape.lanes).for_each(|lane| maker.lane(lane));
    Archive { name, objects: maker.objects, readable: maker.readable }
}

fn partition(n: usize) -> PartitionId {
    let topic = TopicId(Uuid::from_u128(((n / PARTITIONS_OF_TOPIC) as u128) << 64 | 0x70));
    let index = PartitionIndex(i32::try_from(n % PARTITIONS_OF_TOPIC).expect("small"));
    PartitionId { topic, index, ..PartitionId::default() }
}

fn row_offsets(row: u64) -> OffsetRange {
    OffsetRange::new(Offset::new(row * RECORDS), Offset::new((row + 1) * RECORDS))
}

/// One batch of small records that begins at `base`.
pub fn a_batch(base: u64, records: u64, value: &Bytes) -> Batch {
    let sequence = i32::try_from(base % 1_000_000).expect("small");
    let mut builder = BatchBuilder::new(Compression::None).producer(ProducerId(4_000), ProducerEpoch(0), sequence);
    for _ in 0..records {
        builder.push(Record::new(NOW, None, Some(value.clone())));
    }
    let mut bytes = builder.build().to_vec();
    batch::patch(&mut bytes, Offset::new(base), LeaderEpoch(7));
    Batch::split_from(&mut Bytes::from(bytes)).expect("just built")
}

/// The index of an object of a lane, before anything is in it.
pub fn header(home: Home, kind: DataKind, lane: LaneId, sequence: Sequence, previous: u32) -> DataIndex {
    DataIndex {
        kind,
        home,
        lane,
        sequence,
        term: Term(7),
        log_index: LogIndex(50_000_000),
        previous,
        written: NOW,
        partitions: Vec::new(),
        events: Vec::new(),
        producers: None,
        seal: None,
        cut: None,
    }
}

/// Leader epochs, and a producer with five batches.
fn facts(end: Offset) -> LogFacts {
    let start = |n: u64| Offset::new(end.get() / 4 * n);
    let epoch = |n: u64| EpochStart { epoch: LeaderEpoch(i32::try_from(n).expect("small")), start: start(n) };
    let last = end.get().saturating_sub(5);
    let batch = |at: u64| {
        let sequence = i32::try_from(at % 1_000_000).expect("small");
        ProducerBatch { first: sequence, last: sequence, offset: Offset::new(at), timestamp: NOW }
    };
    let producer = ProducerState {
        id: ProducerId(4_000),
        epoch: ProducerEpoch(0),
        seen: NOW,
        batches: (last..end.get()).map(batch).collect(),
    };
    LogFacts { epochs: (0..3).map(epoch).collect(), producers: vec![producer] }
}

impl Maker {
    fn put(&mut self, key: String, body: Bytes) {
        self.objects.insert(key, Content::Body(body));
    }

    fn nonce(&mut self) -> Nonce {
        self.nonces += 1;
        Nonce(self.nonces)
    }

    fn lane_of(&self, n: usize) -> LaneId {
        LaneId(u32::try_from(1 + n % self.shape.lanes).expect("few lanes"))
    }

    fn catalogue(&mut self) {
        let all: Vec<usize> = (0..self.shape.partitions).collect();
        let of_topic = |(n, inside): (usize, &[usize])| CatalogueTopic {
            id: partition(n * PARTITIONS_OF_TOPIC).topic,
            name: TopicName::new(&format!("topic-{n}")).expect("legal"),
            configs: BTreeMap::from([("retention.ms".into(), "604800000".into())]),
            partitions: inside
                .iter()
                .map(|n| CataloguePartition {
                    incarnation: Incarnation(0),
                    lane: self.lane_of(*n),
                    epoch_base: LeaderEpoch(0),
                })
                .collect(),
            revision: 1,
            copy: None,
        };
        let topics = all.chunks(PARTITIONS_OF_TOPIC).enumerate().map(of_topic).collect();
        let lanes = (0..self.shape.lanes).map(|lane| self.lane_of(lane)).collect();
        let catalogue = Catalogue { revision: 1, lanes, topics, ..Catalogue::new(self.home, NOW) };
        self.put(self.home.name(ObjectKind::Catalogue).key().to_string(), catalogue.encode());
    }

    fn lane(&mut self, at: usize) {
        let lane = self.lane_of(at);
        let ids: Vec<PartitionId> = (at..self.shape.partitions).step_by(self.shape.lanes).map(partition).collect();
        let mut state = LaneManifest::new(self.home, lane);
        for sequence in 1..=self.shape.shared_rows {
            let (object, size) = (self.home.bundle(lane, Sequence(sequence)), SEGMENT_BYTES);
            let live = Live { size, since: LogIndex(1), parts: Vec::new(), pins: 0, spilled: 0 };
            state.live.insert(object, live);
            self.objects.insert(object.key().to_string(), Content::Size(size));
        }
        state.last = Sequence(self.shape.shared_rows);
        state.last_crc = 0xdead_beef;
        let manifests: Vec<PartitionManifest> = ids.iter().map(|id| self.manifest(lane, *id)).collect();
        self.publish(&state, &manifests);
        let mut previous = state.last_crc;
        for n in 0..self.shape.tail {
            let sequence = Sequence(state.last.0 + 1 + n);
            let built = self.bundle(lane, sequence, previous, &ids, n);
            previous = built.at.crc;
            self.put(self.home.bundle(lane, sequence).key().to_string(), built.body());
        }
    }

    fn publish(&mut self, state: &LaneManifest, manifests: &[PartitionManifest]) {
        let partitions: Vec<&PartitionManifest> = manifests.iter().collect();
        let end = row_offsets(self.shape.rows).start;
        let facts = |_| facts(end);
        let (as_of, term, mut nonces) = (LogIndex(50_000_000), Term(7), self.nonces);
        let request = PublishRequest { lane: state, partitions: &partitions, facts: &facts, as_of, term, now: NOW };
        let plan = plan_publish(&request, || {
            nonces += 1;
            Nonce(nonces)
        });
        self.nonces = nonces;
        for (page, body) in plan.pages {
            self.put(page.key().to_string(), body);
        }
        self.put(plan.name.key().to_string(), plan.manifest);
    }

    /// With the newest rows resident and the others in spill pages, as rows that come one by one leave it.
    fn manifest(&mut self, lane: LaneId, id: PartitionId) -> PartitionManifest {
        let mut manifest = PartitionManifest::new(id, Offset::ZERO, LogIndex(1));
        for n in 0..self.shape.rows {
            let row = match (n + self.shape.shared_rows).checked_sub(self.shape.rows) {
                Some(before) => self.shared_row(lane, n, Sequence(before + 1)),
                None => self.own_row(lane, id, n),
            };
            manifest.archived_end = row.offsets.end;
            manifest.rows.push(row);
            if manifest.rows.len().is_multiple_of(128) {
                self.spill(&mut manifest);
            }
        }
        self.spill(&mut manifest);
        manifest
    }

    fn spill(&mut self, manifest: &mut PartitionManifest) {
        loop {
            let nonce = self.nonce();
            let Some((body, spilled)) = plan_spill(manifest, self.home, nonce) else { return };
            let page = spilled.page;
            self.put(page.page.key().to_string(), body);
            let at = manifest.spilled.partition_point(|known| known.offsets.end <= page.offsets.start);
            let gone =
                manifest.spilled.iter().skip(at).take_while(|known| known.offsets.end <= page.offsets.end).count();
            manifest.spilled.splice(at..at + gone, [page]);
            manifest.rows.drain(..manifest.rows.partition_point(|row| row.offsets.end <= page.offsets.end));
        }
    }

    fn shared_row(&self, lane: LaneId, n: u64, sequence: Sequence) -> Row {
        let source = Source::Bundle(self.home.bundle(lane, sequence));
        Row { offsets: row_offsets(n), bytes: 1_200, max_timestamp: NOW, source }
    }

    fn own_row(&mut self, lane: LaneId, id: PartitionId, n: u64) -> Row {
        let offsets = row_offsets(n);
        let kind = ObjectKind::Segment { partition: id, base: offsets.start, term: Term(7), nonce: self.nonce() };
        let object = self.home.name(kind);
        if self.readable.is_some() {
            let index = IndexRef { offset: SEGMENT_BYTES, len: INDEX_BYTES, crc: 7 };
            self.objects.insert(object.key().to_string(), Content::Size(index.end() + TRAILER_LEN as u64));
            return segment_row(object, offsets, SEGMENT_BYTES, index);
        }
        let mut builder = ObjectBuilder::new(header(self.home, DataKind::Segment, lane, Sequence(0), 0));
        builder.begin(id, offsets.start, Offset::ZERO);
        builder.push(&a_batch(offsets.start.get(), RECORDS, &Bytes::from_static(&[7; 100])));
        let len = builder.data_len();
        let built = builder.finish();
        self.put(object.key().to_string(), built.body());
        let row = segment_row(object, offsets, len, built.at);
        self.readable = Some((id, row));
        row
    }

    /// The `n`th bundle behind the manifest.
    fn bundle(&self, lane: LaneId, sequence: Sequence, previous: u32, ids: &[PartitionId], n: u64) -> BuiltObject {
        let mut builder = ObjectBuilder::new(header(self.home, DataKind::Bundle, lane, sequence, previous));
        let batch = a_batch(row_offsets(self.shape.rows + n).start.get(), RECORDS, &Bytes::from_static(&[7; 8]));
        for id in ids {
            builder.begin(*id, batch.header.base_offset, Offset::ZERO);
            builder.push(&batch);
        }
        builder.finish()
    }
}

pub fn segment_row(object: ObjectName, offsets: OffsetRange, len: u64, index: IndexRef) -> Row {
    Row { offsets, bytes: len, max_timestamp: NOW, source: Source::Object { object, start: 0, len, index } }
}
