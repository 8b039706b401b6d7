//! What tests of this crate share: a bucket in memory that can crash its process at any step, a log in memory, and a
//! reader of tables that uses only what the catalog's pointer reaches.
#![allow(clippy::panic, unreachable_pub)]

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use iceberg::TableIdent;
use iceberg::spec::ManifestList;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidewater_storage::model::batch::patch;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Compression, LeaderEpoch, Offset, OffsetRange, PartitionIndex, TimestampMs, TopicId, TopicName,
};
use tidewater_tiering::store::{
    ByteSource, ETag, Got, Head, Listed, ObjectKey, ObjectStore, PutDone, PutMode, StoreError,
};
use uuid::Uuid;

use crate::catalog::{Catalog, ObjectStoreCatalog};
use crate::files::TableFiles;
use crate::location::Warehouse;
use crate::mode::{KeyMode, TableMode};
use crate::names::Names;
use crate::partition::spec::PartitionChoice;
use crate::read::{LogRead, LogReadError, LogReader, PartitionBounds};
use crate::registry::{SchemaSource, SchemaSourceError, WriterSchema};
use crate::sink::{SinkConfig, TableSink};

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before the store has done anything.
    CrashBefore,
    /// The store has done it, then the process dies.
    CrashAfter,
    /// The store has not done it and says "unavailable"; the process lives.
    Refused,
    /// The store has done it and says "unavailable"; the process lives.
    LostAnswer,
    /// The store refuses it for good: a name too long, no permission.
    Forbidden,
}

#[derive(Debug, Default)]
struct BucketState {
    objects: BTreeMap<String, (Bytes, u64)>,
    version: u64,
    steps: u64,
    fault: Option<(u64, Fault)>,
    /// Faults drawn at random: state of the generator and odds in 1,000.
    random: Option<(u64, u64)>,
    dead: bool,
}

/// A bucket in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<BucketState>>);

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, BucketState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn arm(&self, step: u64, fault: Fault) {
        self.lock().fault = Some((step, fault));
    }

    pub fn arm_random(&self, seed: u64, odds: u64) {
        self.lock().random = Some((seed, odds));
    }

    pub fn calm(&self) {
        let mut state = self.lock();
        (state.random, state.fault, state.dead) = (None, None, false);
    }

    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    pub fn revive(&self) {
        self.lock().dead = false;
    }

    /// Whether the step of an armed fault has not come yet.
    pub fn fault_is_ahead(&self) -> bool {
        let state = self.lock();
        state.fault.is_some_and(|(step, _)| step > state.steps)
    }

    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    pub fn keys(&self) -> Vec<(String, usize)> {
        self.lock().objects.iter().map(|(key, (body, _))| (key.clone(), body.len())).collect()
    }

    fn run<T>(&self, key: &str, act: impl FnOnce(&mut BucketState) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut state = self.lock();
        let unavailable = || StoreError::Unavailable { key: key.to_owned(), detail: "simulated".to_owned() };
        if state.dead {
            return Err(StoreError::Closed);
        }
        state.steps += 1;
        let mut fault = state.fault.filter(|(step, _)| *step == state.steps).map(|(_, fault)| fault);
        if let Some((draw, odds)) = &mut state.random {
            *draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (*draw >> 33) % 1000 < *odds {
                let faults = [Fault::CrashBefore, Fault::CrashAfter, Fault::Refused, Fault::LostAnswer];
                fault = Some(faults[(*draw >> 20) as usize % 4]);
            }
        }
        match fault {
            None => act(&mut state),
            Some(Fault::CrashBefore) => {
                state.dead = true;
                Err(StoreError::Closed)
            }
            Some(Fault::CrashAfter) => {
                let _ = act(&mut state);
                state.dead = true;
                Err(StoreError::Closed)
            }
            Some(Fault::Refused) => Err(unavailable()),
            Some(Fault::Forbidden) => {
                Err(StoreError::Refused { key: key.to_owned(), detail: "File name too long".to_owned() })
            }
            Some(Fault::LostAnswer) => {
                let _ = act(&mut state);
                Err(unavailable())
            }
        }
    }
}

fn etag(version: u64) -> ETag {
    ETag(version.to_string().into())
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        self.run(key.as_str(), |state| {
            let old = state.objects.get(key.as_str()).map(|(_, version)| etag(*version));
            let holds = match &mode {
                PutMode::Overwrite => true,
                PutMode::IfAbsent => old.is_none(),
                PutMode::IfMatch(wanted) => old.as_ref() == Some(wanted),
            };
            if !holds {
                return Err(StoreError::Taken { key: key.as_str().to_owned() });
            }
            state.version += 1;
            let version = state.version;
            state.objects.insert(key.as_str().to_owned(), (body, version));
            Ok(PutDone { etag: etag(version) })
        })
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        self.run(key.as_str(), |state| {
            let (body, version) =
                state.objects.get(key.as_str()).ok_or_else(|| StoreError::NotFound { key: key.as_str().to_owned() })?;
            let size = body.len() as u64;
            let range = range.unwrap_or(0..size);
            let body = body.slice(range.start as usize..range.end.min(size) as usize);
            Ok(Got { body, etag: etag(*version), size })
        })
    }

    async fn get_if_changed(&self, key: &ObjectKey, known: &ETag) -> Result<Option<Got>, StoreError> {
        let got = self.get(key, None).await?;
        Ok((got.etag != *known).then_some(got))
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        let got = self.get(key, None).await?;
        Ok(Head { size: got.size, etag: got.etag, modified: TimestampMs(0) })
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        self.run(prefix, |state| {
            let keys = state.objects.iter().filter(|(key, _)| key.starts_with(prefix));
            let keys = keys.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after)).take(max);
            keys.map(|(key, (body, _))| {
                let key = ObjectKey::new(key).map_err(|_| StoreError::Closed)?;
                Ok(Listed { key, size: body.len() as u64, modified: TimestampMs(0) })
            })
            .collect()
        })
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        for key in keys {
            self.run(key.as_str(), |state| {
                state.objects.remove(key.as_str());
                Ok(())
            })?;
        }
        Ok(())
    }

    async fn put_large(&self, key: &ObjectKey, _: u64, _: ByteSource) -> Result<PutDone, StoreError> {
        Err(StoreError::NotFound { key: key.as_str().to_owned() })
    }
}

/// A topic's log in memory.
#[derive(Debug, Default)]
pub struct MemoryLog {
    /// Offset of a partition from which on it cannot be read.
    unreadable: Mutex<BTreeMap<i32, u64>>,
    /// Records that the replica which answers lacks, by partition.
    lags: Mutex<BTreeMap<i32, u64>>,
    partitions: Mutex<BTreeMap<i32, PartitionBatches>>,
}

#[derive(Debug, Default)]
struct PartitionBatches {
    start: u64,
    end: u64,
    batches: Vec<(u64, u64, Bytes)>,
}

impl MemoryLog {
    /// Appends a batch whose values say where they are: `<partition>/<offset>`.
    pub fn append(&self, partition: i32, count: u64, at: TimestampMs) {
        self.append_each(partition, (0..count).map(|_| (at, Bytes::from_static(b"k"))));
    }

    /// The same with the time and the key of each record.
    pub fn append_each(&self, partition: i32, records: impl IntoIterator<Item = (TimestampMs, Bytes)>) {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let log = partitions.entry(partition).or_default();
        let start = log.end;
        let mut builder = BatchBuilder::new(Compression::Lz4);
        for (at, key) in records {
            builder.push(Record::new(at, Some(key), Some(Bytes::from(value_of(partition, log.end)))));
            log.end += 1;
        }
        let mut bytes = BytesMut::from(&builder.build()[..]);
        patch(&mut bytes, Offset::new(start), LeaderEpoch(1));
        log.batches.push((start, log.end, bytes.freeze()));
    }

    /// Appends a batch of one record as it is.
    pub fn append_record(&self, partition: i32, record: Record) {
        self.append_records(partition, [record]);
    }

    /// Appends a batch of records as they are.
    pub fn append_records(&self, partition: i32, records: impl IntoIterator<Item = Record>) {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let log = partitions.entry(partition).or_default();
        let mut builder = BatchBuilder::new(Compression::Lz4);
        let start = log.end;
        for record in records {
            builder.push(record);
            log.end += 1;
        }
        let mut bytes = BytesMut::from(&builder.build()[..]);
        patch(&mut bytes, Offset::new(start), LeaderEpoch(1));
        log.batches.push((start, log.end, bytes.freeze()));
    }

    /// Damages the last batch of a partition.
    pub fn damage_last(&self, partition: i32) {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, bytes)) = partitions.entry(partition).or_default().batches.last_mut() {
            let mut bad = bytes.to_vec();
            if let Some(last) = bad.last_mut() {
                *last ^= 1;
            }
            *bytes = Bytes::from(bad);
        }
    }

    /// Retention takes everything below `start`.
    pub fn trim(&self, partition: i32, start: u64) {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.entry(partition).or_default().start = start;
    }

    /// The replica that answers lags by so many records.
    pub fn set_lag(&self, partition: i32, records: u64) {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, records);
    }

    /// The partition cannot be read from `from` on; `None` ends that.
    pub fn set_unreadable(&self, partition: i32, from: Option<u64>) {
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        unreadable.remove(&partition);
        unreadable.extend(from.map(|from| (partition, from)));
    }

    pub fn ends(&self) -> BTreeMap<i32, u64> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.iter().map(|(partition, log)| (*partition, log.end)).collect()
    }
}

pub fn value_of(partition: i32, offset: u64) -> String {
    format!("{partition}/{offset}")
}

#[async_trait]
impl LogReader for MemoryLog {
    async fn partitions(&self, _: TopicId) -> Result<Vec<PartitionBounds>, LogReadError> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let lags = self.lags.lock().unwrap_or_else(PoisonError::into_inner);
        let bounds = |(partition, log): (&i32, &PartitionBatches)| {
            let end = log.end.saturating_sub(lags.get(partition).copied().unwrap_or(0)).max(log.start);
            let offsets = OffsetRange::new(Offset::new(log.start), Offset::new(end));
            PartitionBounds { index: PartitionIndex(*partition), offsets }
        };
        Ok(partitions.iter().map(bounds).collect())
    }

    async fn leader_bounds(&self, topic: TopicId, partition: PartitionIndex) -> Result<PartitionBounds, LogReadError> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let log = partitions.get(&partition.0).ok_or(LogReadError::NoTopic(topic))?;
        let offsets = OffsetRange::new(Offset::new(log.start), Offset::new(log.end));
        Ok(PartitionBounds { index: partition, offsets })
    }

    async fn read(
        &self,
        _: TopicId,
        partition: PartitionIndex,
        range: OffsetRange,
        max_bytes: usize,
    ) -> Result<LogRead, LogReadError> {
        let bad_from = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).get(&partition.0).copied();
        if bad_from.is_some_and(|from| range.start.get() >= from) {
            return Err(LogReadError::Unavailable { partition, reason: "simulated".to_owned() });
        }
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let log = &partitions[&partition.0];
        let mut read = LogRead { batches: Vec::new(), offsets: OffsetRange::new(range.start, range.start) };
        let mut bytes = 0;
        for (start, end, batch) in log.batches.iter().filter(|(_, end, _)| *end > range.start.get()) {
            if *start >= range.end.get()
                || bad_from.is_some_and(|from| *start >= from)
                || (bytes > 0 && bytes + batch.len() > max_bytes)
            {
                break;
            }
            if read.batches.is_empty() {
                read.offsets.start = Offset::new(*start);
            }
            bytes += batch.len();
            read.batches.push(batch.clone());
            read.offsets.end = Offset::new(*end);
        }
        Ok(read)
    }
}

/// A schema registry in memory. A schema's GUID is its id as a number.
#[derive(Debug, Default)]
pub struct MemoryRegistry {
    schemas: Mutex<BTreeMap<u128, Arc<WriterSchema>>>,
    latest: Mutex<BTreeMap<String, u32>>,
    away: std::sync::atomic::AtomicBool,
    asked: std::sync::atomic::AtomicUsize,
}

impl MemoryRegistry {
    pub fn register(&self, id: u32, schema: WriterSchema) {
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner).insert(id.into(), Arc::new(schema));
    }

    /// Makes schema `id` the newest of a subject.
    pub fn set_latest(&self, subject: &str, id: u32) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).insert(subject.to_owned(), id);
    }

    /// Whether questions get no answer.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, std::sync::atomic::Ordering::Relaxed);
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.asked.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn get(&self, id: u128) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if self.away.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(SchemaSourceError { reason: "simulated".to_owned() });
        }
        Ok(self.schemas.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned())
    }
}

#[async_trait]
impl SchemaSource for MemoryRegistry {
    async fn by_id(&self, id: u32) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError> {
        self.get(id.into())
    }

    async fn by_guid(&self, guid: Uuid) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError> {
        self.get(guid.as_u128())
    }

    async fn latest(&self, subject: &str) -> Result<Option<(u32, Arc<WriterSchema>)>, SchemaSourceError> {
        let id = self.latest.lock().unwrap_or_else(PoisonError::into_inner).get(subject).copied();
        // An absent subject is not known without the registry either.
        let found = self.get(u128::from(id.unwrap_or(0)))?;
        Ok(id.zip(found))
    }
}

/// A bucket, a log, and processes that come and go.
pub struct World {
    pub store: MemoryStore,
    pub log: Arc<MemoryLog>,
    pub registry: Arc<MemoryRegistry>,
    pub mode: TableMode,
    pub key: KeyMode,
    pub partition: PartitionChoice,
    pub cluster: Uuid,
    pub topic: TopicId,
    pub seed: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let cluster = Uuid::from_u128(7);
        let topic = TopicId(Uuid::from_u128(9));
        let (store, log, registry) = (MemoryStore::default(), Arc::default(), Arc::default());
        let (mode, key, partition) = (TableMode::KeyValue, KeyMode::Binary, PartitionChoice::default());
        Self { store, log, registry, mode, key, partition, cluster, topic, seed }
    }

    /// With a topic whose values are columns.
    pub fn typed(seed: u64) -> Self {
        Self { mode: TableMode::ValueSchemaIdPrefix, ..Self::new(seed) }
    }

    pub fn catalog(&self) -> Arc<ObjectStoreCatalog> {
        let warehouse = Warehouse::new("s3://bucket", "lake").expect("legal");
        let files = TableFiles::new(Arc::new(self.store.clone()), warehouse);
        Arc::new(ObjectStoreCatalog::new(files, Names::seeded(self.seed), HashMap::new()))
    }

    pub fn config(&self, epoch: u64) -> SinkConfig {
        let topic = TopicName::new("orders").expect("legal");
        let mut config = SinkConfig::new(self.cluster, topic, self.topic, epoch);
        config.target_lag_ms = 0;
        config.mode = self.mode.clone();
        config.key = self.key;
        config.partition = self.partition.clone();
        config
    }

    pub fn table(&self) -> TableIdent {
        self.config(1).table
    }

    /// A process begins. Its names never repeat those of an earlier one.
    pub fn sink(&mut self, epoch: u64) -> TableSink {
        let config = self.config(epoch);
        self.sink_with(config)
    }

    pub fn sink_with(&mut self, config: SinkConfig) -> TableSink {
        self.seed += 1;
        let catalog = self.catalog();
        let sink = TableSink::new(config, catalog, self.log.clone(), Names::seeded(self.seed << 32));
        sink.with_schemas(self.registry.clone())
    }

    /// The table's rows: (partition, offset) and value.
    pub async fn rows(&self) -> Vec<(i32, u64, String)> {
        let mut rows = Vec::new();
        for file in self.data_files(&self.table()).await {
            read_parquet(file, &mut rows);
        }
        rows.sort();
        rows
    }

    /// The bodies of a table's data files; none of a table that is not there.
    pub async fn data_files(&self, table: &TableIdent) -> Vec<Bytes> {
        let catalog = self.catalog();
        let table = match catalog.load(table).await {
            Err(crate::catalog::CatalogError::NoSuchTable(_)) => return Vec::new(),
            loaded => loaded.expect("table loads"),
        };
        let files = catalog.files();
        let Some(snapshot) = table.metadata.current_snapshot() else { return Vec::new() };
        let list = files.read(snapshot.manifest_list()).await.expect("manifest list is there");
        let list = ManifestList::parse_with_version(&list, table.metadata.format_version()).expect("parses");
        let mut bodies = Vec::new();
        for manifest in list.entries() {
            let manifest = manifest.load_manifest(&files.io()).await.expect("manifest is there");
            for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
                let body = files.read(entry.file_path()).await.expect("data file is there");
                assert_eq!(body.len() as u64, entry.file_size_in_bytes());
                let reader = ParquetRecordBatchReaderBuilder::try_new(body.clone()).expect("parquet");
                let rows = reader.metadata().file_metadata().num_rows();
                assert_eq!(rows.unsigned_abs(), entry.record_count());
                bodies.push(body);
            }
        }
        bodies
    }

    /// What the table should hold: everything in the log from `start` on.
    pub fn expected(&self) -> Vec<(i32, u64, String)> {
        let ends = self.log.ends().into_iter();
        ends.flat_map(|(p, end)| (0..end).map(move |o| (p, o, value_of(p, o)))).collect()
    }
}

fn read_parquet(body: Bytes, rows: &mut Vec<(i32, u64, String)>) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build()).expect("parquet");
    for batch in reader {
        let batch = batch.expect("reads");
        let (system, value) = match batch.column(0).as_struct_opt() {
            Some(system) => (system.columns(), 1),
            None => (batch.columns(), 6),
        };
        let partitions = system[0].as_primitive::<Int32Type>();
        let offsets = system[1].as_primitive::<Int64Type>();
        let values = batch.column(value).as_binary::<i64>();
        for at in 0..batch.num_rows() {
            let value = String::from_utf8_lossy(values.value(at)).into_owned();
            rows.push((partitions.value(at), offsets.value(at) as u64, value));
        }
    }
}
