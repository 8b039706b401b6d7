//! Avro: the rules of schema resolution, every difference with its path into the reader.
//!
//! As in Java's `SchemaCompatibility`: names are compared without their namespaces, a reader's aliases count, and a
//! pair of types that is already being compared counts as fitting, so that recursive schemas end.

use std::collections::{BTreeSet, HashMap};

use super::super::canonical::avro::{AvroSchema, AvroType, Field, Name, Primitive, Shape, TypeId};
use super::super::limits::{COMPARISON_DEPTH_MAX, COMPARISONS_MAX, DIFFERENCES_MAX};
use super::Sides;

/// Why `reader` cannot read what was written with `writer`, as Confluent's registry words it.
#[must_use]
pub fn differences(reader: &AvroSchema, writer: &AvroSchema, sides: Sides) -> Vec<String> {
    let mut comparison =
        Comparison { reader, writer, seen: HashMap::new(), path: Vec::new(), left: COMPARISONS_MAX, depth: 0 };
    let found = comparison.compare(reader.root(), writer.root());
    let mut messages: Vec<String> = found.iter().take(DIFFERENCES_MAX).map(|d| d.message(sides)).collect();
    if comparison.left == 0 {
        messages.push(TOO_LARGE.to_owned());
    }
    messages
}

const TOO_LARGE: &str =
    "{errorType:'TOO_LARGE', description:'The schemas are too large or too deep to compare', additionalInfo:''}";

/// A rule that two types break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Name,
    FixedSize,
    EnumSymbols,
    FieldDefault,
    Type,
    UnionBranch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    rule: Rule,
    /// A JSON pointer into the reader, or into the writer's union where a branch of that has no counterpart.
    path: String,
    info: String,
}

impl Difference {
    fn message(&self, Sides { reader, writer }: Sides) -> String {
        let Self { rule, path, info } = self;
        let (kind, description) = match rule {
            Rule::Name => ("NAME_MISMATCH", format!("The name of the schema has changed (path '{path}')")),
            Rule::FixedSize => (
                "FIXED_SIZE_MISMATCH",
                format!(
                    "The FIXED type at path '{path}' has another size in the {reader} schema than in the {writer} schema"
                ),
            ),
            Rule::EnumSymbols => (
                "MISSING_ENUM_SYMBOLS",
                format!(
                    "The {reader} schema lacks the enum symbols '{info}' at path '{path}' that the {writer} schema has"
                ),
            ),
            Rule::FieldDefault => (
                "READER_FIELD_MISSING_DEFAULT_VALUE",
                format!(
                    "The field '{info}' at path '{path}' in the {reader} schema has no default value and is missing in the {writer} schema"
                ),
            ),
            Rule::Type => (
                "TYPE_MISMATCH",
                format!("The type at path '{path}' in the {reader} schema does not match that in the {writer} schema"),
            ),
            Rule::UnionBranch => (
                "MISSING_UNION_BRANCH",
                format!("The {reader} schema lacks a type in the union at path '{path}' that the {writer} schema has"),
            ),
        };
        format!("{{errorType:'{kind}', description:'{description}', additionalInfo:'{info}'}}")
    }
}

struct Comparison<'a> {
    reader: &'a AvroSchema,
    writer: &'a AvroSchema,
    /// Pairs that were compared, or are being compared (`None`).
    seen: HashMap<(TypeId, TypeId), Option<Vec<Difference>>>,
    path: Vec<String>,
    /// Comparisons that may still be made; none when it went too deep.
    left: usize,
    depth: usize,
}

impl<'a> Comparison<'a> {
    fn compare(&mut self, reader: TypeId, writer: TypeId) -> Vec<Difference> {
        match self.seen.get(&(reader, writer)) {
            Some(Some(found)) => return found.clone(),
            Some(None) => return Vec::new(),
            None => {}
        }
        if self.depth >= COMPARISON_DEPTH_MAX {
            self.left = 0;
        }
        let Some(left) = self.left.checked_sub(1) else { return Vec::new() };
        self.left = left;
        self.seen.insert((reader, writer), None);
        self.depth += 1;
        let mut found = self.of_pair(reader, writer);
        self.depth -= 1;
        found.truncate(DIFFERENCES_MAX);
        self.seen.insert((reader, writer), Some(found.clone()));
        found
    }

    /// The same one step down the path.
    fn inside(&mut self, step: impl Into<String>, reader: TypeId, writer: TypeId) -> Vec<Difference> {
        self.path.push(step.into());
        let found = self.compare(reader, writer);
        self.path.pop();
        found
    }

    /// The same with a path of its own: how branches of a union are tried.
    fn apart(&mut self, reader: TypeId, writer: TypeId) -> Vec<Difference> {
        let path = std::mem::take(&mut self.path);
        let found = self.compare(reader, writer);
        self.path = path;
        found
    }

    fn difference(&self, rule: Rule, step: Option<&str>, info: String) -> Difference {
        let steps = self.path.iter().map(String::as_str).chain(step);
        let path = steps.map(|step| step.replace('~', "~0").replace('/', "~1")).collect::<Vec<_>>();
        Difference { rule, path: format!("/{}", path.join("/")), info }
    }

    fn of_pair(&mut self, reader: TypeId, writer: TypeId) -> Vec<Difference> {
        let (schema, other): (&'a AvroSchema, &'a AvroSchema) = (self.reader, self.writer);
        let (read, written) = (schema.get(reader), other.get(writer));
        match (&read.shape, &written.shape) {
            (Shape::Primitive(to), Shape::Primitive(from)) if reads(*to, *from) => Vec::new(),
            (Shape::Array(to), Shape::Array(from)) => self.inside("items", *to, *from),
            (Shape::Map(to), Shape::Map(from)) => self.inside("values", *to, *from),
            (Shape::Fixed { size: to, .. }, Shape::Fixed { size: from, .. }) => {
                let mut found: Vec<_> = self.names(read, written).into_iter().collect();
                if to != from {
                    let info = format!("expected: {from}, found: {to}");
                    found.push(self.difference(Rule::FixedSize, Some("size"), info));
                }
                found
            }
            (Shape::Enum { symbols: to, default, .. }, Shape::Enum { symbols: from, .. }) => {
                let mut found: Vec<_> = self.names(read, written).into_iter().collect();
                let lacking: BTreeSet<&str> =
                    from.iter().filter(|symbol| !to.contains(symbol)).map(String::as_str).collect();
                if !lacking.is_empty() && default.is_none() {
                    let info = format!("[{}]", lacking.into_iter().collect::<Vec<_>>().join(", "));
                    found.push(self.difference(Rule::EnumSymbols, Some("symbols"), info));
                }
                found
            }
            (Shape::Record { fields: to, .. }, Shape::Record { fields: from, .. }) => {
                let mut found: Vec<_> = self.names(read, written).into_iter().collect();
                self.fields(to, from, writer, &mut found);
                found
            }
            (Shape::Union(_), Shape::Union(branches)) => {
                let mut found = Vec::new();
                for (n, branch) in branches.iter().enumerate() {
                    if !self.apart(reader, *branch).is_empty() {
                        let kind = other.get(*branch).shape.kind();
                        let info = format!("reader union lacking writer type: {kind}");
                        found.push(self.difference(Rule::UnionBranch, Some(&n.to_string()), info));
                    }
                }
                found
            }
            (_, Shape::Union(branches)) => {
                let mut found = Vec::new();
                for branch in branches {
                    found.extend(self.apart(reader, *branch));
                }
                found
            }
            (Shape::Union(branches), of) => {
                if branches.iter().any(|branch| self.apart(*branch, writer).is_empty()) {
                    return Vec::new();
                }
                let info = format!("reader union lacking writer type: {}", of.kind());
                vec![self.difference(Rule::UnionBranch, None, info)]
            }
            (to, from) => {
                let info = format!("reader type: {} not compatible with writer type: {}", to.kind(), from.kind());
                vec![self.difference(Rule::Type, None, info)]
            }
        }
    }

    fn names(&self, read: &AvroType, written: &AvroType) -> Option<Difference> {
        let (to, from) = (read.shape.name()?, written.shape.name()?);
        if to.name == from.name || read.aliases.contains(from) {
            return None;
        }
        Some(self.difference(Rule::Name, Some("name"), format!("expected: {}", Name::full(from))))
    }

    fn fields(&mut self, to: &[Field], from: &[Field], writer: TypeId, found: &mut Vec<Difference>) {
        let by_name: HashMap<&str, &Field> = from.iter().map(|field| (field.name.as_str(), field)).collect();
        self.path.push("fields".to_owned());
        for (n, field) in to.iter().enumerate() {
            if found.len() > DIFFERENCES_MAX {
                break;
            }
            self.path.push(n.to_string());
            let names = std::iter::once(&field.name).chain(&field.aliases);
            match names.into_iter().find_map(|name| by_name.get(name.as_str())) {
                Some(written) => found.extend(self.inside("type", field.of, written.of)),
                None if field.default.is_some() => {}
                // An enum's own default does not help where the field is missing: Java compares it with the record.
                None if self.has_enum_default(field) => found.extend(self.inside("type", field.of, writer)),
                None => found.push(self.difference(Rule::FieldDefault, None, field.name.clone())),
            }
            self.path.pop();
        }
        self.path.pop();
    }

    fn has_enum_default(&self, field: &Field) -> bool {
        matches!(&self.reader.get(field.of).shape, Shape::Enum { default: Some(_), .. })
    }
}

/// Equal types, and the promotions that Avro allows.
const fn reads(reader: Primitive, writer: Primitive) -> bool {
    use Primitive::{Boolean, Bytes, Double, Float, Int, Long, Null, String};
    matches!(
        (reader, writer),
        (Null, Null)
            | (Boolean, Boolean)
            | (Int, Int)
            | (Long, Int | Long)
            | (Float, Int | Long | Float)
            | (Double, Int | Long | Float | Double)
            | (String | Bytes, String | Bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::canonical::Strictness;
    use super::*;

    const SIDES: Sides = Sides { reader: "new", writer: "old" };

    /// `errorType path info`, one a line.
    fn compared(reader: &str, writer: &str) -> String {
        let parse = |text: &str| AvroSchema::parse(text, &[], Strictness::Known).expect(text);
        let (reader, writer) = (parse(reader), parse(writer));
        let mut comparison = Comparison {
            reader: &reader,
            writer: &writer,
            seen: HashMap::new(),
            path: Vec::new(),
            left: COMPARISONS_MAX,
            depth: 0,
        };
        let found = comparison.compare(reader.root(), writer.root());
        found.iter().map(|d| format!("{:?} {} {}", d.rule, d.path, d.info)).collect::<Vec<_>>().join("\n")
    }

    fn record(fields: &str) -> String {
        format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)
    }

    #[test]
    fn primitives_promote_one_way() {
        let names = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
        let fits = |reader: &str, writer: &str| compared(&format!("\"{reader}\""), &format!("\"{writer}\"")).is_empty();
        let pairs: Vec<String> = names
            .iter()
            .flat_map(|reader| names.iter().map(move |writer| (*reader, *writer)))
            .filter(|(reader, writer)| reader != writer && fits(reader, writer))
            .map(|(reader, writer)| format!("{writer}>{reader}"))
            .collect();
        let wanted = "int>long int>float long>float int>double long>double float>double string>bytes bytes>string";
        assert_eq!(pairs.join(" "), wanted);
    }

    #[test]
    fn every_rule_is_reported_with_its_path() {
        let (one, two) = (r#"{"name":"f1","type":"string"}"#, r#"{"name":"f2","type":"int"}"#);
        for (reader, writer, wanted) in [
            (record(&format!("{one},{two}")), record(one), "FieldDefault /fields/1 f2"),
            (record(&format!("{one},{}", two.replace('}', r#","default":1}"#))), record(one), ""),
            (record(one), record(&format!("{one},{two}")), ""),
            (
                record(r#"{"name":"f1","type":"int"}"#),
                record(one),
                "Type /fields/0/type reader type: INT not compatible with writer type: STRING",
            ),
            (
                r#"{"type":"record","name":"S","fields":[]}"#.to_owned(),
                r#"{"type":"record","name":"n.R","fields":[]}"#.to_owned(),
                "Name /name expected: n.R",
            ),
            (
                r#"{"type":"record","name":"S","aliases":["n.R"],"fields":[]}"#.to_owned(),
                r#"{"type":"record","name":"n.R","fields":[]}"#.to_owned(),
                "",
            ),
            (
                r#"{"type":"record","name":"other.R","fields":[]}"#.to_owned(),
                r#"{"type":"record","name":"n.R","fields":[]}"#.to_owned(),
                "",
            ),
            (
                r#"{"type":"enum","name":"E","symbols":["A"]}"#.to_owned(),
                r#"{"type":"enum","name":"E","symbols":["A","C","B"]}"#.to_owned(),
                "EnumSymbols /symbols [B, C]",
            ),
            (
                r#"{"type":"enum","name":"E","symbols":["A"],"default":"A"}"#.to_owned(),
                r#"{"type":"enum","name":"E","symbols":["A","C","B"]}"#.to_owned(),
                "",
            ),
            (
                r#"{"type":"fixed","name":"F","size":16}"#.to_owned(),
                r#"{"type":"fixed","name":"F","size":8}"#.to_owned(),
                "FixedSize /size expected: 8, found: 16",
            ),
            (
                r#"["int"]"#.to_owned(),
                r#"["int","string"]"#.to_owned(),
                "UnionBranch /1 reader union lacking writer type: STRING",
            ),
            (
                r#"["int","string"]"#.to_owned(),
                r#""boolean""#.to_owned(),
                "UnionBranch / reader union lacking writer type: BOOLEAN",
            ),
            (r#"["null","long"]"#.to_owned(), r#""int""#.to_owned(), ""),
            (
                r#""int""#.to_owned(),
                r#"["null","int"]"#.to_owned(),
                "Type / reader type: INT not compatible with writer type: NULL",
            ),
            (
                r#"{"type":"array","items":"int"}"#.to_owned(),
                r#"{"type":"array","items":"string"}"#.to_owned(),
                "Type /items reader type: INT not compatible with writer type: STRING",
            ),
            (
                r#"{"type":"map","values":"int"}"#.to_owned(),
                r#"{"type":"map","values":"string"}"#.to_owned(),
                "Type /values reader type: INT not compatible with writer type: STRING",
            ),
            (
                r#"{"type":"map","values":"int"}"#.to_owned(),
                r#"{"type":"array","items":"int"}"#.to_owned(),
                "Type / reader type: MAP not compatible with writer type: ARRAY",
            ),
            (record(r#"{"name":"g","aliases":["f1"],"type":"string"}"#), record(one), ""),
        ] {
            assert_eq!(compared(&reader, &writer), wanted, "{reader} reads {writer}");
        }
    }

    #[test]
    fn recursive_schemas_end() {
        let list = |of: &str| {
            format!(
                r#"{{"type":"record","name":"L","fields":[{{"name":"v","type":"{of}"}},{{"name":"n","type":["null","L"]}}]}}"#
            )
        };
        assert_eq!(compared(&list("long"), &list("int")), "");
        let wanted = "Type /fields/0/type reader type: INT not compatible with writer type: LONG";
        assert!(compared(&list("int"), &list("long")).starts_with(wanted));
    }

    #[test]
    fn a_message_names_kind_path_and_both_schemas() {
        let parse = |text: &str| AvroSchema::parse(text, &[], Strictness::Known).expect(text);
        let new = parse(&record(r#"{"name":"f1","type":"string"},{"name":"f2","type":"string"}"#));
        let old = parse(&record(r#"{"name":"f1","type":"string"}"#));
        assert_eq!(
            differences(&new, &old, SIDES),
            [
                "{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'The field 'f2' at path '/fields/1' in the new schema has no default value and is missing in the old schema', additionalInfo:'f2'}"
            ]
        );
    }

    #[test]
    fn a_comparison_without_end_is_cut() {
        // Each level is a union of records that differ in the level below: pairs multiply.
        let mut of = r#""int""#.to_owned();
        for level in 0..14 {
            let branch = |n: usize| {
                let field =
                    format!(r#"{{"name":"f","type":{}}}"#, if n == 0 { of.clone() } else { r#""string""#.into() });
                format!(r#"{{"type":"record","name":"R{level}x{n}","fields":[{field}]}}"#)
            };
            of = format!("[{}]", (0..3).map(branch).collect::<Vec<_>>().join(","));
        }
        assert_eq!(compared(&of, &of), "");
    }
}
