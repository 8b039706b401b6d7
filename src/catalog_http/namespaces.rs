//! Routes of namespaces.

use axum::Json;
use axum::body::Bytes;
use axum::extract::Query;
use axum::http::StatusCode;
use serde::Deserialize;
use tidewater_iceberg::catalog::wire::{CreateNamespace, NamespaceAnswer, NamespaceList, UpdateProperties, page};
use tidewater_iceberg::catalog::{CatalogError, PropertyChange};

use super::Catalog;
use super::answer::{Answer, Names, body, namespace, path_namespace};

/// Query of a listing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listing {
    parent: Option<String>,
    page_token: Option<String>,
    page_size: Option<usize>,
}

impl Listing {
    /// One page of sorted `items`, if pages were asked for.
    pub(super) fn page<T>(&self, items: Vec<T>, name: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        page(items, self.page_token.as_deref(), self.page_size, name)
    }
}

pub(super) async fn list(catalog: Catalog, Query(query): Query<Listing>) -> Answer<Json<NamespaceList>> {
    let parent = query.parent.as_deref().filter(|p| !p.is_empty()).map(namespace).transpose()?;
    let found = catalog.list_namespaces(parent.as_ref()).await?;
    let (namespaces, next_page_token) = query.page(found, |namespace| namespace.to_url_string());
    Ok(Json(NamespaceList { namespaces, next_page_token }))
}

pub(super) async fn create(catalog: Catalog, bytes: Bytes) -> Answer<Json<NamespaceAnswer>> {
    let asked: CreateNamespace = body(&bytes)?;
    catalog.create_namespace(&asked.namespace, asked.properties.clone()).await?;
    Ok(Json(NamespaceAnswer { namespace: asked.namespace, properties: asked.properties }))
}

pub(super) async fn load(catalog: Catalog, names: Names) -> Answer<Json<NamespaceAnswer>> {
    let namespace = path_namespace(&names)?;
    let properties = catalog.load_namespace(&namespace).await?;
    Ok(Json(NamespaceAnswer { namespace, properties }))
}

pub(super) async fn exists(catalog: Catalog, names: Names) -> Answer<StatusCode> {
    let namespace = path_namespace(&names)?;
    if catalog.namespace_exists(&namespace).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(CatalogError::NoSuchNamespace(namespace).into())
}

pub(super) async fn drop_namespace(catalog: Catalog, names: Names) -> Answer<StatusCode> {
    catalog.drop_namespace(&path_namespace(&names)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn change(catalog: Catalog, names: Names, bytes: Bytes) -> Answer<Json<PropertyChange>> {
    let asked: UpdateProperties = body(&bytes)?;
    Ok(Json(catalog.change_namespace(&path_namespace(&names)?, &asked.updates, &asked.removals).await?))
}
