//! What stands before the shards: the cluster is entered, the data directory laid out, the bucket opened.

use std::sync::Arc;

use tidewater_storage::engine::EngineConfig;
use tidewater_storage::model::{NodeId, ReplicaIncarnation, ShardId};
use tidewater_tiering::keys::{ClusterId, ClusterName, Home, LineageEpoch};

use super::entry::{enter_cluster, identify};
use crate::admin::StartStage;
use crate::archival::run::{Opening, Tier};
use crate::config::node::NodeConfig;
use crate::limits::{BUCKET_RESTART_PATIENCE, BUCKET_START_PATIENCE};
use crate::net::listen::Bound;
use crate::node::budgets::Budgets;
use crate::node::error::StartError;
use crate::node::identity::{DataDir, Identity, Notes};
use crate::node::lanes::Seat;
use crate::node::preflight;
use crate::node::reshard;
use crate::node::side::Side;

/// See the header. Dropped from the first field to the last.
pub(super) struct Ground {
    pub(super) tier: Tier,
    pub(super) notes: Arc<Notes>,
    pub(super) budgets: Budgets,
    /// The engine settings of each shard.
    pub(super) engine: EngineConfig,
    pub(super) home: Home,
    pub(super) identity: Identity,
    pub(super) config: Arc<NodeConfig>,
    pub(super) stage: StartStage,
    pub(super) side: Side,
    /// Stays locked until all else has ended.
    pub(super) data: DataDir,
}

impl Ground {
    /// Also returns the Kafka socket if its port had to be known to enter the cluster.
    pub(super) fn prepare(
        config: NodeConfig,
        data: DataDir,
        side: Side,
        stage: StartStage,
    ) -> Result<(Self, Option<Bound>), StartError> {
        let identity = identify(&data, &config)?;
        stage.set("the seeds are being asked for the cluster");
        let (identity, held) = enter_cluster(&data, identity, &config, &stage)?;
        stage.set("the data directory is being laid out");
        let home = Home { cluster: ClusterId(identity.cluster), epoch: LineageEpoch(identity.epoch) };
        let budgets = Budgets::of(&config)?;
        let (identity, engine) = lay_out(&data, identity, &config, &budgets, home)?;
        let config = Arc::new(config);
        let notes = Arc::new(Notes::new(&data, identity.clone()));
        // The founders make the bucket's root; one that joined finds it, or waits.
        let has_joined = !identity.is_alone() && identity.founders.is_empty();
        stage.set("the bucket is being opened");
        let tier = open_tier(&config, &notes, identity.rooted || has_joined, home, &side)?;
        Ok((Self { tier, notes, budgets, engine, home, identity, config, stage, side, data }, held))
    }

    /// The place of a shard's lanes.
    pub(super) fn seat(&self, here: ShardId) -> Seat {
        seat(&self.identity, &self.config, self.home, here)
    }

    /// Notes in the data directory how far the start is.
    pub(super) fn note(&self, change: fn(&mut Identity)) {
        if let Err(error) = self.notes.note(change) {
            tracing::warn!(%error, "the data directory could not note how far its start is");
        }
    }
}

fn seat(identity: &Identity, config: &NodeConfig, home: Home, here: ShardId) -> Seat {
    Seat {
        here,
        shards: identity.shards,
        lanes: identity.lanes,
        node: NodeId(identity.node),
        incarnation: ReplicaIncarnation(identity.incarnation),
        home,
        forget_producers_after_ms: config.producer_id_expiration_ms,
    }
}

/// Gives the data directory the number of shards of the settings; returns the identity and the engine settings of each
/// shard. Runs before anything else writes `node.json`.
fn lay_out(
    data: &DataDir,
    identity: Identity,
    config: &NodeConfig,
    budgets: &Budgets,
    home: Home,
) -> Result<(Identity, EngineConfig), StartError> {
    let mut engine = EngineConfig { segments: Some(data.path.clone()), ..EngineConfig::default() };
    let identity = match config.shards.filter(|want| *want != identity.shards) {
        // With its own budget: the start that follows counts the same files again.
        Some(want) => reshard::run(data, &identity, want, &engine, |here| seat(&identity, config, home, here))?,
        None => identity,
    };
    data.remove_other_layouts(identity.layout)?;
    engine.open_files = preflight::segment_files(identity.shards);
    engine.budget = budgets.disk.clone();
    Ok((identity, engine))
}

/// Opens the store and waits a short time for the cluster's root in it. A bucket of another cluster stops the start;
/// one that does not answer does not.
fn open_tier(
    config: &NodeConfig,
    notes: &Arc<Notes>,
    rooted: bool,
    home: Home,
    side: &Side,
) -> Result<Tier, StartError> {
    let bad = |why: String| StartError::Bucket { url: config.bucket.clone(), why };
    let name = ClusterName::new(&config.cluster_name).map_err(|e| bad(e.to_string()))?;
    let notes = Arc::clone(notes);
    let note = move || {
        if let Err(error) = notes.note(|identity| identity.rooted = true) {
            tracing::warn!(%error, "the data directory could not note that its bucket was opened");
        }
    };
    let handle = side.handle();
    let tier = Tier::open(&config.bucket, home, name, rooted, &handle, note).map_err(|e| bad(e.to_string()))?;
    let patience = if rooted { BUCKET_RESTART_PATIENCE } else { BUCKET_START_PATIENCE };
    match handle.block_on(tier.wait_opened(patience)) {
        Opening::Refused(why) => Err(bad(why)),
        Opening::Open(_) | Opening::Waiting(_) => Ok(tier),
    }
}
