//! The Iceberg REST catalog over HTTP: routes, path and query parameters, status codes.
//!
//! Owns: the axum router and its server loop. Does not own: what a request does (`tidewater_iceberg::catalog`), its
//! JSON (`catalog::wire`), who may ask (nobody is asked yet: bind to loopback). *Node-wide*; tokio side runtime.
//!
//! Every route exists with and without a prefix (`/v1/namespaces`, `/v1/{prefix}/namespaces`); the prefix and the
//! warehouse a client names are accepted and mean nothing: there is one warehouse.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tidewater_iceberg::catalog::ObjectStoreCatalog;
use tokio::net::TcpListener;

mod answer;
mod namespaces;
mod tables;

/// Bytes of a request body. A commit carries whole schemas and summaries; Spark's largest seen were below 1 MiB.
const BODY_BYTES_MAX: usize = 32 << 20;

/// What every route gets.
pub(crate) type Catalog = axum::extract::State<Arc<ObjectStoreCatalog>>;

/// The routes.
pub fn router(catalog: Arc<ObjectStoreCatalog>) -> Router {
    Router::new()
        .route("/v1/config", get(answer::config))
        .nest("/v1", resources())
        .nest("/v1/{prefix}", resources())
        .fallback(answer::no_route)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(catalog)
}

fn resources() -> Router<Arc<ObjectStoreCatalog>> {
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
        .route("/namespaces/{namespace}/register", post(tables::register))
        .route("/tables/rename", post(tables::rename))
}

/// Serves the catalog until `stop` resolves; requests in flight are answered.
///
/// # Errors
/// What the listener says.
pub async fn serve(
    listener: TcpListener,
    catalog: Arc<ObjectStoreCatalog>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(catalog)).with_graceful_shutdown(stop).await
}
