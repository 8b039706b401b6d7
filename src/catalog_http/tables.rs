//! Routes of tables.

use axum::Json;
use axum::body::Bytes;
use axum::extract::Query;
use axum::http::StatusCode;
use serde::Deserialize;
use tidewater_iceberg::catalog::wire::{CommitTable, CreateTable, RegisterTable, RenameTable, TableAnswer, TableList};
use tidewater_iceberg::catalog::{CatalogError, Loaded, TableIdent};

use super::Catalog;
use super::answer::{Answer, Names, body, path_namespace, path_table};
use super::namespaces::Listing;

fn answer(catalog: &Catalog, loaded: Loaded) -> Answer<Json<TableAnswer>> {
    Ok(Json(TableAnswer::new(loaded, catalog.table_config().clone())?))
}

pub(super) async fn list(catalog: Catalog, names: Names, Query(query): Query<Listing>) -> Answer<Json<TableList>> {
    let found = catalog.list_tables(&path_namespace(&names)?).await?;
    let (identifiers, next_page_token) = query.page(found, |table| table.name.clone());
    Ok(Json(TableList { identifiers, next_page_token }))
}

pub(super) async fn create(catalog: Catalog, names: Names, bytes: Bytes) -> Answer<Json<TableAnswer>> {
    let asked: CreateTable = body(&bytes)?;
    let table = TableIdent::new(path_namespace(&names)?, asked.name.clone());
    let staged = asked.stage_create;
    let new = asked.into_new()?;
    let loaded = if staged { catalog.stage(&table, new).await? } else { catalog.create(&table, new).await? };
    answer(&catalog, loaded)
}

pub(super) async fn load(catalog: Catalog, names: Names) -> Answer<Json<TableAnswer>> {
    let loaded = catalog.load(&path_table(&names)?).await?;
    answer(&catalog, loaded)
}

pub(super) async fn exists(catalog: Catalog, names: Names) -> Answer<StatusCode> {
    let table = path_table(&names)?;
    if catalog.table_exists(&table).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(CatalogError::NoSuchTable(table).into())
}

pub(super) async fn commit(catalog: Catalog, names: Names, bytes: Bytes) -> Answer<Json<TableAnswer>> {
    let asked: CommitTable = body(&bytes)?;
    let loaded = catalog.commit(&path_table(&names)?, asked).await?;
    answer(&catalog, loaded)
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

pub(super) async fn register(catalog: Catalog, names: Names, bytes: Bytes) -> Answer<Json<TableAnswer>> {
    let asked: RegisterTable = body(&bytes)?;
    let table = TableIdent::new(path_namespace(&names)?, asked.name);
    let loaded = catalog.register(&table, &asked.metadata_location).await?;
    answer(&catalog, loaded)
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
