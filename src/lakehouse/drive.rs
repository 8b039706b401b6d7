//! One topic's sink over time: turns with pauses between them, its end, and a restart after a panic.
//!
//! Runs on the side runtime; one task per topic. Owns: when turns happen, what the log says of them, dropping the table
//! at the end. Does not own: which sinks there are (`run`), what a turn does (`tidewater_iceberg::sink`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidewater_iceberg::catalog::Catalog;
use tidewater_iceberg::commit::CommitError;
use tidewater_iceberg::commit::orphans::SweepLock;
use tidewater_iceberg::mode::ConflictPolicy;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::registry::SchemaSource;
use tidewater_iceberg::sink::{
    HeldBy, Outcome, PauseReason, SinkConfig, SinkError, SinkStatus, TableSink, dead_letter_table,
};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::{Offset, TimestampMs, TopicId};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::orders::SinkOrder;
use super::reader::MeshReader;
use super::states::{DeadLetter, DeadLettersState, TableState, TableStates};
use super::{compact, operate};
use crate::config::topic;
use crate::controller::ask::ControllerRequest;
use crate::controller::image::TopicImage;
use crate::shard::mesh::Mesh;

/// How long a sink whose topic has grown gives the archive before it looks again.
const IDLE_LOOK: Duration = Duration::from_millis(500);
/// A sink whose topic does not grow still looks again after this long: its table may have been changed by others.
const QUIET_LOOK: Duration = Duration::from_secs(600);
/// First and longest pause after a failed turn.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often a paused sink looks whether the cause is gone.
const PAUSED_LOOK: Duration = Duration::from_secs(10);
/// The same where the bucket or the catalog refuses what the turn needs: each look writes data files again.
const REFUSED_LOOK: Duration = Duration::from_secs(60);
/// A table that stays paused for one reason is logged again after this long.
const PAUSED_LOG_MS: i64 = 600_000;

/// First and longest pause after a table that could not be dropped.
const DROP_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Taking the mark off a table is tried this often, half a minute in all.
const UNMARK_ATTEMPTS: usize = 5;
/// A sink that panicked is started again after this long.
pub(super) const PANIC_PAUSE: Duration = Duration::from_secs(30);

/// The settings of a topic that its sink follows while it runs. *Message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SinkSettings {
    /// `iceberg.target.lag.ms`.
    lag_ms: u64,
    /// `iceberg.delete`.
    delete: bool,
    /// `iceberg.evolution.conflict`.
    conflict: ConflictPolicy,
    /// `iceberg.compaction`.
    pub(super) compaction: bool,
}

impl SinkSettings {
    pub(super) fn of(topic: &TopicImage) -> Self {
        let config = &topic.config;
        Self {
            lag_ms: config.iceberg_target_lag_ms,
            delete: config.iceberg_delete,
            conflict: match config.iceberg_conflict {
                topic::ConflictPolicy::DeadLetters => ConflictPolicy::DeadLetters,
                topic::ConflictPolicy::Column => ConflictPolicy::Column,
                topic::ConflictPolicy::Pause => ConflictPolicy::Pause,
            },
            compaction: config.iceberg_compaction,
        }
    }
}

/// Whether a sink is to end, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Not,
    /// After the turn it is in.
    Now,
    /// The same, and then its table is dropped: its topic was deleted.
    AndDrop,
    /// At once, wherever its turn is: another committer goes on from the table's offsets.
    HandOver,
}

/// Everything one sink's task works with. *Message*.
#[derive(Clone)]
pub(super) struct MaintenanceTask {
    pub(super) config: SinkConfig,
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) schemas: Arc<dyn SchemaSource>,
    pub(super) log: Arc<MeshReader>,
    pub(super) states: TableStates,
    /// Where the topic's settings are changed.
    pub(super) controller: Mesh<ControllerRequest>,
    pub(super) turns: Arc<Semaphore>,
    /// Permits for tables that are compacted at the same time.
    pub(super) compactions: Arc<Semaphore>,
    /// Between the sink's sweeps and the compaction of its table.
    pub(super) sweep_lock: SweepLock,
    pub(super) settings: watch::Receiver<SinkSettings>,
    pub(super) stopped: watch::Receiver<Stop>,
}

impl MaintenanceTask {
    fn sink(&self) -> TableSink {
        let mut config = self.config.clone();
        let settings = *self.settings.borrow();
        (config.delete, config.conflict) = (settings.delete, settings.conflict);
        let sink = TableSink::new(config, Arc::clone(&self.catalog), Arc::clone(&self.log) as _, Names::random());
        sink.with_schemas(Arc::clone(&self.schemas)).with_sweep_lock(Arc::clone(&self.sweep_lock))
    }
}

/// Keeps a topic's table up to date until it is stopped; returns the topic.
pub(super) async fn keep(mut task: MaintenanceTask) -> TopicId {
    let topic = task.config.topic_id;
    let orders = task.states.begin(topic);
    let sink_orders = Arc::new(Mutex::new(orders.sink));
    #[allow(clippy::disallowed_methods, reason = "this task is on the side runtime itself")]
    let compaction = tokio::spawn(compact::keep(task.clone(), orders.compaction));
    while *task.stopped.borrow() == Stop::Not {
        #[allow(clippy::disallowed_methods, reason = "this task is on the side runtime itself")]
        let mut turns = tokio::spawn(drive(task.sink(), task.clone(), Arc::clone(&sink_orders)));
        let turned = tokio::select! {
            turned = &mut turns => turned,
            // A turn that is dropped leaves garbage files at most.
            () = handed_over(&mut task.stopped) => {
                turns.abort();
                break;
            }
        };
        if let Err(error) = turned {
            tracing::error!(table = %task.config.table, %error, "the task of a table panicked and is started again");
            let _ = tokio::time::timeout(PANIC_PAUSE, task.stopped.changed()).await;
        }
    }
    // A run that is dropped leaves garbage files at most.
    compaction.abort();
    task.states.remove(topic);
    let sink = task.sink();
    let stop = *task.stopped.borrow();
    match stop {
        Stop::AndDrop => drop_table(sink).await,
        Stop::HandOver => {}
        Stop::Not | Stop::Now => {
            if task.settings.borrow().delete {
                unmark(sink).await;
            }
        }
    }
    topic
}

async fn handed_over(stopped: &mut watch::Receiver<Stop>) {
    if stopped.wait_for(|stop| *stop == Stop::HandOver).await.is_err() {
        std::future::pending().await
    }
}

/// A table without a sink no longer follows `iceberg.delete`, so it must not be dropped with its topic either.
async fn unmark(mut sink: TableSink) {
    let mut backoff = DROP_BACKOFF.0;
    for _ in 0..UNMARK_ATTEMPTS {
        let Err(error) = sink.unmark().await else { return };
        tracing::info!(table = %sink.status().table, %error, "still marked to go with its topic");
        tokio::time::sleep(backoff).await;
        backoff *= 2;
    }
}

/// Drops the table of a deleted topic, however long that takes. If the broker stops before, `left_over` drops it later.
async fn drop_table(mut sink: TableSink) {
    let mut backoff = DROP_BACKOFF.0;
    while let Err(error) = sink.drop_table().await {
        let table = &sink.status().table;
        if matches!(error, SinkError::Commit(CommitError::Foreign(_) | CommitError::Fenced { .. })) {
            tracing::info!(%table, %error, "the table of a deleted topic is not dropped");
            return;
        }
        tracing::warn!(%table, %error, ?backoff, "a deleted topic's table could not be dropped, will be tried again");
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(DROP_BACKOFF.1);
    }
}

/// Turns of one sink until it is stopped.
async fn drive(
    mut sink: TableSink,
    mut task: MaintenanceTask,
    orders: Arc<Mutex<mpsc::Receiver<SinkOrder>>>,
) -> TableSink {
    // The task before this one, if it panicked, has dropped them.
    let mut orders = orders.lock().await;
    let MaintenanceTask { config, states, turns, mut settings, mut stopped, .. } = task.clone();
    let mut logged: Option<(PauseReason, TimestampMs)> = None;
    let growth = Growth { log: Arc::clone(&task.log), topic: config.topic_id };
    let mut backoff = BACKOFF.0;
    let mut unreadable = 0;
    while *stopped.borrow() == Stop::Not {
        let held = *settings.borrow_and_update();
        sink.set_target_lag_ms(i64::try_from(held.lag_ms).unwrap_or(i64::MAX));
        sink.set_delete(held.delete);
        sink.set_conflict(held.conflict);
        let (now, began) = (wall(), Instant::now());
        let outcome = {
            let _turn = turns.acquire().await;
            sink.run_once(now).await
        };
        if matches!(outcome, Outcome::Committed { .. }) {
            sink.expect_turn_ms(i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX));
        }
        states.set(growth.topic, state_of(&config, sink.status()));
        let bad = &sink.status().unreadable;
        if bad.len() > unreadable {
            let table = &sink.status().table;
            tracing::warn!(%table, partitions = ?bad, "partitions of a table could not be brought up to date");
        }
        unreadable = bad.len();
        let pause = match &outcome {
            Outcome::Idle => IDLE_LOOK,
            Outcome::Wait { until } => {
                let wait = u64::try_from(until.since_ms(now)).unwrap_or_default();
                Duration::from_millis(wait.min(held.lag_ms))
            }
            Outcome::Committed { more: true, .. } | Outcome::Again => Duration::ZERO,
            Outcome::Committed { .. } => IDLE_LOOK,
            Outcome::Paused(reason) => {
                let known = |(last, at): &(PauseReason, TimestampMs)| {
                    last == reason && (0..PAUSED_LOG_MS).contains(&now.since_ms(*at))
                };
                if !logged.as_ref().is_some_and(known) {
                    tracing::warn!(table = %sink.status().table, %reason, "a table is not brought up to date");
                    logged = Some((reason.clone(), now));
                }
                if matches!(reason, PauseReason::Refused { .. }) { REFUSED_LOOK } else { PAUSED_LOOK }
            }
            Outcome::Failed(error) => {
                let table = &sink.status().table;
                tracing::warn!(%table, %error, ?backoff, "a table could not be brought up to date, will be tried again");
                backoff
            }
        };
        if !matches!(outcome, Outcome::Paused(_)) {
            logged = None;
        }
        backoff = if matches!(outcome, Outcome::Failed(_)) { (backoff * 2).min(BACKOFF.1) } else { BACKOFF.0 };
        let quiet = matches!(outcome, Outcome::Idle).then(|| growth.past(sink.status()));
        let rest = async move {
            if let Some(grown) = quiet {
                grown.await;
            }
            tokio::time::sleep(pause).await;
        };
        // Before the pause, which may be none.
        let mut order = orders.try_recv().ok();
        if order.is_none() {
            tokio::select! {
                () = rest => {}
                _ = stopped.changed() => {}
                _ = settings.changed() => {}
                Some(asked) = orders.recv() => order = Some(asked),
            }
        }
        if let Some(order) = order {
            operate::carry_out(&mut sink, order, &mut task).await;
        }
    }
    sink
}

/// Waits for growth of a topic, so that an idle sink does nothing.
struct Growth {
    log: Arc<MeshReader>,
    topic: TopicId,
}

impl Growth {
    /// Waits until there is a record past what the table has, archived or not.
    fn past(&self, status: &SinkStatus) -> impl Future<Output = ()> + use<> {
        let at: BTreeMap<i32, Offset> = status.partitions.iter().map(|(n, held)| (n.0, held.table)).collect();
        let (log, topic) = (Arc::clone(&self.log), self.topic);
        async move { log.grown(topic, &at, QUIET_LOOK).await }
    }
}

pub(super) fn state_of(config: &SinkConfig, status: &SinkStatus) -> TableState {
    let mut skipped: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for range in &status.skipped {
        let text = format!("[{}, {}): {}", range.start, range.end, range.reason);
        skipped.entry(range.partition).or_default().push(text);
    }
    TableState {
        table: status.table.to_string(),
        partitions: status.partitions.iter().map(|(n, p)| (n.0, (p.table.get(), p.lag))).collect(),
        skipped,
        unreadable: status.unreadable.iter().map(|(n, partition)| (n.0, partition.why.clone())).collect(),
        paused: status.paused.as_ref().map(ToString::to_string).or_else(|| status.error.clone()),
        held_by: status.held_by().into_iter().map(HeldBy::word).collect(),
        partition_spec: status.partition_spec.clone(),
        sort_order: status.sort_order.clone(),
        sort_order_lacking: status.sort_order_lacking.clone(),
        rows: status.rows,
        commits: status.commits,
        dead_letters: config.has_dead_letters().then(|| dead_letters_of(config, status)),
    }
}

fn dead_letters_of(config: &SinkConfig, status: &SinkStatus) -> DeadLettersState {
    DeadLettersState {
        table: dead_letter_table(&config.table).to_string(),
        rows: status.dead_rows,
        committed: status.dead_letters,
        last: status.last_dead.as_ref().map(|last| DeadLetter {
            partition: last.partition.0,
            offset: last.offset.get(),
            reason: last.reason.clone(),
        }),
    }
}
