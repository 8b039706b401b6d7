//! `DeleteGroups` (42): forgets groups without members, offsets and all.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use crate::group::GroupId;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::code_of;

/// Answers when the deletions are durable.
pub async fn handle(ctx: &RequestContext, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let asked = request.groups_names.into_iter().map(|group| async move {
        let outcome = ctx.broker.groups.delete(GroupId::from(group.as_str())).await;
        DeletableGroupResult::default().with_group_id(group).with_error_code(code_of(&outcome))
    });
    DeleteGroupsResponse::default().with_results(at_once(asked).await)
}
