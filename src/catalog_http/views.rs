//! Routes of views.

use axum::Json;
use axum::body::Bytes;
use axum::extract::Query;
use axum::http::StatusCode;
use tidewater_iceberg::catalog::wire::views::{CommitView, CreateView, ViewAnswer};
use tidewater_iceberg::catalog::wire::{RegisterTable, RenameTable, TableList};
use tidewater_iceberg::catalog::{CatalogError, TableIdent};

use super::Catalog;
use super::answer::{Answer, Names, argument, body, path_namespace};
use super::namespaces::Listing;

/// The view a path names.
fn path_view(names: &Names) -> Answer<TableIdent> {
    Ok(TableIdent::new(path_namespace(names)?, names.get("view").cloned().unwrap_or_default()))
}

pub(super) async fn list(catalog: Catalog, names: Names, Query(query): Query<Listing>) -> Answer<Json<TableList>> {
    let found = catalog.list_views(&path_namespace(&names)?).await?;
    let (identifiers, next_page_token) = query.page(found, |view| view.name.clone());
    Ok(Json(TableList { identifiers, next_page_token }))
}

pub(super) async fn create(catalog: Catalog, names: Names, bytes: Bytes) -> Answer<Json<ViewAnswer>> {
    let asked: CreateView = argument(&bytes)?;
    let view = TableIdent::new(path_namespace(&names)?, asked.name.clone());
    Ok(Json(catalog.create_view(&view, asked.into_new()).await?.into()))
}

pub(super) async fn load(catalog: Catalog, names: Names) -> Answer<Json<ViewAnswer>> {
    Ok(Json(catalog.load_view(&path_view(&names)?).await?.into()))
}

pub(super) async fn exists(catalog: Catalog, names: Names) -> Answer<StatusCode> {
    let view = path_view(&names)?;
    if catalog.view_exists(&view).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(CatalogError::NoSuchView(view).into())
}

pub(super) async fn replace(catalog: Catalog, names: Names, bytes: Bytes) -> Answer<Json<ViewAnswer>> {
    let asked: CommitView = argument(&bytes)?;
    Ok(Json(catalog.replace_view(&path_view(&names)?, &asked.requirements, &asked.updates).await?.into()))
}

pub(super) async fn drop_view(catalog: Catalog, names: Names) -> Answer<StatusCode> {
    catalog.drop_view(&path_view(&names)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn register(catalog: Catalog, names: Names, bytes: Bytes) -> Answer<Json<ViewAnswer>> {
    let asked: RegisterTable = body(&bytes)?;
    let view = TableIdent::new(path_namespace(&names)?, asked.name);
    Ok(Json(catalog.register_view(&view, &asked.metadata_location).await?.into()))
}

pub(super) async fn rename(catalog: Catalog, bytes: Bytes) -> Answer<StatusCode> {
    let asked: RenameTable = body(&bytes)?;
    catalog.rename_view(&asked.source, &asked.destination).await?;
    Ok(StatusCode::NO_CONTENT)
}
