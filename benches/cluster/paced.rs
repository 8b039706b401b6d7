//! A paced load: records of 1 KiB at a fixed rate with acks=all, due at times that do not depend on the brokers.
//!
//! One idempotent producer for each partition follows its leader, with one batch open. Records that fall due meanwhile
//! go together with the next batch. A record's latency is the time from when it is due to its acknowledgement; of that,
//! up to 1 ms is the client's timer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::join_all;
use tidewater::client::{Client, Producer};
use tidewater_storage::model::record::Record;
use tidewater_storage::model::{Compression, TimestampMs};

use crate::ms;
use crate::report::Table;

const RECORD: usize = 1024;
/// Records of a batch at most.
const BATCH_MAX: usize = 512;

/// An acknowledged record.
#[derive(Clone, Copy)]
pub struct Sample {
    pub partition: i32,
    pub due: Instant,
    pub took: Duration,
}

/// Latencies of the records that were due in a part of the run.
#[derive(Clone, Copy, Default)]
pub struct Latencies {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub most: Duration,
}

/// A running load.
pub struct Paced {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: JoinHandle<()>,
}

/// What all producers of a load share.
struct Load {
    bootstrap: String,
    topic: String,
    /// Between two records of a partition.
    interval: Duration,
    value: Bytes,
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Paced {
    /// `rate` records a second to these partitions together.
    pub fn start(bootstrap: &str, topic: &str, partitions: &[i32], rate: u64) -> Self {
        let (stop, samples) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let noise: Vec<u8> = (0..RECORD).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let load = Load {
            bootstrap: bootstrap.to_owned(),
            topic: topic.to_owned(),
            interval: Duration::from_secs_f64(partitions.len() as f64 / rate as f64),
            value: noise.into(),
            stop: Arc::clone(&stop),
            samples: Arc::clone(&samples),
        };
        let partitions = partitions.to_vec();
        let thread = std::thread::spawn(move || {
            let step = load.interval / u32::try_from(partitions.len()).expect("few partitions");
            let all = (0..).zip(&partitions).map(|(n, partition)| load.produce(*partition, step * n));
            run(join_all(all));
        });
        Self { stop, samples, thread }
    }

    /// Fails if a producer has given up.
    pub fn check(&self) {
        assert!(!self.thread.is_finished(), "a producer gave up; see above");
    }

    /// The records acknowledged so far that were due at or after `from`.
    pub fn since(&self, from: Instant) -> Vec<Sample> {
        let samples = self.samples.lock().expect("no thread panics with it");
        samples.iter().filter(|sample| sample.due >= from).copied().collect()
    }

    /// Ends the load once all that is due is acknowledged; every record of it.
    pub fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the producers end well");
        std::mem::take(&mut *self.samples.lock().expect("no thread panics with it"))
    }
}

impl Load {
    /// The producer of a partition. `phase` spreads the partitions over the interval.
    async fn produce(&self, partition: i32, phase: Duration) {
        let client = Client::connect(&self.bootstrap).await.expect("connects");
        let mut producer = Producer::new(client, &self.topic, Compression::None).await.expect("a producer id");
        let mut next = Instant::now() + phase;
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(next.saturating_duration_since(Instant::now())).await;
            let (asked, mut due) = (Instant::now(), Vec::new());
            while next <= asked && due.len() < BATCH_MAX {
                due.push(next);
                next += self.interval;
            }
            if due.is_empty() {
                continue;
            }
            let record = |_| Record::new(now(), None, Some(self.value.clone()));
            producer.send(partition, due.iter().map(record).collect()).await.expect("sent");
            producer.flush().await.expect("acknowledged");
            let at = Instant::now();
            let acknowledged = due.into_iter().map(|due| Sample { partition, due, took: at - due });
            self.samples.lock().expect("no thread panics with it").extend(acknowledged);
        }
    }
}

impl Latencies {
    /// Of the records that were due from `from` to `to`.
    pub fn between(samples: &[Sample], from: Instant, to: Instant) -> Self {
        let within = samples.iter().filter(|sample| (from..to).contains(&sample.due));
        let mut took: Vec<Duration> = within.map(|sample| sample.took).collect();
        took.sort_unstable();
        let at = |per_cent: usize| took.get(took.len().saturating_sub(1) * per_cent / 100).copied().unwrap_or_default();
        Self { count: took.len(), p50: at(50), p99: at(99), most: at(100) }
    }

    /// p99 ÷ that of another part of the run.
    pub fn p99_over(&self, other: &Self) -> f64 {
        self.p99.as_secs_f64() / other.p99.as_secs_f64()
    }
}

/// A table of the parts of a run; p99 is compared with the first part's.
pub fn print(parts: &[(&str, Latencies)]) {
    let table = Table::new(&["when", "records", "p50", "p99", "greatest", "p99 ÷ the first row's"]);
    let Some((_, first)) = parts.first() else { return };
    for (what, of) in parts {
        table.row(&[
            (*what).to_owned(),
            of.count.to_string(),
            ms(of.p50),
            ms(of.p99),
            ms(of.most),
            format!("{:.2}", of.p99_over(first)),
        ]);
    }
}

/// Runs a client's call to its end.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Timestamp of a record sent now: retention would delete older records.
pub fn now() -> TimestampMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
