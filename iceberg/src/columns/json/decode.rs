//! JSON values → rows of a table's columns: [`Decoder`].
//!
//! A value is read once, strictly, and appended to the columns while it is checked; one that is not exactly a JSON
//! value, or has another type than its schema says, leaves no trace. Members that the schema does not name are read
//! over or kept as one text, missing ones are null, one that comes twice is refused: which one
//! counts is not defined. An integer may be written as `1.0` or `1e3`. A part that no column takes apart is kept as it
//! is written.
//!
//! Memory and time are bounded as for Avro: a row and each item of a list or map are charged the width of their
//! columns, and text cannot be longer than the value.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::PrimitiveType;

use super::cursor::Cursor;
use super::{Members, Node, Schema};
use crate::columns::Refused;
use crate::columns::build::{Column, Columns, Layout, RowColumns, Values};
use crate::columns::compile::{Targets, defect, targets};
use crate::columns::evolve::{MemberPlace, Place, Plan};
use crate::columns::fault::{BadValue, Fault};
use crate::columns::fill::{date, exact_double, has_twice, push_text, to_offset, uuid};

mod time;

/// Words of 64 members each: which of an object's members have come.
const SEEN_WORDS: usize = crate::columns::COLUMNS_MAX.div_ceil(64);
/// Beyond this an integer written with a fraction or an exponent is not exact.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Reads values of one schema into columns of one table schema.
#[derive(Debug)]
pub struct Decoder {
    layout: Arc<Layout>,
    row: RowColumns,
    body: Body,
    width: usize,
}

#[derive(Debug)]
enum Body {
    Object(Object),
    /// The root is no object; the other columns are null.
    Whole {
        step: Step,
        target: Option<usize>,
        missing: Box<[usize]>,
    },
}

/// How an object is read into a struct.
#[derive(Debug)]
struct Object {
    /// Index of each name in `members`.
    names: HashMap<Box<str>, usize>,
    members: Box<[ObjectMember]>,
    /// The column that members without columns go to.
    rest: Option<usize>,
    /// Columns that nothing goes to.
    missing: Box<[usize]>,
}

#[derive(Debug)]
struct ObjectMember {
    name: Box<str>,
    /// `None`: left out.
    target: Option<(Step, usize)>,
}

#[derive(Debug)]
enum Step {
    Boolean,
    Long,
    /// An integer into a column of doubles, if one equals it.
    LongToDouble,
    Double,
    Text,
    Any,
    DateTime {
        to_nanos: bool,
    },
    Date,
    Uuid,
    Object(Box<Object>),
    List {
        item: Box<Step>,
        width: usize,
    },
    Map {
        item: Box<Step>,
        width: usize,
    },
}

impl Decoder {
    /// For values of `schema`, whose shape `plan` was made of, into columns of `layout`, which is of the plan's schema.
    ///
    /// # Errors
    /// The plan is of another schema, or has conflicts.
    pub fn new(schema: &Schema, plan: &Plan, layout: &Arc<Layout>) -> Result<Self, Refused> {
        let Targets { row, places, columns, width } = targets(plan, layout)?;
        let body = match schema.root() {
            Node::Object(named) => Body::Object(object(named, &places, &columns)?),
            root => {
                let [MemberPlace { target, .. }] = places.as_slice() else {
                    return Err(defect("the plan is of another schema"));
                };
                let step = match target {
                    Some((target, place)) => step(root, place, &columns[*target])?,
                    None => Step::Any,
                };
                let target = target.as_ref().map(|(target, _)| *target);
                let missing = (0..columns.len()).filter(|at| Some(*at) != target).collect();
                Body::Whole { step, target, missing }
            }
        };
        Ok(Self { layout: layout.clone(), row, body, width })
    }

    /// Appends `value` as a row, if it takes no more than `limit` bytes; returns the bytes that it is charged.
    ///
    /// # Errors
    /// The value is not a row; the columns are as before.
    pub fn push(&self, value: &[u8], columns: &mut Columns, limit: usize) -> Result<usize, BadValue> {
        assert!(columns.is_of(&self.layout), "columns and decoder are of one layout");
        let text = std::str::from_utf8(value).map_err(|e| BadValue { at: e.valid_up_to(), fault: Fault::Utf8 })?;
        let mut cursor = Cursor::new(text, limit);
        match columns.push_row(self.row, |columns| self.row(&mut cursor, value.len(), columns)) {
            Ok(()) => Ok(cursor.charged()),
            Err(fault) => Err(BadValue { at: cursor.position(), fault }),
        }
    }

    /// False: the value is null, and no column was filled.
    fn row(&self, cursor: &mut Cursor<'_>, len: usize, columns: &mut [Column]) -> Result<bool, Fault> {
        cursor.charge(self.width.saturating_add(len))?;
        match &self.body {
            Body::Object(_) if cursor.takes_null()? => return cursor.end().map(|()| false),
            Body::Object(object) => fill_object(object, cursor, columns)?,
            Body::Whole { step, target, missing } => {
                match target {
                    Some(target) => fill(step, cursor, &mut columns[*target])?,
                    None => drop(cursor.any()?),
                }
                for target in missing {
                    columns[*target].push_null();
                }
            }
        }
        cursor.end().map(|()| true)
    }
}

fn fill_object(object: &Object, cursor: &mut Cursor<'_>, columns: &mut [Column]) -> Result<(), Fault> {
    if cursor.peek()? != b'{' {
        return Err(cursor.expected("an object"));
    }
    cursor.expect(b'{')?;
    let mut seen = [0_u64; SEEN_WORDS];
    let mut next = 0;
    let mut rest = String::new();
    let mut more = !cursor.takes(b'}')?;
    while more {
        cursor.peek()?;
        let start = cursor.position();
        let key = cursor.key()?;
        // Producers write members in the same order each time, mostly the schema's.
        let at = match object.members.get(next) {
            Some(member) if *member.name == *key => Some(next),
            _ => object.names.get(&*key).copied(),
        };
        match at {
            Some(at) => {
                let (word, bit) = (&mut seen[at / 64], 1 << (at % 64));
                if *word & bit != 0 {
                    return Err(Fault::Key);
                }
                *word |= bit;
                match &object.members[at].target {
                    Some((step, target)) => fill(step, cursor, &mut columns[*target])?,
                    None => drop(cursor.any()?),
                }
                next = at + 1;
            }
            None => {
                cursor.any()?;
                if object.rest.is_some() {
                    rest.push(if rest.is_empty() { '{' } else { ',' });
                    rest.push_str(cursor.since(start));
                }
            }
        }
        more = cursor.more(b'}')?;
    }
    if let Some(target) = object.rest {
        push_rest(rest, &mut columns[target])?;
    }
    for (at, member) in object.members.iter().enumerate() {
        if let Some((_, target)) = &member.target
            && seen[at / 64] & 1 << (at % 64) == 0
        {
            columns[*target].push_null();
        }
    }
    for target in &object.missing {
        columns[*target].push_null();
    }
    Ok(())
}

fn push_rest(mut rest: String, column: &mut Column) -> Result<(), Fault> {
    if rest.is_empty() {
        column.push_null();
        return Ok(());
    }
    rest.push('}');
    let Values::Text { offsets, bytes } = &mut column.values else { unreachable!("the rest of an object is text") };
    push_text(offsets, bytes, &rest)?;
    column.nulls.append_non_null();
    Ok(())
}

/// Appends one value to `column`, or fails, possibly with a part of it appended.
fn fill(step: &Step, cursor: &mut Cursor<'_>, column: &mut Column) -> Result<(), Fault> {
    // What is kept as it is written keeps its nulls inside, but is null itself where it is null.
    if cursor.takes_null()? {
        column.push_null();
        return Ok(());
    }
    let kind = |what, cursor: &mut Cursor<'_>, is: fn(u8) -> bool| match cursor.peek()? {
        byte if is(byte) => Ok(()),
        _ => Err(cursor.expected(what)),
    };
    let is_string: fn(u8) -> bool = |byte| byte == b'"';
    let is_number: fn(u8) -> bool = |byte| matches!(byte, b'-' | b'0'..=b'9');
    match (step, &mut column.values) {
        (Step::Boolean, Values::Bool(values)) => {
            kind("a boolean", cursor, |byte| matches!(byte, b't' | b'f'))?;
            values.append(cursor.boolean()?);
        }
        (Step::Long, Values::I64(values)) => {
            kind("an integer", cursor, is_number)?;
            values.push(integer(cursor.number()?)?);
        }
        (Step::LongToDouble, Values::F64(values)) => {
            kind("an integer", cursor, is_number)?;
            values.push(exact_double(integer(cursor.number()?)?)?);
        }
        (Step::Double, Values::F64(values)) => {
            kind("a number", cursor, is_number)?;
            let number: f64 = cursor.number()?.parse().map_err(|_| Fault::Syntax)?;
            values.push(if number.is_finite() { number } else { return Err(Fault::Range) });
        }
        (Step::Any, Values::Text { offsets, bytes }) => push_text(offsets, bytes, cursor.any()?)?,
        (Step::Text, Values::Text { offsets, bytes }) => {
            kind("a string", cursor, is_string)?;
            push_text(offsets, bytes, &cursor.string()?)?;
        }
        (Step::DateTime { to_nanos }, Values::I64(values)) => {
            kind("a date and time", cursor, is_string)?;
            values.push(time::date_time(&cursor.string()?, *to_nanos)?);
        }
        (Step::Date, Values::I32(values)) => {
            kind("a date", cursor, is_string)?;
            values.push(date(time::days(&cursor.string()?)?)?);
        }
        (Step::Uuid, Values::Fixed { bytes, .. }) => {
            kind("a UUID", cursor, is_string)?;
            bytes.extend_from_slice(uuid(&cursor.string()?)?.as_bytes());
        }
        (Step::Object(object), Values::Struct(columns)) => fill_object(object, cursor, columns)?,
        (Step::List { item, width }, Values::List { offsets, items }) => {
            kind("an array", cursor, |byte| byte == b'[')?;
            cursor.expect(b'[')?;
            let mut more = !cursor.takes(b']')?;
            while more {
                cursor.charge(*width)?;
                fill(item, cursor, items)?;
                more = cursor.more(b']')?;
            }
            offsets.push(to_offset(items.len())?);
        }
        (Step::Map { item, width }, Values::Map { offsets, keys, items }) => {
            kind("an object", cursor, |byte| byte == b'{')?;
            cursor.expect(b'{')?;
            let first = keys.len();
            let mut more = !cursor.takes(b'}')?;
            while more {
                cursor.charge(*width)?;
                let Values::Text { offsets, bytes } = &mut keys.values else { unreachable!("a map's keys are text") };
                push_text(offsets, bytes, &cursor.key()?)?;
                keys.nulls.append_non_null();
                fill(item, cursor, items)?;
                more = cursor.more(b'}')?;
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

fn integer(text: &str) -> Result<i64, Fault> {
    if !text.contains(['.', 'e', 'E']) {
        return text.parse().map_err(|_| Fault::Range);
    }
    let number: f64 = text.parse().map_err(|_| Fault::Syntax)?;
    if number.fract() != 0.0 {
        return Err(Fault::Type("an integer"));
    }
    if number.abs() <= EXACT_MAX { Ok(number as i64) } else { Err(Fault::Range) }
}

fn object(members: &Members, places: &[MemberPlace], columns: &[Column]) -> Result<Object, Refused> {
    let mut missing = vec![true; columns.len()];
    let mut take = |source: usize| {
        let place = places.iter().find(|place| place.source == source);
        let target = place.and_then(|place| place.target.as_ref());
        match target {
            Some((target, _)) if !std::mem::replace(&mut missing[*target], false) => {
                Err(defect("two members go to one column"))
            }
            target => Ok(target),
        }
    };
    let mut steps = Vec::with_capacity(members.named.len());
    for (source, (name, node)) in members.named.iter().enumerate() {
        let target = match take(source)? {
            Some((target, place)) => Some((step(node, place, &columns[*target])?, *target)),
            None => None,
        };
        steps.push(ObjectMember { name: name.as_str().into(), target });
    }
    let rest = if members.keeps_rest { take(members.named.len())?.map(|(target, _)| *target) } else { None };
    let names = steps.iter().enumerate().map(|(at, member)| (member.name.clone(), at)).collect();
    let missing = (0..columns.len()).filter(|at| missing[*at]).collect();
    Ok(Object { names, members: steps.into(), rest, missing })
}

fn step(node: &Node, place: &Place, column: &Column) -> Result<Step, Refused> {
    use PrimitiveType as P;
    Ok(match (node, place, &column.values) {
        (Node::Object(members), Place::Struct(places), Values::Struct(columns)) => {
            Step::Object(Box::new(object(members, places, columns)?))
        }
        (Node::List(node), Place::List(place), Values::List { items, .. }) => {
            Step::List { item: Box::new(step(node, place, items)?), width: items.width() }
        }
        (Node::Map(node), Place::Map(place), Values::Map { keys, items, .. }) => {
            Step::Map { item: Box::new(step(node, place, items)?), width: keys.width() + items.width() }
        }
        (Node::Boolean, Place::Leaf(P::Boolean), _) => Step::Boolean,
        (Node::Integer, Place::Leaf(P::Long), _) => Step::Long,
        (Node::Integer, Place::Leaf(P::Double), _) => Step::LongToDouble,
        (Node::Number, Place::Leaf(P::Double), _) => Step::Double,
        (Node::Any, Place::Leaf(P::String), _) => Step::Any,
        (Node::Text | Node::DateTime | Node::Date | Node::Uuid, Place::Leaf(P::String), _) => Step::Text,
        (Node::DateTime, Place::Leaf(P::Timestamptz), _) => Step::DateTime { to_nanos: false },
        (Node::DateTime, Place::Leaf(P::TimestamptzNs), _) => Step::DateTime { to_nanos: true },
        (Node::Date, Place::Leaf(P::Date), _) => Step::Date,
        (Node::Uuid, Place::Leaf(P::Uuid), _) => Step::Uuid,
        (node, place, _) => return Err(defect(format!("{node:?} into {place:?}"))),
    })
}
