//! As the newest leader serves them: end, log start, archived end and leader epoch of a partition never move back.

use tidewater::partition::state::replica::Replica;
use tidewater_storage::model::Term;

use crate::cluster::world::{Cluster, Spot};

pub(crate) fn check(cluster: &Cluster, spot: &Spot, replica: &Replica, term: Term) {
    crate::invariants::forward_only::check_as(&cluster.history, spot.number, replica);
    let epoch = replica.leader_epoch(term);
    let mut epochs = cluster.epochs.borrow_mut();
    let before = epochs.entry(spot.number).or_insert(epoch);
    assert!(*before <= epoch, "p{}: the leader epoch fell from {before:?} to {epoch:?}", spot.number);
    *before = epoch;
}
