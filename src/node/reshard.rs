//! Another number of shards than the data directory has: drained, laid out anew, switched, removed.
//!
//! Owns: the order, and the threads it runs on. (1) Every shard of the old layout applies what its journal holds and takes
//! a checkpoint. (2) The new shards are made out of those checkpoints, beside the old. (3) `node.json` is replaced: from
//! here on the new count. (4) The old are removed. Whoever dies before (3) finds the old shards as they were, after it the
//! new. Segment files lie beside the shards and do not move. Does not own: what is in a shard
//! (`tidewater_storage::engine::relocate`).

use tidewater_storage::engine::{Engine, EngineConfig, relocate};
use tidewater_storage::env::Env;
use tidewater_storage::model::ShardId;
use uuid::Uuid;

use super::error::StartError;
use super::identity::{DataDir, Identity};
use super::lanes::{self, Lanes, Seat};
use super::status::ShardFailure;
use crate::controller::state::shard_of;
use crate::shard::executor;

/// Gives the data directory `shards` shards; the identity as it is then.
///
/// # Errors
/// A shard does not open, or the disk refuses; the data directory is as it was.
pub(super) fn run(
    data: &DataDir,
    identity: &Identity,
    shards: u16,
    engine: &EngineConfig,
    seat: impl Fn(ShardId) -> Seat,
) -> Result<Identity, StartError> {
    tracing::info!(from = identity.shards, to = shards, "the number of shards changes: draining the journals");
    data.remove_other_layouts(identity.layout)?;
    let drains = (0..identity.shards).map(|n| {
        let (seat, dir, engine) = (seat(ShardId(n)), data.shard(identity.layout, n), engine.clone());
        on_executor(ShardId(n), move |env| async move { drain(&env, &seat, dir, engine).await })
    });
    // All at once, then each waited for.
    let drains: Vec<_> = drains.collect();
    for drained in drains {
        drained?.wait()?;
    }
    let next = Identity {
        shards,
        lanes: identity.lanes.max(shards.into()),
        layout: identity.layout.saturating_add(1),
        ..identity.clone()
    };
    let from: Vec<_> = (0..identity.shards).map(|n| data.shard(identity.layout, n)).collect();
    let to: Vec<_> = (0..shards).map(|n| data.shard(next.layout, n)).collect();
    let journal = engine.journal.clone();
    let moved = on_executor(ShardId(0), move |env| async move {
        let moved = relocate(&env, &from, &to, &journal, |lane| usize::from(shard_of(lane, shards).0)).await;
        moved.map_err(|e| ShardFailure::new(ShardId(0), &e))
    });
    let moved = moved?.wait()?;
    data.write(&next)?;
    data.remove_other_layouts(next.layout)?;
    // Chunks of the bucket lie by shard: they are read again where they are wanted.
    if let Err(error) = std::fs::remove_dir_all(data.path.join("cache"))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the cache of the old shards could not be removed");
    }
    tracing::info!(shards, lanes = moved.lanes, partitions = moved.partitions, "the number of shards has changed");
    Ok(next)
}

/// Applies what the journal holds and takes a checkpoint of it.
async fn drain(env: &Env, seat: &Seat, dir: std::path::PathBuf, config: EngineConfig) -> Result<(), ShardFailure> {
    let here = seat.here;
    let (engine, recovered) = Engine::open(env.clone(), dir, config).await.map_err(|e| ShardFailure::new(here, &e))?;
    let lanes = Lanes::recover(env, seat, &engine, recovered)?;
    engine.set_source(lanes.source());
    engine.start();
    lanes.start_groups(env, seat, &engine, lanes::abort).await?;
    engine.checkpoint().await.map_err(|e| ShardFailure::new(here, &e))?;
    lanes.shutdown().await;
    engine.close().await;
    Ok(())
}

/// Work on an executor of its own.
struct Working<T> {
    thread: std::thread::JoinHandle<()>,
    shard: ShardId,
    result: flume::Receiver<Result<T, ShardFailure>>,
}

fn on_executor<T, F>(shard: ShardId, work: impl FnOnce(Env) -> F + Send + 'static) -> Result<Working<T>, StartError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ShardFailure>> + 'static,
{
    let (sender, result) = flume::bounded(1);
    let run = move || async move {
        let done = work(Env::real(Uuid::new_v4().as_u64_pair().0)).await;
        let _ = sender.send(done);
    };
    let thread = executor::spawn(shard, run);
    let thread = thread.map_err(|e| StartError::System { what: "a thread for a shard", why: e.to_string() })?;
    Ok(Working { thread, shard, result })
}

impl<T> Working<T> {
    fn wait(self) -> Result<T, StartError> {
        let ended = |_| StartError::Shard { shard: self.shard.0, why: "it ended; see the log above".into() };
        let done = self.result.recv().map_err(ended)?;
        let _ = self.thread.join();
        done.map_err(|failure| StartError::Shard { shard: failure.shard.0, why: failure.why })
    }
}
