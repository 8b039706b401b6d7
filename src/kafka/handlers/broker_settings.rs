//! The broker's own settings as `DescribeConfigs` tells them: Kafka's names for what this process does. All read-only:
//! they come from the command line, the environment or the file.

use super::describe_configs::{BOOLEAN, DEFAULT, Described, INT, LIST, LONG, SET_ON_PROCESS, STRING};
use crate::config::node::NodeConfig;
use crate::config::topic;
use crate::controller::image::ClusterImage;

/// Settings of this broker.
#[must_use]
pub fn broker_configs(config: &NodeConfig, image: &ClusterImage) -> Vec<Described> {
    let broker = &image.broker;
    let advertised = format!("PLAINTEXT://{}:{}", broker.host, broker.port);
    let own = |name, kind, value: String, default: &str, documentation: &str| Described {
        name,
        broker_name: name,
        source: if value == default { DEFAULT } else { SET_ON_PROCESS },
        value,
        default: default.to_owned(),
        read_only: true,
        kind,
        documentation: documentation.to_owned(),
    };
    let of_topic = |name, kind, of: &str| {
        let value = topic::setting(of).map_or("", |row| row.default);
        own(name, kind, value.to_owned(), value, "The default of topics that do not set it.")
    };
    let fixed = |name, kind, value: &'static str, why: &str| own(name, kind, value.to_owned(), value, why);
    vec![
        own("broker.id", INT, broker.id.to_string(), "", "The id of this broker."),
        own("node.id", INT, broker.id.to_string(), "", "The id of this broker."),
        own("advertised.listeners", LIST, advertised, "", "--advertised-kafka-addr"),
        own(
            "listeners",
            LIST,
            format!("PLAINTEXT://{}", config.kafka_addr),
            "PLAINTEXT://127.0.0.1:9092",
            "--kafka-addr",
        ),
        own("log.dirs", LIST, config.data_dir.display().to_string(), "", "--data-dir"),
        own("log.dir", STRING, config.data_dir.display().to_string(), "", "--data-dir"),
        own("num.partitions", INT, config.num_partitions.to_string(), "1", "--num-partitions"),
        own(
            "auto.create.topics.enable",
            BOOLEAN,
            config.auto_create_topics.to_string(),
            "true",
            "--auto-create-topics-enable",
        ),
        own(
            "group.initial.rebalance.delay.ms",
            INT,
            config.group_initial_rebalance_delay_ms.to_string(),
            "3000",
            "--group-initial-rebalance-delay-ms",
        ),
        own("group.max.size", INT, config.group_max_size.to_string(), "10000", "--group-max-size"),
        own(
            "group.min.session.timeout.ms",
            INT,
            config.group_min_session_timeout_ms.to_string(),
            "6000",
            "--group-min-session-timeout-ms",
        ),
        own(
            "group.max.session.timeout.ms",
            INT,
            config.group_max_session_timeout_ms.to_string(),
            "1800000",
            "--group-max-session-timeout-ms",
        ),
        own(
            "offsets.retention.minutes",
            INT,
            config.offsets_retention_minutes.to_string(),
            "10080",
            "--offsets-retention-minutes",
        ),
        own(
            "producer.id.expiration.ms",
            INT,
            config.producer_id_expiration_ms.to_string(),
            "86400000",
            "--producer-id-expiration-ms",
        ),
        own("max.connections", INT, config.max_connections.to_string(), "20000", "--max-connections"),
        own(
            "max.connections.per.ip",
            INT,
            config.max_connections_per_ip.to_string(),
            "20000",
            "--max-connections-per-ip",
        ),
        own(
            "connections.max.idle.ms",
            LONG,
            config.connections_max_idle_ms.to_string(),
            "600000",
            "--connections-max-idle-ms",
        ),
        of_topic("message.max.bytes", INT, "max.message.bytes"),
        of_topic("log.retention.ms", LONG, "retention.ms"),
        of_topic("log.retention.bytes", LONG, "retention.bytes"),
        of_topic("log.local.retention.ms", LONG, "local.retention.ms"),
        of_topic("log.local.retention.bytes", LONG, "local.retention.bytes"),
        of_topic("log.segment.bytes", INT, "segment.bytes"),
        of_topic("log.roll.ms", LONG, "segment.ms"),
        of_topic("log.cleanup.policy", LIST, "cleanup.policy"),
        of_topic("log.message.timestamp.type", STRING, "message.timestamp.type"),
        of_topic("log.message.timestamp.before.max.ms", LONG, "message.timestamp.before.max.ms"),
        of_topic("log.message.timestamp.after.max.ms", LONG, "message.timestamp.after.max.ms"),
        of_topic("compression.type", STRING, "compression.type"),
        of_topic("min.insync.replicas", INT, "min.insync.replicas"),
        fixed("default.replication.factor", INT, "1", "There is one broker."),
        fixed("offsets.topic.num.partitions", INT, "16", "They spread over the shards of one broker."),
        fixed("offset.metadata.max.bytes", INT, "4096", "Longer words beside an offset are refused."),
        fixed("offsets.topic.replication.factor", INT, "1", "There is one broker."),
        fixed("delete.topic.enable", BOOLEAN, "true", "Topics can be deleted."),
        fixed("remote.log.storage.system.enable", BOOLEAN, "true", "Topics live in the bucket."),
        fixed("unclean.leader.election.enable", BOOLEAN, "false", "A leader never lacks an acknowledged record."),
    ]
}
