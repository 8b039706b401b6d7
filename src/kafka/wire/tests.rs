//! The guard against the codec it guards: what the encoder writes passes and is walked to its last byte; anything that
//! is done to it, guard and decoder together neither panic nor allocate beyond measure.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{self as m, ApiKey};
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::prelude::*;
use tidewater_storage::model::{LeaderEpoch, Offset};
use uuid::Uuid;

use super::guard::{ELEMENT_BYTES, ELEMENTS_MAX, check};
use super::leader::{CurrentLeader, NodeEndpoint};
use super::schema::schema;
use super::{fetch, header, produce, request};
use crate::kafka::api::APIS;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::PRODUCE_ELEMENTS_MAX;
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::words::{text, topic_name};
use crate::partition::message::EpochEnd;

fn written<R: Encodable>(request: &R, version: i16) -> Bytes {
    let mut out = BytesMut::new();
    request.encode(&mut out, version).expect("encodes");
    out.freeze()
}

/// A request of every API, with something in every array that the version has.
fn sample(key: ApiKey, v: i16) -> Bytes {
    let name = || topic_name("orders");
    let id = |from: i16| if v >= from { Uuid::from_u128(7) } else { Uuid::nil() };
    match key {
        ApiKey::Produce => produce_sample(v),
        ApiKey::Fetch => fetch_sample(v),
        ApiKey::ListOffsets if v == 11 => sample(key, 10),
        ApiKey::ListOffsets => {
            use m::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
            let partition = ListOffsetsPartition::default().with_partition_index(3).with_timestamp(-1);
            let topic = ListOffsetsTopic::default().with_name(name()).with_partitions(vec![partition; 3]);
            written(&m::ListOffsetsRequest::default().with_topics(vec![topic; 2]), v)
        }
        ApiKey::Metadata => {
            use m::metadata_request::MetadataRequestTopic;
            let topic = MetadataRequestTopic::default().with_name(Some(name())).with_topic_id(id(10));
            let request = m::MetadataRequest::default().with_topics(Some(vec![topic; 3]));
            written(&request.with_allow_auto_topic_creation(true), v)
        }
        ApiKey::OffsetCommit if v == 10 => offsets_by_id(key),
        ApiKey::OffsetFetch if v == 10 => offsets_by_id(key),
        ApiKey::OffsetForLeaderEpoch => {
            use m::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
            let partition = OffsetForLeaderPartition::default().with_partition(3).with_leader_epoch(2);
            let topic = OffsetForLeaderTopic::default().with_topic(name()).with_partitions(vec![partition; 3]);
            written(&m::OffsetForLeaderEpochRequest::default().with_topics(vec![topic; 2]), v)
        }
        ApiKey::DescribeLogDirs if v == 5 => sample(key, 4),
        ApiKey::OffsetCommit => {
            use m::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
            let partition = OffsetCommitRequestPartition::default().with_committed_metadata(Some(text("meta")));
            let topic = OffsetCommitRequestTopic::default().with_name(name()).with_partitions(vec![partition; 2]);
            written(&m::OffsetCommitRequest::default().with_group_id(text("g").into()).with_topics(vec![topic; 2]), v)
        }
        ApiKey::OffsetFetch if v >= 8 => {
            use m::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
            let topic = OffsetFetchRequestTopics::default().with_name(name()).with_partition_indexes(vec![1, 2, 3]);
            let group = OffsetFetchRequestGroup::default().with_group_id(text("g").into());
            written(&m::OffsetFetchRequest::default().with_groups(vec![group.with_topics(Some(vec![topic; 2])); 2]), v)
        }
        ApiKey::OffsetFetch => {
            use m::offset_fetch_request::OffsetFetchRequestTopic;
            let topic = OffsetFetchRequestTopic::default().with_name(name()).with_partition_indexes(vec![1, 2, 3]);
            let request = m::OffsetFetchRequest::default().with_group_id(text("g").into());
            written(&request.with_topics(Some(vec![topic; 2])), v)
        }
        ApiKey::FindCoordinator if v >= 4 => {
            written(&m::FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g"), text("h")]), v)
        }
        ApiKey::FindCoordinator => written(&m::FindCoordinatorRequest::default().with_key(text("g")), v),
        ApiKey::JoinGroup => {
            use m::join_group_request::JoinGroupRequestProtocol;
            let protocol =
                JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from_static(b"xyz"));
            let request =
                m::JoinGroupRequest::default().with_group_id(text("g").into()).with_protocol_type(text("consumer"));
            written(&request.with_protocols(vec![protocol; 2]), v)
        }
        ApiKey::Heartbeat => written(&m::HeartbeatRequest::default().with_group_id(text("g").into()), v),
        ApiKey::LeaveGroup if v >= 3 => {
            use m::leave_group_request::MemberIdentity;
            let member = MemberIdentity::default().with_member_id(text("m"));
            written(&m::LeaveGroupRequest::default().with_members(vec![member; 2]), v)
        }
        ApiKey::LeaveGroup => written(&m::LeaveGroupRequest::default().with_member_id(text("m")), v),
        ApiKey::SyncGroup => {
            use m::sync_group_request::SyncGroupRequestAssignment;
            let one = SyncGroupRequestAssignment::default()
                .with_member_id(text("m"))
                .with_assignment(Bytes::from_static(b"abc"));
            written(&m::SyncGroupRequest::default().with_group_id(text("g").into()).with_assignments(vec![one; 2]), v)
        }
        ApiKey::DescribeGroups => {
            written(&m::DescribeGroupsRequest::default().with_groups(vec![text("g").into(), text("h").into()]), v)
        }
        ApiKey::ListGroups => {
            let states = if v >= 4 { vec![text("Stable")] } else { Vec::new() };
            let types = if v >= 5 { vec![text("classic")] } else { Vec::new() };
            written(&m::ListGroupsRequest::default().with_states_filter(states).with_types_filter(types), v)
        }
        ApiKey::ApiVersions if v >= 3 => {
            let request = m::ApiVersionsRequest::default().with_client_software_name(text("kcat"));
            written(&request.with_client_software_version(text("1.0")), v)
        }
        ApiKey::ApiVersions => written(&m::ApiVersionsRequest::default(), v),
        ApiKey::CreateTopics => {
            use m::create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
            let config = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
            let place = CreatableReplicaAssignment::default().with_broker_ids(vec![1.into(), 2.into()]);
            let topic = CreatableTopic::default().with_name(name()).with_configs(vec![config; 2]);
            written(&m::CreateTopicsRequest::default().with_topics(vec![topic.with_assignments(vec![place; 2]); 2]), v)
        }
        ApiKey::DeleteTopics if v >= 6 => {
            use m::delete_topics_request::DeleteTopicState;
            let topic = DeleteTopicState::default().with_name(Some(name())).with_topic_id(id(6));
            written(&m::DeleteTopicsRequest::default().with_topics(vec![topic; 2]), v)
        }
        ApiKey::DeleteTopics => written(&m::DeleteTopicsRequest::default().with_topic_names(vec![name(), name()]), v),
        ApiKey::DeleteRecords => {
            use m::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
            let partition = DeleteRecordsPartition::default().with_offset(9);
            let topic = DeleteRecordsTopic::default().with_name(name()).with_partitions(vec![partition; 2]);
            written(&m::DeleteRecordsRequest::default().with_topics(vec![topic; 2]), v)
        }
        ApiKey::InitProducerId => {
            written(&m::InitProducerIdRequest::default().with_transactional_id(Some(text("t").into())), v)
        }
        ApiKey::DescribeConfigs => {
            use m::describe_configs_request::DescribeConfigsResource;
            let resource = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("orders"));
            let keys = Some(vec![text("a"), text("b")]);
            written(
                &m::DescribeConfigsRequest::default().with_resources(vec![resource.with_configuration_keys(keys); 2]),
                v,
            )
        }
        ApiKey::AlterConfigs => {
            use m::alter_configs_request::{AlterConfigsResource, AlterableConfig};
            let config = AlterableConfig::default().with_name(text("a")).with_value(Some(text("b")));
            let resource =
                AlterConfigsResource::default().with_resource_name(text("orders")).with_configs(vec![config; 2]);
            written(&m::AlterConfigsRequest::default().with_resources(vec![resource; 2]), v)
        }
        ApiKey::IncrementalAlterConfigs => {
            use m::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
            let config = AlterableConfig::default().with_name(text("a")).with_value(Some(text("b")));
            let resource =
                AlterConfigsResource::default().with_resource_name(text("orders")).with_configs(vec![config; 2]);
            written(&m::IncrementalAlterConfigsRequest::default().with_resources(vec![resource; 2]), v)
        }
        ApiKey::DescribeLogDirs => {
            use m::describe_log_dirs_request::DescribableLogDirTopic;
            let topic = DescribableLogDirTopic::default().with_topic(name()).with_partitions(vec![1, 2]);
            written(&m::DescribeLogDirsRequest::default().with_topics(Some(vec![topic; 2])), v)
        }
        ApiKey::CreatePartitions => {
            use m::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
            let place = CreatePartitionsAssignment::default().with_broker_ids(vec![1.into()]);
            let topic = CreatePartitionsTopic::default().with_name(name()).with_assignments(Some(vec![place; 2]));
            written(&m::CreatePartitionsRequest::default().with_topics(vec![topic; 2]), v)
        }
        ApiKey::DeleteGroups => {
            written(&m::DeleteGroupsRequest::default().with_groups_names(vec![text("g").into(), text("h").into()]), v)
        }
        ApiKey::OffsetDelete => {
            use m::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
            let topic = OffsetDeleteRequestTopic::default().with_name(name());
            let topic = topic.with_partitions(vec![OffsetDeleteRequestPartition::default(); 2]);
            written(&m::OffsetDeleteRequest::default().with_group_id(text("g").into()).with_topics(vec![topic; 2]), v)
        }
        ApiKey::DescribeCluster => written(&m::DescribeClusterRequest::default(), v),
        ApiKey::DescribeTopicPartitions => {
            use m::describe_topic_partitions_request::{Cursor, TopicRequest};
            let request = m::DescribeTopicPartitionsRequest::default();
            let request = request.with_topics(vec![TopicRequest::default().with_name(name()); 3]);
            written(&request.with_cursor(Some(Cursor::default().with_topic_name(name()).with_partition_index(3))), v)
        }
        _ => admin_sample(key, v),
    }
}

/// Version 10 of `OffsetCommit` and `OffsetFetch`, which the generated encoder lacks, byte by byte.
fn offsets_by_id(key: ApiKey) -> Bytes {
    let mut out = BytesMut::new();
    let id = [7; 16];
    if key == ApiKey::OffsetCommit {
        out.extend_from_slice(&[2, b'g', 0, 0, 0, 1, 2, b'm', 0, 2]); // group, generation, member, instance, topics
        out.extend_from_slice(&id);
        out.extend_from_slice(&[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]); // one partition
    } else {
        out.extend_from_slice(&[2, 2, b'g', 0, 0, 0, 0, 1, 2]); // groups, group, member, epoch, topics
        out.extend_from_slice(&id);
        out.extend_from_slice(&[2, 0, 0, 0, 3, 0, 0, 1, 0]); // one partition, tags, tags, require stable, tags
    }
    out.freeze()
}

/// Requests of tools.
fn admin_sample(key: ApiKey, v: i16) -> Bytes {
    let name = || topic_name("orders");
    match key {
        ApiKey::DescribeAcls => written(&m::DescribeAclsRequest::default().with_principal_filter(Some(text("p"))), v),
        ApiKey::CreateAcls => {
            let one = m::create_acls_request::AclCreation::default().with_host(text("h"));
            written(&m::CreateAclsRequest::default().with_creations(vec![one; 2]), v)
        }
        ApiKey::DeleteAcls => {
            let one = m::delete_acls_request::DeleteAclsFilter::default().with_host_filter(Some(text("h")));
            written(&m::DeleteAclsRequest::default().with_filters(vec![one; 2]), v)
        }
        ApiKey::ElectLeaders => {
            use m::elect_leaders_request::TopicPartitions;
            let topic = TopicPartitions::default().with_topic(name()).with_partitions(vec![1, 2]);
            written(&m::ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic; 2])), v)
        }
        ApiKey::AlterPartitionReassignments => {
            use m::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
            let partition = ReassignablePartition::default().with_replicas(Some(vec![1.into(), 2.into()]));
            let topic = ReassignableTopic::default().with_name(name()).with_partitions(vec![partition; 2]);
            written(&m::AlterPartitionReassignmentsRequest::default().with_topics(vec![topic; 2]), v)
        }
        ApiKey::ListPartitionReassignments => {
            use m::list_partition_reassignments_request::ListPartitionReassignmentsTopics as Topic;
            let topic = Topic::default().with_name(name()).with_partition_indexes(vec![1, 2]);
            written(&m::ListPartitionReassignmentsRequest::default().with_topics(Some(vec![topic; 2])), v)
        }
        ApiKey::DescribeClientQuotas => {
            use m::describe_client_quotas_request::ComponentData;
            let one = ComponentData::default().with_entity_type(text("user")).with_match(Some(text("u")));
            written(&m::DescribeClientQuotasRequest::default().with_components(vec![one; 2]), v)
        }
        ApiKey::DescribeUserScramCredentials => {
            let user = m::describe_user_scram_credentials_request::UserName::default().with_name(text("u"));
            written(&m::DescribeUserScramCredentialsRequest::default().with_users(Some(vec![user; 2])), v)
        }
        ApiKey::DescribeProducers => {
            use m::describe_producers_request::TopicRequest;
            let topic = TopicRequest::default().with_name(name()).with_partition_indexes(vec![1, 2]);
            written(&m::DescribeProducersRequest::default().with_topics(vec![topic; 2]), v)
        }
        ApiKey::DescribeQuorum => {
            use m::describe_quorum_request::{PartitionData, TopicData};
            let partitions = vec![PartitionData::default(); 2];
            let topic = TopicData::default().with_topic_name(name()).with_partitions(partitions);
            written(&m::DescribeQuorumRequest::default().with_topics(vec![topic; 2]), v)
        }
        ApiKey::ListConfigResources => {
            let types = if v >= 1 { vec![2, 4] } else { Vec::new() };
            written(&m::ListConfigResourcesRequest::default().with_resource_types(types), v)
        }
        other => unreachable!("no sample of {other:?}"),
    }
}

fn produce_sample(v: i16) -> Bytes {
    use m::produce_request::{PartitionProduceData, TopicProduceData};
    let partition = |index, len| {
        PartitionProduceData::default().with_index(index).with_records(Some(Bytes::from(vec![index as u8; len])))
    };
    let topic =
        TopicProduceData::default().with_partition_data(vec![partition(1, 100), partition(2, 0), partition(3, 300)]);
    let topic = if v >= 13 { topic.with_topic_id(Uuid::from_u128(7)) } else { topic.with_name(topic_name("orders")) };
    let request = m::ProduceRequest::default().with_acks(-1).with_timeout_ms(5000);
    written(&request.with_transactional_id(Some(text("tx").into())).with_topic_data(vec![topic; 2]), v)
}

fn fetch_sample(v: i16) -> Bytes {
    use m::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
    let partition = FetchPartition::default().with_partition(1).with_fetch_offset(9).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_partitions(vec![partition; 3]);
    let topic = if v >= 13 { topic.with_topic_id(Uuid::from_u128(7)) } else { topic.with_topic(topic_name("orders")) };
    let forgotten = ForgottenTopic::default().with_partitions(vec![1, 2]);
    let forgotten = if v >= 13 { forgotten.with_topic_id(Uuid::from_u128(7)) } else { forgotten };
    let forgotten = if v >= 7 { vec![forgotten; 2] } else { Vec::new() };
    let request = m::FetchRequest::default().with_max_wait_ms(500).with_topics(vec![topic; 2]);
    let request = if v >= 12 { request.with_cluster_id(Some(text("cluster"))) } else { request };
    written(&request.with_forgotten_topics_data(forgotten), v)
}

/// Guard and decoder, as dispatch uses them.
fn read(key: ApiKey, version: i16, body: &Bytes) {
    if key == ApiKey::Produce {
        let _ = produce::decode(BytesMut::from(&body[..]), version);
        return;
    }
    let checked = || request::check(key, version, BytesMut::from(&body[..]));
    match (key, version) {
        (ApiKey::OffsetCommit, 10) => return drop(checked().and_then(request::offset_commit)),
        (ApiKey::ListOffsets, 11) => return drop(checked().and_then(request::decode::<m::ListOffsetsRequest>)),
        (ApiKey::OffsetFetch, 10) => return drop(checked().and_then(request::offset_fetch)),
        (ApiKey::DescribeLogDirs, 5) => return drop(checked().and_then(request::decode::<m::DescribeLogDirsRequest>)),
        _ => {}
    }
    let schema = schema(key).expect("has a schema");
    let Ok(weight) = check(&schema, version, body) else { return };
    assert!(weight.elements <= ELEMENTS_MAX && weight.elements <= body.len());
    let mut body = body.clone();
    macro_rules! decode {
        ($($key:ident => $request:ident,)*) => {
            match key {
                $(ApiKey::$key => drop(m::$request::decode(&mut body, version)),)*
                _ => unreachable!("{key:?} is not decoded"),
            }
        };
    }
    decode! {
        Fetch => FetchRequest, ListOffsets => ListOffsetsRequest, Metadata => MetadataRequest,
        OffsetCommit => OffsetCommitRequest, OffsetFetch => OffsetFetchRequest,
        OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
        FindCoordinator => FindCoordinatorRequest, JoinGroup => JoinGroupRequest, Heartbeat => HeartbeatRequest,
        LeaveGroup => LeaveGroupRequest, SyncGroup => SyncGroupRequest, DescribeGroups => DescribeGroupsRequest,
        ListGroups => ListGroupsRequest, ApiVersions => ApiVersionsRequest, CreateTopics => CreateTopicsRequest,
        DeleteTopics => DeleteTopicsRequest, DeleteRecords => DeleteRecordsRequest,
        InitProducerId => InitProducerIdRequest, DescribeConfigs => DescribeConfigsRequest,
        AlterConfigs => AlterConfigsRequest, IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
        DescribeLogDirs => DescribeLogDirsRequest, CreatePartitions => CreatePartitionsRequest,
        DeleteGroups => DeleteGroupsRequest, OffsetDelete => OffsetDeleteRequest,
        DescribeCluster => DescribeClusterRequest, DescribeTopicPartitions => DescribeTopicPartitionsRequest,
        DescribeAcls => DescribeAclsRequest, CreateAcls => CreateAclsRequest, DeleteAcls => DeleteAclsRequest,
        ElectLeaders => ElectLeadersRequest, DescribeProducers => DescribeProducersRequest,
        DescribeQuorum => DescribeQuorumRequest,
        AlterPartitionReassignments => AlterPartitionReassignmentsRequest,
        ListPartitionReassignments => ListPartitionReassignmentsRequest,
        DescribeClientQuotas => DescribeClientQuotasRequest, ListConfigResources => ListConfigResourcesRequest,
        DescribeUserScramCredentials => DescribeUserScramCredentialsRequest,
    }
}

#[test]
fn every_request_of_every_version_passes_to_its_last_byte() {
    for api in APIS.iter().filter(|api| api.key != ApiKey::Produce) {
        for version in api.min..=api.max {
            let body = sample(api.key, version);
            let weight = check(&schema(api.key).expect("has a schema"), version, &body);
            let len = weight.unwrap_or_else(|e| unreachable!("{:?} {version}: {e}", api.key)).len;
            assert_eq!(len, body.len(), "{:?} {version}", api.key);
        }
    }
}

#[test]
fn a_truncated_request_never_passes() {
    for api in APIS.iter().filter(|api| api.key != ApiKey::Produce) {
        let body = sample(api.key, api.max);
        for cut in 0..body.len() {
            let seen = check(&schema(api.key).expect("has a schema"), api.max, &body[..cut]);
            assert!(seen.is_err(), "{:?} cut at {cut}", api.key);
        }
    }
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    // The request that aborts the generated decoder: acks, timeout, 2^31-1 topics.
    let mut body = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff][..]);
    assert!(produce::decode(body.split(), 7).is_err());
    for api in APIS.iter().filter(|api| api.key != ApiKey::Produce) {
        for version in api.min..=api.max {
            for len in 0..60 {
                for fill in [0x7f, 0xff, 0x80] {
                    let body = Bytes::from(vec![fill; len]);
                    read(api.key, version, &body);
                }
            }
        }
    }
}

#[test]
fn a_produce_request_of_too_many_partitions_is_refused_before_they_are_held() {
    let request = |topics: &[usize]| {
        let mut body = BytesMut::new();
        body.put_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        body.put_i32(topics.len() as i32);
        for partitions in topics {
            body.put_slice(&[0, 1, b't']);
            body.put_i32(*partitions as i32);
            body.put_slice(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff].repeat(*partitions));
        }
        produce::decode(body, 7)
    };
    let fits = request(&[PRODUCE_ELEMENTS_MAX - 3, 1]).expect("fits");
    assert_eq!(fits.elements, PRODUCE_ELEMENTS_MAX);
    assert!(request(&[PRODUCE_ELEMENTS_MAX]).is_err());
    assert!(request(&[PRODUCE_ELEMENTS_MAX / 2, PRODUCE_ELEMENTS_MAX / 2]).is_err());
}

#[test]
fn what_decoding_takes_is_told_before_it_is_done() {
    let mut body = BytesMut::new();
    body.put_i32(50_000);
    body.put_slice(&[0, 1, b't'].repeat(50_000));
    let checked = request::check(ApiKey::Metadata, 0, body).expect("fits");
    assert_eq!(checked.decoding_bytes(), 50_000 * ELEMENT_BYTES);
}

#[test]
fn produce_splits_large_records_off_the_frame_without_a_copy() {
    for version in 3..=13 {
        let frame = BytesMut::from(&produce_sample(version)[..]);
        let bounds = frame.as_ptr() as usize..=frame.as_ptr() as usize + frame.len();
        let request = produce::decode(frame, version).expect("decodes");
        assert_eq!((request.acks, request.timeout_ms, request.topics.len()), (-1, 5000, 2));
        assert_eq!(request.transactional_id.as_deref(), Some("tx"));
        for topic in &request.topics {
            let named = if version >= 13 { TopicRef::Id(Uuid::from_u128(7)) } else { TopicRef::Name("orders".into()) };
            assert_eq!(topic.topic, named);
            let got: Vec<_> = topic.partitions.iter().map(|p| (p.index, p.records.len())).collect();
            assert_eq!(got, [(1, 100), (2, 0), (3, 300)]);
            for partition in topic.partitions.iter().filter(|p| !p.records.is_empty()) {
                assert!(partition.records.iter().all(|b| *b == partition.index as u8));
                let stays = bounds.contains(&(partition.records.as_ptr() as usize));
                assert_eq!(stays, partition.index == 3, "version {version}, partition {}", partition.index);
            }
        }
    }
}

fn node(id: i32, rack: Option<&str>) -> NodeEndpoint {
    NodeEndpoint { id, host: "h".into(), port: 9092, rack: rack.map(ToOwned::to_owned) }
}

#[test]
fn produce_responses_are_read_by_the_generated_decoder() {
    for version in 3..=13 {
        let topic = if version >= 13 { TopicRef::Id(Uuid::from_u128(7)) } else { TopicRef::Name("orders".into()) };
        let answer = |index, error| produce::PartitionAnswer {
            index,
            error,
            base_offset: 42,
            log_append_time_ms: 7,
            log_start_offset: 5,
            message: Some("why".into()),
            record_errors: vec![(2, "late".into())],
            leader: (error == ErrorCode::NOT_LEADER_OR_FOLLOWER).then_some(CurrentLeader { leader: 2, epoch: 9 }),
        };
        let errors = [ErrorCode::NONE, ErrorCode::MESSAGE_TOO_LARGE, ErrorCode::NOT_LEADER_OR_FOLLOWER];
        let answers = vec![(topic, errors.into_iter().zip(0..).map(|(error, n)| answer(n, error)).collect())];
        let mut frame = produce::encode_response(99, version, &answers, &[node(2, None), node(3, Some("b"))]);
        let read: m::ProduceResponse = response_of(&mut frame, ApiKey::Produce, version);
        let partitions = &read.responses[0].partition_responses;
        assert_eq!((partitions.len(), partitions[0].base_offset, partitions[0].log_append_time_ms), (3, 42, 7));
        let hint = &partitions[2].current_leader;
        assert_eq!((hint.leader_id.0, hint.leader_epoch), if version >= 10 { (2, 9) } else { (-1, -1) });
        assert_eq!(partitions[1].current_leader.leader_id.0, -1);
        let nodes = read.node_endpoints.iter().map(|n| (n.node_id.0, n.host.to_string(), n.port, n.rack.is_some()));
        let named = [(2, "h".to_owned(), 9092, false), (3, "h".to_owned(), 9092, true)];
        assert_eq!(nodes.collect::<Vec<_>>(), named[..if version >= 10 { 2 } else { 0 }]);
        assert_eq!((partitions[1].index, partitions[1].error_code), (1, 10));
        assert_eq!(partitions[0].log_start_offset, if version >= 5 { 5 } else { -1 });
        assert_eq!(partitions[1].error_message.is_some(), version >= 8);
        assert_eq!(partitions[1].record_errors.len(), usize::from(version >= 8));
        assert!(partitions[1].record_errors.iter().all(|record| record.batch_index == 2));
    }
}

#[test]
fn fetch_responses_are_read_by_the_generated_decoder_and_copy_nothing() {
    let batches = vec![Bytes::from(vec![1; 70_000]), Bytes::from(vec![2; 5])];
    for version in 4..=18 {
        let topic = if version >= 13 { TopicRef::Id(Uuid::from_u128(7)) } else { TopicRef::Name("orders".into()) };
        let full = fetch::PartitionAnswer {
            index: 3,
            error: ErrorCode::NONE,
            high_watermark: 100,
            last_stable_offset: 90,
            log_start_offset: 10,
            lists_aborted: version % 2 == 0,
            diverging: Some(EpochEnd { epoch: LeaderEpoch(3), end: Offset::new(55) }),
            leader: None,
            batches: batches.clone(),
        };
        let refused = fetch::PartitionAnswer::error(4, ErrorCode::OFFSET_OUT_OF_RANGE);
        let moved = fetch::PartitionAnswer {
            leader: Some(CurrentLeader { leader: 3, epoch: 9 }),
            ..fetch::PartitionAnswer::error(5, ErrorCode::NOT_LEADER_OR_FOLLOWER)
        };
        let topics = vec![(topic, vec![full, refused, moved])];
        let pieces = fetch::encode_response(99, version, ErrorCode::NONE, 77, topics, &[node(3, Some("b"))]);
        assert!(pieces.iter().any(|p| p.as_ptr() == batches[0].as_ptr()));
        let mut frame = Bytes::from(pieces.concat());
        let read: m::FetchResponse = response_of(&mut frame, ApiKey::Fetch, version);
        assert_eq!(read.session_id, if version >= 7 { 77 } else { 0 });
        let partitions = &read.responses[0].partitions;
        let diverging = &partitions[0].diverging_epoch;
        assert_eq!((diverging.epoch, diverging.end_offset), if version >= 12 { (3, 55) } else { (-1, -1) });
        assert_eq!(partitions[1].diverging_epoch.epoch, -1);
        let hint = &partitions[2].current_leader;
        assert_eq!((hint.leader_id.0, hint.leader_epoch), if version >= 16 { (3, 9) } else { (-1, -1) });
        assert_eq!(partitions[1].current_leader.leader_id.0, -1);
        let nodes: Vec<_> = read.node_endpoints.iter().map(|n| (n.node_id.0, n.port, n.rack.is_some())).collect();
        assert_eq!(nodes, [(3, 9092, true)][..usize::from(version >= 16)]);
        assert_eq!(partitions[0].records.as_ref().map(Bytes::len), Some(70_005));
        assert_eq!((partitions[0].high_watermark, partitions[0].last_stable_offset), (100, 90));
        assert_eq!(partitions[0].aborted_transactions.is_some(), version % 2 == 0);
        assert_eq!((partitions[1].partition_index, partitions[1].error_code), (4, 1));
        assert_eq!(partitions[1].records.as_ref().map(Bytes::len), Some(0));
    }
}

/// Checks length prefix and header, then decodes the rest and expects nothing behind it.
fn response_of<R: Decodable>(frame: &mut Bytes, key: ApiKey, version: i16) -> R {
    use bytes::Buf;
    assert_eq!(frame.get_u32() as usize, frame.len(), "length prefix");
    let header = m::ResponseHeader::decode(frame, key.response_header_version(version)).expect("header");
    assert_eq!(header.correlation_id, 99);
    let response = R::decode(frame, version).expect("decodes");
    assert!(frame.is_empty(), "{key:?} {version}: {} bytes left", frame.len());
    response
}

#[test]
fn headers_of_both_versions() {
    for version in [1i16, 2] {
        let header = m::RequestHeader::default().with_request_api_key(3).with_request_api_version(9);
        let mut frame = BytesMut::new();
        header.with_correlation_id(7).with_client_id(Some(text("me"))).encode(&mut frame, version).expect("encodes");
        frame.extend_from_slice(b"body");
        let read = header::parse(&mut frame, version == 2).expect("parses");
        assert_eq!((read.api_key, read.api_version, read.correlation_id), (3, 9, 7));
        assert_eq!((read.client_id.as_deref(), &frame[..]), (Some("me"), &b"body"[..]));
    }
}

fn any_api() -> impl Strategy<Value = (ApiKey, i16)> {
    let all: Vec<_> = APIS.iter().flat_map(|api| (api.min..=api.max).map(|v| (api.key, v))).collect();
    proptest::sample::select(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn mutated_requests_never_panic(
        (key, version) in any_api(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut body = sample(key, version).to_vec();
        for (at, byte) in flips {
            let len = body.len();
            if len > 0 {
                body[at.index(len)] = byte;
            }
        }
        if cuts {
            body.truncate(cut.index(body.len() + 1));
        }
        read(key, version, &Bytes::from(body));
    }

    #[test]
    fn random_bytes_never_panic((key, version) in any_api(), body in proptest::collection::vec(any::<u8>(), 0..300)) {
        read(key, version, &Bytes::from(body.clone()));
        let _ = header::parse(&mut BytesMut::from(&body[..]), version % 2 == 0);
        let _ = header::peek(&body);
    }
}
