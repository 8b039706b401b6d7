//! A source and a cluster of one broker that follows it.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, TimestampMs};

use super::support::broker::{Broker, Options, http_get};
use super::support::s3::S3;

/// Lines of a broker whose source, or whose peer at the bucket, is away for a while; each says that it is tried again.
const EXPECTED: &[&str] = &["tried again", "tries again", "try again", "looked at again", "looking again"];

/// How long what was written may take to be seen by the follower.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two clusters of one broker each; only the first writes to the bucket.
pub struct Pair {
    pub bucket: String,
    pub options: [Options; 2],
    brokers: [Option<Broker>; 2],
    _s3: Option<S3>,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Replica,
}

impl Pair {
    /// Starts both. The replica's own bucket is in its data directory; on S3 it may only read the source's.
    pub fn start(dir: &Path, on_s3: bool) -> Self {
        let s3 = on_s3.then(|| S3::start(dir, "replicated"));
        let bucket = s3.as_ref().map_or_else(|| format!("file://{}", dir.join("bucket").display()), S3::url);
        let envs = |of: fn(&S3) -> Vec<(String, String)>| s3.as_ref().map(of).unwrap_or_default();
        let with = |name: &str, bucket: Option<String>, envs| {
            let expected = EXPECTED.iter().map(ToString::to_string).collect();
            Options { bucket, envs, expected, ..Options::new(&dir.join(name)) }
        };
        let source = with("source", Some(bucket.clone()), envs(S3::envs));
        let options = [source, with("replica", None, envs(S3::reading_envs))];
        let brokers = [0, 1].map(|n: usize| Some(Broker::start(&options[n])));
        Self { bucket, options, brokers, _s3: s3 }
    }

    pub fn source(&self) -> &Broker {
        self.brokers[0].as_ref().expect("the source runs")
    }

    pub fn replica(&self) -> &Broker {
        self.brokers[1].as_ref().expect("the replica runs")
    }

    pub fn kill(&mut self, side: Side) {
        self.brokers[side as usize].take().expect("it runs").kill();
    }

    pub fn start_again(&mut self, side: Side) {
        let broker = Broker::start(&self.options[side as usize]);
        self.brokers[side as usize] = Some(broker);
    }

    /// `tidewater replica create` for these topics.
    pub fn follow(&self, topics: &str) {
        let printed = self.replica().cli(&["replica", "create", "--from", &self.bucket, "--topics", topics]);
        assert!(printed.contains("is followed"), "{printed}");
    }

    /// `GET path` of the replica's admin port.
    pub fn get(&self, path: &str) -> Option<Value> {
        let (status, body) = http_get(&self.replica().admin, path)?;
        (status == 200).then(|| serde_json::from_str(&body).expect("JSON"))
    }

    /// Waits until the replica shows the topic as the source does: ends and log starts.
    pub fn wait_equal(&self, topic: &str) {
        let begun = Instant::now();
        let ends = |status: Option<Value>| {
            let partitions = status.and_then(|status| status["partitions"].as_array().cloned()).unwrap_or_default();
            let of = |partition: &Value| {
                ["partition", "log_start_offset", "high_watermark"].map(|key| partition[key].as_u64())
            };
            partitions.iter().map(of).collect::<Vec<_>>()
        };
        loop {
            let (here, there) = (self.get(&format!("/v1/topics/{topic}")), self.source().topic(topic));
            let (here, there) = (ends(here), ends(Some(there)));
            if here == there && !here.is_empty() {
                return;
            }
            let status = self.get("/v1/replicas/tidewater");
            assert!(begun.elapsed() < PATIENCE, "{here:?} is not {there:?}: {status:#?}\n{}", self.replica().log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops both and looks over their logs.
    pub fn stop(self) {
        self.brokers.into_iter().flatten().for_each(Broker::stop);
    }
}

/// A batch of one record.
pub fn batch(value: &[u8]) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    let now = TimestampMs(i64::try_from(now).expect("a date"));
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Record::new(now, None, Some(Bytes::copy_from_slice(value))));
    builder.build()
}
