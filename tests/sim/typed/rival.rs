//! A second committer to the run's tables: a sink on another machine, with the epoch that the broker's sink had when
//! the rival began. It lives on when that broker is killed, and so becomes the sink of a leader that was deposed.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidewater::lakehouse::reader::MeshReader;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::read::{LogRead, LogReadError, LogReader, PartitionBounds};
use tidewater_iceberg::sink::{Outcome, PauseReason, TableSink};
use tidewater_storage::model::{OffsetRange, PartitionIndex, TopicId};
use tidewater_tiering::store::{ObjectStore, RetryPolicy, Retrying, SimSleeper};

use super::{TableKind, Typed, count};
use crate::table;
use crate::world::World;

/// It lives for so long at most.
const LIFE_MS: u64 = 5_000;

/// The log of whichever broker serves now.
pub(crate) struct NewestLog(pub(crate) Arc<Typed>);

impl NewestLog {
    fn reader(&self, topic: TopicId) -> Result<MeshReader, LogReadError> {
        let held = self.0.log.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone().ok_or(LogReadError::NoTopic(topic))
    }
}

#[async_trait]
impl LogReader for NewestLog {
    async fn partitions(&self, topic: TopicId) -> Result<Vec<PartitionBounds>, LogReadError> {
        self.reader(topic)?.partitions(topic).await
    }

    async fn leader_bounds(&self, topic: TopicId, partition: PartitionIndex) -> Result<PartitionBounds, LogReadError> {
        self.reader(topic)?.leader_bounds(topic, partition).await
    }

    async fn read(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        range: OffsetRange,
        max_bytes: usize,
    ) -> Result<LogRead, LogReadError> {
        self.reader(topic)?.read(topic, partition, range, max_bytes).await
    }
}

/// Starts one with this epoch, in half of the broker's lives.
pub(crate) fn start(world: &World, kind: TableKind, epoch: u64) {
    let env = world.clients.clone();
    if env.rng.below(2) == 0 {
        return;
    }
    let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
    let store = Retrying::new(world.bucket.store(), policy, Arc::new(SimSleeper::new(&env)));
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let seed = (world.plan.seed << 20) + (world.lives() << 8) + 128;
    let typed = Arc::clone(&world.typed);
    let log = Arc::new(NewestLog(Arc::clone(&typed)));
    let catalog = table::sinks_catalog(world, &env, store, seed);
    let sink = TableSink::new(table::config(world, epoch), catalog, log, Names::seeded(seed + 1));
    let mut sink = table::with_registry(sink, world, &env, kind);
    let until = env.clock.now() + Duration::from_millis(1 + env.rng.below(LIFE_MS));
    let alone = env.clone();
    drop(env.tasks.spawn("rival", async move {
        while alone.clock.now() < until {
            let pause = match sink.run_once(alone.clock.wall()).await {
                Outcome::Idle | Outcome::Wait { .. } => 200,
                Outcome::Committed { .. } => {
                    count(&typed.counts.rival_commits);
                    100
                }
                Outcome::Again => {
                    count(&typed.counts.moved);
                    20
                }
                Outcome::Paused(PauseReason::Fenced { .. }) => {
                    count(&typed.counts.fenced);
                    return;
                }
                Outcome::Paused(reason) => panic!("the rival stands still: {reason}"),
                Outcome::Failed(_) => 300,
            };
            alone.tasks.sleep(Duration::from_millis(pause)).await;
        }
    }));
}
