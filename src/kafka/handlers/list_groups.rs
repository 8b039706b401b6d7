//! `ListGroups` (16): all groups of this broker, by state and type if asked so.

use kafka_protocol::messages::list_groups_response::ListedGroup as Listed;
use kafka_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::group::message::ListedGroup;
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::text;

/// The one type of group served (KIP-848 calls it so).
const CLASSIC: &str = "classic";

/// Asks every coordinator.
pub async fn handle(ctx: &RequestContext, request: ListGroupsRequest) -> ListGroupsResponse {
    match ctx.broker.groups.list().await {
        Err(error) => ListGroupsResponse::default().with_error_code(ErrorCode::from(&error).number()),
        Ok(groups) => {
            let groups = groups.into_iter().filter(|group| is_wanted(&request, group));
            ListGroupsResponse::default().with_groups(groups.map(|group| listed(ctx.version, &group)).collect())
        }
    }
}

/// Filters name states and types in any case; an empty filter lets everything through.
fn is_wanted(request: &ListGroupsRequest, group: &ListedGroup) -> bool {
    let names =
        |filter: &[StrBytes], name: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(name));
    names(&request.states_filter, group.state.as_str()) && names(&request.types_filter, CLASSIC)
}

fn listed(version: i16, group: &ListedGroup) -> Listed {
    let from = |least: i16, word: &str| if version >= least { text(word) } else { StrBytes::default() };
    Listed::default()
        .with_group_id(text(group.id.as_str()).into())
        .with_protocol_type(text(&group.protocol_type))
        .with_group_state(from(4, group.state.as_str()))
        .with_group_type(from(5, CLASSIC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::state::StateName;

    #[test]
    fn filters_are_of_state_and_type() {
        let group = ListedGroup { id: "g".into(), protocol_type: "consumer".into(), state: StateName::Stable };
        let ask = |states: &[&str], types: &[&str]| {
            let all = |names: &[&str]| names.iter().map(|name| text(name)).collect::<Vec<_>>();
            let request = ListGroupsRequest::default().with_states_filter(all(states)).with_types_filter(all(types));
            is_wanted(&request, &group)
        };
        assert!(ask(&[], &[]) && ask(&["stable"], &["Classic"]) && ask(&["Empty", "Stable"], &[]));
        assert!(!ask(&["Empty"], &[]) && !ask(&[], &["consumer"]) && !ask(&["Nonsense"], &[]));
    }
}
