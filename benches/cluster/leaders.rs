//! Who leads what: partitions by their leaders, the controller, and how often lanes elected.

use std::collections::BTreeMap;

use crate::BROKERS;
use crate::support::cluster::Cluster;

/// Partitions of a topic, by the broker (from 0) that leads them. Those without a leader are left out.
pub fn by_leader(cluster: &Cluster, topic: &str) -> BTreeMap<usize, Vec<i32>> {
    let rows = cluster.get(&format!("/v1/cluster/partitions?topic={topic}"));
    let rows = rows.unwrap_or_else(|| panic!("no broker says who leads {topic}\n{}", cluster.logs()));
    let mut by_leader: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
    for row in rows.as_array().expect("a list of partitions") {
        let leader = row["leader"].as_u64().and_then(|id| usize::try_from(id).ok()?.checked_sub(1));
        let partition = row["partition"].as_i64().and_then(|n| i32::try_from(n).ok()).expect("a partition's number");
        if let Some(leader) = leader {
            by_leader.entry(leader).or_default().push(partition);
        }
    }
    by_leader
}

/// Partitions of a topic that other brokers than `n` lead.
pub fn led_by_others(cluster: &Cluster, topic: &str, n: usize) -> Vec<i32> {
    let others = by_leader(cluster, topic).into_iter().filter(|(leader, _)| *leader != n);
    let partitions: Vec<i32> = others.flat_map(|(_, partitions)| partitions).collect();
    assert!(!partitions.is_empty(), "broker {} leads all of {topic}", n + 1);
    partitions
}

/// Kafka addresses of all brokers but `n`.
pub fn bootstrap_without(cluster: &Cluster, n: usize) -> String {
    let others = (0..BROKERS).filter(|other| *other != n).map(|other| cluster.broker(other).kafka.clone());
    others.collect::<Vec<_>>().join(",")
}

/// The last broker (from 0) that does not lead the controller's lane.
pub fn not_controller(cluster: &Cluster) -> usize {
    let rows = cluster.get("/v1/cluster/brokers").expect("a broker answers");
    let is_controller = |n: &usize| {
        let row = rows.as_array().into_iter().flatten().find(|row| row["id"] == *n + 1);
        row.unwrap_or_else(|| panic!("broker {} is missing: {rows:#}", n + 1))["controller"] == true
    };
    (0..BROKERS).rev().find(|n| !is_controller(n)).expect("two brokers are not the controller")
}

/// Elections between two answers of [`Cluster::terms`].
pub fn elections(before: &BTreeMap<u64, u64>, after: &BTreeMap<u64, u64>) -> u64 {
    after.iter().map(|(lane, term)| term.saturating_sub(before.get(lane).copied().unwrap_or(*term))).sum()
}
