//! Protobuf files printed as Confluent's registry stores them: in a fixed order of parts, two spaces a level, without
//! comments. Normalised: types in full, imports, fields and values in order.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::uninterpreted_option::NamePart;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileOptions,
    ServiceDescriptorProto, UninterpretedOption,
};

use super::protobuf::ProtobufSchema;

#[must_use]
pub fn print(schema: &ProtobufSchema, normalized: bool) -> String {
    let mut file = schema.written.clone();
    if normalized {
        let compiled = schema.compiled();
        for (written, compiled) in file.message_type.iter_mut().zip(&compiled.message_type) {
            normalize(written, compiled);
        }
        for (written, compiled) in file.extension.iter_mut().zip(&compiled.extension) {
            written.type_name.clone_from(&compiled.type_name);
            written.extendee.clone_from(&compiled.extendee);
        }
        for values in &mut file.enum_type {
            values.value.sort_by_key(|value| value.number());
        }
    }
    let mut out = String::new();
    print_file(&file, normalized, &mut out);
    out
}

fn normalize(written: &mut DescriptorProto, compiled: &DescriptorProto) {
    for (written, compiled) in written.field.iter_mut().zip(&compiled.field) {
        written.type_name.clone_from(&compiled.type_name);
    }
    for (written, compiled) in written.nested_type.iter_mut().zip(&compiled.nested_type) {
        normalize(written, compiled);
    }
    for values in &mut written.enum_type {
        values.value.sort_by_key(|value| value.number());
    }
    written.field.sort_by_key(FieldDescriptorProto::number);
}

/// Lines of a part, indented under it.
fn indented(of: &str, out: &mut String) {
    for line in of.lines() {
        if !line.is_empty() {
            out.push_str("  ");
        }
        out.push_str(line);
        out.push('\n');
    }
}

/// A section of a block: an empty line before the second one.
fn section(lines: Vec<String>, out: &mut String) {
    if lines.is_empty() {
        return;
    }
    out.push('\n');
    lines.iter().for_each(|lines| indented(lines, out));
}

fn block(head: &str, sections: Vec<Vec<String>>, out: &mut String) {
    out.push_str(head);
    out.push_str(" {");
    sections.into_iter().for_each(|lines| section(lines, out));
    out.push_str("}\n");
}

fn print_file(file: &FileDescriptorProto, sorted: bool, out: &mut String) {
    if let Some(syntax) = &file.syntax {
        out.push_str(&format!("syntax = \"{syntax}\";\n"));
    }
    if let Some(package) = &file.package {
        out.push_str(&format!("package {package};\n"));
    }
    let is_public = |n: usize| file.public_dependency.iter().any(|public| usize::try_from(*public) == Ok(n));
    let mut imports: Vec<(bool, &String)> =
        file.dependency.iter().enumerate().map(|(n, name)| (is_public(n), name)).collect();
    imports.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| if sorted { a.1.cmp(b.1) } else { std::cmp::Ordering::Equal }));
    let line =
        |(public, name): &(bool, &String)| format!("import {}\"{name}\";\n", if *public { "public " } else { "" });
    paragraph(imports.iter().map(line), out);
    let mut options = file.options.as_ref().map(file_options).unwrap_or_default();
    if sorted {
        options.sort();
    }
    paragraph(options.into_iter().map(|option| format!("option {option};\n")), out);
    let mut types: Vec<String> =
        file.message_type.iter().map(|message| message_text(message, &file.message_type, file)).collect();
    types.extend(file.enum_type.iter().map(enum_text));
    paragraph(types.into_iter(), out);
    paragraph(extensions(&file.extension, file).into_iter(), out);
    paragraph(file.service.iter().map(service_text), out);
}

fn paragraph(lines: impl Iterator<Item = String>, out: &mut String) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        out.push('\n');
        lines.for_each(|line| out.push_str(&line));
    }
}

fn message_text(message: &DescriptorProto, _: &[DescriptorProto], file: &FileDescriptorProto) -> String {
    let mut reserved = Vec::new();
    if !message.reserved_range.is_empty() {
        let ranges = message.reserved_range.iter().map(|range| span(range.start(), range.end() - 1));
        reserved.push(format!("reserved {};\n", ranges.collect::<Vec<_>>().join(", ")));
    }
    if !message.reserved_name.is_empty() {
        let names = message.reserved_name.iter().map(|name| format!("\"{name}\""));
        reserved.push(format!("reserved {};\n", names.collect::<Vec<_>>().join(", ")));
    }
    let options = message.options.as_ref().map(|options| {
        let flags = [("deprecated", options.deprecated)];
        named(&flags, &options.uninterpreted_option)
    });
    let options = options.unwrap_or_default().into_iter().map(|option| format!("option {option};\n")).collect();
    let is_in_oneof = |field: &&FieldDescriptorProto| field.oneof_index.is_some() && !field.proto3_optional();
    let fields = message.field.iter().filter(|field| !is_in_oneof(field));
    let fields = fields.map(|field| field_text(field, &message.nested_type, file, true)).collect();
    let oneofs = message.oneof_decl.iter().enumerate().filter_map(|(n, oneof)| {
        let members = message.field.iter().filter(is_in_oneof);
        let members = members.filter(|field| usize::try_from(field.oneof_index()) == Ok(n));
        let members: Vec<String> = members.map(|field| field_text(field, &message.nested_type, file, false)).collect();
        let mut out = String::new();
        block(&format!("oneof {}", oneof.name()), vec![members.clone()], &mut out);
        // One that `optional` made has no members of its own.
        (!members.is_empty()).then_some(out)
    });
    let ranges =
        message.extension_range.iter().map(|range| format!("extensions {};\n", span(range.start(), range.end() - 1)));
    let nested = message.nested_type.iter().filter(|nested| !is_entry(nested));
    let mut nested: Vec<String> = nested.map(|nested| message_text(nested, &message.nested_type, file)).collect();
    nested.extend(message.enum_type.iter().map(enum_text));
    let sections = vec![
        reserved,
        options,
        fields,
        oneofs.collect(),
        ranges.collect(),
        extensions(&message.extension, file),
        nested,
    ];
    let mut out = String::new();
    block(&format!("message {}", message.name()), sections, &mut out);
    out
}

/// Of a range whose end is part of it.
fn span(start: i32, end: i32) -> String {
    const LAST: i32 = 536_870_911;
    match end {
        end if end == start => start.to_string(),
        end if end >= LAST => format!("{start} to max"),
        end => format!("{start} to {end}"),
    }
}

fn is_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

fn field_text(
    field: &FieldDescriptorProto,
    nested: &[DescriptorProto],
    file: &FileDescriptorProto,
    labelled: bool,
) -> String {
    let entry = field.type_name.as_ref().and_then(|name| {
        let name = name.rsplit('.').next().unwrap_or(name);
        nested.iter().find(|nested| is_entry(nested) && nested.name() == name)
    });
    let of = match entry {
        Some(entry) => {
            let parts = entry.field.iter().map(type_text).collect::<Vec<_>>();
            format!("map<{}>", parts.join(", "))
        }
        None => type_text(field),
    };
    let is_proto3 = file.syntax.as_deref() == Some("proto3");
    let label = match field.label() {
        _ if entry.is_some() || !labelled => "",
        Label::Repeated => "repeated ",
        Label::Required => "required ",
        Label::Optional if !is_proto3 || field.proto3_optional() => "optional ",
        Label::Optional => "",
    };
    let mut options = Vec::new();
    if let Some(default) = &field.default_value {
        let quoted = matches!(field.r#type(), Type::String | Type::Bytes) && field.r#type.is_some();
        options.push(if quoted { format!("default = \"{default}\"") } else { format!("default = {default}") });
    }
    if let Some(json) = field.json_name.as_ref().filter(|json| **json != camel(field.name())) {
        options.push(format!("json_name = \"{json}\""));
    }
    if let Some(of_field) = &field.options {
        let flags = [("deprecated", of_field.deprecated), ("packed", of_field.packed), ("lazy", of_field.lazy)];
        options.extend(named(&flags, &of_field.uninterpreted_option));
    }
    format!("{label}{of} {} = {}{};\n", field.name(), field.number(), bracketed(&options))
}

fn bracketed(options: &[String]) -> String {
    match options {
        [] => String::new(),
        [one] => format!(" [{one}]"),
        several => format!(" [\n  {}\n]", several.join(",\n  ")),
    }
}

/// What a field is called in JSON if it does not say.
fn camel(name: &str) -> String {
    let mut out = String::new();
    let mut raised = false;
    for c in name.chars() {
        match c {
            '_' => raised = true,
            c if std::mem::take(&mut raised) => out.extend(c.to_uppercase()),
            c => out.push(c),
        }
    }
    out
}

fn type_text(field: &FieldDescriptorProto) -> String {
    if let Some(name) = &field.type_name {
        return name.clone();
    }
    match field.r#type() {
        Type::Double => "double",
        Type::Float => "float",
        Type::Int64 => "int64",
        Type::Uint64 => "uint64",
        Type::Int32 => "int32",
        Type::Fixed64 => "fixed64",
        Type::Fixed32 => "fixed32",
        Type::Bool => "bool",
        Type::String => "string",
        Type::Group | Type::Message | Type::Enum => "",
        Type::Bytes => "bytes",
        Type::Uint32 => "uint32",
        Type::Sfixed32 => "sfixed32",
        Type::Sfixed64 => "sfixed64",
        Type::Sint32 => "sint32",
        Type::Sint64 => "sint64",
    }
    .to_owned()
}

fn enum_text(of: &EnumDescriptorProto) -> String {
    let options = of.options.as_ref().map(|options| {
        let flags = [("allow_alias", options.allow_alias), ("deprecated", options.deprecated)];
        named(&flags, &options.uninterpreted_option)
    });
    let options = options.unwrap_or_default().into_iter().map(|option| format!("option {option};\n")).collect();
    let mut reserved = Vec::new();
    if !of.reserved_range.is_empty() {
        let ranges = of.reserved_range.iter().map(|range| span(range.start(), range.end()));
        reserved.push(format!("reserved {};\n", ranges.collect::<Vec<_>>().join(", ")));
    }
    if !of.reserved_name.is_empty() {
        let names = of.reserved_name.iter().map(|name| format!("\"{name}\""));
        reserved.push(format!("reserved {};\n", names.collect::<Vec<_>>().join(", ")));
    }
    let values = of.value.iter().map(|value| {
        let options = value
            .options
            .as_ref()
            .map(|options| named(&[("deprecated", options.deprecated)], &options.uninterpreted_option));
        format!("{} = {}{};\n", value.name(), value.number(), bracketed(&options.unwrap_or_default()))
    });
    let mut out = String::new();
    block(&format!("enum {}", of.name()), vec![reserved, options, values.collect()], &mut out);
    out
}

/// One block for each message that is extended.
fn extensions(fields: &[FieldDescriptorProto], file: &FileDescriptorProto) -> Vec<String> {
    fields
        .chunk_by(|a, b| a.extendee == b.extendee)
        .map(|fields| {
            let extendee = fields.first().map(|field| field.extendee().to_owned()).unwrap_or_default();
            let lines = fields.iter().map(|field| field_text(field, &[], file, true)).collect();
            let mut out = String::new();
            block(&format!("extend {extendee}"), vec![lines], &mut out);
            out
        })
        .collect()
}

fn service_text(service: &ServiceDescriptorProto) -> String {
    let stream = |is_stream: bool| if is_stream { "stream " } else { "" };
    let methods = service.method.iter().map(|method| {
        let (from, to) = (stream(method.client_streaming()), stream(method.server_streaming()));
        format!("rpc {} ({from}{}) returns ({to}{});\n", method.name(), method.input_type(), method.output_type())
    });
    let mut out = String::new();
    block(&format!("service {}", service.name()), vec![methods.collect()], &mut out);
    out
}

fn file_options(options: &FileOptions) -> Vec<String> {
    let texts = [
        ("java_package", &options.java_package),
        ("java_outer_classname", &options.java_outer_classname),
        ("go_package", &options.go_package),
        ("objc_class_prefix", &options.objc_class_prefix),
        ("csharp_namespace", &options.csharp_namespace),
        ("swift_prefix", &options.swift_prefix),
        ("php_class_prefix", &options.php_class_prefix),
        ("php_namespace", &options.php_namespace),
        ("ruby_package", &options.ruby_package),
    ];
    let texts = texts.into_iter().filter_map(|(name, text)| Some(format!("{name} = \"{}\"", text.as_ref()?)));
    let flags = [
        ("java_multiple_files", options.java_multiple_files),
        ("java_string_check_utf8", options.java_string_check_utf8),
        ("cc_enable_arenas", options.cc_enable_arenas),
        ("deprecated", options.deprecated),
    ];
    let speed =
        options.optimize_for.is_some().then(|| format!("optimize_for = {}", options.optimize_for().as_str_name()));
    texts.chain(speed).chain(named(&flags, &options.uninterpreted_option)).collect()
}

/// `name = value` of the flags that are given and of the options as written.
fn named(flags: &[(&str, Option<bool>)], written: &[UninterpretedOption]) -> Vec<String> {
    let flags = flags.iter().filter_map(|(name, value)| Some(format!("{name} = {}", (*value)?)));
    flags.chain(written.iter().map(option_text)).collect()
}

fn option_text(option: &UninterpretedOption) -> String {
    let part = |part: &NamePart| {
        if part.is_extension { format!("({})", part.name_part) } else { part.name_part.clone() }
    };
    let name = option.name.iter().map(part).collect::<Vec<_>>().join(".");
    let value = if let Some(identifier) = &option.identifier_value {
        identifier.clone()
    } else if let Some(number) = option.positive_int_value {
        number.to_string()
    } else if let Some(number) = option.negative_int_value {
        number.to_string()
    } else if let Some(number) = option.double_value {
        number.to_string()
    } else if let Some(text) = &option.string_value {
        quoted(text)
    } else {
        format!("{{ {} }}", option.aggregate_value())
    };
    format!("{name} = {value}")
}

fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            for c in text.chars() {
                match c {
                    '"' => out.push_str("\\\""),
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    c => out.push(c),
                }
            }
        }
        Err(_) => bytes.iter().for_each(|byte| out.push_str(&format!("\\{byte:03o}"))),
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str, normalized: bool) -> String {
        print(&ProtobufSchema::parse(text, &[]).expect(text), normalized)
    }

    #[test]
    fn files_have_one_layout() {
        let text = "// A comment.\nsyntax=\"proto3\";package com.a;import \"google/protobuf/timestamp.proto\";option java_package=\"x\";\nenum Kind{NONE=0;SOME=1;}message Outer{oneof pick{string s=3;int32 i=4;}repeated Inner inner=2;map<string,int64> counts=1;optional bool flag=5 [deprecated=true];google.protobuf.Timestamp at=6;reserved 10,12 to 14;reserved \"old\";message Inner{string v=1;}}message Empty{}";
        let wanted = r#"syntax = "proto3";
package com.a;

import "google/protobuf/timestamp.proto";

option java_package = "x";

message Outer {
  reserved 10, 12 to 14;
  reserved "old";

  repeated Inner inner = 2;
  map<string, int64> counts = 1;
  optional bool flag = 5 [deprecated = true];
  google.protobuf.Timestamp at = 6;

  oneof pick {
    string s = 3;
    int32 i = 4;
  }

  message Inner {
    string v = 1;
  }
}
message Empty {}
enum Kind {
  NONE = 0;
  SOME = 1;
}
"#;
        assert_eq!(printed(text, false), wanted);
        assert_eq!(printed(wanted, false), wanted, "prints the same once more");
    }

    /// redpanda#26858.
    #[test]
    fn normalised_files_have_fields_in_order_and_types_in_full() {
        let text = "syntax = \"proto3\"; package p; message A { B b = 2; string a = 1; } message B {} enum E { X = 0; Z = 2; Y = 1; }";
        let wanted = "syntax = \"proto3\";\npackage p;\n\nmessage A {\n  string a = 1;\n  .p.B b = 2;\n}\nmessage B {}\nenum E {\n  X = 0;\n  Y = 1;\n  Z = 2;\n}\n";
        assert_eq!(printed(text, true), wanted);
        assert_eq!(printed(wanted, true), wanted);
    }
}
