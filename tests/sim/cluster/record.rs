//! What the replicas of every lane did, noted at the moment they did it: who led a term, which entry each replica
//! applied at an index and to what state, which votes were granted. Rules that need no client's view are checked here,
//! at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use bytes::Bytes;
use tidewater::partition::state::lane::DataLane;
use tidewater::raft::{Answer, Apply};
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{EntryId, LaneId, LogIndex, ReplicaId, Term};

use super::invariants::{election_safety, log_matching, replicas_equal, vote_once};

#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) leaders: RefCell<BTreeMap<(LaneId, Term), u32>>,
    pub(crate) entries: RefCell<BTreeMap<(LaneId, LogIndex), (Term, u64)>>,
    /// Digest of a lane's and its partitions' state right after an index, and who was first there.
    pub(crate) states: RefCell<BTreeMap<(LaneId, LogIndex), (u32, String)>>,
    /// Who got the vote of a replica in a term, and when.
    pub(crate) votes: RefCell<BTreeMap<(LaneId, ReplicaId, Term), (ReplicaId, u64)>>,
}

impl Record {
    pub(crate) fn granted(&self, lane: LaneId, voter: ReplicaId, term: Term, candidate: ReplicaId, now_ms: u64) {
        vote_once::check(self, lane, voter, term, candidate, now_ms);
    }
}

/// Every so many entries a replica's whole state is compared.
const COMPARED_EVERY: u64 = 16;

/// A lane's state machine with a witness: what it is given passes through unchanged.
pub(crate) struct Witness {
    pub(crate) node: u32,
    pub(crate) lane: Rc<DataLane>,
    pub(crate) record: Rc<Record>,
}

pub(crate) fn digest(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// State of a lane in words short enough to be printed: a digest for each of its parts.
pub(crate) fn describe(lane: &DataLane) -> String {
    let mut text = format!("lane {:x}", digest(&lane.encode()));
    for replica in lane.replicas() {
        text.push_str(&format!("; {} {:x} {}", replica.id, digest(&replica.encode()), replica.readable()));
    }
    text
}

impl Witness {
    fn applied(&self, id: EntryId, content: u64) {
        log_matching::check(&self.record, self.node, self.lane.id, id, content);
        if id.index.0.is_multiple_of(COMPARED_EVERY) && id.index > self.lane.covered_upto() {
            replicas_equal::check(&self.record, self.node, &self.lane, id.index);
        }
    }
}

impl Apply for Witness {
    fn apply(&self, id: EntryId, payload: &Payload) -> Answer {
        let answer = self.lane.apply(id, payload);
        self.applied(id, digest(&(&payload.meta, &payload.blobs)));
        answer
    }

    fn applied_blank(&self, id: EntryId) {
        self.lane.applied_blank(id);
        self.applied(id, 0);
    }

    fn membership(&self, blob: Bytes) {
        self.lane.membership(blob);
    }

    fn leading(&self, term: Term, ready_at: EntryId) {
        election_safety::check(&self.record, self.node, self.lane.id, term);
        self.lane.leading(term, ready_at);
    }

    fn following(&self, term: Term) {
        self.lane.following(term);
    }
}
