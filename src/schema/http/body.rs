//! Bodies of requests. Members that are not known are ignored, and null is the same as not there (redpanda#23038).

use super::super::definition::{Metadata, Reference, SchemaKind};
use super::super::error::SchemaError;
use super::super::json::Json;
use super::super::request::Submitted;
use super::super::settings::{Config, ConfigError, Mode};

fn object(body: &[u8]) -> Result<Json, SchemaError> {
    let json = Json::parse_bytes(body).map_err(|error| SchemaError::BadRequest(format!("no JSON: {error}")))?;
    if json.as_object().is_none() {
        return Err(SchemaError::BadRequest("the body is no JSON object".to_owned()));
    }
    Ok(json)
}

fn wrong(name: &str, wanted: &str) -> SchemaError {
    SchemaError::BadRequest(format!("{name} is not {wanted}"))
}

/// A schema to register, to look up or to compare.
///
/// # Errors
/// A member has another type, or the kind or the rules are not known.
pub fn schema(body: &[u8]) -> Result<Submitted, SchemaError> {
    let json = object(body)?;
    let text = json.given("schema").map(|text| text.as_str().ok_or(wrong("schema", "a string"))).transpose()?;
    let kind = match json.given("schemaType") {
        None => SchemaKind::Avro,
        Some(kind) => {
            let kind = kind.as_str().ok_or(wrong("schemaType", "a string"))?;
            let unknown = || SchemaError::InvalidSchema(format!("Invalid schema type {kind}"));
            if kind.is_empty() { SchemaKind::Avro } else { SchemaKind::parse(kind).ok_or_else(unknown)? }
        }
    };
    let references = json.given("references").map_or(Some(&[][..]), Json::as_array);
    let references = references.ok_or(wrong("references", "an array"))?.iter().map(Reference::from_json);
    let references = references.collect::<Option<Vec<_>>>();
    let number = |name: &'static str| match json.given(name) {
        None => Ok(None),
        Some(number) => number.as_i32().map(Some).ok_or(wrong(name, "a whole number")),
    };
    let metadata = json.given("metadata");
    let metadata = metadata.map(|metadata| Metadata::from_json(metadata).ok_or(wrong("metadata", "metadata")));
    Ok(Submitted {
        kind,
        text: text.map(ToOwned::to_owned),
        references: references.ok_or(wrong("references", "a list of name, subject and version"))?,
        metadata: metadata.transpose()?,
        rules: json.given("ruleSet").map(rules).transpose()?,
        id: number("id")?.filter(|id| *id >= 0),
        version: number("version")?.filter(|version| *version != 0),
    })
}

/// Lists of rules with names; what is in a rule is the clients' business.
fn rules(json: &Json) -> Result<Json, SchemaError> {
    let lists = json.as_object().ok_or(wrong("ruleSet", "an object"))?;
    for (list, rules) in lists.iter().filter(|(_, rules)| *rules != Json::Null) {
        let Some(rules) = rules.as_array() else { continue };
        for rule in rules {
            let name = rule.get("name").and_then(Json::as_str).unwrap_or_default();
            if name.is_empty() {
                return Err(SchemaError::InvalidRules(format!("a rule of {list} has no name")));
            }
        }
    }
    let given = lists.iter().filter(|(_, rules)| *rules != Json::Null);
    Ok(Json::Object(given.cloned().collect()))
}

/// # Errors
/// The level has no such name, or a member has another type.
pub fn config(body: &[u8]) -> Result<Config, SchemaError> {
    Config::from_json(&object(body)?).map_err(|error| match error {
        ConfigError::Level => SchemaError::InvalidLevel,
        ConfigError::Part(name) => wrong(name, "of its type"),
    })
}

/// # Errors
/// The mode has no such name.
pub fn mode(body: &[u8]) -> Result<Mode, SchemaError> {
    let json = object(body)?;
    json.get("mode").and_then(Json::as_str).and_then(Mode::parse).ok_or(SchemaError::InvalidMode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_the_same_as_nothing() {
        let read = schema(br#"{"schema":"\"int\"","schemaType":null,"references":null,"metadata":null,"ruleSet":null,"id":null,"version":null,"x":1}"#);
        let wanted = Submitted { text: Some("\"int\"".to_owned()), ..Submitted::default() };
        assert_eq!(read, Ok(wanted));
    }

    #[test]
    fn bad_bodies_have_codes() {
        for (body, code) in [
            (&b""[..], 400),
            (b"[]", 400),
            (b"{\"schema\":", 400),
            (br#"{"schema":{"type":"int"}}"#, 400),
            (br#"{"schema":"","schemaType":"XML"}"#, 42201),
            (br#"{"schema":"","references":[{"name":"a"}]}"#, 400),
            (br#"{"schema":"","ruleSet":{"domainRules":[{"name":""}]}}"#, 42210),
            (br#"{"schema":"","version":"1"}"#, 400),
        ] {
            assert_eq!(schema(body).expect_err("refused").code(), code, "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(config(br#"{"compatibility":"SOMETIMES"}"#).expect_err("refused").code(), 42203);
        assert_eq!(mode(br#"{"mode":"WRITE"}"#).expect_err("refused").code(), 42204);
        assert_eq!(mode(b"{}").expect_err("refused").code(), 42204);
    }
}
