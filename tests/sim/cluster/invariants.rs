//! What must hold in a cluster, one file each.
//!
//! | property | file | when |
//! | --- | --- | --- |
//! | a term of a lane has one leader | `election_safety` | when a replica leads |
//! | replicas apply the same entry at an index | `log_matching` | at every entry |
//! | blobs of lane and partitions are equal at equal applied | `replicas_equal` | every few entries, end |
//! | a replica votes once in a term, and keeps its vote | `vote_once` | at every vote, always |
//! | end, log start, archived end, leader epoch never move back | `forward_only` | always |
//! | what the newest leader names is in the bucket | `named_objects` | always, end |
//! | a read by lease shows all that was acknowledged before it | `clients::read` | at every read |
//! | lane 0: equal at equal applied; answers hold; no producer id twice | `controllers` | always, end |
//! | acknowledged once, in order, at its offset; nothing invented; no holes | those of one broker | end |

pub(crate) mod election_safety;
pub(crate) mod forward_only;
pub(crate) mod log_matching;
pub(crate) mod named_objects;
pub(crate) mod replicas_equal;
pub(crate) mod vote_once;

use std::rc::Rc;
use std::time::Duration;

use tidewater_storage::model::Term;

use super::world::Cluster;

/// Looks at the newest leader of each lane until the run ends.
pub(crate) fn watch(cluster: &Rc<Cluster>) {
    let (env, cluster) = (cluster.clients.clone(), Rc::downgrade(cluster));
    let watcher = env.clone();
    drop(env.tasks.spawn("watch", async move {
        loop {
            watcher.tasks.sleep(Duration::from_millis(20 + watcher.rng.below(200))).await;
            let Some(cluster) = cluster.upgrade() else { return };
            look(&cluster, watcher.rng.below(8) == 0);
            cluster.decisions.look(&cluster);
        }
    }));
}

/// What the newest leaders show now.
pub(crate) fn look(cluster: &Cluster, objects: bool) {
    for (node, broker) in cluster.serving().into_iter().filter(|(node, _)| !cluster.machines.is_stopped(*node)) {
        for lane in broker.partitions.lanes() {
            // A new life has seen no term before its group runs.
            let term = lane.status.raft().map(|raft| raft.leadership().term).filter(|term| *term > Term(0));
            if let Some(term) = term {
                vote_once::check_kept(&cluster.record, lane.id, cluster.replica(node), term, cluster.now_ms());
            }
        }
    }
    for lane in cluster.plan.all_lanes() {
        let Some((_, term, broker)) = cluster.leader(lane) else { continue };
        // An older leader may still believe in itself while the newest one is dead.
        if cluster.record.leaders.borrow().range((lane, term)..).any(|((of, later), _)| *of == lane && *later > term) {
            continue;
        }
        let Some(lane) = broker.partitions.lane(lane) else { continue };
        for spot in cluster.spots() {
            if let Some(replica) = lane.replica(spot.address.id) {
                forward_only::check(cluster, &spot, &replica, term);
                crate::invariants::archive_behind_log::check(&replica);
            }
        }
        crate::invariants::archive_behind_log::check_lane_now(&lane);
        if objects {
            named_objects::check(cluster, &lane);
        }
    }
}

/// All brokers are up and all is archived: replicas are equal, and what clients know holds.
pub(crate) fn at_rest(cluster: &Cluster) {
    look(cluster, true);
    for lane in cluster.plan.all_lanes() {
        let states: Vec<_> = cluster
            .serving()
            .into_iter()
            .filter_map(|(node, broker)| Some((node, super::record::describe(&*broker.partitions.lane(lane)?))))
            .collect();
        assert_eq!(states.len(), cluster.plan.nodes as usize, "a broker is down");
        let (first, state) = &states[0];
        for (node, other) in &states {
            assert!(other == state, "lane {lane}: node {node} has\n{other}\nnode {first} has\n{state}");
        }
    }
    for partition in cluster.history.partitions() {
        cluster.history.with(partition, |past| crate::invariants::check_past(partition, past));
    }
}
