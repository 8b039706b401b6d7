//! [`ValueSchema`]: a writer's schema of any language, parsed; and [`ValueDecoder`], which reads its values, or keys of
//! records.
//!
//! The only place of turns that knows the languages. Pure.

use std::sync::Arc;

use iceberg::spec::FormatVersion;

use crate::columns::avro::shape::Nanos;
use crate::columns::build::{Columns, Layout};
use crate::columns::evolve::Plan;
use crate::columns::fault::BadValue;
use crate::columns::protobuf::path::MessagePath;
use crate::columns::shape::Shape;
use crate::columns::{Refused, avro, json, key, protobuf};
use crate::registry::WriterSchema;

/// A parsed schema.
#[derive(Clone, Debug)]
pub enum ValueSchema {
    Avro(Arc<avro::Schema>),
    Json(Arc<json::Schema>),
    Protobuf(Arc<protobuf::Schema>),
    /// Of keys alone.
    Text,
}

impl ValueSchema {
    /// Parses what a registry gave; `message` is the one that values name, of a file of Protobuf.
    ///
    /// # Errors
    /// Values of the schema cannot be rows of a table.
    pub fn parse(schema: &WriterSchema, message: Option<MessagePath>) -> Result<Self, Refused> {
        match (schema, message) {
            (WriterSchema::Avro(of), _) => {
                let references: Vec<&str> = of.references.iter().map(|(_, text)| &**text).collect();
                Ok(Self::Avro(Arc::new(avro::Schema::parse(&of.text, &references)?)))
            }
            (WriterSchema::Json(of), _) => {
                let references: Vec<_> = of.references.iter().map(|(name, text)| (name.as_str(), &**text)).collect();
                Ok(Self::Json(Arc::new(json::Schema::parse(&of.text, &references)?)))
            }
            (WriterSchema::Text, _) => Ok(Self::Text),
            (WriterSchema::Protobuf(Err(why)), _) => Err(Refused::Schema(why.clone())),
            (WriterSchema::Protobuf(Ok(_)), None) => Err(Refused::Schema("a value names no message of it".to_owned())),
            (WriterSchema::Protobuf(Ok(file)), Some(message)) => {
                Ok(Self::Protobuf(Arc::new(protobuf::Schema::new(file, &message)?)))
            }
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
            Self::Protobuf(schema) => schema.shape(),
            Self::Text => Err(Refused::Schema("values that are text have no columns".to_owned())),
        }
    }

    /// The columns that the schema needs where it is of records' keys.
    ///
    /// # Errors
    /// A table cannot have them.
    pub fn key_shape(&self, format: FormatVersion) -> Result<Shape, Refused> {
        match self {
            Self::Text => Ok(key::text_shape()),
            schema => schema.shape(format).map(key::shape),
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
            Self::Protobuf(schema) => protobuf::decode::Decoder::new(schema, plan, layout).map(ValueDecoder::Protobuf),
            Self::Text => key::TextDecoder::new(plan, layout).map(ValueDecoder::Text),
        }
    }

    /// Of records' keys into columns of `layout`, which is of the keys of the plan's schema.
    ///
    /// # Errors
    /// As [`ValueSchema::decoder`].
    pub fn key_decoder(&self, plan: &Plan, layout: &Arc<Layout>) -> Result<ValueDecoder, Refused> {
        if key::is_left_out(plan) { Ok(ValueDecoder::LeftOut) } else { self.decoder(plan, layout) }
    }
}

/// Reads values of one schema into columns of one layout.
#[derive(Debug)]
pub enum ValueDecoder {
    Avro(avro::decode::Decoder),
    Json(json::decode::Decoder),
    Protobuf(protobuf::decode::Decoder),
    Text(key::TextDecoder),
    /// Its column was dropped by the table's owner.
    LeftOut,
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
            Self::Protobuf(decoder) => decoder.push(value, columns, limit),
            Self::Text(decoder) => decoder.push(value, columns, limit),
            Self::LeftOut => {
                columns.push_null();
                Ok(0)
            }
        }
    }
}
