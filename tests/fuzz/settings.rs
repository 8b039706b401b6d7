//! What an operator writes: the config file, settings of topics; and `node.json`, which he should not.

use std::collections::BTreeMap;

use tidewater::config::node::RawConfig;
use tidewater::config::topic::{SETTINGS, TopicConfig, check};
use tidewater::node::identity::Identity;
use uuid::Uuid;

use super::target::Target;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("config_file", config_file, || {
            let all = "data-dir = \"/d\"\ncluster-name = \"a\"\nbucket = \"s3://b/c\"\nshards = 3\ncache-bytes = \"10 GiB\"\n\
                disk-bytes = 5_000_000\nnum-partitions = 4\nauto-create-topics-enable = false\nmax-connections = 7\n\
                group-min-session-timeout-ms = 1\ngroup-max-session-timeout-ms = 9\noffsets-retention-minutes = 1\n\
                producer-id-expiration-ms = 5\nmax-connections-per-ip = 1\ngroup-initial-rebalance-delay-ms = 0\n";
            vec![all.as_bytes().to_vec(), b"[table]\nkafka-addr = [[1, {a = 2}], 1979-05-27T07:32:00Z]".to_vec()]
        }),
        Target::new("topic_settings", topic_settings, || {
            let defaults = SETTINGS.iter().map(|setting| format!("{}={}\n", setting.name, setting.default));
            vec![defaults.collect::<String>().into_bytes(), b"retention.ms=-1\ncleanup.policy=delete".to_vec()]
        }),
        Target::new("node_json", node_json, || {
            vec![serde_json::to_vec(&Identity::newborn(Uuid::from_u128(7), "a", 2)).expect("plain")]
        }),
    ]
}

/// All but the addresses, whose host names would be looked up.
fn config_file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(raw) = RawConfig::parse(text) {
        let raw = RawConfig { kafka_addr: None, admin_addr: None, catalog_addr: None, schema_addr: None, ..raw };
        let _ = raw.over(RawConfig::default()).resolve().map(|config| config.exposure_warnings());
    }
}

fn topic_settings(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let overrides: BTreeMap<String, String> = pairs.map(|(name, value)| (name.into(), value.into())).collect();
    overrides.iter().for_each(|(name, value)| drop(check(name, value)));
    let _ = TopicConfig::resolve(&overrides);
}

fn node_json(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(identity) = Identity::parse(text) {
        let written = serde_json::to_string(&identity).expect("plain");
        assert_eq!(Identity::parse(&written), Ok(identity));
    }
}
