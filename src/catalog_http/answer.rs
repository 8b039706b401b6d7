//! Answers and errors in the shape the specification wants, the path's names, and `/v1/config`.

use std::collections::HashMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use tidewater_iceberg::catalog::wire::signing::SIGN_ENDPOINT;
use tidewater_iceberg::catalog::wire::{Config, ENDPOINTS, ErrorAnswer};
use tidewater_iceberg::catalog::{CatalogError, NamespaceIdent, TableIdent};

use super::Catalog;

/// A route's failure.
pub(super) struct Failure(ErrorAnswer);

impl Failure {
    pub(super) fn new(answer: ErrorAnswer) -> Self {
        if answer.error.code >= 500 {
            let (code, message) = (answer.error.code, &answer.error.message);
            tracing::warn!(code, %message, "a request to the Iceberg catalog failed");
        }
        Self(answer)
    }

    /// Its HTTP status.
    pub(super) fn code(&self) -> u16 {
        self.0.error.code
    }

    pub(super) fn message(&self) -> &str {
        &self.0.error.message
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        Self::new(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = self.0.error.code;
        debug_assert!((400..600).contains(&code), "{code} is no error");
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// What a route returns.
pub(super) type Answer<T> = Result<T, Failure>;

/// The names in a request's path, decoded.
pub(super) type Names = Path<HashMap<String, String>>;

/// Between the levels of a namespace in a path (specification: "unit separator", `0x1F`).
pub(super) const LEVELS: char = '\u{1f}';

/// A namespace from its form in a path or query.
pub(super) fn namespace(text: &str) -> Answer<NamespaceIdent> {
    NamespaceIdent::from_strs(text.split(LEVELS)).map_err(|error| CatalogError::from(error).into())
}

/// The namespace a path names.
pub(super) fn path_namespace(names: &Names) -> Answer<NamespaceIdent> {
    namespace(names.get("namespace").map_or("", String::as_str))
}

/// The table a path names.
pub(super) fn path_table(names: &Names) -> Answer<TableIdent> {
    Ok(TableIdent::new(path_namespace(names)?, names.get("table").cloned().unwrap_or_default()))
}

/// A request's JSON.
pub(super) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Answer<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| CatalogError::Invalid { detail: format!("Malformed request: {error}") }.into())
}

/// As [`body`], for views: Java's catalogs call every fault in the description of one an illegal argument.
pub(super) fn argument<T: DeserializeOwned>(bytes: &Bytes) -> Answer<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| CatalogError::IllegalArgument { detail: format!("Malformed request: {error}") }.into())
}

/// `GET /v1/config`: any warehouse name is accepted.
pub(super) async fn config(catalog: Catalog) -> Json<Config> {
    let endpoints = ENDPOINTS.iter().copied().chain(catalog.signing().map(|_| SIGN_ENDPOINT)).collect();
    Json(Config { defaults: HashMap::new(), overrides: HashMap::new(), endpoints })
}

/// Anything else.
pub(super) async fn no_route(uri: Uri) -> Failure {
    let message = format!("No route for {}; this catalog serves what /v1/config lists", uri.path());
    Failure::new(ErrorAnswer::new(404, "NotFoundException", message))
}

/// A request that the port's rules refuse.
pub(super) fn refused(why: String) -> Response {
    Failure::new(ErrorAnswer::new(403, "ForbiddenException", why)).into_response()
}
