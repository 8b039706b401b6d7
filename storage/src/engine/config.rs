//! The settings of one shard's engine.

use std::path::PathBuf;
use std::time::Duration;

use crate::budget::DiskBudget;
use crate::journal::JournalConfig;

/// Sizes and intervals of one shard's engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Directory of the segment files; `None`: the shard's. A broker's shards share one, so that a partition can move
    /// to another shard without its bytes.
    pub segments: Option<PathBuf>,
    pub journal: JournalConfig,
    /// Recent batches kept in memory. A soft cap: at twice this, nothing more is admitted. Bytes.
    pub recent_bytes: u64,
    /// A partition with this much unwritten is written back before the next checkpoint. Bytes.
    pub write_back_bytes: u64,
    /// Segment files kept open between uses.
    pub open_files: usize,
    /// Indexes of closed segments cached, about 40 KiB each for segments of 1 GiB.
    pub open_indexes: usize,
    /// If anything changed, a checkpoint is taken this long after the last one.
    pub checkpoint_interval: Duration,
    /// A checkpoint is also taken after this much was appended. Bytes.
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
            // Purging follows the checkpoint, so well below half of the capacity, where the journal reports pressure.
            checkpoint_bytes: journal.capacity_bytes / 4,
            journal,
            budget: DiskBudget::unlimited(),
        }
    }
}
