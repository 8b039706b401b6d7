//! The bearer token that requests to an external catalog carry: from a file, or from an OAuth2 server for a client's
//! secret. Secrets are read from files when they are needed, are held in memory alone and are never formatted.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::TimestampMs;
use tokio::sync::Mutex;

use super::client::{Failure, receive};

/// A token from a file is read again after this long: a program may renew it there.
const FILE_MS: i64 = 60_000;
/// A token is not used in its last minute, or in the last half of a life shorter than two minutes.
const SPARE_MS: i64 = 60_000;
/// The life of a token whose server does not say it, and the longest that is believed, in seconds.
const LIFE_S: (u64, u64) = (3_600, 86_400);
/// Bytes of a token's answer, and of a file with a secret.
const SECRET_BYTES_MAX: usize = 64 << 10;

/// How a catalog knows its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    #[default]
    None,
    /// A file with a bearer token.
    TokenFile(PathBuf),
    /// OAuth2, client credentials.
    OAuth2 {
        /// A file with `CLIENT_ID:SECRET`, or the secret alone.
        credential_file: PathBuf,
        /// The token endpoint; `None` is the catalog's own, `/v1/oauth/tokens`.
        server: Option<String>,
        /// `None` is `catalog`.
        scope: Option<String>,
    },
}

/// A token with the end of its use. Formatted without the token.
struct HeldToken {
    header: HeaderValue,
    got: TimestampMs,
    use_ms: i64,
}

impl HeldToken {
    /// A clock that was set back makes the token's age unknown.
    fn is_fresh(&self, now: TimestampMs) -> bool {
        (0..self.use_ms).contains(&now.since_ms(self.got))
    }
}

impl fmt::Debug for HeldToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldToken").field("got", &self.got).field("use_ms", &self.use_ms).finish_non_exhaustive()
    }
}

/// The catalog's own token endpoint, with the headers that requests to the catalog carry.
#[derive(Debug)]
pub(super) struct OwnServer {
    pub(super) url: String,
    pub(super) headers: HeaderMap,
}

/// The token of now. *Node-wide*.
#[derive(Debug)]
pub(super) struct Tokens {
    credentials: Credentials,
    own_server: OwnServer,
    held: Mutex<Option<HeldToken>>,
}

impl Tokens {
    pub(super) fn new(credentials: Credentials, own_server: OwnServer) -> Self {
        Self { credentials, own_server, held: Mutex::new(None) }
    }

    /// The value of `Authorization`; `None` for a catalog that wants none.
    pub(super) async fn header(&self, http: &reqwest::Client) -> Result<Option<HeaderValue>, Failure> {
        if self.credentials == Credentials::None {
            return Ok(None);
        }
        let mut held = self.held.lock().await;
        let now = wall();
        if let Some(token) = held.as_ref().filter(|token| token.is_fresh(now)) {
            return Ok(Some(token.header.clone()));
        }
        let (token, use_ms) = self.fetch(http).await?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Failure::NoToken("the token has characters that no header may have".to_owned()))?;
        header.set_sensitive(true);
        *held = Some(HeldToken { header: header.clone(), got: now, use_ms });
        Ok(Some(header))
    }

    /// The next request gets another token than this one, which may have been replaced already.
    pub(super) async fn forget(&self, refused: &HeaderValue) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|token| token.header == *refused) {
            *held = None;
        }
    }

    async fn fetch(&self, http: &reqwest::Client) -> Result<(String, i64), Failure> {
        match &self.credentials {
            Credentials::None => unreachable!("a catalog without credentials needs no token"),
            Credentials::TokenFile(path) => Ok((secret(path)?, FILE_MS)),
            Credentials::OAuth2 { credential_file, server, scope } => {
                let credential = secret(credential_file)?;
                let (server, headers) = match server {
                    Some(server) => (server, HeaderMap::new()),
                    None => (&self.own_server.url, self.own_server.headers.clone()),
                };
                let scope = scope.as_deref().unwrap_or("catalog");
                let answer = ask(http, (server, headers), &credential, scope).await?;
                let life = answer.life().unwrap_or(LIFE_S.0).min(LIFE_S.1);
                let life_ms = i64::try_from(life).unwrap_or(i64::MAX).saturating_mul(1000);
                Ok((answer.access_token, life_ms - SPARE_MS.min(life_ms / 2)))
            }
        }
    }
}

/// The line of a file that holds a secret.
fn secret(path: &Path) -> Result<String, Failure> {
    let bad = |why: &str| Failure::NoToken(format!("the file {} {why}", path.display()));
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX as u64 + 1).read_to_string(&mut text));
    read.map_err(|error| bad(&format!("cannot be read: {error}")))?;
    let text = text.trim();
    match text.len() {
        0 => Err(bad("is empty; it holds the secret for the catalog")),
        1..=SECRET_BYTES_MAX if !text.contains(['\n', '\r']) => Ok(text.to_owned()),
        _ => Err(bad("holds more than one line; it holds one secret for the catalog")),
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    /// Seconds, as a number or, of some servers, as text.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl TokenAnswer {
    /// Whole seconds; `None` if the server does not say.
    fn life(&self) -> Option<u64> {
        let text = match &self.expires_in {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        text.split('.').next()?.parse().ok()
    }
}

async fn ask(
    http: &reqwest::Client,
    (server, headers): (&str, HeaderMap),
    credential: &str,
    scope: &str,
) -> Result<TokenAnswer, Failure> {
    let field = |name: &str, value: &str| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
    let mut form = vec![field("grant_type", "client_credentials"), field("scope", scope)];
    match credential.split_once(':') {
        Some((id, secret)) => form.extend([field("client_id", id), field("client_secret", secret)]),
        None => form.push(field("client_secret", credential)),
    }
    let request = http.post(server).headers(headers).header(ACCEPT, "application/json");
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.join("&"));
    // A request for a token changes nothing in the catalog: the request that needs the token was not sent.
    let answer = receive(request, SECRET_BYTES_MAX).await;
    let answer = answer.map_err(|failure| Failure::NotSent(format!("no token from {server}: {}", failure.reason())))?;
    match answer.status {
        200..=299 => serde_json::from_slice(&answer.body)
            .map_err(|_| Failure::NoToken(format!("{server} answers without an access_token"))),
        status @ (429 | 500..=599) => Err(Failure::NotSent(format!("no token from {server}: it answers {status}"))),
        // The body is not repeated: it may repeat the secret.
        status => Err(Failure::NoToken(format!(
            "{server} gives no token for the client and scope {scope}: it answers {status}; check the file with the \
             client's secret, the scope and the token endpoint"
        ))),
    }
}
