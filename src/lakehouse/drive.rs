//! One topic's sink over time: turns with pauses between them, its end, and a new beginning should it panic.
//!
//! Runs on the side runtime; one task per topic. Owns: when turns happen, dropping the table at the end. Does not own:
//! which sinks there are (`run`), what a turn does (`tidewater_iceberg::sink`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidewater_iceberg::catalog::ObjectStoreCatalog;
use tidewater_iceberg::commit::CommitError;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::sink::{Outcome, SinkConfig, SinkError, SinkStatus, TableSink};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::{Offset, TopicId};
use tokio::sync::{Semaphore, watch};

use super::reader::MeshReader;
use super::states::{TableState, TableStates};
use crate::controller::image::TopicImage;

/// How long a sink whose topic has grown gives the archive before it looks again.
const IDLE_LOOK: Duration = Duration::from_millis(500);
/// A sink whose topic does not grow looks again after this long all the same: its table may have been changed by others.
const QUIET_LOOK: Duration = Duration::from_secs(600);
/// First and longest pause after a failed turn.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often a paused sink looks whether somebody has cleared the way.
const PAUSED_LOOK: Duration = Duration::from_secs(10);

/// First and longest pause after a table that could not be dropped.
const DROP_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Taking the mark off a table is tried this often, half a minute in all.
const UNMARK_ATTEMPTS: usize = 5;
/// A sink that panicked begins anew after this long.
const PANIC_PAUSE: Duration = Duration::from_secs(30);

/// What a topic's settings ask of its sink. A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    /// `iceberg.target.lag.ms`.
    lag_ms: u64,
    /// `iceberg.delete`.
    delete: bool,
}

impl Wishes {
    /// Of this topic.
    pub(super) fn of(topic: &TopicImage) -> Self {
        Self { lag_ms: topic.config.iceberg_target_lag_ms, delete: topic.config.iceberg_delete }
    }
}

/// Is a sink to end, and how?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It goes on.
    Not,
    /// After the turn it is in.
    Now,
    /// The same, and then its table goes: its topic was deleted.
    AndDrop,
}

/// What a sink's task is given. A message.
#[derive(Clone)]
pub(super) struct Duty {
    pub(super) config: SinkConfig,
    pub(super) catalog: Arc<ObjectStoreCatalog>,
    pub(super) log: Arc<MeshReader>,
    pub(super) states: TableStates,
    pub(super) turns: Arc<Semaphore>,
    pub(super) wishes: watch::Receiver<Wishes>,
    pub(super) stopped: watch::Receiver<Stop>,
}

impl Duty {
    fn sink(&self) -> TableSink {
        let mut config = self.config.clone();
        config.delete = self.wishes.borrow().delete;
        TableSink::new(config, Arc::clone(&self.catalog) as _, Arc::clone(&self.log) as _, Names::random())
    }
}

/// Keeps a topic's table until it is told to stop; gives back whose it was.
pub(super) async fn keep(mut duty: Duty) -> TopicId {
    let topic = duty.config.topic_id;
    while *duty.stopped.borrow() == Stop::Not {
        if let Err(error) = tokio::spawn(drive(duty.sink(), duty.clone())).await {
            tracing::error!(table = %duty.config.table, %error, "the task of a table ended badly, begins anew");
            let _ = tokio::time::timeout(PANIC_PAUSE, duty.stopped.changed()).await;
        }
    }
    duty.states.remove(topic);
    let sink = duty.sink();
    if *duty.stopped.borrow() == Stop::AndDrop {
        drop_table(sink).await;
    } else if duty.wishes.borrow().delete {
        unmark(sink).await;
    }
    topic
}

/// A table without a sink does not follow `iceberg.delete` any more, so it does not go with its topic either.
async fn unmark(mut sink: TableSink) {
    let mut backoff = DROP_BACKOFF.0;
    for _ in 0..UNMARK_ATTEMPTS {
        let Err(error) = sink.unmark().await else { return };
        tracing::info!(table = %sink.status().table, %error, "still marked to go with its topic");
        tokio::time::sleep(backoff).await;
        backoff *= 2;
    }
}

/// Drops the table of a deleted topic, however long that takes. Should the broker end before, its next life finds it.
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

/// Turns of one sink until it is told to stop.
async fn drive(mut sink: TableSink, duty: Duty) -> TableSink {
    let Duty { states, turns, mut wishes, mut stopped, .. } = duty;
    let growth = Growth { log: duty.log, topic: duty.config.topic_id };
    let mut backoff = BACKOFF.0;
    let mut unreadable = 0;
    while *stopped.borrow() == Stop::Not {
        let wished = *wishes.borrow_and_update();
        sink.set_target_lag_ms(i64::try_from(wished.lag_ms).unwrap_or(i64::MAX));
        sink.set_delete(wished.delete);
        let now = wall();
        let outcome = {
            let _turn = turns.acquire().await;
            sink.run_once(now).await
        };
        states.set(growth.topic, state_of(sink.status()));
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
                Duration::from_millis(wait.min(wished.lag_ms))
            }
            Outcome::Committed { more: true, .. } | Outcome::Again => Duration::ZERO,
            Outcome::Committed { .. } => IDLE_LOOK,
            Outcome::Paused(reason) => {
                tracing::warn!(table = %sink.status().table, %reason, "a table stands still");
                PAUSED_LOOK
            }
            Outcome::Failed(error) => {
                tracing::warn!(table = %sink.status().table, %error, ?backoff, "a table could not be brought up to date, will be tried again");
                backoff
            }
        };
        backoff = if matches!(outcome, Outcome::Failed(_)) { (backoff * 2).min(BACKOFF.1) } else { BACKOFF.0 };
        let quiet = matches!(outcome, Outcome::Idle).then(|| growth.past(sink.status()));
        let rest = async move {
            if let Some(grown) = quiet {
                grown.await;
            }
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            () = rest => {}
            _ = stopped.changed() => {}
            _ = wishes.changed() => {}
        }
    }
    sink
}

/// Tells a sink that its topic has grown: until then it does nothing.
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

fn state_of(status: &SinkStatus) -> TableState {
    let mut skipped: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for range in &status.skipped {
        let text = format!("[{}, {}): {}", range.start, range.end, range.reason);
        skipped.entry(range.partition).or_default().push(text);
    }
    TableState {
        table: status.table.to_string(),
        partitions: status.partitions.iter().map(|(n, p)| (n.0, (p.table.get(), p.lag))).collect(),
        skipped,
        unreadable: status.unreadable.iter().map(|(n, why)| (n.0, why.clone())).collect(),
        paused: status.paused.as_ref().map(ToString::to_string).or_else(|| status.error.clone()),
        rows: status.rows,
        commits: status.commits,
    }
}
