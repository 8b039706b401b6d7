//! `JoinGroup` (11): a member joins, and waits until its group's next generation begins.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use crate::group::state::{Join, Joined};
use crate::group::{GroupError, GroupId, InstanceId, MemberId, ProtocolName};
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::text;

/// How much of its client's name a member's id repeats.
const KNOWN_AS_CHARS_MAX: usize = 255;

/// Answers when the join barrier of the group lifts.
pub async fn handle(ctx: &RequestContext, request: JoinGroupRequest) -> JoinGroupResponse {
    let group = GroupId::from(request.group_id.as_str());
    let asked_as = request.member_id.clone();
    let outcome = ctx.broker.groups.join(group, join(ctx, request)).await;
    answer(ctx.version, asked_as.as_str(), outcome)
}

fn join(ctx: &RequestContext, request: JoinGroupRequest) -> Join {
    let millis = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let session = millis(request.session_timeout_ms);
    let instance = request.group_instance_id.as_deref().map(InstanceId::from);
    let known_as = instance.as_ref().map_or(ctx.client_id.as_str(), InstanceId::as_str);
    let fresh = fresh_id(known_as, ctx.broker.env.rng.uuid());
    Join {
        member: (!request.member_id.is_empty()).then(|| MemberId::from(request.member_id.as_str())),
        fresh,
        id_required: ctx.version >= 4 && instance.is_none(),
        instance,
        may_skip: ctx.version >= 9,
        client_id: ctx.client_id.clone(),
        client_host: ctx.client_host(),
        session,
        rebalance: if ctx.version == 0 { session } else { millis(request.rebalance_timeout_ms) },
        protocol_type: request.protocol_type.as_str().into(),
        protocols: protocols(&request.protocols),
    }
}

/// In memory of their own: a member lives long, and its request may have been a hundred times as large.
fn protocols(asked: &[JoinGroupRequestProtocol]) -> Vec<(ProtocolName, Bytes)> {
    asked.iter().map(|p| (p.name.as_str().into(), Bytes::copy_from_slice(&p.metadata))).collect()
}

/// An id for a member, by what its client calls itself, cut to a length that stands in every answer and record of the
/// group.
fn fresh_id(known_as: &str, unique: uuid::Uuid) -> MemberId {
    let known_as = known_as.chars().take(KNOWN_AS_CHARS_MAX).collect::<String>();
    MemberId::from(format!("{known_as}-{unique}"))
}

fn answer(version: i16, asked_as: &str, outcome: Result<Joined, GroupError>) -> JoinGroupResponse {
    match outcome {
        Ok(joined) => accepted(version, joined),
        Err(error) => {
            let member = match &error {
                GroupError::MemberIdRequired(id) => id.as_str(),
                // There is no place for it: it has no id any more.
                GroupError::Full(_) => "",
                _ => asked_as,
            };
            JoinGroupResponse::default()
                .with_error_code(ErrorCode::from(&error).number())
                .with_generation_id(-1)
                .with_protocol_name((version < 7).then(|| text("")))
                .with_member_id(text(member))
        }
    }
}

fn accepted(version: i16, joined: Joined) -> JoinGroupResponse {
    let name = |name: &ProtocolName| text(name.as_str());
    let members = joined.members.iter().map(|member| {
        let instance = member.instance.as_ref().filter(|_| version >= 5).map(|i| text(i.as_str()));
        JoinGroupResponseMember::default()
            .with_member_id(text(member.id.as_str()))
            .with_group_instance_id(instance)
            .with_metadata(member.metadata.clone())
    });
    JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_type(joined.protocol_type.as_ref().filter(|_| version >= 7).map(name))
        .with_protocol_name(Some(joined.protocol.as_ref().map_or_else(|| text(""), name)))
        .with_leader(text(joined.leader.as_str()))
        .with_skip_assignment(joined.skip_assignment)
        .with_member_id(text(joined.member.as_str()))
        .with_members(members.collect())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;
    use crate::kafka::wire::response;

    #[test]
    fn what_a_member_joins_with_keeps_nothing_of_its_request() {
        let frame = Bytes::from(vec![7; 1 << 20]);
        let asked = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(frame.slice(10..20));
        let kept = protocols(&[asked]);
        assert!(frame.is_unique(), "the frame is kept");
        assert_eq!(kept[0].1, frame.slice(10..20));
    }

    #[test]
    fn a_long_client_name_makes_no_long_id() {
        assert_eq!(fresh_id("c", uuid::Uuid::nil()).as_str(), "c-00000000-0000-0000-0000-000000000000");
        assert_eq!(fresh_id(&"é".repeat(30_000), uuid::Uuid::nil()).as_str().len(), 2 * KNOWN_AS_CHARS_MAX + 37);
    }

    #[test]
    fn a_refused_member_keeps_its_id_unless_the_group_is_full() {
        let shown = |error| answer(9, "m-1", Err(error)).member_id.to_string();
        assert_eq!(shown(GroupError::RebalanceInProgress), "m-1");
        assert_eq!(shown(GroupError::MemberIdRequired("m-2".into())), "m-2");
        assert_eq!(shown(GroupError::Full(5)), "");
    }

    #[test]
    fn answers_can_be_written_in_every_version() {
        let member = crate::group::state::JoinedMember {
            id: "m".into(),
            instance: Some("i".into()),
            metadata: Bytes::from_static(b"x"),
        };
        let joined = Joined {
            generation: 1,
            protocol_type: Some("consumer".into()),
            protocol: Some("range".into()),
            leader: "m".into(),
            member: "m".into(),
            members: vec![member],
            skip_assignment: false,
        };
        for version in 0..=9 {
            for outcome in [Ok(joined.clone()), Err(GroupError::MemberIdRequired("n".into()))] {
                let answer = answer(version, "", outcome);
                response::encode(ApiKey::JoinGroup, version, 1, &answer).expect("writes");
            }
        }
    }
}
