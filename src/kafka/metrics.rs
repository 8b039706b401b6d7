//! What the protocol layer counts, per shard. Plain cells: the exporter takes a [`Snapshot`], which is a message.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use tidewater_storage::metrics::{Histogram, HistogramCounts};

use super::api::APIS;
use super::connection::CloseReason;
use super::error_code::ErrorCode;

/// Versions of one API that are counted separately; none has more.
const VERSIONS: usize = 24;

/// Counters of one API.
#[derive(Debug)]
pub struct ApiMetrics {
    /// Requests answered, by version.
    versions: [Cell<u64>; VERSIONS],
    /// From the whole request to the ready response; what a fetch or group waits for included.
    latency: Histogram,
    /// Error codes in answers. Codes are a closed set, so the map is bounded.
    errors: RefCell<BTreeMap<ErrorCode, u64>>,
}

impl Default for ApiMetrics {
    fn default() -> Self {
        Self {
            versions: std::array::from_fn(|_| Cell::new(0)),
            latency: Histogram::default(),
            errors: RefCell::default(),
        }
    }
}

/// Stages of a request on the connection's shard whose time is measured separately. What a batch goes through on its
/// lane's shard is timed there (proposer, journal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// Produce: decoding and checking batches, CRC included.
    ProduceDecode,
    /// Produce: from handing the batches to their lanes to all being durable and applied.
    ProduceAppend,
    /// Fetch: reading, each time it is tried.
    FetchRead,
    /// Fetch: waiting for data, as the client asked.
    FetchWait,
    /// Responses in the socket's queue until the kernel has taken all of them.
    Send,
}

impl Stage {
    pub const ALL: [Self; 5] = [Self::ProduceDecode, Self::ProduceAppend, Self::FetchRead, Self::FetchWait, Self::Send];

    /// As metrics call it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ProduceDecode => "produce_decode",
            Self::ProduceAppend => "produce_append",
            Self::FetchRead => "fetch_read",
            Self::FetchWait => "fetch_wait",
            Self::Send => "send",
        }
    }
}

/// Counters of one shard. Shard-local.
#[derive(Debug)]
pub struct KafkaMetrics {
    apis: Vec<ApiMetrics>,
    stages: [Histogram; Stage::ALL.len()],
    /// Requests in work.
    in_work: Cell<u64>,
    /// Connections open now.
    pub connections_open: Cell<u64>,
    /// Connections ever opened.
    pub connections_opened: Cell<u64>,
    /// Connections closed, by reason.
    closed: [Cell<u64>; CloseReason::LABELS.len()],
    /// Bytes of requests.
    pub bytes_received: Cell<u64>,
    /// Bytes of responses.
    pub bytes_sent: Cell<u64>,
    /// Writes to sockets: fewer than responses when many are ready at once.
    pub writes: Cell<u64>,
}

/// Adds to a counter.
pub fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get().wrapping_add(n));
}

/// A request in work; dropping it ends that, answered or not. Shard-local.
#[derive(Debug)]
pub struct InWork(Rc<KafkaMetrics>);

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.in_work.set(self.0.in_work.get().saturating_sub(1));
    }
}

impl Default for KafkaMetrics {
    fn default() -> Self {
        Self {
            apis: APIS.iter().map(|_| ApiMetrics::default()).collect(),
            stages: Default::default(),
            in_work: Cell::default(),
            connections_open: Cell::default(),
            connections_opened: Cell::default(),
            closed: std::array::from_fn(|_| Cell::new(0)),
            bytes_received: Cell::default(),
            bytes_sent: Cell::default(),
            writes: Cell::default(),
        }
    }
}

impl KafkaMetrics {
    fn api(&self, key: ApiKey) -> Option<&ApiMetrics> {
        APIS.iter().position(|api| api.key == key).and_then(|n| self.apis.get(n))
    }

    /// A request begins; it is in work until the guard goes.
    #[must_use]
    pub fn begin(self: &Rc<Self>) -> InWork {
        add(&self.in_work, 1);
        InWork(Rc::clone(self))
    }

    /// A request was answered.
    pub fn answered(&self, key: ApiKey, version: i16, took: Duration) {
        let Some(metrics) = self.api(key) else { return };
        metrics.latency.note(took);
        if let Some(count) = usize::try_from(version).ok().and_then(|version| metrics.versions.get(version)) {
            add(count, 1);
        }
    }

    /// A stage is over.
    pub fn stage(&self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.stages.get(stage as usize) {
            histogram.note(took);
        }
    }

    /// An answer, or one partition's share of it, carries this code. [`ErrorCode::NONE`] is not counted.
    pub fn count_code(&self, key: ApiKey, code: ErrorCode) {
        if !code.is_none()
            && let Some(metrics) = self.api(key)
        {
            *metrics.errors.borrow_mut().entry(code).or_default() += 1;
        }
    }

    /// A connection was closed.
    pub fn closed(&self, reason: &CloseReason) {
        if let Some(count) = self.closed.get(reason.place()) {
            add(count, 1);
        }
    }

    /// All of it, now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            apis: APIS.iter().zip(&self.apis).map(|(api, metrics)| metrics.snapshot(api.key)).collect(),
            stages: Stage::ALL.iter().zip(&self.stages).map(|(stage, h)| (stage.label(), h.counts())).collect(),
            in_work: self.in_work.get(),
            connections_open: self.connections_open.get(),
            connections_opened: self.connections_opened.get(),
            closed: CloseReason::LABELS.iter().copied().zip(self.closed.iter().map(Cell::get)).collect(),
            bytes_received: self.bytes_received.get(),
            bytes_sent: self.bytes_sent.get(),
            writes: self.writes.get(),
        }
    }
}

impl ApiMetrics {
    fn snapshot(&self, key: ApiKey) -> ApiSnapshot {
        let versions = self.versions.iter().enumerate().filter(|(_, count)| count.get() > 0);
        ApiSnapshot {
            name: format!("{key:?}"),
            versions: versions.map(|(version, count)| (version, count.get())).collect(),
            latency: self.latency.counts(),
            errors: self.errors.borrow().clone(),
        }
    }
}

/// The counters of a shard at one moment. A message; shards' snapshots add up.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Per API of the table, in its order.
    pub apis: Vec<ApiSnapshot>,
    /// How long each [`Stage`] took.
    pub stages: Vec<(&'static str, HistogramCounts)>,
    /// Requests in work.
    pub in_work: u64,
    pub connections_open: u64,
    /// Connections ever opened.
    pub connections_opened: u64,
    /// Connections closed, by reason.
    pub closed: Vec<(&'static str, u64)>,
    /// Bytes of requests.
    pub bytes_received: u64,
    /// Bytes of responses.
    pub bytes_sent: u64,
    /// Writes to sockets.
    pub writes: u64,
}

/// The counters of one API at one moment.
#[derive(Clone, Debug, Default)]
pub struct ApiSnapshot {
    /// Kafka's name of it.
    pub name: String,
    /// Requests answered, by version; versions never asked are left out.
    pub versions: BTreeMap<usize, u64>,
    /// From the whole request to the ready response.
    pub latency: HistogramCounts,
    /// Error codes in answers.
    pub errors: BTreeMap<ErrorCode, u64>,
}

impl ApiSnapshot {
    /// Requests answered.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.versions.values().sum()
    }

    fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        for (version, count) in &other.versions {
            *self.versions.entry(*version).or_default() += count;
        }
        for (code, count) in &other.errors {
            *self.errors.entry(*code).or_default() += count;
        }
    }
}

impl Snapshot {
    /// Adds another shard's counters.
    pub fn merge(&mut self, other: &Self) {
        self.in_work += other.in_work;
        self.connections_open += other.connections_open;
        self.connections_opened += other.connections_opened;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.writes += other.writes;
        if self.apis.is_empty() {
            self.apis.clone_from(&other.apis);
            self.closed.clone_from(&other.closed);
            self.stages.clone_from(&other.stages);
            return;
        }
        for ((_, mine), (_, theirs)) in self.stages.iter_mut().zip(&other.stages) {
            mine.merge(theirs);
        }
        for ((_, mine), (_, theirs)) in self.closed.iter_mut().zip(&other.closed) {
            *mine += theirs;
        }
        for (mine, theirs) in self.apis.iter_mut().zip(&other.apis) {
            mine.merge(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up() {
        let metrics = Rc::new(KafkaMetrics::default());
        let in_work = metrics.begin();
        for version in [12, 13, 13] {
            metrics.answered(ApiKey::Metadata, version, Duration::from_micros(3));
        }
        metrics.count_code(ApiKey::Metadata, ErrorCode::NONE);
        metrics.count_code(ApiKey::Metadata, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        metrics.closed(&CloseReason::Idle);
        let mut sum = metrics.snapshot();
        sum.merge(&metrics.snapshot());
        let metadata = sum.apis.iter().find(|a| a.name == "Metadata").expect("in the table");
        assert_eq!((metadata.requests(), metadata.versions[&13], metadata.latency.micros), (6, 4, 18));
        assert_eq!(metadata.errors, BTreeMap::from([(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, 2)]));
        assert!(sum.closed.contains(&("idle", 2)), "{:?}", sum.closed);
        assert_eq!(sum.in_work, 2);
        drop(in_work);
        assert_eq!(metrics.snapshot().in_work, 0);
    }

    #[test]
    fn every_version_served_has_a_counter() {
        assert!(APIS.iter().all(|api| usize::try_from(api.max).is_ok_and(|max| max < VERSIONS)));
    }
}
