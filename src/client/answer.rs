//! An answer, from its frame to kafka-protocol's struct: header, a walk of its structure, then the generated decoder.
//!
//! That decoder allocates arrays by the announced count: twelve bytes would make it ask for gigabytes and end the
//! process. So every answer is walked by a table first, as the broker walks requests ([`guard`]), and with any peer a
//! call ends with an answer or with an error that names the position. Owns the tables and the versions
//! they cover; the client asks in no other version.

mod groups;
mod records;
mod topics;

use std::ops::RangeInclusive;

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::Decodable;

use crate::kafka::wire::guard;
use crate::kafka::wire::reader::{FieldReader, Malformed};
use crate::kafka::wire::schema::{Schema, Shape, TAGS_MAX};

/// Elements of all arrays of one answer together: the metadata of 200,000 partitions with three replicas fits. Bounds
/// what an answer may cost beside its own bytes to some hundred MB.
const ELEMENTS_MAX: usize = 2_000_000;

/// The answers to an API that this client reads.
#[derive(Clone, Debug)]
pub struct Table {
    pub versions: RangeInclusive<i16>,
    pub schema: Schema,
}

/// The table of `key`; `None` for a call that this client does not make. Produce and Fetch are limited to versions with
/// topic names, version negotiation to versions that every broker answers.
#[must_use]
pub fn table(key: ApiKey) -> Option<Table> {
    let (versions, flexible_from, top): (_, _, &'static Shape) = match key {
        ApiKey::Produce => (3..=12, Some(9), records::PRODUCE),
        ApiKey::Fetch => (4..=12, Some(12), records::FETCH),
        ApiKey::ListOffsets => (1..=10, Some(6), records::LIST_OFFSETS),
        ApiKey::DeleteRecords => (0..=2, Some(2), records::DELETE_RECORDS),
        ApiKey::InitProducerId => (0..=6, Some(2), records::INIT_PRODUCER_ID),
        ApiKey::FindCoordinator => (0..=6, Some(3), groups::FIND_COORDINATOR),
        ApiKey::OffsetCommit => (2..=10, Some(8), groups::OFFSET_COMMIT),
        ApiKey::OffsetFetch => (1..=10, Some(6), groups::OFFSET_FETCH),
        ApiKey::DescribeGroups => (0..=6, Some(5), groups::DESCRIBE_GROUPS),
        ApiKey::ListGroups => (0..=5, Some(3), groups::LIST_GROUPS),
        ApiKey::DeleteGroups => (0..=2, Some(2), groups::DELETE_GROUPS),
        ApiKey::ApiVersions => (0..=0, None, topics::API_VERSIONS),
        ApiKey::Metadata => (0..=13, Some(9), topics::METADATA),
        ApiKey::DescribeCluster => (0..=2, Some(0), topics::DESCRIBE_CLUSTER),
        ApiKey::CreateTopics => (2..=7, Some(5), topics::CREATE_TOPICS),
        ApiKey::CreatePartitions => (0..=3, Some(2), topics::CREATE_PARTITIONS),
        ApiKey::DeleteTopics => (1..=6, Some(4), topics::DELETE_TOPICS),
        ApiKey::DescribeConfigs => (1..=4, Some(4), topics::DESCRIBE_CONFIGS),
        ApiKey::IncrementalAlterConfigs => (0..=1, Some(1), topics::INCREMENTAL_ALTER_CONFIGS),
        _ => return None,
    };
    Some(Table { versions, schema: Schema { flexible_from, top } })
}

/// Reads the answer to request number `correlation`, a frame without its length.
///
/// # Errors
/// The first thing that does not fit, as text.
pub(super) fn decode<A: Decodable>(key: ApiKey, version: i16, correlation: i32, mut frame: Bytes) -> Result<A, String> {
    let table = table(key).filter(|table| table.versions.contains(&version));
    let schema = table.ok_or("no table of this version")?.schema;
    // Answers to negotiation have the old header in every version (KIP-511).
    let flexible = key != ApiKey::ApiVersions && schema.flexible_from.is_some_and(|from| version >= from);
    let mut header = FieldReader::new(&frame);
    let belongs = header.i32("number of the request").map_err(malformed_text)?;
    header.skip_tags(flexible, TAGS_MAX).map_err(malformed_text)?;
    if belongs != correlation {
        return Err("it belongs to another request".to_owned());
    }
    let at = header.position();
    let mut body = frame.split_off(at);
    guard::check_up_to(ELEMENTS_MAX, &schema, version, &body).map_err(malformed_text)?;
    A::decode(&mut body, version).map_err(|error| error.to_string())
}

fn malformed_text(malformed: Malformed) -> String {
    format!("malformed at byte {}: {}", malformed.at, malformed.what)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{FetchResponse, MetadataResponse};

    use super::*;

    #[test]
    fn a_lie_about_a_count_is_an_error() {
        // Correlation, throttle time, 2^31 - 1 brokers.
        let lie = [&7_i32.to_be_bytes()[..], &[0; 4], &[0x7f, 0xff, 0xff, 0xff]].concat();
        let read = decode::<MetadataResponse>(ApiKey::Metadata, 3, 7, lie.into());
        assert_eq!(read, Err("malformed at byte 8: number of elements".to_owned()));
    }

    #[test]
    fn another_requests_answer_is_an_error() {
        let read = decode::<FetchResponse>(ApiKey::Fetch, 4, 7, vec![0, 0, 0, 8].into());
        assert_eq!(read.err().as_deref(), Some("it belongs to another request"));
    }

    #[test]
    fn versions_beyond_the_table_are_not_read() {
        let frame = Bytes::from(7_i32.to_be_bytes().to_vec());
        assert!(decode::<FetchResponse>(ApiKey::Fetch, 13, 7, frame).is_err());
    }
}
