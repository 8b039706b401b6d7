//! Protobuf: can data of one file be read with another?
//!
//! Fields are the same if their numbers are. Names, added and removed fields, and enums do not matter; what is on the
//! wire does: kinds of scalars, messages against scalars, the label of a number, fields that move into a `oneof`.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};

use super::super::canonical::protobuf::ProtobufSchema;
use super::super::limits::{COMPARISON_DEPTH_MAX, COMPARISONS_MAX, DIFFERENCES_MAX};
use super::Sides;

/// Why data of `writer` cannot be read with `reader`, as Confluent's registry names it.
#[must_use]
pub fn differences(reader: &ProtobufSchema, writer: &ProtobufSchema, sides: Sides) -> Vec<String> {
    compare(reader, writer).iter().take(DIFFERENCES_MAX).map(|difference| difference.message(sides)).collect()
}

fn compare(reader: &ProtobufSchema, writer: &ProtobufSchema) -> Vec<Difference> {
    let (old, new) = (Types::of(writer), Types::of(reader));
    let mut walk = Walk {
        old: &old,
        new: &new,
        path: Vec::new(),
        found: Vec::new(),
        seen: BTreeSet::new(),
        left: COMPARISONS_MAX,
        depth: 0,
    };
    walk.messages(&writer.compiled().message_type, &reader.compiled().message_type);
    if walk.left == 0 {
        walk.add("TOO_LARGE");
    }
    walk.found
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    kind: &'static str,
    path: String,
}

impl Difference {
    fn message(&self, Sides { reader, writer }: Sides) -> String {
        let Self { kind, path } = self;
        let what = match *kind {
            "MESSAGE_REMOVED" => {
                format!("The {reader} schema lacks a MESSAGE type at path '{path}' that the {writer} schema has")
            }
            "FIELD_KIND_CHANGED" | "FIELD_NAMED_TYPE_CHANGED" => {
                format!(
                    "The type of a field at path '{path}' in the {reader} schema does not match that in the {writer} schema"
                )
            }
            "FIELD_SCALAR_KIND_CHANGED" => format!(
                "The kind of a SCALAR field at path '{path}' in the {reader} schema does not match its kind in the {writer} schema"
            ),
            "FIELD_NUMERIC_LABEL_CHANGED" => format!(
                "The label of a NUMERIC field at path '{path}' in the {reader} schema does not match its label in the {writer} schema"
            ),
            "REQUIRED_FIELD_ADDED" => {
                format!("A required field at path '{path}' in the {reader} schema is missing in the {writer} schema")
            }
            "REQUIRED_FIELD_REMOVED" => {
                format!("The {reader} schema lacks a required field at path '{path}' that the {writer} schema has")
            }
            "ONEOF_FIELD_REMOVED" => {
                format!("The {reader} schema lacks a oneof field at path '{path}' that the {writer} schema has")
            }
            "MULTIPLE_FIELDS_MOVED_TO_ONEOF" => format!(
                "Several fields of the oneof at path '{path}' in the {reader} schema are outside a oneof in the {writer} schema"
            ),
            _ => format!(
                "A field of the oneof at path '{path}' in the {reader} schema is outside an existing oneof in the {writer} schema"
            ),
        };
        format!("{{errorType:\"{kind}\", description:\"{what}\"}}")
    }
}

/// The messages of a file and its imports, by their full names with the point before them.
struct Types<'a> {
    messages: BTreeMap<String, Known<'a>>,
    is_proto3: bool,
}

#[derive(Clone, Copy)]
struct Known<'a> {
    message: &'a DescriptorProto,
    /// Bytes of the package's part of the name.
    package: usize,
    is_imported: bool,
}

impl<'a> Types<'a> {
    fn of(schema: &'a ProtobufSchema) -> Self {
        let mut messages = BTreeMap::new();
        let files = schema.imports().iter().map(|file| (file, true)).chain([(schema.compiled(), false)]);
        for (file, is_imported) in files {
            let prefix = if file.package().is_empty() { String::new() } else { format!(".{}", file.package()) };
            for message in &file.message_type {
                Self::add(&mut messages, &prefix, message, (prefix.len(), is_imported));
            }
        }
        Self { messages, is_proto3: schema.compiled().syntax() == "proto3" }
    }

    fn add(
        messages: &mut BTreeMap<String, Known<'a>>,
        prefix: &str,
        message: &'a DescriptorProto,
        (package, is_imported): (usize, bool),
    ) {
        let name = format!("{prefix}.{}", message.name());
        for nested in &message.nested_type {
            Self::add(messages, &name, nested, (package, is_imported));
        }
        messages.insert(name, Known { message, package, is_imported });
    }

    fn get(&self, name: &str) -> Option<Known<'a>> {
        self.messages.get(name).copied()
    }

    /// The label that is written: in proto3 none is.
    fn label(&self, field: &FieldDescriptorProto) -> Option<Label> {
        match field.label() {
            Label::Optional if self.is_proto3 && !field.proto3_optional() => None,
            label => Some(label),
        }
    }
}

/// What a field is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    Varint,
    Zigzag,
    Fixed32,
    Fixed64,
    Float,
    Double,
    Bytes,
}

enum Shape<'a> {
    Scalar(Scalar),
    Map(&'a FieldDescriptorProto, &'a FieldDescriptorProto),
    Message(&'a str),
}

fn shape<'a>(field: &'a FieldDescriptorProto, types: &Types<'a>) -> Shape<'a> {
    let scalar = match field.r#type() {
        Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Bool | Type::Enum => Scalar::Varint,
        Type::Sint32 | Type::Sint64 => Scalar::Zigzag,
        Type::Fixed32 | Type::Sfixed32 => Scalar::Fixed32,
        Type::Fixed64 | Type::Sfixed64 => Scalar::Fixed64,
        Type::Float => Scalar::Float,
        Type::Double => Scalar::Double,
        Type::String | Type::Bytes => Scalar::Bytes,
        Type::Message | Type::Group => {
            let known = types.get(field.type_name()).map(|known| known.message);
            let entry = known.filter(|message| is_entry(message));
            return match entry.map(|entry| entry.field.as_slice()) {
                Some([key, value]) => Shape::Map(key, value),
                _ => Shape::Message(field.type_name()),
            };
        }
    };
    Shape::Scalar(scalar)
}

fn is_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

struct Walk<'a> {
    old: &'a Types<'a>,
    new: &'a Types<'a>,
    path: Vec<String>,
    found: Vec<Difference>,
    /// Pairs of imported messages that are being compared or were.
    seen: BTreeSet<(&'a str, &'a str)>,
    left: usize,
    depth: usize,
}

/// The fields of a message outside and inside each `oneof`, by number.
struct Fields<'a> {
    plain: BTreeMap<i32, &'a FieldDescriptorProto>,
    oneofs: BTreeMap<&'a str, BTreeMap<i32, &'a FieldDescriptorProto>>,
}

impl<'a> Fields<'a> {
    fn of(message: &'a DescriptorProto) -> Self {
        let (mut plain, mut oneofs) = (BTreeMap::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
        for field in &message.field {
            let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
            let oneof = oneof.and_then(|n| message.oneof_decl.get(usize::try_from(n).ok()?));
            match oneof {
                Some(oneof) => drop(oneofs.entry(oneof.name()).or_default().insert(field.number(), field)),
                None => drop(plain.insert(field.number(), field)),
            }
        }
        Self { plain, oneofs }
    }
}

impl<'a> Walk<'a> {
    fn add(&mut self, kind: &'static str) {
        self.found.push(Difference { kind, path: format!("#/{}", self.path.join("/")) });
    }

    fn inside(&mut self, step: &str, of: impl FnOnce(&mut Self)) {
        self.path.push(step.to_owned());
        of(self);
        self.path.pop();
    }

    fn messages(&mut self, old: &'a [DescriptorProto], new: &'a [DescriptorProto]) {
        for message in old.iter().filter(|message| !is_entry(message)) {
            let kept = new.iter().find(|other| other.name() == message.name());
            self.inside(message.name(), |walk| match kept {
                Some(kept) => walk.message(message, kept),
                None => walk.add("MESSAGE_REMOVED"),
            });
        }
    }

    fn message(&mut self, old: &'a DescriptorProto, new: &'a DescriptorProto) {
        if self.depth >= COMPARISON_DEPTH_MAX || self.found.len() > DIFFERENCES_MAX {
            self.left = 0;
        }
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        self.depth += 1;
        self.fields_of(old, new);
        self.depth -= 1;
        self.messages(&old.nested_type, &new.nested_type);
    }

    fn fields_of(&mut self, old: &'a DescriptorProto, new: &'a DescriptorProto) {
        let (mut before, after) = (Fields::of(old), Fields::of(new));
        for (name, members) in &after.oneofs {
            let existed = |number: &i32| before.oneofs.values().any(|oneof| oneof.contains_key(number));
            let existing = members.keys().filter(|number| existed(number)).count();
            let moved = members.keys().filter(|number| before.plain.remove(number).is_some()).count();
            self.inside(name, |walk| match (moved, existing) {
                (2.., _) => walk.add("MULTIPLE_FIELDS_MOVED_TO_ONEOF"),
                (1, 1..) => walk.add("FIELD_MOVED_TO_EXISTING_ONEOF"),
                _ => {}
            });
        }
        for (name, members) in &before.oneofs {
            let Some(kept) = after.oneofs.get(name) else { continue };
            self.inside(name, |walk| {
                for (number, field) in members {
                    walk.inside(&number.to_string(), |walk| match kept.get(number) {
                        Some(kept) => walk.field(field, kept),
                        None => walk.add("ONEOF_FIELD_REMOVED"),
                    });
                }
            });
        }
        let numbers: BTreeSet<i32> = before.plain.keys().chain(after.plain.keys()).copied().collect();
        for number in numbers {
            self.inside(&number.to_string(), |walk| match (before.plain.get(&number), after.plain.get(&number)) {
                (Some(old), Some(new)) => walk.field(old, new),
                (Some(old), None) if old.label() == Label::Required => walk.add("REQUIRED_FIELD_REMOVED"),
                (None, Some(new)) if new.label() == Label::Required => walk.add("REQUIRED_FIELD_ADDED"),
                _ => {}
            });
        }
    }

    fn field(&mut self, old: &'a FieldDescriptorProto, new: &'a FieldDescriptorProto) {
        let labels = (self.old.label(old), self.new.label(new));
        match (shape(old, self.old), shape(new, self.new)) {
            (Shape::Scalar(from), Shape::Scalar(to)) if from != to => self.add("FIELD_SCALAR_KIND_CHANGED"),
            (Shape::Scalar(scalar), Shape::Scalar(_)) => {
                if let (Some(from), Some(to)) = labels
                    && from != to
                    && scalar != Scalar::Bytes
                {
                    self.add("FIELD_NUMERIC_LABEL_CHANGED");
                }
            }
            (Shape::Map(key, value), Shape::Map(new_key, new_value)) => {
                self.field(key, new_key);
                self.field(value, new_value);
            }
            (Shape::Message(from), Shape::Message(to)) => self.named(from, to),
            _ => self.add("FIELD_KIND_CHANGED"),
        }
    }

    /// The names of messages are compared without their packages. Those of this file are compared where they are
    /// defined, imported ones here.
    fn named(&mut self, old: &'a str, new: &'a str) {
        let (Some(from), Some(to)) = (self.old.get(old), self.new.get(new)) else {
            if old != new {
                self.add("FIELD_NAMED_TYPE_CHANGED");
            }
            return;
        };
        if old.get(from.package..) != new.get(to.package..) {
            return self.add("FIELD_NAMED_TYPE_CHANGED");
        }
        if (from.is_imported || to.is_imported) && self.seen.insert((old, new)) {
            let before = self.found.len();
            self.message(from.message, to.message);
            if self.found.len() > before {
                self.add("FIELD_NAMED_TYPE_CHANGED");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::canonical::Resolved;
    use super::*;

    fn proto3(body: &str) -> ProtobufSchema {
        ProtobufSchema::parse(&format!("syntax = \"proto3\"; {body}"), &[]).expect(body)
    }

    /// `errorType path`, one a line.
    fn changed(old: &str, new: &str) -> String {
        let found = compare(&proto3(new), &proto3(old));
        found.iter().map(|d| format!("{} {}", d.kind, d.path)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_change_has_its_name_and_path() {
        for (old, new, wanted) in [
            ("message A { string s = 1; }", "message A { string t = 1; int32 n = 2; }", ""),
            ("message A { string s = 1; int32 n = 2; }", "message A { string s = 1; }", ""),
            ("message A {} message B {}", "message A {}", "MESSAGE_REMOVED #/B"),
            ("message A { message B {} }", "message A {}", "MESSAGE_REMOVED #/A/B"),
            ("message A {}", "message B {} message A {}", ""),
            ("message A { int32 n = 1; }", "message A { int64 n = 1; }", ""),
            ("message A { int32 n = 1; }", "message A { bool n = 1; }", ""),
            ("message A { int32 n = 1; } enum E { X = 0; }", "message A { E n = 1; } enum E { X = 0; }", ""),
            ("message A { int32 n = 1; }", "message A { sint32 n = 1; }", "FIELD_SCALAR_KIND_CHANGED #/A/1"),
            ("message A { int32 n = 1; }", "message A { string n = 1; }", "FIELD_SCALAR_KIND_CHANGED #/A/1"),
            ("message A { string n = 1; }", "message A { bytes n = 1; }", ""),
            ("message A { fixed32 n = 1; }", "message A { fixed64 n = 1; }", "FIELD_SCALAR_KIND_CHANGED #/A/1"),
            (
                "message A { string n = 1; } message B {}",
                "message A { B n = 1; } message B {}",
                "FIELD_KIND_CHANGED #/A/1",
            ),
            ("message A { map<string, int32> m = 1; }", "message A { map<string, int64> m = 1; }", ""),
            (
                "message A { map<string, int32> m = 1; }",
                "message A { map<string, string> m = 1; }",
                "FIELD_SCALAR_KIND_CHANGED #/A/1",
            ),
            ("message A { map<string, int32> m = 1; }", "message A { string m = 1; }", "FIELD_KIND_CHANGED #/A/1"),
            (
                "message A { B b = 1; } message B {} message C {}",
                "message A { C b = 1; } message B {} message C {}",
                "FIELD_NAMED_TYPE_CHANGED #/A/1",
            ),
            (
                "message A { optional int32 n = 1; }",
                "message A { repeated int32 n = 1; }",
                "FIELD_NUMERIC_LABEL_CHANGED #/A/1",
            ),
            ("message A { optional string n = 1; }", "message A { repeated string n = 1; }", ""),
            (
                "message A { oneof o { string s = 1; int32 n = 2; } }",
                "message A { oneof o { string s = 1; } }",
                "ONEOF_FIELD_REMOVED #/A/o/2",
            ),
            ("message A { oneof o { string s = 1; } }", "message A { oneof o { string s = 1; int32 n = 2; } }", ""),
            ("message A { string s = 1; }", "message A { oneof o { string s = 1; int32 n = 2; } }", ""),
            (
                "message A { string s = 1; int32 n = 2; }",
                "message A { oneof o { string s = 1; int32 n = 2; } }",
                "MULTIPLE_FIELDS_MOVED_TO_ONEOF #/A/o",
            ),
            (
                "message A { string s = 1; oneof o { int32 n = 2; } }",
                "message A { oneof o { string s = 1; int32 n = 2; } }",
                "FIELD_MOVED_TO_EXISTING_ONEOF #/A/o",
            ),
            ("package a; message A { B b = 1; } message B {}", "package b; message A { B b = 1; } message B {}", ""),
        ] {
            assert_eq!(changed(old, new), wanted, "{old} -> {new}");
        }
    }

    #[test]
    fn required_fields_cannot_come_or_go() {
        let proto2 = |body: &str| ProtobufSchema::parse(body, &[]).expect(body);
        let (with, without) = (proto2("message A { required int32 n = 1; }"), proto2("message A {}"));
        let kinds = |found: Vec<Difference>| found.into_iter().map(|d| d.kind).collect::<Vec<_>>();
        assert_eq!(kinds(compare(&with, &without)), ["REQUIRED_FIELD_ADDED"]);
        assert_eq!(kinds(compare(&without, &with)), ["REQUIRED_FIELD_REMOVED"]);
    }

    #[test]
    fn imported_messages_are_compared_with_the_field() {
        let import = |of: &str| {
            let text = format!("syntax = \"proto3\"; package m; message Money {{ {of} n = 1; }}");
            let reference = Resolved { name: "money.proto".into(), text };
            let text = "syntax = \"proto3\"; import \"money.proto\"; message A { m.Money p = 1; }";
            ProtobufSchema::parse(text, &[reference]).expect("compiles")
        };
        assert_eq!(compare(&import("int64"), &import("int32")), []);
        let kinds: Vec<_> =
            compare(&import("string"), &import("int32")).into_iter().map(|d| (d.kind, d.path)).collect();
        let path = |path: &str| path.to_owned();
        assert_eq!(
            kinds,
            [("FIELD_SCALAR_KIND_CHANGED", path("#/A/1/1")), ("FIELD_NAMED_TYPE_CHANGED", path("#/A/1"))]
        );
    }
}
