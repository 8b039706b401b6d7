//! Routes of tables.

use axum::Json;
use axum::body::Bytes;
use axum::extract::Query;
use axum::http::header::ETAG;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tidewater_iceberg::catalog::wire::{
    CommitTable, CommitTransaction, CreateTable, RegisterTable, RenameTable, TableAnswer, TableList,
};
use tidewater_iceberg::catalog::{CatalogError, Loaded, RawLoaded, TableIdent};

use super::Catalog;
use super::answer::{Answer, Names, body, path_namespace, path_table};
use super::etag::{self, Form};
use super::namespaces::Listing;
use super::signing;

/// The form of the answer that a client wants.
fn form(catalog: &Catalog, headers: &HeaderMap, refs_alone: bool) -> Form {
    Form { refs_alone, signing: catalog.signing().is_some() && signing::is_asked_for(headers) }
}

fn answer(catalog: &Catalog, table: &TableIdent, loaded: Loaded, form: Form) -> Answer<Response> {
    Ok(raw_answer(catalog, table, loaded.try_into()?, form))
}

fn raw_answer(catalog: &Catalog, table: &TableIdent, loaded: RawLoaded, form: Form) -> Response {
    let tag = loaded.location.as_deref().map(|location| etag::of(location, form));
    let mut config = catalog.table_config().clone();
    if let Some(signing) = catalog.signing().filter(|_| form.signing) {
        config.extend(signing.config(catalog, table, &loaded));
    }
    let answer = TableAnswer::new(loaded, config);
    let body = Json(if form.refs_alone { answer.with_refs_alone() } else { answer });
    match tag {
        Some(tag) => ([(ETAG, tag)], body).into_response(),
        None => body.into_response(),
    }
}

pub(super) async fn list(catalog: Catalog, names: Names, Query(query): Query<Listing>) -> Answer<Json<TableList>> {
    let found = catalog.list_tables(&path_namespace(&names)?).await?;
    let (identifiers, next_page_token) = query.page(found, |table| table.name.clone());
    Ok(Json(TableList { identifiers, next_page_token }))
}

pub(super) async fn create(catalog: Catalog, names: Names, headers: HeaderMap, bytes: Bytes) -> Answer<Response> {
    let asked: CreateTable = body(&bytes)?;
    let table = TableIdent::new(path_namespace(&names)?, asked.name.clone());
    let staged = asked.stage_create;
    let new = asked.into_new()?;
    let loaded = if staged { catalog.stage(&table, new).await? } else { catalog.create(&table, new).await? };
    answer(&catalog, &table, loaded, form(&catalog, &headers, false))
}

/// Query of a load.
#[derive(Debug, Deserialize)]
pub(super) struct Load {
    /// `refs`: only snapshots that branches and tags point to; `all` or none: every one.
    #[serde(default)]
    snapshots: Option<String>,
}

pub(super) async fn load(
    catalog: Catalog,
    names: Names,
    Query(query): Query<Load>,
    headers: HeaderMap,
) -> Answer<Response> {
    let refs_alone = query.snapshots.is_some_and(|wanted| wanted.eq_ignore_ascii_case("refs"));
    let (table, form) = (path_table(&names)?, form(&catalog, &headers, refs_alone));
    let known = |location: &str| etag::is_known(&headers, location, form);
    match catalog.load(&table, known).await? {
        Some(loaded) => Ok(raw_answer(&catalog, &table, loaded, form)),
        None => Ok(StatusCode::NOT_MODIFIED.into_response()),
    }
}

pub(super) async fn exists(catalog: Catalog, names: Names) -> Answer<StatusCode> {
    let table = path_table(&names)?;
    if catalog.table_exists(&table).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(CatalogError::NoSuchTable(table).into())
}

pub(super) async fn commit(catalog: Catalog, names: Names, bytes: Bytes) -> Answer<Response> {
    let asked: CommitTable = body(&bytes)?;
    let table = path_table(&names)?;
    let loaded = catalog.commit(&table, asked).await?;
    answer(&catalog, &table, loaded, Form::default())
}

pub(super) async fn commit_several(catalog: Catalog, bytes: Bytes) -> Answer<StatusCode> {
    let asked: CommitTransaction = body(&bytes)?;
    catalog.commit_all(asked.into_commits()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Query of a drop.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Drop {
    #[serde(default)]
    purge_requested: Option<String>,
}

pub(super) async fn drop_table(catalog: Catalog, names: Names, Query(query): Query<Drop>) -> Answer<StatusCode> {
    let purge = query.purge_requested.is_some_and(|value| value.eq_ignore_ascii_case("true"));
    catalog.drop_table(&path_table(&names)?, purge).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn register(catalog: Catalog, names: Names, headers: HeaderMap, bytes: Bytes) -> Answer<Response> {
    let asked: RegisterTable = body(&bytes)?;
    let table = TableIdent::new(path_namespace(&names)?, asked.name);
    let loaded = catalog.register(&table, &asked.metadata_location).await?;
    answer(&catalog, &table, loaded, form(&catalog, &headers, false))
}

pub(super) async fn rename(catalog: Catalog, bytes: Bytes) -> Answer<StatusCode> {
    let asked: RenameTable = body(&bytes)?;
    catalog.rename(&asked.source, &asked.destination).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reports of engines about their scans and commits are taken and dropped.
pub(super) async fn metrics(_names: Names) -> StatusCode {
    StatusCode::NO_CONTENT
}
