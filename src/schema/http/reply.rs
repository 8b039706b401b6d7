//! Answers and refusals as status, media type and body.

use super::super::definition::{Definition, Metadata, Reference};
use super::super::error::SchemaError;
use super::super::json::Json;
use super::super::request::{Answer, Shown};
use super::super::subject::Subject;
use super::MEDIA_TYPES;

/// What goes to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

impl Reply {
    #[must_use]
    pub fn root() -> Self {
        Self { status: 200, body: "{}".to_owned() }
    }
}

/// The media type that a client accepts, the first of ours that it names.
///
/// # Errors
/// It accepts none of them.
pub fn media_type(accept: Option<&str>) -> Result<&'static str, SchemaError> {
    let [ours, ..] = MEDIA_TYPES;
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Ok(ours) };
    for part in accept.split(',') {
        let bare = part.split(';').next().unwrap_or_default().trim();
        if matches!(bare, "*/*" | "application/*") {
            return Ok(ours);
        }
        if let Some(known) = MEDIA_TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(bare)) {
            return Ok(known);
        }
    }
    Err(SchemaError::NotAcceptable(accept.chars().take(100).collect()))
}

impl From<SchemaError> for Reply {
    fn from(error: SchemaError) -> Self {
        let code = Json::Integer(error.code().to_string());
        let body = Json::object([("error_code", code), ("message", error.to_string().into())]);
        Self { status: error.status(), body: body.to_string() }
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        let names = |names: Vec<String>| Json::array(names.into_iter().map(Json::from));
        let body = match answer {
            // The schema itself, not a string with it inside.
            Answer::Text(text) => return Self { status: 200, body: text },
            Answer::Nothing => return Self { status: 204, body: String::new() },
            Answer::Names(all) => names(all),
            Answer::Numbers(all) => Json::array(all.into_iter().map(Json::from)),
            Answer::Number(number) => number.into(),
            Answer::Schema(schema) => shown(&schema),
            Answer::Schemas(schemas) => Json::array(schemas.iter().map(shown)),
            Answer::Places(places) => Json::array(places.into_iter().map(|(subject, version)| {
                Json::object([("subject", subject.as_str().into()), ("version", version.into())])
            })),
            Answer::Ids(ids) => Json::array(
                ids.into_iter()
                    .map(|(context, id)| Json::object([("context", context.as_str().into()), ("id", id.into())])),
            ),
            Answer::Registered { id, version, guid, changed } => {
                let head = [("id", id.into()), ("version", version.into()), ("guid", guid.to_string().into())];
                with(&Json::object(head), changed.as_deref())
            }
            Answer::Compatible { is_compatible, messages } => {
                let messages = messages.map_or(Json::Null, names);
                Json::object([("is_compatible", is_compatible.into()), ("messages", messages)])
            }
            Answer::Config(config) => config.to_json("compatibilityLevel"),
            Answer::ConfigSet(config) => config.to_json("compatibility"),
            Answer::Mode(mode) => Json::object([("mode", mode.as_str().into())]),
            Answer::Json(json) => json,
        };
        Self { status: 200, body: body.to_string() }
    }
}

fn shown(schema: &Shown) -> Json {
    let Shown { subject, version, id, guid, definition, max_id } = schema;
    let head = Json::object([
        ("subject", subject.as_ref().map(Subject::as_str).into()),
        ("version", (*version).into()),
        ("id", (*id).into()),
        ("guid", guid.to_string().into()),
    ]);
    let Json::Object(mut members) = with(&head, Some(definition)) else { return head };
    members.extend(max_id.map(|max_id| ("maxId".to_owned(), max_id.into())));
    Json::Object(members)
}

/// `head` with the members of a schema behind it; those of an Avro schema without references are its text alone.
fn with(head: &Json, definition: Option<&Definition>) -> Json {
    let mut members = head.as_object().unwrap_or_default().to_vec();
    if let Some(Definition { kind, text, references, metadata, rules }) = definition {
        let references = match references.as_slice() {
            [] => Json::Null,
            references => Json::array(references.iter().map(Reference::to_json)),
        };
        let schema = Json::object([
            ("schemaType", kind.in_json()),
            ("references", references),
            ("metadata", metadata.as_ref().map_or(Json::Null, Metadata::to_json)),
            ("ruleSet", rules.clone().unwrap_or_default()),
            ("schema", text.as_str().into()),
        ]);
        members.extend(schema.as_object().unwrap_or_default().iter().cloned());
    }
    Json::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_choose_among_three_media_types() {
        let [v1, any, json] = MEDIA_TYPES;
        for (accept, wanted) in [
            (None, Ok(v1)),
            (Some("*/*"), Ok(v1)),
            (Some("application/json"), Ok(json)),
            (Some("application/vnd.schemaregistry+json; q=0.9, application/json; q=0.5"), Ok(any)),
            (Some("text/html, application/json"), Ok(json)),
        ] {
            assert_eq!(media_type(accept), wanted, "{accept:?}");
        }
        assert_eq!(media_type(Some("text/html")).expect_err("refused").status(), 406);
    }

    #[test]
    fn refusals_carry_confluents_codes() {
        let reply = Reply::from(SchemaError::SubjectNotFound(Subject::parse("s")));
        assert_eq!(
            reply,
            Reply { status: 404, body: r#"{"error_code":40401,"message":"Subject 's' not found."}"#.into() }
        );
    }
}
