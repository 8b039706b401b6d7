//! Protobuf messages as their producers registered them: [`Schema`], one message of a compiled file with all that its
//! fields contain, checked for depth and recursion.
//!
//! Owns: the model of a writer's message. [`path`] says which message of a file a value is, [`shape`] what columns it
//! needs, [`decode`] reads values. Does not own: compiling `.proto` text, which the registry does. Pure.
//!
//! Kept is only what columns need: options, services and extensions are left out. Fields are ordered by number.

use std::collections::HashMap;
use std::sync::Arc;

use prost_reflect::{Cardinality, FieldDescriptor, FileDescriptor, Kind as Declared, MessageDescriptor, Value};

use crate::columns::{DEPTH_MAX, Refused};

pub mod decode;
pub mod path;
pub mod shape;
#[cfg(test)]
pub(crate) mod tests;

use path::MessagePath;

/// Fields of one message with all that it contains at the most.
const FIELDS_MAX: usize = 20_000;

/// A message of a [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId(usize);

/// A writer's message.
#[derive(Clone, Debug)]
pub struct Schema {
    messages: Vec<Message>,
    root: MessageId,
    /// Without its package: what tells its fields from those of other messages in the same table.
    name: String,
}

/// What a message has.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// By number.
    pub fields: Vec<Field>,
    /// No field of it has content that a column could show.
    is_empty: bool,
}

/// A field of a message.
#[derive(Clone, Debug)]
pub struct Field {
    pub number: u32,
    pub name: String,
    pub kind: Kind,
    pub arity: Arity,
    /// Which oneof of the message it is in.
    pub oneof: Option<usize>,
}

/// How often a field comes.
#[derive(Clone, Debug)]
pub enum Arity {
    One(Missing),
    Repeated,
    /// The kind is that of the values.
    Map(Scalar),
}

/// What stands for a field that a value lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    Null,
    /// The value is not one of the message: the field is `required`.
    Refused,
    /// As it would be in the value.
    Number(u64),
    Bytes(Box<[u8]>),
}

/// What a field holds.
#[derive(Clone, Debug)]
pub enum Kind {
    Scalar(Scalar),
    Message(MessageId),
    /// A message between two tags: proto2's old way.
    Group(MessageId),
    Timestamp,
    Duration,
    /// A message with a scalar in its field 1.
    Wrapper(Scalar, Missing),
    Json(Json),
}

/// Messages that are JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {
    Struct,
    Value,
    List,
}

/// A type without parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Float,
    Double,
    String,
    Bytes,
    /// Name of each number; the first one where a number has several.
    Enum(Arc<HashMap<i32, Box<str>>>),
}

fn invalid(what: impl Into<String>) -> Refused {
    Refused::Schema(what.into())
}

impl Schema {
    /// The message of `file` that `path` leads to.
    ///
    /// # Errors
    /// There is no such message, or it is recursive or too deep.
    pub fn new(file: &FileDescriptor, path: &MessagePath) -> Result<Self, Refused> {
        let message = path.find(file).ok_or_else(|| invalid(format!("its file has no message {path}")))?;
        let mut reader = Reader { messages: Vec::new(), known: HashMap::new(), fields: 0 };
        let (root, _) = reader.message(&message, 0)?;
        let (full, package) = (message.full_name(), message.package_name());
        let name = full.strip_prefix(package).unwrap_or(full).trim_start_matches('.').to_owned();
        Ok(Self { messages: reader.messages, root, name })
    }

    #[must_use]
    pub fn root(&self) -> MessageId {
        self.root
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0]
    }

    /// Whether a field is no column: it holds a message without content.
    #[must_use]
    pub fn is_empty(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Message(id) | Kind::Group(id) => self.message(*id).is_empty,
            _ => false,
        }
    }
}

/// A message that was met.
#[derive(Clone, Copy)]
enum Known {
    /// Being read: meeting it again is recursion.
    Open,
    /// With how many levels of messages are in it.
    Read(MessageId, usize),
}

struct Reader {
    messages: Vec<Message>,
    known: HashMap<String, Known>,
    fields: usize,
}

impl Reader {
    /// Each message is read once, since it may stand in any number of places.
    fn message(&mut self, of: &MessageDescriptor, depth: usize) -> Result<(MessageId, usize), Refused> {
        let too_deep = Refused::Depth { max: DEPTH_MAX };
        match self.known.get(of.full_name()) {
            Some(Known::Open) => return Err(Refused::Recursive { name: of.full_name().to_owned() }),
            Some(Known::Read(_, height)) if depth + height > DEPTH_MAX => return Err(too_deep),
            Some(Known::Read(id, height)) => return Ok((*id, *height)),
            None if depth > DEPTH_MAX => return Err(too_deep),
            None => self.known.insert(of.full_name().to_owned(), Known::Open),
        };
        let (mut fields, mut height) = (Vec::with_capacity(of.fields().len()), 0);
        for field in of.fields() {
            self.fields += 1;
            if self.fields > FIELDS_MAX {
                return Err(invalid(format!("it has more than {FIELDS_MAX} fields")));
            }
            let (field, inside) = self.field(&field, depth)?;
            height = height.max(inside);
            fields.push(field);
        }
        fields.sort_by_key(|field: &Field| field.number);
        let is_empty = fields.iter().all(|field| match field.kind {
            Kind::Message(id) | Kind::Group(id) => self.messages[id.0].is_empty,
            _ => false,
        });
        let id = MessageId(self.messages.len());
        self.messages.push(Message { fields, is_empty });
        self.known.insert(of.full_name().to_owned(), Known::Read(id, height));
        Ok((id, height))
    }

    fn field(&mut self, of: &FieldDescriptor, depth: usize) -> Result<(Field, usize), Refused> {
        let oneof = of.containing_oneof().filter(|oneof| !oneof.is_synthetic());
        let oneof = oneof.and_then(|oneof| of.parent_message().oneofs().position(|other| other == oneof));
        let (kind, arity, height) = match of.kind() {
            Declared::Message(entry) if of.is_map() => {
                let part = |number| {
                    entry.get_field(number).ok_or_else(|| invalid(format!("map {} lacks a key or value", of.name())))
                };
                let (key, value) = (part(1)?, part(2)?);
                let key = scalar(&key.kind())?.ok_or_else(|| invalid("a map's key is a message"))?;
                let (kind, height) = self.kind(&value, depth)?;
                (kind, Arity::Map(key), height)
            }
            _ => {
                let (kind, height) = self.kind(of, depth)?;
                let arity = if of.is_list() { Arity::Repeated } else { Arity::One(missing(of, &kind)?) };
                (kind, arity, height)
            }
        };
        Ok((Field { number: of.number(), name: of.name().to_owned(), kind, arity, oneof }, height))
    }

    /// What one value of the field is, and the levels of messages in it.
    fn kind(&mut self, of: &FieldDescriptor, depth: usize) -> Result<(Kind, usize), Refused> {
        let Declared::Message(message) = of.kind() else {
            let scalar = scalar(&of.kind())?.ok_or_else(|| invalid("a type is neither a scalar nor a message"))?;
            return Ok((Kind::Scalar(scalar), 0));
        };
        if let Some(kind) = well_known(&message)? {
            return Ok((kind, 0));
        }
        let (id, height) = self.message(&message, depth + 1)?;
        Ok((if of.is_group() { Kind::Group(id) } else { Kind::Message(id) }, height + 1))
    }
}

/// Messages that come with Protobuf and are one column.
fn well_known(message: &MessageDescriptor) -> Result<Option<Kind>, Refused> {
    let Some(name) = message.full_name().strip_prefix("google.protobuf.") else { return Ok(None) };
    Ok(Some(match name {
        "Timestamp" => Kind::Timestamp,
        "Duration" => Kind::Duration,
        "Struct" => Kind::Json(Json::Struct),
        "Value" => Kind::Json(Json::Value),
        "ListValue" => Kind::Json(Json::List),
        "BoolValue" | "Int32Value" | "Int64Value" | "UInt32Value" | "UInt64Value" | "FloatValue" | "DoubleValue"
        | "StringValue" | "BytesValue" => {
            let value = message.get_field(1).ok_or_else(|| invalid(format!("{name} has no value")))?;
            let scalar = scalar(&value.kind())?.ok_or_else(|| invalid(format!("{name} has no scalar")))?;
            Kind::Wrapper(scalar, encoded(&value.kind().default_value(), &value.kind())?)
        }
        _ => return Ok(None),
    }))
}

/// `None`: a message.
fn scalar(kind: &Declared) -> Result<Option<Scalar>, Refused> {
    Ok(Some(match kind {
        Declared::Bool => Scalar::Bool,
        Declared::Int32 => Scalar::Int32,
        Declared::Int64 => Scalar::Int64,
        Declared::Uint32 => Scalar::Uint32,
        Declared::Uint64 => Scalar::Uint64,
        Declared::Sint32 => Scalar::Sint32,
        Declared::Sint64 => Scalar::Sint64,
        Declared::Fixed32 => Scalar::Fixed32,
        Declared::Fixed64 => Scalar::Fixed64,
        Declared::Sfixed32 => Scalar::Sfixed32,
        Declared::Sfixed64 => Scalar::Sfixed64,
        Declared::Float => Scalar::Float,
        Declared::Double => Scalar::Double,
        Declared::String => Scalar::String,
        Declared::Bytes => Scalar::Bytes,
        Declared::Enum(of) => {
            let mut names = HashMap::new();
            // As declared: the descriptor's own list is by number, without an order among names of one.
            for value in &of.enum_descriptor_proto().value {
                names.entry(value.number()).or_insert_with(|| value.name().into());
            }
            if names.is_empty() {
                return Err(invalid(format!("enum {} has no values", of.full_name())));
            }
            Scalar::Enum(Arc::new(names))
        }
        Declared::Message(_) => return Ok(None),
    }))
}

/// A reader with this schema reads a field's default where the value lacks it, or that it is not there. So does the
/// table: null where the schema can say that, unless the schema declares a default.
fn missing(of: &FieldDescriptor, kind: &Kind) -> Result<Missing, Refused> {
    let declares = of.field_descriptor_proto().default_value.is_some();
    match kind {
        _ if of.cardinality() == Cardinality::Required => Ok(Missing::Refused),
        Kind::Scalar(_) if declares || !of.supports_presence() => encoded(&of.default_value(), &of.kind()),
        _ => Ok(Missing::Null),
    }
}

/// A scalar as it would be in a value.
fn encoded(value: &Value, kind: &Declared) -> Result<Missing, Refused> {
    let signed = |n: i64| n.cast_unsigned();
    Ok(match (value, kind) {
        (Value::I32(n), Declared::Sint32) => Missing::Number(zigzag((*n).into())),
        (Value::I64(n), Declared::Sint64) => Missing::Number(zigzag(*n)),
        (Value::I32(n), Declared::Sfixed32) => Missing::Number(n.cast_unsigned().into()),
        (Value::I32(n) | Value::EnumNumber(n), _) => Missing::Number(signed((*n).into())),
        (Value::I64(n), _) => Missing::Number(signed(*n)),
        (Value::U32(n), _) => Missing::Number((*n).into()),
        (Value::U64(n), _) => Missing::Number(*n),
        (Value::Bool(b), _) => Missing::Number((*b).into()),
        (Value::F32(n), _) => Missing::Number(n.to_bits().into()),
        (Value::F64(n), _) => Missing::Number(n.to_bits()),
        (Value::String(text), _) => Missing::Bytes(text.as_bytes().into()),
        (Value::Bytes(bytes), _) => Missing::Bytes(bytes.as_ref().into()),
        (value, kind) => return Err(invalid(format!("{value:?} is no default of {kind:?}"))),
    })
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}
