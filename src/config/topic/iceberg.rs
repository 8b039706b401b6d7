//! `iceberg.mode`, `iceberg.key.mode`, `iceberg.layout`, `iceberg.json.schema` and `iceberg.evolution.conflict`: their
//! values, read and checked in one place.

use super::TopicConfig;

/// The words of `iceberg.mode`.
const DISABLED: &str = "disabled";
const KEY_VALUE: &str = "key_value";
const ID_PREFIX: &str = "value_schema_id_prefix";
const LATEST: &str = "value_schema_latest";
const JSON: &str = "json";
/// What follows [`LATEST`] where the subject is named.
const SUBJECT: &str = ":subject=";

/// How a topic becomes a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IcebergMode {
    Disabled,
    /// Key and value as binary columns.
    KeyValue,
    /// A column for each part of a value, whose schema an id says.
    ValueSchemaIdPrefix,
    /// The same of values that name no schema: they are read with the newest one of a subject.
    ValueSchemaLatest {
        /// `None`: `<topic>-value`.
        subject: Option<String>,
    },
    /// The same of JSON, whose columns `iceberg.json.schema` says, or else the values.
    Json,
}

impl IcebergMode {
    /// # Errors
    /// `text` is no value of the setting; what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            DISABLED => return Ok(Self::Disabled),
            KEY_VALUE => return Ok(Self::KeyValue),
            ID_PREFIX => return Ok(Self::ValueSchemaIdPrefix),
            LATEST => return Ok(Self::ValueSchemaLatest { subject: None }),
            JSON => return Ok(Self::Json),
            _ => {}
        }
        match text.strip_prefix(LATEST).and_then(|rest| rest.strip_prefix(SUBJECT)) {
            Some(subject) if subject.is_empty() || subject.chars().any(char::is_control) => {
                Err("The subject must not be empty and has no control characters".to_owned())
            }
            Some(subject) => Ok(Self::ValueSchemaLatest { subject: Some(subject.to_owned()) }),
            None => Err(format!("String must be one of: {}", Self::forms().join(", "))),
        }
    }

    /// Whether the parts of values are columns.
    fn is_typed(&self) -> bool {
        match self {
            Self::Disabled | Self::KeyValue => false,
            Self::ValueSchemaIdPrefix | Self::ValueSchemaLatest { .. } | Self::Json => true,
        }
    }

    /// The legal values, for people.
    #[must_use]
    pub fn forms() -> [String; 6] {
        let named = format!("{LATEST}{SUBJECT}NAME");
        [DISABLED.into(), KEY_VALUE.into(), ID_PREFIX.into(), LATEST.into(), named, JSON.into()]
    }
}

/// What columns a record's key has beside its bytes (`iceberg.key.mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyMode {
    /// None.
    Binary,
    /// One of text.
    Text,
    /// Those of its schema, which an id says.
    SchemaIdPrefix,
}

impl KeyMode {
    pub(super) const BINARY: &'static str = "binary";
    const TEXT: &'static str = "string";
    const ID_PREFIX: &'static str = "schema_id_prefix";
    pub(super) const WORDS: &'static [&'static str] = &[Self::BINARY, Self::TEXT, Self::ID_PREFIX];

    /// The mode of one of [`KeyMode::WORDS`].
    pub(super) fn parse(word: &str) -> Self {
        match word {
            Self::BINARY => Self::Binary,
            Self::TEXT => Self::Text,
            Self::ID_PREFIX => Self::SchemaIdPrefix,
            word => unreachable!("the value {word} of iceberg.key.mode passed its check"),
        }
    }
}

/// Where a table has its system columns (`iceberg.layout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In a struct.
    Struct,
    /// At the top level.
    Flat,
}

impl Layout {
    pub(super) const STRUCT: &'static str = "struct";
    const FLAT: &'static str = "flat";
    pub(super) const WORDS: &'static [&'static str] = &[Self::STRUCT, Self::FLAT];

    /// The layout of one of [`Layout::WORDS`].
    pub(super) fn parse(word: &str) -> Self {
        match word {
            Self::STRUCT => Self::Struct,
            Self::FLAT => Self::Flat,
            word => unreachable!("the value {word} of iceberg.layout passed its check"),
        }
    }
}

/// What becomes of values whose schema has another type than the table's column (`iceberg.evolution.conflict`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// They are dead letters.
    DeadLetters,
    /// The table gets a column for them beside the other one.
    Column,
    /// The table stops before the first of them.
    Pause,
}

impl ConflictPolicy {
    pub(super) const DLQ: &'static str = "dlq";
    const COLUMN: &'static str = "column";
    const PAUSE: &'static str = "pause";
    pub(super) const WORDS: &'static [&'static str] = &[Self::DLQ, Self::COLUMN, Self::PAUSE];

    /// The policy of one of [`ConflictPolicy::WORDS`].
    pub(super) fn parse(word: &str) -> Self {
        match word {
            Self::DLQ => Self::DeadLetters,
            Self::COLUMN => Self::Column,
            Self::PAUSE => Self::Pause,
            word => unreachable!("the value {word} of iceberg.evolution.conflict passed its check"),
        }
    }
}

impl TopicConfig {
    /// Whether keys or values are decoded into columns; records of which one cannot be are dead letters then.
    #[must_use]
    pub fn has_dead_letters(&self) -> bool {
        let with_keys = self.iceberg_key_mode != KeyMode::Binary && self.iceberg_mode != IcebergMode::Disabled;
        self.iceberg_mode.is_typed() || with_keys
    }
}

/// Checks a value of `iceberg.json.schema`; an empty one is none.
///
/// # Errors
/// It is no JSON Schema, or none that a table can have.
pub(super) fn check_json_schema(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    #[cfg(feature = "lakehouse")]
    {
        use tidewater_iceberg::columns::json::Schema;
        Schema::parse(text, &[]).and_then(|schema| schema.shape()).map(drop).map_err(|refused| refused.to_string())
    }
    #[cfg(not(feature = "lakehouse"))]
    {
        serde_json::from_str::<serde_json::Value>(text).map(drop).map_err(|e| format!("it is not JSON: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_nothing_else() {
        for form in IcebergMode::forms() {
            IcebergMode::parse(&form).expect("legal");
        }
        let named = IcebergMode::parse("value_schema_latest:subject=a:b=c").expect("legal");
        assert_eq!(named, IcebergMode::ValueSchemaLatest { subject: Some("a:b=c".to_owned()) });
        for (text, part) in [
            ("", "String must be one of: disabled, key_value, "),
            ("Json", "String must be one of"),
            ("value_schema_latest:", "value_schema_latest:subject=NAME"),
            ("value_schema_latest:subject=", "must not be empty"),
            ("value_schema_latest:subject=a\nb", "control characters"),
            ("json:subject=a", "String must be one of"),
        ] {
            let refused = IcebergMode::parse(text).expect_err("is no form");
            assert!(refused.contains(part), "{text:?}: {refused}");
        }
    }

    #[cfg(feature = "lakehouse")]
    #[test]
    fn a_json_schema_is_one_that_a_table_can_have() {
        check_json_schema("").expect("none");
        check_json_schema(r#"{"properties":{"a":{"type":"integer"}}}"#).expect("legal");
        for (text, part) in [
            ("{", "it is not JSON"),
            ("[]", "it is no object"),
            (r#"{"type":"null"}"#, "no column"),
            (r##"{"properties":{"a":{"$ref":"#"}}}"##, "contains itself"),
        ] {
            let refused = check_json_schema(text).expect_err("is refused");
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }
}
