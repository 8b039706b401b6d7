//! From a request's bytes to its handler and from the handler's answer to bytes: one row per API.
//!
//! A handler is `pub async fn handle(ctx: &RequestContext, request: XRequest) -> XResponse` in a file of its own;
//! Produce and Fetch have their own codecs and are called with bytes. A request that does not pass the guard or the
//! decoder closes the connection, as Kafka does.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use kafka_protocol::messages::{self, ApiKey};
use kafka_protocol::protocol::Encodable;
use tidewater_storage::env::Mono;

use super::answer_codes::AnswerCodes;
use super::api::APIS;
use super::budget::Budget;
use super::connection::{CloseReason, Reply, Request, Service};
use super::metrics::{Stage, add};
use super::outbox::Sent;
use super::wire::{request, response};
use super::{Broker, RequestContext, handlers};

/// Answers the requests of a shard. Shard-local.
#[derive(Debug)]
pub struct Dispatch {
    broker: Rc<Broker>,
    budget: Budget,
}

impl Dispatch {
    /// With the shard's broker and its memory for requests.
    #[must_use]
    pub fn new(broker: Rc<Broker>, budget: Budget) -> Self {
        Self { broker, budget }
    }
}

impl Service for Dispatch {
    fn call(&self, request: Request) -> LocalBoxFuture<'static, Reply> {
        let ctx = RequestContext {
            broker: Rc::clone(&self.broker),
            budget: self.budget.clone(),
            key: request.api.key,
            version: request.header.api_version,
            correlation_id: request.header.correlation_id,
            client_id: request.header.client_id.unwrap_or_default(),
            peer: request.peer,
            order: request.order,
        };
        answer(ctx, request.body)
    }

    fn api_versions_fallback(&self, correlation_id: i32) -> Bytes {
        let apis = APIS.iter().map(|api| (api.key as i16, api.advertised_min, api.max));
        response::api_versions_fallback(correlation_id, apis)
    }

    fn now(&self) -> Mono {
        self.broker.env.clock.now()
    }

    fn moved(&self, received: usize, sent: Sent) {
        let metrics = &self.broker.metrics;
        add(&metrics.bytes_received, received as u64);
        add(&metrics.bytes_sent, sent.bytes as u64);
        add(&metrics.writes, sent.writes as u64);
    }

    fn flushed(&self, took: Duration) {
        self.broker.metrics.stage(Stage::Send, took);
    }
}

/// Decodes with the generated decoder, calls the handler of that file, encodes.
macro_rules! generated {
    ($ctx:ident, $body:ident, $handler:ident, $request:ident) => {
        generated!($ctx, $body, $handler, request::decode::<messages::$request>)
    };
    ($ctx:ident, $body:ident, $handler:ident, $read:expr) => {
        Box::pin(async move {
            let start = $ctx.broker.env.clock.now();
            let _in_work = $ctx.broker.metrics.begin();
            let checked = match request::check($ctx.key, $ctx.version, $body) {
                Ok(checked) => checked,
                Err(why) => return malformed(&$ctx, why),
            };
            let _decoded = $ctx.room(checked.decoding_bytes()).await;
            let request = match $read(checked) {
                Ok(request) => request,
                Err(why) => return malformed(&$ctx, why),
            };
            let answer = handlers::$handler::handle(&$ctx, request).await;
            answer.codes(&mut |code| $ctx.broker.metrics.count_code($ctx.key, code));
            let reply = encode(&$ctx, &answer);
            $ctx.broker.metrics.answered($ctx.key, $ctx.version, $ctx.broker.env.clock.now().since(start));
            reply
        })
    };
}

/// Calls a handler that reads and writes its own bytes.
macro_rules! by_hand {
    ($ctx:ident, $body:ident, $handler:ident) => {
        Box::pin(async move {
            let start = $ctx.broker.env.clock.now();
            let _in_work = $ctx.broker.metrics.begin();
            let reply = handlers::$handler::serve(&$ctx, $body).await;
            $ctx.broker.metrics.answered($ctx.key, $ctx.version, $ctx.broker.env.clock.now().since(start));
            reply
        })
    };
}

fn answer(ctx: RequestContext, body: BytesMut) -> LocalBoxFuture<'static, Reply> {
    match ctx.key {
        ApiKey::Produce => by_hand!(ctx, body, produce),
        ApiKey::Fetch => by_hand!(ctx, body, fetch),
        ApiKey::ListOffsets => generated!(ctx, body, list_offsets, ListOffsetsRequest),
        ApiKey::Metadata => generated!(ctx, body, metadata, MetadataRequest),
        ApiKey::OffsetCommit => generated!(ctx, body, offset_commit, request::offset_commit),
        ApiKey::OffsetFetch => generated!(ctx, body, offset_fetch, request::offset_fetch),
        ApiKey::FindCoordinator => generated!(ctx, body, find_coordinator, FindCoordinatorRequest),
        ApiKey::JoinGroup => generated!(ctx, body, join_group, JoinGroupRequest),
        ApiKey::Heartbeat => generated!(ctx, body, heartbeat, HeartbeatRequest),
        ApiKey::LeaveGroup => generated!(ctx, body, leave_group, LeaveGroupRequest),
        ApiKey::SyncGroup => generated!(ctx, body, sync_group, SyncGroupRequest),
        ApiKey::DescribeGroups => generated!(ctx, body, describe_groups, DescribeGroupsRequest),
        ApiKey::ListGroups => generated!(ctx, body, list_groups, ListGroupsRequest),
        ApiKey::ApiVersions => generated!(ctx, body, api_versions, ApiVersionsRequest),
        ApiKey::CreateTopics => generated!(ctx, body, create_topics, CreateTopicsRequest),
        ApiKey::DeleteTopics => generated!(ctx, body, delete_topics, DeleteTopicsRequest),
        ApiKey::DeleteRecords => generated!(ctx, body, delete_records, DeleteRecordsRequest),
        ApiKey::InitProducerId => generated!(ctx, body, init_producer_id, InitProducerIdRequest),
        ApiKey::OffsetForLeaderEpoch => {
            generated!(ctx, body, offset_for_leader_epoch, OffsetForLeaderEpochRequest)
        }
        ApiKey::DescribeConfigs => generated!(ctx, body, describe_configs, DescribeConfigsRequest),
        ApiKey::AlterConfigs => generated!(ctx, body, alter_configs, AlterConfigsRequest),
        ApiKey::DescribeLogDirs => by_hand!(ctx, body, describe_log_dirs),
        ApiKey::CreatePartitions => generated!(ctx, body, create_partitions, CreatePartitionsRequest),
        ApiKey::DeleteGroups => generated!(ctx, body, delete_groups, DeleteGroupsRequest),
        ApiKey::IncrementalAlterConfigs => {
            generated!(ctx, body, incremental_alter_configs, IncrementalAlterConfigsRequest)
        }
        ApiKey::OffsetDelete => generated!(ctx, body, offset_delete, OffsetDeleteRequest),
        ApiKey::DescribeCluster => generated!(ctx, body, describe_cluster, DescribeClusterRequest),
        ApiKey::DescribeAcls => generated!(ctx, body, describe_acls, DescribeAclsRequest),
        ApiKey::CreateAcls => generated!(ctx, body, create_acls, CreateAclsRequest),
        ApiKey::DeleteAcls => generated!(ctx, body, delete_acls, DeleteAclsRequest),
        ApiKey::ElectLeaders => generated!(ctx, body, elect_leaders, ElectLeadersRequest),
        ApiKey::AlterPartitionReassignments => {
            generated!(ctx, body, alter_partition_reassignments, AlterPartitionReassignmentsRequest)
        }
        ApiKey::ListPartitionReassignments => {
            generated!(ctx, body, list_partition_reassignments, ListPartitionReassignmentsRequest)
        }
        ApiKey::DescribeClientQuotas => generated!(ctx, body, describe_client_quotas, DescribeClientQuotasRequest),
        ApiKey::DescribeUserScramCredentials => {
            generated!(ctx, body, describe_user_scram_credentials, DescribeUserScramCredentialsRequest)
        }
        ApiKey::DescribeQuorum => generated!(ctx, body, describe_quorum, DescribeQuorumRequest),
        ApiKey::DescribeProducers => generated!(ctx, body, describe_producers, DescribeProducersRequest),
        ApiKey::ListConfigResources => generated!(ctx, body, list_config_resources, ListConfigResourcesRequest),
        ApiKey::DescribeTopicPartitions => {
            generated!(ctx, body, describe_topic_partitions, DescribeTopicPartitionsRequest)
        }
        key => {
            let reason = CloseReason::Unsupported { key: key as i16, version: ctx.version };
            super::connection::ready(Reply::Close(reason))
        }
    }
}

fn malformed(ctx: &RequestContext, why: String) -> Reply {
    Reply::Close(CloseReason::Malformed { key: ctx.key as i16, version: ctx.version, why })
}

fn encode<R: Encodable>(ctx: &RequestContext, answer: &R) -> Reply {
    match response::encode(ctx.key, ctx.version, ctx.correlation_id, answer) {
        Ok(frame) => ctx.reply(frame),
        Err(error) => Reply::Close(CloseReason::Internal(error.to_string())),
    }
}
