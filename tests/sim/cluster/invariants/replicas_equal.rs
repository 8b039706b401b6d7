//! After the same entry, the blobs of a lane and of its partitions are equal on all replicas.

use tidewater::partition::state::lane::DataLane;
use tidewater_storage::model::LogIndex;

use crate::cluster::record::{Record, describe};

pub(crate) fn check(record: &Record, node: u32, lane: &DataLane, index: LogIndex) {
    let state = describe(lane);
    let mut states = record.states.borrow_mut();
    let (first, known) = states.entry((lane.id, index)).or_insert_with(|| (node, state.clone()));
    assert!(
        *known == state,
        "lane {}: after entry {index} the state of node {node} is\n{state}\nand that of node {first} was\n{known}",
        lane.id
    );
}
