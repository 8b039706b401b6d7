//! Changes the number of shards of a data directory.
//!
//! 1. Every shard of the old layout applies its journal and takes a checkpoint.
//! 2. The new shards are made from those checkpoints, beside the old ones.
//! 3. `node.json` is replaced: the new layout is in use.
//! 4. The old shards are removed.
//!
//! After a crash before step 3 the old shards are complete, after it the new ones. Segment files are not part of a
//! shard's directory and do not move. Does not own: the content of a shard (`tidewater_storage::engine::relocate`).

use tidewater_storage::engine::{Engine, EngineConfig, relocate};
use tidewater_storage::env::Env;
use tidewater_storage::model::ShardId;

use super::error::StartError;
use super::identity::{DataDir, Identity};
use super::lanes::{self, Lanes, Seat};
use super::on_executor::on_executor;
use super::status::ShardFailure;
use crate::controller::state::shard_of;

/// Gives the data directory `shards` shards and returns its new identity.
///
/// # Errors
/// A shard does not open, or the disk refuses; the old layout stays in use.
pub(super) fn run(
    data: &DataDir,
    identity: &Identity,
    shards: u16,
    engine: &EngineConfig,
    seat: impl Fn(ShardId) -> Seat,
) -> Result<Identity, StartError> {
    if !identity.is_alone() {
        let why = format!(
            "it has {} shards, and the number of shards of a broker in a cluster of several cannot change yet; start it \
             without --shards, or with --shards {}",
            identity.shards, identity.shards
        );
        return Err(StartError::DataDir { path: data.path.clone(), why });
    }
    tracing::info!(from = identity.shards, to = shards, "the number of shards changes: draining the journals");
    data.remove_other_layouts(identity.layout)?;
    let drains = (0..identity.shards).map(|n| {
        let (seat, dir, engine) = (seat(ShardId(n)), data.shard(identity.layout, n), engine.clone());
        on_executor(ShardId(n), move |env| async move { drain(&env, &seat, dir, engine).await })
    });
    // Start all before waiting for the first.
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
    // Each shard has its own chunk cache; the new ones fill as their readers need them.
    if let Err(error) = std::fs::remove_dir_all(data.path.join("cache"))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the cache of the old shards could not be removed");
    }
    tracing::info!(shards, lanes = moved.lanes, partitions = moved.partitions, "the number of shards has changed");
    Ok(next)
}

/// Applies the journal of one shard and takes a checkpoint.
async fn drain(env: &Env, seat: &Seat, dir: std::path::PathBuf, config: EngineConfig) -> Result<(), ShardFailure> {
    let here = seat.here;
    let (engine, recovered) = Engine::open(env.clone(), dir, config).await.map_err(|e| ShardFailure::new(here, &e))?;
    let lanes = Lanes::recover(env, seat, &engine, recovered)?;
    engine.set_source(lanes.source());
    engine.start();
    lanes.start_groups(lanes::abort).await?;
    engine.checkpoint().await.map_err(|e| ShardFailure::new(here, &e))?;
    lanes.shutdown().await;
    engine.close().await;
    Ok(())
}
