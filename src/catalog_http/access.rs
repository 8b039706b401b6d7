//! Bearer tokens: every route wants one where the broker has a file of them, but the one that issues them.
//!
//! Owns: the middleware, `POST /v1/oauth/tokens`. Does not own: which token is right (`net::tokens`).

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tidewater_iceberg::catalog::wire::ErrorAnswer;
use tidewater_storage::env::clock::wall;

use super::answer::Failure;
use crate::net::tokens::{TOKEN_SECONDS, Tokens};

const ROUTE: &str = "/v1/oauth/tokens";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Bytes of a request for a token at most.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// `router` behind `tokens`.
pub(super) fn protect(router: Router, tokens: Arc<Tokens>) -> Router {
    let issuing = Router::new()
        .route(ROUTE, post(issue))
        .layer(axum::extract::DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(Arc::clone(&tokens));
    let guarded = router.layer(from_fn(move |request: Request, next: Next| {
        let verdict = check(&tokens, request.headers());
        async move {
            match verdict {
                Ok(()) => next.run(request).await,
                Err(refusal) => refusal,
            }
        }
    }));
    issuing.fallback_service(guarded)
}

fn check(tokens: &Tokens, headers: &HeaderMap) -> Result<(), Response> {
    let why = match credentials(headers, "bearer") {
        Some(token) if tokens.holder(token, wall()).is_some() => return Ok(()),
        Some(_) => "the bearer token is not one of this catalog, or has ended; get another from /v1/oauth/tokens",
        None => "this catalog wants a bearer token (Authorization: Bearer …); set the client's token or credential",
    };
    let answer = ErrorAnswer::new(401, "NotAuthorizedException", why.to_owned());
    let mut response = Failure::new(answer).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
    Err(response)
}

/// What follows `scheme` in the request's `Authorization`.
fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (found, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// `POST /v1/oauth/tokens`, with the errors of RFC 6749, section 5.2.
async fn issue(State(tokens): State<Arc<Tokens>>, headers: HeaderMap, bytes: Bytes) -> Response {
    let form = Form::parse(&bytes);
    let basic = credentials(&headers, "basic").and_then(basic);
    let (id, secret) = match (&basic, form.get("client_id"), form.get("client_secret")) {
        (Some((id, secret)), ..) => (Some(id.as_str()), Some(secret.as_str())),
        (None, id, secret) => (id, secret),
    };
    let by_secret = || tokens.issue(id?, secret?, wall());
    let issued = match form.get("grant_type") {
        Some("client_credentials") => by_secret(),
        Some(EXCHANGE) => form.get("subject_token").and_then(|held| tokens.exchange(held, wall())).or_else(by_secret),
        _ => {
            let why = "grant_type must be client_credentials or token-exchange";
            return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type", why);
        }
    };
    let Some(token) = issued else {
        let why = "no client of this catalog has this id and secret, or the token has ended";
        return refused(StatusCode::UNAUTHORIZED, "invalid_client", why);
    };
    let body = json!({
        "access_token": token,
        "token_type": "bearer",
        "expires_in": TOKEN_SECONDS,
        "issued_token_type": ACCESS_TOKEN,
    });
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

fn refused(status: StatusCode, error: &str, why: &str) -> Response {
    (status, Json(json!({"error": error, "error_description": why}))).into_response()
}

/// Id and secret of `Basic`.
fn basic(encoded: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

/// A body of `application/x-www-form-urlencoded`.
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(body: &[u8]) -> Self {
        let pairs = body.split(|byte| *byte == b'&').map(|pair| {
            let halves = pair.iter().position(|byte| *byte == b'=').and_then(|end| pair.split_at_checked(end));
            match halves {
                Some((name, [_, value @ ..])) => (decoded(name), decoded(value)),
                _ => (decoded(pair), String::new()),
            }
        });
        Self(pairs.collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

fn decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (first, hex) {
            (b'+', _) => out.push(b' '),
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            (byte, _) => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
