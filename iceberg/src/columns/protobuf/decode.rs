//! Protobuf values → rows of a table's columns: [`Decoder`].
//!
//! A decoder is compiled from a writer's message and the plan for it. It reads a value once ([`scan`]) and appends to
//! the columns while it checks; a value that is not one of the message, or that some column cannot show, leaves no
//! trace. What is checked: tags, varints of at most 64 bits, lengths, ends of groups, that a field has the wire type of
//! its schema, UTF-8, `required`; that timestamps lie in the years 1 to 9999 and durations have one sign. Fields that
//! the schema does not name are read over: a producer may be ahead of the schema that it names. What a later field
//! replaces counts for nothing, and only its wire type and length are looked at.
//!
//! **Memory.** A row is charged the width of its columns and the bytes of the value, each item and entry the width of
//! theirs before it is read; defaults, names of enums and text of JSON, which may be longer than what the value has for
//! them, are charged besides.
//!
//! **Time** is bounded by the bytes of the value and the charge. Recursion is bounded by the schema's depth, and for
//! groups and JSON by a constant.

use std::sync::Arc;

use iceberg::spec::PrimitiveType;

use super::{Arity, Field, Kind, MessageId, Missing, Scalar, Schema};
use crate::columns::Refused;
use crate::columns::build::{Column, Columns, Layout, RowColumns, Values};
use crate::columns::compile::{Targets, defect, targets};
use crate::columns::evolve::{MemberPlace, Place, Plan};
use crate::columns::fault::BadValue;

mod json;
mod scan;
mod step;
pub(in crate::columns) mod wire;

use json::JsonRules;
use scan::{Rule, Rules, Run, Take};
use step::{Body, Coding, Fill, KeyStep, MapStep, Step, message};
use wire::Wire;

/// Characters of a number of 64 bits with its sign.
const NUMBER_CHARS: usize = 20;

/// Reads values of one writer's message into columns of one table schema.
#[derive(Debug)]
pub struct Decoder {
    layout: Arc<Layout>,
    row: RowColumns,
    body: Body,
    width: usize,
}

impl Decoder {
    /// For values of `schema`, whose shape `plan` was made of, into columns of `layout`, which is of the plan's schema.
    ///
    /// # Errors
    /// The plan is of another schema, or has conflicts.
    pub fn new(schema: &Schema, plan: &Plan, layout: &Arc<Layout>) -> Result<Self, Refused> {
        let Targets { row, places, columns, width } = targets(plan, layout)?;
        let (body, extra) = Compiler { schema }.body(schema.root(), &places, &columns)?;
        Ok(Self { layout: layout.clone(), row, body, width: width + extra })
    }

    /// Appends `value`, which begins behind the path of its message, as a row, if it takes no more than `limit` bytes;
    /// returns the bytes that it is charged.
    ///
    /// # Errors
    /// The value is not a row; the columns are as before.
    pub fn push(&self, value: &[u8], columns: &mut Columns, limit: usize) -> Result<usize, BadValue> {
        assert!(columns.is_of(&self.layout), "columns and decoder are of one layout");
        let mut run = Run::new(value, limit);
        let filled = columns.push_row(self.row, |columns| {
            run.charge(self.width.saturating_add(value.len()))?;
            message(&self.body, &[value], &mut run, columns).map(|()| true)
        });
        match filled {
            Ok(()) => Ok(run.charged()),
            Err(fault) => Err(BadValue { at: run.position(), fault }),
        }
    }
}

struct Compiler<'a> {
    schema: &'a Schema,
}

impl Compiler<'_> {
    /// Also returns what its text takes beside the value's bytes.
    fn body(&self, id: MessageId, places: &[MemberPlace], columns: &[Column]) -> Result<(Body, usize), Refused> {
        let fields = &self.schema.message(id).fields;
        let mut missing = vec![true; columns.len()];
        let (mut rules, mut fills, mut extra) = (Vec::new(), Vec::new(), 0);
        for (source, field) in fields.iter().enumerate() {
            let place = places.iter().find(|place| place.source == source);
            let Some((target, place)) = place.and_then(|place| place.target.as_ref()) else {
                // Its column was dropped, or it has no content. It may still clear another field.
                if field.oneof.is_some() {
                    rules.push(rule(field, Take::Skip));
                    fills.push(Fill::Nothing);
                }
                continue;
            };
            if !std::mem::replace(&mut missing[*target], false) {
                return Err(defect("two members go to one column"));
            }
            let (take, fill, more) = self.field(field, place, *target, &columns[*target])?;
            rules.push(rule(field, take));
            fills.push(fill);
            extra += more;
        }
        let oneofs = fields.iter().filter_map(|field| field.oneof).max().map_or(0, |last| last + 1);
        let missing = (0..columns.len()).filter(|at| missing[*at]).collect();
        Ok((Body { rules: Rules { rules: rules.into(), oneofs }, fills: fills.into(), missing }, extra))
    }

    fn field(
        &self,
        field: &Field,
        place: &Place,
        target: usize,
        column: &Column,
    ) -> Result<(Take, Fill, usize), Refused> {
        match (&field.arity, place, &column.values) {
            (Arity::One(missing), place, _) => {
                let (step, extra) = self.step(&field.kind, place, column)?;
                let default = if let Missing::Bytes(bytes) = missing { bytes.len() } else { 0 };
                let take = if let Kind::Scalar(_) = field.kind { Take::Last } else { Take::Merge };
                let fill = Fill::One { number: field.number, step, missing: missing.clone(), target };
                Ok((take, fill, extra + default))
            }
            (Arity::Repeated, Place::List(place), Values::List { items, .. }) => {
                let (step, extra) = self.step(&field.kind, place, items)?;
                Ok((Take::Items { step, width: items.width() + extra, target }, Fill::List { target }, 0))
            }
            (Arity::Map(key), Place::Map(place), Values::Map { keys, items, .. }) => {
                let (value, extra) = self.step(&field.kind, place, items)?;
                let width = keys.width() + items.width() + NUMBER_CHARS + extra;
                let take = if let Kind::Scalar(_) = field.kind { Take::Last } else { Take::Merge };
                let parts = [(wire_of(key), Take::Last), (wire(&field.kind), take)];
                let missing = zero(&field.kind);
                let map = MapStep { entry: numbered(parts), key: key_step(key)?, value, missing, width };
                Ok((Take::Collect, Fill::Map { map: Box::new(map), target }, 0))
            }
            (arity, place, _) => Err(defect(format!("field {} is {arity:?} into {place:?}", field.name))),
        }
    }

    fn step(&self, kind: &Kind, place: &Place, column: &Column) -> Result<(Step, usize), Refused> {
        use PrimitiveType as P;
        let pair = || numbered([(Wire::Varint, Take::Last), (Wire::Varint, Take::Last)]);
        let step = match (kind, place, &column.values) {
            (Kind::Message(id) | Kind::Group(id), Place::Struct(places), Values::Struct(columns)) => {
                let (body, extra) = self.body(*id, places, columns)?;
                return Ok((Step::Struct(Box::new(body)), extra));
            }
            (Kind::Wrapper(scalar, missing), place, _) => {
                let (step, extra) = self.step(&Kind::Scalar(scalar.clone()), place, column)?;
                let only = numbered([(wire_of(scalar), Take::Last)]);
                return Ok((Step::Wrapper { only, step: Box::new(step), missing: missing.clone() }, extra));
            }
            (Kind::Timestamp, Place::Leaf(P::Timestamptz), _) => Step::Timestamp { pair: pair(), to_nanos: false },
            (Kind::Timestamp, Place::Leaf(P::TimestamptzNs), _) => Step::Timestamp { pair: pair(), to_nanos: true },
            (Kind::Duration, Place::Leaf(P::Decimal { .. }), _) => Step::Duration { pair: pair() },
            (Kind::Json(kind), Place::Leaf(P::String), _) => {
                Step::Json { kind: *kind, rules: Box::new(JsonRules::new()) }
            }
            (Kind::Scalar(scalar), Place::Leaf(into), _) => {
                leaf(scalar, into).ok_or_else(|| defect(format!("{scalar:?} into {into}")))?
            }
            (kind, place, _) => return Err(defect(format!("{kind:?} into {place:?}"))),
        };
        let extra = match &step {
            Step::Enum(names) => names.values().map(|name| name.len()).max().unwrap_or(0).max(NUMBER_CHARS),
            _ => 0,
        };
        Ok((step, extra))
    }
}

fn rule(field: &Field, take: Take) -> Rule {
    let wire = match field.arity {
        Arity::Map(_) => Wire::Bytes,
        Arity::One(_) | Arity::Repeated => wire(&field.kind),
    };
    Rule { number: field.number, wire, take, oneof: field.oneof }
}

/// Of fields 1 and so on.
fn numbered<const N: usize>(fields: [(Wire, Take); N]) -> Rules {
    let rules = (1..).zip(fields).map(|(number, (wire, take))| Rule { number, wire, take, oneof: None });
    Rules { rules: rules.collect(), oneofs: 0 }
}

fn wire(kind: &Kind) -> Wire {
    match kind {
        Kind::Scalar(scalar) => wire_of(scalar),
        Kind::Group(_) => Wire::Group,
        Kind::Message(_) | Kind::Timestamp | Kind::Duration | Kind::Wrapper(..) | Kind::Json(_) => Wire::Bytes,
    }
}

fn wire_of(scalar: &Scalar) -> Wire {
    match scalar {
        Scalar::Bool
        | Scalar::Int32
        | Scalar::Int64
        | Scalar::Uint32
        | Scalar::Uint64
        | Scalar::Sint32
        | Scalar::Sint64
        | Scalar::Enum(_) => Wire::Varint,
        Scalar::Fixed32 | Scalar::Sfixed32 | Scalar::Float => Wire::Fixed32,
        Scalar::Fixed64 | Scalar::Sfixed64 | Scalar::Double => Wire::Fixed64,
        Scalar::String | Scalar::Bytes => Wire::Bytes,
    }
}

/// What an entry of a map without a value has: a message without fields, and of a scalar zero.
fn zero(kind: &Kind) -> Missing {
    match kind {
        Kind::Scalar(Scalar::String | Scalar::Bytes) => Missing::Bytes(Box::default()),
        Kind::Scalar(_) => Missing::Number(0),
        _ => Missing::Null,
    }
}

fn key_step(key: &Scalar) -> Result<KeyStep, Refused> {
    Ok(match key {
        Scalar::String => KeyStep::Text,
        Scalar::Bool => KeyStep::Bool,
        Scalar::Uint64 | Scalar::Fixed64 => KeyStep::Unsigned,
        key => KeyStep::Signed(coding(key).ok_or_else(|| Refused::Schema(format!("a map has keys of {key:?}")))?),
    })
}

/// `None`: no integer, or one of 64 bits without a sign.
fn coding(scalar: &Scalar) -> Option<Coding> {
    Some(match scalar {
        Scalar::Int32 | Scalar::Sfixed32 => Coding::Int32,
        Scalar::Int64 | Scalar::Sfixed64 => Coding::Int64,
        Scalar::Uint32 | Scalar::Fixed32 => Coding::Uint32,
        Scalar::Sint32 => Coding::Zigzag32,
        Scalar::Sint64 => Coding::Zigzag64,
        _ => return None,
    })
}

/// How a scalar is read into a column of type `kind`; `None` if it cannot be.
fn leaf(scalar: &Scalar, kind: &PrimitiveType) -> Option<Step> {
    use PrimitiveType as P;
    Some(match (scalar, kind) {
        (Scalar::Bool, P::Boolean) => Step::Bool,
        (Scalar::Int32 | Scalar::Sint32 | Scalar::Sfixed32, P::Int) => Step::Int(coding(scalar)?),
        (scalar, P::Long) => Step::Long(coding(scalar)?),
        (Scalar::Float, P::Float) => Step::Float,
        (Scalar::Float, P::Double) => Step::FloatToDouble,
        (Scalar::Double, P::Double) => Step::Double,
        (scalar, P::Double) => Step::IntegerToDouble(coding(scalar)?),
        (Scalar::Uint64 | Scalar::Fixed64, P::Decimal { scale: 0, .. }) => Step::Decimal,
        (Scalar::String, P::String) => Step::Text,
        (Scalar::Enum(names), P::String) => Step::Enum(names.clone()),
        (Scalar::Bytes, P::Binary) => Step::Binary,
        _ => return None,
    })
}
