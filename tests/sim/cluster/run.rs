//! One run of a cluster: start, work under faults, calm down, and look at everything.

use std::rc::Rc;

use tidewater_storage::model::Offset;

use super::clients::{self, Clients};
use super::groups::{self, Group};
use super::plan::ClusterPlan;
use super::world::{Cluster, Spot};
use super::{controllers, faults, invariants};

/// Virtual time in which everything must have caught up once nothing goes wrong any more.
const CALM_MS: u64 = 120_000;
/// The topic that lasts.
const TOPIC: &str = "orders";

/// Runs a plan; gives its trace.
pub(crate) fn run(plan: ClusterPlan, trace: bool) -> Vec<String> {
    let cluster = Cluster::new(plan);
    cluster.history.print(trace);
    cluster.machines.block_on(whole(&cluster));
    let notes = cluster.history.trace();
    cluster.dissolve();
    notes
}

async fn whole(cluster: &Rc<Cluster>) {
    cluster.watch_over();
    cluster.plan.all_nodes().for_each(|node| cluster.start(node));
    make_topic(cluster);
    let consumers = consumers(cluster);
    let clients = Clients::start(cluster);
    clients.commit(cluster, &consumers);
    invariants::watch(cluster);
    faults::disturb(cluster).await;
    settle(cluster, &clients).await;
    everything_read(cluster).await;
    at_rest(cluster).await;
    forget_local(cluster);
    everything_read(cluster).await;
    for node in cluster.plan.all_nodes() {
        cluster.end(node, true);
        cluster.start(node);
    }
    settle(cluster, &clients).await;
    everything_read(cluster).await;
    at_rest(cluster).await;
    for group in &consumers {
        group.check().await;
    }
    for partition in cluster.history.partitions() {
        let summary = cluster.history.with(partition, |past| past.summary());
        cluster.note(format!("p{partition}: {summary}"));
    }
    let (terms, sent) = (cluster.record.leaders.borrow().len(), cluster.net.sent());
    cluster.note(format!("{terms} terms led, {sent} messages"));
}

/// Looks at a moment when no replica lags: archivers go on also while clients read.
async fn at_rest(cluster: &Cluster) {
    wait_for(cluster, "replicas have applied the same", level).await;
    invariants::at_rest(cluster);
    if cluster.plan.controllers {
        wait_for(cluster, "controllers have applied the same", controllers::level).await;
        cluster.decisions.at_rest(cluster);
    }
}

/// Groups, and the topic of their offsets.
fn consumers(cluster: &Rc<Cluster>) -> Vec<Group> {
    if !cluster.plan.has("groups") {
        return Vec::new();
    }
    groups::make_topic(cluster);
    ["early", "bird"].map(|name| Group::new(cluster, name)).to_vec()
}

fn make_topic(cluster: &Rc<Cluster>) {
    let overrides = crate::world::overrides(&cluster.clients);
    let topic = cluster.images.create(cluster, TOPIC, cluster.plan.partitions, 0, overrides);
    for partition in &topic.partitions {
        let number = partition.id.index.0;
        if topic.config.retention_bytes.is_some() {
            cluster.history.with(number, |past| past.trim_asked = Offset::MAX);
        }
        cluster.add_spot(Spot { number, address: partition.address() });
    }
}

/// Clients finish, replicas and archive catch up.
async fn settle(cluster: &Rc<Cluster>, clients: &Clients) {
    clients.stop();
    wait_for(cluster, "all brokers serve", |c| c.serving().len() == c.plan.nodes as usize).await;
    if cluster.plan.keepers {
        wait_for(cluster, "every lane has the members that it shall have", members_are_wanted).await;
    }
    wait_for(cluster, "every lane has a leader", |c| c.plan.all_lanes().all(|lane| c.leader(lane).is_some())).await;
    wait_for(cluster, &format!("clients have their answers: {:?}", clients.running()), |_| {
        clients.running().is_empty()
    })
    .await;
    if cluster.plan.has("archive") {
        wait_for(cluster, "all is archived", archived).await;
    }
}

async fn wait_for(cluster: &Cluster, what: &str, done: impl Fn(&Cluster) -> bool) {
    let until = cluster.now_ms() + CALM_MS;
    while !done(cluster) {
        assert!(cluster.now_ms() < until, "never: {what};\n{}", state(cluster));
        cluster.sleep_ms(50).await;
    }
    cluster.note(what.to_owned());
}

/// The leader of every lane has committed the replicas of the brokers' present disks as its voters, and nothing else.
pub(crate) fn members_are_wanted(cluster: &Cluster) -> bool {
    let mut wanted: Vec<_> = cluster.plan.all_nodes().map(|node| cluster.images.replica(node)).collect();
    wanted.sort_unstable();
    cluster.plan.all_lanes().all(|lane| {
        let Some((_, _, broker)) = cluster.leader(lane) else { return false };
        let Some(raft) = broker.partitions.lane(lane).and_then(|lane| lane.status.raft().cloned()) else {
            return false;
        };
        let held = raft.membership();
        held.voters == wanted && held.learners.is_empty() && held.committed && !held.joint
    })
}

/// Every replica of a lane has applied the same.
fn level(cluster: &Cluster) -> bool {
    cluster.plan.all_lanes().all(|lane| {
        let applied = |(_, broker): (u32, Rc<super::broker::Broker>)| broker.partitions.lane(lane)?.status.applied();
        let mut all = cluster.serving().into_iter().map(applied);
        let first = all.next().flatten();
        first.is_some() && all.all(|other| other == first)
    })
}

fn archived(cluster: &Cluster) -> bool {
    cluster.spots().iter().all(|spot| {
        let Some((_, _, broker)) = cluster.leader(spot.address.lane) else { return false };
        let Some(replica) = broker.partitions.replica(spot.address.id) else { return false };
        replica.manifest().archived_end == replica.high_watermark()
    })
}

fn state(cluster: &Cluster) -> String {
    let mut lines = Vec::new();
    for (node, broker) in cluster.serving() {
        for lane in broker.partitions.lanes() {
            let Some(raft) = lane.status.raft() else {
                lines.push(format!("node {node}: {lane:?} {:?} has no Raft group", lane.status));
                continue;
            };
            let (leadership, needs, progress) = (raft.leadership(), raft.needs_rebuild(), raft.progress());
            let stopped = lane.archive().stopped.clone();
            lines.push(format!("node {node}: {lane:?} {:?} {leadership:?} {stopped:?}", lane.status));
            lines.push(format!("    to be rebuilt {needs:?}, progress {progress:?}, {:?}", broker.engine.usage()));
        }
    }
    for spot in cluster.spots() {
        let status =
            cluster.leader(spot.address.lane).map(|(_, _, broker)| broker.partitions.describe(spot.address.id));
        lines.push(format!("p{} {}: {status:?}", spot.number, spot.address.id));
    }
    lines.join("\n")
}

/// Lets every local byte go that may go, on every broker.
fn forget_local(cluster: &Cluster) {
    for (_, broker) in cluster.serving() {
        for replica in broker.partitions.lanes().iter().flat_map(|lane| lane.replicas()) {
            let archived = replica.manifest().archived_end;
            replica.log.trim(archived);
            broker.engine.touch_partition(replica.id);
        }
    }
}

/// Reads every partition from its start to its end, at its leader.
async fn everything_read(cluster: &Rc<Cluster>) {
    for spot in cluster.spots() {
        let (mut from, mut tries) = (None, 0);
        loop {
            let led = cluster.leader(spot.address.lane);
            let bounds = led.and_then(|(node, _, broker)| {
                let replica = broker.partitions.replica(spot.address.id)?;
                Some((node, replica.log_start(), replica.high_watermark()))
            });
            if let Some((node, start, end)) = bounds {
                let at = from.unwrap_or(start).max(start);
                if at >= end {
                    break;
                }
                let max_bytes = 1 + usize::try_from(cluster.clients.rng.below(100_000)).expect("small");
                if let Some(next) = clients::read(cluster, node, &spot, at, max_bytes).await.filter(|next| *next > at) {
                    from = Some(next);
                    continue;
                }
            }
            tries += 1;
            assert!(tries < 100, "p{}: cannot read at {from:?};\n{}", spot.number, state(cluster));
            cluster.sleep_ms(100).await;
        }
    }
}
