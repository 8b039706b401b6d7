//! Avro schemas printed: as Java's `Schema.toString`, which Confluent's registry stores; normalised; and inlined.

use std::collections::HashSet;

use super::super::json::{Json, write_string};
use super::avro::{AvroSchema, AvroType, Field, Name, Order, Primitive, Shape, TypeId};

/// A way of printing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Attributes as written, types of references by name.
    Canonical,
    /// The same with attributes, aliases and members of defaults in one order.
    Normalized,
    /// As [`Style::Canonical`], with the types of references at their first use.
    Inlined,
}

#[must_use]
pub fn print(schema: &AvroSchema, style: Style) -> String {
    let known = match style {
        Style::Canonical | Style::Normalized => schema.referred.iter().cloned().collect(),
        Style::Inlined => HashSet::new(),
    };
    let mut printer = Printer { schema, normalized: style == Style::Normalized, known, out: String::new() };
    printer.of(schema.root(), None);
    printer.out
}

/// Types that may carry each logical type; with another, the attribute means nothing.
fn is_logical(name: &str, shape: &Shape) -> bool {
    let Shape::Primitive(primitive) = shape else {
        return match shape {
            Shape::Fixed { size, .. } => match name {
                "decimal" => true,
                "duration" => *size == 12,
                "uuid" => *size == 16,
                _ => false,
            },
            _ => false,
        };
    };
    match name {
        "decimal" | "big-decimal" => *primitive == Primitive::Bytes,
        "uuid" => *primitive == Primitive::String,
        "date" | "time-millis" => *primitive == Primitive::Int,
        "time-micros"
        | "timestamp-millis"
        | "timestamp-micros"
        | "timestamp-nanos"
        | "local-timestamp-millis"
        | "local-timestamp-micros"
        | "local-timestamp-nanos" => *primitive == Primitive::Long,
        _ => false,
    }
}

struct Printer<'a> {
    schema: &'a AvroSchema,
    normalized: bool,
    /// Types that are printed by name from here on.
    known: HashSet<Name>,
    out: String,
}

impl Printer<'_> {
    fn member(&mut self, name: &str) {
        if !self.out.ends_with('{') {
            self.out.push(',');
        }
        write_string(name, &mut self.out);
        self.out.push(':');
    }

    fn text(&mut self, name: &str, text: &str) {
        self.member(name);
        write_string(text, &mut self.out);
    }

    fn json(&mut self, name: &str, value: &Json) {
        self.member(name);
        if self.normalized { value.sorted().write(&mut self.out) } else { value.write(&mut self.out) }
    }

    fn of(&mut self, id: TypeId, space: Option<&str>) {
        let of = self.schema.get(id);
        if let Some(name) = of.shape.name() {
            if self.known.contains(name) {
                let qualified = qualified(name, space);
                return write_string(&qualified, &mut self.out);
            }
            self.known.insert(name.clone());
        }
        match &of.shape {
            Shape::Primitive(primitive) if of.attributes.is_empty() => {
                write_string(primitive.as_str(), &mut self.out);
            }
            Shape::Union(branches) => {
                self.out.push('[');
                for (n, branch) in branches.iter().enumerate() {
                    if n > 0 {
                        self.out.push(',');
                    }
                    self.of(*branch, space);
                }
                self.out.push(']');
            }
            _ => {
                self.out.push('{');
                self.members(of, space);
                self.out.push('}');
            }
        }
    }

    fn members(&mut self, of: &AvroType, space: Option<&str>) {
        match &of.shape {
            Shape::Primitive(primitive) => self.text("type", primitive.as_str()),
            Shape::Array(items) => {
                self.text("type", "array");
                self.member("items");
                self.of(*items, space);
            }
            Shape::Map(values) => {
                self.text("type", "map");
                self.member("values");
                self.of(*values, space);
            }
            Shape::Union(_) => debug_assert!(false, "a union has no members"),
            Shape::Record { name, is_error, fields } => {
                self.text("type", if *is_error { "error" } else { "record" });
                self.heading(of, name, space);
                self.member("fields");
                self.out.push('[');
                for (n, field) in fields.iter().enumerate() {
                    if n > 0 {
                        self.out.push(',');
                    }
                    self.field(field, name.space.as_deref());
                }
                self.out.push(']');
            }
            Shape::Enum { name, symbols, default } => {
                self.text("type", "enum");
                self.heading(of, name, space);
                self.json("symbols", &Json::array(symbols.iter().map(|symbol| symbol.as_str().into())));
                if let Some(default) = default {
                    self.text("default", default);
                }
            }
            Shape::Fixed { name, size } => {
                self.text("type", "fixed");
                self.heading(of, name, space);
                self.json("size", &(*size).into());
            }
        }
        let attributes = self.attributes(of);
        for (name, value) in &attributes {
            self.json(name, value);
        }
        if let (Some(name), false) = (of.shape.name(), of.aliases.is_empty()) {
            let mut aliases: Vec<&Name> = of.aliases.iter().collect();
            if self.normalized {
                aliases.sort_by_key(|alias| alias.full());
                aliases.dedup();
            }
            let aliases = aliases.into_iter().map(|alias| qualified(alias, name.space.as_deref()).into());
            self.json("aliases", &Json::array(aliases));
        }
    }

    /// Name, namespace where it is not the one around, and what is said of the type.
    fn heading(&mut self, of: &AvroType, name: &Name, space: Option<&str>) {
        self.text("name", &name.name);
        match (name.space.as_deref(), space) {
            (Some(own), around) if Some(own) != around => self.text("namespace", own),
            (None, Some(_)) => self.text("namespace", ""),
            _ => {}
        }
        if let Some(doc) = of.doc.as_ref().filter(|doc| !self.normalized || !doc.is_empty()) {
            self.text("doc", doc);
        }
    }

    fn field(&mut self, field: &Field, space: Option<&str>) {
        self.out.push('{');
        self.text("name", &field.name);
        self.member("type");
        self.of(field.of, space);
        if let Some(doc) = &field.doc {
            self.text("doc", doc);
        }
        if let Some(default) = &field.default {
            self.json("default", default);
        }
        match field.order {
            Order::Ascending => {}
            Order::Descending => self.text("order", "descending"),
            Order::Ignore => self.text("order", "ignore"),
        }
        if !field.aliases.is_empty() {
            let mut aliases = field.aliases.clone();
            if self.normalized {
                aliases.sort();
            }
            self.json("aliases", &Json::array(aliases.into_iter().map(Json::from)));
        }
        let mut attributes = field.attributes.clone();
        if self.normalized {
            attributes.sort_by(|a, b| a.0.cmp(&b.0));
        }
        for (name, value) in &attributes {
            self.json(name, value);
        }
        self.out.push('}');
    }

    /// Normalised: the logical type with its parameters first, then by name.
    fn attributes(&self, of: &AvroType) -> Vec<(String, Json)> {
        let mut attributes = of.attributes.clone();
        if !self.normalized {
            return attributes;
        }
        let named = attributes.iter().find(|(name, _)| name == "logicalType").and_then(|(_, value)| value.as_str());
        let logical = named.filter(|name| is_logical(name, &of.shape)).map(ToOwned::to_owned);
        let is_scaled = attributes.iter().any(|(name, value)| name == "scale" && value.as_i64() != Some(0));
        let rank = |name: &str| match (name, logical.as_deref()) {
            ("logicalType", Some(_)) => 0,
            ("precision", Some("decimal")) => 1,
            ("scale", Some("decimal")) if is_scaled => 2,
            _ => 3,
        };
        attributes.sort_by(|a, b| (rank(&a.0), &a.0).cmp(&(rank(&b.0), &b.0)));
        attributes
    }
}

/// The name as it is written where `space` is around: in full unless it is of that namespace. A type that is called
/// like a primitive is written in full.
fn qualified(name: &Name, space: Option<&str>) -> String {
    let is_primitive = Primitive::ALL.iter().any(|primitive| primitive.as_str() == name.name);
    if name.space.as_deref() == space && !is_primitive { name.name.clone() } else { name.full() }
}

#[cfg(test)]
mod tests {
    use super::super::{Resolved, Strictness};
    use super::*;

    fn printed(text: &str, style: Style) -> String {
        print(&AvroSchema::parse(text, &[], Strictness::New).expect(text), style)
    }

    /// Left: written; right: what Confluent's registry hands out. The first is redpanda#4970.
    #[test]
    fn schemas_are_printed_as_confluents_registry_prints_them() {
        for (written, wanted) in [
            (r#"{"type":"string"}"#, r#""string""#),
            (r#" "string" "#, r#""string""#),
            (r#"{"type": "string", "avro.java.string": "String"}"#, r#"{"type":"string","avro.java.string":"String"}"#),
            (r#"[ "null" , {"type":"int"} ]"#, r#"["null","int"]"#),
            (r#"{"items":"long","type":"array"}"#, r#"{"type":"array","items":"long"}"#),
            (r#"{"values":"long","type":"map","x":1}"#, r#"{"type":"map","values":"long","x":1}"#),
            (
                r#"{"logicalType":"decimal","scale":2,"precision":9,"type":"bytes"}"#,
                r#"{"type":"bytes","logicalType":"decimal","scale":2,"precision":9}"#,
            ),
            (
                r#"{"fields":[{"type":"string","name":"f","default":"d","doc":"words"}],"doc":"what","name":"a.b.R","type":"record"}"#,
                r#"{"type":"record","name":"R","namespace":"a.b","doc":"what","fields":[{"name":"f","type":"string","doc":"words","default":"d"}]}"#,
            ),
            (
                r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"],"default":"A","doc":"x"}},{"name":"f","type":"n.E"},{"name":"g","type":["null","E"],"default":null,"order":"IGNORE","aliases":["h","i"],"p":{"b":1,"a":[1.50]}}],"aliases":["n.Old","m.Older"],"q":true}"#,
                r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"e","type":{"type":"enum","name":"E","doc":"x","symbols":["A","B"],"default":"A"}},{"name":"f","type":"E"},{"name":"g","type":["null","E"],"default":null,"order":"ignore","aliases":["h","i"],"p":{"b":1,"a":[1.5]}}],"q":true,"aliases":["Old","m.Older"]}"#,
            ),
            (
                r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"f","type":{"type":"fixed","name":"m.F","size":8}},{"name":"g","type":"m.F"},{"name":"h","type":{"type":"fixed","name":"G","namespace":"","size":1}}]}"#,
                r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"f","type":{"type":"fixed","name":"F","namespace":"m","size":8}},{"name":"g","type":"m.F"},{"name":"h","type":{"type":"fixed","name":"G","namespace":"","size":1}}]}"#,
            ),
            (
                r#"{"type":"record","name":"R","fields":[{"name":"d","type":"double","default":"1"},{"name":"x","type":"double","default":1e3},{"name":"n","type":["null","R"]}]}"#,
                r#"{"type":"record","name":"R","fields":[{"name":"d","type":"double","default":1.0},{"name":"x","type":"double","default":1000.0},{"name":"n","type":["null","R"]}]}"#,
            ),
            (r#"{"type":"error","name":"Oops","fields":[]}"#, r#"{"type":"error","name":"Oops","fields":[]}"#),
        ] {
            assert_eq!(printed(written, Style::Canonical), wanted);
            assert_eq!(printed(wanted, Style::Canonical), wanted, "prints the same once more");
        }
    }

    #[test]
    fn normalised_schemas_have_one_order() {
        for (written, wanted) in [
            (
                r#"{"type":"bytes","scale":2,"z":1,"precision":9,"a":2,"logicalType":"decimal"}"#,
                r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2,"a":2,"z":1}"#,
            ),
            (
                r#"{"type":"string","z":1,"logicalType":"decimal","precision":3,"a":{"y":1,"x":2}}"#,
                r#"{"type":"string","a":{"x":2,"y":1},"logicalType":"decimal","precision":3,"z":1}"#,
            ),
            (
                r#"{"type":"record","name":"R","doc":"","fields":[{"name":"f","type":"int","aliases":["z","a"],"y":1,"b":2}],"aliases":["Z","A"]}"#,
                r#"{"type":"record","name":"R","fields":[{"name":"f","type":"int","aliases":["a","z"],"b":2,"y":1}],"aliases":["A","Z"]}"#,
            ),
        ] {
            assert_eq!(printed(written, Style::Normalized), wanted);
            assert_eq!(printed(wanted, Style::Normalized), wanted);
        }
    }

    #[test]
    fn types_of_references_are_printed_by_name_or_inlined() {
        let money = r#"{"type":"record","name":"Money","namespace":"com.a","fields":[{"name":"n","type":"long"}]}"#;
        let reference = Resolved { name: "com.a.Money".into(), text: money.into() };
        let text = r#"{"type":"record","name":"Order","namespace":"com.a","fields":[{"name":"p","type":"com.a.Money"},{"name":"q","type":"Money"}]}"#;
        let schema = AvroSchema::parse(text, &[reference], Strictness::New).expect("parses");
        let by_name = r#"{"type":"record","name":"Order","namespace":"com.a","fields":[{"name":"p","type":"Money"},{"name":"q","type":"Money"}]}"#;
        assert_eq!(print(&schema, Style::Canonical), by_name);
        let inlined = r#"{"type":"record","name":"Order","namespace":"com.a","fields":[{"name":"p","type":{"type":"record","name":"Money","fields":[{"name":"n","type":"long"}]}},{"name":"q","type":"Money"}]}"#;
        assert_eq!(print(&schema, Style::Inlined), inlined);
    }
}
