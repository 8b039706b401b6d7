//! Table rows a second and core: batches in memory → translate → Parquet → commit, into a directory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tidewater_iceberg::catalog::object_store::ObjectStoreCatalog;
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::read::{LogRead, LogReadError, LogReader, PartitionBounds};
use tidewater_iceberg::sink::{Outcome, SinkConfig, TableSink};
use tidewater_storage::model::batch::patch;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Compression, LeaderEpoch, Offset, OffsetRange, PartitionIndex, TimestampMs, TopicId, TopicName,
};
use tidewater_tiering::store::{StoreOptions, open};
use uuid::Uuid;

use crate::report::{Table, mb_per_s};
use crate::{Run, machine, topic};

/// Records of a batch.
const BATCH: u64 = 500;
const NOW: i64 = 1_700_000_000_000;

/// One partition's batches in memory.
struct Log {
    batches: Vec<Bytes>,
}

impl Log {
    fn new(rows: u64) -> Self {
        let batches = (0..rows / BATCH).map(|n| {
            let mut builder = BatchBuilder::new(Compression::Lz4);
            for row in n * BATCH..(n + 1) * BATCH {
                let at = TimestampMs(NOW - 3_600_000 + (row / 1000) as i64);
                let key = Bytes::from(format!("flight-{}", row % 4000));
                builder.push(Record::new(at, Some(key), Some(Bytes::from(json(row)))));
            }
            let mut batch = BytesMut::from(&builder.build()[..]);
            patch(&mut batch, Offset::new(n * BATCH), LeaderEpoch(1));
            batch.freeze()
        });
        Self { batches: batches.collect() }
    }

    fn bytes(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }
}

/// A JSON record in the shape of nycflights13.
fn json(row: u64) -> String {
    let carrier = ["UA", "AA", "B6", "DL", "EV"][(row % 5) as usize];
    format!(
        r#"{{"year":2013,"month":{},"day":{},"dep_time":{},"carrier":"{carrier}","flight":{},"tailnum":"N{}","origin":"EWR","dest":"IAH","air_time":{},"distance":{}}}"#,
        row % 12 + 1,
        row % 28 + 1,
        row % 2400,
        row % 4000,
        row.wrapping_mul(2_654_435_761) % 99_999,
        row % 400,
        row % 2500
    )
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

pub fn run(run: &Run) {
    let dir = run.dir("table");
    let rows: u64 = run.pick(1_000_000, 2_000);
    let log = Arc::new(Log::new(rows));
    let runtime = topic::runtime();
    let url = format!("file://{}", dir.path().display());
    let store = open(&url, runtime.handle().clone(), &StoreOptions::default()).expect("the store opens");
    let files = TableFiles::new(store, Warehouse::new(&url, "lake").expect("legal"));
    let catalog = Arc::new(ObjectStoreCatalog::new(files, Names::random(), HashMap::new()));
    let topic = TopicName::new(topic::NAME).expect("legal");
    let mut config = SinkConfig::new(Uuid::from_u128(1), topic, TopicId(Uuid::from_u128(2)), 1);
    config.target_lag_ms = 0;
    let mut sink = TableSink::new(config, catalog, Arc::clone(&log) as _, Names::random());

    let (start, cpu, mut commits, mut files, mut written) =
        (Instant::now(), machine::cpu_of(std::process::id()), 0_u64, 0, 0);
    while written < rows {
        let now = TimestampMs(NOW + commits as i64);
        match runtime.block_on(sink.run_once(now)) {
            Outcome::Committed { rows, files: new, .. } => {
                written += rows;
                files += new;
                commits += 1;
            }
            Outcome::Again => {}
            other => panic!("the sink stands still at {written} rows: {other:?}"),
        }
    }
    let took = start.elapsed();
    let cpu = machine::cpu_of(std::process::id()).saturating_sub(cpu);
    assert_eq!(written, rows, "every row once");
    let table =
        Table::new(&["rows", "commits", "files", "stored batches", "rows/s", "rows per core second", "µs CPU per row"]);
    table.row(&[
        rows.to_string(),
        commits.to_string(),
        files.to_string(),
        mb_per_s(log.bytes() as f64 / took.as_secs_f64()),
        format!("{:.0}", rows as f64 / took.as_secs_f64()),
        format!("**{:.0}**", rows as f64 / cpu.as_secs_f64().max(0.01)),
        format!("{:.2}", cpu.as_secs_f64() * 1e6 / rows as f64),
    ]);
}
