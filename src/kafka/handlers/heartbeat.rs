//! `Heartbeat` (12): a member is alive, and learns whether to join again.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use crate::group::message::Heartbeat;
use crate::group::{GroupId, InstanceId};
use crate::kafka::RequestContext;
use crate::kafka::error_code::code_of;

/// Asks the group's coordinator.
pub async fn handle(ctx: &RequestContext, request: HeartbeatRequest) -> HeartbeatResponse {
    let beat = Heartbeat {
        member: request.member_id.as_str().into(),
        instance: request.group_instance_id.as_deref().map(InstanceId::from),
        generation: request.generation_id,
    };
    let outcome = ctx.broker.groups.heartbeat(GroupId::from(request.group_id.as_str()), beat).await;
    HeartbeatResponse::default().with_error_code(code_of(&outcome))
}
