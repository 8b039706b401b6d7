//! `DescribeConfigs` (32): settings of topics and of the broker.
//!
//! The three kinds of topic settings look different: an *honoured* one has its plain documentation; one *accepted
//! without effect* says so and why; one of which only a single value is taken is read-only, and its documentation says
//! why others are *refused*.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use tidewater_storage::model::TopicName;

use super::broker_settings::broker_configs;
use crate::config::node::NodeConfig;
use crate::config::topic::{Kind, SETTINGS, Setting, Shape};
use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::answer_room::{AnswerRoom, FULL};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::{message, text};

pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;

/// Kafka's sources of a value (`ConfigSource`): set on the topic, set for the process, the default.
pub(super) const SET_ON_TOPIC: i8 = 1;
/// See [`SET_ON_TOPIC`].
pub(super) const SET_ON_PROCESS: i8 = 4;
/// See [`SET_ON_TOPIC`].
pub(super) const DEFAULT: i8 = 5;

/// Kafka's types of a value (`ConfigType`).
pub(super) const BOOLEAN: i8 = 1;
pub(super) const STRING: i8 = 2;
pub(super) const INT: i8 = 3;
pub(super) const LONG: i8 = 5;
pub(super) const DOUBLE: i8 = 6;
pub(super) const LIST: i8 = 7;

/// One setting as it is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: &'static str,
    /// The broker's name of its default.
    pub broker_name: &'static str,
    pub value: String,
    /// The value when it is not set.
    pub default: String,
    /// Kafka's number of where the value comes from.
    pub source: i8,
    /// Only one value is taken.
    pub read_only: bool,
    /// Kafka's number of its type.
    pub kind: i8,
    pub documentation: String,
}

/// Answers from the image and the process's settings.
pub async fn handle(ctx: &RequestContext, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let (image, room) = (ctx.image(), AnswerRoom::new(&ctx.budget));
    let results = results(ctx.version, &image, &ctx.broker.config, &request, &room);
    DescribeConfigsResponse::default().with_results(results)
}

/// Each resource as often as it is named, for it may be named with other keys, until the answer is full.
fn results(
    version: i16,
    image: &ClusterImage,
    config: &NodeConfig,
    request: &DescribeConfigsRequest,
    room: &AnswerRoom,
) -> Vec<DescribeConfigsResult> {
    let results = request.resources.iter().map(|resource| {
        if room.is_full() {
            return failed(resource, ErrorCode::INVALID_REQUEST, FULL);
        }
        let result = describe(version, image, config, resource, request);
        if room.takes(bytes(&result)) { result } else { failed(resource, ErrorCode::INVALID_REQUEST, FULL) }
    });
    results.collect()
}

/// What a result takes in memory.
fn bytes(result: &DescribeConfigsResult) -> usize {
    let synonym = |synonym: &DescribeConfigsSynonym| {
        size_of::<DescribeConfigsSynonym>() + synonym.name.len() + synonym.value.as_ref().map_or(0, |value| value.len())
    };
    let one = |config: &DescribeConfigsResourceResult| {
        size_of::<DescribeConfigsResourceResult>()
            + config.name.len()
            + config.value.as_ref().map_or(0, |value| value.len())
            + config.documentation.as_ref().map_or(0, |documentation| documentation.len())
            + config.synonyms.iter().map(synonym).sum::<usize>()
    };
    size_of::<DescribeConfigsResult>() + result.configs.iter().map(one).sum::<usize>()
}

fn failed(resource: &DescribeConfigsResource, error: ErrorCode, why: &str) -> DescribeConfigsResult {
    DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone())
        .with_error_code(error.number())
        .with_error_message(message(&why))
}

fn describe(
    version: i16,
    image: &ClusterImage,
    config: &NodeConfig,
    resource: &DescribeConfigsResource,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResult {
    let name = resource.resource_name.as_str();
    let result = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone())
        .with_error_message(Some(text("")));
    let failed = |error: ErrorCode, why: String| failed(resource, error, &why);
    let configs = match resource.resource_type {
        TOPIC => match image.topic(name) {
            Some(topic) => topic_configs(&topic.overrides),
            None if TopicName::new(name).is_err() => {
                return failed(ErrorCode::INVALID_TOPIC_EXCEPTION, format!("{name:?} is not a legal topic name"));
            }
            None => return failed(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("topic {name} does not exist")),
        },
        BROKER if name.is_empty() || name.parse() == Ok(image.here.0) => broker_configs(config, image),
        BROKER => return failed(ErrorCode::INVALID_REQUEST, format!("there is no broker {name:?} here")),
        other => return failed(ErrorCode::INVALID_REQUEST, format!("resource type {other} has no settings here")),
    };
    let wanted = |described: &Described| match &resource.configuration_keys {
        // Kafka takes an empty list for none: `ConfigHelper.filterTopicConfigs`.
        Some(keys) if !keys.is_empty() => keys.iter().any(|key| key.as_str() == described.name),
        Some(_) | None => true,
    };
    let configs = configs.iter().filter(|d| wanted(d)).map(|d| written(version, d, request)).collect();
    result.with_configs(configs)
}

fn written(version: i16, described: &Described, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let mut out = DescribeConfigsResourceResult::default()
        .with_name(text(described.name))
        .with_value(Some(text(&described.value)))
        .with_read_only(described.read_only)
        .with_config_source(described.source);
    if request.include_synonyms {
        out.synonyms = synonyms(described);
    }
    if version >= 3 {
        out.config_type = described.kind;
        if request.include_documentation {
            out.documentation = Some(text(&described.documentation));
        }
    }
    out
}

/// Where a value could come from, the one in force first; a topic's default goes by the broker's name of it.
fn synonyms(described: &Described) -> Vec<DescribeConfigsSynonym> {
    let one = |value: &str, source| {
        let name = if source == DEFAULT { described.broker_name } else { described.name };
        DescribeConfigsSynonym::default().with_name(text(name)).with_value(Some(text(value))).with_source(source)
    };
    let mut out = Vec::new();
    if described.source != DEFAULT {
        out.push(one(&described.value, described.source));
    }
    out.push(one(&described.default, DEFAULT));
    out
}

/// The settings of a topic with these overrides.
#[must_use]
pub fn topic_configs(overrides: &BTreeMap<String, String>) -> Vec<Described> {
    SETTINGS.iter().map(|setting| topic_config(setting, overrides.get(setting.name))).collect()
}

/// Kafka's name of the broker setting that a topic setting defaults to (`ServerTopicConfigSynonyms`).
fn broker_name(name: &'static str) -> &'static str {
    match name {
        "segment.bytes" => "log.segment.bytes",
        "segment.ms" => "log.roll.ms",
        "segment.jitter.ms" => "log.roll.jitter.ms",
        "segment.index.bytes" => "log.index.size.max.bytes",
        "flush.messages" => "log.flush.interval.messages",
        "flush.ms" => "log.flush.interval.ms",
        "retention.bytes" => "log.retention.bytes",
        "retention.ms" => "log.retention.ms",
        "local.retention.bytes" => "log.local.retention.bytes",
        "local.retention.ms" => "log.local.retention.ms",
        "max.message.bytes" => "message.max.bytes",
        "index.interval.bytes" => "log.index.interval.bytes",
        "delete.retention.ms" => "log.cleaner.delete.retention.ms",
        "min.compaction.lag.ms" => "log.cleaner.min.compaction.lag.ms",
        "max.compaction.lag.ms" => "log.cleaner.max.compaction.lag.ms",
        "file.delete.delay.ms" => "log.segment.delete.delay.ms",
        "min.cleanable.dirty.ratio" => "log.cleaner.min.cleanable.ratio",
        "cleanup.policy" => "log.cleanup.policy",
        "preallocate" => "log.preallocate",
        "message.timestamp.type" => "log.message.timestamp.type",
        "message.timestamp.before.max.ms" => "log.message.timestamp.before.max.ms",
        "message.timestamp.after.max.ms" => "log.message.timestamp.after.max.ms",
        other => other,
    }
}

fn topic_config(setting: &Setting, set: Option<&String>) -> Described {
    let (kind, single) = match setting.shape {
        Shape::Integer { max, .. } => (if max <= i64::from(i32::MAX) { INT } else { LONG }, false),
        Shape::IntegerOr { .. } => (INT, false),
        Shape::Boolean => (BOOLEAN, false),
        Shape::Word(words) if words.iter().all(|w| matches!(*w, "true" | "false")) => (BOOLEAN, words.len() == 1),
        Shape::Word(words) => (STRING, words.len() == 1),
        Shape::List(words) => (LIST, words.len() == 1),
        Shape::Fraction => (DOUBLE, false),
        Shape::Text => (LIST, false),
        Shape::IcebergMode
        | Shape::JsonSchema
        | Shape::TableName
        | Shape::PartitionSpec
        | Shape::SortOrder
        | Shape::TableProperties => (STRING, false),
    };
    let mut documentation = match setting.kind {
        Kind::Honoured => setting.doc.to_owned(),
        Kind::Accepted(why) => format!("Accepted without effect: {why}."),
    };
    if let Some(why) = setting.refuses {
        documentation.push_str(&format!(" Other values are refused: {why}."));
    }
    Described {
        name: setting.name,
        broker_name: broker_name(setting.name),
        value: set.map_or(setting.default, String::as_str).to_owned(),
        default: setting.default.to_owned(),
        source: if set.is_some() { SET_ON_TOPIC } else { DEFAULT },
        read_only: single,
        kind,
        documentation,
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;
    use crate::kafka::budget::Budget;
    use crate::kafka::handlers::fixture::image;
    use crate::kafka::limits::ANSWER_BYTES_MAX;
    use crate::kafka::wire::response;

    #[test]
    fn the_three_kinds_look_different() {
        let set = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
        let all = topic_configs(&set);
        let get = |name: &str| all.iter().find(|d| d.name == name).expect("in the table");
        assert_eq!((get("retention.ms").value.as_str(), get("retention.ms").source), ("5", SET_ON_TOPIC));
        assert_eq!(get("retention.bytes").source, DEFAULT);
        assert!(get("flush.ms").documentation.starts_with("Accepted without effect: every"));
        assert!(get("cleanup.policy").read_only);
        assert!(get("cleanup.policy").documentation.contains("refused: compaction"));
        assert!(!get("max.message.bytes").read_only);
    }

    #[test]
    fn an_empty_list_of_keys_asks_for_all() {
        let image = image(&[("orders", 1)]);
        let config = crate::config::node::RawConfig::default().resolve().expect("defaults hold");
        let described = |keys: Option<Vec<&'static str>>| {
            let keys = keys.map(|keys| keys.into_iter().map(text).collect());
            let asked = DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text("orders"));
            let asked = asked.with_configuration_keys(keys);
            describe(4, &image, &config, &asked, &DescribeConfigsRequest::default()).configs.len()
        };
        assert_eq!(described(Some(vec!["retention.ms"])), 1);
        assert_eq!((described(Some(Vec::new())), described(None)), (SETTINGS.len(), SETTINGS.len()));
    }

    #[test]
    fn a_resource_named_twice_is_described_twice_and_a_full_answer_takes_no_more() {
        let image = image(&[("orders", 1), ("bills", 1)]);
        let config = crate::config::node::RawConfig::default().resolve().expect("defaults hold");
        let budget = Budget::new(1 << 30);
        let ask = |kind, name: &str| {
            DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name))
        };
        let described = |resources| {
            let request = DescribeConfigsRequest::default().with_resources(resources).with_include_documentation(true);
            let results = results(4, &image, &config, &request, &AnswerRoom::new(&budget));
            let of = |r: &DescribeConfigsResult| (r.resource_name.to_string(), r.error_code);
            let sum = results.iter().map(bytes).sum::<usize>();
            (results.iter().map(of).collect::<Vec<_>>(), sum)
        };
        let twice = ["orders", "", "orders"].map(|name| (name.to_owned(), 0)).to_vec();
        assert_eq!(described(vec![ask(TOPIC, "orders"), ask(BROKER, ""), ask(TOPIC, "orders")]).0, twice);
        let (often, sum) = described(vec![ask(TOPIC, "orders"); 50_000]);
        assert!(sum < ANSWER_BYTES_MAX + (50_000 * size_of::<DescribeConfigsResult>()), "{sum} bytes");
        assert_eq!(often.last(), Some(&("orders".to_owned(), ErrorCode::INVALID_REQUEST.number())));
        // One broker under ever new names.
        let (all, sum) =
            described((0..10_000).map(|n| ask(BROKER, &format!("{:0>width$}", 1, width = n + 1))).collect());
        assert!(sum < ANSWER_BYTES_MAX + (10_000 * size_of::<DescribeConfigsResult>()), "{sum} bytes");
        let full = all.iter().position(|(_, error)| *error != 0).expect("not all fit");
        assert!(full > 100, "{full} fit");
        assert!(all[full..].iter().all(|(_, error)| *error == ErrorCode::INVALID_REQUEST.number()));
        assert_eq!(all.len(), 10_000);
    }

    #[test]
    fn answers_can_be_written_in_every_version() {
        let image = image(&[("orders", 1)]);
        let config = crate::config::node::RawConfig::default().resolve().expect("defaults hold");
        for version in 1..=4 {
            let request =
                DescribeConfigsRequest::default().with_include_synonyms(true).with_include_documentation(version >= 3);
            let ask = |kind, name: &str| {
                let asked = DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name));
                describe(version, &image, &config, &asked.with_configuration_keys(None), &request)
            };
            let results =
                vec![ask(TOPIC, "orders"), ask(BROKER, "1"), ask(TOPIC, "nope"), ask(BROKER, "2"), ask(8, "1")];
            let codes: Vec<_> = results.iter().map(|r| r.error_code).collect();
            assert_eq!(codes, [0, 0, 3, 42, 42]);
            assert!(!results[0].configs.is_empty() && !results[1].configs.is_empty());
            let answer = DescribeConfigsResponse::default().with_results(results);
            response::encode(ApiKey::DescribeConfigs, version, 1, &answer).expect("writes");
        }
    }
}
