//! Frames: what is written is read, shared pieces, frozen samples, hostile bytes.

use proptest::prelude::*;
use tidewater_storage::journal::JournalEntry;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, LogIndex, NodeId, ReplicaIncarnation, Term, TimestampMs};

use super::*;

fn replica(node: i32, incarnation: u32) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: ReplicaIncarnation(incarnation) }
}

fn at(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), index: LogIndex(index) }
}

fn vote() -> PeerVote {
    PeerVote { term: Term(7), replica: replica(3, 2), committed: true }
}

fn batch(bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Record::new(TimestampMs(1000), None, Some(Bytes::from(vec![5; bytes]))));
    builder.build()
}

fn append(blobs: Vec<Bytes>, verified: bool) -> PeerRequest {
    let entry = |index, blobs, verified| JournalEntry {
        id: at(7, index),
        payload: Payload { meta: Bytes::from_static(b"meta"), blobs, verified },
    };
    let entries = vec![entry(11, blobs, verified), entry(12, Vec::new(), false)];
    PeerRequest::Append { vote: vote(), previous: Some(at(6, 10)), entries, committed: Some(at(6, 9)) }
}

/// Every kind of body, small enough to be frozen.
fn every_kind() -> Vec<Body> {
    let raft = |request| Body::Raft { lane: LaneId(300), to: replica(1, 0), from: replica(3, 2), request };
    let answers = [
        PeerReply::Append(AppendReply::Stored),
        PeerReply::Append(AppendReply::StoredUpTo(Some(at(7, 11)))),
        PeerReply::Append(AppendReply::Conflict),
        PeerReply::Append(AppendReply::HigherVote(vote())),
        PeerReply::Vote { vote: vote(), granted: true, last: None },
        PeerReply::Transfer(TransferReply::Accepted),
        PeerReply::Transfer(TransferReply::VoteChanged { actual: vote() }),
        PeerReply::Transfer(TransferReply::NotFlushed { actual: Some(at(7, 11)) }),
    ];
    let faults = [
        PeerFault::Unreachable,
        PeerFault::NotRunning,
        PeerFault::Nonsense,
        PeerFault::OtherIncarnation { found: replica(1, 9) },
    ];
    let mut all = vec![
        raft(append(vec![batch(3)], true)),
        raft(append(vec![Bytes::from_static(b"blob"), Bytes::new()], false)),
        raft(PeerRequest::Append { vote: vote(), previous: None, entries: Vec::new(), committed: None }),
        raft(PeerRequest::Vote { vote: vote(), last: Some(at(6, 10)), transfer: true }),
        raft(PeerRequest::PreVote { vote: vote(), last: None }),
        raft(PeerRequest::Rebuild { vote: vote(), at: at(6, 10) }),
        raft(PeerRequest::Transfer { from: vote(), to: replica(1, 0), last: Some(at(6, 10)) }),
        Body::Call { service: 4, body: Bytes::from_static(b"question") },
        Body::Answer(Ok(Bytes::from_static(b"answer"))),
        Body::Answer(Err("not here".into())),
    ];
    all.extend(answers.map(|answer| Body::RaftAnswer(Ok(answer))));
    all.extend(faults.map(|fault| Body::RaftAnswer(Err(fault))));
    all
}

fn joined(pieces: &[Bytes]) -> Bytes {
    pieces.concat().into()
}

/// The frame of written bytes, which must be one.
fn read(bytes: &Bytes) -> Result<Frame, FrameError> {
    let mut frames = FrameBuffer::default();
    frames.gather(bytes);
    let frame = frames.next_frame().expect("a length that fits").expect("whole");
    assert!(!frames.is_mid_frame());
    decode(&frame)
}

#[test]
fn every_kind_is_read_as_it_was_written_and_stays_as_it_is() {
    let mut all = Vec::new();
    for (id, body) in every_kind().into_iter().enumerate() {
        let frame = Frame { id: 1 + id as u64, body };
        let bytes = joined(&encode(&frame));
        assert_eq!(format!("{:?}", read(&bytes).expect("reads")), format!("{frame:?}"));
        all.extend_from_slice(&bytes);
    }
    crate::partition::state::golden::frozen("rpc-frames-v1", &all);
}

#[test]
fn large_batches_are_pieces_of_their_own_and_slices_of_the_frame() {
    let (large, small) = (batch(40_000), batch(10));
    let frame = Frame {
        id: 5,
        body: Body::Raft {
            lane: LaneId(1),
            to: replica(1, 0),
            from: replica(2, 0),
            request: append(vec![small.clone(), large.clone(), small.clone()], true),
        },
    };
    let pieces = encode(&frame);
    assert_eq!(pieces.len(), 3, "head with the first batch, the large one, the last");
    assert_eq!(pieces[1].as_ptr(), large.as_ptr(), "not copied");
    let mut bytes = joined(&pieces);
    bytes::Buf::advance(&mut bytes, LENGTH_LEN);
    let Body::Raft { request: PeerRequest::Append { entries, .. }, .. } = decode(&bytes).expect("reads").body else {
        panic!("another kind");
    };
    let payload = &entries[0].payload;
    assert!(payload.verified && payload.blobs == [small.clone(), large.clone(), small]);
    let range = bytes.as_ptr_range();
    assert!(payload.blobs.iter().all(|blob| range.contains(&blob.as_ptr())), "not copied");
}

#[test]
fn a_changed_byte_anywhere_is_found() {
    for (blob, verified) in [(batch(100), true), (batch(40_000), true), (batch(40_000), false)] {
        let request = append(vec![blob], verified);
        let body = Body::Raft { lane: LaneId(1), to: replica(1, 0), from: replica(2, 0), request };
        let bytes = joined(&encode(&Frame { id: 9, body }));
        for n in (LENGTH_LEN..bytes.len()).step_by(if bytes.len() > 1000 { 97 } else { 1 }) {
            let mut changed = bytes.to_vec();
            changed[n] ^= 0x10;
            assert!(decode(&Bytes::from(changed).slice(LENGTH_LEN..)).is_err(), "byte {n}");
        }
    }
}

/// The journal takes a verified batch's checksum for granted, so the mark must be true.
#[test]
fn a_blob_that_is_not_a_sound_batch_is_not_taken_as_verified() {
    let mut damaged = batch(40_000).to_vec();
    damaged[30_000] ^= 1;
    for blob in [Bytes::from(damaged), Bytes::from_static(b"no batch"), [batch(10), batch(10)].concat().into()] {
        let request = append(vec![blob], true);
        let body = Body::Raft { lane: LaneId(1), to: replica(1, 0), from: replica(2, 0), request };
        assert!(decode(&joined(&encode(&Frame { id: 9, body })).slice(LENGTH_LEN..)).is_err());
    }
}

#[test]
fn a_hostile_length_is_refused_before_anything_is_allocated() {
    for len in [0, 12, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let mut frames = FrameBuffer::default();
        frames.gather(&len.to_be_bytes());
        assert_eq!(frames.next_frame(), Err(FrameError::Length { len: len.into(), max: FRAME_BYTES_MAX }));
    }
    let mut frames = FrameBuffer::default();
    frames.gather(&(FRAME_BYTES_MAX as u32).to_be_bytes());
    assert_eq!(frames.next_frame(), Ok(None));
    assert_eq!(frames.announced(), FRAME_BYTES_MAX);
    assert!(frames.held() <= GROW_MAX, "memory grows with what comes");
}

#[test]
fn the_upper_bound_of_a_request_is_one() {
    let many: Vec<Bytes> = (0..1000).map(|_| Bytes::from_static(b"x")).collect();
    for request in [append(many, false), append(vec![batch(40_000)], true)] {
        let bound = request_bytes(&request);
        let body = Body::Raft { lane: LaneId(u32::MAX), to: replica(1, 0), from: replica(2, 0), request };
        assert!(joined(&encode(&Frame { id: u64::MAX, body })).len() <= bound);
    }
}

proptest! {
    /// However a connection cuts the bytes, the same frames come out.
    #[test]
    fn frames_are_found_however_the_bytes_come(
        sizes in proptest::collection::vec(0usize..60_000, 1..6),
        cuts in proptest::collection::vec(1usize..20_000, 1..40),
    ) {
        let written: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![*size as u8; *size])).collect();
        let mut all = Vec::new();
        for (id, body) in written.iter().enumerate() {
            let frame = Frame { id: id as u64, body: Body::Call { service: 1, body: body.clone() } };
            all.extend_from_slice(&joined(&encode(&frame)));
        }
        let (mut frames, mut found, mut left) = (FrameBuffer::default(), Vec::new(), &all[..]);
        let mut cuts = cuts.iter().cycle();
        loop {
            while let Some(frame) = frames.next_frame().expect("fits") {
                let Body::Call { body, .. } = decode(&frame).expect("reads").body else { panic!("another kind") };
                found.push(body);
            }
            if left.is_empty() {
                break;
            }
            let n = left.len().min(*cuts.next().expect("endless"));
            let n = match frames.wanted() {
                Wanted::Large(max) => {
                    let n = n.min(max);
                    frames.large().extend_from_slice(&left[..n]);
                    n
                }
                Wanted::Gather => {
                    frames.gather(&left[..n]);
                    n
                }
            };
            left = &left[n..];
        }
        prop_assert!(!frames.is_mid_frame());
        prop_assert_eq!(found, written);
    }

    #[test]
    fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..8, request in 0u8..6) {
        if bytes.len() > 35 {
            bytes[4] = kind;
            bytes[30] = request;
            let crc = crc32c::crc32c(&bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_be_bytes());
        }
        let _ = decode(&Bytes::from(bytes));
    }
}
