//! What comes from other brokers: frames, the stream they are cut out of, handshakes, messages of a rebuild.

use bytes::Bytes;
use tidewater::rebuild::Forecast;
use tidewater::rebuild::message::{PartitionAt, Reply, Request, lane_of};
use tidewater::rpc::frame::{self, FrameBuffer, Wanted};
use tidewater::rpc::handshake::{self, Client, Hello, PROTOCOLS, Server};
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::{EntryId, LaneId, LogIndex, NodeId, Offset, PartitionId, ReplicaId, Term};
use uuid::Uuid;

use super::corpus;
use super::target::Target;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("peer_frame", one_frame, frames).mended(mend),
        Target::new("peer_stream", stream, || vec![corpus::golden_hex("broker/rpc-frames-v1.hex")]),
        Target::new("peer_handshake", shake_hands, handshakes),
        Target::new("rebuild_request", rebuild_request, rebuild_requests),
        Target::new("rebuild_reply", rebuild_reply, rebuild_replies),
    ]
}

/// The frozen frames, without their lengths.
fn frames() -> Vec<Vec<u8>> {
    let mut buffer = FrameBuffer::default();
    buffer.gather(&corpus::golden_hex("broker/rpc-frames-v1.hex"));
    std::iter::from_fn(|| buffer.next_frame().expect("frozen")).map(|frame| frame.to_vec()).collect()
}

fn one_frame(input: &[u8]) {
    let Ok(frame) = frame::decode(&Bytes::copy_from_slice(input)) else { return };
    let written: Bytes = frame::encode(&frame).concat().into();
    let again =
        frame::decode(&written.slice(frame::LENGTH_LEN..)).expect("what was read can be written and read again");
    assert_eq!(format!("{again:?}"), format!("{frame:?}"));
}

/// The first four bytes cover what follows them.
fn mend(input: &mut Vec<u8>) {
    if input.len() >= 4 {
        let crc = crc32c::crc32c(&input[4..]);
        input[..4].copy_from_slice(&crc.to_be_bytes());
    }
}

/// Bytes as a connection brings them: in parts, whose sizes are the input's own.
fn stream(input: &[u8]) {
    let (mut buffer, mut left) = (FrameBuffer::default(), input);
    loop {
        match buffer.next_frame() {
            Ok(Some(frame)) => drop(frame::decode(&frame)),
            Err(_) => return,
            Ok(None) => {
                let Some(first) = left.first() else { return };
                let part = left.len().min(1 + usize::from(*first));
                let part = match buffer.wanted() {
                    Wanted::Large(max) => {
                        let part = part.min(max);
                        buffer.large().extend_from_slice(&left[..part]);
                        part
                    }
                    Wanted::Gather => {
                        buffer.gather(&left[..part]);
                        part
                    }
                };
                left = &left[part..];
            }
        }
    }
}

fn hello() -> Hello {
    Hello {
        protocols: PROTOCOLS,
        nonce: [3; 16],
        birth: Uuid::from_u128(1),
        run: 2,
        member: None,
        version: "0.1.0".into(),
        feature: 0,
        feature_max: 1,
        expects: Some(NodeId(1)),
        has_secret: false,
        shard: 0,
    }
}

/// First byte: which message it is.
fn shake_hands(input: &[u8]) {
    let Some((step, message)) = input.split_first() else { return };
    let Some(head) = message.first_chunk() else { return };
    let Ok((kind, len)) = handshake::header(head) else { return };
    let body = &message[handshake::HEADER_LEN..];
    let body = &body[..len.min(body.len())];
    let binding = handshake::Binding::default();
    if step % 2 == 0 {
        let hello = hello();
        if let Ok((server, _)) = Server::hello(&hello, None, &binding, kind, body, |_| Ok(())) {
            let _ = server.proved(kind, body);
        }
    } else if let Ok((client, _)) = Client::start(hello(), None, binding).0.welcome(kind, body) {
        let _ = client.accepted(kind, body);
    }
}

/// The frozen messages, one behind the other: each as its side gets it.
fn handshakes() -> Vec<Vec<u8>> {
    let all = corpus::golden_hex("broker/rpc-handshake-v1.hex");
    let (mut left, mut out) = (&all[..], Vec::new());
    while let Some(head) = left.first_chunk() {
        let (_, len) = handshake::header(head).expect("frozen");
        let (message, rest) = left.split_at(handshake::HEADER_LEN + len);
        out.extend([0, 1].map(|step| [&[step][..], message].concat()));
        left = rest;
    }
    out
}

fn rebuild_requests() -> Vec<Vec<u8>> {
    let (lane, session, partition) = (LaneId(7), 9, PartitionId::default());
    let last = Some(EntryId { term: Term(3), index: LogIndex(80) });
    let requests = [
        Request::Open { lane, replica: ReplicaId::first(NodeId(3)), last },
        Request::Next { lane, session, again: Some(partition) },
        Request::Read { lane, session, partition, from: Offset::new(3), until: Offset::new(8) },
        Request::Settle { lane, session },
        Request::Close { lane, session },
        Request::Survey { lane },
    ];
    requests.iter().map(|request| request.encode().to_vec()).collect()
}

fn rebuild_request(input: &[u8]) {
    let lane = lane_of(input);
    let Ok(request) = Request::decode(input) else { return };
    assert!(lane.is_some(), "what is read is brought to a shard");
    assert_eq!(Request::decode(&request.encode()), Ok(request));
}

fn rebuild_replies() -> Vec<Vec<u8>> {
    let (session, id) = (9, PartitionId::default());
    let expected = Forecast { partitions: 3, bytes: 1 << 40, bucket_bytes: 1 << 50 };
    let settings = LogSettings { segment_bytes: 1 << 20, segment_ms: 77 };
    let (from, end, state) = (Offset::new(5), Offset::new(9), Bytes::from_static(b"state"));
    let at = EntryId { term: Term(3), index: LogIndex(80) };
    let replies = [
        Reply::Opened { session, expected },
        Reply::Surveyed(expected),
        Reply::Partition(PartitionAt { id, as_of: LogIndex(6), state: state.clone(), settings, from, end }),
        Reply::Round { changed: 2 },
        Reply::Gone(id),
        Reply::Batches(Bytes::from_static(b"batches")),
        Reply::Moved(id),
        Reply::Settled { at, state, partitions: vec![id] },
        Reply::Closed,
    ];
    replies.iter().map(|reply| reply.encode().to_vec()).collect()
}

fn rebuild_reply(input: &[u8]) {
    let Ok(reply) = Reply::decode(&Bytes::copy_from_slice(input)) else { return };
    assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
}
