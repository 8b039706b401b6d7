//! What Avro allows and forbids.

use super::*;

fn parse(text: &str) -> Result<AvroSchema, ParseError> {
    AvroSchema::parse(text, &[], Strictness::New)
}

#[test]
fn what_avro_forbids_is_refused() {
    for (bad, why) in [
        ("", "no JSON"),
        ("3", "not yet supported"),
        (r#""strin""#, "Undefined name"),
        (r#"{"name":"a"}"#, "No type"),
        (r#"{"type":{"type":"string"}}"#, "No type"),
        (r#"{"type":"record","name":"a"}"#, "no fields"),
        (r#"{"type":"record","fields":[]}"#, "No name"),
        (r#"{"type":"record","name":"1a","fields":[]}"#, "Illegal initial"),
        (r#"{"type":"record","name":"a-b","fields":[]}"#, "Illegal character"),
        (r#"{"type":"record","name":"a","fields":[{"name":"f"}]}"#, "No field type"),
        (r#"{"type":"record","name":"a","fields":[{"name":"f","type":"nope"}]}"#, "not a defined name"),
        (
            r#"{"type":"record","name":"a","fields":[{"name":"f","type":"int"},{"name":"f","type":"int"}]}"#,
            "Duplicate field",
        ),
        (r#"{"type":"record","name":"a","fields":[{"name":"f","type":"int","default":"x"}]}"#, "Invalid default"),
        (
            r#"{"type":"record","name":"a","fields":[{"name":"f","type":"int","default":2147483648}]}"#,
            "Invalid default",
        ),
        (r#"{"type":"enum","name":"e"}"#, "no symbols"),
        (r#"{"type":"enum","name":"e","symbols":["A","A"]}"#, "Duplicate enum"),
        (r#"{"type":"enum","name":"e","symbols":["A"],"default":"B"}"#, "Enum Default"),
        (r#"{"type":"fixed","name":"f"}"#, "no size"),
        (r#"{"type":"array"}"#, "no items"),
        (r#"{"type":"map"}"#, "no values"),
        (r#"["int","int"]"#, "Duplicate in union"),
        (r#"["int",["string"]]"#, "Nested union"),
        (r#"[{"type":"fixed","name":"f","size":1},{"type":"fixed","name":"f","size":1}]"#, "redefine"),
    ] {
        let error = parse(bad).expect_err(bad);
        assert!(error.0.contains(why), "{bad}: {error}");
    }
    let deep = format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(70), "}".repeat(70));
    assert!(parse(&deep).expect_err("too deep").0.contains("nest deeper"));
}

#[test]
fn defaults_are_checked_for_new_schemas_only() {
    let text = r#"{"type":"record","name":"a","fields":[{"name":"f","type":"string","default":null}]}"#;
    assert!(parse(text).is_err());
    assert!(AvroSchema::parse(text, &[], Strictness::Known).is_ok());
    let any_branch = r#"{"type":"record","name":"a","fields":[{"name":"f","type":["null","int"],"default":1}]}"#;
    assert!(parse(any_branch).is_ok());
}

#[test]
fn a_record_may_contain_itself() {
    let text = r#"{"type":"record","name":"n.List","fields":[{"name":"next","type":["null","List"]}]}"#;
    let schema = parse(text).expect("parses");
    let Shape::Record { fields, .. } = &schema.get(schema.root()).shape else { unreachable!("a record") };
    let Shape::Union(branches) = &schema.get(fields[0].of).shape else { unreachable!("a union") };
    assert_eq!(branches[1], schema.root());
}

/// Shallow in its text: each record names the one before it.
#[test]
fn a_long_chain_of_names_is_refused() {
    let chain = |length: usize| {
        let first = r#"{"type":"record","name":"R0","fields":[]}"#.to_owned();
        let next =
            |n: usize| format!(r#"{{"type":"record","name":"R{n}","fields":[{{"name":"f","type":"R{}"}}]}}"#, n - 1);
        let references: Vec<Resolved> = std::iter::once(first)
            .chain((1..length).map(next))
            .map(|text| Resolved { name: String::new(), text })
            .collect();
        AvroSchema::parse(&format!(r#""R{}""#, length - 1), &references, Strictness::New)
    };
    assert!(chain(100).is_ok());
    assert!(chain(5000).expect_err("too long").0.contains("steps"));
}

#[test]
fn names_are_looked_up_around_and_then_without_a_namespace() {
    let outer = Resolved { name: "A".into(), text: r#"{"type":"enum","name":"A","symbols":["X"]}"#.into() };
    let text = r#"{"type":"record","name":"n.R","fields":[{"name":"a","type":"A"}]}"#;
    assert!(AvroSchema::parse(text, &[outer], Strictness::New).is_ok());
    assert!(parse(text).is_err());
}
