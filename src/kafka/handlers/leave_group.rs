//! `LeaveGroup` (13): one member leaves, or (v3) several, static ones by instance id.

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use crate::group::state::Leave;
use crate::group::{GroupError, GroupId, InstanceId, MemberId};
use crate::kafka::RequestContext;
use crate::kafka::error_code::code_of;

/// Asks the group's coordinator.
pub async fn handle(ctx: &RequestContext, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let group = GroupId::from(request.group_id.as_str());
    let members = if ctx.version < 3 {
        vec![MemberIdentity::default().with_member_id(request.member_id)]
    } else {
        request.members
    };
    let leaves = members.iter().map(|member| Leave {
        member: (!member.member_id.is_empty()).then(|| MemberId::from(member.member_id.as_str())),
        instance: member.group_instance_id.as_deref().map(InstanceId::from),
    });
    let outcome = ctx.broker.groups.leave(group, leaves.collect()).await;
    answer(ctx.version, members, outcome)
}

fn answer(
    version: i16,
    members: Vec<MemberIdentity>,
    outcome: Result<Vec<Result<(), GroupError>>, GroupError>,
) -> LeaveGroupResponse {
    let outcomes = match outcome {
        Err(error) => return LeaveGroupResponse::default().with_error_code(code_of::<()>(&Err(error))),
        Ok(outcomes) => outcomes,
    };
    if version < 3 {
        let code = outcomes.first().map_or(0, code_of);
        return LeaveGroupResponse::default().with_error_code(code);
    }
    let members = members.into_iter().zip(&outcomes).map(|(member, outcome)| {
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(code_of(outcome))
    });
    LeaveGroupResponse::default().with_members(members.collect())
}
