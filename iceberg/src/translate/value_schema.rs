//! [`ValueSchema`]: a writer's schema of any language, parsed; and [`ValueDecoder`], which reads its values.
//!
//! The only place of turns that knows the languages. Pure.

use std::sync::Arc;

use iceberg::spec::FormatVersion;

use crate::columns::avro::shape::Nanos;
use crate::columns::build::{Columns, Layout};
use crate::columns::evolve::Plan;
use crate::columns::fault::BadValue;
use crate::columns::shape::Shape;
use crate::columns::{Refused, avro, json};
use crate::registry::{SchemaKind, WriterSchema};

/// Why values of a schema are no rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaRefused {
    #[error("{0} schemas are not supported")]
    Kind(SchemaKind),
    #[error(transparent)]
    Columns(#[from] Refused),
}

/// A parsed schema.
#[derive(Clone, Debug)]
pub enum ValueSchema {
    Avro(Arc<avro::Schema>),
    Json(Arc<json::Schema>),
}

impl ValueSchema {
    /// Parses what a registry gave.
    ///
    /// # Errors
    /// Values of the schema cannot be rows of a table.
    pub fn parse(schema: &WriterSchema) -> Result<Self, SchemaRefused> {
        match schema.kind {
            SchemaKind::Avro => {
                let references: Vec<&str> = schema.references.iter().map(|(_, text)| &**text).collect();
                Ok(Self::Avro(Arc::new(avro::Schema::parse(&schema.text, &references)?)))
            }
            SchemaKind::Json => {
                let references: Vec<_> =
                    schema.references.iter().map(|(name, text)| (name.as_str(), &**text)).collect();
                Ok(Self::Json(Arc::new(json::Schema::parse(&schema.text, &references)?)))
            }
            SchemaKind::Protobuf => Err(SchemaRefused::Kind(schema.kind)),
        }
    }

    /// The columns that the schema needs in a table of this format version.
    ///
    /// # Errors
    /// A table cannot have them.
    pub fn shape(&self, format: FormatVersion) -> Result<Shape, Refused> {
        match self {
            Self::Avro(schema) => schema.shape(if format == FormatVersion::V3 { Nanos::Keep } else { Nanos::Cut }),
            Self::Json(schema) => schema.shape(),
        }
    }

    /// Of its values into columns of `layout`, which is of the plan's schema.
    ///
    /// # Errors
    /// The plan is of another schema or has conflicts: a defect of the caller.
    pub fn decoder(&self, plan: &Plan, layout: &Arc<Layout>) -> Result<ValueDecoder, Refused> {
        match self {
            Self::Avro(schema) => avro::decode::Decoder::new(schema, plan, layout).map(ValueDecoder::Avro),
            Self::Json(schema) => json::decode::Decoder::new(schema, plan, layout).map(ValueDecoder::Json),
        }
    }
}

/// Reads values of one schema into columns of one layout.
#[derive(Debug)]
pub enum ValueDecoder {
    Avro(avro::decode::Decoder),
    Json(json::decode::Decoder),
}

impl ValueDecoder {
    /// Appends `value` as a row, if it takes no more than `limit` bytes; returns the bytes that it is charged.
    ///
    /// # Errors
    /// The value is not a row; the columns are as before.
    pub fn push(&self, value: &[u8], columns: &mut Columns, limit: usize) -> Result<usize, BadValue> {
        match self {
            Self::Avro(decoder) => decoder.push(value, columns, limit),
            Self::Json(decoder) => decoder.push(value, columns, limit),
        }
    }
}
