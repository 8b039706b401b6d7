//! Schemas read from their text, and printed in the form that is stored, hashed and handed out.
//!
//! One module a language. Each reads text with the schemas that it refers to, prints it as Confluent's registry does,
//! and keeps what [`compat`](super::compat) compares.

pub mod avro;
pub mod avro_print;
mod builtin;
pub mod json_schema;
pub mod protobuf;
pub mod protobuf_print;

use super::definition::SchemaKind;
use avro::AvroSchema;
use json_schema::JsonSchema;
use protobuf::ProtobufSchema;

/// A schema that another refers to, found in the registry. Those it refers to itself come before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What the referring schema calls it.
    pub name: String,
    /// Its canonical text.
    pub text: String,
}

/// A form that a client may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As it is stored.
    #[default]
    Stored,
    /// With everything it refers to inside (Avro).
    Resolved,
    /// Base64 of a `FileDescriptorProto` (Protobuf).
    Serialized,
    /// Without extensions of its own kind (Protobuf).
    IgnoreExtensions,
}

impl Format {
    /// Forms that are not known mean the stored one, so that a newer client gets an answer.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "resolved" => Self::Resolved,
            "serialized" => Self::Serialized,
            "ignore_extensions" => Self::IgnoreExtensions,
            _ => Self::Stored,
        }
    }
}

/// A schema that was read.
#[derive(Clone, Debug)]
pub enum Parsed {
    Avro(AvroSchema),
    Json(JsonSchema),
    Protobuf(Box<ProtobufSchema>),
}

/// Why a text is no schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

impl ParseError {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// How strictly a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// As a schema to be registered.
    New,
    /// As one that is only compared: what an earlier version accepted is accepted.
    Known,
}

impl Parsed {
    /// # Errors
    /// The text is not of this language, breaks a rule of it, or refers to what `references` do not hold.
    pub fn parse(
        kind: SchemaKind,
        text: &str,
        references: &[Resolved],
        strictness: Strictness,
    ) -> Result<Self, ParseError> {
        match kind {
            SchemaKind::Avro => AvroSchema::parse(text, references, strictness).map(Self::Avro),
            SchemaKind::Json => JsonSchema::parse(text, references).map(Self::Json),
            SchemaKind::Protobuf => ProtobufSchema::parse(text, references).map(Box::new).map(Self::Protobuf),
        }
    }

    #[must_use]
    pub const fn kind(&self) -> SchemaKind {
        match self {
            Self::Avro(_) => SchemaKind::Avro,
            Self::Json(_) => SchemaKind::Json,
            Self::Protobuf(_) => SchemaKind::Protobuf,
        }
    }

    /// The form that is stored.
    #[must_use]
    pub fn canonical(&self) -> String {
        match self {
            Self::Avro(schema) => avro_print::print(schema, avro_print::Style::Canonical),
            Self::Json(schema) => schema.canonical(),
            Self::Protobuf(schema) => protobuf_print::print(schema, false),
        }
    }

    /// The stored form of a schema that is to be normalised: what does not change its meaning has one order.
    #[must_use]
    pub fn normalized(&self) -> String {
        match self {
            Self::Avro(schema) => avro_print::print(schema, avro_print::Style::Normalized),
            Self::Json(schema) => schema.normalized(),
            Self::Protobuf(schema) => protobuf_print::print(schema, true),
        }
    }

    /// The same with all that it refers to inside: equal for schemas that mean the same over other references.
    #[must_use]
    pub fn inlined(&self) -> String {
        match self {
            Self::Avro(schema) => avro_print::print(schema, avro_print::Style::Inlined),
            Self::Json(schema) => schema.normalized(),
            Self::Protobuf(schema) => protobuf_print::print(schema, true),
        }
    }

    /// As a client asks for it; `None` where the language has no such form.
    #[must_use]
    pub fn formatted(&self, format: Format) -> Option<String> {
        match (self, format) {
            (Self::Protobuf(schema), Format::Serialized) => Some(schema.serialized()),
            (Self::Avro(schema), Format::Resolved) => Some(avro_print::print(schema, avro_print::Style::Inlined)),
            _ => None,
        }
    }
}
