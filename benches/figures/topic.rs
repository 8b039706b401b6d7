//! Topics of a real broker filled through a real client.

use std::path::Path;

use bytes::Bytes;
use tidewater::client::{Client, NewTopic, Producer};
use tidewater_storage::model::record::Record;
use tidewater_storage::model::{Compression, TimestampMs};
use tokio::runtime::{Builder, Runtime};

use crate::support::broker::{Broker, Options};

/// Name of the only topic of every figure.
pub const NAME: &str = "figures";
/// Bytes of a record's value; each record is one batch.
pub const VALUE: usize = 64 << 10;

/// A broker of one shard with this bucket.
pub fn broker(data: &Path, bucket: &str) -> Broker {
    let mut options = Options::new(data).arg("--shards", "1").arg("--disk-bytes", "8GiB");
    options.bucket = Some(bucket.to_owned());
    Broker::start(&options)
}

/// The URL of the bucket `name`: the directory `dir/name`, or below the URL in `TIDEWATER_BENCH_BUCKET`.
pub fn bucket(dir: &Path, name: &str) -> String {
    match std::env::var("TIDEWATER_BENCH_BUCKET") {
        Ok(url) => format!("{url}/{name}"),
        Err(_) => format!("file://{}", dir.join(name).display()),
    }
}

/// A runtime on the calling thread.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

pub async fn create(addr: &str, partitions: i32, settings: &[(&str, &str)]) {
    let mut client = Client::connect(addr).await.expect("connects");
    let configs = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: NAME.to_owned(), partitions: Some(partitions), configs, ..NewTopic::default() };
    client.create_topic(&topic).await.expect("the topic is made");
}

pub async fn producer(addr: &str) -> Producer {
    let client = Client::connect(addr).await.expect("connects");
    Producer::new(client, NAME, Compression::None).await.expect("a producer id")
}

/// Appends `batches` batches of one record of noise each to partition 0.
pub async fn fill(addr: &str, batches: usize) {
    let value: Vec<u8> = (0..VALUE).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let value = Bytes::from(value);
    let mut producer = producer(addr).await;
    for _ in 0..batches {
        producer.send(0, vec![Record::new(now(), None, Some(value.clone()))]).await.expect("sent");
    }
    producer.flush().await.expect("acknowledged");
}

/// Timestamp of a record sent now: retention would delete older records.
pub fn now() -> TimestampMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A number out of a partition's status.
pub fn number(partition: &serde_json::Value, field: &str) -> u64 {
    partition[field].as_u64().unwrap_or_else(|| panic!("{field} of a partition is no number: {partition}"))
}
