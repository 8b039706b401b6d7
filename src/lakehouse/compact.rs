//! When a topic's table is compacted: once an hour, after the hour before is over, and when an operator asks.
//!
//! One task per sink on the side runtime, which ends with the sink. Owns: the schedule, orders of operators, what is
//! shown of runs. Does not own: what a run does (`tidewater_iceberg::compact`). One table is compacted at a time on a
//! broker, so that no more memory and processor time than that of one run is taken from the commits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tidewater_iceberg::commit::TableOwner;
use tidewater_iceberg::compact::{CompactError, Compactor, Run, TableFilesSeen};
use tidewater_iceberg::names::Names;
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::{TimestampMs, TopicId};
use tokio::sync::mpsc;

use super::drive::{MaintenanceTask, PANIC_PAUSE};
use super::orders::TableOrder;
use super::states::{Compaction, CompactionProgress, LastCompaction, TableStates};

/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;
/// Runs begin this long after the full hour, when its files have been quiet for long enough, …
const AFTER_HOUR_MS: i64 = 11 * 60_000;
/// … and this much later at most, so that the tables of a cluster do not all begin at once.
const SPREAD_MS: i64 = 20 * 60_000;
/// The first look at a table's files after its sink began; it changes nothing.
const FIRST_LOOK: Duration = Duration::from_secs(60);
/// A run that lost against other writers, or found the bucket away, is repeated this often, with this pause.
const TRIES: usize = 3;
const TRY_PAUSE: Duration = Duration::from_secs(10);

/// Compacts a topic's table until it is dropped with the sink; begins again after a panic.
pub(super) async fn keep(task: MaintenanceTask, mut orders: mpsc::Receiver<TableOrder>) {
    while AssertUnwindSafe(keep_once(&task, &mut orders)).catch_unwind().await.is_err() {
        let (table, topic) = (&task.config.table, task.config.topic_id);
        tracing::error!(%table, "the compaction of a table panicked and begins again");
        task.states.note_compaction(topic, |state| {
            state.progress = None;
            state.reason = Some("a run panicked; the broker's log says where".to_owned());
        });
        tokio::time::sleep(PANIC_PAUSE).await;
    }
}

async fn keep_once(task: &MaintenanceTask, orders: &mut mpsc::Receiver<TableOrder>) {
    let (config, topic) = (&task.config, task.config.topic_id);
    let owner = TableOwner { cluster: config.cluster, topic, epoch: config.epoch };
    let catalog = Arc::clone(&task.catalog);
    let compactor = Compactor::new(catalog, config.table.clone(), owner, Names::random(), config.bounds);
    let compactor = compactor.with_sweep_lock(Arc::clone(&task.sweep_lock));
    let mut keeper = Keeper { compactor, states: task.states.clone(), topic };
    let mut pause = FIRST_LOOK;
    let mut is_first = true;
    loop {
        let order = tokio::select! {
            order = orders.recv() => match order {
                Some(order) => Some(order),
                None => return,
            },
            () = tokio::time::sleep(pause) => None,
        };
        let Ok(_turn) = task.compactions.acquire().await else { return };
        let is_on = task.settings.borrow().compaction;
        match order {
            Some(TableOrder::Compact) => keeper.compact(true).await,
            Some(TableOrder::Expire(reply)) => {
                let expired = keeper.compactor.expire(wall()).await.map_err(|error| error.to_string());
                // Who asked may have gone.
                let _ = reply.send(expired);
                keeper.look().await;
            }
            None if is_on && !is_first => keeper.compact(false).await,
            None => keeper.look().await,
        }
        is_first = false;
        pause = until_next(wall(), topic);
    }
}

/// How long until the next run.
fn until_next(now: TimestampMs, topic: TopicId) -> Duration {
    let spread = i64::from(topic.0.as_fields().0) % SPREAD_MS;
    let at = AFTER_HOUR_MS + spread;
    let into = now.0.rem_euclid(HOUR_MS);
    let left = (at - into).rem_euclid(HOUR_MS);
    Duration::from_millis(if left == 0 { HOUR_MS } else { left }.unsigned_abs())
}

struct Keeper {
    compactor: Compactor,
    states: TableStates,
    topic: TopicId,
}

impl Keeper {
    /// Looks at the table's files, for those who ask how it is.
    async fn look(&mut self) {
        match self.compactor.look(wall()).await {
            Ok(seen) => self.note(|state| see(state, &seen)),
            Err(error) => tracing::debug!(topic = %self.topic, %error, "the files of a table could not be counted"),
        }
    }

    /// Runs until nothing is left to do. `is_ordered`: an operator waits for it.
    async fn compact(&mut self, is_ordered: bool) {
        self.note(|state| state.progress = Some(CompactionProgress::default()));
        let mut failed = 0;
        let error = loop {
            let (states, topic) = (self.states.clone(), self.topic);
            let report = move |now: tidewater_iceberg::compact::Progress| {
                let (files, files_read, bytes, bytes_read) = (now.files, now.files_read, now.bytes, now.bytes_read);
                let progress = CompactionProgress { files, files_read, bytes, bytes_read };
                states.note_compaction(topic, |state| state.progress = Some(progress));
            };
            match self.compactor.run(wall(), report).await {
                Ok(run) => {
                    failed = 0;
                    self.done(&run);
                    if !run.more {
                        break run.obstacle.or_else(|| run.left.into_iter().next());
                    }
                }
                Err(error) if error.passes() && failed < TRIES => {
                    failed += 1;
                    tokio::time::sleep(TRY_PAUSE).await;
                }
                Err(error) => {
                    self.failed(&error);
                    break Some(error.to_string());
                }
            }
        };
        self.look().await;
        self.note(|state| {
            state.progress = None;
            state.reason = error;
            state.ordered += u64::from(is_ordered);
        });
    }

    fn done(&self, run: &Run) {
        self.note(|state| {
            see(state, &run.seen);
            state.files_in += run.files_in;
            state.files_out += run.files_out;
            state.bytes_in += run.bytes_in;
            state.bytes_out += run.bytes_out;
            if run.files_in > 0 {
                let (files_in, files_out) = (run.files_in, run.files_out);
                let (bytes_in, bytes_out) = (run.bytes_in, run.bytes_out);
                let at_ms = wall().0;
                state.last = Some(LastCompaction { at_ms, files_in, files_out, bytes_in, bytes_out });
            }
        });
        if run.files_in > 0 {
            let (topic, from, to, bytes) = (self.topic, run.files_in, run.files_out, run.bytes_in);
            tracing::info!(%topic, from, to, bytes, "small files of a table became few");
        }
    }

    fn failed(&self, error: &CompactError) {
        // The sink makes it, or says why it cannot.
        if matches!(error, CompactError::Commit(error) if error.is_table_gone()) {
            return;
        }
        tracing::warn!(topic = %self.topic, %error, "a table was not compacted; tried again in an hour");
    }

    fn note(&self, change: impl FnOnce(&mut Compaction)) {
        self.states.note_compaction(self.topic, change);
    }
}

fn see(state: &mut Compaction, seen: &TableFilesSeen) {
    state.files = seen.files;
    state.bytes = seen.bytes;
    state.small_files = seen.small;
    state.waiting_files = seen.waiting;
    state.due_files = seen.due;
    state.target_bytes = seen.target_bytes;
    state.seen = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_comes_once_an_hour_after_the_hour_before_is_quiet() {
        for id in [0, 1 << 96, 77 << 96, u128::MAX] {
            let topic = TopicId(uuid::Uuid::from_u128(id));
            let mut now = TimestampMs(1_760_000_000_000);
            let mut runs = Vec::new();
            for _ in 0..3 {
                let pause = until_next(now, topic);
                assert!(pause > Duration::ZERO && pause <= Duration::from_secs(3600), "{pause:?}");
                now = now.plus_ms(i64::try_from(pause.as_millis()).expect("an hour"));
                let into = now.0 % HOUR_MS;
                assert!((AFTER_HOUR_MS..AFTER_HOUR_MS + SPREAD_MS).contains(&into), "{into} ms into the hour");
                runs.push(now.0);
            }
            assert_eq!(runs[2] - runs[1], HOUR_MS);
        }
    }
}
