//! For what a broker waits before it serves, and the answers of its admin port until then: alive, not ready, and why.
//!
//! The admin port is open from the beginning of a start, which may wait for other brokers without a limit. Node-wide.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::{FromRef, Request};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::metrics;
use super::state::{AdminState, refused};

/// For what the start waits now, in words. Every step of the start sets it, from any thread. Cheap to clone.
#[derive(Clone)]
pub struct StartStage {
    waits: Arc<Mutex<String>>,
}

impl fmt::Debug for StartStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StartStage({})", self.get())
    }
}

impl StartStage {
    #[must_use]
    pub fn new(what: &str) -> Self {
        Self { waits: Arc::new(Mutex::new(what.to_owned())) }
    }

    pub fn set(&self, what: impl Into<String>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    #[must_use]
    pub fn get(&self) -> String {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The state of the routes: what they share once the broker serves, and until then why it does not. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    start: StartStage,
    serving: Arc<OnceLock<AdminState>>,
}

impl Stage {
    pub(super) fn new(start: StartStage) -> Self {
        Self { start, serving: Arc::default() }
    }

    /// The broker serves from now on.
    pub(super) fn serve(&self, state: AdminState) {
        assert!(self.serving.set(state).is_ok(), "a broker begins to serve once");
    }

    /// Answers in the place of the routes until the broker serves.
    pub(super) async fn guard(self, request: Request, next: Next) -> Response {
        let path = request.uri().path();
        if self.serving.get().is_some() || path == "/health/live" {
            return next.run(request).await;
        }
        answer(path, &self.start.get())
    }
}

impl FromRef<Stage> for AdminState {
    fn from_ref(stage: &Stage) -> Self {
        stage.serving.get().expect("no route is reached before the broker serves").clone()
    }
}

/// The answer of a broker that does not serve yet.
fn answer(path: &str, waits: &str) -> Response {
    match path {
        "/health/ready" => (StatusCode::SERVICE_UNAVAILABLE, format!("starting: {waits}\n")).into_response(),
        "/metrics" => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render_starting()).into_response(),
        _ => refused(StatusCode::SERVICE_UNAVAILABLE, &format!("the broker is starting: {waits}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn text(response: Response) -> String {
        let bytes = run(axum::body::to_bytes(response.into_body(), 1 << 20)).expect("in memory");
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[test]
    fn a_broker_that_starts_says_for_what_it_waits() {
        let stage = StartStage::new("the data directory is read");
        stage.clone().set("waiting for 2 of 3 seeds");
        let ready = answer("/health/ready", &stage.get());
        assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(ready), "starting: waiting for 2 of 3 seeds\n");
        let health = answer("/v1/cluster/health", &stage.get());
        assert_eq!(health.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(health), r#"{"error":"the broker is starting: waiting for 2 of 3 seeds"}"#);
        let metrics = answer("/metrics", &stage.get());
        assert_eq!(metrics.status(), StatusCode::OK);
        assert!(text(metrics).contains("tidewater_serving 0"));
    }
}
