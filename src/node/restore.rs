//! `tidewater restore`: the data directory of the first broker of a cluster that is restored from its bucket.
//!
//! Owns: which data directories may be used, the order of the steps outside of the bucket. Does not own: the bucket's
//! part (`tidewater_tiering::restore`), the shards (`seed`), serving.
//!
//! 1. Nothing is changed: root and archive are read; a directory with data, another restore or a damaged archive end
//!    it.
//! 2. `node.json` names the attempt. From here on the same command goes on after a crash.
//! 3. The bucket's part, up to the switch.
//! 4. The shards are made from the new home, and `node.json` says that the broker may start.
//!
//! A directory that is lost after the switch costs nothing: what the broker begins with is in the bucket, and the next
//! restore begins there.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::{
    LaneId, NodeId, Offset, PartitionId, ReplicaIncarnation, ShardId, TimestampMs, TopicId, TopicName,
};
use tidewater_tiering::cuts::CutEntry;
use tidewater_tiering::keys::{ClusterName, Home, Nonce};
use tidewater_tiering::manifest::{Catalogue, CatalogueCopy, Root};
use tidewater_tiering::restore::{
    self, Attempt, LaneSeed, Progress, Report, Restore, RestoreError, epoch_base, first_producer_id,
};
use tidewater_tiering::store::{self, ObjectStore, StoreOptions};
use uuid::Uuid;

use super::cores::default_shards;
use super::error::StartError;
use super::identity::{DataDir, FILE, Identity};
use super::lanes::Seat;
use super::seed::{self, ClusterSeed};
use super::side::Side;
use super::start::address_of;
use crate::config::node::NodeConfig;
use crate::controller::brokers::BrokerAddress;
use crate::controller::command::{Command, Founder};
use crate::controller::copies::TopicCopy;
use crate::controller::features::CLUSTER_MAX;
use crate::controller::lineage::{HOLD_MS, Lineage};
use crate::controller::state::ControllerState;
use crate::limits::LANES_MAX;

/// Lanes read at once.
const LANES_AT_ONCE: usize = 8;

/// Which cut a restore goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutChoice {
    Newest,
    /// The newest that was made then or before.
    At(TimestampMs),
}

impl CutChoice {
    /// The latest time that it may be of.
    fn latest(self) -> Option<TimestampMs> {
        match self {
            Self::Newest => None,
            Self::At(at) => Some(at),
        }
    }
}

/// What the operator asks for.
#[derive(Clone)]
pub struct RestoreOptions {
    /// Take the root from a restore that is under way and never ends.
    pub take_over: bool,
    /// Go back to a cut instead of bringing back all that was archived. A restore that is run again goes back to the
    /// cut that it chose first.
    pub at: Option<CutChoice>,
    /// Go on with what lies before the damage of a damaged archive.
    pub accept_damage: bool,
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl std::fmt::Debug for RestoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { take_over, at, accept_damage, .. } = self;
        write!(f, "RestoreOptions(take over {take_over}, at {at:?}, accept damage {accept_damage})")
    }
}

/// What a restore brings back, or would.
#[derive(Clone, Debug)]
pub struct Restored {
    pub root: Root,
    /// `None`: the switch had been made by an earlier run of the same command.
    pub report: Option<Report>,
}

/// What a restore would bring back now. Changes nothing.
///
/// # Errors
/// There is no such cluster, or what a restore needs cannot be read.
pub fn survey(config: &NodeConfig, options: &RestoreOptions) -> Result<Restored, StartError> {
    let side = Side::start()?;
    let restore = open(config, options, &side)?;
    let surveyed = side.handle().block_on(async {
        let report = match options.at {
            None => restore.survey().await?,
            Some(at) => restore.survey_cut(restore.cut_at(at.latest()).await?.number).await?,
        };
        Ok::<_, RestoreError>(Restored { root: restore.root().await?, report: Some(report) })
    });
    side.stop();
    Ok(surveyed?)
}

/// Restores the cluster into the data directory of `config`, for a broker that is started there afterwards.
///
/// # Errors
/// Why not; what was done is gone on with by the next call.
pub fn restore(config: &NodeConfig, options: &RestoreOptions) -> Result<Restored, StartError> {
    let side = Side::start()?;
    let restored = open(config, options, &side).and_then(|restore| run(config, options, &side, &restore));
    side.stop();
    restored
}

/// The cuts in a bucket that a restore could go back to now.
///
/// # Errors
/// There is no such cluster, or the bucket does not answer.
pub fn cuts(url: &str, name: &str) -> Result<Vec<CutEntry>, StartError> {
    let side = Side::start()?;
    let options = RestoreOptions { take_over: false, at: None, accept_damage: false, progress: Arc::new(|_| {}) };
    let restore = open_at(url, name, &options, &side)?;
    let found = side.handle().block_on(restore.cuts());
    side.stop();
    Ok(found?.cuts)
}

fn open(config: &NodeConfig, options: &RestoreOptions, side: &Side) -> Result<Restore, StartError> {
    open_at(&config.bucket, &config.cluster_name, options, side)
}

fn open_at(url: &str, name: &str, options: &RestoreOptions, side: &Side) -> Result<Restore, StartError> {
    let bad = |why: String| StartError::Bucket { url: url.to_owned(), why };
    let store = store::open(url, side.handle(), &StoreOptions::default()).map_err(|e| bad(e.to_string()))?;
    Ok(Restore {
        store,
        name: ClusterName::new(name).map_err(|e| bad(e.to_string()))?,
        accept_damage: options.accept_damage,
        now: wall(),
        nonce: Arc::new(|| Nonce(Uuid::new_v4().as_u64_pair().0)),
        progress: Arc::clone(&options.progress),
    })
}

fn run(config: &NodeConfig, options: &RestoreOptions, side: &Side, restore: &Restore) -> Result<Restored, StartError> {
    let held = config.data_dir.join(FILE).exists().then(|| DataDir::lock(&config.data_dir)).transpose()?;
    let (data, identity) = match held {
        Some(data) => {
            let identity = data.identity()?.filter(|identity| identity.restoring.is_some());
            let identity = identity.ok_or_else(|| not_empty(&data, config))?;
            (data, identity)
        }
        None => {
            let attempt = side.handle().block_on(judge(restore, options))?;
            let data = DataDir::lock(&config.data_dir)?;
            let shards = config.shards.unwrap_or_else(|| default_shards(cores()));
            data.make_first(shards)?;
            let identity = Identity::restoring(attempt, Uuid::new_v4(), &config.cluster_name, shards);
            data.write(&identity)?;
            (data, identity)
        }
    };
    let attempt = identity.restoring.ok_or_else(|| not_empty(&data, config))?;
    if options.at.is_some() && attempt.cut.is_none() {
        let why = "the restore that began with it brings back all that was archived, not a cut: run it again without --at, \
                   or give an empty directory and --take-over";
        return Err(StartError::DataDir { path: data.path.clone(), why: why.to_owned() });
    }
    let (report, catalogue, lanes) = side.handle().block_on(async {
        let report = restore.run(&attempt).await?;
        let (catalogue, lanes) = read_home(&restore.store, attempt.home()).await?;
        Ok::<_, RestoreError>((report, catalogue, lanes))
    })?;
    finish(&data, identity, config, &attempt, (&catalogue, lanes))?;
    let root = side.handle().block_on(restore.root())?;
    Ok(Restored { root, report })
}

/// Everything that can refuse a restore, before anything is changed.
async fn judge(restore: &Restore, options: &RestoreOptions) -> Result<Attempt, RestoreError> {
    let root = restore.root().await?;
    let attempt = restore::begin(&root, Uuid::new_v4(), options.take_over)?;
    let (report, cut) = match options.at {
        None => (restore.survey().await?, None),
        Some(at) => {
            let cut = restore.cut_at(at.latest()).await?.number;
            (restore.survey_cut(cut).await?, Some(cut))
        }
    };
    if report.damaged && !options.accept_damage {
        return Err(RestoreError::Damaged(report.damage()));
    }
    Ok(Attempt { cut, ..attempt })
}

fn not_empty(data: &DataDir, config: &NodeConfig) -> StartError {
    let what = match data.identity() {
        Ok(Some(identity)) if identity.is_member() => {
            let Identity { node, cluster, epoch, .. } = identity;
            format!(
                "it holds broker {node} of cluster {cluster}, epoch {epoch}; if that is the cluster to go on with, start it \
                 with tidewater serve --data-dir {}",
                config.data_dir.display()
            )
        }
        _ => "it is in use".to_owned(),
    };
    let why = format!("a restore needs an empty directory, and {what}; nothing was changed");
    StartError::DataDir { path: data.path.clone(), why }
}

fn cores() -> u16 {
    std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX))
}

async fn read_home(store: &Arc<dyn ObjectStore>, home: Home) -> Result<(Catalogue, Vec<LaneSeed>), RestoreError> {
    let catalogue = restore::read_catalogue(&**store, home).await?;
    let catalogue = catalogue.ok_or_else(|| RestoreError::Unreadable {
        key: home.name(tidewater_tiering::keys::ObjectKind::Catalogue).key(),
        reason: "it does not exist, though the root names it".to_owned(),
    })?;
    let reads = stream::iter(catalogue.lanes.clone()).map(|lane| restore::read_lane(store, home, lane));
    let lanes = reads.buffered(LANES_AT_ONCE).try_collect().await?;
    Ok((catalogue, lanes))
}

/// Makes the shards, then lets the broker start.
fn finish(
    data: &DataDir,
    identity: Identity,
    config: &NodeConfig,
    attempt: &Attempt,
    (catalogue, lanes): (&Catalogue, Vec<LaneSeed>),
) -> Result<(), StartError> {
    let last = catalogue.lanes.iter().map(|lane| lane.0).max().unwrap_or(0);
    let lane_count = last.max(identity.shards.into());
    if lane_count > LANES_MAX {
        let why = format!("its cluster has lane {last}, and this version carries {LANES_MAX} lanes");
        return Err(StartError::Bucket { url: config.bucket.clone(), why });
    }
    let address = address_of(config, config.kafka_addr, config.rpc_addr, identity.shards);
    let state = begun(&identity, attempt, catalogue, &lanes, (lane_count, address), wall());
    let (shards, node, home) = (identity.shards, NodeId(identity.node), attempt.home());
    let incarnation = ReplicaIncarnation(identity.incarnation);
    let forget_producers_after_ms = config.producer_id_expiration_ms;
    let seat =
        |here: ShardId| Seat { here, shards, lanes: lane_count, node, incarnation, home, forget_producers_after_ms };
    let layout = identity.layout.saturating_add(1);
    seed::make(data, &identity, layout, ClusterSeed { state, lanes }, seat)?;
    data.write(&identity.restored(layout, lane_count))
}

/// What the controller of the restored cluster begins with. Pure.
#[must_use]
pub fn begun(
    identity: &Identity,
    attempt: &Attempt,
    catalogue: &Catalogue,
    lanes: &[LaneSeed],
    (lane_count, address): (u32, BrokerAddress),
    now: TimestampMs,
) -> ControllerState {
    let node = NodeId(identity.node);
    let mut state = ControllerState::default();
    let founder = Founder { node, birth: identity.birth, address };
    let (cluster, level) = (identity.cluster, CLUSTER_MAX);
    state.apply(Command::Genesis { cluster, founders: vec![founder], voters: Vec::new(), level });
    // Replicas of before, whose brokers may still run, have lower incarnations.
    let broker = state.brokers.get_mut(&node).expect("it was founded");
    broker.incarnation = ReplicaIncarnation(identity.incarnation);
    state.lanes.next_incarnation = identity.incarnation + 1;
    state.apply(Command::AdoptLanes { count: lane_count });

    let partitions = lanes.iter().flat_map(|lane| &lane.partitions).map(|published| &published.manifest);
    let found: BTreeMap<PartitionId, Offset> =
        partitions.map(|manifest| (manifest.id, manifest.archived_end)).collect();
    let mut ends: BTreeMap<TopicId, Vec<Offset>> = BTreeMap::new();
    for topic in &catalogue.topics {
        let ids = topic.partition_ids();
        ends.insert(topic.id, ids.map(|id| found.get(&id).copied().unwrap_or(Offset::ZERO)).collect());
        let lanes = topic.partitions.iter().map(|partition| partition.lane).collect();
        // Greater than that of the epoch only where the topic was a copy from a later lineage.
        let base = topic.partitions.iter().map(|partition| partition.epoch_base.0).max().unwrap_or(0);
        let base = if base > epoch_base(attempt.epoch).0 { base } else { 0 };
        create(&mut state, (&topic.name, topic.id), lanes, &topic.configs, base, topic.copy.as_deref());
    }
    for (n, topic) in catalogue.unarchived.iter().flat_map(|known| &known.topics).enumerate() {
        let lane = |index: usize| LaneId(u32::try_from(n + index).unwrap_or_default() % lane_count + 1);
        let lanes: Vec<LaneId> = (0..topic.partitions as usize).map(lane).collect();
        ends.insert(topic.id, vec![Offset::ZERO; lanes.len()]);
        create(&mut state, (&topic.name, topic.id), lanes, &topic.configs, 0, topic.copy.as_deref());
    }
    state.next_producer_id = first_producer_id(attempt.epoch);
    state.lineage = Some(Arc::new(Lineage {
        epoch: attempt.epoch.0,
        source: attempt.source.epoch.0,
        restored: now,
        hold_until: Some(TimestampMs(now.0.saturating_add(HOLD_MS))),
        epoch_base: epoch_base(attempt.epoch).0,
        ends,
    }));
    state
}

fn create(
    state: &mut ControllerState,
    (name, id): (&TopicName, TopicId),
    lanes: Vec<LaneId>,
    configs: &BTreeMap<String, String>,
    epoch_base: i32,
    copy: Option<&CatalogueCopy>,
) {
    let (name, overrides, copy) = (name.clone(), configs.clone(), copy.map(TopicCopy::resumed).map(Box::new));
    state.apply(Command::CreateTopic { name, id, lanes, overrides, epoch_base, copy });
}
