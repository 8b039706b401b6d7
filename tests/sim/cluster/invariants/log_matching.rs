//! At an index of a lane every replica applies the same entry, in every life.

use tidewater_storage::model::{EntryId, LaneId};

use crate::cluster::record::Record;

pub(crate) fn check(record: &Record, node: u32, lane: LaneId, id: EntryId, content: u64) {
    let mut entries = record.entries.borrow_mut();
    let known = *entries.entry((lane, id.index)).or_insert((id.term, content));
    assert!(
        known == (id.term, content),
        "lane {lane}: node {node} applied an entry of {:?} at {}, another replica one of {:?}",
        id.term,
        id.index,
        known.0
    );
}
