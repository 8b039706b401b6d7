//! Every error of the port as Iceberg's JSON, from whichever part it comes: a route, an extractor of axum (path, query,
//! body), the router (404, 405), a panic, a timeout or the limit on requests at a time.
//!
//! Clients parse the body of every error and report "unknown error" for anything else. What hyper answers before a
//! request exists (a malformed request line, headers that are too large) has no body and stays so.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tidewater_iceberg::catalog::wire::ErrorAnswer;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Failure;
use crate::limits::CATALOG_REQUESTS_AT_ONCE;

/// Limits of the port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Requests that are read and answered at a time; further ones wait. With the cap on a body this bounds the memory
    /// that clients can make the port take.
    pub(super) at_once: usize,
    /// A request that waits or runs for longer is answered with an error.
    pub(super) patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { at_once: CATALOG_REQUESTS_AT_ONCE, patience: Duration::from_secs(120) }
    }
}

/// `router` with all of its errors as JSON.
pub(super) fn as_json(router: Router, limits: Limits) -> Router {
    let permits = Arc::new(Semaphore::new(limits.at_once));
    router.layer(from_fn(move |request: Request, next: Next| {
        let permits = Arc::clone(&permits);
        async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let Ok(permit) = timeout(limits.patience, permits.acquire_owned()).await else {
                return failure(503, format!("{} requests are under way; try again", limits.at_once));
            };
            let answer = timeout(limits.patience, AssertUnwindSafe(next.run(request)).catch_unwind()).await;
            drop(permit);
            match answer {
                Ok(Ok(response)) => enveloped(response, &method, &path).await,
                Ok(Err(_)) => {
                    tracing::error!(%method, path, "a request to the Iceberg catalog panicked: a defect");
                    failure(500, "the catalog failed at this request; see the broker's log".to_owned())
                }
                // 504 to a commit means that its outcome is unknown, which is so.
                Err(_) => {
                    failure(504, format!("no answer within {:?}; load the table to see its state", limits.patience))
                }
            }
        }
    }))
}

/// `response`, its body as JSON if it is an error that has another.
async fn enveloped(response: Response, method: &Method, path: &str) -> Response {
    /// Texts of axum's rejections are far shorter.
    const TEXT_BYTES_MAX: usize = 4096;
    let status = response.status();
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/json");
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = match to_bytes(body, TEXT_BYTES_MAX).await {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(%method, path, %status, %error, "the text of a catalog error cannot be read: a defect");
            return failure(500, format!("the catalog's answer {status} has a text that cannot be read: {error}"));
        }
    };
    let text = String::from_utf8_lossy(&text);
    let message = match status {
        StatusCode::METHOD_NOT_ALLOWED => format!("{method} is not served at {path}; /v1/config lists what is"),
        _ if text.trim().is_empty() => status.to_string(),
        _ => text.trim().to_owned(),
    };
    let mut answer = failure(status.as_u16(), message);
    if let Some(methods) = parts.headers.get(ALLOW) {
        answer.headers_mut().insert(ALLOW, methods.clone());
    }
    answer
}

fn failure(code: u16, message: String) -> Response {
    let kind = match code {
        400 => "BadRequestException",
        401 => "NotAuthorizedException",
        403 => "ForbiddenException",
        404 => "NotFoundException",
        405 => "UnsupportedOperationException",
        413 => "PayloadTooLargeException",
        422 => "UnprocessableEntityException",
        503 => "ServiceUnavailableException",
        504 => "CommitStateUnknownException",
        _ if code < 500 => "BadRequestException",
        _ => "InternalServerError",
    };
    Failure::new(ErrorAnswer::new(code, kind, message)).into_response()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;
    use std::io::{Read, Write};
    use std::net::SocketAddr;

    use axum::routing::get;
    use serde_json::Value;
    use tidewater_iceberg::catalog::ObjectStoreCatalog;
    use tidewater_iceberg::files::TableFiles;
    use tidewater_iceberg::location::Warehouse;
    use tidewater_iceberg::names::Names;
    use tidewater_tiering::store::DirectoryStore;
    use tokio::runtime::{Builder, Runtime};

    use super::super::ServedCatalog;
    use super::*;

    fn runtime() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    }

    #[allow(clippy::disallowed_methods, reason = "a test")]
    pub(in crate::catalog_http) fn serve(runtime: &Runtime, router: Router) -> SocketAddr {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
            let address = listener.local_addr().expect("bound");
            tokio::spawn(async move { axum::serve(listener, router).await });
            address
        })
    }

    /// Status and body.
    pub(in crate::catalog_http) fn ask(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        ask_with(address, method, path, "", body)
    }

    /// The same with more headers, each with its line's end.
    pub(in crate::catalog_http) fn ask_with(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> (u16, String) {
        let mut socket = std::net::TcpStream::connect(address).expect("connects");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).expect("writes");
        // A server that refuses a body by its length does not read it.
        let _ = socket.write_all(body);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    /// Is this an Iceberg error with that code and type?
    pub(in crate::catalog_http) fn is_error(answer: &(u16, String), code: u16, kind: &str) -> bool {
        let body: Value = serde_json::from_str(&answer.1).unwrap_or_default();
        let error = &body["error"];
        answer.0 == code
            && error["code"] == code
            && error["type"] == kind
            && error["message"].as_str().is_some_and(|message| !message.is_empty())
    }

    #[test]
    fn every_error_of_the_router_is_icebergs_json() {
        let (runtime, dir) = (runtime(), tempfile::tempdir().expect("a directory"));
        let store = DirectoryStore::open(dir.path().to_owned(), runtime.handle().clone()).expect("opens");
        let warehouse = Warehouse::new(&format!("file://{}", dir.path().display()), "lake").expect("legal");
        let files = TableFiles::new(Arc::new(store), warehouse);
        let catalog = ObjectStoreCatalog::new(files, Names::random(), HashMap::new());
        let catalog = Arc::new(ServedCatalog::alone(Arc::new(catalog)));
        let address = serve(&runtime, super::super::router(catalog));
        let large = vec![b' '; crate::limits::CATALOG_BODY_BYTES_MAX + 1];
        let create = br#"{"namespace":["n"]}"#;
        assert_eq!(ask(address, "POST", "/v1/namespaces", create).0, 200);
        let both = br#"{"removals":["a"],"updates":{"a":"b"}}"#;
        for (method, path, body, code, kind) in [
            ("GET", "/", &b""[..], 404, "NotFoundException"),
            ("GET", "/v1/nonsense/at/all", b"", 404, "NotFoundException"),
            ("GET", "/v1/namespaces/n/tables/t", b"", 404, "NoSuchTableException"),
            ("PUT", "/v1/namespaces", b"", 405, "UnsupportedOperationException"),
            ("DELETE", "/v1/config", b"", 405, "UnsupportedOperationException"),
            ("PATCH", "/v1/p/namespaces/n/tables/t", b"", 405, "UnsupportedOperationException"),
            ("POST", "/v1/namespaces", b"", 400, "BadRequestException"),
            ("POST", "/v1/namespaces", b"{\"namespace\":", 400, "BadRequestException"),
            ("POST", "/v1/namespaces", b"\xff\xfe", 400, "BadRequestException"),
            ("POST", "/v1/namespaces/n/tables", b"[]", 400, "BadRequestException"),
            ("GET", "/v1/namespaces?pageSize=x", b"", 400, "BadRequestException"),
            ("GET", "/v1/namespaces/%ff/tables", b"", 400, "BadRequestException"),
            ("POST", "/v1/namespaces/n/properties", both, 422, "UnprocessableEntityException"),
            ("POST", "/v1/namespaces", create, 409, "AlreadyExistsException"),
            ("POST", "/v1/namespaces", &large, 413, "PayloadTooLargeException"),
        ] {
            let answer = ask(address, method, path, body);
            assert!(is_error(&answer, code, kind), "{method} {path}: {answer:?}");
        }
    }

    #[test]
    fn a_panic_a_timeout_and_the_limit_are_icebergs_json_too() {
        #[allow(clippy::panic)]
        async fn defect() -> &'static str {
            panic!("simulated")
        }
        async fn never() -> &'static str {
            std::future::pending().await
        }
        let runtime = runtime();
        let router = Router::new().route("/defect", get(defect)).route("/never", get(never));
        let limits = Limits { at_once: 1, patience: Duration::from_millis(200) };
        let address = serve(&runtime, as_json(router, limits));
        let answer = ask(address, "GET", "/defect", b"");
        assert!(is_error(&answer, 500, "InternalServerError"), "{answer:?}");
        let others: Vec<_> = (0..8).map(|_| std::thread::spawn(move || ask(address, "GET", "/never", b""))).collect();
        let answers: Vec<_> = others.into_iter().map(|other| other.join().expect("answered")).collect();
        let late = answers.iter().filter(|answer| is_error(answer, 504, "CommitStateUnknownException")).count();
        let waited = answers.iter().filter(|answer| is_error(answer, 503, "ServiceUnavailableException")).count();
        assert!(late >= 1 && waited >= 1 && late + waited == 8, "{answers:?}");
    }
}
