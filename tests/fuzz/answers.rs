//! What a broker sends our own client: answers in every version it asks for, the records inside, assignments of groups.

use kafka_protocol::messages::{self as m, ApiKey};
use tidewater::client::outside;
use tidewater_storage::env::Rng;

use super::author::Author;
use super::batches;
use super::target::Target;

/// What the records of an answer may take.
const ROOM: usize = 8 << 20;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        // The guard's bound, as for requests; the answer is measured as it would be written, too.
        Target::new("client_answer", |input| drop(answer(input)), answers).extra(4 << 20),
        Target::new(
            "client_records",
            |input| outside::records(input, ROOM),
            || {
                let seeds = batches::seeds();
                [seeds.clone(), batches::bombs(), seeds.chunks(2).map(<[_]>::concat).collect()].concat()
            },
        )
        .mended(batches::mend)
        // Unpacked, and as records in vectors that grow.
        .extra(5 * ROOM),
        Target::new("client_assignment", outside::assigned, || {
            vec![b"\x00\x01\x00\x00\x00\x01\x00\x06orders\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x05".to_vec()]
        }),
    ]
}

macro_rules! read {
    ($key:expr, $version:expr, $frame:expr, $($name:ident $request:ident),* $(,)?) => {
        match $key {
            $(ApiKey::$name => outside::answer::<m::$request>($version, $frame),)*
            _ => Err("never asked".to_owned()),
        }
    };
}

/// First two bytes: key and version; then a frame without its length.
fn answer(input: &[u8]) -> Result<usize, String> {
    let [key, version, frame @ ..] = input else { return Err("too short".to_owned()) };
    let key = ApiKey::try_from(i16::from(*key)).map_err(|()| "no such key".to_owned())?;
    read!(key, i16::from(*version), frame,
        Produce ProduceRequest,
        Fetch FetchRequest,
        ListOffsets ListOffsetsRequest,
        Metadata MetadataRequest,
        OffsetCommit OffsetCommitRequest,
        OffsetFetch OffsetFetchRequest,
        FindCoordinator FindCoordinatorRequest,
        DescribeGroups DescribeGroupsRequest,
        ListGroups ListGroupsRequest,
        ApiVersions ApiVersionsRequest,
        CreateTopics CreateTopicsRequest,
        DeleteTopics DeleteTopicsRequest,
        DeleteRecords DeleteRecordsRequest,
        InitProducerId InitProducerIdRequest,
        DescribeConfigs DescribeConfigsRequest,
        CreatePartitions CreatePartitionsRequest,
        DeleteGroups DeleteGroupsRequest,
        IncrementalAlterConfigs IncrementalAlterConfigsRequest,
        DescribeCluster DescribeClusterRequest,
    )
}

/// Every answer in every version, made from the client's tables. The generated decoder must read all of each and find
/// as much in it: a row that is wrong fails here.
fn answers() -> Vec<Vec<u8>> {
    let rng = Rng::seeded(1);
    let mut seeds = Vec::new();
    let keys = (0..=u8::MAX).filter_map(|n| Some((n, outside::table(ApiKey::try_from(i16::from(n)).ok()?)?)));
    for (key, table) in keys {
        for version in table.versions {
            let mut body = Vec::new();
            Author::new(&table.schema, version, &rng).shape(table.schema.top, &mut body);
            let flexible = table.schema.flexible_from.is_some_and(|from| version >= from);
            let tags: &[u8] = if flexible { &[0] } else { &[] };
            let head = [&[key, u8::try_from(version).expect("small"), 0, 0, 0, 7][..], tags].concat();
            let seed = [&head[..], &body].concat();
            assert_eq!(answer(&seed), Ok(body.len()), "answer {key} version {version}");
            seeds.push(seed);
        }
    }
    seeds
}
