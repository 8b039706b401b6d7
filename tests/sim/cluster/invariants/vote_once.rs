//! A replica gives its vote of a term to one candidate and keeps it, over any crashes and rebuilds.

use tidewater_storage::model::{LaneId, ReplicaId, Term};

use crate::cluster::record::Record;

/// A replica shows the term of a vote within this time.
const SHOWN_WITHIN_MS: u64 = 200;

pub(crate) fn check(record: &Record, lane: LaneId, voter: ReplicaId, term: Term, candidate: ReplicaId, now_ms: u64) {
    let mut votes = record.votes.borrow_mut();
    let (known, _) = *votes.entry((lane, voter, term)).or_insert((candidate, now_ms));
    assert!(
        known == candidate,
        "lane {lane}: replica {voter} voted for {candidate} in term {term:?}, in which it had voted for {known}"
    );
}

/// `term` is what the replica is in now.
pub(crate) fn check_kept(record: &Record, lane: LaneId, voter: ReplicaId, term: Term, now_ms: u64) {
    let votes = record.votes.borrow();
    let later = votes.range((lane, voter, Term(term.0 + 1))..).next();
    if let Some(((of, by, voted), (candidate, at))) = later
        && (*of, *by) == (lane, voter)
    {
        let shown = now_ms < at + SHOWN_WITHIN_MS;
        assert!(shown, "lane {lane}: replica {voter} is in term {term:?} and voted for {candidate} in term {voted:?}");
    }
}
