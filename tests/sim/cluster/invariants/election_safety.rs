//! A term of a lane has at most one leader.

use tidewater_storage::model::{LaneId, Term};

use crate::cluster::record::Record;

pub(crate) fn check(record: &Record, node: u32, lane: LaneId, term: Term) {
    let before = record.leaders.borrow_mut().insert((lane, term), node);
    assert!(before.is_none(), "lane {lane}: node {node} leads term {term:?}, which node {before:?} led before");
}
