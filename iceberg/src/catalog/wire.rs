//! JSON of the Iceberg REST catalog (iceberg `open-api/rest-catalog-open-api.yaml`): requests, answers, errors with
//! their codes. Routes and sockets are the root's.

use std::collections::{HashMap, HashSet};

use iceberg::spec::{FormatVersion, Schema, SortOrder, UnboundPartitionSpec};
use iceberg::{NamespaceIdent, TableIdent, TableRequirement, TableUpdate};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidewater_tiering::store::StoreError;

pub mod signing;
pub mod views;

use super::creation::FORMAT_VERSION;
use super::{CatalogError, NewTable, RawLoaded, TableCommit};
use crate::files::FileError;

/// What `/v1/config` lists as served, so that clients do not try the rest.
pub const ENDPOINTS: &[&str] = &[
    "GET /v1/{prefix}/namespaces",
    "POST /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "DELETE /v1/{prefix}/namespaces/{namespace}",
    "POST /v1/{prefix}/namespaces/{namespace}/properties",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/register",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
    "POST /v1/{prefix}/tables/rename",
    "GET /v1/{prefix}/namespaces/{namespace}/views",
    "POST /v1/{prefix}/namespaces/{namespace}/views",
    "GET /v1/{prefix}/namespaces/{namespace}/views/{view}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/views/{view}",
    "POST /v1/{prefix}/namespaces/{namespace}/views/{view}",
    "DELETE /v1/{prefix}/namespaces/{namespace}/views/{view}",
    "POST /v1/{prefix}/views/rename",
    "POST /v1/{prefix}/namespaces/{namespace}/register-view",
    "POST /v1/{prefix}/transactions/commit",
];

/// Answer of `/v1/config`.
#[derive(Debug, Serialize)]
pub struct Config {
    /// What a client may override.
    pub defaults: HashMap<String, String>,
    pub overrides: HashMap<String, String>,
    /// [`ENDPOINTS`], and those that this catalog serves beside.
    pub endpoints: Vec<&'static str>,
}

/// Request: create a namespace.
#[derive(Debug, Deserialize)]
pub struct CreateNamespace {
    pub namespace: NamespaceIdent,
    #[serde(default)]
    pub properties: HashMap<String, String>,
}

/// Answer: a namespace.
#[derive(Debug, Serialize)]
pub struct NamespaceAnswer {
    pub namespace: NamespaceIdent,
    pub properties: HashMap<String, String>,
}

/// Answer: a page of namespaces.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NamespaceList {
    pub namespaces: Vec<NamespaceIdent>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Answer: a page of tables.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableList {
    pub identifiers: Vec<TableIdent>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Request: change a namespace's properties.
#[derive(Debug, Deserialize)]
pub struct UpdateProperties {
    #[serde(default)]
    pub removals: Vec<String>,
    #[serde(default)]
    pub updates: HashMap<String, String>,
}

/// Request: create a table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CreateTable {
    pub name: String,
    pub location: Option<String>,
    pub schema: Schema,
    pub partition_spec: Option<UnboundPartitionSpec>,
    pub write_order: Option<SortOrder>,
    /// Only describe it; a commit makes it.
    #[serde(default)]
    pub stage_create: bool,
    #[serde(default)]
    pub properties: HashMap<String, String>,
}

impl CreateTable {
    /// As the catalog takes it.
    ///
    /// # Errors
    /// A format version that is not known.
    pub fn into_new(self) -> Result<NewTable, CatalogError> {
        let mut properties = self.properties;
        let format = match properties.remove(FORMAT_VERSION).as_deref() {
            None | Some("2") => FormatVersion::V2,
            Some("1") => FormatVersion::V1,
            Some("3") => FormatVersion::V3,
            Some(other) => {
                let detail = format!("format-version {other} is not supported; 1, 2 and 3 are");
                return Err(CatalogError::Invalid { detail });
            }
        };
        Ok(NewTable {
            schema: self.schema,
            spec: self.partition_spec,
            order: self.write_order,
            location: self.location,
            properties,
            format,
        })
    }
}

/// Request: commit to a table.
#[derive(Debug, Deserialize)]
pub struct CommitTable {
    /// Which table, for multi-table commits.
    pub identifier: Option<TableIdent>,
    #[serde(default)]
    pub requirements: Vec<TableRequirement>,
    #[serde(default)]
    pub updates: Vec<TableUpdate>,
}

/// Request: commit to several tables at once.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CommitTransaction {
    pub table_changes: Vec<CommitTable>,
}

impl CommitTransaction {
    /// As the catalog takes it.
    ///
    /// # Errors
    /// A change that does not name its table.
    pub fn into_commits(self) -> Result<Vec<TableCommit>, CatalogError> {
        let named = |change: CommitTable| match change.identifier {
            Some(table) => Ok(TableCommit { table, requirements: change.requirements, updates: change.updates }),
            None => Err(CatalogError::Invalid { detail: "a table change has no identifier".to_owned() }),
        };
        self.table_changes.into_iter().map(named).collect()
    }
}

/// Request: register a table whose metadata file exists.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RegisterTable {
    pub name: String,
    pub metadata_location: String,
}

/// Request: rename a table.
#[derive(Debug, Deserialize)]
pub struct RenameTable {
    pub source: TableIdent,
    pub destination: TableIdent,
}

/// Answer: a table.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableAnswer {
    /// Its metadata file; absent while staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_location: Option<String>,
    pub metadata: Value,
    /// What the client needs to reach its files.
    pub config: HashMap<String, String>,
}

impl TableAnswer {
    /// A loaded table and the configuration for its client.
    #[must_use]
    pub fn new(loaded: RawLoaded, config: HashMap<String, String>) -> Self {
        Self { metadata_location: loaded.location, metadata: loaded.metadata, config }
    }

    /// Without the snapshots that no branch or tag points to.
    #[must_use]
    pub fn with_refs_alone(mut self) -> Self {
        let refs = self.metadata.get("refs").and_then(Value::as_object);
        let ids = refs.into_iter().flat_map(|refs| refs.values());
        let ids: HashSet<i64> = ids.filter_map(|named| named.get("snapshot-id").and_then(Value::as_i64)).collect();
        if let Some(snapshots) = self.metadata.get_mut("snapshots").and_then(Value::as_array_mut) {
            snapshots.retain(|one| one.get("snapshot-id").and_then(Value::as_i64).is_some_and(|id| ids.contains(&id)));
        }
        self
    }
}

/// An error as the specification wants it.
#[derive(Debug, Serialize)]
pub struct ErrorAnswer {
    pub error: ErrorBody,
}

#[derive(Debug, Serialize)]
pub struct ErrorBody {
    pub message: String,
    /// Java's name of the exception.
    pub r#type: &'static str,
    pub code: u16,
}

impl ErrorAnswer {
    /// `message` with status `code` and Java's exception name.
    #[must_use]
    pub fn new(code: u16, r#type: &'static str, message: String) -> Self {
        Self { error: ErrorBody { message, r#type, code } }
    }
}

impl From<CatalogError> for ErrorAnswer {
    fn from(error: CatalogError) -> Self {
        let (code, kind) = match &error {
            CatalogError::NoSuchNamespace(_) => (404, "NoSuchNamespaceException"),
            CatalogError::NoSuchTable(_) => (404, "NoSuchTableException"),
            CatalogError::NoSuchView(_) => (404, "NoSuchViewException"),
            CatalogError::MetadataMissing { .. } => (404, "NotFoundException"),
            CatalogError::NamespaceExists(_)
            | CatalogError::TableExists(_)
            | CatalogError::ViewExists(_)
            | CatalogError::NameTaken { .. }
            | CatalogError::RenameTaken { .. } => (409, "AlreadyExistsException"),
            CatalogError::NamespaceNotEmpty(_) => (409, "NamespaceNotEmptyException"),
            CatalogError::Conflict { .. } => (409, "CommitFailedException"),
            CatalogError::Unknown { .. } => (500, "CommitStateUnknownException"),
            CatalogError::Invalid { .. } | CatalogError::UnknownMembers { .. } => (400, "BadRequestException"),
            CatalogError::IllegalArgument { .. } => (400, "IllegalArgumentException"),
            CatalogError::Unprocessable { .. } => (422, "UnprocessableEntityException"),
            CatalogError::Busy { .. } => (503, "ServiceUnavailableException"),
            CatalogError::File(FileError::Location(_)) => (400, "BadRequestException"),
            CatalogError::File(FileError::Store(StoreError::Denied { .. })) => (403, "ForbiddenException"),
            CatalogError::File(e) if e.disposition().passes() => (503, "ServiceUnavailableException"),
            CatalogError::Damaged { .. }
            | CatalogError::Elsewhere { .. }
            | CatalogError::Refused { .. }
            | CatalogError::BadAnswer { .. }
            | CatalogError::Metadata(_)
            | CatalogError::File(_) => (500, "InternalServerError"),
        };
        Self::new(code, kind, error.to_string())
    }
}

/// One page of sorted `items`: those after `token`, at most `size`, and the token of the next page. A client that sends
/// no token, not even an empty one, knows no pages and gets all.
pub fn page<T>(
    items: Vec<T>,
    token: Option<&str>,
    size: Option<usize>,
    name: impl Fn(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let Some(token) = token else { return (items, None) };
    let after = Some(token).filter(|token| !token.is_empty());
    let mut rest: Vec<T> = items.into_iter().filter(|item| after.is_none_or(|t| name(item).as_str() > t)).collect();
    match size.filter(|size| *size > 0 && *size < rest.len()) {
        None => (rest, None),
        Some(size) => {
            rest.truncate(size);
            let next = rest.last().map(name);
            (rest, next)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_snapshots_with_a_name_are_left() {
        let snapshots = json!([{"snapshot-id": 1}, {"snapshot-id": 2}, {"snapshot-id": 3}]);
        let refs = json!({"main": {"snapshot-id": 3, "type": "branch"}, "kept": {"snapshot-id": 1, "type": "tag"}});
        let metadata = json!({"snapshots": snapshots, "refs": refs, "current-snapshot-id": 3});
        let answer = TableAnswer::new(RawLoaded { metadata, location: None }, HashMap::new()).with_refs_alone();
        assert_eq!(answer.metadata["snapshots"], json!([{"snapshot-id": 1}, {"snapshot-id": 3}]));
        let empty = RawLoaded { metadata: json!({"snapshots": [{"snapshot-id": 1}]}), location: None };
        let answer = TableAnswer::new(empty, HashMap::new()).with_refs_alone();
        assert_eq!(answer.metadata["snapshots"], json!([]));
    }
}
