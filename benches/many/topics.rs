//! Thousands of partitions over the Kafka port: a big topic, many small ones, some that are tables.

use std::time::{Duration, Instant};

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreateTopicsRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::support::wire::Wire;

/// Partitions of each small topic.
const SMALL: i32 = 10;
/// Topics named in one request.
const PER_REQUEST: usize = 100;

fn topic(name: &str, partitions: i32, settings: &[(&'static str, &'static str)]) -> CreatableTopic {
    let config = |(name, value): &(&'static str, &'static str)| {
        let (name, value) = (StrBytes::from_static_str(name), StrBytes::from_static_str(value));
        CreatableTopicConfig::default().with_name(name).with_value(Some(value))
    };
    CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(name.to_owned())))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_configs(settings.iter().map(config).collect())
}

/// Creates topics in one request; an error of any ends the run.
pub fn create(wire: &mut Wire, topics: Vec<CreatableTopic>) {
    let request = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(60_000);
    let answer = wire.call(&request, 5).expect("an answer");
    for made in &answer.topics {
        assert_eq!(made.error_code, 0, "{:?}: {:?}", made.name, made.error_message);
    }
}

/// A topic with these settings.
pub fn one(wire: &mut Wire, name: &str, partitions: i32, settings: &[(&'static str, &'static str)]) {
    create(wire, vec![topic(name, partitions, settings)]);
}

/// `total` partitions, all archived: half in one topic, the rest ten to a topic; ten of the topics are tables.
/// Returns the number of topics.
pub fn many(wire: &mut Wire, prefix: &str, total: i32) -> usize {
    one(wire, &format!("{prefix}-big"), total / 2, &[]);
    let small: Vec<CreatableTopic> = (0..total / 2 / SMALL)
        .map(|n| {
            let table: &[_] = if n < 10 { &[("iceberg.mode", "key_value")] } else { &[] };
            topic(&format!("{prefix}-{n}"), SMALL, table)
        })
        .collect();
    for topics in small.chunks(PER_REQUEST) {
        create(wire, topics.to_vec());
    }
    small.len() + 1
}

/// Asks for the metadata of all topics; returns the number of partitions and the latency.
pub fn metadata(wire: &mut Wire) -> (usize, Duration) {
    let begun = Instant::now();
    let answer = wire.call(&MetadataRequest::default().with_topics(None), 9).expect("an answer");
    let took = begun.elapsed();
    (answer.topics.iter().map(|topic| topic.partitions.len()).sum(), took)
}
