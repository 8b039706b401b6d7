//! The settings of a topic that shape a log. A *message*.

/// When a segment is closed. Decided from the batches alone, so it needs no clock and no timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `segment.bytes`: a batch that would carry the segment beyond this starts a new one.
    pub segment_bytes: u64,
    /// `segment.ms`: so does one whose greatest timestamp is this much later than that of the segment's first batch.
    pub segment_ms: u64,
}

impl Default for LogSettings {
    /// Kafka's: 1 GiB, 7 days.
    fn default() -> Self {
        Self { segment_bytes: 1 << 30, segment_ms: 7 * 24 * 3_600_000 }
    }
}
