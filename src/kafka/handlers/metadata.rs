//! `Metadata` (3): brokers, topics, who leads what; creates topics that a client asks for, if that is switched on.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse};
use tidewater_storage::model::TopicName;
use uuid::Uuid;

use crate::controller::ask::{TopicError, TopicSpec};
use crate::controller::image::{BrokerImage, ClusterImage, TopicImage};
use crate::controller::leaders::Leaders;
use crate::kafka::RequestContext;
use crate::kafka::authorized;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::AUTO_CREATE_MAX;
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::view::{self, PartitionView, ids};
use crate::kafka::words::{text, topic_name};

/// Answers from the image, after creating what is to be created.
pub async fn handle(ctx: &RequestContext, request: MetadataRequest) -> MetadataResponse {
    let asked = asked(ctx.version, request.topics);
    let may_create = ctx.broker.config.auto_create_topics && (ctx.version < 4 || request.allow_auto_topic_creation);
    let mut created: Vec<(String, Result<Arc<TopicImage>, TopicError>)> = Vec::new();
    if let (true, Asked::Some(topics)) = (may_create, &asked) {
        let names = missing(&ctx.image(), topics);
        let making = names.into_iter().map(|name| async move {
            let made = ctx.broker.controller.create_topic(auto_spec(&name)).await;
            (name, made)
        });
        created = join_all(making).await;
    }
    let image = ctx.image();
    let mut answer = answer(&image, &ctx.leaders(), &asked, |name| {
        let (_, made) = created.iter().find(|(made, _)| made == name)?;
        Some(match made {
            // Another request has made it in between: the image will show it.
            Err(TopicError::Exists(_)) => Err(ErrorCode::LEADER_NOT_AVAILABLE),
            Err(TopicError::Unavailable | TopicError::TimedOut) => Err(ErrorCode::LEADER_NOT_AVAILABLE),
            Err(error) => Err(error.into()),
            Ok(topic) => Ok(Arc::clone(topic)),
        })
    });
    let of_topic = authorized::if_asked(request.include_topic_authorized_operations, authorized::ON_TOPIC);
    answer.topics.iter_mut().filter(|t| t.error_code == 0).for_each(|t| t.topic_authorized_operations = of_topic);
    let of_cluster = authorized::if_asked(request.include_cluster_authorized_operations, authorized::ON_CLUSTER);
    answer.with_cluster_authorized_operations(of_cluster)
}

/// Which topics a request is about.
#[derive(Debug, PartialEq)]
enum Asked {
    All,
    Some(Vec<TopicRef>),
}

/// Version 0 says "all" with an empty array, later ones with null. As for Kafka, the topics are a set: 250,000 times
/// the name of one of a thousand partitions would be an answer of many GB.
fn asked(version: i16, topics: Option<Vec<MetadataRequestTopic>>) -> Asked {
    let mut named = HashSet::new();
    match topics {
        None => Asked::All,
        Some(topics) if topics.is_empty() && version == 0 => Asked::All,
        Some(topics) => Asked::Some(
            topics
                .into_iter()
                .map(|topic| match topic.name {
                    Some(name) => TopicRef::Name(name.as_str().to_owned()),
                    None => TopicRef::Id(topic.topic_id),
                })
                .filter(|topic| named.insert(topic.clone()))
                .collect(),
        ),
    }
}

/// Legal names that no topic has, as many as one request may create.
fn missing(image: &ClusterImage, topics: &[TopicRef]) -> Vec<String> {
    // A topic of a source whose catalogue was not read yet must not be made here, where it would hide the source's.
    if !image.knows_all_topics() {
        return Vec::new();
    }
    let names = topics.iter().filter_map(|topic| match topic {
        TopicRef::Name(name) if image.topic(name).is_none() => TopicName::new(name).ok(),
        _ => None,
    });
    let mut names: Vec<String> = names.filter(|n| !n.is_internal()).map(|n| n.as_str().to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(AUTO_CREATE_MAX);
    names
}

fn auto_spec(name: &str) -> TopicSpec {
    TopicSpec {
        name: name.to_owned(),
        partitions: None,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: Vec::new(),
        validate_only: false,
        internal: false,
        copy: None,
    }
}

fn answer(
    image: &ClusterImage,
    leaders: &Leaders,
    asked: &Asked,
    made: impl Fn(&str) -> Option<Result<Arc<TopicImage>, ErrorCode>>,
) -> MetadataResponse {
    let topics = match asked {
        Asked::All => image.topics.values().map(|topic| found(topic, image, leaders)).collect(),
        Asked::Some(topics) => topics.iter().map(|topic| one(image, leaders, topic, &made)).collect(),
    };
    MetadataResponse::default()
        .with_brokers(image.brokers.values().map(broker).collect())
        .with_cluster_id(Some(text(&image.cluster_id)))
        .with_controller_id(view::controller(image, leaders).0.into())
        .with_topics(topics)
}

fn broker(broker: &BrokerImage) -> MetadataResponseBroker {
    MetadataResponseBroker::default()
        .with_node_id(broker.id.0.into())
        .with_host(text(&broker.kafka().host))
        .with_port(broker.kafka().port.into())
        .with_rack(broker.rack.as_deref().map(text))
}

fn one(
    image: &ClusterImage,
    leaders: &Leaders,
    asked: &TopicRef,
    made: impl Fn(&str) -> Option<Result<Arc<TopicImage>, ErrorCode>>,
) -> MetadataResponseTopic {
    let error = match (asked.topic(image), asked) {
        (Ok(topic), _) => return found(topic, image, leaders),
        (Err(_), TopicRef::Name(name)) if TopicName::new(name).is_err() => ErrorCode::INVALID_TOPIC_EXCEPTION,
        (Err(error), TopicRef::Name(name)) => match made(name) {
            Some(Ok(topic)) => return found(&topic, image, leaders),
            Some(Err(error)) => error,
            None => error,
        },
        (Err(error), TopicRef::Id(_)) => error,
    };
    let (name, id) = match asked {
        TopicRef::Name(name) => (Some(topic_name(name)), Uuid::nil()),
        TopicRef::Id(id) => (None, *id),
    };
    MetadataResponseTopic::default().with_error_code(error.number()).with_name(name).with_topic_id(id)
}

fn found(topic: &TopicImage, image: &ClusterImage, leaders: &Leaders) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().map(|partition| {
        let view = PartitionView::of(image, leaders, partition);
        MetadataResponsePartition::default()
            .with_error_code(view.error().number())
            .with_partition_index(partition.id.index.0)
            .with_leader_id(view.leader_id().into())
            .with_leader_epoch(view.epoch.0)
            .with_replica_nodes(ids(&view.replicas))
            .with_isr_nodes(ids(&view.in_sync))
            .with_offline_replicas(ids(&view.offline))
    });
    MetadataResponseTopic::default()
        .with_name(Some(topic_name(topic.name.as_str())))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.name.is_internal())
        .with_partitions(partitions.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::fixture::{cluster, encodes_in_every_version, image, leaders, leaders_of};
    use kafka_protocol::messages::ApiKey;

    fn name(name: &str) -> TopicRef {
        TopicRef::Name(name.into())
    }

    #[test]
    fn all_some_and_none() {
        let topic = || MetadataRequestTopic::default().with_name(Some(topic_name("a")));
        assert_eq!(asked(0, Some(Vec::new())), Asked::All);
        assert_eq!(asked(1, Some(Vec::new())), Asked::Some(Vec::new()));
        assert_eq!(asked(1, None), Asked::All);
        assert_eq!(asked(12, Some(vec![topic()])), Asked::Some(vec![name("a")]));
    }

    #[test]
    fn a_topic_named_often_is_told_once() {
        let by_name = |name: &str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let by_id = || MetadataRequestTopic::default().with_name(None).with_topic_id(Uuid::from_u128(2));
        let often = vec![[by_name("b"), by_name("a"), by_id(), by_name("b"), by_id()]; 1000].concat();
        let once = vec![name("b"), name("a"), TopicRef::Id(Uuid::from_u128(2))];
        assert_eq!(asked(12, Some(often)), Asked::Some(once));
    }

    #[test]
    fn known_unknown_and_illegal_topics() {
        let image = image(&[("orders", 2), ("users", 1)]);
        let id = image.topic("users").expect("there").id.0;
        let topics =
            vec![name("orders"), TopicRef::Id(id), name("nope"), name("b/d"), TopicRef::Id(Uuid::from_u128(9))];
        let answer = answer(&image, &leaders(), &Asked::Some(topics), |_| None);
        let errors: Vec<_> = answer.topics.iter().map(|t| t.error_code).collect();
        assert_eq!(errors, [0, 0, 3, 17, 100]);
        assert_eq!(answer.topics[0].partitions.len(), 2);
        assert_eq!(answer.topics[1].name.as_ref().map(|n| n.as_str()), Some("users"));
    }

    #[test]
    fn every_version_can_be_written() {
        let image = image(&[("orders", 2)]);
        encodes_in_every_version(ApiKey::Metadata, &answer(&image, &leaders(), &Asked::All, |_| None));
        let missing = answer(&image, &leaders(), &Asked::Some(vec![name("x")]), |_| None);
        encodes_in_every_version(ApiKey::Metadata, &missing);
    }

    #[test]
    fn a_cluster_shows_its_brokers_and_the_replicas_of_each_partition() {
        let image = cluster(&[("orders", 1)]);
        let answered = answer(&image, &leaders_of(2, 5), &Asked::All, |_| None);
        let racks = answered.brokers.iter().map(|b| (b.node_id.0, b.port, b.rack.as_ref().map(|r| r.as_str())));
        let brokers = [(1, 9092, Some("rack-1")), (2, 9093, Some("rack-2")), (3, 9094, Some("rack-3"))];
        assert_eq!(racks.collect::<Vec<_>>(), brokers);
        assert_eq!(answered.controller_id.0, 2);
        let part = &answered.topics[0].partitions[0];
        assert_eq!((part.error_code, part.leader_id.0, part.leader_epoch), (0, 2, 5));
        assert_eq!(
            (&part.replica_nodes, &part.isr_nodes),
            (&vec![2.into(), 3.into(), 1.into()], &vec![2.into(), 3.into()])
        );
        encodes_in_every_version(ApiKey::Metadata, &answered);
        let without = answer(&image, &Leaders::default(), &Asked::All, |_| None);
        let part = &without.topics[0].partitions[0];
        assert_eq!((part.error_code, part.leader_id.0, without.controller_id.0), (5, -1, 1));
    }

    #[test]
    fn what_would_be_created() {
        let image = image(&[("orders", 2)]);
        let topics = [name("orders"), name("b"), name("a"), name("b"), name("b/d"), name("__consumer_offsets")];
        assert_eq!(missing(&image, &topics), ["a", "b"]);
    }
}
