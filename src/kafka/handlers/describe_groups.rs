//! `DescribeGroups` (15): members and shares of groups. An unknown group is `Dead`, and from v6 on an error as well.

use futures::future::join_all;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup as Described, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use crate::group::message::DescribedGroup;
use crate::group::state::StateName;
use crate::group::{GroupError, GroupId};
use crate::kafka::RequestContext;
use crate::kafka::authorized;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::{message, text};

/// Asks the coordinators of the groups.
pub async fn handle(ctx: &RequestContext, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let operations = authorized::told(request.include_authorized_operations, authorized::ON_GROUP);
    let asked = request.groups.into_iter().map(|group| async move {
        let found = ctx.broker.groups.describe(GroupId::from(group.as_str())).await;
        described(ctx.version, found).with_group_id(group).with_authorized_operations(operations)
    });
    DescribeGroupsResponse::default().with_groups(join_all(asked).await)
}

fn described(version: i16, found: Result<DescribedGroup, GroupError>) -> Described {
    match found {
        Ok(group) => in_full(version, &group),
        Err(GroupError::NotFound) if version < 6 => {
            Described::default().with_group_state(text(StateName::Dead.as_str())).with_error_message(None)
        }
        Err(error) => Described::default()
            .with_group_state(text(StateName::Dead.as_str()))
            .with_error_code(ErrorCode::from(&error).number())
            .with_error_message(message(&error).filter(|_| version >= 6)),
    }
}

fn in_full(version: i16, group: &DescribedGroup) -> Described {
    let members = group.members.iter().map(|member| {
        DescribedGroupMember::default()
            .with_member_id(text(member.id.as_str()))
            .with_group_instance_id(member.instance.as_ref().filter(|_| version >= 4).map(|i| text(i.as_str())))
            .with_client_id(text(&member.client_id))
            .with_client_host(text(&member.client_host))
            .with_member_metadata(member.metadata.clone())
            .with_member_assignment(member.assignment.clone())
    });
    Described::default()
        .with_error_message(None)
        .with_group_state(text(group.state.as_str()))
        .with_protocol_type(text(&group.protocol_type))
        .with_protocol_data(text(&group.protocol))
        .with_members(members.collect())
}
