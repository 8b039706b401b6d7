//! The shards of the first broker of a restored cluster, made from what the restore left in the bucket.
//!
//! Each lane begins with a checkpoint, as if a broker had stopped after the entry [`SEED`]: the lane's state and its
//! partitions as the new home has them, logs that are empty from the archived end on, this broker as the only voter.
//! Replicas on other brokers are copied from this one, as every new replica is. *Rejected: a command that adopts each
//! partition through Raft*: lanes could then be half restored, with an archiver that takes objects of the rest for
//! garbage, and manifests of gigabytes would pass through the journal.
//!
//! **Crash behaviour.** The shards are made beside those that `node.json` names, as for another number of shards
//! (`reshard`); until `node.json` names them they are made again from nothing. Does not own: `node.json`, the bucket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tidewater_storage::engine::{Engine, EngineConfig, Recovered};
use tidewater_storage::env::Env;
use tidewater_storage::model::{EntryId, LaneId, ShardId, Term, TopicId, TopicName};
use tidewater_tiering::manifest::PublishedPartition;
use tidewater_tiering::restore::{LaneSeed, SEED};

use super::error::StartError;
use super::identity::{DataDir, Identity};
use super::lanes::{Lanes, Seat};
use super::on_executor::on_executor;
use super::status::ShardFailure;
use crate::config::topic::TopicConfig;
use crate::controller::lane::begun_with as controller_begun_with;
use crate::controller::state::{ControllerState, TopicRecord, shard_of};
use crate::partition::state::lane::{RecoveredState, log_settings};
use crate::partition::state::lane_blob::begun_with;
use crate::partition::state::replica::{Birth, Replica};
use crate::raft::sole_voter;

/// The entry that the checkpoints of all lanes are as of.
const AT: EntryId = EntryId { term: Term(0), index: SEED };

/// What a restored cluster begins with.
#[derive(Clone, Debug)]
pub(super) struct ClusterSeed {
    pub(super) state: ControllerState,
    pub(super) lanes: Vec<LaneSeed>,
}

/// Makes the shards of `layout`.
///
/// # Errors
/// The disk refuses, or a shard cannot be made; `node.json` must not name the layout.
pub(super) fn make(
    data: &DataDir,
    identity: &Identity,
    layout: u32,
    seed: ClusterSeed,
    seat: impl Fn(ShardId) -> Seat,
) -> Result<(), StartError> {
    data.remove_other_layouts(identity.layout)?;
    let ClusterSeed { state, lanes } = seed;
    let state = Arc::new(state);
    let mut by_shard: BTreeMap<ShardId, Vec<LaneSeed>> = BTreeMap::new();
    for lane in lanes {
        by_shard.entry(shard_of(lane.archive.lane, identity.shards)).or_default().push(lane);
    }
    let makes = (0..identity.shards).map(ShardId).map(|here| {
        let (seat, dir, state) = (seat(here), data.shard(layout, here.0), Arc::clone(&state));
        let lanes = by_shard.remove(&here).unwrap_or_default();
        let engine = EngineConfig { segments: Some(data.path.clone()), ..EngineConfig::default() };
        on_executor(here, move |env| async move { make_shard(&env, seat, dir, engine, &state, lanes).await })
    });
    // Start all before waiting for the first.
    let makes: Vec<_> = makes.collect();
    makes.into_iter().try_for_each(|made| made?.wait())
}

/// Makes one shard in `dir`, which is empty: the controller's lane with `state` if it runs here, and the lanes of
/// `seeds`, which must all run here.
///
/// # Errors
/// The disk refuses; what was made so far is of no use.
pub async fn make_shard(
    env: &Env,
    seat: Seat,
    dir: PathBuf,
    config: EngineConfig,
    state: &ControllerState,
    seeds: Vec<LaneSeed>,
) -> Result<(), ShardFailure> {
    let failed = |error: &dyn std::error::Error| ShardFailure { shard: seat.here, why: error.to_string() };
    let (engine, recovered) = Engine::open(env.clone(), dir, config).await.map_err(|e| failed(&e))?;
    assert_eq!(recovered, Recovered::default(), "a shard that is made holds nothing");
    let lanes = Rc::new(Lanes::recover(env, &seat, &engine, recovered)?);
    engine.set_source(lanes.source());
    let membership = sole_voter(AT, seat.replica());
    if let Some(controller) = &lanes.controller {
        let blob = controller_begun_with(&membership, state);
        controller.restore(AT, &blob).map_err(|e| failed(&e))?;
        engine.touch_lane(LaneId::CONTROLLER);
    }
    let topics: BTreeMap<TopicId, (&TopicName, &TopicRecord)> =
        state.topics.iter().map(|(name, topic)| (topic.id, (name, topic))).collect();
    let base = state.lineage.as_ref().map_or(0, |lineage| lineage.epoch_base);
    for LaneSeed { archive, partitions } in seeds {
        let lane = archive.lane;
        let (kept, gone): (Vec<_>, Vec<_>) = partitions.into_iter().partition(|published| !published.manifest.dropped);
        let gone = gone.into_iter().map(|published| (published.manifest.id, published.manifest)).collect();
        let replica = |published: PublishedPartition| {
            let id = published.manifest.id;
            let (name, topic) = topics.get(&id.topic).copied()?;
            let overrides = &topic.overrides;
            let settings = log_settings(&TopicConfig::resolve(overrides));
            let log = engine.create_partition(id, lane, AT, settings);
            log.reset(published.manifest.archived_end);
            let birth = Birth { topic: name.clone(), epoch_base: base.max(topic.epoch_base) };
            let copied = topic.copy.as_ref().and_then(|copy| copy.range(id.index));
            let replica = Replica::restored(published, (lane, SEED), birth, overrides.clone(), log);
            Some((replica.copying(copied), SEED))
        };
        let replicas: Option<Vec<_>> = kept.into_iter().map(replica).collect();
        let replicas = replicas.expect("a partition that is not dropped is of a topic that comes back");
        let blob = begun_with(&membership, &archive, &gone);
        lanes.begin(lane, RecoveredState { applied: Some(AT), blob, replicas })?;
        engine.touch_lane(lane);
    }
    engine.checkpoint_until_taken().await.map_err(|e| failed(&e))?;
    engine.close().await;
    Ok(())
}
