//! `DescribeGroups` (15): members and shares of groups. An unknown group is `Dead`, and from v6 on an error as well.

use kafka_protocol::messages::describe_groups_response::{DescribedGroup as Described, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use crate::group::message::DescribedGroup;
use crate::group::state::StateName;
use crate::group::{GroupError, GroupId};
use crate::kafka::RequestContext;
use crate::kafka::answer_room::{AnswerRoom, FULL};
use crate::kafka::at_once::at_once;
use crate::kafka::authorized;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::{message, text};

/// Asks the coordinators of the groups, of each as often as it is named, until the answer is full.
pub async fn handle(ctx: &RequestContext, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let operations = authorized::if_asked(request.include_authorized_operations, authorized::ON_GROUP);
    let room = &AnswerRoom::new(&ctx.budget);
    let asked = request.groups.into_iter().map(|group| async move {
        if room.is_full() {
            return full(ctx.version).with_group_id(group).with_authorized_operations(operations);
        }
        let found = ctx.broker.groups.describe(GroupId::from(group.as_str())).await;
        let id = group.as_str().to_owned();
        fitting(ctx.version, described(ctx.version, &id, found), room)
            .with_group_id(group)
            .with_authorized_operations(operations)
    });
    DescribeGroupsResponse::default().with_groups(at_once(asked).await)
}

/// The group, or that there is no room for it.
fn fitting(version: i16, described: Described, room: &AnswerRoom) -> Described {
    let member = |member: &DescribedGroupMember| {
        size_of::<DescribedGroupMember>() + member.member_metadata.len() + member.member_assignment.len()
    };
    if room.takes(size_of::<Described>() + described.members.iter().map(member).sum::<usize>()) {
        return described;
    }
    full(version)
}

fn full(version: i16) -> Described {
    Described::default()
        .with_group_state(text(StateName::Dead.as_str()))
        .with_error_code(ErrorCode::INVALID_REQUEST.number())
        .with_error_message(message(&FULL).filter(|_| version >= 6))
}

fn described(version: i16, id: &str, found: Result<DescribedGroup, GroupError>) -> Described {
    match found {
        Ok(group) => in_full(version, &group),
        Err(GroupError::NotFound) if version < 6 => {
            Described::default().with_group_state(text(StateName::Dead.as_str())).with_error_message(None)
        }
        Err(GroupError::NotFound) => Described::default()
            .with_group_state(text(StateName::Dead.as_str()))
            .with_error_code(ErrorCode::GROUP_ID_NOT_FOUND.number())
            .with_error_message(message(&format!("Group {id} not found."))),
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::messages::ApiKey;

    use super::*;
    use crate::group::message::DescribedMember;
    use crate::kafka::budget::Budget;
    use crate::kafka::handlers::fixture::encodes_in_every_version;
    use crate::kafka::limits::ANSWER_BYTES_MAX;
    use crate::kafka::wire::response;

    #[test]
    fn an_unknown_group_is_dead_and_from_v6_on_an_error() {
        let before = described(5, "g", Err(GroupError::NotFound));
        assert_eq!((before.error_code, before.group_state.as_str()), (0, "Dead"));
        let after = described(6, "g", Err(GroupError::NotFound));
        assert_eq!((after.error_code, after.error_message.as_deref()), (69, Some("Group g not found.")));
        let loading = described(5, "g", Err(GroupError::Loading));
        assert_eq!(loading.error_code, 14);
        encodes_in_every_version(ApiKey::DescribeGroups, &DescribeGroupsResponse::default().with_groups(vec![loading]));
    }

    fn group(metadata: Bytes) -> DescribedGroup {
        let member = DescribedMember {
            id: "m".into(),
            instance: Some("i".into()),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            metadata,
            assignment: Bytes::from_static(b"y"),
        };
        DescribedGroup {
            state: StateName::Stable,
            protocol_type: "consumer".into(),
            protocol: "range".into(),
            members: vec![member],
        }
    }

    #[test]
    fn a_full_answer_takes_no_more() {
        let budget = Budget::new(1 << 30);
        let room = AnswerRoom::new(&budget);
        let group = group(Bytes::from(vec![0; ANSWER_BYTES_MAX / 3]));
        let codes = [6, 6, 6, 5].map(|version| {
            let answer = fitting(version, described(version, "g", Ok(group.clone())), &room);
            response::encode(
                ApiKey::DescribeGroups,
                version,
                1,
                &DescribeGroupsResponse::default().with_groups(vec![answer.clone()]),
            )
            .expect("writes");
            (answer.error_code, answer.members.len())
        });
        assert_eq!(codes, [(0, 1), (0, 1), (42, 0), (42, 0)]);
    }

    #[test]
    fn members_can_be_written_in_every_version() {
        let group = group(Bytes::from_static(b"x"));
        for version in 0..=6 {
            let answer =
                DescribeGroupsResponse::default().with_groups(vec![described(version, "g", Ok(group.clone()))]);
            response::encode(ApiKey::DescribeGroups, version, 1, &answer).expect("writes");
        }
    }
}
