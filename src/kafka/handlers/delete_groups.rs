//! `DeleteGroups` (42): forgets groups without members, offsets and all.

use std::collections::HashSet;

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use crate::group::GroupId;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::code_of;

/// Answers when the deletions are durable, once for each group however often it is named.
pub async fn handle(ctx: &RequestContext, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut named = HashSet::new();
    let groups = request.groups_names.into_iter().filter(|group| named.insert(group.clone()));
    let asked = groups.map(|group| async move {
        let outcome = ctx.broker.groups.delete(GroupId::from(group.as_str())).await;
        DeletableGroupResult::default().with_group_id(group).with_error_code(code_of(&outcome))
    });
    DeleteGroupsResponse::default().with_results(at_once(asked).await)
}
