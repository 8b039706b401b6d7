//! JSON Schema: read, checked against the rules of its draft, and with every `$ref` found among what is registered.
//!
//! Nothing is fetched: a reference leads into the schema itself, into one of the schemas it is registered with, or
//! into a draft's own schema. The text is stored as it was sent, without spaces.

use super::super::json::Json;
use super::super::limits::SCHEMA_DEPTH_MAX;
use super::{ParseError, Resolved};

/// A schema with the documents it refers to.
#[derive(Clone, Debug)]
pub struct JsonSchema {
    /// The schema itself first.
    documents: Vec<Document>,
}

#[derive(Clone, Debug)]
struct Document {
    /// What referring schemas call it; of the schema itself nothing.
    name: String,
    json: Json,
}

/// A part of a document that is a schema.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    document: usize,
    pub json: &'a Json,
}

impl<'a> Place<'a> {
    #[must_use]
    pub const fn at(self, json: &'a Json) -> Self {
        Self { document: self.document, json }
    }
}

/// Keywords whose value is data, in which a `$ref` is no reference.
const DATA: [&str; 5] = ["enum", "const", "default", "examples", "example"];

impl JsonSchema {
    /// # Errors
    /// The text is no JSON, breaks a rule of its draft, or has a `$ref` that leads nowhere.
    pub fn parse(text: &str, references: &[Resolved]) -> Result<Self, ParseError> {
        let read =
            |text: &str| Json::parse(text).map_err(|why| ParseError::new(format!("the schema is no JSON: {why}")));
        let mut documents = vec![Document { name: String::new(), json: read(text)? }];
        for Resolved { name, text } in references {
            documents.push(Document { name: name.clone(), json: read(text)? });
        }
        let schema = Self { documents };
        schema.check_draft(text)?;
        let root = schema.root();
        schema.check_references(root, 0)?;
        Ok(schema)
    }

    #[must_use]
    #[allow(clippy::indexing_slicing, reason = "the schema itself is always there")]
    pub fn root(&self) -> Place<'_> {
        Place { document: 0, json: &self.documents[0].json }
    }

    #[must_use]
    pub fn canonical(&self) -> String {
        self.root().json.to_string()
    }

    #[must_use]
    pub fn normalized(&self) -> String {
        self.root().json.sorted().to_string()
    }

    fn check_draft(&self, text: &str) -> Result<(), ParseError> {
        let json = self.root().json;
        if json.as_object().is_none() && json.as_bool().is_none() {
            return Err(ParseError::new("a JSON schema is an object, true or false"));
        }
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|why| ParseError::new(format!("the schema is no JSON: {why}")))?;
        let draft = json.get("$schema").and_then(Json::as_str).unwrap_or_default();
        let is = |part: &str| draft.contains(part);
        let checked = match () {
            () if is("draft-04") => jsonschema::draft4::meta::validate(&value),
            () if is("draft-06") => jsonschema::draft6::meta::validate(&value),
            () if is("2019-09") => jsonschema::draft201909::meta::validate(&value),
            () if is("2020-12") => jsonschema::draft202012::meta::validate(&value),
            // Draft 7, which is what Confluent's registry takes a schema for that does not say.
            () => jsonschema::draft7::meta::validate(&value),
        };
        checked.map_err(|why| ParseError::new(format!("{why} (at {})", why.instance_path())))
    }

    fn check_references(&self, at: Place<'_>, depth: usize) -> Result<(), ParseError> {
        if depth > SCHEMA_DEPTH_MAX {
            return Err(ParseError::new(format!("schemas nest deeper than {SCHEMA_DEPTH_MAX} levels")));
        }
        match at.json {
            Json::Object(members) => {
                if let Some(reference) = at.json.get("$ref").and_then(Json::as_str)
                    && self.lead(at, reference).is_none()
                    && !is_draft(reference)
                {
                    return Err(ParseError::new(format!("$ref \"{reference}\" leads nowhere: name it in references")));
                }
                let schemas = members.iter().filter(|(name, _)| !DATA.contains(&name.as_str()));
                schemas.into_iter().try_for_each(|(_, value)| self.check_references(at.at(value), depth + 1))
            }
            Json::Array(items) => items.iter().try_for_each(|item| self.check_references(at.at(item), depth + 1)),
            _ => Ok(()),
        }
    }

    /// What a schema that is only a reference stands for.
    #[must_use]
    pub fn follow<'a>(&'a self, at: Place<'a>) -> Option<Place<'a>> {
        self.lead(at, at.json.get("$ref")?.as_str()?)
    }

    /// Where a `$ref` in `at` leads.
    fn lead<'a>(&'a self, at: Place<'_>, reference: &str) -> Option<Place<'a>> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let index = if document.is_empty() { at.document } else { self.document(at.document, document)? };
        let root = Place { document: index, json: &self.documents.get(index)?.json };
        if fragment.is_empty() {
            return Some(root);
        }
        match fragment.strip_prefix('/') {
            Some(pointer) => {
                let steps = pointer.split('/').map(|step| {
                    let step = percent_encoding::percent_decode_str(step).decode_utf8_lossy().into_owned();
                    step.replace("~1", "/").replace("~0", "~")
                });
                steps.into_iter().try_fold(root.json, |json, step| inside(json, &step)).map(|json| root.at(json))
            }
            None => anchored(root.json, fragment, 0).map(|json| root.at(json)),
        }
    }

    /// A document by the name it is registered with, or by its `$id`; a relative name counts from the `$id` of `from`.
    fn document(&self, from: usize, name: &str) -> Option<usize> {
        let id = |document: &Document| {
            let id = document.json.get("$id").or_else(|| document.json.get("id"))?.as_str()?;
            Some(id.trim_end_matches('#').to_owned())
        };
        let base = self.documents.get(from).and_then(id);
        let folder = base.as_deref().and_then(|base| base.rfind('/').map(|end| base.get(..=end).unwrap_or_default()));
        let absolute = folder.map(|folder| format!("{folder}{name}"));
        self.documents.iter().enumerate().find_map(|(index, document)| {
            let named = [Some(document.name.clone()).filter(|name| !name.is_empty()), id(document)];
            let fits = |called: &String| called == name || Some(called) == absolute.as_ref();
            named.iter().flatten().any(fits).then_some(index)
        })
    }
}

/// A draft's own schema, which anything may refer to.
fn is_draft(reference: &str) -> bool {
    reference.starts_with("http://json-schema.org/draft") || reference.starts_with("https://json-schema.org/draft")
}

fn inside<'a>(json: &'a Json, step: &str) -> Option<&'a Json> {
    match json {
        Json::Array(items) => items.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    }
}

/// The part that calls itself `name`, by `$anchor` or by an id of a fragment alone.
fn anchored<'a>(json: &'a Json, name: &str, depth: usize) -> Option<&'a Json> {
    if depth > SCHEMA_DEPTH_MAX {
        return None;
    }
    let is = |keyword: &str, wanted: &str| json.get(keyword).and_then(Json::as_str) == Some(wanted);
    let fragment = format!("#{name}");
    if is("$anchor", name) || is("$dynamicAnchor", name) || is("$id", &fragment) || is("id", &fragment) {
        return Some(json);
    }
    match json {
        Json::Object(members) => members.iter().find_map(|(_, value)| anchored(value, name, depth + 1)),
        Json::Array(items) => items.iter().find_map(|item| anchored(item, name, depth + 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<JsonSchema, ParseError> {
        JsonSchema::parse(text, &[])
    }

    #[test]
    fn the_text_stays_but_for_spaces() {
        let schema = parse("{ \"type\" : \"object\",\n \"properties\": {\"b\": true, \"a\": {\"maximum\": 1.50}} }")
            .expect("parses");
        assert_eq!(schema.canonical(), r#"{"type":"object","properties":{"b":true,"a":{"maximum":1.5}}}"#);
        assert_eq!(schema.normalized(), r#"{"properties":{"a":{"maximum":1.5},"b":true},"type":"object"}"#);
        assert_eq!(parse("true").expect("parses").canonical(), "true");
    }

    #[test]
    fn what_a_draft_forbids_is_refused() {
        for bad in [
            "",
            "3",
            "\"object\"",
            "[]",
            r#"{"type":"strin"}"#,
            r#"{"required":"a"}"#,
            r#"{"minimum":"1"}"#,
            r#"{"properties":[]}"#,
            r#"{"type":["string","string"]}"#,
            r#"{"maxLength":-1}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let of_draft_4 = r#"{"$schema":"http://json-schema.org/draft-04/schema#","minimum":1,"exclusiveMinimum":true}"#;
        assert!(parse(of_draft_4).is_ok());
        assert!(parse(r#"{"minimum":1,"exclusiveMinimum":true}"#).is_err());
        assert!(parse(r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","prefixItems":[true]}"#).is_ok());
    }

    #[test]
    fn references_lead_into_what_is_registered_and_nowhere_else() {
        for good in [
            r##"{"$ref":"#/definitions/a","definitions":{"a":{}}}"##,
            r##"{"properties":{"n":{"$ref":"#"}}}"##,
            r##"{"$ref":"#/definitions/a~1b%20c","definitions":{"a/b c":{}}}"##,
            r##"{"$ref":"#x","definitions":{"a":{"$id":"#x"}}}"##,
            r#"{"$ref":"http://json-schema.org/draft-07/schema#"}"#,
            r##"{"enum":[{"$ref":"#/nope"}]}"##,
            r#"{"properties":{"$ref":{"type":"string"}}}"#,
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            r##"{"$ref":"#/definitions/b"}"##,
            r#"{"$ref":"other.json"}"#,
            r#"{"items":{"$ref":"https://example.com/x"}}"#,
        ] {
            assert!(parse(bad).expect_err(bad).0.contains("leads nowhere"), "{bad}");
        }
        let other = Resolved {
            name: "other.json".into(),
            text: r#"{"$id":"https://example.com/a/other.json","definitions":{"x":{"type":"string"}}}"#.into(),
        };
        for text in [
            r#"{"$ref":"other.json"}"#,
            r##"{"$ref":"other.json#/definitions/x"}"##,
            r#"{"$ref":"https://example.com/a/other.json"}"#,
            r#"{"$id":"https://example.com/a/me.json","$ref":"other.json"}"#,
        ] {
            assert!(JsonSchema::parse(text, std::slice::from_ref(&other)).is_ok(), "{text}");
        }
    }
}
