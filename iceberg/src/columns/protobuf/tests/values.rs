//! Single values: each mapped type at its bounds, each refusal, and what hostile values are charged.

use super::*;
use crate::columns::protobuf::decode::wire::{Raw, Reader, Wire};

/// A number as a varint.
fn number(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

/// Field `n` with a varint.
fn varint(n: u64, value: u64) -> Vec<u8> {
    [number(n << 3), number(value)].concat()
}

/// Field `n` with bytes.
fn bytes(n: u64, value: &[u8]) -> Vec<u8> {
    [number(n << 3 | 2), number(value.len() as u64), value.to_vec()].concat()
}

const IMPORTS: &str = r#"import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto";
    import "google/protobuf/wrappers.proto"; import "google/protobuf/struct.proto";
    import "google/protobuf/any.proto";"#;

/// Rows of the first message of a file of proto3 with these definitions.
fn rows(text: &str, values: &[Vec<u8>], limit: usize) -> Vec<Result<Cell, Fault>> {
    rows_of(&format!("syntax = \"proto3\"; {IMPORTS} {text}"), values, limit)
}

fn rows_of(text: &str, values: &[Vec<u8>], limit: usize) -> Vec<Result<Cell, Fault>> {
    let ours = first(text);
    let mut follower = Follower::new();
    follower.follow_message(&ours);
    let layout = follower.layout();
    let decoder = follower.message_decoder(&ours, &layout);
    let mut columns = Columns::new(&layout);
    let results: Vec<_> = values.iter().map(|value| decoder.push(value, &mut columns, limit)).collect();
    let mut rows = follower.rows(columns).into_iter();
    results.into_iter().map(|result| result.map(|_| rows.next().expect("a row")).map_err(|bad| bad.fault)).collect()
}

/// The column `v` of a message of that one field.
fn one(kind: &str, value: Vec<u8>) -> Result<Cell, Fault> {
    match rows(&format!("message R {{ {kind} v = 1; }}"), &[value], 1 << 20).remove(0)? {
        Cell::Struct(mut row) => Ok(row.remove("v").unwrap_or(Cell::Null)),
        cell => unreachable!("a row is a struct: {cell:?}"),
    }
}

fn int(value: i128) -> Result<Cell, Fault> {
    Ok(Cell::Int(value))
}

fn text(value: &str) -> Cell {
    Cell::Text(value.to_owned())
}

fn row(cells: &[(&str, Cell)]) -> Cell {
    Cell::Struct(cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect())
}

#[test]
fn numbers_are_read_to_their_bounds() {
    assert_eq!(one("int32", varint(1, u64::MAX)), int(-1));
    assert_eq!(one("int32", varint(1, 1 << 32 | 7)), int(7), "cut as every reader cuts it");
    assert_eq!(one("uint32", varint(1, u64::from(u32::MAX))), int(u32::MAX.into()));
    assert_eq!(one("uint64", varint(1, u64::MAX)), int(u64::MAX.into()));
    assert_eq!(one("sint32", varint(1, u64::from(u32::MAX))), int(i32::MIN.into()));
    assert_eq!(one("sint64", varint(1, u64::MAX)), int(i64::MIN.into()));
    assert_eq!(one("bool", varint(1, 7)), Ok(Cell::Bool(true)));
    assert_eq!(one("fixed32", [vec![0x0d], vec![0xff; 4]].concat()), int(u32::MAX.into()));
    assert_eq!(one("sfixed64", [vec![0x09], vec![0xff; 8]].concat()), int(-1));
    assert_eq!(one("fixed64", [vec![0x09], vec![0xff; 8]].concat()), int(u64::MAX.into()));
    assert_eq!(one("double", [vec![0x09], 0.5_f64.to_le_bytes().to_vec()].concat()), Ok(float(0.5)));
    assert_eq!(one("int64", [vec![8], vec![0xff; 9], vec![2]].concat()), Err(Fault::Varint));
}

/// What a value lacks is its type's default, or null where the schema can say that it is not there.
#[test]
fn absent_fields_are_defaults_or_null_as_the_schema_says() {
    for (kind, default) in [
        ("int32", Cell::Int(0)),
        ("string", text("")),
        ("bytes", Cell::Bytes(Vec::new())),
        ("bool", Cell::Bool(false)),
        ("E", text("ZERO")),
        ("repeated int32", Cell::List(Vec::new())),
        ("map<string, int32>", Cell::Map(BTreeMap::new())),
        ("optional int32", Cell::Null),
        ("M", Cell::Null),
        ("google.protobuf.Timestamp", Cell::Null),
        ("google.protobuf.Int32Value", Cell::Null),
    ] {
        let text =
            format!("message R {{ {kind} v = 1; int32 w = 2; }} enum E {{ ZERO = 0; }} message M {{ int32 i = 1; }}");
        let row = rows(&text, &[varint(2, 1)], 1000).remove(0).expect("a row");
        let Cell::Struct(mut cells) = row else { unreachable!("a row") };
        assert_eq!(cells.remove("v").unwrap_or(Cell::Null), default, "{kind}");
    }
    assert_eq!(one("optional int32", varint(1, 0)), int(0));
    assert_eq!(one("google.protobuf.Int32Value", bytes(1, &[])), int(0), "it is there, with a default");
    assert_eq!(one("google.protobuf.Timestamp", bytes(1, &[])), int(0));
}

#[test]
fn proto2_has_defaults_required_fields_and_groups() {
    let file = r#"syntax = "proto2"; message R { optional int32 a = 1 [default = -3];
        optional string b = 2 [default = "x"];
        optional bytes c = 3 [default = "\001\n"]; optional E d = 4 [default = TWO]; optional E e = 5;
        optional sint32 f = 6 [default = -9]; optional double g = 7 [default = inf]; required int32 h = 8;
        optional group Line = 9 { optional int32 n = 1; } repeated int32 i = 10 [packed = true];
        extensions 100 to 200; } enum E { ONE = 1; TWO = 2; } extend R { optional int32 later = 100; }"#;
    let values = [
        varint(8, 1),
        [varint(8, 1), vec![0x4b], varint(1, 4), vec![0x4c], varint(10, 3), bytes(10, &[4, 5]), varint(100, 1)]
            .concat(),
        varint(1, 1),
        [varint(8, 1), vec![0x4b], varint(1, 4)].concat(),
    ];
    let found = rows_of(file, &values, 10_000);
    let always = [
        ("a", Cell::Int(-3)),
        ("b", text("x")),
        ("c", Cell::Bytes(vec![1, b'\n'])),
        ("d", text("TWO")),
        ("f", Cell::Int(-9)),
        ("g", float(f64::INFINITY)),
        ("h", Cell::Int(1)),
    ];
    assert_eq!(found[0], Ok(row(&[&always[..], &[("i", Cell::List(Vec::new()))]].concat())));
    let list = Cell::List([3, 4, 5].map(Cell::Int).to_vec());
    let line = row(&[("n", Cell::Int(4))]);
    assert_eq!(found[1], Ok(row(&[&always[..], &[("line", line), ("i", list)]].concat())));
    assert_eq!(found[2], Err(Fault::Required(8)));
    assert_eq!(found[3], Err(Fault::Short), "a group without an end");
}

#[test]
fn enums_are_their_names_and_unknown_numbers_stay_numbers() {
    let kind = "message R { E v = 1; repeated E w = 2; } enum E { option allow_alias = true; A = 0; B = 1; C = 1; }";
    let value = [varint(1, 1), bytes(2, &[0, 1, 9])].concat();
    let list = Cell::List(vec![text("A"), text("B"), text("9")]);
    assert_eq!(rows(kind, &[value], 1000), [Ok(row(&[("v", text("B")), ("w", list)]))]);
    assert_eq!(
        rows(kind, &[varint(1, u64::MAX)], 1000)[0],
        Ok(row(&[("v", text("-1")), ("w", Cell::List(Vec::new()))]))
    );
}

#[test]
fn the_last_of_a_oneof_counts_and_clears_the_others() {
    let file = "message R { oneof o { int32 a = 1; M b = 2; string c = 3; } int32 d = 4; }
        message M { int32 x = 1; int32 y = 2; }";
    let d = ("d", Cell::Int(0));
    let m = |x, y| ("b", row(&[("x", Cell::Int(x)), ("y", Cell::Int(y))]));
    for (value, wanted) in [
        (vec![], vec![]),
        (varint(1, 0), vec![("a", Cell::Int(0))]),
        ([varint(1, 5), bytes(3, b"t")].concat(), vec![("c", text("t"))]),
        ([bytes(2, &varint(1, 1)), bytes(2, &varint(2, 2))].concat(), vec![m(1, 2)]),
        ([bytes(2, &varint(1, 1)), varint(1, 9), bytes(2, &varint(2, 2))].concat(), vec![m(0, 2)]),
    ] {
        assert_eq!(
            rows(file, std::slice::from_ref(&value), 1000)[0],
            Ok(row(&[&wanted[..], std::slice::from_ref(&d)].concat())),
            "{value:?}"
        );
    }
}

#[test]
fn of_a_maps_entries_with_one_key_the_last_counts() {
    let entry = |key: u64, value: u64| bytes(1, &[varint(1, key), varint(2, value)].concat());
    let map = |entries: &[(&str, i128)]| {
        Cell::Map(entries.iter().map(|(key, value)| ((*key).to_owned(), Cell::Int(*value))).collect())
    };
    let value = [entry(1, 10), entry(2, 20), entry(1, 30)].concat();
    assert_eq!(one("map<int32, int32>", value.clone()), Ok(map(&[("1", 30), ("2", 20)])));
    assert_eq!(one("map<bool, int32>", entry(1, 10)), Ok(map(&[("true", 10)])));
    assert_eq!(one("map<sint64, int32>", entry(1, 10)), Ok(map(&[("-1", 10)])));
    assert_eq!(one("map<uint64, int32>", entry(u64::MAX, 10)), Ok(map(&[("18446744073709551615", 10)])));
    assert_eq!(one("map<int32, int32>", bytes(1, &[])), Ok(map(&[("0", 0)])), "both are defaults");
    let messages =
        rows("message R { map<string, M> v = 1; } message M { int32 i = 1; }", &[bytes(1, &bytes(1, b"k"))], 1000);
    let inner = BTreeMap::from([("k".to_owned(), row(&[("i", Cell::Int(0))]))]);
    assert_eq!(messages, [Ok(row(&[("v", Cell::Map(inner))]))]);
    let many: Vec<u8> = (0..40).flat_map(|at| entry(at % 30, at)).collect();
    let Ok(Cell::Map(found)) = one("map<int32, int32>", many) else { unreachable!("a map") };
    assert_eq!((found.len(), &found["9"], &found["29"]), (30, &Cell::Int(39), &Cell::Int(29)));
}

#[test]
fn timestamps_and_durations_have_bounds() {
    let pair = |seconds: i64, nanos: i32| {
        bytes(1, &[varint(1, seconds.cast_unsigned()), varint(2, i64::from(nanos).cast_unsigned())].concat())
    };
    let timestamp = |seconds, nanos| one("google.protobuf.Timestamp", pair(seconds, nanos));
    assert_eq!(timestamp(1, 1_999), int(1_000_001));
    assert_eq!(timestamp(-1, 999_999_999), int(-1));
    assert_eq!(timestamp(-62_135_596_800, 0), int(-62_135_596_800_000_000));
    assert_eq!(timestamp(253_402_300_799, 999_999_999), int(253_402_300_799_999_999));
    for (seconds, nanos) in [(-62_135_596_801, 0), (253_402_300_800, 0), (i64::MAX, 0), (0, -1), (0, 1_000_000_000)] {
        assert_eq!(timestamp(seconds, nanos), Err(Fault::Time), "{seconds} {nanos}");
    }
    let duration = |seconds, nanos| one("google.protobuf.Duration", pair(seconds, nanos));
    assert_eq!(duration(-1, -1), int(-1_000_000_001));
    assert_eq!(duration(315_576_000_000, 999_999_999), int(315_576_000_000_999_999_999));
    for (seconds, nanos) in [(1, -1), (-1, 1), (i64::MIN, 0), (0, i32::MIN)] {
        assert_eq!(duration(seconds, nanos), Err(Fault::Duration), "{seconds} {nanos}");
    }
}

#[test]
fn structs_are_json_and_any_is_a_type_and_bytes() {
    let value = |n: u64, inner: &[u8]| bytes(2, &bytes(n, inner));
    let number = |value: f64| bytes(2, &[vec![0x11], value.to_le_bytes().to_vec()].concat());
    let member = |name: &str, value: &[u8]| bytes(1, &[bytes(1, name.as_bytes()), value.to_vec()].concat());
    let json = |members: &[Vec<u8>]| one("google.protobuf.Struct", bytes(1, &members.concat()));
    let list = bytes(2, &bytes(6, &[bytes(1, &varint(4, 1)), bytes(1, &varint(1, 0)), bytes(1, &[])].concat()));
    let members = [
        member("z", &number(1.0)),
        member("a", &value(3, "é\"\u{1}".as_bytes())),
        member("h", &number(-0.5)),
        member("l", &list),
        member("o", &value(5, &member("x", &number(1e300)))),
        member("z", &number(2.0)),
    ];
    let wanted = "{\"a\":\"é\\\"\\u0001\",\"h\":-0.5,\"l\":[true,null,null],\"o\":{\"x\":1e+300},\"z\":2}";
    assert_eq!(json(&members), Ok(text(wanted)));
    assert_eq!(json(&[]), Ok(text("{}")));
    assert_eq!(json(&[member("n", &number(f64::NAN))]), Err(Fault::Range));
    assert_eq!(json(&[member("n", &value(3, &[0xff]))]), Err(Fault::Utf8));
    let deep = (0..100).fold(bytes(3, b"x"), |inner, _| bytes(6, &bytes(1, &inner)));
    assert_eq!(one("google.protobuf.Value", bytes(1, &deep)), Err(Fault::Deep));
    assert_eq!(one("google.protobuf.ListValue", bytes(1, &bytes(1, &bytes(3, b"x")))), Ok(text("[\"x\"]")));
    let any = one("google.protobuf.Any", bytes(1, &[bytes(1, b"t/x"), bytes(2, &[7])].concat()));
    assert_eq!(any, Ok(row(&[("type_url", text("t/x")), ("value", Cell::Bytes(vec![7]))])));
}

#[test]
fn what_is_not_exactly_a_value_is_no_row() {
    for (kind, value, fault) in [
        ("int32", vec![8], Fault::Short),
        ("int32", bytes(1, &[1]), Fault::Wire(1)),
        ("string", varint(1, 1), Fault::Wire(1)),
        ("repeated string", varint(1, 1), Fault::Wire(1)),
        ("repeated int32", vec![0x0d, 0, 0, 0, 0], Fault::Wire(1)),
        ("repeated int32", bytes(1, &[0x80]), Fault::Short),
        ("repeated fixed32", bytes(1, &[0; 6]), Fault::Short),
        ("string", bytes(1, &[0xff]), Fault::Utf8),
        ("string", vec![0x0a, 5, b'x'], Fault::Short),
        ("bytes", [vec![0x0a], number(u64::MAX)].concat(), Fault::Short),
        ("int32", vec![0], Fault::Tag),
        ("int32", vec![0x16], Fault::Tag),
        ("int32", vec![0x14], Fault::Group),
        ("map<string, int32>", bytes(1, &varint(1, 1)), Fault::Wire(1)),
        ("map<string, int32>", bytes(1, &bytes(1, &[0xff])), Fault::Utf8),
    ] {
        assert_eq!(one(kind, value.clone()), Err(fault), "{kind} {value:?}");
    }
    // What the schema does not name is read over, and read.
    assert_eq!(one("int32", [varint(9, 1), varint(1, 2), bytes(9, b"x")].concat()), int(2));
    assert_eq!(one("int32", [varint(1, 2), vec![0x4a, 9]].concat()), Err(Fault::Short));
}

#[test]
fn items_are_charged_before_they_are_read() {
    let fields: String = (1..=900).map(|at| format!("optional double f{at} = {at};")).collect();
    let wide = format!("message R {{ repeated M v = 1; }} message M {{ {fields} }}");
    let value = [0x0a, 0].repeat(10_000);
    assert_eq!(rows(&wide, std::slice::from_ref(&value), 64 << 20)[0], Err(Fault::Large(64 << 20)));
    assert!(rows(&wide, &[value], 128 << 20)[0].is_ok());
    // A default is longer than the two bytes of an item that lacks it.
    let long = format!(
        "syntax = \"proto2\"; message R {{ repeated M v = 1; }}
            message M {{ optional string s = 1 [default = \"{}\"]; }}",
        "x".repeat(10_000)
    );
    assert_eq!(rows_of(&long, &[[0x0a, 0].repeat(1_000)], 1 << 20)[0], Err(Fault::Large(1 << 20)));
    // As is JSON that is made of items without bytes.
    let list = bytes(1, &[0x0a, 0].repeat(100_000));
    assert_eq!(rows("message R { google.protobuf.ListValue v = 1; }", &[list], 1 << 20)[0], Err(Fault::Large(1 << 20)));
    // And parts that wait for the end of their message.
    assert_eq!(
        rows("message R { M v = 1; } message M { int32 i = 1; }", &[[0x0a, 0].repeat(100_000)], 1 << 20)[0],
        Err(Fault::Large(1 << 20))
    );
}

#[test]
fn messages_that_no_table_can_have_are_refused_by_name() {
    let schema = |text: &str| {
        let text = format!("syntax = \"proto3\"; package a; {IMPORTS} {text}");
        Schema::new(&compile(&text), &MessagePath::FIRST)
    };
    let shape = |text: &str| schema(text)?.shape();
    let recursive = Err(Refused::Recursive { name: "a.Tree".to_owned() });
    assert_eq!(shape("message Tree { repeated Tree children = 1; int32 i = 2; }"), recursive);
    assert_eq!(shape("message R { Tree t = 1; } message Tree { map<string, Tree> children = 1; }"), recursive);
    assert_eq!(shape("message R { M m = 1; } message M {}"), Err(Refused::Empty));
    let fields: String = (1..2000).map(|at| format!("int32 f{at} = {at};")).collect();
    assert!(matches!(shape(&format!("message R {{ {fields} }}")), Err(Refused::Columns { .. })));
    let chain = |levels: usize| -> String {
        (0..levels).map(|at| format!("message M{at} {{ M{} a = 1; M{} b = 2; }}", at + 1, at + 1)).collect()
    };
    assert_eq!(shape(&format!("{} message M20 {{}}", chain(20))), Err(Refused::Depth { max: 16 }));
    assert_eq!(shape(&format!("{} message M12 {{}}", chain(12))), Err(Refused::Empty), "2^12 fields of 12 messages");
    assert!(matches!(shape(&format!("{} message M12 {{ int32 i = 1; }}", chain(12))), Err(Refused::Columns { .. })));
    let other = schema("message R { int32 i = 1; message S { int32 i = 1; } }").expect("a message");
    assert_eq!(other.name(), "R");
}

/// The path of a nested message does not count the messages that stand for maps.
#[test]
fn paths_lead_to_nested_messages() {
    let file = compile(
        "syntax = \"proto3\"; package a.b; message A {}
        message B { map<int32, int32> m = 1; message C { message D { int32 i = 1; } } }",
    );
    let name = |path: &[u8]| {
        let (path, _) = MessagePath::split_from(path).expect("a path");
        Schema::new(&file, &path).map(|schema| schema.name().to_owned())
    };
    assert_eq!(name(&[0]), Ok("A".to_owned()));
    assert_eq!(name(&[6, 2, 0, 0]), Ok("B.C.D".to_owned()));
    for (missing, shown) in [(&[2, 4][..], "2"), (&[4, 2, 2][..], "1.1"), (&[4, 0, 0][..], "0.0")] {
        assert_eq!(name(missing), Err(Refused::Schema(format!("its file has no message {shown}"))));
    }
}

#[test]
fn a_reader_never_reads_beyond_its_bytes() {
    let mut random = Random::new(1);
    for _ in 0..20_000 {
        let input: Vec<u8> = (0..random.below(12)).map(|_| random.next() as u8).collect();
        let mut reader = Reader::new(&input);
        while let Ok((number, wire)) = reader.tag() {
            let before = reader.rest().len();
            match reader.value(number, wire) {
                Ok(Raw::Bytes(bytes)) => assert!(bytes.len() <= before),
                Ok(Raw::Number(_)) => assert!(wire != Wire::Bytes && reader.rest().len() < before),
                Err(_) => break,
            }
        }
    }
}
