//! The built-in catalog over HTTP with a table of known rows: an HTTP check of our own, then real engines; and the
//! compatibility kit.
#![allow(clippy::disallowed_methods, reason = "a test")]
#![cfg(feature = "lakehouse")]

mod adopt;
mod columns;
mod external;
mod kit;
mod operate;
mod signing;
#[path = "../support/support.rs"]
mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tidewater::catalog_http::{self, ServedCatalog};
use tidewater::config::node::HttpNames;
use tidewater::net::http::HttpGuard;
use tidewater::net::tokens::Tokens;
use tidewater_iceberg::catalog::ObjectStoreCatalog;
use tidewater_iceberg::commit::{Bounds, TableOwner};
use tidewater_iceberg::compact::Compactor;
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::read::{LogRead, LogReadError, LogReader, PartitionBounds};
use tidewater_iceberg::sink::{Outcome, SinkConfig, TableSink};
use tidewater_storage::model::batch::patch;
use tidewater_storage::model::record::{BatchBuilder, Record, RecordHeader};
use tidewater_storage::model::{
    Compression, LeaderEpoch, Offset, OffsetRange, PartitionIndex, TimestampMs, TopicId, TopicName,
};
use tidewater_tiering::store;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Rows per partition; the engine script knows both numbers.
const ROWS: u64 = 1000;
const PARTITIONS: i32 = 3;
const NOW: i64 = 1_760_000_000_000;

/// A topic whose record `n` of partition `p` has the value `{"p":p,"n":n}`, a null key in every tenth record, a null
/// value in every hundredth, one header with and one without a value, and a timestamp `n` minutes after `NOW`.
#[derive(Debug)]
struct KnownLog;

fn batch(partition: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::Zstd);
    for n in 0..ROWS {
        let key = (n % 10 != 0).then(|| Bytes::from(format!("k{n}")));
        let value = (n % 100 != 0).then(|| Bytes::from(format!("{{\"p\":{partition},\"n\":{n}}}")));
        let header = |key: &'static str, value| RecordHeader { key: Bytes::from_static(key.as_bytes()), value };
        let headers = vec![header("trace", Some(Bytes::from(n.to_string()))), header("empty", None)];
        let timestamp = TimestampMs(NOW + i64::try_from(n).unwrap_or(0) * 60_000);
        builder.push(Record { offset: Offset::ZERO, timestamp, key, value, headers });
    }
    let mut bytes = BytesMut::from(&builder.build()[..]);
    patch(&mut bytes, Offset::ZERO, LeaderEpoch(0));
    bytes.freeze()
}

#[async_trait]
impl LogReader for KnownLog {
    async fn partitions(&self, _: TopicId) -> Result<Vec<PartitionBounds>, LogReadError> {
        let offsets = OffsetRange::new(Offset::ZERO, Offset::new(ROWS));
        Ok((0..PARTITIONS).map(|n| PartitionBounds { index: PartitionIndex(n), offsets }).collect())
    }

    async fn leader_bounds(&self, _: TopicId, index: PartitionIndex) -> Result<PartitionBounds, LogReadError> {
        Ok(PartitionBounds { index, offsets: OffsetRange::new(Offset::ZERO, Offset::new(ROWS)) })
    }

    async fn read(
        &self,
        _: TopicId,
        partition: PartitionIndex,
        _: OffsetRange,
        _: usize,
    ) -> Result<LogRead, LogReadError> {
        let offsets = OffsetRange::new(Offset::ZERO, Offset::new(ROWS));
        Ok(LogRead { batches: vec![batch(partition.0)], offsets })
    }
}

async fn fill(catalog: Arc<ObjectStoreCatalog>) {
    let topic = TopicName::new("orders").expect("legal");
    let config = SinkConfig::new(uuid::Uuid::from_u128(1), topic, TopicId(uuid::Uuid::from_u128(2)), 1);
    let mut sink = TableSink::new(config, catalog, Arc::new(KnownLog), Names::random());
    let outcome = sink.run_once(TimestampMs(NOW)).await;
    assert!(matches!(outcome, Outcome::Committed { rows, .. } if rows == ROWS * PARTITIONS as u64), "{outcome:?}");
}

fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    let mut socket = std::net::TcpStream::connect(address).expect("connects");
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("writes");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("reads");
    answer
}

fn check_http(address: SocketAddr) {
    let expect = |method: &str, path: &str, status: &str, text: &str| {
        let answer = ask(address, method, path);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text),
            "{method} {path}: {answer}"
        );
    };
    expect("GET", "/v1/config?warehouse=anything", "200", "endpoints");
    expect("GET", "/v1/namespaces", "200", r#"{"namespaces":[["topics"]]}"#);
    expect("GET", "/v1/some-prefix/namespaces/topics/tables", "200", r#""name":"orders""#);
    expect("HEAD", "/v1/namespaces/topics/tables/orders", "204", "");
    expect("GET", "/v1/namespaces/topics/tables/orders", "200", "tidewater.offsets");
    expect("GET", "/v1/namespaces/topics/tables/nothing", "404", "NoSuchTableException");
    expect("GET", "/v1/namespaces/nothing/tables", "404", "NoSuchNamespaceException");
    expect("DELETE", "/v1/namespaces/topics", "409", "NamespaceNotEmptyException");
    expect("GET", "/v1/nonsense/at/all", "404", "NotFoundException");
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
}

/// A catalog on a directory bucket.
fn catalog(runtime: &Runtime, folder: &Path, warehouse: &str) -> Arc<ObjectStoreCatalog> {
    let url = format!("file://{}", folder.display());
    let bucket = store::open(&url, runtime.handle().clone(), &store::StoreOptions::default()).expect("opens");
    let files = TableFiles::new(bucket, Warehouse::new(&url, warehouse).expect("a URI"));
    Arc::new(ObjectStoreCatalog::new(files, Names::random(), HashMap::new()))
}

fn serve(runtime: &Runtime, catalog: Arc<ObjectStoreCatalog>, tokens: Option<Tokens>) -> SocketAddr {
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let guard = HttpGuard::new(address, HttpNames::default());
        let served = Arc::new(ServedCatalog::alone(catalog));
        tokio::spawn(catalog_http::serve(listener, guard, tokens.map(Arc::new), served, std::future::pending()));
        address
    })
}

/// The same table in many commits, so that an hour has several files, and these compacted.
async fn fill_and_compact(catalog: Arc<ObjectStoreCatalog>) {
    let topic = TopicName::new("orders").expect("legal");
    let (cluster, topic_id, epoch) = (uuid::Uuid::from_u128(1), TopicId(uuid::Uuid::from_u128(2)), 1);
    let config = SinkConfig {
        target_lag_ms: 0,
        turn_bytes: 8_000,
        bounds: Bounds { compact_quiet_ms: 0, ..Bounds::default() },
        ..SinkConfig::new(cluster, topic, topic_id, epoch)
    };
    let mut sink = TableSink::new(config.clone(), catalog.clone(), Arc::new(KnownLog), Names::random());
    let mut commits = 0;
    loop {
        match sink.run_once(TimestampMs(NOW)).await {
            Outcome::Committed { .. } => commits += 1,
            Outcome::Idle => break,
            other => unreachable!("after {commits} commits: {other:?}"),
        }
    }
    let owner = TableOwner { cluster, topic: topic_id, epoch };
    let mut compactor = Compactor::new(catalog, config.table, owner, Names::random(), config.bounds);
    let now = tidewater_storage::env::clock::wall();
    let run = compactor.run(now, |_| {}).await.expect("runs");
    assert!(run.files_out > 0 && run.files_in >= 5 * run.files_out && run.left.is_empty(), "{run:?}");
}

#[test]
fn engines_read_what_was_compacted() {
    let (runtime, folder) = (runtime(), tempfile::tempdir().expect("a directory"));
    let catalog = catalog(&runtime, folder.path(), "iceberg");
    runtime.block_on(fill_and_compact(catalog.clone()));
    let address = serve(&runtime, catalog, None);
    support::python::script("iceberg/engines.py", &[&format!("http://{address}")], &[]);
}

#[test]
fn engines_read_what_the_sink_wrote() {
    let (runtime, folder) = (runtime(), tempfile::tempdir().expect("a directory"));
    let catalog = catalog(&runtime, folder.path(), "iceberg");
    runtime.block_on(fill(catalog.clone()));
    let address = serve(&runtime, catalog, None);
    check_http(address);
    support::python::script("iceberg/engines.py", &[&format!("http://{address}")], &[]);
}

/// The second run wants tokens, which the kit's client gets for its secret.
#[test]
fn the_compatibility_kit_passes_with_and_without_tokens() {
    let tokens = Tokens::parse("client kit the-secret-of-the-kit").expect("parses");
    let (runtime, folder) = (runtime(), tempfile::tempdir().expect("a directory"));
    let open = serve(&runtime, catalog(&runtime, &folder.path().join("open"), "iceberg"), None);
    kit::run(open, folder.path(), &[]);
    let guarded = serve(&runtime, catalog(&runtime, &folder.path().join("guarded"), "iceberg"), Some(tokens));
    let oauth = format!("http://{guarded}/v1/oauth/tokens");
    kit::run(guarded, folder.path(), &[("credential", "kit:the-secret-of-the-kit"), ("oauth2-server-uri", &oauth)]);
}
