//! Table rows a second and core: batches in memory → translate → Parquet → commit, into a directory. Values of twenty
//! columns beside bytes, and beside what decoding and Parquet alone cost for the same rows.

mod decode;
pub(crate) mod values;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use iceberg::spec::TableMetadata;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::ZstdLevel;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tidewater_iceberg::catalog::Catalog as _;
use tidewater_iceberg::catalog::object_store::ObjectStoreCatalog;
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::mode::TableMode;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::partition::spec::PartitionChoice;
use tidewater_iceberg::read::{LogRead, LogReadError, LogReader, PartitionBounds};
use tidewater_iceberg::sink::{Outcome, SinkConfig, TableSink};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::batch::patch;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Compression, LeaderEpoch, Offset, OffsetRange, PartitionIndex, TimestampMs, TopicId, TopicName,
};
use tidewater_tiering::store::{StoreOptions, open};
use tokio::runtime::Runtime;
use uuid::Uuid;

use values::{Kind, Registry};

use crate::report::{Table, mb_per_s, ratio};
use crate::{Run, machine, topic};

/// Records of a batch.
const BATCH: u64 = 500;
const NOW: i64 = 1_700_000_000_000;

/// One partition's batches in memory.
pub(crate) struct Log {
    batches: Vec<Bytes>,
    /// Of all values.
    value_bytes: u64,
}

impl Log {
    pub(crate) fn new(kind: Kind, rows: u64) -> Self {
        let mut value_bytes = 0;
        let batches = (0..rows / BATCH).map(|n| {
            let mut builder = BatchBuilder::new(Compression::Lz4);
            for row in n * BATCH..(n + 1) * BATCH {
                let at = TimestampMs(NOW - 3_600_000 + (row / 1000) as i64);
                let key = Bytes::from(format!("flight-{}", row % 4000));
                let value = kind.value(row);
                value_bytes += value.len() as u64;
                builder.push(Record::new(at, Some(key), Some(value)));
            }
            let mut batch = BytesMut::from(&builder.build()[..]);
            patch(&mut batch, Offset::new(n * BATCH), LeaderEpoch(1));
            batch.freeze()
        });
        let batches = batches.collect();
        Self { batches, value_bytes }
    }

    pub(crate) fn value_bytes(&self) -> u64 {
        self.value_bytes
    }
}

#[async_trait]
impl LogReader for Log {
    async fn partitions(&self, _: TopicId) -> Result<Vec<PartitionBounds>, LogReadError> {
        let end = Offset::new(self.batches.len() as u64 * BATCH);
        Ok(vec![PartitionBounds { index: PartitionIndex(0), offsets: OffsetRange::new(Offset::ZERO, end) }])
    }

    async fn leader_bounds(&self, topic: TopicId, _: PartitionIndex) -> Result<PartitionBounds, LogReadError> {
        self.partitions(topic).await?.pop().ok_or(LogReadError::NoTopic(topic))
    }

    async fn read(
        &self,
        _: TopicId,
        _: PartitionIndex,
        range: OffsetRange,
        max_bytes: usize,
    ) -> Result<LogRead, LogReadError> {
        let first = range.start.get() / BATCH;
        let mut read = Vec::new();
        let mut bytes = 0;
        for batch in self.batches.iter().skip(usize::try_from(first).unwrap_or(usize::MAX)) {
            let next = (first + read.len() as u64) * BATCH;
            if next >= range.end.get() || (bytes > 0 && bytes + batch.len() > max_bytes) {
                break;
            }
            bytes += batch.len();
            read.push(batch.clone());
        }
        let offsets = OffsetRange::new(Offset::new(first * BATCH), Offset::new((first + read.len() as u64) * BATCH));
        Ok(LogRead { batches: read, offsets })
    }
}

/// What the rows of a table took.
struct Cost {
    commits: u64,
    files: u64,
    wall: Duration,
    cpu: Duration,
    table: Arc<TableMetadata>,
}

pub fn run(run: &Run) {
    let table = Table::new(&[
        "values",
        "partitions",
        "rows",
        "commits",
        "files",
        "rows/s",
        "rows per core second",
        "values per core second",
        "Parquet alone, of the same rows",
        "ratio",
        "decoding alone",
        "ratio to both",
    ]);
    let by_hour = "(hour(tidewater.timestamp))";
    for (kind, partitions) in [
        (Kind::KeyValue, by_hour),
        (Kind::Avro, by_hour),
        (Kind::Avro, "(bucket(16, tidewater.key))"),
        (Kind::Avro, "(bucket(16, text2))"),
        (Kind::Avro, "(text0)"),
        (Kind::Json, by_hour),
        (Kind::Protobuf, by_hour),
    ] {
        let dir = run.dir("table");
        let rows: u64 = run.pick(1_000_000, 2_000);
        let log = Arc::new(Log::new(kind, rows));
        let cost = write(kind, partitions, dir.path(), &log, rows);
        let alone = parquet_alone(dir.path(), kind);
        assert_eq!(alone.rows, rows, "the files have every row");
        let decoding = (kind != Kind::KeyValue).then(|| decode::alone(kind, &cost.table, rows));
        let per_core = |cpu: Duration| log.value_bytes as f64 / cpu.as_secs_f64().max(0.01);
        table.row(&[
            kind.name().to_owned(),
            partitions.to_owned(),
            rows.to_string(),
            cost.commits.to_string(),
            cost.files.to_string(),
            format!("{:.0}", rows as f64 / cost.wall.as_secs_f64()),
            format!("{:.0}", rows as f64 / cost.cpu.as_secs_f64().max(0.01)),
            format!("**{}**", mb_per_s(per_core(cost.cpu))),
            mb_per_s(per_core(alone.cpu)),
            ratio(per_core(cost.cpu), per_core(alone.cpu)),
            decoding.map_or_else(|| "–".to_owned(), |cpu| mb_per_s(per_core(cpu))),
            decoding.map_or_else(|| "–".to_owned(), |cpu| ratio(per_core(cost.cpu), per_core(cpu + alone.cpu))),
        ]);
    }
}

/// A topic's log on its way into its table.
pub(crate) struct Filling {
    pub(crate) runtime: Runtime,
    pub(crate) catalog: Arc<ObjectStoreCatalog>,
    pub(crate) config: SinkConfig,
    sink: TableSink,
    commits: u64,
    /// Between two commits, by the clock of the table.
    pub(crate) every_ms: i64,
    /// Not before the catalog's own clock, which stamps the table: a snapshot is never older than its table.
    began: TimestampMs,
    pub(crate) files: u64,
    pub(crate) rows: u64,
}

impl Filling {
    /// In the directory `dir`; `adjust` changes the sink's settings.
    pub(crate) fn begin(kind: Kind, dir: &Path, log: &Arc<Log>, adjust: impl FnOnce(&mut SinkConfig)) -> Self {
        let runtime = topic::runtime();
        let url = format!("file://{}", dir.display());
        let store = open(&url, runtime.handle().clone(), &StoreOptions::default()).expect("the store opens");
        let files = TableFiles::new(store, Warehouse::new(&url, "lake").expect("legal"));
        let catalog = Arc::new(ObjectStoreCatalog::new(files, Names::random(), HashMap::new()));
        let topic = TopicName::new(topic::NAME).expect("legal");
        let mut config = SinkConfig::new(Uuid::from_u128(1), topic, TopicId(Uuid::from_u128(2)), 1);
        config.target_lag_ms = 0;
        if kind != Kind::KeyValue {
            config.mode = TableMode::ValueSchemaIdPrefix;
        }
        adjust(&mut config);
        let sink = TableSink::new(config.clone(), Arc::clone(&catalog) as _, Arc::clone(log) as _, Names::random());
        let sink = sink.with_schemas(Arc::new(Registry::new()));
        Self { runtime, catalog, config, sink, commits: 0, every_ms: 1, began: wall(), files: 0, rows: 0 }
    }

    /// One commit more.
    pub(crate) fn commit(&mut self) {
        loop {
            let now = self.began.plus_ms(self.commits as i64 * self.every_ms);
            match self.runtime.block_on(self.sink.run_once(now)) {
                Outcome::Committed { rows, files: new, .. } => {
                    self.rows += rows;
                    self.files += new as u64;
                    self.commits += 1;
                    return;
                }
                Outcome::Again => {}
                other => panic!("the sink stands still at {} rows: {other:?}", self.rows),
            }
        }
    }
}

/// A topic's log becomes its table.
fn write(kind: Kind, partitions: &str, dir: &Path, log: &Arc<Log>, rows: u64) -> Cost {
    let partitions = PartitionChoice::parse(partitions).expect("a spec");
    let mut filling = Filling::begin(kind, dir, log, |config| config.partition = partitions);
    let (start, cpu) = (Instant::now(), machine::cpu_of(std::process::id()));
    while filling.rows < rows {
        filling.commit();
    }
    let cpu = machine::cpu_of(std::process::id()).saturating_sub(cpu);
    assert_eq!(filling.rows, rows, "every row once");
    let wall = start.elapsed();
    let table = filling.runtime.block_on(filling.catalog.load(&filling.config.table)).expect("loads").metadata;
    Cost { commits: filling.commits, files: filling.files, wall, cpu, table }
}

/// What the Parquet writer alone takes.
#[derive(Default)]
pub(crate) struct Alone {
    pub(crate) rows: u64,
    /// Of the data files, as they are stored.
    pub(crate) bytes: u64,
    pub(crate) cpu: Duration,
}

/// The Parquet writer alone, with the settings of data files, for the rows of all data files below `dir`.
pub(crate) fn parquet_alone(dir: &Path, kind: Kind) -> Alone {
    let properties = WriterProperties::builder()
        .set_compression(parquet::basic::Compression::ZSTD(ZstdLevel::try_new(1).expect("a level")))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_page_size_limit(64 << 10)
        .build();
    let mut alone = Alone::default();
    for path in data_files(dir) {
        let file = File::open(path).expect("opens");
        alone.bytes += file.metadata().expect("it is there").len();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").with_batch_size(16 << 10);
        let batches: Vec<_> = reader.build().expect("reads").map(|batch| batch.expect("a batch")).collect();
        let Some(schema) = batches.first().map(|batch| batch.schema()) else { continue };
        if kind != Kind::KeyValue {
            assert!(schema.fields().len() > values::COLUMNS, "{schema:?}");
        }
        let cpu = machine::cpu_of(std::process::id());
        let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties.clone())).expect("a writer");
        for batch in &batches {
            writer.write(batch).expect("writes");
        }
        alone.rows += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        drop(writer.into_inner().expect("ends"));
        alone.cpu += machine::cpu_of(std::process::id()).saturating_sub(cpu);
    }
    alone
}

/// The data files below a directory.
fn data_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(data_files(&path));
        } else if path.extension().is_some_and(|end| end == "parquet") {
            found.push(path);
        }
    }
    found
}
