//! HTTP to an external catalog: one request at a time, with bounds on time and on the answer's size.
//!
//! Owns: what became of a request ([`Failure`] tells one that was never sent from one that may have been carried out),
//! retries of reads, the header of authorisation. Does not own: what an answer means (`answers`), where tokens come
//! from (`credentials`).
//!
//! **Retries**: reads alone, [`READ_ATTEMPTS`] with growing pauses; a request that changes something is sent once. Both
//! are sent once more with another token after an answer that refuses the token, which means that nothing was done.
//! **Bounds**: [`ANSWER_BYTES_MAX`] of each answer, counted while it arrives; `RestSettings::timeout` for each request.

use std::error::Error;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use serde_json::Value;

use super::RestSettings;
use super::credentials::{Credentials, OwnServer, Tokens};
use crate::catalog::CatalogError;
use crate::catalog::object_store::METADATA_BYTES_MAX;

/// Bytes of an answer: a table's metadata and a little around it.
pub(super) const ANSWER_BYTES_MAX: usize = METADATA_BYTES_MAX + (1 << 20);
/// A read is tried this often.
const READ_ATTEMPTS: u32 = 4;
/// First pause between two attempts; each one after it is twice as long.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer with any status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The token was refused: nothing was done.
    fn refuses_token(&self) -> bool {
        matches!(self.status, 401 | 419)
    }

    /// Another attempt may be answered.
    fn may_pass(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500..=599)
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The catalog never got it.
    NotSent(String),
    /// The catalog may have got it and carried it out.
    Lost(String),
    /// There is no token to send it with.
    NoToken(String),
}

impl Failure {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::NotSent(why) | Self::Lost(why) | Self::NoToken(why) => why,
        }
    }
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Below the catalog's URL, `/v1/…`.
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// The version that is known already; it is not sent again.
    pub(super) known: Option<&'a str>,
}

impl Request<'_> {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None, known: None }
    }

    pub(super) fn post(path: String, body: Value) -> Self {
        Self { method: Method::POST, path, body: Some(body), known: None }
    }

    pub(super) fn delete(path: String) -> Self {
        Self { method: Method::DELETE, path, body: None, known: None }
    }
}

/// Requests to one catalog. *Node-wide*.
pub(super) struct Client {
    http: reqwest::Client,
    /// Without a slash at the end.
    base: String,
    /// Of every request to the catalog, and of none to another server.
    headers: HeaderMap,
    tokens: Tokens,
}

impl Client {
    /// # Errors
    /// The URL or a header is not legal.
    pub(super) fn new(settings: &RestSettings) -> Result<Self, CatalogError> {
        let url = parse_url(&settings.uri)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let bad = |_| invalid(format!("the header {name:?} with its value cannot be sent; give NAME=VALUE"));
            let key = HeaderName::try_from(name.as_str()).map_err(|_| bad(()))?;
            let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| bad(()))?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        if let Credentials::OAuth2 { server: Some(server), .. } = &settings.credentials {
            parse_url(server)?;
        }
        let mut builder = reqwest::Client::builder()
            .timeout(settings.timeout)
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would turn a commit into a read, or carry the token to another host.
            .redirect(Policy::none())
            .user_agent(concat!("tidewater/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let http =
            builder.build().map_err(|error| invalid(format!("no HTTP client can be made: {}", cause(&error))))?;
        let base = settings.uri.trim_end_matches('/').to_owned();
        let own_server = OwnServer { url: format!("{base}/v1/oauth/tokens"), headers: headers.clone() };
        let tokens = Tokens::new(settings.credentials.clone(), own_server);
        Ok(Self { http, base, headers, tokens })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Sends once; see the module for the token.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let token = self.tokens.header(&self.http).await?;
        let answer = self.send_with(request, token.as_ref()).await?;
        let Some(refused) = token.filter(|_| answer.refuses_token()) else { return Ok(answer) };
        self.tokens.forget(&refused).await;
        let another = self.tokens.header(&self.http).await?;
        self.send_with(request, another.as_ref()).await
    }

    /// Sends something that changes nothing, again if need be.
    pub(super) async fn read(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let mut pause = READ_PAUSE;
        for _ in 1..READ_ATTEMPTS {
            match self.send(request).await {
                Ok(answer) if !answer.may_pass() => return Ok(answer),
                Err(failure @ Failure::NoToken(_)) => return Err(failure),
                _ => {}
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.send(request).await
    }

    /// Makes sure that there is a token, if one is needed.
    pub(super) async fn authorise(&self) -> Result<bool, Failure> {
        Ok(self.tokens.header(&self.http).await?.is_some())
    }

    async fn send_with(&self, request: &Request<'_>, token: Option<&HeaderValue>) -> Result<Answer, Failure> {
        let url = format!("{}{}", self.base, request.path);
        let sent = self.http.request(request.method.clone(), url).headers(self.headers.clone());
        let mut sent = sent.header(ACCEPT, "application/json");
        if let Some(token) = token {
            sent = sent.header(AUTHORIZATION, token);
        }
        if let Some(known) = request.known {
            sent = sent.header(IF_NONE_MATCH, known);
        }
        if let Some(body) = &request.body {
            sent = sent.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        receive(sent, ANSWER_BYTES_MAX).await
    }
}

/// Sends a request and takes its answer, of at most `bytes_max`.
pub(super) async fn receive(sent: reqwest::RequestBuilder, bytes_max: usize) -> Result<Answer, Failure> {
    let failed = |error: reqwest::Error| {
        let why = if error.is_timeout() { "no answer in time".to_owned() } else { cause(&error) };
        if error.is_connect() || error.is_builder() { Failure::NotSent(why) } else { Failure::Lost(why) }
    };
    let mut response = sent.send().await.map_err(failed)?;
    let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(ToOwned::to_owned);
    let (status, mut body) = (response.status().as_u16(), Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(Failure::Lost(format!("the answer has more than {bytes_max} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, etag, body })
}

/// A URL below which the routes of a catalog are.
fn parse_url(text: &str) -> Result<Url, CatalogError> {
    // The text may hold a password or a token: it is not repeated.
    let bad = |why: &str| invalid(format!("this is not the URL of a catalog: {why}; give http(s)://HOST:PORT/PATH"));
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("the URL of a catalog has no user and password in it; use a file for secrets".to_owned()));
    }
    match url.scheme() {
        "http" | "https" if url.query().is_none() && url.fragment().is_none() => Ok(url),
        "http" | "https" => Err(bad("it has a query or a fragment")),
        scheme => Err(bad(&format!("its scheme is {scheme}"))),
    }
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn invalid(detail: String) -> CatalogError {
    CatalogError::Invalid { detail }
}

/// The innermost cause, such as "Connection refused (os error 111)": the outer ones name only the URL.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_refused_is_not_repeated() {
        for text in [
            "http://user:hunter2@host/path",
            "http://user:hunter2@host:port/path",
            "user:hunter2@host",
            "https://host/path?token=hunter2",
            "ftp://user@host/hunter2",
        ] {
            let refused = parse_url(text).expect_err(text).to_string();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        assert!(parse_url("https://host:8181/api/catalog").is_ok());
    }
}
