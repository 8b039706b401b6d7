//! `Heartbeat` (12): a member is alive, and learns whether to join again.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use crate::group::message::Heartbeat;
use crate::group::{GroupError, GroupId, InstanceId};
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
    HeartbeatResponse::default().with_error_code(code_of(&as_told(outcome)))
}

/// While the coordinator loads, Kafka takes every heartbeat for good: clients do not expect to have to wait here, and a
/// member that is not one any more learns it with the next.
fn as_told(outcome: Result<(), GroupError>) -> Result<(), GroupError> {
    match outcome {
        Err(GroupError::Loading) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_that_loads_takes_every_heartbeat() {
        assert_eq!(as_told(Err(GroupError::Loading)), Ok(()));
        assert_eq!(as_told(Err(GroupError::UnknownMember)), Err(GroupError::UnknownMember));
        assert_eq!(as_told(Ok(())), Ok(()));
    }
}
