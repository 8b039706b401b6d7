//! Random files and values of their first messages.

use super::*;

const SCALARS: [&str; 15] = [
    "bool", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64",
    "float", "double", "string", "bytes",
];
const KNOWN: [&str; 5] = ["Timestamp", "Duration", "StringValue", "UInt64Value", "BoolValue"];

/// A file whose message has fields of all sorts, nested ones too.
pub(super) fn file(random: &mut Random) -> String {
    let mut out = r#"syntax = "proto3"; package shop.v1; import "google/protobuf/timestamp.proto";
        import "google/protobuf/duration.proto"; import "google/protobuf/wrappers.proto";
        enum Colour { option allow_alias = true; NONE = 0; RED = 5; ROSE = 5; BLUE = -1; }"#
        .to_owned();
    message(random, "Order", 2, &mut out);
    out
}

fn message(random: &mut Random, name: &str, levels: usize, out: &mut String) {
    out.push_str(&format!("message {name} {{"));
    let mut number = 0;
    // At least one field has content, and numbers have holes.
    for at in 0..=random.below(7) {
        number += 1 + random.below(3);
        let kind = kind(random, at, levels, out);
        match random.below(5) {
            0 => out.push_str(&format!("repeated {kind} f{at} = {number};")),
            1 if !kind.starts_with("google") => out.push_str(&format!("optional {kind} f{at} = {number};")),
            2 => {
                let key = ["string", "int32", "uint64", "bool", "sint64"][random.below(5)];
                out.push_str(&format!("map<{key}, {kind}> f{at} = {number};"));
            }
            3 => {
                let other = SCALARS[random.below(SCALARS.len())];
                out.push_str(&format!("oneof o{at} {{ {kind} f{at} = {number}; {other} g{at} = {}; }}", number + 1));
                number += 1;
            }
            _ => out.push_str(&format!("{kind} f{at} = {number};")),
        }
    }
    out.push('}');
}

fn kind(random: &mut Random, at: usize, levels: usize, out: &mut String) -> String {
    match random.below(6) {
        0 if levels > 0 => {
            let name = format!("M{at}");
            message(random, &name, levels - 1, out);
            name
        }
        1 => "Colour".to_owned(),
        2 => format!("google.protobuf.{}", KNOWN[random.below(KNOWN.len())]),
        _ => SCALARS[random.below(SCALARS.len())].to_owned(),
    }
}

/// A value's bytes, with fields that the schema does not name.
pub(super) fn value(random: &mut Random, of: &MessageDescriptor) -> Vec<u8> {
    let mut bytes = dynamic(random, of).encode_to_vec();
    match random.below(4) {
        // Field 100: a number, or text, or a group with a field in it.
        0 => bytes.extend([0xa0, 6, 7]),
        1 => bytes.splice(0..0, [0xa2, 6, 2, b'h', b'i']).for_each(drop),
        2 => bytes.extend([0xa3, 6, 8, 1, 0xa4, 6]),
        _ => {}
    }
    bytes
}

fn dynamic(random: &mut Random, of: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    if let Some(seconds) = of.full_name().strip_prefix("google.protobuf.") {
        let sign = if random.below(2) == 0 && seconds == "Duration" { -1 } else { 1 };
        if matches!(seconds, "Timestamp" | "Duration") {
            let (seconds, nanos) = (random.below(100_000_000_000) as i64, random.below(1_000_000_000) as i32);
            message.set_field_by_name("seconds", Value::I64(seconds * sign));
            message.set_field_by_name("nanos", Value::I32(nanos * sign as i32));
            return message;
        }
    }
    for field in of.fields() {
        if random.below(3) == 0 {
            continue;
        }
        let kind = field.kind();
        let value = if field.is_map() {
            let entry = kind.as_message().expect("an entry");
            let (key, item) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            let entries = (0..random.below(4)).map(|_| {
                let key = single(random, &key).into_map_key().expect("a key");
                (key, single(random, &item))
            });
            Value::Map(entries.collect())
        } else if field.is_list() {
            Value::List((0..random.below(5)).map(|_| single(random, &kind)).collect())
        } else {
            single(random, &kind)
        };
        message.set_field(&field, value);
    }
    message
}

fn single(random: &mut Random, kind: &Declared) -> Value {
    let number = match random.below(3) {
        0 => random.next(),
        1 => random.below(3) as u64,
        _ => u64::MAX << random.below(64),
    };
    match kind {
        Declared::Bool => Value::Bool(number & 1 == 1),
        Declared::Int32 | Declared::Sint32 | Declared::Sfixed32 => Value::I32(number as i32),
        Declared::Int64 | Declared::Sint64 | Declared::Sfixed64 => Value::I64(number as i64),
        Declared::Uint32 | Declared::Fixed32 => Value::U32(number as u32),
        Declared::Uint64 | Declared::Fixed64 => Value::U64(number),
        Declared::Float => Value::F32(f32::from_bits(number as u32)),
        Declared::Double => Value::F64(f64::from_bits(number)),
        Declared::String => Value::String(format!("é{}", number % 1000)),
        Declared::Bytes => Value::Bytes(number.to_be_bytes()[..random.below(9)].to_vec().into()),
        Declared::Enum(_) => Value::EnumNumber([0, 5, -1, 77][random.below(4)]),
        Declared::Message(message) => Value::Message(dynamic(random, message)),
    }
}
