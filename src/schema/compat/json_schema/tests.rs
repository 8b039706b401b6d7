//! Changes to JSON schemas, and which of them narrow.

use super::*;

/// `errorType path`, one a line.
fn changed(old: &str, new: &str) -> String {
    let parse = |text: &str| JsonSchema::parse(text, &[]).expect(text);
    let found = compare(&parse(new), &parse(old));
    found.iter().map(|d| format!("{} {}", d.kind, d.path)).collect::<Vec<_>>().join("\n")
}

fn object(rest: &str) -> String {
    format!(r#"{{"type":"object",{rest}}}"#)
}

#[test]
fn each_change_has_its_name_and_path() {
    let open = r#""properties":{"a":{"type":"string"}}"#;
    let closed = r#""properties":{"a":{"type":"string"}},"additionalProperties":false"#;
    let partial = r#""properties":{"a":{"type":"string"}},"additionalProperties":{"type":"string"}"#;
    let with_b = |of: &str, b: &str| of.replacen(r#"{"a""#, &format!(r#"{{"b":{b},"a""#), 1);
    for (old, new, wanted) in [
        (r#"{"type":"string"}"#.to_owned(), r#"{"type":"string"}"#.to_owned(), ""),
        (r#"{"type":"string"}"#.to_owned(), r#"{"type":"integer"}"#.to_owned(), "TYPE_CHANGED #/"),
        (r#"{"type":"integer"}"#.to_owned(), r#"{"type":"number"}"#.to_owned(), ""),
        (r#"{"type":"number"}"#.to_owned(), r#"{"type":"integer"}"#.to_owned(), "TYPE_NARROWED #/"),
        (r#"{"type":"string"}"#.to_owned(), r#"{"type":["string","null"]}"#.to_owned(), ""),
        (r#"{"type":["string","null"]}"#.to_owned(), r#"{"type":"string"}"#.to_owned(), "TYPE_CHANGED #/"),
        (r#"{"type":"string"}"#.to_owned(), "{}".to_owned(), ""),
        ("{}".to_owned(), r#"{"type":"string"}"#.to_owned(), "TYPE_CHANGED #/"),
        ("false".to_owned(), r#"{"type":"string"}"#.to_owned(), ""),
        (
            r#"{"type":"string"}"#.to_owned(),
            r#"{"type":"string","maxLength":3}"#.to_owned(),
            "MAX_LENGTH_ADDED #/maxLength",
        ),
        (
            r#"{"type":"string","maxLength":3}"#.to_owned(),
            r#"{"type":"string","maxLength":2}"#.to_owned(),
            "MAX_LENGTH_DECREASED #/maxLength",
        ),
        (r#"{"type":"string","maxLength":3}"#.to_owned(), r#"{"type":"string","maxLength":4}"#.to_owned(), ""),
        (
            r#"{"type":"string","minLength":3}"#.to_owned(),
            r#"{"type":"string","minLength":4}"#.to_owned(),
            "MIN_LENGTH_INCREASED #/minLength",
        ),
        (
            r#"{"type":"string","pattern":"a"}"#.to_owned(),
            r#"{"type":"string","pattern":"b"}"#.to_owned(),
            "PATTERN_CHANGED #/pattern",
        ),
        (
            r#"{"type":"number","minimum":1}"#.to_owned(),
            r#"{"type":"number","minimum":1.5}"#.to_owned(),
            "MINIMUM_INCREASED #/minimum",
        ),
        (
            r#"{"type":"number","multipleOf":2}"#.to_owned(),
            r#"{"type":"number","multipleOf":4}"#.to_owned(),
            "MULTIPLE_OF_EXPANDED #/multipleOf",
        ),
        (r#"{"type":"number","multipleOf":4}"#.to_owned(), r#"{"type":"number","multipleOf":2}"#.to_owned(), ""),
        (
            r#"{"type":"number","multipleOf":4}"#.to_owned(),
            r#"{"type":"number","multipleOf":3}"#.to_owned(),
            "MULTIPLE_OF_CHANGED #/multipleOf",
        ),
        (r#"{"enum":["a","b"]}"#.to_owned(), r#"{"enum":["b"]}"#.to_owned(), "ENUM_ARRAY_NARROWED #/enum"),
        (r#"{"enum":["a","b"]}"#.to_owned(), r#"{"enum":["b","c"]}"#.to_owned(), "ENUM_ARRAY_CHANGED #/enum"),
        (r#"{"enum":["a","b"]}"#.to_owned(), r#"{"enum":["b","c","a"]}"#.to_owned(), ""),
        // Content models.
        (
            object(open),
            object(&with_b(open, r#"{"type":"string"}"#)),
            "PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL #/properties/b",
        ),
        (object(open), object(&with_b(open, "{}")), ""),
        (object(&with_b(open, r#"{"type":"string"}"#)), object(open), ""),
        (object(closed), object(&with_b(closed, r#"{"type":"string"}"#)), ""),
        (
            object(&with_b(closed, r#"{"type":"string"}"#)),
            object(closed),
            "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL #/properties/b",
        ),
        (object(&with_b(closed, "false")), object(closed), ""),
        (object(partial), object(&with_b(partial, r#"{"type":"string"}"#)), ""),
        (
            object(partial),
            object(&with_b(partial, r#"{"type":"integer"}"#)),
            "TYPE_CHANGED #/properties/b\nPROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL #/properties/b",
        ),
        (
            object(&with_b(partial, r#"{"type":"integer"}"#)),
            object(partial),
            "TYPE_CHANGED #/properties/b\nPROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL #/properties/b",
        ),
        (
            object(closed),
            object(&(with_b(closed, r#"{"type":"string"}"#) + r#","required":["b"]"#)),
            "REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL #/properties/b",
        ),
        (object(closed), object(&(with_b(closed, r#"{"type":"string","default":""}"#) + r#","required":["b"]"#)), ""),
        (object(open), object(&format!(r#"{open},"required":["a"]"#)), "REQUIRED_ATTRIBUTE_ADDED #/required/a"),
        (object(&format!(r#"{open},"required":["a"]"#)), object(open), ""),
        (object(open), object(closed), "ADDITIONAL_PROPERTIES_REMOVED #/additionalProperties"),
        (object(open), object(partial), "ADDITIONAL_PROPERTIES_NARROWED #/additionalProperties"),
        (object(closed), object(open), ""),
        (object(open), object(&open.replace("string", "integer")), "TYPE_CHANGED #/properties/a"),
        (
            object(r#""patternProperties":{"^x":{"type":"integer"}},"additionalProperties":false"#),
            object(
                r#""properties":{"x1":{"type":"integer"}},"patternProperties":{"^x":{"type":"integer"}},"additionalProperties":false"#,
            ),
            "",
        ),
        (object(r#""maxProperties":2"#), object(r#""maxProperties":1"#), "MAX_PROPERTIES_DECREASED #/maxProperties"),
        (
            object(open),
            object(&format!(r#"{open},"dependencies":{{"a":["b"]}}"#)),
            "DEPENDENCY_ARRAY_ADDED #/dependencies/a",
        ),
        // Arrays.
        (
            r#"{"type":"array","items":{"type":"string"}}"#.to_owned(),
            r#"{"type":"array","items":{"type":"integer"}}"#.to_owned(),
            "TYPE_CHANGED #/items",
        ),
        (r#"{"type":"array"}"#.to_owned(), r#"{"type":"array","maxItems":1}"#.to_owned(), "MAX_ITEMS_ADDED #/maxItems"),
        (
            r#"{"type":"array"}"#.to_owned(),
            r#"{"type":"array","uniqueItems":true}"#.to_owned(),
            "UNIQUE_ITEMS_ADDED #/uniqueItems",
        ),
        (
            r#"{"type":"array","items":[true,{"type":"string"}],"additionalItems":false}"#.to_owned(),
            r#"{"type":"array","items":[true],"additionalItems":false}"#.to_owned(),
            "ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL #/items/1",
        ),
        (
            r#"{"type":"array","items":[true]}"#.to_owned(),
            r#"{"type":"array","items":[true,{"type":"string"}]}"#.to_owned(),
            "ITEM_ADDED_TO_OPEN_CONTENT_MODEL #/items/1",
        ),
        // Combinations.
        (
            r#"{"oneOf":[{"type":"string"},{"type":"null"}]}"#.to_owned(),
            r#"{"oneOf":[{"type":"null"},{"type":"string"},{"type":"integer"}]}"#.to_owned(),
            "",
        ),
        (
            r#"{"oneOf":[{"type":"null"},{"type":"string"},{"type":"integer"}]}"#.to_owned(),
            r#"{"oneOf":[{"type":"string"},{"type":"null"}]}"#.to_owned(),
            "SUM_TYPE_NARROWED #/oneOf",
        ),
        (
            r#"{"oneOf":[{"type":"null"},{"type":"string"}]}"#.to_owned(),
            r#"{"oneOf":[{"type":"boolean"},{"type":"null"}]}"#.to_owned(),
            "COMBINED_TYPE_SUBSCHEMAS_CHANGED #/oneOf",
        ),
        (r#"{"type":"string"}"#.to_owned(), r#"{"anyOf":[{"type":"integer"},{"type":"string"}]}"#.to_owned(), ""),
        (
            r#"{"allOf":[{"type":"string"}]}"#.to_owned(),
            r#"{"allOf":[{"type":"string"},{"maxLength":3}]}"#.to_owned(),
            "PRODUCT_TYPE_EXTENDED #/allOf",
        ),
        (r#"{"not":{"type":"string"}}"#.to_owned(), r#"{"not":{"type":"string","maxLength":1}}"#.to_owned(), ""),
        (
            r#"{"not":{"type":"integer"}}"#.to_owned(),
            r#"{"not":{"type":"number"}}"#.to_owned(),
            "NOT_TYPE_EXTENDED #/not",
        ),
    ] {
        assert_eq!(changed(&old, &new), wanted, "{old} -> {new}");
    }
}

#[test]
fn recursive_schemas_end_and_references_are_followed() {
    let list = |of: &str| {
        format!(
            r##"{{"type":"object","properties":{{"next":{{"$ref":"#"}},"v":{{"$ref":"#/definitions/v"}}}},"definitions":{{"v":{{"type":"{of}"}}}}}}"##
        )
    };
    assert_eq!(changed(&list("integer"), &list("number")), "");
    assert_eq!(changed(&list("number"), &list("integer")), "TYPE_NARROWED #/properties/v");
}

#[test]
fn pairs_are_found_where_the_first_choice_blocks_another() {
    assert_eq!(matching(&[vec![0, 1], vec![0]], 2), 2);
    assert_eq!(matching(&[vec![0], vec![0]], 2), 1);
    assert_eq!(matching(&[], 3), 0);
}

#[test]
fn a_message_names_kind_path_and_both_schemas() {
    let parse = |text: &str| JsonSchema::parse(text, &[]).expect(text);
    let (old, new) = (parse(r#"{"type":"string"}"#), parse(r#"{"type":"integer"}"#));
    let wanted = r#"{errorType:"TYPE_CHANGED", description:"A type at path '#/' is different between the new schema and the old schema"}"#;
    assert_eq!(differences(&new, &old, Sides { reader: "new", writer: "old" }), [wanted]);
}
