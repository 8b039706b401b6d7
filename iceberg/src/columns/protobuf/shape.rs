//! Protobuf types → [`Shape`].
//!
//! | Protobuf | column |
//! |---|---|
//! | bool, float, double, string, bytes | boolean, float, double, string, binary |
//! | int32, sint32, sfixed32 | int |
//! | int64, sint64, sfixed64, uint32, fixed32 | long |
//! | uint64, fixed64 | decimal(20, 0) |
//! | enum | string: the name, or the number if it has none |
//! | message, group | struct |
//! | repeated, map | list, map of strings: keys of other types as text |
//! | oneof | a column for each field |
//! | google.protobuf.Timestamp | timestamptz, cut to microseconds |
//! | google.protobuf.Duration | decimal(21, 9): seconds |
//! | google.protobuf's wrappers | what they wrap |
//! | google.protobuf.Struct, Value, ListValue | string of JSON |
//!
//! Messages without any content are no columns. A member's key is its field number; at the root, the message's name as
//! well, since a table may hold several messages.

use iceberg::spec::PrimitiveType;

use super::{Arity, Field, Kind, MessageId, Scalar, Schema};
use crate::columns::shape::{Key, Member, Shape};
use crate::columns::{COLUMNS_MAX, DEPTH_MAX, Refused};

/// Digits of 2^64.
const UINT64_DIGITS: u32 = 20;
/// Digits of a duration's seconds with nine behind the point.
const DURATION_DIGITS: u32 = 21;
/// Of them, those behind the point.
const NANOS_DIGITS: u32 = 9;

impl Schema {
    /// The columns that the message needs: always a [`Shape::Struct`].
    ///
    /// # Errors
    /// Too many columns, too deep, or none.
    pub fn shape(&self) -> Result<Shape, Refused> {
        let mut shapes = Shapes { schema: self, columns: 0 };
        let members = shapes.members(self.root(), Some(self.name()), 0)?;
        if members.is_empty() {
            return Err(Refused::Empty);
        }
        let shape = Shape::Struct(members);
        match shape.columns() {
            columns if columns > COLUMNS_MAX => Err(Refused::Columns { columns, max: COLUMNS_MAX }),
            _ => Ok(shape),
        }
    }
}

struct Shapes<'a> {
    schema: &'a Schema,
    /// Members so far: a message may stand in so many places that the whole would not fit in memory.
    columns: usize,
}

impl Shapes<'_> {
    fn members(&mut self, id: MessageId, root: Option<&str>, depth: usize) -> Result<Vec<Member>, Refused> {
        let mut members = Vec::new();
        for (source, field) in self.schema.message(id).fields.iter().enumerate() {
            if self.schema.is_empty(&field.kind) {
                continue;
            }
            let key = Key::Number { message: root.map(ToOwned::to_owned), number: field.number };
            let shape = self.field(field, depth)?;
            // Values of another format may have had the column, by the field's name.
            let aliases = vec![Key::Field(field.name.clone())];
            members.push(Member { source, key, name: field.name.clone(), aliases, branch: Vec::new(), shape });
        }
        Ok(members)
    }

    fn field(&mut self, field: &Field, depth: usize) -> Result<Shape, Refused> {
        let depth = self.deeper(depth)?;
        match field.arity {
            Arity::One(_) => self.one(&field.kind, depth),
            Arity::Repeated => Ok(Shape::List(Box::new(self.inside(&field.kind, depth)?))),
            Arity::Map(_) => Ok(Shape::Map(Box::new(self.inside(&field.kind, depth)?))),
        }
    }

    fn inside(&mut self, kind: &Kind, depth: usize) -> Result<Shape, Refused> {
        let depth = self.deeper(depth)?;
        self.one(kind, depth)
    }

    fn deeper(&mut self, depth: usize) -> Result<usize, Refused> {
        self.columns += 1;
        if self.columns > COLUMNS_MAX {
            return Err(Refused::Columns { columns: self.columns, max: COLUMNS_MAX });
        }
        if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(Refused::Depth { max: DEPTH_MAX }) }
    }

    fn one(&mut self, kind: &Kind, depth: usize) -> Result<Shape, Refused> {
        let decimal = |precision, scale| PrimitiveType::Decimal { precision, scale };
        Ok(Shape::Primitive(match kind {
            Kind::Message(id) | Kind::Group(id) => return Ok(Shape::Struct(self.members(*id, None, depth)?)),
            Kind::Timestamp => PrimitiveType::Timestamptz,
            Kind::Duration => decimal(DURATION_DIGITS, NANOS_DIGITS),
            Kind::Json(_) => PrimitiveType::String,
            Kind::Scalar(scalar) | Kind::Wrapper(scalar, _) => match scalar {
                Scalar::Bool => PrimitiveType::Boolean,
                Scalar::Int32 | Scalar::Sint32 | Scalar::Sfixed32 => PrimitiveType::Int,
                Scalar::Int64 | Scalar::Sint64 | Scalar::Sfixed64 | Scalar::Uint32 | Scalar::Fixed32 => {
                    PrimitiveType::Long
                }
                Scalar::Uint64 | Scalar::Fixed64 => decimal(UINT64_DIGITS, 0),
                Scalar::Float => PrimitiveType::Float,
                Scalar::Double => PrimitiveType::Double,
                Scalar::String | Scalar::Enum(_) => PrimitiveType::String,
                Scalar::Bytes => PrimitiveType::Binary,
            },
        }))
    }
}
