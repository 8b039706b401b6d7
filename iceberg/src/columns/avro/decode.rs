//! Avro values → rows of a table's columns: [`Decoder`].
//!
//! A decoder is compiled from a writer's schema and the plan for it; it reads a value once, from its first byte to its
//! last, and appends to the columns while it checks. A value that is not exactly a value of the schema, or that some
//! column cannot show, leaves no trace. What is checked: varints of at most 64 bits, ints of 32, booleans of 0 and 1,
//! UTF-8, indexes of unions and enums, counts and sizes of blocks, the end; that no map has a key twice; that decimals
//! have no more digits than declared, dates and timestamps lie in the years 1 to 9999 and times inside a day.
//!
//! **Memory.** Before a block of items is read, `count × width` of its columns is charged against the limit, whether
//! the items have bytes or not; text and bytes cannot be longer than the value. So a count of 2^62 costs nothing, and
//! an item of one byte that fills a thousand columns with nulls is charged for them.
//!
//! **Time** is bounded by the bytes of the value and the charge. Recursion is bounded by the schema's depth.

use std::sync::Arc;

use iceberg::spec::PrimitiveType;

use super::shape::{DECIMAL_DIGITS_MAX, TEXT_DIGITS_MAX};
use super::{Node, NodeId, Schema};
use crate::columns::Refused;
use crate::columns::build::{Column, Columns, Layout, RowColumns, Values};
use crate::columns::compile::{Targets, defect, targets};
use crate::columns::evolve::{MemberPlace, Place, Plan};
use crate::columns::fault::{BadValue, Fault};
use crate::columns::fill::{
    Unit, date, exact_double, has_twice, push_binary, push_text, time, timestamp, to_offset, uuid,
};

mod cursor;
mod decimal;

use cursor::Cursor;

/// Reads values of one writer's schema into columns of one table schema.
#[derive(Debug)]
pub struct Decoder {
    schema: Arc<Schema>,
    layout: Arc<Layout>,
    row: RowColumns,
    body: Body,
    width: usize,
}

/// How the members of a struct, or of the whole value, are read.
#[derive(Debug)]
enum Body {
    Record {
        fields: Box<[FieldStep]>,
        missing: Box<[usize]>,
    },
    Union(Box<[BranchStep]>),
    /// The root is no record; the other columns are null.
    Whole {
        step: Step,
        target: usize,
        missing: Box<[usize]>,
    },
    /// The root is a record that may be null: by branch, `None` of the types without content.
    Optional(Box<[(NodeId, Option<Body>)]>),
}

#[derive(Debug)]
enum FieldStep {
    Skip(NodeId),
    Fill { step: Step, target: usize },
}

#[derive(Debug)]
enum BranchStep {
    /// A type without content: the union is null.
    Null(NodeId),
    /// No column takes it: the union is a struct of nulls.
    Skip(NodeId),
    Fill {
        step: Step,
        target: usize,
    },
}

/// How a value is read that goes into one column.
#[derive(Debug)]
enum Step {
    Boolean,
    Int,
    IntToLong,
    IntToDouble,
    Long,
    LongToDouble,
    Float,
    FloatToDouble,
    Double,
    Text,
    Binary,
    Fixed(usize),
    FixedToBinary(usize),
    Enum(Box<[Box<str>]>),
    Date,
    TimeMillis,
    TimeMicros,
    Timestamp {
        from: Unit,
        to_nanos: bool,
    },
    Uuid,
    Decimal {
        size: Option<usize>,
        precision: u32,
    },
    DecimalToText {
        size: Option<usize>,
        precision: u32,
        scale: u32,
    },
    /// By branch; `None` of a type without content, which is null.
    Optional(Box<[(NodeId, Option<Step>)]>),
    Struct(Box<Body>),
    List {
        item: Box<Step>,
        width: usize,
    },
    Map {
        item: Box<Step>,
        width: usize,
    },
    /// Into one branch of a struct that is a union.
    Branch {
        step: Box<Step>,
        target: usize,
    },
}

impl Decoder {
    /// For values of `schema`, whose shape `plan` was made of, into columns of `layout`, which is of the plan's schema.
    ///
    /// # Errors
    /// The plan is of another schema, or has conflicts.
    pub fn new(schema: &Arc<Schema>, plan: &Plan, layout: &Arc<Layout>) -> Result<Self, Refused> {
        let Targets { row, places, columns, width } = targets(plan, layout)?;
        let (body, extra) = Compiler { schema }.root(&places, &columns)?;
        Ok(Self { schema: schema.clone(), layout: layout.clone(), row, body, width: width + extra })
    }

    /// Appends `value` as a row, if it takes no more than `limit` bytes; returns the bytes that it is charged.
    ///
    /// # Errors
    /// The value is not a row; the columns are as before.
    pub fn push(&self, value: &[u8], columns: &mut Columns, limit: usize) -> Result<usize, BadValue> {
        assert!(columns.is_of(&self.layout), "columns and decoder are of one layout");
        let mut cursor = Cursor::new(value, limit);
        match columns.push_row(self.row, |columns| self.row(&mut cursor, columns)) {
            Ok(()) => Ok(cursor.charged()),
            Err(fault) => Err(BadValue { at: cursor.position(), fault }),
        }
    }

    /// False: the value is null, and no column was filled.
    fn row(&self, cursor: &mut Cursor<'_>, columns: &mut [Column]) -> Result<bool, Fault> {
        cursor.charge(1, self.width.saturating_add(cursor.left()))?;
        let has_value = self.body(&self.body, cursor, columns)?;
        match cursor.left() {
            0 => Ok(has_value),
            left => Err(Fault::Long(left)),
        }
    }

    /// Fills `columns`; false: the value is null, and none was filled.
    fn body(&self, body: &Body, cursor: &mut Cursor<'_>, columns: &mut [Column]) -> Result<bool, Fault> {
        match body {
            Body::Record { fields, missing } => {
                for field in fields {
                    match field {
                        FieldStep::Fill { step, target } => self.fill(step, cursor, &mut columns[*target])?,
                        FieldStep::Skip(node) => self.skip(*node, cursor)?,
                    }
                }
                for target in missing {
                    columns[*target].push_null();
                }
            }
            Body::Union(branches) => match cursor.branch(branches)? {
                BranchStep::Null(node) => {
                    self.skip(*node, cursor)?;
                    return Ok(false);
                }
                BranchStep::Skip(node) => {
                    self.skip(*node, cursor)?;
                    columns.iter_mut().for_each(Column::push_null);
                }
                BranchStep::Fill { step, target } => self.fill_only(step, *target, cursor, columns)?,
            },
            Body::Whole { step, target, missing } => {
                self.fill(step, cursor, &mut columns[*target])?;
                for target in missing {
                    columns[*target].push_null();
                }
            }
            Body::Optional(branches) => match cursor.branch(branches)? {
                (_, Some(body)) => return self.body(body, cursor, columns),
                (node, None) => {
                    self.skip(*node, cursor)?;
                    return Ok(false);
                }
            },
        }
        Ok(true)
    }

    fn fill_only(
        &self,
        step: &Step,
        target: usize,
        cursor: &mut Cursor<'_>,
        columns: &mut [Column],
    ) -> Result<(), Fault> {
        for (at, column) in columns.iter_mut().enumerate() {
            if at == target {
                self.fill(step, cursor, column)?;
            } else {
                column.push_null();
            }
        }
        Ok(())
    }

    /// Appends one value to `column`, or fails, possibly with a part of it appended.
    fn fill(&self, step: &Step, cursor: &mut Cursor<'_>, column: &mut Column) -> Result<(), Fault> {
        match (step, &mut column.values) {
            (Step::Optional(branches), _) => {
                return match cursor.branch(branches)? {
                    (_, Some(step)) => self.fill(step, cursor, column),
                    (node, None) => {
                        self.skip(*node, cursor)?;
                        column.push_null();
                        Ok(())
                    }
                };
            }
            (Step::Boolean, Values::Bool(values)) => values.append(cursor.boolean()?),
            (Step::Int, Values::I32(values)) => values.push(cursor.int()?),
            (Step::IntToLong, Values::I64(values)) => values.push(cursor.int()?.into()),
            (Step::IntToDouble, Values::F64(values)) => values.push(cursor.int()?.into()),
            (Step::Long, Values::I64(values)) => values.push(cursor.long()?),
            (Step::LongToDouble, Values::F64(values)) => values.push(exact_double(cursor.long()?)?),
            (Step::Float, Values::F32(values)) => values.push(cursor.float()?),
            (Step::FloatToDouble, Values::F64(values)) => values.push(cursor.float()?.into()),
            (Step::Double, Values::F64(values)) => values.push(cursor.double()?),
            (Step::Text, Values::Text { offsets, bytes }) => push_text(offsets, bytes, cursor.text()?)?,
            (Step::Binary, Values::Binary { offsets, bytes }) => push_binary(offsets, bytes, cursor.bytes()?),
            (Step::Fixed(size), Values::Fixed { bytes, .. }) => bytes.extend_from_slice(cursor.take(*size)?),
            (Step::FixedToBinary(size), Values::Binary { offsets, bytes }) => {
                push_binary(offsets, bytes, cursor.take(*size)?);
            }
            (Step::Enum(symbols), Values::Text { offsets, bytes }) => {
                push_text(offsets, bytes, cursor.symbol(symbols)?)?;
            }
            (Step::Date, Values::I32(values)) => {
                values.push(date(cursor.int()?)?);
            }
            (Step::TimeMillis, Values::I64(values)) => values.push(time(i64::from(cursor.int()?).checked_mul(1000))?),
            (Step::TimeMicros, Values::I64(values)) => values.push(time(Some(cursor.long()?))?),
            (Step::Timestamp { from, to_nanos }, Values::I64(values)) => {
                values.push(timestamp(cursor.long()?, *from, *to_nanos)?);
            }
            (Step::Uuid, Values::Fixed { bytes, .. }) => bytes.extend_from_slice(uuid(cursor.text()?)?.as_bytes()),
            (Step::Decimal { size, precision }, Values::I128(values)) => {
                values.push(decimal::unscaled(cursor.sized(*size)?, *precision)?);
            }
            (Step::DecimalToText { size, precision, scale }, Values::Text { offsets, bytes }) => {
                push_text(offsets, bytes, &decimal::text(cursor.sized(*size)?, *precision, *scale)?)?;
            }
            (Step::Struct(body), Values::Struct(columns)) => {
                if !self.body(body, cursor, columns)? {
                    column.push_null();
                    return Ok(());
                }
            }
            (Step::Branch { step, target }, Values::Struct(columns)) => {
                self.fill_only(step, *target, cursor, columns)?;
            }
            (Step::List { item, width }, Values::List { offsets, items }) => {
                let mut block = cursor.first_block()?;
                while block.count > 0 {
                    cursor.charge(block.count, *width)?;
                    for _ in 0..block.count {
                        self.fill(item, cursor, items)?;
                    }
                    block = cursor.next_block(block)?;
                }
                offsets.push(to_offset(items.len())?);
            }
            (Step::Map { item, width }, Values::Map { offsets, keys, items }) => {
                let first = keys.len();
                let mut block = cursor.first_block()?;
                while block.count > 0 {
                    cursor.charge(block.count, *width)?;
                    for _ in 0..block.count {
                        self.fill(&Step::Text, cursor, keys)?;
                        self.fill(item, cursor, items)?;
                    }
                    block = cursor.next_block(block)?;
                }
                if has_twice(keys, first) {
                    return Err(Fault::Key);
                }
                offsets.push(to_offset(keys.len())?);
            }
            (step, _) => unreachable!("the layout has another column for {step:?}"),
        }
        column.nulls.append_non_null();
        Ok(())
    }

    /// Reads over a value that no column takes, with the same checks of its bytes.
    fn skip(&self, node: NodeId, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        if self.schema.is_weightless(node) {
            return Ok(());
        }
        match self.schema.node(node) {
            Node::Null => {}
            Node::Boolean => drop(cursor.boolean()?),
            Node::Int | Node::Date | Node::TimeMillis => drop(cursor.int()?),
            Node::Long | Node::TimeMicros | Node::Timestamp { .. } => drop(cursor.long()?),
            Node::Float => drop(cursor.float()?),
            Node::Double => drop(cursor.double()?),
            Node::Bytes => drop(cursor.bytes()?),
            Node::String | Node::UuidString => drop(cursor.text()?),
            Node::Decimal { size, .. } => drop(cursor.sized(*size)?),
            Node::Fixed { size, .. } => drop(cursor.take(*size)?),
            Node::Enum(symbols) => drop(cursor.symbol(symbols)?),
            Node::Union(branches) => self.skip(*cursor.branch(branches)?, cursor)?,
            Node::Record(_) => {
                for field in self.schema.fields_with_bytes(node) {
                    self.skip(*field, cursor)?;
                }
            }
            Node::Array(inner) => {
                let mut block = cursor.first_block()?;
                while block.count > 0 {
                    if !self.schema.is_weightless(*inner) {
                        for _ in 0..block.count {
                            self.skip(*inner, cursor)?;
                        }
                    }
                    block = cursor.next_block(block)?;
                }
            }
            Node::Map(inner) => {
                let mut block = cursor.first_block()?;
                while block.count > 0 {
                    for _ in 0..block.count {
                        cursor.text()?;
                        self.skip(*inner, cursor)?;
                    }
                    block = cursor.next_block(block)?;
                }
            }
        }
        Ok(())
    }
}

struct Compiler<'a> {
    schema: &'a Schema,
}

impl Compiler<'_> {
    fn root(&self, places: &[MemberPlace], columns: &[Column]) -> Result<(Body, usize), Refused> {
        let (root, content) = (self.schema.root(), self.schema.content_root());
        let is_struct = match self.schema.node(content) {
            Node::Record(_) => true,
            Node::Union(branches) => self.schema.only_branch(branches).is_none(),
            _ => false,
        };
        if !is_struct {
            let [MemberPlace { target, .. }] = places else { return Err(defect("the plan is of another schema")) };
            let Some((target, place)) = target else {
                // The owner dropped the column: each value is a row without it.
                let missing = (0..columns.len()).collect();
                return Ok((Body::Record { fields: Box::new([FieldStep::Skip(root)]), missing }, 0));
            };
            let (step, extra) = self.step(root, place, &columns[*target])?;
            let missing = (0..columns.len()).filter(|at| at != target).collect();
            return Ok((Body::Whole { step, target: *target, missing }, extra));
        }
        let (body, extra) = self.body(content, places, columns)?;
        if content == root {
            return Ok((body, extra));
        }
        let Node::Union(branches) = self.schema.node(root) else { return Err(defect("the root is no union")) };
        let mut body = Some(body);
        let branches = branches.iter().map(|node| (*node, if *node == content { body.take() } else { None }));
        Ok((Body::Optional(branches.collect()), extra))
    }

    /// For a record or a union of several types; also returns what its text takes beside the value's bytes.
    fn body(&self, id: NodeId, places: &[MemberPlace], columns: &[Column]) -> Result<(Body, usize), Refused> {
        let place = |source: usize| places.iter().find(|place| place.source == source);
        let mut extra = 0;
        let mut missing = vec![true; columns.len()];
        let mut fill = |node: NodeId, place: &MemberPlace| -> Result<Option<(Step, usize)>, Refused> {
            let Some((target, place)) = &place.target else { return Ok(None) };
            let (step, more) = self.step(node, place, &columns[*target])?;
            extra += more;
            if !std::mem::replace(&mut missing[*target], false) {
                return Err(defect("two members go to one column"));
            }
            Ok(Some((step, *target)))
        };
        let body = match self.schema.node(id) {
            Node::Record(fields) => {
                let mut steps = Vec::with_capacity(fields.len());
                for (source, field) in fields.iter().enumerate() {
                    let filled = place(source).map(|place| fill(field.node, place)).transpose()?.flatten();
                    match filled {
                        Some((step, target)) => steps.push(FieldStep::Fill { step, target }),
                        None if self.schema.is_weightless(field.node) => {}
                        None => steps.push(FieldStep::Skip(field.node)),
                    }
                }
                let missing = (0..columns.len()).filter(|at| missing[*at]).collect();
                Body::Record { fields: steps.into(), missing }
            }
            Node::Union(branches) => {
                let mut steps = Vec::with_capacity(branches.len());
                for (source, branch) in branches.iter().enumerate() {
                    steps.push(match place(source) {
                        _ if self.schema.is_empty(*branch) => BranchStep::Null(*branch),
                        None => return Err(defect("the plan is of another schema")),
                        Some(place) => match fill(*branch, place)? {
                            Some((step, target)) => BranchStep::Fill { step, target },
                            None => BranchStep::Skip(*branch),
                        },
                    });
                }
                Body::Union(steps.into())
            }
            node => return Err(defect(format!("a struct is made of {node:?}"))),
        };
        Ok((body, extra))
    }

    fn step(&self, id: NodeId, place: &Place, column: &Column) -> Result<(Step, usize), Refused> {
        if let Node::Union(branches) = self.schema.node(id)
            && let Some(only) = self.schema.only_branch(branches)
        {
            let (step, extra) = self.step(branches[only], place, column)?;
            let mut step = Some(step);
            let branches = branches.iter().enumerate();
            let branches = branches.map(|(at, node)| (*node, if at == only { step.take() } else { None }));
            return Ok((Step::Optional(branches.collect()), extra));
        }
        match (self.schema.node(id), place, &column.values) {
            (_, Place::Branch { target, place }, Values::Struct(columns)) => {
                let (step, extra) = self.step(id, place, &columns[*target])?;
                Ok((Step::Branch { step: Box::new(step), target: *target }, extra))
            }
            (Node::Array(inner), Place::List(place), Values::List { items, .. }) => {
                let (item, extra) = self.step(*inner, place, items)?;
                Ok((Step::List { item: Box::new(item), width: items.width() + extra }, 0))
            }
            (Node::Map(inner), Place::Map(place), Values::Map { keys, items, .. }) => {
                let (item, extra) = self.step(*inner, place, items)?;
                Ok((Step::Map { item: Box::new(item), width: keys.width() + items.width() + extra }, 0))
            }
            (Node::Record(_) | Node::Union(_), Place::Struct(places), Values::Struct(columns)) => {
                let (body, extra) = self.body(id, places, columns)?;
                Ok((Step::Struct(Box::new(body)), extra))
            }
            (node, Place::Leaf(kind), _) => {
                let step = leaf(node, kind).ok_or_else(|| defect(format!("{node:?} into {kind}")))?;
                let extra = match &step {
                    Step::Enum(symbols) => symbols.iter().map(|symbol| symbol.len()).max().unwrap_or(0),
                    Step::DecimalToText { precision, .. } => *precision as usize + 3,
                    _ => 0,
                };
                Ok((step, extra))
            }
            (node, place, _) => Err(defect(format!("{node:?} into {place:?}"))),
        }
    }
}

/// How `node` is read into a column of type `kind`; `None` if it cannot be. What has a logical type may also go into a
/// column of its base type.
fn leaf(node: &Node, kind: &PrimitiveType) -> Option<Step> {
    use PrimitiveType as P;
    let base_of_int = matches!(node, Node::Int | Node::Date | Node::TimeMillis);
    let base_of_long = matches!(node, Node::Long | Node::TimeMicros | Node::Timestamp { .. });
    Some(match (node, kind) {
        (Node::Boolean, P::Boolean) => Step::Boolean,
        (_, P::Int) if base_of_int => Step::Int,
        (_, P::Long) if base_of_int => Step::IntToLong,
        (_, P::Double) if base_of_int => Step::IntToDouble,
        (_, P::Long) if base_of_long => Step::Long,
        (_, P::Double) if base_of_long => Step::LongToDouble,
        (Node::Float, P::Float) => Step::Float,
        (Node::Float, P::Double) => Step::FloatToDouble,
        (Node::Double, P::Double) => Step::Double,
        (Node::String | Node::UuidString, P::String) => Step::Text,
        (Node::Enum(symbols), P::String) => Step::Enum(symbols.iter().map(|symbol| symbol.as_str().into()).collect()),
        (Node::Date, P::Date) => Step::Date,
        (Node::TimeMillis, P::Time) => Step::TimeMillis,
        (Node::TimeMicros, P::Time) => Step::TimeMicros,
        (Node::Timestamp { unit, local: false }, P::Timestamptz)
        | (Node::Timestamp { unit, local: true }, P::Timestamp) => Step::Timestamp { from: *unit, to_nanos: false },
        (Node::Timestamp { unit, local: false }, P::TimestamptzNs)
        | (Node::Timestamp { unit, local: true }, P::TimestampNs) => Step::Timestamp { from: *unit, to_nanos: true },
        (Node::UuidString, P::Uuid) => Step::Uuid,
        (Node::Fixed { uuid: true, size }, P::Uuid) => Step::Fixed(*size),
        (Node::Decimal { precision, size, .. }, P::Decimal { .. }) if *precision <= DECIMAL_DIGITS_MAX => {
            Step::Decimal { size: *size, precision: *precision }
        }
        (Node::Decimal { precision, scale, size }, P::String)
            if (DECIMAL_DIGITS_MAX + 1..=TEXT_DIGITS_MAX).contains(precision) =>
        {
            Step::DecimalToText { size: *size, precision: *precision, scale: *scale }
        }
        (Node::Bytes | Node::Decimal { size: None, .. }, P::Binary) => Step::Binary,
        (Node::Fixed { size, .. } | Node::Decimal { size: Some(size), .. }, P::Binary) => Step::FixedToBinary(*size),
        (Node::Fixed { size, .. } | Node::Decimal { size: Some(size), .. }, P::Fixed(same))
            if *size as u64 == *same =>
        {
            Step::Fixed(*size)
        }
        _ => return None,
    })
}
