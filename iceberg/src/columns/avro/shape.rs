//! Avro types → [`Shape`].
//!
//! | Avro | column |
//! |---|---|
//! | boolean, int, long, float, double, bytes, string | the same; bytes is binary |
//! | enum | string |
//! | fixed, duration | fixed(n) |
//! | uuid, of a string or of a fixed of 16 bytes | uuid |
//! | decimal up to 38 digits; up to 1,000; above | decimal; string; as its base type |
//! | date; time-millis, -micros | date; time |
//! | timestamp-*; local-timestamp-* | timestamptz; timestamp; of nanoseconds in format 3, else cut to microseconds |
//! | array, map, record | list, map, struct |
//! | union of null and one type | that type |
//! | union of several | struct with a member for each branch, of which one is not null |
//!
//! Null, records without any content, and unions, arrays and maps of nothing else are no columns. A branch of a union
//! without content counts as null.

use iceberg::spec::PrimitiveType;

use super::{Node, NodeId, Schema};
use crate::columns::fill::Unit;
use crate::columns::shape::{Key, Member, Shape};
use crate::columns::{COLUMNS_MAX, DEPTH_MAX, Refused};

/// Digits that a decimal column has at most.
pub(super) const DECIMAL_DIGITS_MAX: u32 = 38;
/// Digits of a decimal that is shown as a string at most.
pub(super) const TEXT_DIGITS_MAX: u32 = 1_000;

/// How nanoseconds are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nanos {
    /// Format 2 has none: cut to microseconds, towards the past.
    Cut,
    /// Format 3.
    Keep,
}

impl Schema {
    /// The columns that the schema needs: always a [`Shape::Struct`].
    ///
    /// # Errors
    /// Too many columns, too deep, or none.
    pub fn shape(&self, nanos: Nanos) -> Result<Shape, Refused> {
        let mut shapes = Shapes { schema: self, nanos, columns: 0 };
        let root = self.content_root();
        let shape = match (self.node(root), shapes.shape(root, 0)?) {
            (_, None) => return Err(Refused::Empty),
            (Node::Record(_), Some(shape)) => shape,
            (_, Some(shape)) if shape.is_union() => shape,
            (_, Some(shape)) => Shape::Struct(vec![shapes.member(0, Key::Whole, Vec::new(), root, shape)]),
        };
        let columns = shape.columns();
        if columns > COLUMNS_MAX {
            return Err(Refused::Columns { columns, max: COLUMNS_MAX });
        }
        Ok(shape)
    }
}

impl Schema {
    /// The root, or the only branch with content of a union at the root: a record that may be null is a record.
    pub(super) fn content_root(&self) -> NodeId {
        match self.node(self.root) {
            Node::Union(branches) => self.only_branch(branches).map_or(self.root, |only| branches[only]),
            _ => self.root,
        }
    }
}

struct Shapes<'a> {
    schema: &'a Schema,
    nanos: Nanos,
    /// Members so far: a schema may name one type in so many places that the whole would not fit in memory.
    columns: usize,
}

impl Shapes<'_> {
    fn member(&self, source: usize, key: Key, aliases: Vec<Key>, node: NodeId, shape: Shape) -> Member {
        let named = match self.schema.node(node) {
            Node::Union(branches) => self.schema.only_branch(branches).map_or(node, |only| branches[only]),
            _ => node,
        };
        let name = self.schema.type_name(named);
        let branch = if shape.is_union() { Vec::new() } else { [vec![name.full], name.aliases].concat() };
        Member { source, name: key.name(), key, aliases, branch, shape }
    }

    /// `None` if the type is no column.
    fn shape(&mut self, id: NodeId, depth: usize) -> Result<Option<Shape>, Refused> {
        match self.schema.node(id) {
            Node::Array(inner) => {
                let element = self.nested(*inner, depth)?;
                Ok(element.map(|shape| Shape::List(Box::new(shape))))
            }
            Node::Map(inner) => {
                let value = self.nested(*inner, depth)?;
                Ok(value.map(|shape| Shape::Map(Box::new(shape))))
            }
            Node::Record(fields) => {
                let mut members = Vec::new();
                for (source, field) in fields.iter().enumerate() {
                    if let Some(shape) = self.nested(field.node, depth)? {
                        let aliases = field.aliases.iter().cloned().map(Key::Field).collect();
                        members.push(self.member(source, Key::Field(field.name.clone()), aliases, field.node, shape));
                    }
                }
                Ok((!members.is_empty()).then_some(Shape::Struct(members)))
            }
            Node::Union(branches) => {
                if let Some(only) = self.schema.only_branch(branches) {
                    return self.shape(branches[only], depth);
                }
                let mut members: Vec<Member> = Vec::new();
                for (source, branch) in branches.iter().enumerate() {
                    if let Some(shape) = self.nested(*branch, depth)? {
                        let name = self.schema.type_name(*branch);
                        let aliases = name.aliases.into_iter().map(Key::Branch).collect();
                        let key = Key::Branch(name.full);
                        if members.iter().any(|member| member.key == key) {
                            return Err(Refused::Schema("a union has one type twice".to_owned()));
                        }
                        members.push(self.member(source, key, aliases, *branch, shape));
                    }
                }
                Ok((!members.is_empty()).then_some(Shape::Struct(members)))
            }
            node => Ok(leaf_shape(node, self.nanos)),
        }
    }

    fn nested(&mut self, id: NodeId, depth: usize) -> Result<Option<Shape>, Refused> {
        if self.schema.is_empty(id) {
            return Ok(None);
        }
        self.columns += 1;
        if self.columns > COLUMNS_MAX {
            return Err(Refused::Columns { columns: self.columns, max: COLUMNS_MAX });
        }
        if depth >= DEPTH_MAX {
            return Err(Refused::Depth { max: DEPTH_MAX });
        }
        self.shape(id, depth + 1)
    }
}

/// Of an Avro type without parts; `None` for null and for types with parts.
fn leaf_shape(node: &Node, nanos: Nanos) -> Option<Shape> {
    let base = base_type(node)?;
    Some(match logical_type(node, nanos) {
        Some(kind) => Shape::Logical { kind, base },
        None => Shape::Primitive(base),
    })
}

/// What the type is without its logical type.
fn base_type(node: &Node) -> Option<PrimitiveType> {
    Some(match node {
        Node::Boolean => PrimitiveType::Boolean,
        Node::Int | Node::Date | Node::TimeMillis => PrimitiveType::Int,
        Node::Long | Node::TimeMicros | Node::Timestamp { .. } => PrimitiveType::Long,
        Node::Float => PrimitiveType::Float,
        Node::Double => PrimitiveType::Double,
        Node::String | Node::UuidString | Node::Enum(_) => PrimitiveType::String,
        Node::Bytes | Node::Decimal { size: None, .. } => PrimitiveType::Binary,
        Node::Fixed { size, .. } | Node::Decimal { size: Some(size), .. } => PrimitiveType::Fixed(*size as u64),
        Node::Null | Node::Array(_) | Node::Map(_) | Node::Union(_) | Node::Record(_) => return None,
    })
}

fn logical_type(node: &Node, nanos: Nanos) -> Option<PrimitiveType> {
    Some(match node {
        Node::Date => PrimitiveType::Date,
        Node::TimeMillis | Node::TimeMicros => PrimitiveType::Time,
        Node::Timestamp { unit: Unit::Nanos, local: true } if nanos == Nanos::Keep => PrimitiveType::TimestampNs,
        Node::Timestamp { unit: Unit::Nanos, local: false } if nanos == Nanos::Keep => PrimitiveType::TimestamptzNs,
        Node::Timestamp { local: true, .. } => PrimitiveType::Timestamp,
        Node::Timestamp { local: false, .. } => PrimitiveType::Timestamptz,
        Node::UuidString | Node::Fixed { uuid: true, .. } => PrimitiveType::Uuid,
        Node::Decimal { precision, scale, .. } if *precision <= DECIMAL_DIGITS_MAX => {
            PrimitiveType::Decimal { precision: *precision, scale: *scale }
        }
        Node::Decimal { precision, .. } if *precision <= TEXT_DIGITS_MAX => PrimitiveType::String,
        _ => return None,
    })
}
