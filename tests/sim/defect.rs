//! Brokers that are wrong on purpose, at the seams of the simulated world: what the simulation must notice.
//!
//! | defect | made by |
//! | --- | --- |
//! | acknowledge before fsync | syncs of journal files do nothing |
//! | skip a checkpoint sync | syncs of the checkpoint's file do nothing |
//! | skip a segment sync | syncs of segment files do nothing |
//! | trim before the bundle is in the bucket | its PUT is answered at once and done later |
//! | commit the table before its files exist | the files' PUTs are answered at once and done later |
//! | replay a producer's batch | an acknowledged batch is appended again, behind the proposer's back |
//! | purge the log before the checkpoint is durable | while the checkpoint is collected |
//! | lose records that are dead letters | the log does not show them to the sink |
//! | commit rows and offsets apart | a commit of rows, whose answer is lost, leaves the offsets |
//! | keep decided dead letters in memory | the commit to the topic's table does not name them |
//! | read values with a wrong schema | the registry's answer has two fields in each other's place |

use std::sync::Arc;
use std::time::Duration;

use tidewater_storage::env::Env;
use tidewater_storage::env::sim::SimDisk;
use tidewater_tiering::store::meddler::Meddler;
use tidewater_tiering::store::{ObjectKey, ObjectStore, PutMode};

use crate::hasty::Hasty;

/// See the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    AckBeforeSync,
    SkipCheckpointSync,
    SkipSegmentSync,
    TrimBeforeBundle,
    CommitBeforeFiles,
    ReplayBatch,
    PurgeBeforeCheckpoint,
    DropDeadLetters,
    RowsWithoutOffsets,
    DeadLettersInMemory,
    WrongSchema,
}

impl Defect {
    pub(crate) const ALL: [Self; 11] = [
        Self::AckBeforeSync,
        Self::SkipCheckpointSync,
        Self::SkipSegmentSync,
        Self::TrimBeforeBundle,
        Self::CommitBeforeFiles,
        Self::ReplayBatch,
        Self::PurgeBeforeCheckpoint,
        Self::DropDeadLetters,
        Self::RowsWithoutOffsets,
        Self::DeadLettersInMemory,
        Self::WrongSchema,
    ];

    /// Makes the disk as forgetful as a broker that does not sync.
    pub(crate) fn spoil_disk(self, disk: &SimDisk) {
        match self {
            Self::AckBeforeSync => disk.lie(".journal"),
            Self::SkipCheckpointSync => disk.lie("checkpoint.pages"),
            Self::SkipSegmentSync => disk.lie(".log"),
            _ => {}
        }
    }

    /// The bucket as such a broker uses it.
    pub(crate) fn spoil_store(self, env: &Env, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        let which: fn(&ObjectKey, &PutMode) -> bool = match self {
            Self::TrimBeforeBundle => |key, _| key.as_str().contains("/lanes/"),
            Self::CommitBeforeFiles => |key, _| key.as_str().contains(".parquet"),
            _ => return store,
        };
        let hasty = Hasty::new(store, which);
        hasty.work(env, Duration::from_millis(400), true);
        hasty.over()
    }
}
