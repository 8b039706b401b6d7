//! [`TableMode`] and [`KeyMode`]: how a topic's records become rows; [`ConflictPolicy`]: what becomes of values that
//! the columns cannot take.

use std::sync::Arc;

/// What the columns of a topic's table are (`iceberg.mode`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TableMode {
    /// Key and value as bytes.
    #[default]
    KeyValue,
    /// Each value names its schema, before its bytes or in a header; its parts are columns.
    ValueSchemaIdPrefix,
    /// Values name no schema: they are read with the newest one of a subject of the registry.
    ValueSchemaLatest { subject: Arc<str> },
    /// Values are JSON, as this JSON Schema describes them.
    Json { schema: Arc<str> },
    /// Values are JSON, and the columns are those that are found in them.
    JsonFound,
}

impl TableMode {
    /// The word of the topic's setting.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::KeyValue => "key_value",
            Self::ValueSchemaIdPrefix => "value_schema_id_prefix",
            Self::ValueSchemaLatest { .. } => "value_schema_latest",
            Self::Json { .. } | Self::JsonFound => "json",
        }
    }

    /// Whether the parts of values are columns.
    #[must_use]
    pub fn is_typed(&self) -> bool {
        match self {
            Self::KeyValue => false,
            Self::ValueSchemaIdPrefix | Self::ValueSchemaLatest { .. } | Self::Json { .. } | Self::JsonFound => true,
        }
    }
}

/// What a record's key becomes, beside its bytes in `tidewater.key` (`iceberg.key.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyMode {
    /// Nothing.
    #[default]
    Binary,
    /// A column of text.
    Text,
    /// Each key names its schema, before its bytes or in a header: a struct of its parts, or a column of its type.
    SchemaIdPrefix,
}

/// What becomes of values whose schema has another type than the table's column (`iceberg.evolution.conflict`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// They are dead letters.
    #[default]
    DeadLetters,
    /// The table gets a column for them beside the other one, `<name>__<type>`.
    Column,
    /// The table stops before the first of them.
    Pause,
}
