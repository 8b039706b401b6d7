//! The Schema Registry over HTTP: Confluent's API on its usual port 8081.
//!
//! Owns: the server loop, caps on requests, and media types. Does not own: routes, bodies and codes
//! ([`crate::schema::http`]), the state ([`crate::schema_registry`]), which callers are refused (`net::http`; there
//! is no authentication: listen on loopback). *Node-wide*; side runtime.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::limits::{SCHEMA_BODY_BYTES_MAX, SCHEMA_REQUESTS_AT_ONCE};
use crate::net::http::{HttpGuard, HttpPort};
use crate::schema::SchemaError;
use crate::schema::http::reply::{Reply, media_type};
use crate::schema::http::route::{Routed, route};
use crate::schema::http::{self, MEDIA_TYPES};
use crate::schema::json::Json;
use crate::schema_registry::SchemaRegistry;

/// A request that waits or runs for longer is answered with an error.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Port {
    registry: SchemaRegistry,
    permits: Arc<Semaphore>,
}

pub fn router(registry: SchemaRegistry) -> Router {
    let permits = Arc::new(Semaphore::new(SCHEMA_REQUESTS_AT_ONCE));
    Router::new().fallback(answer).with_state(Port { registry, permits })
}

/// Serves the port on `handle` until the process ends.
pub fn start(registry: SchemaRegistry, port: HttpPort, handle: &Handle) {
    handle.spawn(async move {
        let served = match port.into_tokio() {
            Ok((listener, guard)) => serve(listener, guard, registry).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, "the port of the schema registry is not served any more");
        }
    });
}

async fn serve(listener: TcpListener, guard: HttpGuard, registry: SchemaRegistry) -> std::io::Result<()> {
    axum::serve(listener, guard.protect(router(registry), refused)).await
}

/// A request that the port's rules refuse.
fn refused(why: String) -> Response {
    let [kind, ..] = MEDIA_TYPES;
    let body = Json::object([("error_code", 403.into()), ("message", why.into())]);
    sent(StatusCode::FORBIDDEN.as_u16(), kind, body.to_string())
}

fn sent(status: u16, kind: &'static str, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(CONTENT_TYPE, kind)], body).into_response()
}

async fn answer(State(port): State<Port>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let [default, ..] = MEDIA_TYPES;
    let accepted = media_type(text(request.headers(), &ACCEPT));
    let kind = *accepted.as_ref().unwrap_or(&default);
    let late = |what: &str| Err(SchemaError::Timeout(format!("{what} {PATIENCE:?}")));
    let mut is_command = false;
    let answered = match accepted {
        Err(error) => Err(error),
        Ok(_) => match timeout(PATIENCE, port.permits.clone().acquire_owned()).await {
            Err(_) | Ok(Err(_)) => late("other requests took more than"),
            Ok(Ok(permit)) => {
                let running = AssertUnwindSafe(carried_out(&port.registry, request, &mut is_command)).catch_unwind();
                let answered = timeout(PATIENCE, running).await;
                drop(permit);
                match answered {
                    Err(_) => late("no answer within"),
                    Ok(Ok(answered)) => answered,
                    Ok(Err(_)) => {
                        tracing::error!(%method, path, "a request to the schema registry panicked: a defect");
                        Err(SchemaError::Store("the registry failed at this request; see the broker's log".to_owned()))
                    }
                }
            }
        },
    };
    let reply = answered.unwrap_or_else(|error| {
        match &error {
            // Passes when there is a leader again, and is the client's to try again.
            SchemaError::NoLeader | SchemaError::Forward(_) => {
                tracing::info!(%method, path, %error, "a request to the schema registry failed for now");
            }
            error if error.status() >= 500 => {
                tracing::warn!(%method, path, %error, "a request to the schema registry failed");
            }
            _ => {}
        }
        Reply::from(error)
    });
    let counts = port.registry.counts();
    if is_command { &counts.commands } else { &counts.queries }.note(reply.status);
    sent(reply.status, kind, reply.body)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn carried_out(registry: &SchemaRegistry, request: Request, is_command: &mut bool) -> Result<Reply, SchemaError> {
    let (parts, body) = request.into_parts();
    let body =
        to_bytes(body, SCHEMA_BODY_BYTES_MAX).await.map_err(|_| SchemaError::BodyTooLarge(SCHEMA_BODY_BYTES_MAX))?;
    let request = http::Request {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        content_type: text(&parts.headers, &CONTENT_TYPE),
        body: &body,
    };
    Ok(match route(&request)? {
        Routed::Root => Reply::root(),
        Routed::Query(query) => registry.query(query).await?.into(),
        Routed::Command(command) => {
            *is_command = true;
            registry.command(command, &request).await?
        }
    })
}
