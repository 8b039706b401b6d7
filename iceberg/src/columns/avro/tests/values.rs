//! Single values: each mapped type at its bounds, each refusal, and what hostile values are charged.

use super::generate::{long, sized};
use super::*;

/// A table of `schema`, and each value's row or fault.
fn rows(schema: &Json, values: &[Vec<u8>], limit: usize) -> Vec<Result<Cell, Fault>> {
    let ours = Schema::parse(&schema.to_string(), &[]).expect("schema");
    let mut follower = Follower::new();
    follower.follow_avro(&ours, OnConflict::Report);
    let layout = follower.layout();
    let decoder = follower.decoder(&ours, &layout);
    let mut columns = Columns::new(&layout);
    let results: Vec<_> = values.iter().map(|value| decoder.push(value, &mut columns, limit)).collect();
    let mut rows = follower.rows(columns).into_iter();
    let results = results.into_iter().map(|result| match result {
        Ok(_) => Ok(rows.next().expect("a row")),
        Err(bad) => Err(bad.fault),
    });
    results.collect()
}

/// One column of `kind`.
fn one(kind: &Json, value: Vec<u8>) -> Result<Cell, Fault> {
    match rows(kind, &[value], 1 << 20).remove(0)? {
        Cell::Struct(mut row) => Ok(row.remove("value").unwrap_or(Cell::Null)),
        cell => unreachable!("a row is a struct: {cell:?}"),
    }
}

fn number(value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    long(value, &mut out);
    out
}

fn text(value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    sized(value.as_bytes(), &mut out);
    out
}

fn logical(base: &str, word: &str) -> Json {
    json!({"type": base, "logicalType": word})
}

fn int(value: i64) -> Result<Cell, Fault> {
    Ok(Cell::Int(value.into()))
}

#[test]
fn numbers_are_read_to_their_bounds() {
    for value in [i64::MIN, i64::MAX, 0, -1] {
        assert_eq!(one(&json!("long"), number(value)), int(value));
    }
    for value in [i32::MIN, i32::MAX] {
        assert_eq!(one(&json!("int"), number(value.into())), int(value.into()));
    }
    assert_eq!(one(&json!("int"), number(i64::from(i32::MAX) + 1)), Err(Fault::Int));
    assert_eq!(one(&json!("long"), vec![0x80, 0x80, 0]), int(0), "more bytes than needed");
    assert_eq!(one(&json!("long"), [vec![0xff; 9], vec![2]].concat()), Err(Fault::Varint));
    assert_eq!(one(&json!("long"), vec![0xff; 11]), Err(Fault::Varint));
    assert_eq!(one(&json!("long"), vec![0xff; 9]), Err(Fault::Short));
    assert_eq!(one(&json!("float"), f32::NEG_INFINITY.to_le_bytes().to_vec()), Ok(float(f64::NEG_INFINITY)));
    assert_eq!(one(&json!("boolean"), vec![2]), Err(Fault::Boolean(2)));
}

#[test]
fn dates_and_times_outside_of_what_engines_show_are_no_rows() {
    let date = logical("int", "date");
    assert_eq!(one(&date, number(-719_162)), int(-719_162));
    assert_eq!(one(&date, number(-719_163)), Err(Fault::Time));
    assert_eq!(one(&date, number(2_932_896)), int(2_932_896));
    assert_eq!(one(&date, number(2_932_897)), Err(Fault::Time));
    let millis = logical("long", "timestamp-millis");
    assert_eq!(one(&millis, number(253_402_300_799_999)), int(253_402_300_799_999_000));
    assert_eq!(one(&millis, number(253_402_300_800_000)), Err(Fault::Time));
    assert_eq!(one(&millis, number(-62_135_596_800_000)), int(-62_135_596_800_000_000));
    assert_eq!(one(&millis, number(-62_135_596_800_001)), Err(Fault::Time));
    assert_eq!(one(&millis, number(i64::MIN)), Err(Fault::Time));
    let micros = logical("long", "local-timestamp-micros");
    assert_eq!(one(&micros, number(253_402_300_799_999_999)), int(253_402_300_799_999_999));
    assert_eq!(one(&micros, number(253_402_300_800_000_000)), Err(Fault::Time));
    let time = logical("int", "time-millis");
    assert_eq!(one(&time, number(86_399_999)), int(86_399_999_000));
    assert_eq!(one(&time, number(86_400_000)), Err(Fault::Time));
    assert_eq!(one(&logical("long", "time-micros"), number(-1)), Err(Fault::Time));
}

#[test]
fn nanoseconds_are_kept_in_format_3_and_cut_towards_the_past_in_format_2() {
    let kind = logical("long", "timestamp-nanos");
    for value in [i64::MIN, i64::MAX, -1, 1_999] {
        assert_eq!(one(&kind, number(value)), int(value));
    }
    let ours = Arc::new(Schema::parse(&kind.to_string(), &[]).expect("schema"));
    let follower = Follower::new();
    let table = Table {
        schema: &follower.schema,
        last_column_id: 0,
        map: &follower.map,
        reserved: &[],
        pinned: &[],
        taken: &[],
    };
    let plan = plan(&table, &ours.shape(Nanos::Cut).expect("shape"), OnConflict::Report).expect("plan");
    let layout = Layout::new(&plan.schema, &[]).expect("layout");
    let decoder = Decoder::new(&ours, &plan, &layout).expect("decoder");
    let mut columns = Columns::new(&layout);
    for value in [-1, 1_999, i64::MIN] {
        decoder.push(&number(value), &mut columns, 1000).expect("a row");
    }
    let (_, array) = columns.finish().expect("columns").remove(0);
    let cut: Vec<Cell> = (0..3).map(|at| cell(&array, at)).collect();
    assert_eq!(cut, [Cell::Int(-1), Cell::Int(1), Cell::Int(-9_223_372_036_854_776)]);
}

#[test]
fn uuids_are_read_from_text_and_from_sixteen_bytes() {
    let id = uuid::Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    let bytes = Ok(Cell::Bytes(id.as_bytes().to_vec()));
    assert_eq!(one(&logical("string", "uuid"), text(&id.to_string())), bytes);
    assert_eq!(one(&logical("string", "uuid"), text("no")), Err(Fault::Uuid));
    let fixed = json!({"type": "fixed", "name": "id", "size": 16, "logicalType": "uuid"});
    assert_eq!(one(&fixed, id.as_bytes().to_vec()), bytes);
}

#[test]
fn decimals_beyond_38_digits_are_text() {
    let kind = |precision| json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": 2});
    let mut value = Vec::new();
    sized(&(-12_345_i64).to_be_bytes(), &mut value);
    assert_eq!(one(&kind(38), value.clone()), int(-12_345));
    assert_eq!(one(&kind(39), value.clone()), Ok(Cell::Text("-123.45".to_owned())));
    assert_eq!(one(&kind(1001), value.clone()), Ok(Cell::Bytes(value[1..].to_vec())));
    assert_eq!(one(&kind(4), value), Err(Fault::Decimal));
}

#[test]
fn a_map_with_a_key_twice_is_no_row() {
    let kind = json!({"type": "map", "values": "int"});
    for count in [2, 40] {
        let mut value = number(count);
        for at in 0..count {
            sized(format!("k{}", at.max(1)).as_bytes(), &mut value);
            long(at, &mut value);
        }
        value.push(0);
        assert_eq!(one(&kind, value), Err(Fault::Key));
    }
}

#[test]
fn what_is_not_exactly_a_value_is_no_row() {
    let list = json!({"type": "array", "items": "int"});
    assert_eq!(one(&list, vec![2, 2, 0]), Ok(Cell::List(vec![Cell::Int(1)])));
    assert_eq!(one(&list, vec![2, 2, 0, 0]), Err(Fault::Long(1)));
    assert_eq!(one(&list, vec![2, 2]), Err(Fault::Short));
    assert_eq!(one(&list, vec![1, 2, 2, 0]), Ok(Cell::List(vec![Cell::Int(1)])), "a block that says its size");
    assert_eq!(one(&list, vec![1, 4, 2, 0]), Err(Fault::Block));
    assert_eq!(one(&json!(["null", "int"]), vec![4]), Err(Fault::Branch(2)));
    assert_eq!(one(&json!(["null", "int"]), vec![1]), Err(Fault::Branch(-1)));
    assert_eq!(one(&json!({"type": "enum", "name": "e", "symbols": ["A"]}), vec![2]), Err(Fault::Symbol(1)));
    assert_eq!(one(&json!("string"), vec![2, 0xff]), Err(Fault::Utf8));
    assert_eq!(one(&json!("bytes"), number(-1)), Err(Fault::Length));
    assert_eq!(one(&json!("bytes"), number(i64::MAX)), Err(Fault::Short));
}

#[test]
fn counts_are_charged_before_items_are_read() {
    let list = json!({"type": "array", "items": "int"});
    for count in [i64::MAX, 1 << 40, 1 << 20] {
        assert_eq!(one(&list, number(count)), Err(Fault::Large(1 << 20)));
    }
    assert_eq!(one(&list, number(i64::MIN)), Err(Fault::Short), "it lacks a size");
    assert_eq!(one(&list, [number(i64::MIN), vec![0]].concat()), Err(Fault::Length));
    let nothing = json!({"type": "record", "name": "r", "fields": [
        {"name": "n", "type": {"type": "array", "items": "null"}}, {"name": "i", "type": "int"}]});
    let mut value = number(i64::MAX);
    value.extend([0, 2]);
    let row = Cell::Struct(BTreeMap::from([("i".to_owned(), Cell::Int(1))]));
    assert_eq!(rows(&nothing, &[value], 1 << 20), [Ok(row)], "items without bytes or columns cost nothing");
}

#[test]
fn nulls_that_a_value_spreads_over_columns_are_charged() {
    let fields: Vec<Json> = (0..900).map(|at| json!({"name": format!("f{at}"), "type": ["null", "double"]})).collect();
    let wide = json!({"type": "record", "name": "wide", "fields": fields});
    let narrow = json!({"type": "record", "name": "wide", "fields": []});
    let table = |item: &Json| json!({"type": "array", "items": item}).to_string();
    let wide = Schema::parse(&table(&wide), &[]).expect("schema");
    let one_more = json!([{"name": "f0", "type": ["null", "double"]}]);
    let mut with_one = narrow.clone();
    with_one["fields"] = one_more;
    let thin = Schema::parse(&table(&with_one), &[]).expect("schema");
    let mut follower = Follower::new();
    follower.follow_avro(&wide, OnConflict::Report);
    let layout = follower.layout();
    let decoder = follower.decoder(&thin, &layout);
    let mut columns = Columns::new(&layout);
    let value = [number(10_000), vec![0; 10_000], vec![0]].concat();
    let fault = decoder.push(&value, &mut columns, 64 << 20).expect_err("72 MB").fault;
    assert_eq!(fault, Fault::Large(64 << 20));
    let charged = decoder.push(&value, &mut columns, 128 << 20).expect("a row");
    assert!(charged > 72_000_000, "{charged}");
}

/// A union at the root is columns for its branches; a record that may be null is a record.
#[test]
fn unions_at_the_root_are_columns() {
    let a = json!({"type": "record", "name": "com.acme.A", "fields": [{"name": "x", "type": "int"}]});
    let b = json!({"type": "record", "name": "com.acme.B", "fields": [{"name": "y", "type": "string"}]});
    let row = |name: &str, cell| Cell::Struct(BTreeMap::from([(name.to_owned(), cell)]));
    let values = [vec![0, 2], vec![2, 2, b'q'], vec![4]];
    let union = rows(&json!([a, b, "null"]), &values, 1000);
    let text = row("y", Cell::Text("q".to_owned()));
    assert_eq!(union, [Ok(row("a", row("x", Cell::Int(1)))), Ok(row("b", text)), Ok(Cell::Struct(BTreeMap::new()))]);
    let optional = rows(&json!(["null", a]), &[vec![0], vec![2, 2]], 1000);
    assert_eq!(optional, [Ok(Cell::Struct(BTreeMap::new())), Ok(row("x", Cell::Int(1)))]);
}

#[test]
fn schemas_that_no_table_can_have_are_refused_by_name() {
    let parse = |text: &Json| Schema::parse(&text.to_string(), &[]);
    let node = json!({"type": "record", "name": "a.Node", "fields": [
        {"name": "next", "type": ["null", {"type": "array", "items": "Node"}]}]});
    assert_eq!(parse(&node).map(|_| ()), Err(Refused::Recursive { name: "a.Node".to_owned() }));
    let fields: Vec<Json> = (0..2000).map(|at| json!({"name": format!("f{at}"), "type": "int"})).collect();
    let wide = parse(&json!({"type": "record", "name": "w", "fields": fields})).expect("a schema");
    assert!(matches!(wide.shape(Nanos::Cut), Err(Refused::Columns { .. })));
    let nested = |levels: usize| (0..levels).fold(json!("int"), |inner, _| json!({"type": "array", "items": inner}));
    assert!(parse(&nested(16)).expect("a schema").shape(Nanos::Cut).is_ok());
    assert_eq!(parse(&nested(17)).expect("a schema").shape(Nanos::Cut), Err(Refused::Depth { max: 16 }));
    assert!(parse(&nested(100)).is_err());
    assert!(Schema::parse(&"[".repeat(100_000), &[]).is_err());
    // Each record has the one before it twice: 2^40 fields, of 40 records.
    let doubled: Vec<Json> = (0..40)
        .map(|at| {
            let inner = if at == 0 { json!("null") } else { json!(format!("r{}", at - 1)) };
            json!({"name": format!("g{at}"), "type": {"type": "record", "name": format!("r{at}"), "fields": [
            {"name": "a", "type": inner}, {"name": "b", "type": inner}]}})
        })
        .collect();
    let doubled = parse(&json!({"type": "record", "name": "d", "fields": doubled})).expect("a schema");
    assert_eq!(doubled.shape(Nanos::Cut), Err(Refused::Empty));
    for bad in [
        json!({"type": "record", "name": "r"}),
        json!("other"),
        json!([["int"]]),
        json!(7),
        json!({"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}),
        json!({"type": "record", "name": "a b", "fields": []}),
        json!({"type": "record", "name": "r", "aliases": "q", "fields": [{"name": "a", "type": "int"}]}),
        json!({"type": "record", "name": "r", "fields": [{"name": "a", "type": "int", "aliases": ["b", 7]}]}),
    ] {
        assert!(matches!(parse(&bad), Err(Refused::Schema(_))), "{bad}");
    }
}

#[test]
fn names_are_found_in_their_namespace_and_in_references() {
    let money = r#"{"type":"record","name":"Money","namespace":"com.acme","fields":[{"name":"cents","type":"long"}]}"#;
    let order = r#"{"type":"record","name":"Order","namespace":"com.acme","fields":[
        {"name":"price","type":"Money"},{"name":"tax","type":["null","com.acme.Money"]}]}"#;
    let schema = Schema::parse(order, &[money]).expect("schema");
    assert_eq!(schema.shape(Nanos::Cut).expect("shape").columns(), 4);
    assert!(Schema::parse(order, &[]).is_err());
    assert!(Schema::parse("string", &[]).is_ok());
    assert!(Schema::parse(r#"{"type":"string"}"#, &[]).is_ok());
}

#[test]
fn a_row_can_be_taken_back() {
    let mut generator = Generator::new(7);
    for seed in 0..50 {
        let mut other = Generator::new(seed);
        let schema = other.schema();
        let Some(both) = Both::new(schema.clone()) else { continue };
        let values: Vec<_> = (0..10).map(|_| other.value(&schema)).collect();
        let (mut kept, mut columns) = (Columns::new(&both.layout), Columns::new(&both.layout));
        for value in &values {
            both.decoder.push(value, &mut columns, 1 << 20).expect("a row");
            if generator.below(2) == 0 {
                columns.truncate(columns.rows() - 1);
            } else {
                both.decoder.push(value, &mut kept, 1 << 20).expect("a row");
            }
            if generator.below(4) == 0 {
                columns.push_null();
                kept.push_null();
            }
        }
        assert_eq!(both.follower.rows(columns), both.follower.rows(kept));
    }
}
