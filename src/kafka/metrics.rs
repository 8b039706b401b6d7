//! What the protocol layer counts, per shard. Plain cells: the exporter takes a [`Snapshot`], which is a message.

use std::cell::Cell;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;

use super::api::APIS;

/// Buckets of a latency histogram: bucket `n` counts what took less than `2^n` µs and no less than half of that.
pub const BUCKETS: usize = 32;

/// Counters of one API.
#[derive(Debug)]
pub struct ApiMetrics {
    requests: Cell<u64>,
    micros: Cell<u64>,
    buckets: [Cell<u64>; BUCKETS],
}

impl Default for ApiMetrics {
    fn default() -> Self {
        Self { requests: Cell::new(0), micros: Cell::new(0), buckets: std::array::from_fn(|_| Cell::new(0)) }
    }
}

/// Counters of one shard. Shard-local.
#[derive(Debug)]
pub struct KafkaMetrics {
    apis: Vec<ApiMetrics>,
    /// Connections open now.
    pub connections_open: Cell<u64>,
    /// Connections ever opened.
    pub connections_opened: Cell<u64>,
    /// Connections closed by us for a reason, not by the peer.
    pub connections_refused: Cell<u64>,
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

impl Default for KafkaMetrics {
    fn default() -> Self {
        Self {
            apis: APIS.iter().map(|_| ApiMetrics::default()).collect(),
            connections_open: Cell::default(),
            connections_opened: Cell::default(),
            connections_refused: Cell::default(),
            bytes_received: Cell::default(),
            bytes_sent: Cell::default(),
            writes: Cell::default(),
        }
    }
}

impl KafkaMetrics {
    /// A request was answered.
    pub fn answered(&self, key: ApiKey, took: Duration) {
        let Some(metrics) = APIS.iter().position(|api| api.key == key).and_then(|n| self.apis.get(n)) else { return };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&metrics.requests, 1);
        add(&metrics.micros, micros);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(counter) = metrics.buckets.get(bucket.min(BUCKETS - 1)) {
            add(counter, 1);
        }
    }

    /// All of it, now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            apis: APIS
                .iter()
                .zip(&self.apis)
                .map(|(api, m)| ApiSnapshot {
                    name: format!("{:?}", api.key),
                    requests: m.requests.get(),
                    micros: m.micros.get(),
                    buckets: m.buckets.iter().map(Cell::get).collect(),
                })
                .collect(),
            connections_open: self.connections_open.get(),
            connections_opened: self.connections_opened.get(),
            connections_refused: self.connections_refused.get(),
            bytes_received: self.bytes_received.get(),
            bytes_sent: self.bytes_sent.get(),
            writes: self.writes.get(),
        }
    }
}

/// The counters of a shard at one moment. A message; shards' snapshots add up.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Per API of the table, in its order.
    pub apis: Vec<ApiSnapshot>,
    /// Connections open.
    pub connections_open: u64,
    /// Connections ever opened.
    pub connections_opened: u64,
    /// Connections closed by us for a reason.
    pub connections_refused: u64,
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
    /// Requests answered.
    pub requests: u64,
    /// Microseconds they took together, from the whole request to the ready response.
    pub micros: u64,
    /// Requests per latency bucket (see [`BUCKETS`]).
    pub buckets: Vec<u64>,
}

impl Snapshot {
    /// Adds another shard's counters.
    pub fn merge(&mut self, other: &Self) {
        self.connections_open += other.connections_open;
        self.connections_opened += other.connections_opened;
        self.connections_refused += other.connections_refused;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.writes += other.writes;
        if self.apis.is_empty() {
            self.apis.clone_from(&other.apis);
            return;
        }
        for (mine, theirs) in self.apis.iter_mut().zip(&other.apis) {
            mine.requests += theirs.requests;
            mine.micros += theirs.micros;
            for (a, b) in mine.buckets.iter_mut().zip(&theirs.buckets) {
                *a += b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_their_buckets() {
        let metrics = KafkaMetrics::default();
        for micros in [0, 1, 3, 1000] {
            metrics.answered(ApiKey::Metadata, Duration::from_micros(micros));
        }
        let mut sum = metrics.snapshot();
        sum.merge(&metrics.snapshot());
        let metadata = sum.apis.iter().find(|a| a.name == "Metadata").expect("in the table");
        assert_eq!((metadata.requests, metadata.micros), (8, 2008));
        assert_eq!(metadata.buckets[..11], [2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 2]);
    }
}
