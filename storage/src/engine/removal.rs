//! Removes files that no durable record of a lane or partition names any more. What cannot be removed is tried again
//! with the next checkpoint, and stays in the shard's record until it is removed, so that a crash does not leave it
//! behind.

use std::collections::BTreeSet;
use std::io;

use super::handle::Engine;
use crate::log::PartitionLog;
use crate::log::shared::Doomed;
use crate::model::{Offset, PartitionId};
use crate::segment::{index_path, log_path, partition_dir};

impl Engine {
    /// Removes all leftover files, including those added meanwhile; a file that cannot be removed stays in the list.
    pub(super) async fn remove_leftover(&self) {
        if self.inner.removing.replace(true) {
            return;
        }
        let mut failed = BTreeSet::new();
        loop {
            let round: Vec<Doomed> = self.inner.leftover.borrow().difference(&failed).copied().collect();
            if round.is_empty() {
                break;
            }
            for one in round {
                if let Err(error) = self.remove(one).await {
                    tracing::warn!(?one, %error, "file not removed, its bytes stay in the disk budget; trying again with the next checkpoint");
                    failed.insert(one);
                }
            }
        }
        self.inner.removing.set(false);
    }

    async fn remove(&self, one: Doomed) -> io::Result<()> {
        let bytes = match one {
            Doomed::Segment { partition, base, bytes } => {
                self.remove_segment(partition, base).await?;
                bytes
            }
            Doomed::Partition { partition, bytes } => {
                self.remove_partition(partition).await?;
                bytes
            }
        };
        self.inner.leftover.borrow_mut().remove(&one);
        self.inner.shared.disk.remove(bytes);
        self.inner.shared.counters.files_removed.add(1);
        Ok(())
    }

    async fn remove_segment(&self, partition: PartitionId, base: Offset) -> io::Result<()> {
        // After a reset, the log may have a new segment at the same offset, to which the file now belongs. The lock
        // keeps write-back from creating it meanwhile.
        let log = self.partition(partition);
        let _io = match &log {
            Some(log) => Some(log.inner.io.lock().await),
            None => None,
        };
        let live = |log: &PartitionLog| log.segments().iter().any(|segment| segment.offsets.start == base);
        if log.as_ref().is_some_and(live) {
            return Ok(());
        }
        let shared = &self.inner.shared;
        let dir = partition_dir(&shared.dir, partition);
        for path in [log_path(&dir, base), index_path(&dir, base)] {
            shared.handles.forget(&path).await;
            absent_is_fine(shared.env.disk.remove_file(&path).await)?;
            // A reader may have opened it again meanwhile, and an open file keeps its blocks.
            shared.handles.forget(&path).await;
        }
        Ok(())
    }

    async fn remove_partition(&self, partition: PartitionId) -> io::Result<()> {
        if self.partition(partition).is_some() {
            return Ok(());
        }
        let shared = &self.inner.shared;
        let dir = partition_dir(&shared.dir, partition);
        shared.handles.forget_below(&dir).await;
        absent_is_fine(shared.env.disk.remove_dir_all(&dir).await)?;
        shared.handles.forget_below(&dir).await;
        Ok(())
    }
}

fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
