//! What the answers of an external catalog mean. Pure.
//!
//! Iceberg's specification gives a status to each outcome, and an error's body names its kind. A status alone is not
//! trusted where a mistake costs data: a 404 without Iceberg's error body is a wrong URL or a proxy, not a table that
//! is gone, because a sink makes a table that is gone again.

use iceberg::spec::TableMetadata;
use iceberg::{NamespaceIdent, TableIdent, TableUpdate};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{Answer, Failure};
use crate::catalog::CatalogError;

/// Characters of a message of the catalog that are repeated.
const MESSAGE_MAX: usize = 400;

/// What a request was about.
#[derive(Clone, Copy, Debug)]
pub(super) enum About<'a> {
    Catalog,
    Namespace(&'a NamespaceIdent),
    Table(&'a TableIdent),
}

impl std::fmt::Display for About<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Catalog => write!(f, "the external catalog"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace} of the external catalog"),
            Self::Table(table) => write!(f, "{table} of the external catalog"),
        }
    }
}

/// Iceberg's error body.
#[derive(Debug, Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    r#type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

/// A table, as answers to load, create and commit have it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TableBody {
    pub(super) metadata_location: Option<String>,
    pub(super) metadata: TableMetadata,
}

fn error_of(answer: &Answer) -> Option<ErrorBody> {
    serde_json::from_slice::<ErrorAnswer>(&answer.body).ok().map(|answer| answer.error)
}

/// What the catalog says of an error, as short text on one line.
pub(super) fn message(answer: &Answer) -> String {
    let said = error_of(answer).and_then(|error| error.message);
    let text = said.unwrap_or_else(|| {
        String::from_utf8_lossy(answer.body.get(..MESSAGE_MAX * 4).unwrap_or(&answer.body)).into_owned()
    });
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(plain).collect();
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MESSAGE_MAX).collect();
    if text.is_empty() { format!("status {}", answer.status) } else { format!("status {}: {text}", answer.status) }
}

/// The body of a successful answer to a read.
pub(super) fn parse<T: DeserializeOwned>(answer: &Answer, about: About<'_>) -> Result<T, CatalogError> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| CatalogError::BadAnswer { detail: format!("the answer for {about} cannot be used: {error}") })
}

/// An answer that is no success, to a request that changed nothing.
pub(super) fn refusal(answer: &Answer, about: About<'_>) -> CatalogError {
    let said = message(answer);
    let detail = format!("{about}: {said}");
    match answer.status {
        401 | 403 | 419 => CatalogError::Refused {
            detail: format!("{detail}; check the credentials for the catalog and what its user may do"),
        },
        404 => absent(answer, about, detail),
        405 | 501 => CatalogError::Refused { detail: format!("{detail}; the catalog does not offer this") },
        409 => match about {
            About::Table(table) => CatalogError::Conflict { table: table.clone(), detail: said },
            About::Namespace(namespace) => CatalogError::NamespaceExists(namespace.clone()),
            About::Catalog => CatalogError::Busy { detail },
        },
        422 => CatalogError::Unprocessable { detail },
        408 | 425 | 429 | 500..=599 => CatalogError::Busy { detail: format!("{detail}; tried again later") },
        400..=499 => CatalogError::Invalid { detail },
        _ => CatalogError::BadAnswer { detail: format!("{detail}; is this the URL of an Iceberg REST catalog?") },
    }
}

fn absent(answer: &Answer, about: About<'_>, detail: String) -> CatalogError {
    // Iceberg's errors name their kind; those of gateways look alike otherwise.
    let Some(kind) = error_of(answer).and_then(|error| error.r#type).filter(|kind| !kind.is_empty()) else {
        let detail = format!("{detail}; is this the URL of an Iceberg REST catalog, with the right warehouse?");
        return CatalogError::BadAnswer { detail };
    };
    match about {
        // The file that the catalog's pointer names.
        _ if kind == "NotFoundException" => {
            CatalogError::Refused { detail: format!("{detail}; the catalog names a metadata file that is not there") }
        }
        About::Table(table) if kind.contains("Namespace") => CatalogError::NoSuchNamespace(table.namespace.clone()),
        About::Table(table) => CatalogError::NoSuchTable(table.clone()),
        About::Namespace(namespace) => CatalogError::NoSuchNamespace(namespace.clone()),
        About::Catalog => CatalogError::Refused { detail },
    }
}

/// A read without an answer.
pub(super) fn unread(failure: &Failure, about: About<'_>) -> CatalogError {
    let detail = format!("{about} cannot be reached: {}", failure.reason());
    match failure {
        Failure::NoToken(_) => CatalogError::Refused { detail },
        Failure::NotSent(_) | Failure::Lost(_) => CatalogError::Busy { detail },
    }
}

/// A change without an answer: unknown unless it was never sent.
pub(super) fn unanswered(failure: &Failure, table: &TableIdent) -> CatalogError {
    match failure {
        Failure::Lost(why) => CatalogError::Unknown { table: table.clone(), detail: why.clone() },
        Failure::NotSent(_) | Failure::NoToken(_) => unread(failure, About::Table(table)),
    }
}

/// An answer that is no success, to a change of a table. A failure of the server, or of a proxy before it, says nothing
/// about the change.
pub(super) fn change_refusal(answer: &Answer, table: &TableIdent) -> CatalogError {
    match answer.status {
        400..=407 | 409..=424 | 426..=499 | 501 => refusal(answer, About::Table(table)),
        _ => CatalogError::Unknown { table: table.clone(), detail: message(answer) },
    }
}

/// Whether `metadata` is what `updates` lead to; if not, what it lacks. Catalogs have been seen to answer a commit with
/// an older state, and to drop properties.
pub(super) fn lacks(metadata: &TableMetadata, updates: &[TableUpdate]) -> Option<String> {
    updates.iter().find_map(|update| match update {
        TableUpdate::AddSnapshot { snapshot } => {
            let id = snapshot.snapshot_id();
            let kept = metadata.snapshot_by_id(id).map(|found| &found.summary().additional_properties);
            // The catalog may add to the summary; ours says which offsets the snapshot reaches.
            let ours = snapshot.summary().additional_properties.iter().filter(|(key, _)| key.starts_with("tidewater."));
            let is_whole = kept.is_some_and(|kept| ours.clone().all(|(key, value)| kept.get(key) == Some(value)));
            (!is_whole).then(|| format!("snapshot {id}"))
        }
        TableUpdate::SetSnapshotRef { ref_name, reference } => {
            let found = metadata.snapshot_for_ref(ref_name).map(|snapshot| snapshot.snapshot_id());
            (found != Some(reference.snapshot_id)).then(|| format!("{ref_name} at snapshot {}", reference.snapshot_id))
        }
        TableUpdate::SetProperties { updates } => {
            // A catalog may have its own mind about others, such as a compression for all tables.
            let ours = updates.iter().filter(|(key, _)| key.starts_with("tidewater."));
            let mut lost: Vec<_> =
                ours.filter(|(key, value)| metadata.properties().get(*key) != Some(*value)).collect();
            lost.sort();
            lost.first().map(|(key, _)| format!("property {key}"))
        }
        _ => None,
    })
}

/// The snapshot that `updates` add: by it a commit is recognised.
pub(super) fn added_snapshot(updates: &[TableUpdate]) -> Option<i64> {
    updates.iter().find_map(|update| match update {
        TableUpdate::AddSnapshot { snapshot } => Some(snapshot.snapshot_id()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use tidewater_storage::disposition::Disposition;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, etag: None, body: body.as_bytes().to_vec() }
    }

    fn error(status: u16, kind: &str) -> Answer {
        answer(status, &format!(r#"{{"error":{{"message":"m","type":"{kind}","code":{status}}}}}"#))
    }

    #[test]
    fn a_change_is_refused_only_by_an_answer_that_says_so() {
        let table = TableIdent::from_strs(["topics", "orders"]).expect("legal");
        for (status, meant) in [
            (400, Disposition::Refused),
            (401, Disposition::Refused),
            (403, Disposition::Refused),
            (404, Disposition::Absent),
            (409, Disposition::Conflict),
            (422, Disposition::Refused),
            (429, Disposition::Retry),
            (501, Disposition::Refused),
            (200, Disposition::Unknown),
            (302, Disposition::Unknown),
            (408, Disposition::Unknown),
            (500, Disposition::Unknown),
            (502, Disposition::Unknown),
            (503, Disposition::Unknown),
            (504, Disposition::Unknown),
        ] {
            let judged = change_refusal(&error(status, "NoSuchTableException"), &table);
            assert_eq!(judged.disposition(), meant, "{status}: {judged}");
        }
    }

    #[test]
    fn only_icebergs_own_404_says_that_a_table_is_gone() {
        let table = TableIdent::from_strs(["topics", "orders"]).expect("legal");
        let judge = |answer: Answer| refusal(&answer, About::Table(&table));
        assert!(matches!(judge(error(404, "NoSuchTableException")), CatalogError::NoSuchTable(_)));
        assert!(matches!(judge(error(404, "NoSuchNamespaceException")), CatalogError::NoSuchNamespace(_)));
        assert!(matches!(judge(error(404, "NotFoundException")), CatalogError::Refused { .. }));
        for body in ["", "<html>not here</html>", "{}", r#"{"error":"no"}"#] {
            assert!(matches!(judge(answer(404, body)), CatalogError::BadAnswer { .. }), "{body}");
        }
    }

    #[test]
    fn what_the_catalog_says_is_cut_short() {
        let long = "x".repeat(100_000);
        assert!(message(&answer(400, &long)).len() < 500);
        assert_eq!(message(&answer(400, "a\n  b")), "status 400: a b");
        assert_eq!(message(&answer(500, "")), "status 500");
    }
}
