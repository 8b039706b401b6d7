//! The Iceberg REST catalog over HTTP: routes, path and query parameters, status codes.
//!
//! Owns: the axum router and its server loop, and beside the cluster's own tables those of followed topics (`served`).
//! Does not own: what a request does (`tidewater_iceberg::catalog`, `replica::tables`), its JSON (`catalog::wire`),
//! which web pages are refused (`net::http`), which token is right (`net::tokens`). *Node-wide*; side runtime.
//!
//! Every route exists with and without a prefix (`/v1/namespaces`, `/v1/{prefix}/namespaces`); the prefix and the
//! warehouse a client names are accepted and mean nothing: there is one warehouse.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, get, post};
use tokio::net::TcpListener;

use crate::limits::{CATALOG_BODY_BYTES_MAX, CATALOG_SIGN_BYTES_MAX};
use crate::net::http::HttpGuard;
use crate::net::tokens::Tokens;

mod access;
mod answer;
mod elsewhere;
mod errors;
mod etag;
mod namespaces;
mod served;
mod signing;
mod tables;
mod views;

pub use served::ServedCatalog;
pub use signing::Signing;

/// The extractor by which a route gets the catalog.
pub(crate) type Catalog = axum::extract::State<Arc<ServedCatalog>>;

pub fn router(catalog: Arc<ServedCatalog>) -> Router {
    let routes = Router::new()
        .route("/v1/config", get(answer::config))
        .nest("/v1", resources())
        .nest("/v1/{prefix}", resources())
        .fallback(answer::no_route)
        .layer(DefaultBodyLimit::max(CATALOG_BODY_BYTES_MAX))
        .with_state(catalog);
    errors::as_json(routes, errors::Limits::default())
}

fn resources() -> Router<Arc<ServedCatalog>> {
    Router::new()
        .route("/namespaces", get(namespaces::list).post(namespaces::create))
        .route(
            "/namespaces/{namespace}",
            get(namespaces::load).head(namespaces::exists).delete(namespaces::drop_namespace),
        )
        .route("/namespaces/{namespace}/properties", post(namespaces::change))
        .route("/namespaces/{namespace}/tables", get(tables::list).post(tables::create))
        .route(
            "/namespaces/{namespace}/tables/{table}",
            get(tables::load).head(tables::exists).post(tables::commit).delete(tables::drop_table),
        )
        .route("/namespaces/{namespace}/tables/{table}/metrics", post(tables::metrics))
        .route("/namespaces/{namespace}/tables/{table}/sign", signed(post(signing::sign)))
        .route("/aws/s3/sign", signed(post(signing::sign_for_any)))
        .route("/namespaces/{namespace}/register", post(tables::register))
        .route("/tables/rename", post(tables::rename))
        .route("/transactions/commit", post(tables::commit_several))
        .route("/namespaces/{namespace}/views", get(views::list).post(views::create))
        .route(
            "/namespaces/{namespace}/views/{view}",
            get(views::load).head(views::exists).post(views::replace).delete(views::drop_view),
        )
        .route("/namespaces/{namespace}/register-view", post(views::register))
        .route("/views/rename", post(views::rename))
}

/// With the cap on a request to sign another.
fn signed(route: MethodRouter<Arc<ServedCatalog>>) -> MethodRouter<Arc<ServedCatalog>> {
    route.layer(DefaultBodyLimit::max(CATALOG_SIGN_BYTES_MAX))
}

/// Serves the catalog until `stop` resolves; requests in flight are answered. Web pages are refused as `guard` says;
/// with `tokens`, every request needs one.
///
/// # Errors
/// What the listener says.
pub async fn serve(
    listener: TcpListener,
    guard: HttpGuard,
    tokens: Option<Arc<Tokens>>,
    catalog: Arc<ServedCatalog>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = match tokens {
        Some(tokens) => access::protect(router(catalog), tokens),
        None => router(catalog),
    };
    axum::serve(listener, guard.protect(router, answer::refused)).with_graceful_shutdown(stop).await
}

/// Answers every request with where the tables are: in the external catalog at `uri`.
///
/// # Errors
/// What the listener says.
pub async fn serve_elsewhere(listener: TcpListener, guard: HttpGuard, uri: &str) -> std::io::Result<()> {
    axum::serve(listener, guard.protect(elsewhere::router(uri), answer::refused)).await
}
