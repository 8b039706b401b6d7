//! What is served: every API key with its versions. What is not in this table is not advertised.
//!
//! Each key stands at Kafka 4.3's range; `wire::request` and `wire::log_dirs` have the versions that kafka-protocol
//! 0.18 lacks. Two minima are Kafka's own
//! exceptions: Produce is advertised from 0 although 0 to 2 are refused (KAFKA-18659: librdkafka infers its compression
//! support from it), JoinGroup is served from 0 (KAFKA-19444).

use kafka_protocol::messages::ApiKey;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    pub key: ApiKey,
    pub advertised_min: i16,
    pub min: i16,
    pub max: i16,
}

const fn api(key: ApiKey, min: i16, max: i16) -> Api {
    Api { key, advertised_min: min, min, max }
}

/// The table, by key.
pub static APIS: &[Api] = &[
    Api { key: ApiKey::Produce, advertised_min: 0, min: 3, max: 13 },
    api(ApiKey::Fetch, 4, 18),
    api(ApiKey::ListOffsets, 1, 11),
    api(ApiKey::Metadata, 0, 13),
    api(ApiKey::OffsetCommit, 2, 10),
    api(ApiKey::OffsetFetch, 1, 10),
    api(ApiKey::FindCoordinator, 0, 6),
    api(ApiKey::JoinGroup, 0, 9),
    api(ApiKey::Heartbeat, 0, 4),
    api(ApiKey::LeaveGroup, 0, 5),
    api(ApiKey::SyncGroup, 0, 5),
    api(ApiKey::DescribeGroups, 0, 6),
    api(ApiKey::ListGroups, 0, 5),
    api(ApiKey::ApiVersions, 0, 4),
    api(ApiKey::CreateTopics, 2, 7),
    api(ApiKey::DeleteTopics, 1, 6),
    api(ApiKey::DeleteRecords, 0, 2),
    api(ApiKey::InitProducerId, 0, 5),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4),
    api(ApiKey::DescribeAcls, 1, 3),
    api(ApiKey::CreateAcls, 1, 3),
    api(ApiKey::DeleteAcls, 1, 3),
    api(ApiKey::DescribeConfigs, 1, 4),
    api(ApiKey::AlterConfigs, 0, 2),
    api(ApiKey::DescribeLogDirs, 1, 5),
    api(ApiKey::CreatePartitions, 0, 3),
    api(ApiKey::DeleteGroups, 0, 2),
    api(ApiKey::ElectLeaders, 0, 2),
    api(ApiKey::IncrementalAlterConfigs, 0, 1),
    api(ApiKey::AlterPartitionReassignments, 0, 1),
    api(ApiKey::ListPartitionReassignments, 0, 0),
    api(ApiKey::OffsetDelete, 0, 0),
    api(ApiKey::DescribeClientQuotas, 0, 1),
    api(ApiKey::DescribeUserScramCredentials, 0, 0),
    api(ApiKey::DescribeQuorum, 0, 2),
    api(ApiKey::DescribeCluster, 0, 2),
    api(ApiKey::DescribeProducers, 0, 0),
    api(ApiKey::ListConfigResources, 0, 1),
    api(ApiKey::DescribeTopicPartitions, 0, 0),
];

/// What a key and version of a request mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Yes(Api),
    /// `ApiVersions` in a version of the future: answered with version 0 and the table (KIP-511).
    ApiVersionsFallback,
    /// Neither key nor version are served: the connection closes, as Kafka does.
    No,
}

/// Looks a request up.
#[must_use]
pub fn known(key: i16, version: i16) -> Known {
    let Some(api) = APIS.iter().find(|api| api.key as i16 == key) else { return Known::No };
    if (api.min..=api.max).contains(&version) {
        Known::Yes(*api)
    } else if api.key == ApiKey::ApiVersions {
        Known::ApiVersionsFallback
    } else {
        Known::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::wire::schema::schema;

    #[test]
    fn every_served_request_is_guarded() {
        for api in APIS.iter().filter(|api| api.key != ApiKey::Produce) {
            assert!(schema(api.key).is_some(), "{:?}", api.key);
        }
    }

    #[test]
    fn the_table_is_sorted_and_the_codec_covers_it() {
        assert!(APIS.windows(2).all(|w| (w[0].key as i16) < (w[1].key as i16)));
        let by_hand = [
            (ApiKey::ListOffsets, 11),
            (ApiKey::OffsetCommit, 10),
            (ApiKey::OffsetFetch, 10),
            (ApiKey::DescribeLogDirs, 5),
        ];
        for api in APIS {
            let codec = api.key.valid_versions();
            let max = by_hand.iter().find(|(key, _)| *key == api.key).map_or(codec.max, |(_, max)| *max);
            assert!(codec.min <= api.min && api.max <= max, "{:?}: {codec}", api.key);
        }
    }

    #[test]
    fn kafkas_exceptions() {
        assert_eq!(known(0, 2), Known::No);
        assert_eq!(known(18, 99), Known::ApiVersionsFallback);
        assert_eq!(known(4, 0), Known::No);
        assert!(matches!(known(1, 18), Known::Yes(_)));
    }
}
