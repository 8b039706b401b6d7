//! Topic settings: one table, and the typed result.
//!
//! A setting is *honoured* (Tidewater does what it says) or *accepted* (kept so that tools work, without effect; the
//! table says why). A value that promises something Tidewater does not do is *refused*, by settings of both kinds.
//! DescribeConfigs, AlterConfigs, `topic describe` and the generated reference read this table.
//!
//! A new setting takes:
//! 1. a row in [`SETTINGS`] with its range, default and one sentence for the reference;
//! 2. if it is honoured, a field of [`TopicConfig`] and its line in [`TopicConfig::resolve`]; the new value reaches
//!    each partition by itself (`controller::reconcile` → `PartitionRequest::Configure` → `Replica::configure`);
//! 3. the code that acts on it: `partition::produce` for appends, `archival::retain` and `archival::host` for the
//!    bucket and local disk, `lakehouse::drive::SinkSettings` for tables, which takes over changes of a running sink;
//! 4. a check across settings or against the topic's state, if it needs one, in `controller::plan`;
//! 5. `src/config/REFERENCE.md`, written by `TIDEWATER_WRITE=1 cargo test --release --test tidy`; questions about it in
//!    `tests/kafka/questions.txt`, and where our answers are not Kafka's, the reason in `tests/kafka/answers.toml`.

use std::collections::BTreeMap;

use tidewater_storage::model::{Compression, TimestampType};

use crate::limits::SETTING_BYTES_MAX;

mod iceberg;
mod table;
#[cfg(test)]
mod tests;

pub use self::iceberg::{ConflictPolicy, IcebergMode, KeyMode, Layout};
pub use self::table::{NAMESPACE, TableName};

/// The effect of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Honoured,
    /// Kept without effect, for this reason.
    Accepted(&'static str),
}

/// The legal values of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A whole number in a closed range.
    Integer { min: i64, max: i64 },
    /// A whole number in a closed range, or one number outside it.
    IntegerOr { min: i64, max: i64, or: i64 },
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Kafka's list of words, all from this set.
    List(&'static [&'static str]),
    /// A real number from 0 to 1.
    Fraction,
    /// Any text up to `SETTING_BYTES_MAX`.
    Text,
    /// [`IcebergMode`].
    IcebergMode,
    /// A JSON Schema, or nothing.
    JsonSchema,
    /// [`TableName`], or nothing.
    TableName,
    /// The fields of a partition spec, in parentheses.
    PartitionSpec,
    /// Columns of a sort order with their directions, or nothing.
    SortOrder,
    /// Properties of a table as pairs, or nothing.
    TableProperties,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Kafka's name; `archive.*` and `iceberg.*` are ours.
    pub name: &'static str,
    pub shape: Shape,
    /// The value when the topic does not set it.
    pub default: &'static str,
    pub kind: Kind,
    /// One sentence for the reference.
    pub doc: &'static str,
    /// Why other values of Kafka's are refused, if some are.
    pub refuses: Option<&'static str>,
}

const fn honoured(name: &'static str, shape: Shape, default: &'static str, doc: &'static str) -> Setting {
    Setting { name, shape, default, kind: Kind::Honoured, doc, refuses: None }
}

const fn refusing(setting: Setting, why: &'static str) -> Setting {
    Setting { refuses: Some(why), ..setting }
}

const fn accepted(name: &'static str, shape: Shape, default: &'static str, why: &'static str) -> Setting {
    Setting { name, shape, default, kind: Kind::Accepted(why), doc: "Accepted without effect.", refuses: None }
}

const FROM_MINUS_ONE: Shape = Shape::Integer { min: -1, max: i64::MAX };
const FROM_MINUS_TWO: Shape = Shape::Integer { min: -2, max: i64::MAX };
const POSITIVE: Shape = Shape::Integer { min: 1, max: i64::MAX };
const NATURAL: Shape = Shape::Integer { min: 0, max: i64::MAX };

const FSYNCED: &str = "every acknowledged record is already fsynced";
/// The `compression.type` that keeps what the producer chose.
const PRODUCER: &str = "producer";
const NO_COMPACTION: &str = "topics are not compacted";
const OWN_INDEX: &str = "segment indexes have a fixed spacing and are preallocated by the engine";

/// Every topic setting, in the order people read them.
pub static SETTINGS: &[Setting] = &[
    honoured(
        "retention.ms",
        FROM_MINUS_ONE,
        "604800000",
        "How long records are kept, in the bucket and here together; -1 is for ever.",
    ),
    honoured(
        "retention.bytes",
        FROM_MINUS_ONE,
        "-1",
        "How many bytes a partition keeps, in the bucket and here together; -1 is no limit.",
    ),
    honoured(
        "local.retention.ms",
        FROM_MINUS_TWO,
        "86400000",
        "How long archived records also stay on local disk; -1 is for ever, -2 is as retention.ms.",
    ),
    honoured(
        "local.retention.bytes",
        FROM_MINUS_TWO,
        "-1",
        "How many bytes of a partition stay on local disk once archived; -1 is no limit, -2 is as retention.bytes.",
    ),
    honoured(
        "remote.storage.enable",
        Shape::Boolean,
        "true",
        "Archive the topic to the bucket. Can be false only when the topic is made; switching it off later would strand what is in the bucket.",
    ),
    honoured(
        "archive.lag.ms",
        Shape::Integer { min: 100, max: 86_400_000 },
        "10000",
        "A committed record is in the bucket at most this much later: the recovery point objective.",
    ),
    honoured(
        "iceberg.mode",
        Shape::IcebergMode,
        "disabled",
        "Keep the topic as an Iceberg table: key_value has key and value as binary columns; the others have a column for each part of a value, and a table beside it, whose name ends in ~dlq, for values that cannot be decoded. value_schema_id_prefix: each value says its schema by an id; value_schema_latest: all are read with the newest schema of the subject, <topic>-value if none is named; json: all are JSON with the columns of iceberg.json.schema or, without that, those that are found in the values.",
    ),
    honoured(
        "iceberg.key.mode",
        Shape::Word(KeyMode::WORDS),
        KeyMode::BINARY,
        "Columns of the records' keys, beside their bytes in tidewater.key: binary has none; string a column key of text; schema_id_prefix a struct key with a member for each part of a key (or a column key, if a key is one value), whose schema an id before the key or in the header __key_schema_id says. Records whose keys cannot be decoded are dead letters. When it is changed, columns that are there stay, and keys of the other kind get one beside, as key__struct.",
    ),
    honoured(
        "iceberg.layout",
        Shape::Word(Layout::WORDS),
        Layout::STRUCT,
        "Where the columns are that say which record a row is: struct has them in a struct tidewater; flat at the top level, as tidewater_offset, for engines that read no structs, and headers as text of JSON. It cannot be changed while iceberg.mode is on, and a table that is there keeps its layout.",
    ),
    honoured(
        "iceberg.json.schema",
        Shape::JsonSchema,
        "",
        "The JSON Schema of a topic's values for iceberg.mode=json; members that it does not name are left out. Without one, columns are found in the values.",
    ),
    honoured(
        "iceberg.table",
        Shape::TableName,
        "",
        "The topic's table, topics.<topic> if this is not set; that of dead letters has the same name with ~dlq. It cannot be changed while iceberg.mode is on: set that to disabled before. The table under the old name stays as it is, and the one under the new name begins with what the topic still has, unless it is the old one, renamed in the catalog.",
    ),
    honoured(
        "iceberg.partition.spec",
        Shape::PartitionSpec,
        "(hour(tidewater.timestamp))",
        "How the table is partitioned when it is made: a list of year(c), month(c), day(c), hour(c), bucket(n, c), truncate(n, c) and c, where c is tidewater.timestamp, tidewater.partition, tidewater.offset, tidewater.key or a column of values or keys by its name in SQL, such as address.city; () is not at all. A field over a column that the table does not have yet is added with the column. A table that is there keeps its spec. That of dead letters is by hour.",
    ),
    honoured(
        "iceberg.sort.order",
        Shape::SortOrder,
        "",
        "The table's sort order, by which files are sorted when small ones are written again as large ones: columns with ASC or DESC and NULLS FIRST or NULLS LAST, such as customer, created_at DESC; tidewater.timestamp, tidewater.partition, tidewater.offset, tidewater.key or columns of values or keys by their names in SQL. The table gets it whenever it changes, and a column that it does not have yet with the column; without one, what was set goes. An order that an engine sets afterwards is followed. Files that are large enough stay as they are.",
    ),
    honoured(
        "iceberg.table.properties",
        Shape::TableProperties,
        "",
        "Properties of the table, which it gets when it is made and keeps: one that is changed in the catalog is set back. One that is taken out of the list stays with the table as it is.",
    ),
    honoured(
        "iceberg.evolution.conflict",
        Shape::Word(ConflictPolicy::WORDS),
        ConflictPolicy::DLQ,
        "Where a schema has another type than the table's column, and the column cannot grow to it: dlq makes its records dead letters in topics.<topic>~dlq; column adds a column <name>__<type> for its values, and the other one is null there; pause stops the table before the first such record until the setting, the schema or the column is changed.",
    ),
    honoured(
        "iceberg.target.lag.ms",
        Shape::Integer { min: 100, max: 86_400_000 },
        "30000",
        "An archived record is in the table about this much later.",
    ),
    honoured("iceberg.delete", Shape::Boolean, "false", "Delete the table and its files with the topic."),
    honoured(
        "iceberg.compaction",
        Shape::Boolean,
        "true",
        "Write small data files of the table again as few large ones, once the hour that they are of is over.",
    ),
    honoured(
        "segment.bytes",
        Shape::Integer { min: 16_384, max: 2_147_483_647 },
        "1073741824",
        "A local segment is closed at this size; closed segments become objects of their own in the bucket.",
    ),
    honoured("segment.ms", POSITIVE, "604800000", "A local segment is closed at this age."),
    honoured(
        "max.message.bytes",
        Shape::Integer { min: 0, max: crate::limits::BATCH_BYTES_MAX as i64 },
        "1048588",
        "The largest record batch accepted, in bytes, as compressed by the producer.",
    ),
    honoured(
        "message.timestamp.type",
        Shape::Word(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        "Whose clock sets record timestamps: the producer's or the broker's.",
    ),
    honoured(
        "message.timestamp.before.max.ms",
        NATURAL,
        "9223372036854775807",
        "A record whose timestamp is further in the past is refused, when producers set timestamps.",
    ),
    honoured(
        "message.timestamp.after.max.ms",
        NATURAL,
        "3600000",
        "A record whose timestamp is further in the future is refused, when producers set timestamps.",
    ),
    refusing(
        honoured("cleanup.policy", Shape::List(&["delete"]), "delete", "What retention does: delete old records."),
        "compaction is not supported",
    ),
    honoured(
        "compression.type",
        Shape::Word(&["uncompressed", "zstd", "lz4", "snappy", "gzip", PRODUCER]),
        PRODUCER,
        "The codec in which batches are stored: the broker recompresses a batch that arrives in another one; producer keeps what the producer chose.",
    ),
    honoured(
        "compression.gzip.level",
        Shape::IntegerOr { min: 1, max: 9, or: -1 },
        "-1",
        "Level of gzip when the broker recompresses; -1 is 6.",
    ),
    honoured(
        "compression.lz4.level",
        Shape::Integer { min: 1, max: 17 },
        "9",
        "Level of LZ4 when the broker recompresses; 9 is the fast compressor, as in Kafka.",
    ),
    honoured(
        "compression.zstd.level",
        Shape::Integer { min: -131_072, max: 22 },
        "3",
        "Level of zstd when the broker recompresses.",
    ),
    honoured(
        "min.insync.replicas",
        Shape::Integer { min: 1, max: 2_147_483_647 },
        "1",
        "Replicas that must answer their leader for a write with acks=all to be taken. A majority of the replicas stores every write in any case, so it counts only above that, and not for a single replica.",
    ),
    accepted("flush.messages", POSITIVE, "9223372036854775807", FSYNCED),
    accepted("flush.ms", NATURAL, "9223372036854775807", FSYNCED),
    accepted("index.interval.bytes", Shape::Integer { min: 0, max: 2_147_483_647 }, "4096", OWN_INDEX),
    accepted("segment.index.bytes", Shape::Integer { min: 4, max: 2_147_483_647 }, "10485760", OWN_INDEX),
    accepted("segment.jitter.ms", NATURAL, "0", "segments of many partitions are written back together"),
    accepted("file.delete.delay.ms", NATURAL, "60000", "files go once a checkpoint no longer names them"),
    accepted("preallocate", Shape::Boolean, "false", OWN_INDEX),
    accepted("delete.retention.ms", NATURAL, "86400000", NO_COMPACTION),
    accepted("min.cleanable.dirty.ratio", Shape::Fraction, "0.5", NO_COMPACTION),
    accepted("min.compaction.lag.ms", NATURAL, "0", NO_COMPACTION),
    accepted("max.compaction.lag.ms", POSITIVE, "9223372036854775807", NO_COMPACTION),
    accepted("message.downconversion.enable", Shape::Boolean, "false", "Kafka 4 has no down-conversion either"),
    accepted(
        "unclean.leader.election.enable",
        Shape::Boolean,
        "false",
        "a lane never elects a leader that lacks a record",
    ),
    accepted("remote.log.copy.disable", Shape::Word(&["false"]), "false", "archiving cannot be switched off"),
    accepted("remote.log.delete.on.disable", Shape::Word(&["false"]), "false", "archiving cannot be switched off"),
    accepted("leader.replication.throttled.replicas", Shape::Text, "", "replication is not throttled"),
    accepted("follower.replication.throttled.replicas", Shape::Text, "", "replication is not throttled"),
];

/// Why a setting is refused; Kafka's text where Kafka refuses it too, since tools show it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    #[error("Unknown topic config name: {0}")]
    Unknown(String),
    /// A value of the wrong form, or out of range.
    #[error("Invalid value {value} for configuration {name}: {expected}")]
    Value { name: &'static str, value: String, expected: String },
    #[error("Invalid value for configuration {name}: {bytes} bytes are given, at most {SETTING_BYTES_MAX} are taken")]
    TooLong { name: &'static str, bytes: usize },
    /// Legal in Kafka, not supported here.
    #[error("{name}={value} is refused: {why}")]
    Refused { name: &'static str, value: String, why: &'static str },
}

/// A topic's settings with defaults filled in. `None` is "no limit".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `retention.ms`.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`.
    pub retention_bytes: Option<u64>,
    /// `local.retention.ms`.
    pub local_retention_ms: Option<u64>,
    /// `local.retention.bytes`.
    pub local_retention_bytes: Option<u64>,
    /// `remote.storage.enable`.
    pub archived: bool,
    /// `archive.lag.ms`.
    pub archive_lag_ms: u64,
    /// `iceberg.mode`.
    pub iceberg_mode: IcebergMode,
    /// `iceberg.key.mode`.
    pub iceberg_key_mode: KeyMode,
    /// `iceberg.layout`.
    pub iceberg_layout: Layout,
    /// `iceberg.json.schema`; empty: none.
    pub iceberg_json_schema: String,
    /// `iceberg.table`; empty: `topics.<topic>`. [`TopicConfig::table_of`] has the name.
    pub iceberg_table: String,
    /// `iceberg.partition.spec`.
    pub iceberg_partition_spec: String,
    /// `iceberg.sort.order`.
    pub iceberg_sort_order: String,
    /// `iceberg.table.properties`.
    pub iceberg_table_properties: BTreeMap<String, String>,
    /// `iceberg.evolution.conflict`.
    pub iceberg_conflict: ConflictPolicy,
    /// `iceberg.target.lag.ms`.
    pub iceberg_target_lag_ms: u64,
    /// `iceberg.delete`.
    pub iceberg_delete: bool,
    /// `iceberg.compaction`.
    pub iceberg_compaction: bool,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: u64,
    /// `min.insync.replicas`.
    pub min_insync: usize,
    /// `max.message.bytes`.
    pub max_message_bytes: u32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: u64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: u64,
    /// `compression.type` with its level; `None` keeps what the producer chose.
    pub compression: Option<TopicCompression>,
}

/// The codec in which a topic's batches are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicCompression {
    pub codec: Compression,
    /// In Kafka's range for the codec; `None` is its default.
    pub level: Option<i32>,
}

#[must_use]
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name)
}

impl Setting {
    /// # Errors
    /// `value` has the wrong form, is out of range or is refused.
    pub fn check(&self, value: &str) -> Result<(), SettingError> {
        if value.len() > SETTING_BYTES_MAX {
            return Err(SettingError::TooLong { name: self.name, bytes: value.len() });
        }
        let expected = match self.shape {
            Shape::Integer { min, max } => match value.trim().parse::<i64>() {
                Ok(n) if n < min => format!("Value must be at least {min}"),
                Ok(n) if n > max => format!("Value must be no more than {max}"),
                Ok(_) => return Ok(()),
                Err(_) if max <= i64::from(i32::MAX) => "Not a number of type INT".to_owned(),
                Err(_) => "Not a number of type LONG".to_owned(),
            },
            Shape::IntegerOr { min, max, or } => match value.trim().parse::<i64>() {
                Ok(n) if n == or || (min..=max).contains(&n) => return Ok(()),
                Ok(_) => format!("Value must be between {min} and {max} or equal to {or}"),
                Err(_) => "Not a number of type INT".to_owned(),
            },
            Shape::Boolean if matches!(value, "true" | "false") => return Ok(()),
            Shape::Boolean => "Expected value to be either true or false".to_owned(),
            Shape::Word(words) if words.contains(&value) => return Ok(()),
            Shape::List(words) if value.split(',').all(|w| words.contains(&w.trim())) => return Ok(()),
            Shape::Word(words) | Shape::List(words) => format!("String must be one of: {}", words.join(", ")),
            Shape::Fraction => match value.trim().parse::<f64>() {
                Ok(f) if (0.0..=1.0).contains(&f) => return Ok(()),
                Ok(f) if f > 1.0 => "Value must be no more than 1".to_owned(),
                Ok(_) => "Value must be at least 0".to_owned(),
                Err(_) => "Not a number of type DOUBLE".to_owned(),
            },
            Shape::Text => return Ok(()),
            Shape::IcebergMode => match IcebergMode::parse(value) {
                Ok(_) => return Ok(()),
                Err(expected) => expected,
            },
            Shape::JsonSchema => match iceberg::check_json_schema(value) {
                Ok(()) => return Ok(()),
                Err(why) => format!("A JSON Schema is expected: {why}"),
            },
            Shape::PartitionSpec => match table::check_partition_spec(value) {
                Ok(()) => return Ok(()),
                Err(why) => format!("A partition spec is expected: {why}"),
            },
            Shape::SortOrder => match table::check_sort_order(value) {
                Ok(()) => return Ok(()),
                Err(why) => format!("A sort order is expected: {why}"),
            },
            Shape::TableProperties => match table::parse_properties(value) {
                Ok(_) => return Ok(()),
                Err(why) => format!("Properties of a table are expected: {why}"),
            },
            Shape::TableName => match table::check_table(value) {
                Ok(()) => return Ok(()),
                Err(expected) => expected,
            },
        };
        match self.refuses {
            Some(why) => Err(SettingError::Refused { name: self.name, value: value.to_owned(), why }),
            None => Err(SettingError::Value { name: self.name, value: value.to_owned(), expected }),
        }
    }
}

/// # Errors
/// The setting is unknown, or [`Setting::check`] fails.
pub fn check(name: &str, value: &str) -> Result<(), SettingError> {
    setting(name).ok_or_else(|| SettingError::Unknown(name.to_owned()))?.check(value)
}

/// The value of a setting: that among the overrides if it is legal, else the default.
#[must_use]
pub fn text_of(name: &str, overrides: &BTreeMap<String, String>) -> String {
    let row = setting(name);
    assert!(row.is_some(), "the setting {name} has no row in SETTINGS");
    overrides
        .get(name)
        .filter(|value| row.is_some_and(|row| row.check(value).is_ok()))
        .cloned()
        .unwrap_or_else(|| row.map_or("", |row| row.default).to_owned())
}

impl TopicConfig {
    /// The overrides, and defaults for the rest. Overrides were checked when they were set; one that an older version
    /// accepted and this one refuses gives the default, so that the topic goes on serving.
    #[must_use]
    pub fn resolve(overrides: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| text_of(name, overrides);
        let number = |name: &str| {
            let parsed = text(name).trim().parse::<i64>();
            assert!(parsed.is_ok(), "the value of {name} passed its check and is no number");
            parsed.unwrap_or_default()
        };
        let limit = |name: &str| u64::try_from(number(name)).ok();
        let natural = |name: &str| limit(name).unwrap_or_default();
        let local = |name: &str, total: &str| if number(name) == -2 { limit(total) } else { limit(name) };
        Self {
            retention_ms: limit("retention.ms"),
            retention_bytes: limit("retention.bytes"),
            local_retention_ms: local("local.retention.ms", "retention.ms"),
            local_retention_bytes: local("local.retention.bytes", "retention.bytes"),
            archived: text("remote.storage.enable") == "true",
            archive_lag_ms: natural("archive.lag.ms"),
            iceberg_mode: match IcebergMode::parse(&text("iceberg.mode")) {
                Ok(mode) => mode,
                Err(why) => unreachable!("the value of iceberg.mode passed its check: {why}"),
            },
            iceberg_key_mode: KeyMode::parse(&text("iceberg.key.mode")),
            iceberg_layout: Layout::parse(&text("iceberg.layout")),
            iceberg_json_schema: text("iceberg.json.schema"),
            iceberg_table: text("iceberg.table"),
            iceberg_partition_spec: text("iceberg.partition.spec"),
            iceberg_sort_order: text("iceberg.sort.order"),
            iceberg_table_properties: match table::parse_properties(&text("iceberg.table.properties")) {
                Ok(properties) => properties,
                Err(why) => unreachable!("the value of iceberg.table.properties passed its check: {why}"),
            },
            iceberg_conflict: ConflictPolicy::parse(&text("iceberg.evolution.conflict")),
            iceberg_target_lag_ms: natural("iceberg.target.lag.ms"),
            iceberg_delete: text("iceberg.delete") == "true",
            iceberg_compaction: text("iceberg.compaction") == "true",
            segment_bytes: natural("segment.bytes"),
            segment_ms: natural("segment.ms"),
            min_insync: usize::try_from(natural("min.insync.replicas")).unwrap_or(usize::MAX),
            max_message_bytes: u32::try_from(natural("max.message.bytes")).unwrap_or(u32::MAX),
            timestamp_before_max_ms: natural("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: natural("message.timestamp.after.max.ms"),
            compression: {
                let default = |name: &str| setting(name).map(|row| row.default.to_owned());
                let level =
                    |name: &str| i32::try_from(number(name)).ok().filter(|n| default(name) != Some(n.to_string()));
                let to = |codec, level| Some(TopicCompression { codec, level });
                match text("compression.type").as_str() {
                    "uncompressed" => to(Compression::None, None),
                    "gzip" => to(Compression::Gzip, level("compression.gzip.level")),
                    "snappy" => to(Compression::Snappy, None),
                    "lz4" => to(Compression::Lz4, level("compression.lz4.level")),
                    "zstd" => to(Compression::Zstd, level("compression.zstd.level")),
                    _ => None,
                }
            },
            timestamp_type: if text("message.timestamp.type") == "LogAppendTime" {
                TimestampType::LogAppend
            } else {
                TimestampType::Create
            },
        }
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self::resolve(&BTreeMap::new())
    }
}
