//! Consumers that commit offsets at whichever broker coordinates their group: what was acknowledged holds over every
//! change of the leader.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidewater::controller::client::ControllerHandle;
use tidewater::group::message::{Commit, CommitAsk};
use tidewater::group::{Coordinator, GroupId, GroupRouter, GroupSettings, OFFSETS_TOPIC};
use tidewater::partition::message::PartitionRequest;
use tidewater::partition::router::Router;
use tidewater::partition::shard::{Local, PartitionShard};
use tidewater::shard::mesh::Mesh;
use tidewater_storage::env::Env;
use tidewater_storage::model::{Offset, ShardId};

use super::world::Cluster;
use crate::world::within;

const TOPIC: &str = "orders";
/// Partitions of `__consumer_offsets`: a group or none on each.
const OFFSETS_PARTITIONS: i32 = 2;
/// How long a consumer waits for an answer before it asks another broker. A coordinator may wait three seconds for the
/// controller, which here does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The coordinator of a broker's shard, as `node::shard_main` composes it.
pub(crate) fn coordinate(
    env: &Env,
    here: ShardId,
    partitions: &Rc<PartitionShard>,
    mesh: &Mesh<PartitionRequest>,
    controller: &ControllerHandle,
) -> GroupRouter {
    let router = Router::new(here, Rc::new(Local(Rc::clone(partitions))), mesh.clone());
    let settings = GroupSettings { initial_rebalance_delay_ms: 0, ..GroupSettings::default() };
    let hosting = Rc::clone(partitions) as _;
    let coordinator = Coordinator::new(env.clone(), router, controller.clone(), hosting, settings);
    let (groups, mut inboxes) = Mesh::new(1, 256);
    coordinator.serve(inboxes.remove(0));
    GroupRouter::new(here, coordinator, groups, controller.clone())
}

/// Makes `__consumer_offsets`.
pub(crate) fn make_topic(cluster: &Rc<Cluster>) {
    cluster.images.create(cluster, OFFSETS_TOPIC, OFFSETS_PARTITIONS, 0, BTreeMap::new());
}

/// A group that commits one number higher each time, to all partitions of the topic.
#[derive(Clone)]
pub(crate) struct Group {
    cluster: Rc<Cluster>,
    name: &'static str,
    guess: Rc<Cell<u32>>,
    acknowledged: Rc<Cell<u64>>,
    tried: Rc<Cell<u64>>,
    looks: Rc<Cell<u64>>,
}

impl Group {
    pub(crate) fn new(cluster: &Rc<Cluster>, name: &'static str) -> Self {
        let (acknowledged, tried, looks) = (Rc::default(), Rc::default(), Rc::default());
        Self { cluster: Rc::clone(cluster), name, guess: Rc::new(Cell::new(1)), acknowledged, tried, looks }
    }

    fn env(&self) -> &Env {
        &self.cluster.clients
    }

    /// The coordinator that is asked next.
    fn coordinator(&self) -> Option<GroupRouter> {
        Some(self.cluster.broker(self.guess.get())?.groups.clone())
    }

    fn look_elsewhere(&self) {
        let any = self.env().rng.below(u64::from(self.cluster.plan.nodes));
        self.guess.set(1 + u32::try_from(any).expect("small"));
    }

    /// Commits, and sometimes reads, until stopped.
    pub(crate) async fn commit(self, stop: Rc<Cell<bool>>) {
        while !stop.get() {
            self.env().tasks.sleep(Duration::from_millis(1 + self.env().rng.below(200))).await;
            let done = if self.env().rng.below(3) == 0 { self.look().await } else { self.commit_once().await };
            if !done {
                self.look_elsewhere();
            }
        }
    }

    async fn commit_once(&self) -> bool {
        let Some(groups) = self.coordinator() else { return false };
        self.tried.set(self.tried.get() + 1);
        let at = self.tried.get();
        let one = |partition| (Arc::from(TOPIC), partition, Commit::new(Offset::new(at), None, self.name));
        let offsets = (0..self.cluster.plan.partitions).map(one).collect();
        let ask = CommitAsk { member: None, instance: None, generation: -1, retention_ms: None, offsets };
        let answer = within(self.env(), PATIENCE, groups.commit(GroupId::from(self.name), ask)).await;
        let stored = matches!(answer, Some(Ok(answers)) if answers.iter().all(Result::is_ok));
        if stored {
            self.acknowledged.set(self.acknowledged.get().max(at));
        }
        stored
    }

    /// Reads the committed offsets; false without an answer. None is older than the last acknowledged or newer than the
    /// last tried.
    async fn look(&self) -> bool {
        let Some(groups) = self.coordinator() else { return false };
        let least = self.acknowledged.get();
        let wanted = vec![(TOPIC.to_owned(), (0..self.cluster.plan.partitions).collect())];
        let answer = within(self.env(), PATIENCE, groups.fetch(GroupId::from(self.name), Some(wanted))).await;
        let Some(Ok(found)) = answer else { return false };
        let (node, tried) = (self.guess.get(), self.tried.get());
        for offset in found {
            let at = offset.commit.map_or(0, |commit| u64::try_from(commit.offset.0).expect("an offset"));
            assert!(
                (least..=tried).contains(&at),
                "group {}: node {node} has {at} for partition {}, {least} was acknowledged and {tried} tried",
                self.name,
                offset.partition,
            );
        }
        self.looks.set(self.looks.get() + 1);
        true
    }

    /// In the end the commits are there.
    pub(crate) async fn check(&self) {
        for _ in 0..600 {
            if self.look().await {
                let (stored, tried, looks) = (self.acknowledged.get(), self.tried.get(), self.looks.get());
                return self.cluster.note(format!("group {}: {stored} of {tried}, read {looks} times", self.name));
            }
            self.look_elsewhere();
            self.cluster.sleep_ms(100).await;
        }
        panic!("group {}: its offsets cannot be read", self.name);
    }
}
