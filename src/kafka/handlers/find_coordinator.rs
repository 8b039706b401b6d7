//! `FindCoordinator` (10): the broker that coordinates a group, which is the leader of the group's partition of
//! `__consumer_offsets`; the topic is made at the first use.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use crate::controller::image::{BrokerImage, ClusterImage};
use crate::controller::leaders::Leaders;
use crate::group::OFFSETS_TOPIC;
use crate::group::ids::partition_of;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::view::PartitionView;
use crate::kafka::words::text;

/// Kafka's `key_type`s: a group and a transactional id; 2 is a share partition.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// First version that asks for several keys.
const SEVERAL_FROM: i16 = 4;

type Found = Result<BrokerImage, (ErrorCode, String)>;

/// Answers for groups; transactions and share groups are not served.
pub async fn handle(ctx: &RequestContext, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let key_type = request.key_type;
    if ctx.version < SEVERAL_FROM {
        let found = find(ctx, key_type, &request.key).await;
        return single(ctx.version, found);
    }
    let found = at_once(request.coordinator_keys.iter().map(|key| find(ctx, key_type, key))).await;
    let coordinators = request.coordinator_keys.into_iter().zip(found).map(|(key, found)| one(key, found));
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}

async fn find(ctx: &RequestContext, key_type: i8, key: &str) -> Found {
    if key_type != GROUP {
        return Err(not_served(ctx.version, key_type));
    }
    ctx.broker.groups.find(key).await.map_err(|error| ((&error).into(), error.to_string()))?;
    coordinator(&ctx.image(), &ctx.leaders(), key).cloned().ok_or_else(|| {
        let why = "the group's partition of __consumer_offsets has no leader at the moment";
        (ErrorCode::COORDINATOR_NOT_AVAILABLE, why.to_owned())
    })
}

/// The leader of the group's partition.
fn coordinator<'a>(image: &'a ClusterImage, leaders: &Leaders, group: &str) -> Option<&'a BrokerImage> {
    let topic = image.topic(OFFSETS_TOPIC)?;
    let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    let partition = topic.partition(partition_of(group, partitions))?;
    image.brokers.get(&PartitionView::of(image, leaders, partition).leader?)
}

/// An answer on which clients give up at once. Of a transactional id librdkafka (up to version 2) repeats the request
/// forever unless it is not authorized, and shows the message; Java and kafka-python (version 6) show the message or
/// the name of any other error.
fn not_served(version: i16, key_type: i8) -> (ErrorCode, String) {
    let what = if key_type == TRANSACTION { "transactions" } else { "share groups" };
    let error = match key_type {
        TRANSACTION if version < SEVERAL_FROM => ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        _ => ErrorCode::INVALID_REQUEST,
    };
    (error, format!("{what} are not served by this broker"))
}

fn single(version: i16, found: Found) -> FindCoordinatorResponse {
    match found {
        Ok(broker) => FindCoordinatorResponse::default()
            .with_node_id(BrokerId(broker.id.0))
            .with_host(text(&broker.kafka().host))
            .with_port(i32::from(broker.kafka().port))
            .with_error_message((version >= 1).then(|| text(ErrorCode::NONE.name()))),
        Err((code, why)) => FindCoordinatorResponse::default()
            .with_error_code(code.number())
            .with_error_message((version >= 1).then(|| text(&why)))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}

fn one(key: StrBytes, found: Found) -> Coordinator {
    let coordinator = Coordinator::default().with_key(key);
    match found {
        Ok(broker) => coordinator
            .with_node_id(BrokerId(broker.id.0))
            .with_host(text(&broker.kafka().host))
            .with_port(i32::from(broker.kafka().port)),
        Err((code, why)) => coordinator
            .with_error_code(code.number())
            .with_error_message(Some(text(&why)))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::fixture::{cluster, leaders_of};

    #[test]
    fn a_group_is_coordinated_by_the_leader_of_its_partition() {
        let image = cluster(&[(OFFSETS_TOPIC, 3)]);
        let found = |leaders: &Leaders| coordinator(&image, leaders, "readers").map(|broker| broker.id.0);
        assert_eq!(found(&leaders_of(2, 5)), Some(2));
        assert_eq!(found(&Leaders::default()), None);
        assert_eq!(coordinator(&cluster(&[]), &leaders_of(2, 5), "readers"), None, "the topic is not here yet");
    }

    #[test]
    fn every_client_gives_up_a_transactional_id_at_once() {
        for (version, error) in [(2, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED), (6, ErrorCode::INVALID_REQUEST)]
        {
            let why = "transactions are not served by this broker".to_owned();
            assert_eq!(not_served(version, TRANSACTION), (error, why));
            assert_eq!(not_served(version, 2).0, ErrorCode::INVALID_REQUEST);
        }
    }
}
