//! The broker's own settings as `DescribeConfigs` shows them: Kafka's names for what this process does. All read-only:
//! they come from the command line, the environment or the file.
//!
//! Owns: which of Kafka's names stands for what. Does not own: values and defaults (`config::node`, `config::topic`).

use super::describe_configs::{BOOLEAN, DEFAULT, Described, INT, LIST, LONG, SET_ON_PROCESS, STRING};
use crate::config::node::{NodeConfig, RawConfig};
use crate::config::topic;
use crate::controller::image::ClusterImage;

/// A setting of the process.
struct OfProcess {
    name: &'static str,
    kind: i8,
    flag: &'static str,
    read: fn(&NodeConfig) -> String,
}

const OF_PROCESS: &[OfProcess] = &[
    of_process("listeners", LIST, "--kafka-addr", |c| format!("PLAINTEXT://{}", c.kafka_addr)),
    of_process("num.partitions", INT, "--num-partitions", |c| c.num_partitions.to_string()),
    of_process("auto.create.topics.enable", BOOLEAN, "--auto-create-topics-enable", |c| {
        c.auto_create_topics.to_string()
    }),
    of_process("group.initial.rebalance.delay.ms", INT, "--group-initial-rebalance-delay-ms", |c| {
        c.group_initial_rebalance_delay_ms.to_string()
    }),
    of_process("group.max.size", INT, "--group-max-size", |c| c.group_max_size.to_string()),
    of_process("group.min.session.timeout.ms", INT, "--group-min-session-timeout-ms", |c| {
        c.group_min_session_timeout_ms.to_string()
    }),
    of_process("group.max.session.timeout.ms", INT, "--group-max-session-timeout-ms", |c| {
        c.group_max_session_timeout_ms.to_string()
    }),
    of_process("offsets.retention.minutes", INT, "--offsets-retention-minutes", |c| {
        c.offsets_retention_minutes.to_string()
    }),
    of_process("producer.id.expiration.ms", INT, "--producer-id-expiration-ms", |c| {
        c.producer_id_expiration_ms.to_string()
    }),
    of_process("cut.interval.ms", LONG, "--cut-interval-ms", |c| c.cut_interval_ms.to_string()),
    of_process("max.connections", INT, "--max-connections", |c| c.max_connections.to_string()),
    of_process("max.connections.per.ip", INT, "--max-connections-per-ip", |c| c.max_connections_per_ip.to_string()),
    of_process("connections.max.idle.ms", LONG, "--connections-max-idle-ms", |c| c.connections_max_idle_ms.to_string()),
];

const fn of_process(name: &'static str, kind: i8, flag: &'static str, read: fn(&NodeConfig) -> String) -> OfProcess {
    OfProcess { name, kind, flag, read }
}

/// Defaults of topics under the names that Kafka's brokers have for them: name, kind, the topic's setting.
const OF_TOPICS: &[(&str, i8, &str)] = &[
    ("message.max.bytes", INT, "max.message.bytes"),
    ("log.retention.ms", LONG, "retention.ms"),
    ("log.retention.bytes", LONG, "retention.bytes"),
    ("log.local.retention.ms", LONG, "local.retention.ms"),
    ("log.local.retention.bytes", LONG, "local.retention.bytes"),
    ("log.segment.bytes", INT, "segment.bytes"),
    ("log.roll.ms", LONG, "segment.ms"),
    ("log.cleanup.policy", LIST, "cleanup.policy"),
    ("log.message.timestamp.type", STRING, "message.timestamp.type"),
    ("log.message.timestamp.before.max.ms", LONG, "message.timestamp.before.max.ms"),
    ("log.message.timestamp.after.max.ms", LONG, "message.timestamp.after.max.ms"),
    ("compression.type", STRING, "compression.type"),
    ("min.insync.replicas", INT, "min.insync.replicas"),
];

/// What cannot be set: name, kind, value, why.
const FIXED: &[(&str, i8, &str, &str)] = &[
    ("offsets.topic.num.partitions", INT, "16", "They spread over brokers and shards."),
    ("offset.metadata.max.bytes", INT, "4096", "Longer words beside an offset are refused."),
    ("delete.topic.enable", BOOLEAN, "true", "Topics can be deleted."),
    ("remote.log.storage.system.enable", BOOLEAN, "true", "Topics live in the bucket."),
    ("unclean.leader.election.enable", BOOLEAN, "false", "A leader never lacks an acknowledged record."),
];

/// Replicas of a topic that is made without a number of them, at most.
const DEFAULT_FACTOR_MAX: usize = 3;

/// Settings of this broker.
#[must_use]
pub fn broker_configs(config: &NodeConfig, image: &ClusterImage) -> Vec<Described> {
    let broker = image.broker();
    let (id, dir) = (broker.id.to_string(), config.data_dir.display().to_string());
    let advertised = format!("PLAINTEXT://{}:{}", broker.kafka().host, broker.kafka().port);
    let mut all = vec![
        own("broker.id", INT, id.clone(), "", "The id of this broker."),
        own("node.id", INT, id, "", "The id of this broker."),
        own("advertised.listeners", LIST, advertised, "", "--advertised-kafka-addr"),
        own("log.dirs", LIST, dir.clone(), "", "--data-dir"),
        own("log.dir", STRING, dir, "", "--data-dir"),
    ];
    // Where one setting's default is another's value, it is that value here.
    let given = RawConfig { max_connections: Some(config.max_connections), ..RawConfig::default() };
    let (plain, given) = (RawConfig::default().resolve().ok(), given.resolve().ok());
    all.extend(OF_PROCESS.iter().map(|row| {
        let defaults = if row.name == "max.connections" { &plain } else { &given };
        let default = defaults.as_ref().map(row.read).unwrap_or_default();
        own(row.name, row.kind, (row.read)(config), &default, row.flag)
    }));
    all.extend(OF_TOPICS.iter().map(|(name, kind, of)| {
        let value = topic::setting(of).map_or("", |row| row.default);
        own(name, *kind, value.to_owned(), value, "The default of topics that do not set it.")
    }));
    let factor = image.brokers.len().clamp(1, DEFAULT_FACTOR_MAX).to_string();
    let why = "The number of brokers, at most 3.";
    all.extend(
        ["default.replication.factor", "offsets.topic.replication.factor"]
            .map(|name| own(name, INT, factor.clone(), &factor, why)),
    );
    if let Some(rack) = &broker.rack {
        all.push(own("broker.rack", STRING, rack.clone(), "", "--rack"));
    }
    all.extend(FIXED.iter().map(|(name, kind, value, why)| own(name, *kind, (*value).to_owned(), value, why)));
    all
}

fn own(name: &'static str, kind: i8, value: String, default: &str, documentation: &str) -> Described {
    Described {
        name,
        broker_name: name,
        source: if value == default { DEFAULT } else { SET_ON_PROCESS },
        value,
        default: default.to_owned(),
        read_only: true,
        kind,
        documentation: documentation.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;
    use crate::group::{GroupSettings, OFFSETS_PARTITIONS};

    #[test]
    fn the_help_of_each_flag_tells_the_default_that_is_used() {
        let flags = RawConfig::augment_args(clap::Command::new("tidewater"));
        let defaults = RawConfig::default().resolve().expect("the defaults hold together");
        for row in OF_PROCESS {
            let flag = flags.get_arguments().find(|arg| arg.get_long() == row.flag.strip_prefix("--"));
            let help = flag.and_then(clap::Arg::get_help).map(ToString::to_string).expect(row.flag);
            let default = (row.read)(&defaults);
            let shown = [default.trim_start_matches("PLAINTEXT://"), "as many as --max-connections"];
            assert!(shown.iter().any(|shown| help.contains(&format!("[default: {shown}]"))), "{}: {help}", row.flag);
        }
    }

    #[test]
    fn what_cannot_be_set_is_what_is_done() {
        let shown = |name| FIXED.iter().find(|row| row.0 == name).map(|row| row.2.to_owned());
        assert_eq!(shown("offsets.topic.num.partitions"), Some(OFFSETS_PARTITIONS.to_string()));
        assert_eq!(shown("offset.metadata.max.bytes"), Some(GroupSettings::default().metadata_max.to_string()));
    }
}
