//! `google.protobuf.Struct`, `Value` and `ListValue` → text of JSON. A number that JSON does not have is refused, a
//! value without a kind is null, of two members with one name the last counts. Names are sorted.

use serde_json::{Map, Number, Value};

use super::scan::{Rule, Rules, Run, Slot, Take, scan};
use super::wire::Wire;
use crate::columns::fault::Fault;
use crate::columns::protobuf::Json;

/// Values inside each other at the most.
const DEPTH_MAX: usize = 64;
/// What a value takes while the text is made.
const NODE_BYTES: usize = 96;
/// Doubles up to this are integers exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The fields of the three messages.
#[derive(Debug)]
pub(super) struct JsonRules {
    /// Of `Struct` and `ListValue`: entries and items.
    inside: Rules,
    entry: Rules,
    value: Rules,
}

impl JsonRules {
    pub(super) fn new() -> Self {
        let rules = |rules: Vec<(Wire, Take)>, oneof: Option<usize>| Rules {
            rules: (1..).zip(rules).map(|(number, (wire, take))| Rule { number, wire, take, oneof }).collect(),
            oneofs: usize::from(oneof.is_some()),
        };
        Self {
            inside: rules(vec![(Wire::Bytes, Take::Collect)], None),
            entry: rules(vec![(Wire::Bytes, Take::Last), (Wire::Bytes, Take::Merge)], None),
            value: rules(
                vec![
                    (Wire::Varint, Take::Last),
                    (Wire::Fixed64, Take::Last),
                    (Wire::Bytes, Take::Last),
                    (Wire::Varint, Take::Last),
                    (Wire::Bytes, Take::Merge),
                    (Wire::Bytes, Take::Merge),
                ],
                Some(0),
            ),
        }
    }
}

/// The text of the message that is in `parts`.
pub(super) fn text<'a>(
    kind: Json,
    rules: &'a JsonRules,
    parts: &[&'a [u8]],
    run: &mut Run<'a>,
) -> Result<String, Fault> {
    let json = match kind {
        Json::Struct => object(rules, parts, run, 0)?,
        Json::Value => value(rules, parts, run, 0)?,
        Json::List => list(rules, parts, run, 0)?,
    };
    Ok(json.to_string())
}

fn object<'a>(rules: &'a JsonRules, parts: &[&'a [u8]], run: &mut Run<'a>, depth: usize) -> Result<Value, Fault> {
    let base = scan(&rules.inside, parts, run, &mut [])?;
    let entries = run.take(base, 0);
    run.close(base);
    let mut members = Map::new();
    for entry in entries.parts() {
        run.charge(NODE_BYTES)?;
        let base = scan(&rules.entry, std::slice::from_ref(entry), run, &mut [])?;
        let (name, inner) = (run.take(base, 0), run.take(base, 1));
        run.close(base);
        let name = if let Slot::Bytes(name) = name { name } else { &[] };
        members.insert(utf8(name)?, value(rules, inner.parts(), run, depth)?);
    }
    Ok(Value::Object(members))
}

fn list<'a>(rules: &'a JsonRules, parts: &[&'a [u8]], run: &mut Run<'a>, depth: usize) -> Result<Value, Fault> {
    let base = scan(&rules.inside, parts, run, &mut [])?;
    let items = run.take(base, 0);
    run.close(base);
    let mut values = Vec::new();
    for item in items.parts() {
        run.charge(NODE_BYTES)?;
        values.push(value(rules, std::slice::from_ref(item), run, depth)?);
    }
    Ok(Value::Array(values))
}

fn value<'a>(rules: &'a JsonRules, parts: &[&'a [u8]], run: &mut Run<'a>, depth: usize) -> Result<Value, Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::Deep);
    }
    let base = scan(&rules.value, parts, run, &mut [])?;
    let slots: [Slot<'a>; 6] = std::array::from_fn(|at| run.take(base, at));
    run.close(base);
    let [_, number, text, boolean, members, items] = slots;
    Ok(match (number, text, boolean) {
        (Slot::Number(raw), ..) => self::number(f64::from_bits(raw))?,
        (_, Slot::Bytes(text), _) => Value::String(utf8(text)?),
        (_, _, Slot::Number(raw)) => Value::Bool(raw != 0),
        _ if !matches!(members, Slot::Absent) => object(rules, members.parts(), run, depth + 1)?,
        _ if !matches!(items, Slot::Absent) => list(rules, items.parts(), run, depth + 1)?,
        _ => Value::Null,
    })
}

fn number(number: f64) -> Result<Value, Fault> {
    if number.fract() == 0.0 && number.abs() <= EXACT_MAX {
        return Ok(Value::Number((number as i64).into()));
    }
    Number::from_f64(number).map(Value::Number).ok_or(Fault::Range)
}

fn utf8(bytes: &[u8]) -> Result<String, Fault> {
    std::str::from_utf8(bytes).map(ToOwned::to_owned).map_err(|_| Fault::Utf8)
}
