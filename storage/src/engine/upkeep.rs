//! The shard's one background task: writes back large unwritten logs, keeps memory under its cap, takes checkpoints. It
//! sleeps until notified, and has a timer only while anything has changed since the last checkpoint.

use std::time::Duration;

use futures::StreamExt;
use futures::future::{Either, select};

use super::error::EngineError;
use super::handle::Engine;
use crate::disposition::Disposition;
use crate::env::Sleep;
use crate::journal::Pressure;
use crate::log::PartitionLog;
use crate::log::WriteBackError;

/// Logs written back at one time.
const LOGS_AT_ONCE: usize = 4;
/// Pause after an error that may pass.
const PAUSE: Duration = Duration::from_millis(500);
/// Time for the lanes to purge after a checkpoint, before entries that keep the oldest file are rewritten.
const CHECKPOINT_GAP: Duration = Duration::from_millis(50);

impl Engine {
    pub(super) async fn upkeep(&self) {
        let mut timer: Option<Sleep> = None;
        while !self.inner.ending.get() && !self.inner.ended.get() {
            self.rest(&mut timer).await;
            if self.inner.ending.get() || self.inner.ended.get() {
                break;
            }
            if let Err(error) = self.work().await {
                if self.is_closing(&error) {
                    break;
                }
                if error.disposition() == Disposition::Fatal {
                    self.fail(&error);
                    break;
                }
                self.inner.journal.give_up_spares();
                tracing::warn!(%error, "storage upkeep failed, trying again after a pause; acknowledged records are safe in the journal");
                self.inner.shared.env.tasks.sleep(PAUSE).await;
                self.inner.shared.wake.notify();
            }
        }
    }

    /// Waits for a notification or until the next checkpoint is due. The timer is kept over notifications: each dropped
    /// one leaks about 96 bytes (glommio 0.9).
    async fn rest(&self, timer: &mut Option<Sleep>) {
        let shared = &self.inner.shared;
        if timer.is_none() && shared.has_changes() {
            let due = self.inner.last_checkpoint.get() + self.inner.config.checkpoint_interval;
            *timer = Some(shared.env.tasks.sleep_until(due));
        }
        let woken = std::pin::pin!(shared.wake.notified());
        match timer {
            None => woken.await,
            Some(sleep) => {
                if let Either::Right(_) = select(woken, sleep).await {
                    *timer = None;
                }
            }
        }
    }

    async fn work(&self) -> Result<(), EngineError> {
        self.write_back_eager().await?;
        self.relieve_memory().await?;
        if self.is_checkpoint_due() {
            self.checkpoint().await?;
            self.relieve_journal().await?;
        }
        Ok(())
    }

    fn is_checkpoint_due(&self) -> bool {
        let (inner, shared) = (&self.inner, &self.inner.shared);
        let since = shared.env.clock.now().since(inner.last_checkpoint.get());
        let asked = inner.journal.pressure() != Pressure::None
            || shared.since_checkpoint.get() >= inner.config.checkpoint_bytes
            || since >= inner.config.checkpoint_interval;
        shared.has_changes() && asked && inner.source.borrow().is_some()
    }

    /// Rewrites, at the head of the journal, the entries that keep its oldest file after the lanes have purged.
    async fn relieve_journal(&self) -> Result<(), EngineError> {
        let (inner, tasks) = (&self.inner, &self.inner.shared.env.tasks);
        if inner.journal.pressure() == Pressure::None {
            return Ok(());
        }
        // The lanes purge their logs themselves, which takes a moment.
        tasks.sleep(CHECKPOINT_GAP).await;
        if inner.ending.get() {
            return Ok(());
        }
        let usage = inner.journal.usage();
        if usage.used_bytes / 3 > usage.capacity_bytes / 4 && !inner.journal.oldest_pins().is_empty() {
            let bytes = inner.journal.rewrite_oldest().await?;
            tracing::info!(bytes, "entries that kept the journal's oldest file were rewritten at its head");
        }
        Ok(())
    }

    async fn write_back_eager(&self) -> Result<(), EngineError> {
        let eager = std::mem::take(&mut *self.inner.shared.eager.borrow_mut());
        let logs = eager.into_iter().filter_map(|id| self.partition(id)).collect();
        Ok(write_back(logs).await?)
    }

    /// Over the memory's cap: evicts old written batches, and if that is not enough, writes back the logs with most
    /// unwritten bytes first.
    async fn relieve_memory(&self) -> Result<(), EngineError> {
        let memory = &self.inner.shared.memory;
        if !memory.is_over() {
            return Ok(());
        }
        self.evict();
        if !memory.is_over() {
            return Ok(());
        }
        let mut logs: Vec<(u64, PartitionLog)> = {
            let logs = self.inner.logs.borrow();
            let unwritten = logs.values().map(|log| (log.unwritten_bytes(), log.clone()));
            unwritten.filter(|(bytes, _)| *bytes > 0).collect()
        };
        logs.sort_by_key(|(bytes, log)| (std::cmp::Reverse(*bytes), log.id()));
        let mut too_much = memory.resident().saturating_sub(memory.cap() / 4 * 3);
        logs.retain(|(bytes, _)| {
            let wanted = too_much > 0;
            too_much = too_much.saturating_sub(*bytes);
            wanted
        });
        write_back(logs.into_iter().map(|(_, log)| log).collect()).await?;
        self.evict();
        Ok(())
    }

    fn evict(&self) {
        let cutoff = self.inner.shared.memory.cutoff();
        let logs: Vec<PartitionLog> = self.inner.logs.borrow().values().cloned().collect();
        logs.iter().for_each(|log| log.evict(cutoff));
    }
}

async fn write_back(logs: Vec<PartitionLog>) -> Result<(), WriteBackError> {
    let all = logs.iter().map(|log| log.write_back(None));
    let mut running = futures::stream::iter(all).buffer_unordered(LOGS_AT_ONCE);
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}
