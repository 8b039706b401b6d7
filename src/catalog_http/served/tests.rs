//! Requests for tables of this cluster and of its sources, over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tidewater_iceberg::catalog::wire::ENDPOINTS;
use tidewater_iceberg::catalog::wire::signing::SIGN_ENDPOINT;
use tidewater_tiering::store::S3Signer;

use super::super::errors::tests::{ask, ask_with, is_error, serve};
use super::super::{etag, router};
use super::*;
use crate::replica::tables::tests::{Bench, table};

/// A cluster with a table `left` of its own in the namespace of topics; its sources are those of [`Bench`].
fn served() -> (Bench, SocketAddr) {
    let bench = Bench::new();
    bench.make("here", "left");
    let own = Arc::new(bench.catalog("here"));
    let address = serve(&bench.runtime, router(Arc::new(ServedCatalog::new(own, bench.tables()))));
    (bench, address)
}

fn files(dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), out);
        } else {
            out.insert(entry.path(), std::fs::read(entry.path()).expect("readable"));
        }
    }
}

/// Every byte of both sources.
fn sources(bench: &Bench) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for source in ["east", "west"] {
        files(&bench.path(source), &mut all);
    }
    all
}

fn send(address: SocketAddr, method: &str, path: &str, body: &Value) -> (u16, String) {
    ask(address, method, &format!("/v1{path}"), body.to_string().as_bytes())
}

fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let (status, body) = ask(address, "GET", &format!("/v1{path}"), b"");
    (status, serde_json::from_str(&body).expect("JSON"))
}

fn names(address: SocketAddr) -> Vec<String> {
    let (status, list) = get(address, "/namespaces/topics/tables");
    assert_eq!(status, 200, "{list}");
    let tables = list["identifiers"].as_array().expect("a list");
    tables.iter().map(|table| table["name"].as_str().expect("a name").to_owned()).collect()
}

fn schema() -> Value {
    json!({"type": "struct", "schema-id": 0, "fields": [{"id": 1, "name": "a", "required": false, "type": "long"}]})
}

fn rename(from: &str, to: &str) -> Value {
    let ident = |name: &str| json!({"namespace": ["topics"], "name": name});
    json!({"source": ident(from), "destination": ident(to)})
}

#[test]
fn tables_of_sources_are_listed_and_loaded_beside_own_ones() {
    let (bench, address) = served();
    assert_eq!(names(address), ["both", "left", "orders", "wind"]);
    assert_eq!(get(address, "/namespaces").1, json!({"namespaces": [["topics"]]}));
    let (status, loaded) = get(address, "/namespaces/topics/tables/orders");
    let there = bench.runtime.block_on(bench.catalog("east").load(&table("orders"))).expect("loads");
    assert_eq!((status, loaded["metadata-location"].as_str()), (200, there.location.as_deref()));
    assert_eq!(loaded["metadata"]["table-uuid"], there.metadata.uuid().to_string());
    assert_eq!(loaded["config"], json!({}), "as for an own table");
    assert_eq!(send(address, "HEAD", "/namespaces/topics/tables/wind", &Value::Null).0, 204);
    assert_eq!(send(address, "HEAD", "/namespaces/topics/tables/soon", &Value::Null).0, 404);
    let (status, missing) = get(address, "/namespaces/topics/tables/soon");
    assert_eq!((status, &missing["error"]["type"]), (404, &json!("NoSuchTableException")));
    let (status, page) = get(address, "/namespaces/topics/tables?pageSize=2&pageToken=left");
    assert_eq!((status, page["identifiers"].as_array().map(Vec::len)), (200, Some(2)), "{page}");
}

#[test]
fn what_changes_a_table_of_a_source_is_refused_and_names_the_source() {
    let (bench, address) = served();
    let before = sources(&bench);
    let set = json!({"requirements": [], "updates": [{"action": "set-properties", "updates": {"a": "b"}}]});
    let made = json!({"requirements": [{"type": "assert-create"}], "updates": []});
    let orders = "/namespaces/topics/tables/orders";
    for (method, path, body, code, kind) in [
        ("POST", orders, set.clone(), 403, "ForbiddenException"),
        ("DELETE", orders, Value::Null, 403, "ForbiddenException"),
        ("DELETE", &format!("{orders}?purgeRequested=true"), Value::Null, 403, "ForbiddenException"),
        ("POST", "/tables/rename", rename("orders", "mine"), 403, "ForbiddenException"),
        ("POST", "/tables/rename", rename("left", "orders"), 409, "AlreadyExistsException"),
        ("POST", orders, made, 409, "AlreadyExistsException"),
        (
            "POST",
            "/namespaces/topics/tables",
            json!({"name": "orders", "schema": schema()}),
            409,
            "AlreadyExistsException",
        ),
        (
            "POST",
            "/namespaces/topics/tables",
            json!({"name": "soon", "schema": schema(), "stage-create": true}),
            409,
            "AlreadyExistsException",
        ),
        (
            "POST",
            "/namespaces/topics/register",
            json!({"name": "plain", "metadata-location": "file:///x"}),
            409,
            "AlreadyExistsException",
        ),
    ] {
        let answer = send(address, method, path, &body);
        assert!(is_error(&answer, code, kind), "{method} {path}: {answer:?}");
        let url = format!("file://{}", bench.path("east").display());
        assert!(answer.1.contains("source east") && answer.1.contains(&url), "{method} {path}: {answer:?}");
    }
    assert_eq!(sources(&bench), before, "nothing is written to a source's bucket");
    assert_eq!(names(address), ["both", "left", "orders", "wind"]);

    // An own table of a followed name is this cluster's: it is shown, and can be dropped and renamed.
    bench.make("here", "orders");
    assert_eq!(send(address, "POST", orders, &set).0, 200);
    assert_eq!(get(address, orders).1["metadata"]["properties"]["a"], "b");
    assert_eq!(send(address, "POST", "/tables/rename", &rename("orders", "mine")).0, 204);
    assert_eq!(send(address, "POST", "/tables/rename", &rename("mine", "orders")).0, 409);
    assert_eq!(get(address, orders).1["metadata"]["properties"]["a"], Value::Null, "the source's again");
    assert_eq!(sources(&bench), before);
}

#[test]
fn the_namespace_of_topics_is_there_without_an_own_one() {
    let bench = Bench::new();
    let own = Arc::new(bench.catalog("here"));
    let address = serve(&bench.runtime, router(Arc::new(ServedCatalog::new(own, bench.tables()))));
    assert_eq!(get(address, "/namespaces").1, json!({"namespaces": [["topics"]]}));
    assert_eq!(get(address, "/namespaces?parent=topics"), (200, json!({"namespaces": []})));
    assert_eq!(get(address, "/namespaces/topics"), (200, json!({"namespace": ["topics"], "properties": {}})));
    assert_eq!(send(address, "HEAD", "/namespaces/topics", &Value::Null).0, 204);
    assert_eq!(names(address), ["both", "orders", "wind"]);
    let again = send(address, "POST", "/namespaces", &json!({"namespace": ["topics"]}));
    assert!(is_error(&again, 409, "AlreadyExistsException"), "{again:?}");
    let dropped = send(address, "DELETE", "/namespaces/topics", &Value::Null);
    assert!(is_error(&dropped, 409, "NamespaceNotEmptyException"), "{dropped:?}");
    // Something of one's own can be put into it.
    let mine = json!({"name": "Mine", "schema": schema()});
    assert_eq!(send(address, "POST", "/namespaces/topics/tables", &mine).0, 200);
    assert_eq!(names(address), ["Mine", "both", "orders", "wind"]);
    let properties = json!({"updates": {"owner": "me"}});
    assert_eq!(send(address, "POST", "/namespaces/topics/properties", &properties).0, 200);
    assert_eq!(get(address, "/namespaces/topics").1["properties"], json!({"owner": "me"}));
}

#[test]
fn a_source_that_cannot_be_read_is_503_for_its_tables_and_for_no_other() {
    let (bench, address) = served();
    bench.make("here", "both");
    std::fs::rename(bench.path("east"), bench.path("gone")).expect("renamed");
    let orders = ask(address, "GET", "/v1/namespaces/topics/tables/orders", b"");
    assert!(is_error(&orders, 503, "ServiceUnavailableException"), "{orders:?}");
    assert!(orders.1.contains("source east") && orders.1.contains("mounted"), "{orders:?}");
    assert_eq!(send(address, "HEAD", "/namespaces/topics/tables/orders", &Value::Null).0, 503);
    assert_eq!(names(address), ["both", "left", "orders", "soon", "wind"], "they are there, as far as is known");
    for name in ["both", "left", "wind"] {
        assert_eq!(get(address, &format!("/namespaces/topics/tables/{name}")).0, 200, "{name}");
    }
    bench.unread("west", Some("its bucket is away"));
    let made = json!({"name": "wander", "schema": schema()});
    let wander = send(address, "POST", "/namespaces/topics/tables", &made);
    assert!(is_error(&wander, 503, "ServiceUnavailableException"), "{wander:?}");
    assert!(wander.1.contains("tidewater replica delete west"), "{wander:?}");
    let made = json!({"name": "other", "schema": schema()});
    assert_eq!(send(address, "POST", "/namespaces/topics/tables", &made).0, 200);
}

#[test]
fn an_error_of_a_source_is_what_it_means_here() {
    use tidewater_tiering::store::StoreError;
    let kind = |error: CatalogError| {
        let failure: Failure = SourceError::Failed { name: "east".to_owned(), url: "s3://b".to_owned(), error }.into();
        axum::response::IntoResponse::into_response(failure).status().as_u16()
    };
    let store = |error: StoreError| kind(error.into());
    let key = || "k".to_owned();
    assert_eq!(store(StoreError::Unavailable { key: key(), detail: String::new() }), 503);
    assert_eq!(store(StoreError::Denied { key: key(), detail: String::new() }), 503, "not the client's lack of rights");
    assert_eq!(store(StoreError::Refused { key: key(), detail: "no such bucket".to_owned() }), 503);
    assert_eq!(kind(CatalogError::NoSuchTable(table("t"))), 404);
    assert_eq!(kind(CatalogError::Damaged { key: key(), detail: String::new() }), 500);
    assert_eq!(kind(CatalogError::Busy { detail: String::new() }), 503);
}

#[test]
fn every_endpoint_that_is_listed_is_served() {
    let (_bench, address) = served();
    for endpoint in ENDPOINTS {
        let (method, path) = endpoint.split_once(' ').expect("method and path");
        let path = path.replace("{prefix}", "p").replace("{namespace}", "nothing");
        let path = path.replace("{table}", "nothing").replace("{view}", "nothing");
        let (status, body) = ask(address, method, &path, b"{}");
        assert!(status != 405 && !body.contains("No route"), "{endpoint}: {status} {body}");
    }
}

#[test]
fn a_table_that_the_client_has_is_not_sent_again() {
    let (bench, address) = served();
    for name in ["left", "orders"] {
        let path = format!("/v1/namespaces/topics/tables/{name}");
        let (_, loaded) = get(address, &format!("/namespaces/topics/tables/{name}"));
        let location = loaded["metadata-location"].as_str().expect("is committed");
        let form = |refs_alone| etag::Form { refs_alone, signing: false };
        let known = |refs| format!("If-None-Match: {}\r\n", etag::of(location, form(refs)));
        assert_eq!(ask_with(address, "GET", &path, &known(false), b""), (304, String::new()), "{name}");
        assert_eq!(ask_with(address, "GET", &path, &known(true), b"").0, 200, "{name}");
        let refs = format!("{path}?snapshots=refs");
        assert_eq!(ask_with(address, "GET", &refs, &known(true), b"").0, 304, "{name}");
    }
    let set = json!({"updates": [{"action": "set-properties", "updates": {"a": "b"}}]});
    let left = "/namespaces/topics/tables/left";
    let old = get(address, left).1["metadata-location"].as_str().expect("is committed").to_owned();
    assert_eq!(send(address, "POST", left, &set).0, 200);
    let known = format!("If-None-Match: {}\r\n", etag::of(&old, etag::Form::default()));
    assert_eq!(ask_with(address, "GET", &format!("/v1{left}"), &known, b"").0, 200, "it was changed");
    drop(bench);
}

#[test]
fn a_listing_has_pages_for_clients_that_know_them() {
    let (_bench, address) = served();
    let page = |query: &str| {
        let (status, page) = get(address, &format!("/namespaces/topics/tables{query}"));
        assert_eq!(status, 200, "{page}");
        (page["identifiers"].as_array().expect("a list").len(), page["next-page-token"].as_str().map(str::to_owned))
    };
    assert_eq!(page(""), (4, None));
    assert_eq!(page("?pageSize=2"), (4, None), "without a token all are sent");
    let (first, next) = page("?pageSize=3&pageToken=");
    assert_eq!((first, next.as_deref()), (3, Some("orders")));
    assert_eq!(page("?pageSize=3&pageToken=orders"), (1, None));
}

#[test]
fn views_and_commits_to_several_tables_respect_the_tables_of_sources() {
    let (bench, address) = served();
    let before = sources(&bench);
    let view = |name: &str| {
        json!({"name": name, "schema": schema(), "properties": {}, "view-version": {
            "version-id": 1, "schema-id": 0, "timestamp-ms": 1_760_000_000_000_i64, "summary": {},
            "representations": [{"type": "sql", "sql": "select 1", "dialect": "spark"}],
            "default-namespace": ["topics"],
        }})
    };
    let made = send(address, "POST", "/namespaces/topics/views", &view("orders"));
    assert!(is_error(&made, 409, "AlreadyExistsException"), "{made:?}");
    let made = send(address, "POST", "/namespaces/topics/views", &view("left"));
    assert!(is_error(&made, 409, "AlreadyExistsException"), "{made:?}");
    assert_eq!(send(address, "POST", "/namespaces/topics/views", &view("mine")).0, 200);
    let moved = send(address, "POST", "/views/rename", &rename("mine", "orders"));
    assert!(is_error(&moved, 409, "AlreadyExistsException"), "{moved:?}");
    let listed = get(address, "/namespaces/topics/views");
    assert_eq!(listed, (200, json!({"identifiers": [{"namespace": ["topics"], "name": "mine"}]})));
    assert_eq!(names(address), ["both", "left", "orders", "wind"], "a view is no table");
    assert_eq!(send(address, "HEAD", "/namespaces/topics/views/mine", &Value::Null).0, 204);
    let missing = send(address, "GET", "/namespaces/topics/views/left", &Value::Null);
    assert!(is_error(&missing, 404, "NoSuchViewException"), "{missing:?}");
    let bad = send(address, "POST", "/namespaces/topics/views", &json!({"name": "x"}));
    assert!(is_error(&bad, 400, "IllegalArgumentException"), "{bad:?}");

    bench.make("here", "second");
    let change = |name: &str| {
        json!({"identifier": {"namespace": ["topics"], "name": name}, "requirements": [],
            "updates": [{"action": "set-properties", "updates": {"a": "b"}}]})
    };
    let several = |names: [&str; 2]| json!({"table-changes": names.map(change)});
    let refused = send(address, "POST", "/transactions/commit", &several(["left", "orders"]));
    assert!(is_error(&refused, 403, "ForbiddenException"), "{refused:?}");
    assert_eq!(send(address, "POST", "/transactions/commit", &several(["left", "second"])).0, 204);
    for name in ["left", "second"] {
        let (_, loaded) = get(address, &format!("/namespaces/topics/tables/{name}"));
        assert_eq!(loaded["metadata"]["properties"]["a"], "b", "{name}");
    }
    assert_eq!(sources(&bench), before);
}

#[test]
fn requests_are_signed_for_own_tables_and_a_client_that_asks_is_turned_to_them() {
    let bench = Bench::new();
    bench.make("here", "left");
    let own = Arc::new(bench.catalog("here"));
    let signer = S3Signer::open("s3://bucket/lake").expect("configured").expect("signs");
    let signing = Signing::new(signer, Arc::default());
    let signs = ServedCatalog::new(own, bench.tables()).with_signing(signing);
    let address = serve(&bench.runtime, router(Arc::new(signs)));
    let (_, config) = get(address, "/config");
    let listed = config["endpoints"].as_array().expect("a list");
    assert!(listed.contains(&json!(SIGN_ENDPOINT)), "{config}");
    let load = |table: &str, modes: &str| -> Value {
        let header = format!("X-Iceberg-Access-Delegation: {modes}\r\n");
        let path = format!("/v1/namespaces/topics/tables/{table}");
        let (status, body) = ask_with(address, "GET", &path, &header, b"");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).expect("JSON")["config"].take()
    };
    let config = load("left", "vended-credentials, Remote-Signing");
    let path = "v1/namespaces/topics/tables/left/sign";
    assert_eq!((&config["s3.signer.endpoint"], &config["signer.endpoint"]), (&json!(path), &json!(path)));
    assert_eq!(config["s3.remote-signing-enabled"], "true");
    assert_eq!(load("left", "vended-credentials"), json!({}));
    assert_eq!(load("orders", "remote-signing"), json!({}), "its files are elsewhere");
    let asked = json!({"method": "GET", "region": "r", "uri": "https://evil/x", "headers": {}});
    for (table, status, wanted) in
        [("left", 403, "not signed: "), ("orders", 403, "in the bucket"), ("nothing", 404, "does not exist")]
    {
        let (found, body) = send(address, "POST", &format!("/namespaces/topics/tables/{table}/sign"), &asked);
        assert!(found == status && body.contains(wanted), "{table}: {found} {body}");
    }
    assert_eq!(send(address, "POST", "/aws/s3/sign", &asked).0, 403);
    let mut other = asked.clone();
    other["provider"] = json!("gcs");
    let (status, body) = send(address, "POST", "/namespaces/topics/tables/left/sign", &other);
    assert!(status == 403 && body.contains("another than s3"), "{body}");
    let (_bench, unsigned) = served();
    let (status, body) = send(unsigned, "POST", "/namespaces/topics/tables/left/sign", &asked);
    assert!(status == 403 && body.contains("signs no requests"), "{body}");
}
