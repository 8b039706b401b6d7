//! [`fill`]: one field's value → one value of a column, as a compiled [`Step`] says.

use std::collections::HashMap;
use std::sync::Arc;

use super::json::{self, JsonRules};
use super::scan::{Rules, Run, Slot, scan};
use crate::columns::build::{Column, Values};
use crate::columns::fault::Fault;
use crate::columns::fill::{Unit, exact_double, has_twice, push_binary, push_text, timestamp, to_offset};
use crate::columns::protobuf::{Json, Missing};

/// Seconds of a duration at most: about 10,000 years.
const DURATION_SECONDS: i64 = 315_576_000_000;
const NANOS: i64 = 1_000_000_000;

/// How a message is read into a struct, or into the columns of a row.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) rules: Rules,
    /// Of each rule.
    pub(super) fills: Box<[Fill]>,
    /// Columns that nothing goes to.
    pub(super) missing: Box<[usize]>,
}

/// Where a field goes.
#[derive(Debug)]
pub(super) enum Fill {
    Nothing,
    One { number: u32, step: Step, missing: Missing, target: usize },
    List { target: usize },
    Map { map: Box<MapStep>, target: usize },
}

/// How the entries of a map are read.
#[derive(Debug)]
pub(super) struct MapStep {
    /// Key and value.
    pub(super) entry: Rules,
    pub(super) key: KeyStep,
    pub(super) value: Step,
    pub(super) missing: Missing,
    pub(super) width: usize,
}

/// How a map's key becomes text.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyStep {
    Text,
    Bool,
    Signed(Coding),
    Unsigned,
}

/// How an integer of at most 64 bits with its sign is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Coding {
    /// Two's complement, cut to 32 bits.
    Int32,
    Int64,
    Uint32,
    Zigzag32,
    Zigzag64,
}

impl Coding {
    fn read(self, raw: u64) -> i64 {
        let zigzag = |raw: u64| (raw >> 1).cast_signed() ^ -(raw & 1).cast_signed();
        match self {
            Self::Int32 => i64::from(raw as u32 as i32),
            Self::Int64 => raw.cast_signed(),
            Self::Uint32 => i64::from(raw as u32),
            Self::Zigzag32 => i64::from(zigzag(u64::from(raw as u32)) as i32),
            Self::Zigzag64 => zigzag(raw),
        }
    }
}

/// How a value is read that goes into one column.
#[derive(Debug)]
pub(super) enum Step {
    Bool,
    Int(Coding),
    Long(Coding),
    IntegerToDouble(Coding),
    /// 64 bits without a sign.
    Decimal,
    Float,
    FloatToDouble,
    Double,
    Text,
    Binary,
    Enum(Arc<HashMap<i32, Box<str>>>),
    Timestamp {
        pair: Rules,
        to_nanos: bool,
    },
    Duration {
        pair: Rules,
    },
    Json {
        kind: Json,
        rules: Box<JsonRules>,
    },
    Wrapper {
        only: Rules,
        step: Box<Step>,
        missing: Missing,
    },
    Struct(Box<Body>),
}

/// Fills `columns` with the message that is in `parts`.
pub(super) fn message<'a>(
    body: &'a Body,
    parts: &[&'a [u8]],
    run: &mut Run<'a>,
    columns: &mut [Column],
) -> Result<(), Fault> {
    let base = scan(&body.rules, parts, run, columns)?;
    for (at, rule) in body.fills.iter().enumerate() {
        let slot = run.take(base, at);
        match rule {
            Fill::Nothing => {}
            Fill::One { number, step, missing, target } => {
                let column = &mut columns[*target];
                match (slot, missing) {
                    (Slot::Absent, Missing::Null) => column.push_null(),
                    (Slot::Absent, Missing::Refused) => return Err(Fault::Required(*number)),
                    (Slot::Absent, missing) => fill(step, stand_in(missing), run, column)?,
                    (slot, _) => fill(step, slot, run, column)?,
                }
            }
            Fill::List { target } => {
                let column = &mut columns[*target];
                let Values::List { offsets, items } = &mut column.values else { unreachable!("a list is a list") };
                offsets.push(to_offset(items.len())?);
                column.nulls.append_non_null();
            }
            Fill::Map { map, target } => entries(map, &slot, run, &mut columns[*target])?,
        }
    }
    run.close(base);
    for target in &body.missing {
        columns[*target].push_null();
    }
    Ok(())
}

/// What an absent value is read as.
fn stand_in(missing: &Missing) -> Slot<'_> {
    match missing {
        Missing::Number(number) => Slot::Number(*number),
        Missing::Bytes(bytes) => Slot::Bytes(bytes),
        Missing::Null | Missing::Refused => Slot::Absent,
    }
}

/// Appends one value to `column`, or fails, possibly with a part of it appended. A message that is absent is one
/// without fields.
pub(super) fn fill<'a>(step: &'a Step, slot: Slot<'a>, run: &mut Run<'a>, column: &mut Column) -> Result<(), Fault> {
    match (step, &slot, &mut column.values) {
        (Step::Bool, Slot::Number(raw), Values::Bool(values)) => values.append(*raw != 0),
        (Step::Int(coding), Slot::Number(raw), Values::I32(values)) => {
            values.push(i32::try_from(coding.read(*raw)).map_err(|_| Fault::Int)?);
        }
        (Step::Long(coding), Slot::Number(raw), Values::I64(values)) => values.push(coding.read(*raw)),
        (Step::IntegerToDouble(coding), Slot::Number(raw), Values::F64(values)) => {
            values.push(exact_double(coding.read(*raw))?);
        }
        (Step::Decimal, Slot::Number(raw), Values::I128(values)) => values.push((*raw).into()),
        (Step::Float, Slot::Number(raw), Values::F32(values)) => values.push(f32::from_bits(*raw as u32)),
        (Step::FloatToDouble, Slot::Number(raw), Values::F64(values)) => {
            values.push(f32::from_bits(*raw as u32).into());
        }
        (Step::Double, Slot::Number(raw), Values::F64(values)) => values.push(f64::from_bits(*raw)),
        (Step::Text, Slot::Bytes(text), Values::Text { offsets, bytes }) => {
            push_text(offsets, bytes, std::str::from_utf8(text).map_err(|_| Fault::Utf8)?)?;
        }
        (Step::Binary, Slot::Bytes(value), Values::Binary { offsets, bytes }) => push_binary(offsets, bytes, value),
        (Step::Enum(names), Slot::Number(raw), Values::Text { offsets, bytes }) => {
            let number = *raw as u32 as i32;
            match names.get(&number) {
                Some(name) => push_text(offsets, bytes, name)?,
                None => push_text(offsets, bytes, &number.to_string())?,
            }
        }
        (Step::Timestamp { pair, to_nanos }, slot, Values::I64(values)) => {
            let (seconds, nanos) = seconds(pair, slot, run)?;
            values.push(since_1970(seconds, nanos, *to_nanos)?);
        }
        (Step::Duration { pair }, slot, Values::I128(values)) => {
            let (seconds, nanos) = seconds(pair, slot, run)?;
            values.push(duration(seconds, nanos)?);
        }
        (Step::Json { kind, rules }, slot, Values::Text { offsets, bytes }) => {
            let text = json::text(*kind, rules, slot.parts(), run)?;
            run.charge(text.len())?;
            push_text(offsets, bytes, &text)?;
        }
        (Step::Wrapper { only, step, missing }, slot, _) => {
            let base = scan(only, slot.parts(), run, &mut [])?;
            let inner = run.take(base, 0);
            run.close(base);
            let inner = if matches!(inner, Slot::Absent) { stand_in(missing) } else { inner };
            return fill(step, inner, run, column);
        }
        (Step::Struct(body), slot, Values::Struct(columns)) => message(body, slot.parts(), run, columns)?,
        (step, slot, _) => {
            unreachable!("the layout has another column for {step:?}, or {slot:?} is not of its wire type")
        }
    }
    column.nulls.append_non_null();
    Ok(())
}

/// Fields 1 and 2 of a timestamp or a duration.
fn seconds<'a>(pair: &'a Rules, slot: &Slot<'a>, run: &mut Run<'a>) -> Result<(i64, i32), Fault> {
    let base = scan(pair, slot.parts(), run, &mut [])?;
    let mut number = |at| if let Slot::Number(raw) = run.take(base, at) { raw } else { 0 };
    let (seconds, nanos) = (number(0).cast_signed(), number(1) as u32 as i32);
    run.close(base);
    Ok((seconds, nanos))
}

fn since_1970(seconds: i64, nanos: i32, to_nanos: bool) -> Result<i64, Fault> {
    let nanos = Some(i64::from(nanos)).filter(|nanos| (0..NANOS).contains(nanos)).ok_or(Fault::Time)?;
    let micros = seconds.checked_mul(1_000_000).and_then(|micros| micros.checked_add(nanos / 1000));
    let micros = timestamp(micros.ok_or(Fault::Time)?, Unit::Micros, false)?;
    if !to_nanos {
        return Ok(micros);
    }
    let whole = seconds.checked_mul(NANOS).and_then(|whole| whole.checked_add(nanos));
    whole.ok_or(Fault::Time)
}

/// In nanoseconds. Both parts have one sign.
fn duration(seconds: i64, nanos: i32) -> Result<i128, Fault> {
    let is_legal = (-DURATION_SECONDS..=DURATION_SECONDS).contains(&seconds)
        && i64::from(nanos).abs() < NANOS
        && seconds.signum() * i64::from(nanos.signum()) >= 0;
    if !is_legal {
        return Err(Fault::Duration);
    }
    Ok(i128::from(seconds) * i128::from(NANOS) + i128::from(nanos))
}

/// Appends a map. Of entries with one key the last counts.
fn entries<'a>(map: &'a MapStep, slot: &Slot<'a>, run: &mut Run<'a>, column: &mut Column) -> Result<(), Fault> {
    let Values::Map { offsets, keys, items } = &mut column.values else { unreachable!("a map is a map") };
    let first = keys.len();
    for part in slot.parts() {
        entry(map, part, run, keys, items)?;
    }
    if has_twice(keys, first) {
        keys.truncate(first);
        items.truncate(first);
        let mut last = HashMap::new();
        for (at, part) in slot.parts().iter().enumerate() {
            last.insert(key(map, part, run)?, at);
        }
        for (at, part) in slot.parts().iter().enumerate() {
            if last.get(&key(map, part, run)?) == Some(&at) {
                entry(map, part, run, keys, items)?;
            }
        }
    }
    offsets.push(to_offset(keys.len())?);
    column.nulls.append_non_null();
    Ok(())
}

fn entry<'a>(
    map: &'a MapStep,
    part: &&'a [u8],
    run: &mut Run<'a>,
    keys: &mut Column,
    items: &mut Column,
) -> Result<(), Fault> {
    run.charge(map.width)?;
    let base = scan(&map.entry, std::slice::from_ref(part), run, &mut [])?;
    let (key, value) = (run.take(base, 0), run.take(base, 1));
    run.close(base);
    let Values::Text { offsets, bytes } = &mut keys.values else { unreachable!("a map's keys are text") };
    push_text(offsets, bytes, &key_text(map.key, &key)?)?;
    keys.nulls.append_non_null();
    let value = if matches!(value, Slot::Absent) { stand_in(&map.missing) } else { value };
    fill(&map.value, value, run, items)
}

fn key<'a>(map: &'a MapStep, part: &&'a [u8], run: &mut Run<'a>) -> Result<String, Fault> {
    let base = scan(&map.entry, std::slice::from_ref(part), run, &mut [])?;
    let slot = run.take(base, 0);
    run.close(base);
    Ok(key_text(map.key, &slot)?.into_owned())
}

fn key_text<'s>(step: KeyStep, slot: &Slot<'s>) -> Result<std::borrow::Cow<'s, str>, Fault> {
    let raw = if let Slot::Number(raw) = slot { *raw } else { 0 };
    Ok(match (step, slot) {
        (KeyStep::Text, Slot::Bytes(text)) => std::str::from_utf8(text).map_err(|_| Fault::Utf8)?.into(),
        (KeyStep::Text, _) => "".into(),
        (KeyStep::Bool, _) => if raw != 0 { "true" } else { "false" }.into(),
        (KeyStep::Signed(coding), _) => coding.read(raw).to_string().into(),
        (KeyStep::Unsigned, _) => raw.to_string().into(),
    })
}
