//! What goes wrong in a cluster, as the plan has it. Each fault begins at its time and ends by itself; what has not
//! ended when the run calms down is ended then.

use std::rc::Rc;
use std::time::Duration;

use tidewater_storage::env::net_sim::NetFaults;
use tidewater_tiering::store::Faults;

use super::plan::{Event, Ways, What};
use super::world::Cluster;

/// How long a broker that is to be lost waits for the members of all lanes.
const MEMBERS_MS: u64 = 8_000;

/// Disturbs the world as planned. When it returns every broker is started and everything behaves.
pub(crate) async fn disturb(cluster: &Rc<Cluster>) {
    let begun = cluster.now_ms();
    for event in cluster.plan.events.clone() {
        cluster.sleep_ms((begun + event.at_ms).saturating_sub(cluster.now_ms())).await;
        cluster.note(format!("{} {:?}", event.name, event.what));
        let this = Rc::clone(cluster);
        drop(cluster.clients.tasks.spawn("fault", async move { happen(&this, event).await }));
    }
    cluster.sleep_ms((begun + cluster.plan.rough_ms).saturating_sub(cluster.now_ms())).await;
    calm(cluster);
}

/// Ends every fault.
pub(crate) fn calm(cluster: &Rc<Cluster>) {
    cluster.note("calm".to_owned());
    cluster.net.mend();
    cluster.net.set_faults(NetFaults::default());
    cluster.bucket.set_faults(Faults { latency_max: Duration::from_millis(5), ..Faults::default() });
    cluster.no_end_at_vote();
    for node in cluster.plan.all_nodes() {
        cluster.bucket.set_faults_for(node, None);
        cluster.machines.continue_node(node);
        let disk = cluster.machines.disk_of(node);
        disk.clear_faults();
        disk.set_capacity(u64::MAX);
        disk.set_slowness(1);
        cluster.slot(node).known.lags_until_ms.set(0);
        cluster.start(node);
    }
}

async fn happen(cluster: &Rc<Cluster>, event: Event) {
    match event.what {
        What::End { whom, power_cut, down_ms } => {
            let Some(node) = cluster.resolve(whom) else { return };
            cluster.end(node, power_cut);
            cluster.sleep_ms(down_ms).await;
            cluster.start(node);
        }
        What::EndAll { down_ms } => {
            cluster.plan.all_nodes().for_each(|node| cluster.end(node, true));
            cluster.sleep_ms(down_ms).await;
            cluster.plan.all_nodes().for_each(|node| cluster.start(node));
        }
        What::EndAtVote { node, down_ms } => cluster.end_at_vote(node, down_ms),
        What::Stop { whom, ms } => {
            let Some(node) = cluster.resolve(whom) else { return };
            cluster.note(format!("node {node} stops"));
            cluster.machines.stop_node(node);
            cluster.sleep_ms(ms).await;
            cluster.machines.continue_node(node);
        }
        What::Isolate { whom, ways, ms } => {
            let Some(node) = cluster.resolve(whom) else { return };
            cluster.note(format!("node {node} is cut off, {ways:?}"));
            isolate(cluster, node, ways, true);
            cluster.sleep_ms(ms).await;
            isolate(cluster, node, ways, false);
        }
        What::Cut { from, to, ms } => {
            cluster.net.cut(from, to, true);
            cluster.sleep_ms(ms).await;
            cluster.net.cut(from, to, false);
        }
        What::Net { faults, ms } => {
            cluster.net.set_faults(faults);
            cluster.sleep_ms(ms).await;
            cluster.net.set_faults(NetFaults::default());
        }
        What::Drift { node, ppm } => cluster.machines.set_drift(node, ppm),
        What::Clock { node, ms } => cluster.machines.step_wall_of(node, ms),
        What::Bucket { node, faults, ms } => {
            match node {
                Some(node) => cluster.bucket.set_faults_for(node, Some(faults)),
                None => cluster.bucket.set_faults(faults),
            }
            cluster.sleep_ms(ms).await;
            match node {
                Some(node) => cluster.bucket.set_faults_for(node, None),
                None => cluster.bucket.set_faults(Faults::default()),
            }
        }
        What::Lag { node, ms } => cluster.slot(node).known.lags_until_ms.set(cluster.now_ms() + ms),
        What::Full { node, left, ms } => {
            cluster.disk_may_fail(node);
            let disk = cluster.machines.disk_of(node);
            disk.set_capacity(disk.used() + left);
            cluster.sleep_ms(ms).await;
            disk.set_capacity(u64::MAX);
        }
        What::Slow { node, times, ms } => {
            let disk = cluster.machines.disk_of(node);
            disk.set_slowness(times);
            cluster.sleep_ms(ms).await;
            disk.set_slowness(1);
        }
        What::Wipe { node, down_ms } => {
            cluster.end(node, true);
            cluster.machines.wipe_node(node);
            cluster.sleep_ms(down_ms).await;
            cluster.start(node);
        }
        What::Replace { node, down_ms } => {
            if !members_settle(cluster).await {
                return cluster.note(format!("node {node} is not replaced: a lane lacks a member"));
            }
            cluster.replace(node);
            cluster.sleep_ms(down_ms).await;
            cluster.start(node);
        }
        What::LoseLeader { lane, within_ms, down_ms } => {
            let (lost, ..) = cluster.leader(lane).expect("nothing else goes wrong");
            cluster.end(lost, false);
            let begun = cluster.now_ms();
            while cluster.leader(lane).is_none() {
                assert!(cluster.now_ms() < begun + within_ms, "lane {lane} has no leader after {within_ms} ms");
                cluster.sleep_ms(5).await;
            }
            cluster.note(format!("lane {lane} has another leader after {} ms", cluster.now_ms() - begun));
            cluster.sleep_ms(down_ms).await;
            cluster.start(lost);
        }
        What::Transfer { lane, to } => {
            let Some((node, _, broker)) = cluster.leader(lane) else { return };
            let raft = broker.partitions.lane(lane).and_then(|lane| lane.status.raft().cloned());
            if let Some(raft) = raft.filter(|_| node != to) {
                let asked = raft.transfer_leadership(cluster.replica(to));
                let _ = crate::world::within(&cluster.clients, Duration::from_secs(5), asked).await;
            }
        }
    }
}

/// Waits until every lane has the members of the table and none is being rebuilt: then any one disk may be lost. False
/// if that takes long.
async fn members_settle(cluster: &Cluster) -> bool {
    let until = cluster.now_ms() + MEMBERS_MS;
    while !super::run::members_are_wanted(cluster) || !is_whole(cluster) {
        if cluster.now_ms() > until {
            return false;
        }
        cluster.sleep_ms(50).await;
    }
    true
}

/// Does every broker have the state of every lane? One that is being rebuilt has dropped it.
fn is_whole(cluster: &Cluster) -> bool {
    let serving = cluster.serving();
    let lane_is_whole = |lane| {
        serving.iter().all(|(_, broker)| {
            let raft = broker.partitions.lane(lane).and_then(|lane| lane.status.raft().cloned());
            raft.is_some_and(|raft| raft.needs_rebuild().is_empty())
        })
    };
    serving.len() == cluster.plan.all_nodes().count() && cluster.plan.all_lanes().all(lane_is_whole)
}

fn isolate(cluster: &Cluster, node: u32, ways: Ways, cut: bool) {
    for other in cluster.plan.all_nodes().filter(|other| *other != node) {
        if matches!(ways, Ways::In | Ways::Both) {
            cluster.net.cut(other, node, cut);
        }
        if matches!(ways, Ways::Out | Ways::Both) {
            cluster.net.cut(node, other, cut);
        }
    }
}
