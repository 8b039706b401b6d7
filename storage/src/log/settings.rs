//! The topic settings that a log needs. A *message*.

/// When a segment is closed: decided from the batches alone, so it needs no clock and no timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `segment.bytes`: a batch that would make the segment larger starts a new one. Bytes.
    pub segment_bytes: u64,
    /// `segment.ms`: so does a batch whose greatest timestamp is later than that of the segment's first batch by more.
    pub segment_ms: u64,
}

impl Default for LogSettings {
    /// Kafka's: 1 GiB, 7 days.
    fn default() -> Self {
        Self { segment_bytes: 1 << 30, segment_ms: 7 * 24 * 3_600_000 }
    }
}
