//! Values of several versions of a schema in the same columns: each row says what its value said, under today's names.

use super::*;
use crate::columns::evolve::Change;

fn schema(fields: &Json) -> Schema {
    Schema::parse(&json!({"type": "record", "name": "R", "fields": fields}).to_string(), &[]).expect("schema")
}

fn row(cells: &[(&str, Cell)]) -> Cell {
    Cell::Struct(cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect())
}

#[test]
fn values_of_all_versions_share_the_columns() {
    let inner = |fields: Json| json!({"type": "array", "items": {"type": "record", "name": "I", "fields": fields}});
    let first = schema(&json!([
        {"name": "id", "type": "int"}, {"name": "old", "type": "string"}, {"name": "ratio", "type": "float"},
        {"name": "lines", "type": inner(json!([{"name": "sku", "type": "string"}, {"name": "n", "type": "int"}]))}]));
    // Reordered, dropped, renamed, promoted, added, in nested records too.
    let second = schema(&json!([
        {"name": "lines", "type": inner(json!([
            {"name": "count", "aliases": ["n"], "type": "long"}, {"name": "tag", "type": ["null", "string"]}]))},
        {"name": "new", "aliases": ["old"], "type": ["null", "string"]}, {"name": "id", "type": "long"},
        {"name": "more", "type": "boolean"}]));
    let mut follower = Follower::new();
    follower.follow_avro(&first, OnConflict::Report);
    let changes = follower.follow_avro(&second, OnConflict::Report).changes;
    let words: Vec<&str> = changes
        .iter()
        .map(|change| match change {
            Change::Add { .. } => "add",
            Change::Rename { .. } => "rename",
            Change::Promote { .. } => "promote",
        })
        .collect();
    assert_eq!(words, ["rename", "promote", "add", "rename", "promote", "add"], "{changes:?}");
    let layout = follower.layout();
    let mut columns = Columns::new(&layout);
    let (old, new) = (follower.decoder(&first, &layout), follower.decoder(&second, &layout));
    // id 1, old "a", ratio 0.5, lines [{sku "s", n 2}]
    let value = [&[2, 2, b'a'][..], &0.5_f32.to_le_bytes(), &[2, 2, b's', 4, 0]].concat();
    old.push(&value, &mut columns, 1000).expect("a row");
    // lines [{count 3, tag null}], new "b", id 2, more true
    new.push(&[2, 6, 0, 0, 2, 2, b'b', 4, 1], &mut columns, 1000).expect("a row");
    old.push(&value[1..], &mut columns, 1000).expect_err("no value");
    old.push(&value, &mut columns, 1000).expect("a row");
    let text = |text: &str| Cell::Text(text.to_owned());
    let int = Cell::Int;
    let line = row(&[("sku", text("s")), ("count", int(2))]);
    let first = row(&[("id", int(1)), ("new", text("a")), ("ratio", float(0.5)), ("lines", Cell::List(vec![line]))]);
    let line = row(&[("count", int(3))]);
    let second =
        row(&[("id", int(2)), ("new", text("b")), ("lines", Cell::List(vec![line])), ("more", Cell::Bool(true))]);
    assert_eq!(follower.rows(columns), [first.clone(), second, first]);
}

#[test]
fn a_union_takes_values_of_one_of_its_types() {
    let union = schema(&json!([{"name": "v", "type": ["null", "int", "string"]}]));
    let text = schema(&json!([{"name": "v", "type": "string"}]));
    let more = schema(&json!([{"name": "v", "type": ["null", "boolean"]}]));
    let mut follower = Follower::new();
    for schema in [&union, &text, &more] {
        follower.follow_avro(schema, OnConflict::Report);
    }
    let layout = follower.layout();
    let mut columns = Columns::new(&layout);
    follower.decoder(&union, &layout).push(&[2, 2], &mut columns, 1000).expect("a row");
    follower.decoder(&text, &layout).push(&[2, b'x'], &mut columns, 1000).expect("a row");
    follower.decoder(&more, &layout).push(&[2, 1], &mut columns, 1000).expect("a row");
    follower.decoder(&more, &layout).push(&[0], &mut columns, 1000).expect("a row");
    let of = |name: &str, cell| row(&[("v", row(&[(name, cell)]))]);
    let text = of("string", Cell::Text("x".to_owned()));
    assert_eq!(follower.rows(columns), [of("int", Cell::Int(1)), text, of("boolean", Cell::Bool(true)), row(&[])]);
}

#[test]
fn a_logical_type_that_comes_later_leaves_the_column_as_it_is() {
    let raw = schema(&json!([{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]));
    let typed = schema(&json!([{"name": "a", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "b", "type": {"type": "string", "logicalType": "uuid"}}]));
    let mut follower = Follower::new();
    follower.follow_avro(&raw, OnConflict::Report);
    assert_eq!(follower.follow_avro(&typed, OnConflict::Report).changes, []);
    let layout = follower.layout();
    let mut columns = Columns::new(&layout);
    let id = "00112233-4455-6677-8899-aabbccddeeff";
    let value = [&[2, 72][..], id.as_bytes()].concat();
    follower.decoder(&typed, &layout).push(&value, &mut columns, 1000).expect("a row");
    assert_eq!(follower.rows(columns), [row(&[("a", Cell::Int(1)), ("b", Cell::Text(id.to_owned()))])]);
}

/// Random schemas, one after the other into one table: what each value says is in its row, under some name.
#[test]
fn any_two_schemas_can_share_a_table() {
    for seed in 0..cases(150) {
        let mut generator = Generator::new(seed);
        let schemas: Vec<Json> = (0..3).map(|_| generator.schema()).collect();
        let parsed: Vec<Schema> =
            schemas.iter().map(|text| Schema::parse(&text.to_string(), &[]).expect("schema")).collect();
        let mut follower = Follower::new();
        let full: Vec<usize> = (0..3).filter(|at| !is_empty(&schemas[*at])).collect();
        for at in &full {
            follower.follow_avro(&parsed[*at], OnConflict::Column);
        }
        let layout = follower.layout();
        let mut columns = Columns::new(&layout);
        let mut wanted = Vec::new();
        for at in full.iter().cycle().take(full.len() * 3) {
            let value = generator.value(&schemas[*at]);
            follower.decoder(&parsed[*at], &layout).push(&value, &mut columns, 1 << 20).expect("a row");
            let theirs = apache_avro::Schema::parse_str(&schemas[*at].to_string()).expect("schema");
            wanted.push(leaves(&expected_row(&schemas[*at], &reference(&theirs, &value).expect("a value"))));
        }
        let rows: Vec<_> = follower.rows(columns).iter().map(leaves).collect();
        assert_eq!(rows, wanted);
    }
}

/// Random schemas whose members have the same names and other types: each value is a row, with as many parts.
#[test]
fn schemas_that_contradict_each_other_share_a_table_too() {
    for seed in 0..cases(150) {
        let mut generator = Generator::new(seed);
        let schemas: Vec<Json> = (0..3)
            .map(|_| {
                generator.forget_names();
                generator.schema()
            })
            .filter(|schema| !is_empty(schema))
            .collect();
        let mut follower = Follower::new();
        let parsed: Vec<Schema> =
            schemas.iter().map(|text| Schema::parse(&text.to_string(), &[]).expect("schema")).collect();
        for schema in &parsed {
            follower.follow_avro(schema, OnConflict::Column);
        }
        let layout = follower.layout();
        let mut columns = Columns::new(&layout);
        let mut wanted = Vec::new();
        for at in (0..schemas.len()).cycle().take(schemas.len() * 3) {
            let value = generator.value(&schemas[at]);
            match follower.decoder(&parsed[at], &layout).push(&value, &mut columns, 1 << 20) {
                Ok(_) => {
                    let theirs = apache_avro::Schema::parse_str(&schemas[at].to_string()).expect("schema");
                    wanted
                        .push(leaves(&expected_row(&schemas[at], &reference(&theirs, &value).expect("a value"))).len());
                }
                // A timestamp beyond the nanoseconds of its column, a long that no double equals.
                Err(bad) => assert!(matches!(bad.fault, Fault::Time | Fault::Range), "{bad}"),
            }
        }
        let rows: Vec<_> = follower.rows(columns).iter().map(|row| leaves(row).len()).collect();
        assert_eq!(rows, wanted);
    }
}

/// The values in a row without the names of its members, in an order of their own.
fn leaves(cell: &Cell) -> Vec<String> {
    let mut out: Vec<String> = match cell {
        Cell::Struct(members) => members.values().flat_map(leaves).collect(),
        Cell::List(items) => vec![format!("{:?}", items.iter().map(leaves).collect::<Vec<_>>())],
        Cell::Map(items) => vec![format!("{:?}", items.iter().map(|(k, v)| (k, leaves(v))).collect::<Vec<_>>())],
        cell => vec![format!("{cell:?}")],
    };
    out.sort();
    out
}
