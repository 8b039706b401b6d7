//! The keys that a body of S3's `DeleteObjects` names. Pure.

use quick_xml::de::from_str;
use serde::Deserialize;

use super::judge::{Refusal, refuse};

/// Of one request, as S3 has it.
const KEYS_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    #[serde(rename = "@xmlns", default)]
    _namespace: String,
    #[serde(rename = "Object")]
    objects: Vec<Object>,
    #[serde(rename = "Quiet", default)]
    _quiet: Option<String>,
}

/// Versions and conditions are refused: a version that is deleted is gone for good.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    #[serde(rename = "Key")]
    key: String,
}

/// The keys, as the store will read them.
pub(super) fn keys(body: &str) -> Result<Vec<String>, Refusal> {
    let declared = body.strip_prefix("<?xml").and_then(|rest| rest.split_once("?>"));
    let rest = declared.map_or(body, |(_, rest)| rest);
    // Comments, entities and the like can mean one key to this parser and another one to the store's.
    if rest.contains("<!") || rest.contains("<?") {
        return refuse("the list of objects to delete has more than elements in it".to_owned());
    }
    let (rest, tag) = (rest.trim(), "<Delete");
    // The parser stops at the end of the first element.
    if !rest.starts_with(tag) || !rest.ends_with("</Delete>") || rest.matches(tag).count() != 1 {
        return refuse("the body is no list of objects to delete".to_owned());
    }
    let parsed: Delete =
        from_str(rest).map_err(|error| Refusal(format!("the list of objects to delete cannot be read: {error}")))?;
    if parsed.objects.len() > KEYS_MAX {
        return refuse(format!("the list of objects to delete has more than {KEYS_MAX} keys"));
    }
    Ok(parsed.objects.into_iter().map(|object| object.key).collect())
}
