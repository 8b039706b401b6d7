//! Random schemas and values: each row equals what `serde_json` reads, and what it does not read is no row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json, json};

use super::decode::Decoder;
use super::*;
use crate::columns::build::{Columns, Layout};
use crate::columns::evolve::OnConflict;
use crate::columns::fault::Fault;
use crate::columns::fixture::{Cell, Follower, Random, cases, float};

fn parse(schema: &Json) -> Result<Schema, Refused> {
    Schema::parse(&schema.to_string(), &[])
}

fn object_of(named: Vec<(&str, Node)>) -> Node {
    let named = named.into_iter().map(|(name, node)| (name.to_owned(), node)).collect();
    Node::Object(Members { named, keeps_rest: false })
}

/// A schema and what its values are.
fn any_schema(random: &mut Random, depth: usize) -> Json {
    let kinds = if depth == 0 { 8 } else { 12 };
    match random.below(kinds) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": "integer"}),
        2 => json!({"type": ["number", "null"]}),
        3 => json!({"type": "string"}),
        4 => json!({"type": "string", "format": "date-time"}),
        5 => json!({"type": "string", "format": "date"}),
        6 => json!({"oneOf": [{"type": "null"}, {"type": "string", "format": "uuid"}]}),
        7 => json!({}),
        8 => json!({"type": "array", "items": any_schema(random, depth - 1)}),
        9 => json!({"type": "object", "additionalProperties": any_schema(random, depth - 1)}),
        _ => object_schema(random, depth),
    }
}

fn object_schema(random: &mut Random, depth: usize) -> Json {
    let members = (0..random.below(5) + 1).map(|at| (format!("m{at}"), any_schema(random, depth - 1)));
    json!({"type": "object", "properties": members.collect::<Map<_, _>>()})
}

fn any_json(random: &mut Random, depth: usize) -> Json {
    match random.below(if depth == 0 { 6 } else { 8 }) {
        0 => Json::Null,
        1 => json!(random.below(2) == 0),
        2 => json!(random.next() as i64 >> random.below(64)),
        3 => json!((random.next() as i32) as f64 / 256.0),
        4 => json!("ä\"\\\n\u{1}🦀x"[..[0, 2, 4, 11][random.below(4)]].to_owned()),
        5 => json!("2026-11-29T15:27:14.123456Z"),
        6 => Json::Array((0..random.below(4)).map(|_| any_json(random, depth - 1)).collect()),
        _ => Json::Object((0..random.below(4)).map(|at| (format!("m{at}"), any_json(random, depth - 1))).collect()),
    }
}

/// A value of the node; now and then null, and members missing or unknown.
fn value_of(random: &mut Random, node: &Node) -> Json {
    if random.below(8) == 0 {
        return Json::Null;
    }
    match node {
        Node::Boolean => json!(random.below(2) == 0),
        Node::Integer => json!(random.next() as i64 >> random.below(64)),
        Node::Number => json!((random.next() as i64 >> random.below(64)) as f64 / 1024.0),
        Node::Text => json!(["", "a", "\"quoted\"", "tab\tß🦀\u{7f}", "\\u0041"][random.below(5)]),
        Node::DateTime => json!(["2026-11-29T15:27:14Z", "1969-01-01T00:00:00.000001+05:30"][random.below(2)]),
        Node::Date => json!(["2026-11-29", "0001-01-01"][random.below(2)]),
        Node::Uuid => json!("00112233-4455-6677-8899-aabbccddeeff"),
        Node::Any => any_json(random, 2),
        Node::List(node) => Json::Array((0..random.below(4)).map(|_| value_of(random, node)).collect()),
        Node::Map(node) => {
            Json::Object((0..random.below(4)).map(|at| (format!("k{at}"), value_of(random, node))).collect())
        }
        Node::Object(members) => {
            let mut object = Map::new();
            for (name, node) in &members.named {
                if random.below(5) > 0 {
                    object.insert(name.clone(), value_of(random, node));
                }
            }
            if random.below(3) == 0 {
                object.insert("unknown".to_owned(), any_json(random, 2));
            }
            Json::Object(object)
        }
    }
}

/// What the reference does not know: a date or a UUID that damage made of another one.
fn unknown() -> Cell {
    Cell::Text("?".to_owned())
}

fn has_unknown(cell: &Cell) -> bool {
    match cell {
        Cell::List(items) => items.iter().any(has_unknown),
        Cell::Map(items) | Cell::Struct(items) => items.values().any(has_unknown),
        cell => *cell == unknown(),
    }
}

/// What a value's column should be; `None`: it is no row.
fn expected(node: &Node, value: &Json) -> Option<Cell> {
    if value.is_null() {
        return Some(Cell::Null);
    }
    let text = || value.as_str();
    Some(match node {
        Node::Boolean => Cell::Bool(value.as_bool()?),
        Node::Integer => match (value.as_i64(), value.as_f64()) {
            (Some(value), _) => Cell::Int(value.into()),
            (None, Some(value)) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => {
                Cell::Int(value as i128)
            }
            _ => return None,
        },
        Node::Number => float(value.as_f64()?),
        Node::Text => Cell::Text(text()?.to_owned()),
        Node::DateTime => match text()? {
            "2026-11-29T15:27:14Z" => Cell::Int(1_795_966_034_000_000),
            "1969-01-01T00:00:00.000001+05:30" => Cell::Int(-31_555_799_999_999),
            _ => unknown(),
        },
        Node::Date => match text()? {
            "2026-11-29" => Cell::Int(20_786),
            "0001-01-01" => Cell::Int(-719_162),
            _ => unknown(),
        },
        Node::Uuid => match text()? {
            "00112233-4455-6677-8899-aabbccddeeff" => {
                Cell::Bytes(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes().to_vec())
            }
            _ => unknown(),
        },
        // As it is written; compared after reading it again.
        Node::Any => Cell::Text(value.to_string()),
        Node::List(node) => {
            Cell::List(value.as_array()?.iter().map(|item| expected(node, item)).collect::<Option<_>>()?)
        }
        Node::Map(node) => {
            let entries = value.as_object()?.iter().map(|(key, item)| Some((key.clone(), expected(node, item)?)));
            Cell::Map(entries.collect::<Option<BTreeMap<_, _>>>()?)
        }
        Node::Object(members) => {
            let object = value.as_object()?;
            let mut cells = BTreeMap::new();
            for (name, node) in &members.named {
                let cell = expected(node, object.get(name).unwrap_or(&Json::Null))?;
                if cell != Cell::Null {
                    cells.insert(name.clone(), cell);
                }
            }
            let is_named = |name: &String| members.named.iter().any(|(known, _)| known == name);
            let rest = object.iter().filter(|(name, _)| !is_named(name));
            let rest: Map<String, Json> = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
            if members.keeps_rest && !rest.is_empty() {
                cells.insert("rest".to_owned(), Cell::Text(Json::Object(rest).to_string()));
            }
            Cell::Struct(cells)
        }
    })
}

/// Whether they are equal, but for the last bit of numbers: `serde_json` does not always take the nearest.
fn is_close(one: &Cell, other: &Cell) -> bool {
    let both = |one: &BTreeMap<String, Cell>, other: &BTreeMap<String, Cell>| {
        one.keys().eq(other.keys()) && one.values().zip(other.values()).all(|(one, other)| is_close(one, other))
    };
    match (one, other) {
        (Cell::Float(one), Cell::Float(other)) => one.abs_diff(*other) <= 1,
        (Cell::List(one), Cell::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_close(one, other))
        }
        (Cell::Map(one), Cell::Map(other)) | (Cell::Struct(one), Cell::Struct(other)) => both(one, other),
        (one, other) => one == other,
    }
}

/// JSON kept as text, read and printed again, as the reference prints it.
fn normal(node: &Node, cell: Cell) -> Cell {
    match (node, cell) {
        (Node::Any, Cell::Text(text)) => {
            Cell::Text(serde_json::from_str::<Json>(&text).expect("JSON as it was written").to_string())
        }
        (Node::List(node), Cell::List(items)) => Cell::List(items.into_iter().map(|item| normal(node, item)).collect()),
        (Node::Map(node), Cell::Map(items)) => {
            Cell::Map(items.into_iter().map(|(key, item)| (key, normal(node, item))).collect())
        }
        (Node::Object(members), Cell::Struct(cells)) => {
            let node =
                |name: &String| members.named.iter().find(|(known, _)| known == name).map_or(&Node::Any, |m| &m.1);
            Cell::Struct(cells.into_iter().map(|(name, cell)| (name.clone(), normal(node(&name), cell))).collect())
        }
        (_, cell) => cell,
    }
}

fn is_beyond_doubles(value: &[u8]) -> bool {
    serde_json::from_slice::<Json>(value).is_err_and(|error| error.to_string().starts_with("number out of range"))
}

/// Any JSON whose objects have no member twice.
struct NoKeyTwice;

impl<'de> Deserialize<'de> for NoKeyTwice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for NoKeyTwice {
    type Value = Self;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = members.next_key::<String>()? {
            if !keys.insert(key) {
                return Err(serde::de::Error::custom("a member comes twice"));
            }
            members.next_value::<Self>()?;
        }
        Ok(self)
    }
}

struct Both {
    schema: Schema,
    follower: Follower,
    layout: Arc<Layout>,
    decoder: Decoder,
}

impl Both {
    fn new(schema: Schema) -> Self {
        let mut follower = Follower::new();
        let plan = follower.follow(&schema.shape().expect("shape"), OnConflict::Report);
        let layout = follower.layout();
        let decoder = Decoder::new(&schema, &plan, &layout).expect("decoder");
        Self { schema, follower, layout, decoder }
    }

    /// The row that the reference makes of a value.
    fn expected(&self, value: &[u8]) -> Option<Cell> {
        let value: Json = serde_json::from_slice(value).ok()?;
        match (self.schema.root(), expected(self.schema.root(), &value)?) {
            (_, Cell::Null) => Some(Cell::Struct(BTreeMap::new())),
            (Node::Object(_), cell) => Some(cell),
            (_, cell) => Some(Cell::Struct(BTreeMap::from([("value".to_owned(), cell)]))),
        }
    }

    fn compare(&self, values: &[Vec<u8>]) {
        let mut columns = Columns::new(&self.layout);
        let mut wanted = Vec::new();
        for value in values {
            let text = String::from_utf8_lossy(value);
            match (self.decoder.push(value, &mut columns, 1 << 20), self.expected(value)) {
                (Ok(_), Some(row)) if has_unknown(&row) => columns.truncate(columns.rows() - 1),
                (Ok(_), Some(row)) => wanted.push(row),
                (Err(_), None) => {}
                // The reference has no number for it, but it is JSON, and kept as text.
                (Ok(_), None) if is_beyond_doubles(value) => columns.truncate(columns.rows() - 1),
                // The reference takes the last of two members.
                (Err(_), Some(_)) if serde_json::from_slice::<NoKeyTwice>(value).is_err() => {}
                (Err(bad), Some(row)) if has_unknown(&row) && !bad.fault.is_malformed() => {}
                (ours, theirs) => {
                    unreachable!("{text} of {:?} is {ours:?}, the reference reads {theirs:?}", self.schema)
                }
            }
        }
        let rows = self.follower.rows(columns).into_iter().map(|row| match self.schema.root() {
            root @ Node::Object(_) => normal(root, row),
            root => normal(&object_of(vec![("value", root.clone())]), row),
        });
        assert_eq!(rows.len(), wanted.len());
        for (row, wanted) in rows.zip(wanted) {
            assert!(is_close(&row, &wanted), "{row:?} is not {wanted:?} of {:?}", self.schema);
        }
    }
}

#[test]
fn values_are_the_rows_that_the_reference_reads() {
    for seed in 0..cases(300) {
        let mut random = Random::new(seed);
        let schema = if random.below(6) == 0 { any_schema(&mut random, 3) } else { object_schema(&mut random, 3) };
        let both = Both::new(parse(&schema).expect("schema"));
        let values: Vec<Vec<u8>> = (0..20)
            .map(|_| {
                let value = value_of(&mut random, both.schema.root());
                let pretty = random.below(2) == 0;
                if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.expect("text")
            })
            .collect();
        assert!(values.iter().all(|value| both.expected(value).is_some()));
        both.compare(&values);
    }
}

#[test]
fn damaged_values_are_rows_only_where_the_reference_reads_them() {
    for seed in 0..cases(300) {
        let mut random = Random::new(seed);
        let schema = object_schema(&mut random, 3);
        let both = Both::new(parse(&schema).expect("schema"));
        let values: Vec<Vec<u8>> = (0..60)
            .map(|_| {
                let value = serde_json::to_vec(&value_of(&mut random, both.schema.root())).expect("text");
                random.damage(value, b"\"\\{}[]:,0e.-+ nu\n")
            })
            .collect();
        both.compare(&values);
    }
}

fn one(schema: &Json, text: &str) -> Result<Cell, Fault> {
    let both = Both::new(parse(schema).expect("schema"));
    let mut columns = Columns::new(&both.layout);
    both.decoder.push(text.as_bytes(), &mut columns, 1 << 20).map_err(|bad| bad.fault)?;
    match both.follower.rows(columns).remove(0) {
        Cell::Struct(mut row) => Ok(row.remove("value").unwrap_or(Cell::Null)),
        cell => unreachable!("a row is a struct: {cell:?}"),
    }
}

#[test]
fn numbers_are_taken_exactly_or_not_at_all() {
    let integer = json!({"type": "integer"});
    for (text, wanted) in [
        ("9223372036854775807", Ok(i64::MAX)),
        ("-9223372036854775808", Ok(i64::MIN)),
        ("9223372036854775808", Err(Fault::Range)),
        ("1e3", Ok(1000)),
        ("1.50", Err(Fault::Type("an integer"))),
        ("1e300", Err(Fault::Range)),
        ("01", Err(Fault::Long(1))),
        ("\"1\"", Err(Fault::Type("an integer"))),
        ("[1", Err(Fault::Short)),
    ] {
        assert_eq!(one(&integer, text), wanted.map(|value| Cell::Int(value.into())), "{text}");
    }
    assert_eq!(one(&json!({"type": "number"}), "1e999"), Err(Fault::Range));
    assert_eq!(one(&json!({"type": "number"}), "-0.0"), Ok(float(-0.0)));
}

#[test]
fn strings_are_strict() {
    let string = json!({"type": "string"});
    assert_eq!(one(&string, r#" "\ud83e\udd80\u00e9\/" "#), Ok(Cell::Text("🦀é/".to_owned())));
    for (text, fault) in [
        (r#""\ud83e""#, Fault::Utf8),
        (r#""\udd80""#, Fault::Utf8),
        (r#""\ud83e\u0041""#, Fault::Utf8),
        (r#""\x""#, Fault::Syntax),
        ("\"\n\"", Fault::Syntax),
        ("\"a", Fault::Short),
        ("\"a\" \"b\"", Fault::Long(3)),
        ("", Fault::Short),
        ("'a'", Fault::Syntax),
    ] {
        assert_eq!(one(&string, text), Err(fault), "{text}");
    }
}

#[test]
fn a_member_that_comes_twice_is_no_row_and_deep_nesting_none_either() {
    let object = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    assert_eq!(one(&object, r#"{"a":1,"a":2}"#), Err(Fault::Key));
    let map = json!({"type": "object", "additionalProperties": {"type": "integer"}});
    assert_eq!(one(&map, r#"{"a":1,"b":1,"a":2}"#), Err(Fault::Key));
    assert_eq!(one(&json!({}), &"[".repeat(100_000)), Err(Fault::Deep));
}

#[test]
fn schemas_are_read_as_far_as_columns_need_them() {
    let schema = json!({
    "$defs": {"money": {"type": "object", "properties": {"cents": {"type": "integer"}}}},
    "allOf": [
        {"properties": {"price": {"$ref": "#/$defs/money"},
            "tax": {"anyOf": [{"$ref": "#/$defs/money"}, {"type": "null"}]}}},
        {"properties": {"mixed": {"type": ["string", "integer"]},
            "kind": {"enum": ["a", "b", null]}, "no": {"type": "null"}}}
    ]});
    let money = || object_of(vec![("cents", Node::Integer)]);
    let members = [("price", money()), ("tax", money()), ("kind", Node::Text), ("mixed", Node::Any)];
    let members: BTreeMap<String, Node> = members.into_iter().map(|(name, node)| (name.to_owned(), node)).collect();
    let Node::Object(Members { named: found, .. }) = parse(&schema).expect("schema").root().clone() else {
        unreachable!("an object")
    };
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), members);
    let other =
        r##"{"type": "array", "items": {"$ref": "#/definitions/x"}, "definitions": {"x": {"type": "boolean"}}}"##;
    let named = Schema::parse(r#"{"$ref": "other.json"}"#, &[("other.json", other)]).expect("schema");
    assert_eq!(*named.root(), Node::List(Box::new(Node::Boolean)));
    assert!(matches!(Schema::parse(r#"{"$ref": "https://example.com/x"}"#, &[]), Err(Refused::Schema(_))));
    let recursive = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});
    assert_eq!(parse(&recursive), Err(Refused::Recursive { name: "#".to_owned() }));
    // Each definition names the one before it twice.
    let doubled: Map<String, Json> = (1..40)
        .map(|at| {
            let inner = json!({"$ref": format!("#/d/{}", at - 1)});
            (at.to_string(), json!({"properties": {"a": inner, "b": inner}}))
        })
        .chain([("0".to_owned(), json!({"type": "integer"}))])
        .collect();
    assert!(matches!(
        parse(&json!({"$ref": "#/d/39", "d": doubled})),
        Err(Refused::Columns { .. } | Refused::Depth { .. })
    ));
    assert!(parse(&json!([])).is_err() && parse(&json!({"type": "strange"})).is_err());
}

/// Every value that was looked at is a row, and so is each later one whose members have the same types.
#[test]
fn columns_found_in_values_keep_all_that_the_values_say() {
    for seed in 0..cases(300) {
        let mut random = Random::new(seed);
        let values: Vec<Json> = (0..20).map(|_| any_json(&mut random, 3)).filter(Json::is_object).collect();
        let mut inference = infer::Inference::default();
        for value in &values {
            inference.observe(value.to_string().as_bytes());
        }
        let Some(schema) = inference.schema() else {
            assert!(values.is_empty());
            continue;
        };
        assert_eq!(Schema::parse(&schema.to_text(), &[]), Ok(schema.clone()), "kept as text");
        let both = Both::new(schema);
        both.compare(&values.iter().map(|value| value.to_string().into_bytes()).collect::<Vec<_>>());
    }
}

fn found(schema: Option<&Schema>, values: &[&str]) -> Schema {
    let mut inference = schema.map_or_else(infer::Inference::default, infer::Inference::of);
    values.iter().for_each(|value| inference.observe(value.as_bytes()));
    inference.schema().expect("an object")
}

/// `name:word` of the columns, in the order of the names.
fn words(schema: &Schema) -> Vec<String> {
    let Shape::Struct(members) = schema.shape().expect("shape") else { unreachable!("a struct") };
    members.iter().map(|member| format!("{}:{}", member.name, member.shape.word())).collect()
}

#[test]
fn columns_are_found_once_and_more_come_later() {
    let first = found(
        None,
        &[
            r#"{"b":true,"n":1,"x":1,"t":"2026-01-01","mixed":1,"null":null,"none":[],"empty":{}}"#,
            r#"{"x":0.5,"mixed":"a","list":[1],"in":{"a":1}}"#,
            "7",
            "no json",
        ],
    );
    let kept = ["b:boolean", "in:struct", "list:list", "mixed:string", "n:long", "t:string", "x:double"];
    assert_eq!(words(&first)[..7], kept);
    assert_eq!(words(&first)[7..], ["rest:string"], "what says nothing is no column yet");
    // A later turn begins with what is kept: types stay, members come, also inside of objects.
    let text = Schema::parse(&first.to_text(), &[]).expect("own text");
    let later = found(Some(&text), &[r#"{"n":0.5,"b":"x","list":"x","in":{"z":1},"none":[1.5],"x":1,"in2":1}"#]);
    let names: Vec<_> = words(&later);
    let wanted = [
        "b:boolean",
        "in:struct",
        "in2:long",
        "list:list",
        "mixed:string",
        "n:long",
        "none:list",
        "t:string",
        "x:double",
    ];
    assert_eq!(names[..9], wanted);
    assert_eq!(found(Some(&later), &["{}"]), later, "nothing shrinks");
    let Node::Object(root) = later.root() else { unreachable!("an object") };
    let inner = root.named.iter().find(|(name, _)| name == "in").map(|(_, node)| node.clone());
    let Some(Node::Object(inner)) = inner else { unreachable!("an object") };
    assert_eq!(inner.named, [("a".to_owned(), Node::Integer), ("z".to_owned(), Node::Integer)]);
}

#[test]
fn what_is_found_in_values_is_bounded() {
    let wide = |prefix: &str, count: usize| {
        let members: Vec<String> = (0..count).map(|n| format!(r#""{prefix}{n}":[{{"a":1}}]"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    let mut schema = found(None, &[&wide("m", 400)]);
    for turn in 0..4 {
        schema = found(Some(&schema), &[&wide(&format!("t{turn}"), 400)]);
        let columns = schema.shape().expect("a table can have them").columns();
        assert!(columns <= infer::COLUMNS_FOUND_MAX + 1, "{columns} columns");
    }
    let deep = found(None, &[r#"{"a":{"b":{"c":{"d":{"e":{"f":1}}}}}}"#]).to_text();
    assert!(deep.contains(r#""d":{}"#), "deeper is text: {deep}");
    let long = format!(r#"{{"{}":1,"":1,"ok":1}}"#, "n".repeat(256));
    assert_eq!(words(&found(None, &[&long])), ["ok:long", "rest:string"]);
}
