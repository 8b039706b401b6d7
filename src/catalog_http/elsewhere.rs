//! What the catalog's port answers while the tables are in an external catalog: where that is.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use tidewater_iceberg::catalog::wire::ErrorAnswer;

/// Refuses every request with `uri`, the external catalog's.
pub(super) fn router(uri: &str) -> Router {
    let message = format!(
        "the tables of this cluster are in the external catalog at {uri} (--iceberg-catalog-uri); connect to that"
    );
    Router::new().fallback(move || {
        let message = message.clone();
        async move { answer(message) }
    })
}

fn answer(message: String) -> Response {
    let body = ErrorAnswer::new(501, "UnsupportedOperationException", message);
    (StatusCode::NOT_IMPLEMENTED, Json(body)).into_response()
}
