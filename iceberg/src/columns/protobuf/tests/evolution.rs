//! Values of several versions of a message in the same columns: a field is its number, not its name.

use super::*;
use crate::columns::avro;
use crate::columns::avro::shape::Nanos;
use crate::columns::evolve::Change;

fn schema(fields: &str) -> Schema {
    first(&format!("syntax = \"proto3\"; package v1; message Order {{ {fields} }} message Line {{ int32 n = 1; }}"))
}

fn names(follower: &Follower) -> Vec<String> {
    follower.schema.as_struct().fields().iter().map(|field| field.name.clone()).collect()
}

fn row(cells: &[(&str, Cell)]) -> Cell {
    Cell::Struct(cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect())
}

#[test]
fn values_of_all_versions_share_the_columns() {
    let old = schema("int32 id = 1; string customer = 2; repeated Line lines = 3;");
    // Renamed, grown, moved, dropped, added; the old name is another field's now.
    let new = schema("bool paid = 4; string buyer = 2; int64 id = 1; optional string customer = 5;");
    let mut follower = Follower::new();
    follower.follow_message(&old);
    let changes = follower.follow(&new.shape().expect("shape"), OnConflict::Report).changes;
    assert!(matches!(&changes[..], [Change::Promote { .. }, Change::Add { .. }, Change::Add { .. }]), "{changes:?}");
    assert_eq!(names(&follower), ["id", "customer", "lines", "paid", "customer_1"]);
    follower.follow_message(&old);
    let layout = follower.layout();
    let (of_old, of_new) = (follower.message_decoder(&old, &layout), follower.message_decoder(&new, &layout));
    let mut columns = Columns::new(&layout);
    of_old.push(&[8, 1, 0x12, 1, b'a', 0x1a, 2, 8, 5], &mut columns, 1000).expect("a row");
    of_new.push(&[8, 2, 0x12, 1, b'b', 0x20, 1, 0x2a, 1, b'c'], &mut columns, 1000).expect("a row");
    of_old.push(&[8], &mut columns, 1000).expect_err("no value");
    let text = |text: &str| Cell::Text(text.to_owned());
    let lines = Cell::List(vec![row(&[("n", Cell::Int(5))])]);
    let wanted = [
        row(&[("id", Cell::Int(1)), ("customer", text("a")), ("lines", lines)]),
        row(&[("id", Cell::Int(2)), ("customer", text("b")), ("paid", Cell::Bool(true)), ("customer_1", text("c"))]),
    ];
    assert_eq!(follower.rows(columns), wanted);
}

#[test]
fn a_number_with_another_type_is_a_conflict() {
    let mut follower = Follower::new();
    follower.follow_message(&schema("int32 id = 1; uint32 small = 2;"));
    for changed in ["string id = 1;", "repeated int32 id = 1;", "uint64 small = 2;"] {
        let plan = follower.plan(&schema(changed).shape().expect("shape"), OnConflict::Report).expect("plan");
        assert_eq!(plan.conflicts.len(), 1, "{changed}");
    }
}

/// Field 1 of two messages is not one thing, of a message in another package it is.
#[test]
fn messages_in_one_table_do_not_share_numbers() {
    let message = |package: &str, rest: &str| first(&format!("syntax = \"proto3\"; package {package}; message {rest}"));
    let mut follower = Follower::new();
    follower.follow_message(&message("a", "Order { string customer = 1; }"));
    follower.follow_message(&message("a", "Payment { string reference = 1; int64 id = 2; }"));
    follower.follow_message(&message("b", "Order { string client = 1; int64 id = 2; }"));
    assert_eq!(names(&follower), ["customer", "reference", "id", "id_1"]);
}

#[test]
fn formats_share_columns_by_name_whichever_comes_first() {
    let text =
        r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"at","type":"string"}]}"#;
    let avro = avro::Schema::parse(text, &[]).expect("schema").shape(Nanos::Cut).expect("shape");
    let mut follower = Follower::new();
    follower.follow(&avro, OnConflict::Report);
    follower.follow_message(&schema("int64 id = 1; string note = 2;"));
    assert_eq!(names(&follower), ["id", "at", "note"]);
    let renamed = schema("int64 number = 1; string note = 2;");
    follower.follow_message(&renamed);
    let again = follower.plan(&avro, OnConflict::Report).expect("plan");
    assert_eq!((again.changes.len(), again.map == follower.map), (0, true), "both find their columns");
    assert_eq!(names(&follower), ["id", "at", "note"]);
    let mut follower = Follower::new();
    follower.follow_message(&schema("int64 id = 1; string note = 2;"));
    follower.follow(&avro, OnConflict::Report);
    follower.follow_message(&renamed);
    assert_eq!(names(&follower), ["id", "note", "at"]);
}

/// A oneof's field whose column the owner dropped still clears the others.
#[test]
fn a_field_without_a_column_is_read_over() {
    let schema = schema("oneof o { int32 a = 1; int32 b = 2; } int32 c = 3; Line d = 4;");
    let mut follower = Follower::new();
    follower.follow_message(&schema);
    let kept = follower.schema.as_struct().fields().iter().filter(|field| field.name != "b" && field.name != "d");
    follower.schema = iceberg::spec::Schema::builder().with_fields(kept.cloned()).build().expect("a schema");
    let layout = follower.layout();
    let decoder = follower.message_decoder(&schema, &layout);
    let mut columns = Columns::new(&layout);
    decoder.push(&[8, 5, 0x10, 6, 0x18, 7, 0x22, 1, 0xff], &mut columns, 1000).expect("a row");
    assert_eq!(follower.rows(columns), [row(&[("c", Cell::Int(7))])]);
}
