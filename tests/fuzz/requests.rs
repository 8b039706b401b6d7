//! What comes through the Kafka socket: the byte stream cut into frames, headers, and every key and version served.

use bytes::BytesMut;
use kafka_protocol::messages::{self as m, ApiKey};
use tidewater::kafka::api::{APIS, Known, known};
use tidewater::kafka::wire::frame::{FrameBuffer, Wanted};
use tidewater::kafka::wire::schema::schema;
use tidewater::kafka::wire::{guard, header, produce, request as bodies};
use tidewater_storage::env::Rng;

use super::author::Author;
use super::target::Target;
use super::{batches, corpus};

const FRAME_MAX: usize = 1 << 20;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        // A peer that sent a large frame gets as much room at once for its next.
        Target::new("kafka_stream", stream, streams).extra(2 * FRAME_MAX),
        // The guard's own bound: 200 bytes an element, of which the least takes a byte.
        Target::new("kafka_request", request, requests).extra(4 << 20),
        Target::new("kafka_produce", request, produces),
    ]
}

/// First byte: size of the pieces in which it arrives.
fn stream(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    let mut buffer = FrameBuffer::new(FRAME_MAX);
    let mut taken = 0;
    for mut bytes in bytes.chunks(usize::from(*piece) * 16 + 1) {
        while !bytes.is_empty() {
            let Ok(wanted) = buffer.wanted() else { return };
            let (Wanted::Gather(max) | Wanted::Rest(max)) = wanted;
            let (came, rest) = bytes.split_at(bytes.len().min(max));
            match wanted {
                Wanted::Gather(_) => buffer.gathered(came),
                Wanted::Rest(_) => buffer.rest().extend_from_slice(came),
            }
            bytes = rest;
            loop {
                match buffer.next_frame() {
                    Ok(Some(frame)) => taken += frame.len() + 4,
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }
    assert_eq!(taken + buffer.held(), input.len() - 1, "every byte is in a frame or held");
}

fn streams() -> Vec<Vec<u8>> {
    let frames = [requests(), produces()].concat();
    let mut seeds = Vec::new();
    for (piece, some) in [0, 1, 7, 255].into_iter().zip(frames.chunks(20)) {
        let mut seed = vec![piece];
        for frame in some {
            seed.extend_from_slice(&u32::try_from(frame.len()).expect("small").to_be_bytes());
            seed.extend_from_slice(frame);
        }
        seeds.push(seed);
    }
    seeds
}

/// A frame without its length, as the connection and the dispatcher take it.
fn request(input: &[u8]) {
    let Ok((key, version, _)) = header::peek(input) else { return };
    let Known::Yes(api) = known(key, version) else { return };
    let mut frame = BytesMut::from(input);
    let table = schema(api.key);
    let flexible = match &table {
        Some(table) => table.flexible_from.is_some_and(|from| version >= from),
        None => version >= 9,
    };
    if header::parse(&mut frame, flexible).is_err() {
        return;
    }
    let Some(table) = table else {
        let len = frame.len();
        if let Ok(request) = produce::decode(frame, version) {
            let parts = request.topics.into_iter().flat_map(|topic| topic.partitions);
            assert!(parts.map(|part| part.records.len()).sum::<usize>() <= len, "records are part of their frame");
        }
        return;
    };
    let guarded = guard::check(&table, version, &frame).is_ok();
    let read = decode(api.key, version, frame);
    assert!(guarded || !read, "the guard stands before every decoder");
}

macro_rules! generated {
    ($key:expr, $checked:expr, $($name:ident $request:ident),* $(,)?) => {
        match $key {
            $(ApiKey::$name => bodies::decode::<m::$request>($checked).is_ok(),)*
            other => panic!("{other:?} is served and not fuzzed: add it to tests/fuzz/requests.rs"),
        }
    };
}

/// As the handlers do; was it read?
fn decode(key: ApiKey, version: i16, body: BytesMut) -> bool {
    let Ok(checked) = bodies::check(key, version, body) else { return false };
    match key {
        ApiKey::OffsetCommit => return bodies::offset_commit(checked).is_ok(),
        ApiKey::OffsetFetch => return bodies::offset_fetch(checked).is_ok(),
        _ => {}
    }
    generated!(key, checked,
        ListOffsets ListOffsetsRequest,
        DescribeLogDirs DescribeLogDirsRequest,
        Fetch FetchRequest,
        Metadata MetadataRequest,
        FindCoordinator FindCoordinatorRequest,
        JoinGroup JoinGroupRequest,
        Heartbeat HeartbeatRequest,
        LeaveGroup LeaveGroupRequest,
        SyncGroup SyncGroupRequest,
        DescribeGroups DescribeGroupsRequest,
        ListGroups ListGroupsRequest,
        ApiVersions ApiVersionsRequest,
        CreateTopics CreateTopicsRequest,
        DeleteTopics DeleteTopicsRequest,
        DeleteRecords DeleteRecordsRequest,
        InitProducerId InitProducerIdRequest,
        OffsetForLeaderEpoch OffsetForLeaderEpochRequest,
        DescribeConfigs DescribeConfigsRequest,
        AlterConfigs AlterConfigsRequest,
        CreatePartitions CreatePartitionsRequest,
        DeleteGroups DeleteGroupsRequest,
        IncrementalAlterConfigs IncrementalAlterConfigsRequest,
        OffsetDelete OffsetDeleteRequest,
        DescribeCluster DescribeClusterRequest,
        DescribeProducers DescribeProducersRequest,
        DescribeQuorum DescribeQuorumRequest,
        DescribeTopicPartitions DescribeTopicPartitionsRequest,
        ElectLeaders ElectLeadersRequest,
        ListConfigResources ListConfigResourcesRequest,
        AlterReplicaLogDirs AlterReplicaLogDirsRequest,
        ListPartitionReassignments ListPartitionReassignmentsRequest,
        ListTransactions ListTransactionsRequest,
        DescribeTransactions DescribeTransactionsRequest,
        AlterPartitionReassignments AlterPartitionReassignmentsRequest,
        DescribeAcls DescribeAclsRequest,
        CreateAcls CreateAclsRequest,
        DeleteAcls DeleteAclsRequest,
        DescribeClientQuotas DescribeClientQuotasRequest,
        DescribeUserScramCredentials DescribeUserScramCredentialsRequest,
        SaslHandshake SaslHandshakeRequest,
        SaslAuthenticate SaslAuthenticateRequest,
    )
}

fn head(key: ApiKey, version: i16, flexible: bool) -> Vec<u8> {
    let mut frame = (key as i16).to_be_bytes().to_vec();
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 9, 0, 1, b'c']);
    if flexible {
        frame.push(0);
    }
    frame
}

/// Every served key and version but Produce, made from the guard's own tables.
fn requests() -> Vec<Vec<u8>> {
    let rng = Rng::seeded(1);
    let mut seeds = Vec::new();
    for api in APIS {
        let Some(table) = schema(api.key) else { continue };
        for version in api.min..=api.max {
            let flexible = table.flexible_from.is_some_and(|from| version >= from);
            let mut frame = head(api.key, version, flexible);
            Author::new(&table, version, &rng).shape(table.top, &mut frame);
            seeds.push(frame);
        }
    }
    seeds
}

/// Produce, by hand as its codec is: every version, two topics with a batch each.
fn produces() -> Vec<Vec<u8>> {
    let batch = batches::seeds().swap_remove(0);
    let write = |version: i16| {
        let flexible = version >= 9;
        let mut out = head(ApiKey::Produce, version, flexible);
        let list =
            |out: &mut Vec<u8>, n: u8| if flexible { out.push(n + 1) } else { out.extend_from_slice(&[0, 0, 0, n]) };
        if flexible {
            out.push(0)
        } else {
            out.extend_from_slice(&[0xff, 0xff])
        }
        out.extend_from_slice(&[0xff, 0xff, 0, 0, 0x75, 0x30]);
        list(&mut out, 2);
        for _ in 0..2 {
            match version {
                13.. => out.extend_from_slice(&[7; 16]),
                9.. => out.extend_from_slice(b"\x07orders"),
                _ => out.extend_from_slice(b"\x00\x06orders"),
            }
            list(&mut out, 1);
            out.extend_from_slice(&[0, 0, 0, 3]);
            let len = u32::try_from(batch.len()).expect("small");
            if flexible {
                let len = len + 1;
                out.extend_from_slice(&[(len & 0x7f) as u8 | 0x80, (len >> 7) as u8]);
            } else {
                out.extend_from_slice(&len.to_be_bytes());
            }
            out.extend_from_slice(&batch);
            if flexible {
                out.extend_from_slice(&[0, 0]);
            }
        }
        if flexible {
            out.push(0);
        }
        out
    };
    let mut seeds: Vec<_> = (3..=13).map(write).collect();
    seeds.extend(corpus::inputs("kafka_request"));
    seeds
}
