//! [`TableMode`]: how a topic's records become rows.

/// What the columns of a topic's table are (`iceberg.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableMode {
    /// Key and value as bytes.
    #[default]
    KeyValue,
    /// Each value names its schema, before its bytes or in a header; its parts are columns.
    ValueSchemaIdPrefix,
}

impl TableMode {
    /// The word of the topic's setting.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::KeyValue => "key_value",
            Self::ValueSchemaIdPrefix => "value_schema_id_prefix",
        }
    }

    /// Whether the parts of values are columns.
    #[must_use]
    pub fn is_typed(self) -> bool {
        match self {
            Self::KeyValue => false,
            Self::ValueSchemaIdPrefix => true,
        }
    }
}
