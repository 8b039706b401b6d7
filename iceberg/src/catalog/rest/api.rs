//! The routes of an external catalog (iceberg `open-api/rest-catalog-open-api.yaml`), each as a method.
//!
//! Owns: paths, bodies, what `/v1/config` says. Does not own: where a table may lie, what to do about a lost answer
//! (`super`). *Node-wide*; side runtime.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use iceberg::{NamespaceIdent, TableIdent};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::RestSettings;
use super::answers::{About, TableBody, change_refusal, parse, refusal, unanswered, unread};
use super::client::{Answer, Client, Request};
use crate::catalog::creation::FORMAT_VERSION;
use crate::catalog::{CatalogError, Loaded, NewTable, TableCommit};

/// Characters of a path's segment that stay as they are.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Between the levels of a namespace in a path, if the catalog asks for nothing else.
const LEVELS: &str = "%1F";
/// Bytes of a namespace separator that a catalog asks for.
const SEPARATOR_BYTES_MAX: usize = 16;

/// What a catalog offers where it lists it.
pub(super) const COMMIT_SEVERAL: &str = "POST /v1/{prefix}/transactions/commit";
pub(super) const LIST_VIEWS: &str = "GET /v1/{prefix}/namespaces/{namespace}/views";

/// Answer of `/v1/config`.
#[derive(Debug, Deserialize)]
struct ConfigBody {
    #[serde(default)]
    defaults: HashMap<String, Option<String>>,
    #[serde(default)]
    overrides: HashMap<String, Option<String>>,
    endpoints: Option<BTreeSet<String>>,
}

/// What the catalog said of itself.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// `/v1`, or `/v1/<prefix>`.
    root: String,
    separator: String,
    /// `None`: it lists none, which is what a catalog of an earlier specification does.
    endpoints: Option<BTreeSet<String>>,
}

impl Session {
    fn of(config: ConfigBody, base: &str) -> Result<Self, CatalogError> {
        let get = |key: &str| {
            let found = config.overrides.get(key).or_else(|| config.defaults.get(key));
            found.cloned().flatten()
        };
        // What the catalog only proposes, the URL that was given replaces.
        let sent = config.overrides.get("uri").cloned().flatten();
        if let Some(uri) = sent.filter(|uri| !is_same_url(uri, base)) {
            // Followed blindly, it would get our token.
            let detail = format!("the external catalog sends its clients to {uri:?}; give that URL instead of {base}");
            return Err(CatalogError::Refused { detail });
        }
        let root = match get("prefix").filter(|prefix| !prefix.is_empty()) {
            None => "/v1".to_owned(),
            Some(prefix) => {
                // A prefix may have several segments (Glue: `catalogs/<id>`).
                let segments: Vec<_> = prefix.split('/').map(encode).collect();
                if segments.iter().any(|segment| matches!(&**segment, "" | "." | "..")) {
                    let detail = format!("the external catalog gives {prefix:?} as the prefix of its paths");
                    return Err(CatalogError::BadAnswer { detail });
                }
                format!("/v1/{}", segments.join("/"))
            }
        };
        let separator = match get("namespace-separator") {
            Some(text) if text.len() <= SEPARATOR_BYTES_MAX && !text.is_empty() => {
                // It is given as it stands in a path.
                let is_encoded = text.starts_with('%') && text.bytes().all(|b| b == b'%' || b.is_ascii_alphanumeric());
                if is_encoded { text } else { encode(&text) }
            }
            _ => LEVELS.to_owned(),
        };
        Ok(Self { root, separator, endpoints: config.endpoints })
    }

    /// Whether the catalog says that it offers `endpoint`; `None` if it lists nothing.
    pub(super) fn offers(&self, endpoint: &str) -> Option<bool> {
        self.endpoints.as_ref().map(|offered| offered.contains(endpoint))
    }

    /// `/v1` with the prefix.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    fn namespace(&self, namespace: &NamespaceIdent) -> String {
        let levels: Vec<_> = namespace.iter().map(|level| encode(level)).collect();
        format!("{}/namespaces/{}", self.root, levels.join(&self.separator))
    }

    fn table(&self, table: &TableIdent) -> String {
        format!("{}/tables/{}", self.namespace(&table.namespace), encode(&table.name))
    }
}

fn is_same_url(a: &str, b: &str) -> bool {
    let parsed = |text: &str| reqwest::Url::parse(text.trim_end_matches('/')).ok();
    a.trim_end_matches('/') == b || parsed(a).is_some_and(|a| Some(a) == parsed(b))
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A table with the version that the catalog gave it.
#[derive(Clone, Debug)]
pub(super) struct Versioned {
    pub(super) loaded: Loaded,
    pub(super) etag: Option<String>,
}

/// An external catalog.
pub(super) struct RestApi {
    client: Client,
    warehouse: Option<String>,
    session: OnceCell<Session>,
}

impl RestApi {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// A setting is not legal.
    pub(super) fn new(settings: &RestSettings) -> Result<Self, CatalogError> {
        let warehouse = settings.warehouse.clone();
        Ok(Self { client: Client::new(settings)?, warehouse, session: OnceCell::new() })
    }

    /// What the catalog said of itself, asked once.
    pub(super) async fn session(&self) -> Result<&Session, CatalogError> {
        self.session.get_or_try_init(|| self.configure()).await
    }

    /// Gets a token, if the catalog wants one. Returns whether it does.
    pub(super) async fn authorise(&self) -> Result<bool, CatalogError> {
        self.client.authorise().await.map_err(|failure| unread(&failure, About::Catalog))
    }

    async fn configure(&self) -> Result<Session, CatalogError> {
        let query = self.warehouse.as_deref().map(|name| format!("?warehouse={}", encode(name)));
        let answer =
            self.read(Request::get(format!("/v1/config{}", query.unwrap_or_default())), About::Catalog).await?;
        Session::of(parse(&answer, About::Catalog)?, self.client.base())
    }

    /// A successful answer to a read.
    async fn read(&self, request: Request<'_>, about: About<'_>) -> Result<Answer, CatalogError> {
        let answer = self.client.read(&request).await.map_err(|failure| unread(&failure, about))?;
        if answer.is_success() || answer.status == 304 { Ok(answer) } else { Err(refusal(&answer, about)) }
    }

    /// A successful answer to a change of `table`.
    async fn change(&self, request: Request<'_>, table: &TableIdent) -> Result<Answer, CatalogError> {
        let answer = self.client.send(&request).await.map_err(|failure| unanswered(&failure, table))?;
        if answer.is_success() { Ok(answer) } else { Err(change_refusal(&answer, table)) }
    }

    pub(super) async fn namespace_exists(&self, namespace: &NamespaceIdent) -> Result<bool, CatalogError> {
        let path = self.session().await?.namespace(namespace);
        match self.read(Request::get(path), About::Namespace(namespace)).await {
            Ok(_) => Ok(true),
            Err(CatalogError::NoSuchNamespace(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// [`CatalogError::NamespaceExists`]; [`CatalogError::Busy`] also after an answer that was lost.
    pub(super) async fn create_namespace(&self, namespace: &NamespaceIdent) -> Result<(), CatalogError> {
        let about = About::Namespace(namespace);
        let path = format!("{}/namespaces", self.session().await?.root());
        let request = Request::post(path, json!({ "namespace": namespace, "properties": {} }));
        let answer = self.client.send(&request).await.map_err(|failure| unread(&failure, about))?;
        if answer.is_success() { Ok(()) } else { Err(refusal(&answer, about)) }
    }

    pub(super) async fn drop_namespace(&self, namespace: &NamespaceIdent) -> Result<(), CatalogError> {
        let about = About::Namespace(namespace);
        let request = Request::delete(self.session().await?.namespace(namespace));
        let answer = self.client.send(&request).await.map_err(|failure| unread(&failure, about))?;
        if answer.is_success() { Ok(()) } else { Err(refusal(&answer, about)) }
    }

    /// Whether the views of a namespace can be listed.
    pub(super) async fn list_views(&self, namespace: &NamespaceIdent) -> Result<(), CatalogError> {
        let path = format!("{}/views", self.session().await?.namespace(namespace));
        self.read(Request::get(path), About::Namespace(namespace)).await.map(drop)
    }

    /// A table's state; `None` if it is that of version `known`.
    pub(super) async fn load(
        &self,
        table: &TableIdent,
        known: Option<&str>,
    ) -> Result<Option<Versioned>, CatalogError> {
        let request = Request { known, ..Request::get(self.session().await?.table(table)) };
        let answer = self.read(request, About::Table(table)).await?;
        if answer.status == 304 {
            return Ok(None);
        }
        let body: TableBody = parse(&answer, About::Table(table))?;
        Ok(Some(Versioned { loaded: loaded(body), etag: answer.etag }))
    }

    /// # Errors
    /// [`CatalogError::TableExists`]; [`CatalogError::Unknown`]: the table may be there; and others.
    pub(super) async fn create(&self, table: &TableIdent, new: &NewTable) -> Result<Loaded, CatalogError> {
        let mut properties = new.properties.clone();
        properties.insert(FORMAT_VERSION.to_owned(), (new.format as u8).to_string());
        let mut body = json!({
            "name": table.name, "schema": new.schema, "stage-create": false, "properties": properties,
        });
        let optional = [
            ("location", new.location.as_ref().map(|location| json!(location))),
            ("partition-spec", new.spec.as_ref().map(|spec| with_spec_id(json!(spec)))),
            ("write-order", new.order.as_ref().map(|order| json!(order))),
        ];
        if let Some(fields) = body.as_object_mut() {
            fields.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        }
        let path = format!("{}/tables", self.session().await?.namespace(&table.namespace));
        match self.change(Request::post(path, body), table).await {
            Ok(answer) => answered(&answer, table),
            Err(CatalogError::Conflict { .. }) => Err(CatalogError::TableExists(table.clone())),
            // A table that is to be made is not missing.
            Err(CatalogError::NoSuchTable(table)) => Err(CatalogError::NoSuchNamespace(table.namespace)),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// [`CatalogError::Conflict`]: a requirement does not hold; [`CatalogError::Unknown`] and others.
    pub(super) async fn commit(&self, commit: &TableCommit) -> Result<Loaded, CatalogError> {
        let path = self.session().await?.table(&commit.table);
        answered(&self.change(Request::post(path, body_of(commit)), &commit.table).await?, &commit.table)
    }

    /// All of `commits` or none.
    ///
    /// # Errors
    /// As [`RestApi::commit`], about the first table.
    pub(super) async fn commit_several(&self, commits: &[TableCommit]) -> Result<(), CatalogError> {
        let Some(first) = commits.first() else { return Ok(()) };
        let changes: Vec<Value> = commits.iter().map(body_of).collect();
        let path = format!("{}/transactions/commit", self.session().await?.root());
        self.change(Request::post(path, json!({ "table-changes": changes })), &first.table).await.map(drop)
    }

    /// # Errors
    /// [`CatalogError::NoSuchTable`]; [`CatalogError::Unknown`] and others.
    pub(super) async fn drop_table(&self, table: &TableIdent, purge: bool) -> Result<(), CatalogError> {
        let path = format!("{}?purgeRequested={purge}", self.session().await?.table(table));
        self.change(Request::delete(path), table).await.map(drop)
    }
}

fn body_of(commit: &TableCommit) -> Value {
    let mut updates = json!(commit.updates);
    for update in updates.as_array_mut().into_iter().flatten() {
        if let Some(spec) = update.get_mut("spec") {
            *spec = with_spec_id(spec.take());
        }
    }
    json!({ "identifier": commit.table, "requirements": commit.requirements, "updates": updates })
}

/// A spec as Java's parser reads it: it wants an id, which the catalog replaces, and no member that is null.
fn with_spec_id(mut spec: Value) -> Value {
    let without_nulls = |value: &mut Value| {
        if let Some(members) = value.as_object_mut() {
            members.retain(|_, member| !member.is_null());
        }
    };
    without_nulls(&mut spec);
    spec.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten().for_each(without_nulls);
    if let Some(members) = spec.as_object_mut() {
        members.entry("spec-id").or_insert(json!(0));
    }
    spec
}

fn loaded(body: TableBody) -> Loaded {
    Loaded::new(Arc::new(body.metadata), body.metadata_location)
}

/// The table in the answer to a change that was carried out: one that cannot be read leaves open what was done.
fn answered(answer: &Answer, table: &TableIdent) -> Result<Loaded, CatalogError> {
    parse(answer, About::Table(table))
        .map(loaded)
        .map_err(|error| CatalogError::Unknown { table: table.clone(), detail: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(config: Value) -> Result<Session, CatalogError> {
        Session::of(serde_json::from_value(config).expect("JSON"), "http://catalog")
    }

    #[test]
    fn paths_have_the_prefix_and_the_separator_that_the_catalog_gives() {
        let table =
            TableIdent::new(NamespaceIdent::from_vec(vec!["a b".into(), "c".into()]).expect("legal"), "t~d/q".into());
        let plain = session(json!({})).expect("legal");
        assert_eq!(plain.table(&table), "/v1/namespaces/a%20b%1Fc/tables/t~d%2Fq");
        let config = json!({
            "defaults": { "prefix": "not this" },
            "overrides": { "prefix": "catalogs/1 2", "namespace-separator": ".", "other": null },
            "endpoints": [COMMIT_SEVERAL],
        });
        let other = session(config).expect("legal");
        assert_eq!(other.table(&table), "/v1/catalogs/1%202/namespaces/a%20b.c/tables/t~d%2Fq");
        assert_eq!((plain.offers(COMMIT_SEVERAL), other.offers(COMMIT_SEVERAL)), (None, Some(true)));
        assert_eq!(other.offers(LIST_VIEWS), Some(false));
        for prefix in ["..", "a/../b", "a//b", "/"] {
            assert!(session(json!({ "overrides": { "prefix": prefix } })).is_err(), "{prefix}");
        }
    }

    #[test]
    fn a_new_spec_has_an_id_as_javas_parser_wants_it() {
        let spec = with_spec_id(json!(crate::schema::hour_spec().expect("legal")));
        assert_eq!((&spec["spec-id"], &spec["fields"][0]["transform"]), (&json!(0), &json!("hour")));
        let commit = TableCommit {
            table: TableIdent::from_strs(["a", "b"]).expect("legal"),
            requirements: Vec::new(),
            updates: vec![iceberg::TableUpdate::AddSpec { spec: crate::schema::hour_spec().expect("legal") }],
        };
        assert_eq!(body_of(&commit)["updates"][0]["spec"], spec);
        assert!(spec["fields"][0].as_object().is_some_and(|field| field.values().all(|value| !value.is_null())));
    }

    #[test]
    fn a_catalog_that_names_another_url_does_not_get_the_token_sent_there() {
        assert!(session(json!({ "overrides": { "uri": "http://catalog/" } })).is_ok());
        let refused = session(json!({ "overrides": { "uri": "http://elsewhere" } })).expect_err("is refused");
        assert!(refused.to_string().contains("http://elsewhere"), "{refused}");
    }
}
