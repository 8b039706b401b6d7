//! `SyncGroup` (14): the leader hands in the shares, everyone gets theirs.

use bytes::Bytes;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use crate::group::state::{Sync, Synced};
use crate::group::{GroupError, GroupId, InstanceId, MemberId, ProtocolName};
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::text;

/// Answers when the leader's assignments are durable.
pub async fn handle(ctx: &RequestContext, request: SyncGroupRequest) -> SyncGroupResponse {
    let group = GroupId::from(request.group_id.as_str());
    // From v5 on both names are mandatory.
    if ctx.version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return answer(ctx.version, Err(GroupError::InconsistentProtocol));
    }
    let sync = Sync {
        member: request.member_id.as_str().into(),
        instance: request.group_instance_id.as_deref().map(InstanceId::from),
        generation: request.generation_id,
        protocol_type: request.protocol_type.as_deref().map(ProtocolName::from),
        protocol: request.protocol_name.as_deref().map(ProtocolName::from),
        assignments: request
            .assignments
            .into_iter()
            // In memory of its own, as what a member joined with: it stays until the next rebalance.
            .map(|share| (MemberId::from(share.member_id.as_str()), Bytes::copy_from_slice(&share.assignment)))
            .collect(),
    };
    answer(ctx.version, ctx.broker.groups.sync(group, sync).await)
}

fn answer(version: i16, outcome: Result<Synced, GroupError>) -> SyncGroupResponse {
    match outcome {
        Err(error) => SyncGroupResponse::default().with_error_code(ErrorCode::from(&error).number()),
        Ok(synced) => {
            let name = |name: Option<ProtocolName>| name.filter(|_| version >= 5).map(|name| text(name.as_str()));
            SyncGroupResponse::default()
                .with_protocol_type(name(synced.protocol_type))
                .with_protocol_name(name(synced.protocol))
                .with_assignment(synced.assignment)
        }
    }
}
