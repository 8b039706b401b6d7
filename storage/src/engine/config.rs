//! What an engine is opened with.

use std::path::PathBuf;
use std::time::Duration;

use crate::budget::DiskBudget;
use crate::journal::JournalConfig;

/// Sizes and cadences of one shard's engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where segment files lie; `None`: in the shard's directory. A node's shards share one, so that a partition changes
    /// its shard without its bytes.
    pub segments: Option<PathBuf>,
    pub journal: JournalConfig,
    /// Recent batches kept in memory. Soft: at twice this nothing more is admitted. Bytes.
    pub recent_bytes: u64,
    /// Unwritten bytes of one partition from which it is written back without being asked. Bytes.
    pub write_back_bytes: u64,
    /// Segment files held open between uses.
    pub open_files: usize,
    /// Indexes of closed segments held after use, about 40 KiB each for 1 GiB segments.
    pub open_indexes: usize,
    /// A checkpoint is taken this long after the last when anything changed.
    pub checkpoint_interval: Duration,
    /// And when so much was appended since. Bytes.
    pub checkpoint_bytes: u64,
    pub budget: DiskBudget,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let journal = JournalConfig::default();
        Self {
            segments: None,
            recent_bytes: 128 << 20,
            write_back_bytes: 1 << 20,
            open_files: 1024,
            open_indexes: 64,
            checkpoint_interval: Duration::from_secs(10),
            // Purging follows the checkpoint, so well before the journal's own mark at half of its capacity.
            checkpoint_bytes: journal.capacity_bytes / 4,
            journal,
            budget: DiskBudget::unlimited(),
        }
    }
}
