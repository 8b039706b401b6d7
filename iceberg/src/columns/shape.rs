//! [`Shape`]: what columns a value needs; the same for each format of schemas.
//!
//! Pure. Everything in it is optional; a part without content (Avro's `null`, a record without fields) is not in it.

use iceberg::spec::PrimitiveType;

use crate::columns::{NAME_BYTES_MAX, Refused};

/// What a part of a value becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    Primitive(PrimitiveType),
    /// A type that a schema may give to what was a plainer one, such as a timestamp to a long. Columns of the plain
    /// type stay, and get what a reader with the older schema would read.
    Logical {
        kind: PrimitiveType,
        base: PrimitiveType,
    },
    /// At least one member.
    Struct(Vec<Member>),
    List(Box<Shape>),
    /// Keys are strings.
    Map(Box<Shape>),
}

/// A field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which field or branch of the source it is.
    pub source: usize,
    pub key: Key,
    /// As the schema has it: a new column gets it, before siblings are looked at.
    pub name: String,
    /// Earlier keys of the same member, which the schema names.
    pub aliases: Vec<Key>,
    /// The name of its type as a branch of a union, if it could become one, and the type's earlier names.
    pub branch: Vec<String>,
    pub shape: Shape,
}

/// What distinguishes a member from its siblings, for as long as the table lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    Field(String),
    /// A field by its number, which its name may change around. At the root with the name of its message: a table may
    /// have values of several.
    Number {
        message: Option<String>,
        number: u32,
    },
    /// A branch of a union, by the full name of its type.
    Branch(String),
    /// A value that is not a record: the only member of the root.
    Whole,
    /// Members of a JSON object that have no columns, as one text.
    Rest,
    /// The key of a record, read with a schema: at the root, beside the members of the value.
    RecordKey,
    /// The key of a record as text. Not the same member: a topic may have had keys of both kinds.
    TextKey,
}

impl Key {
    /// The least key in the order of keys.
    pub(super) fn first() -> Self {
        Self::Field(String::new())
    }

    /// A name for the member: what the key says, the digits of a number.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Field(name) => name.clone(),
            Self::Number { number, .. } => number.to_string(),
            Self::Branch(full) => full.rsplit_once('.').map_or(full.as_str(), |(_, last)| last).to_owned(),
            Self::Whole => "value".to_owned(),
            Self::Rest => "rest".to_owned(),
            Self::RecordKey | Self::TextKey => "key".to_owned(),
        }
    }

    /// Whether it is the key of a record, and no part of a value.
    #[must_use]
    pub fn is_of_record(&self) -> bool {
        matches!(self, Self::RecordKey | Self::TextKey)
    }
}

/// The name of a member's column before siblings are looked at. Lower case: engines differ in whether they can show
/// others.
#[must_use]
pub fn column_name(name: &str) -> String {
    name.to_lowercase()
}

impl Shape {
    /// Field ids that the shape takes.
    #[must_use]
    pub fn columns(&self) -> usize {
        match self {
            Self::Primitive(_) | Self::Logical { .. } => 0,
            Self::Struct(members) => members.iter().map(|member| 1 + member.shape.columns()).sum(),
            Self::List(element) => 1 + element.columns(),
            Self::Map(value) => 2 + value.columns(),
        }
    }

    /// Refuses names that are too long for a table's metadata.
    pub(super) fn check_names(&self) -> Result<(), Refused> {
        match self {
            Self::Primitive(_) | Self::Logical { .. } => Ok(()),
            Self::List(inner) | Self::Map(inner) => inner.check_names(),
            Self::Struct(members) => members.iter().try_for_each(|member| {
                let names = std::iter::once(&member.key).chain(&member.aliases).filter_map(|key| match key {
                    Key::Field(name) | Key::Branch(name) => Some(name),
                    Key::Number { message, .. } => message.as_ref(),
                    Key::Whole | Key::Rest | Key::RecordKey | Key::TextKey => None,
                });
                if let Some(name) =
                    names.chain(&member.branch).chain([&member.name]).find(|name| name.len() > NAME_BYTES_MAX)
                {
                    let start = name.chars().take(20).collect();
                    return Err(Refused::Name { start, bytes: name.len(), max: NAME_BYTES_MAX });
                }
                member.shape.check_names()
            }),
        }
    }

    /// Whether it is a union of several types, as a struct of its branches.
    #[must_use]
    pub fn is_union(&self) -> bool {
        matches!(self, Self::Struct(members) if members.iter().any(|member| matches!(member.key, Key::Branch(_))))
    }

    /// A word for it, as it is appended to the name of a column that had another type before.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Struct(_) => "struct",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Primitive(kind) | Self::Logical { kind, .. } => match kind {
                PrimitiveType::Boolean => "boolean",
                PrimitiveType::Int => "int",
                PrimitiveType::Long => "long",
                PrimitiveType::Float => "float",
                PrimitiveType::Double => "double",
                PrimitiveType::Decimal { .. } => "decimal",
                PrimitiveType::Date => "date",
                PrimitiveType::Time => "time",
                PrimitiveType::Timestamp | PrimitiveType::TimestampNs => "timestamp",
                PrimitiveType::Timestamptz | PrimitiveType::TimestamptzNs => "timestamptz",
                PrimitiveType::String => "string",
                PrimitiveType::Uuid => "uuid",
                PrimitiveType::Fixed(_) => "fixed",
                PrimitiveType::Binary => "binary",
            },
        }
    }
}
