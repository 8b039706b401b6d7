//! The bytes this layer puts into the journal and the checkpoint: entry kinds, votes, memberships.
//!
//! Entry: the journal's `meta` is one kind byte, then the payload's own meta (`NORMAL`), nothing (`BLANK`), or a
//! membership (`MEMBERSHIP`). Vote: version, term u64, replica u64, committed u8. Membership: version, count of configs
//! u16, per config a count u16 and its voters u64, count of replicas u16 and the replicas u64. Stored membership:
//! presence u8, term u64, index u64, membership. A replica is [`ReplicaId::to_u64`]. Bytes left over are an error.

use bytes::Bytes;
use openraft::EntryPayload as Kind;
use tidewater_storage::codec::{self, Decoder, Encoder};
use tidewater_storage::journal::format::entry_record_len;
use tidewater_storage::journal::{JournalEntry, Payload};
use tidewater_storage::model::{EntryId, ReplicaId};

use super::type_config::{
    CommittedLeader, Entry, EntryPayload, LeaderId, LogId, Membership, Proposed, StoredMembership, Vote, entry_id,
    log_id,
};

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;
const VERSION: u8 = 1;
/// Replicas of a lane, learners included; brokers of a cluster, since every broker learns from the controller's lane.
const REPLICAS_MAX: usize = 4096;
/// Leader epochs are i32 on Kafka's wire and grow with the term.
pub(crate) const TERM_MAX: u64 = i32::MAX as u64;

/// What is wrong with bytes this layer wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Cut short, left over, or a field that cannot be.
    #[error(transparent)]
    Bytes(#[from] codec::CodecError),
    /// A tag or version this build does not know.
    #[error("{what} has the unknown tag or version {found}; it was written by a newer build or is damaged")]
    Unknown { what: &'static str, found: u8 },
    /// Sets of voters and nodes that do not fit together.
    #[error("membership is inconsistent: {0}")]
    Membership(String),
    /// The low half of a replica's id is no node id.
    #[error("{what} names the replica {id:#x}, which cannot be one")]
    Replica { what: &'static str, id: u64 },
    /// A peer sent what no replica of this lane sends.
    #[error("a peer's request is refused: {0}")]
    Peer(&'static str),
    /// The term no longer fits Kafka's leader epoch.
    #[error(
        "term {0} of a lane does not fit Kafka's leader epoch (at most {TERM_MAX}); the lane cannot elect any more"
    )]
    Term(u64),
    /// Entries that do not continue each other.
    #[error("entry {found} does not follow {before:?}, or is of a later term than its leader's")]
    Hole { before: Option<EntryId>, found: EntryId },
}

fn version(from: &mut Decoder<'_>) -> Result<(), CodecError> {
    match from.u8()? {
        VERSION => Ok(()),
        found => Err(CodecError::Unknown { what: from.what(), found }),
    }
}

/// The journal's form of an entry. Blobs are moved, never copied.
pub(crate) fn to_lane_entry(entry: Entry) -> JournalEntry {
    let id = entry_id(&entry.log_id);
    let payload = match entry.payload {
        Kind::Blank => Payload { meta: Bytes::from_static(&[BLANK]), blobs: Vec::new(), verified: false },
        Kind::Normal(Proposed(payload)) => {
            let mut meta = Encoder::with_capacity(1 + payload.meta.len());
            meta.u8(NORMAL);
            meta.raw(&payload.meta);
            Payload { meta: meta.finish(), blobs: payload.blobs, verified: payload.verified }
        }
        Kind::Membership(membership) => {
            let mut meta = Encoder::new();
            meta.u8(MEMBERSHIP);
            put_membership(&mut meta, &membership);
            Payload { meta: meta.finish(), blobs: Vec::new(), verified: false }
        }
    };
    JournalEntry { id, payload }
}

/// What an entry of this payload takes in the journal: its record, our kind byte in it. Bytes.
pub(crate) fn entry_bytes(payload: &Payload) -> u64 {
    entry_record_len(payload) as u64 + 1
}

/// openraft's form of an entry.
///
/// # Errors
/// The journal holds an entry this layer did not write.
pub(crate) fn from_lane_entry(entry: JournalEntry) -> Result<Entry, CodecError> {
    let JournalEntry { id, payload: Payload { meta, blobs, verified } } = entry;
    let mut from = Decoder::new("entry", &meta);
    let payload: EntryPayload = match from.u8()? {
        BLANK => {
            from.end()?;
            Kind::Blank
        }
        NORMAL => Kind::Normal(Proposed(Payload { meta: meta.slice_ref(from.rest()), blobs, verified })),
        MEMBERSHIP => {
            let membership = take_membership(&mut from)?;
            from.end()?;
            Kind::Membership(membership)
        }
        found => return Err(CodecError::Unknown { what: "entry", found }),
    };
    Ok(Entry { log_id: log_id(id), payload })
}

/// As [`from_lane_entry`], for an entry that a peer sent: its membership must be one that a lane can have.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn from_peer(entry: JournalEntry) -> Result<Entry, CodecError> {
    let entry = from_lane_entry(entry)?;
    if let Kind::Membership(membership) = &entry.payload {
        let configs = membership.get_joint_config();
        let voters = configs.iter().all(|voters| !voters.is_empty());
        if configs.is_empty() || configs.len() > 2 || !voters || membership.nodes().count() > REPLICAS_MAX {
            return Err(CodecError::Membership(format!("{membership} of a peer is none that a lane can have")));
        }
    }
    Ok(entry)
}

/// A vote for the journal.
///
/// # Errors
/// The term no longer fits.
pub(crate) fn encode_vote(vote: &Vote) -> Result<Bytes, CodecError> {
    if vote.leader_id.term > TERM_MAX {
        return Err(CodecError::Term(vote.leader_id.term));
    }
    let mut out = Encoder::with_capacity(18);
    out.u8(VERSION);
    out.u64(vote.leader_id.term);
    out.u64(vote.leader_id.voted_for);
    out.flag(vote.committed);
    Ok(out.finish())
}

/// The inverse of [`encode_vote`].
///
/// # Errors
/// What is wrong with the bytes.
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let mut from = Decoder::new("vote", bytes);
    version(&mut from)?;
    let leader_id = LeaderId { term: from.u64()?, voted_for: replica(&mut from)? };
    let committed = from.flag()?;
    from.end()?;
    Ok(Vote { leader_id, committed })
}

/// A replica's id, as openraft has it.
fn replica(from: &mut Decoder<'_>) -> Result<u64, CodecError> {
    let id = from.u64()?;
    match ReplicaId::from_u64(id) {
        Some(_) => Ok(id),
        None => Err(CodecError::Replica { what: from.what(), id }),
    }
}

/// A count of voters or replicas: far fewer than 65,536 are ever configured.
fn put_count(out: &mut Encoder, count: usize) {
    assert!(count <= usize::from(u16::MAX), "a membership of {count}");
    out.u16(count as u16);
}

fn put_membership(out: &mut Encoder, membership: &Membership) {
    out.u8(VERSION);
    let configs = membership.get_joint_config();
    put_count(out, configs.len());
    for config in configs {
        put_count(out, config.len());
        config.iter().for_each(|voter| out.u64(*voter));
    }
    put_count(out, membership.nodes().count());
    membership.nodes().for_each(|(node, ())| out.u64(*node));
}

fn take_nodes<C: FromIterator<u64>>(from: &mut Decoder<'_>) -> Result<C, CodecError> {
    let count = from.u16()?;
    let nodes = (0..count).map(|_| replica(from)).collect::<Result<C, _>>()?;
    Ok(nodes)
}

fn take_membership(from: &mut Decoder<'_>) -> Result<Membership, CodecError> {
    version(from)?;
    let count = from.u16()?;
    let configs = (0..count).map(|_| take_nodes(from)).collect::<Result<Vec<_>, _>>()?;
    let nodes: Vec<u64> = take_nodes(from)?;
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    let nodes: std::collections::BTreeMap<u64, ()> = nodes.into_iter().map(|node| (node, ())).collect();
    Membership::new(configs, nodes).map_err(|error| CodecError::Membership(error.to_string()))
}

/// The applied membership for the checkpoint.
pub(crate) fn encode_stored(membership: &StoredMembership) -> Bytes {
    let mut out = Encoder::new();
    out.option(membership.log_id().as_ref(), |out, at| {
        out.u64(at.leader_id.term);
        out.u64(at.index);
    });
    put_membership(&mut out, membership.membership());
    out.finish()
}

/// The inverse of [`encode_stored`].
///
/// # Errors
/// What is wrong with the bytes.
pub(crate) fn decode_stored(bytes: &[u8]) -> Result<StoredMembership, CodecError> {
    let mut from = Decoder::new("stored membership", bytes);
    let at = from.option(|from| Ok(LogId::new(CommittedLeader::new(from.u64()?), from.u64()?)))?;
    let membership = take_membership(&mut from)?;
    from.end()?;
    Ok(StoredMembership::new(at, membership))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use tidewater_storage::model::{EntryId, LogIndex, Term};

    use super::*;

    fn entry(payload: EntryPayload) -> Entry {
        Entry { log_id: log_id(EntryId { term: Term(3), index: LogIndex(7) }), payload }
    }

    fn members(configs: &[&[u64]], learners: &[u64]) -> Membership {
        let configs = configs.iter().map(|c| c.iter().copied().collect::<BTreeSet<_>>()).collect();
        Membership::new_with_defaults(configs, learners.iter().copied().collect::<BTreeSet<_>>())
    }

    #[test]
    fn entries_round_trip() {
        let payload =
            Payload { meta: Bytes::from_static(b"meta"), blobs: vec![Bytes::from_static(b"blob")], verified: false };
        for payload in [
            Kind::Blank,
            Kind::Normal(Proposed(payload)),
            Kind::Normal(Proposed(Payload { meta: Bytes::new(), blobs: vec![], verified: false })),
            Kind::Membership(members(&[&[1, 2, 3], &[2, 3, 4]], &[9])),
        ] {
            let before = entry(payload);
            let after = from_lane_entry(to_lane_entry(before.clone())).expect("reads back");
            assert_eq!(before.log_id, after.log_id);
            match (before.payload, after.payload) {
                (Kind::Blank, Kind::Blank) => {}
                (Kind::Normal(a), Kind::Normal(b)) => assert_eq!((a.0.meta, a.0.blobs), (b.0.meta, b.0.blobs)),
                (Kind::Membership(a), Kind::Membership(b)) => assert_eq!(a, b),
                (a, b) => unreachable!("kind changed from {a} to {b}"),
            }
        }
    }

    #[test]
    fn a_normal_entry_shares_its_bytes() {
        let blob = Bytes::from(vec![1; 4096]);
        let payload = Payload { meta: Bytes::new(), blobs: vec![blob.clone()], verified: false };
        let lane = to_lane_entry(entry(Kind::Normal(Proposed(payload))));
        assert_eq!(lane.payload.blobs[0].as_ptr(), blob.as_ptr());
    }

    #[test]
    fn votes_round_trip_and_terms_end_at_kafkas() {
        let mut vote = Vote { leader_id: LeaderId { term: TERM_MAX, voted_for: 4 }, committed: true };
        assert_eq!(decode_vote(&encode_vote(&vote).expect("fits")).expect("reads back"), vote);
        vote.leader_id.term += 1;
        assert_eq!(encode_vote(&vote), Err(CodecError::Term(TERM_MAX + 1)));
    }

    #[test]
    fn stored_memberships_round_trip() {
        let at = Some(log_id(EntryId { term: Term(1), index: LogIndex(2) }));
        for stored in [
            StoredMembership::default(),
            StoredMembership::new(at, members(&[&[1]], &[])),
            StoredMembership::new(at, members(&[&[1, 2], &[2, 3]], &[7])),
        ] {
            assert_eq!(decode_stored(&encode_stored(&stored)).expect("reads back"), stored);
        }
    }

    /// Stored bytes of the first incarnation are those of versions without incarnations.
    #[test]
    fn stored_bytes_do_not_change() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let at = Some(log_id(EntryId { term: Term(1), index: LogIndex(2) }));
        let first = encode_stored(&StoredMembership::new(at, members(&[&[1]], &[])));
        let before = "01000000000000000100000000000000020100010001000000000000000100010000000000000001";
        assert_eq!(hex(&first), before);
        let replaced = (3 << 32) | 1;
        let joint = members(&[&[1, 2], &[2, replaced]], &[7]);
        let joint = encode_stored(&StoredMembership::new(at, joint));
        let after = "01000000000000000100000000000000020100020002000000000000000100000000000000020002000000000000000200000003000000010004\
                     0000000000000001000000000000000200000000000000070000000300000001";
        assert_eq!(hex(&joint), after);
        let vote = Vote { leader_id: LeaderId { term: 5, voted_for: replaced }, committed: true };
        assert_eq!(hex(&encode_vote(&vote).expect("fits")), "010000000000000005000000030000000101");
    }

    #[test]
    fn a_replica_that_cannot_be_one_is_refused() {
        let mut vote = encode_vote(&Vote { leader_id: LeaderId { term: 5, voted_for: 1 }, committed: true })
            .expect("fits")
            .to_vec();
        vote[13] = 0xff;
        assert_eq!(decode_vote(&vote), Err(CodecError::Replica { what: "vote", id: 0xff00_0001 }));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_vote(&bytes);
            let _ = decode_stored(&bytes);
            let payload = Payload { meta: bytes, ..Payload::default() };
            let _ = from_lane_entry(JournalEntry { id: EntryId::default(), payload });
        }
    }
}
