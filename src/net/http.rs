//! Who may call the HTTP ports: keeps web pages away from the ports.
//!
//! A browser lets every page send requests to `127.0.0.1`, and to the network of the machine it runs on. [`HttpGuard`]
//! refuses two kinds of requests before a route sees them, both with status 403:
//!
//! 1. **A `Host` that is not a name of this broker**, with any method. A page whose DNS name was pointed at this
//!    machine (DNS rebinding) would otherwise count as the same origin and read the answers. IP addresses are accepted,
//!    since no DNS record can change them, and so are requests without `Host`, which browsers do not send.
//! 2. **A changing request from a page of another origin**, by `Sec-Fetch-Site`, or by `Origin` where a browser does
//!    not send that (plain HTTP beyond loopback). A request with neither header does not come from a page.
//!
//! Answers to reading requests need no second rule: without CORS headers, which no port sends, a browser does not show
//! them to a page of another origin. *Node-wide*; runs on the side runtime.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::Response;

use super::sign_counts::SignCounts;
use super::tokens::Tokens;
use crate::config::node::HttpNames;

/// The setting that an answer names.
const SETTING: &str = "--http-allowed-hosts (TIDEWATER_HTTP_ALLOWED_HOSTS)";

/// Last labels of names that public DNS does not have: a web page on the internet cannot be served from them.
const PRIVATE_ENDINGS: [&str; 3] = [".local", ".internal", ".svc"];

/// The rules for one port.
#[derive(Clone, Debug)]
pub struct HttpGuard {
    names: HttpNames,
    /// On loopback only `localhost` is accepted besides the names; other listeners also accept names without a dot and
    /// [`PRIVATE_ENDINGS`], by which containers and pods call each other.
    loopback: bool,
}

/// A bound HTTP socket and the rules for its callers.
#[derive(Debug)]
pub struct HttpPort {
    pub socket: TcpListener,
    /// The rules of this socket.
    pub guard: HttpGuard,
    /// `None`: a caller needs no token.
    pub tokens: Option<Arc<Tokens>>,
    /// Requests to the bucket that were signed for callers.
    pub signs: Arc<SignCounts>,
}

impl HttpPort {
    /// May callers have requests to the bucket signed? Only those with a token, or of this machine: who reaches the
    /// port alone would read every table without any key.
    #[must_use]
    pub fn signs_for_callers(&self) -> bool {
        self.tokens.is_some() || self.guard.loopback
    }

    /// The socket for the side runtime, which must be the calling one.
    ///
    /// # Errors
    /// The system refuses to make the socket non-blocking.
    pub fn into_tokio(self) -> io::Result<(tokio::net::TcpListener, HttpGuard)> {
        self.socket.set_nonblocking(true)?;
        Ok((tokio::net::TcpListener::from_std(self.socket)?, self.guard))
    }
}

impl HttpGuard {
    /// The rules for a port bound to `addr`.
    #[must_use]
    pub fn new(addr: SocketAddr, names: HttpNames) -> Self {
        Self { names, loopback: addr.ip().is_loopback() }
    }

    /// `router` behind the rules. `refusal` makes the body and status of a refused request from the reason.
    pub fn protect(self, router: Router, refusal: fn(String) -> Response) -> Router {
        let guard = Arc::new(self);
        router.layer(from_fn(move |request: Request, next: Next| {
            let verdict = guard.check(request.method(), request.uri(), request.headers());
            async move {
                match verdict {
                    Ok(()) => next.run(request).await,
                    Err(why) => {
                        tracing::debug!(method = %request.method(), path = request.uri().path(), why, "refused");
                        refusal(why)
                    }
                }
            }
        }))
    }

    /// # Errors
    /// Why the request is refused, and the setting that would allow it.
    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
        let of_headers = headers.get_all(HOST).iter().map(|value| value.to_str().unwrap_or_default());
        for named in uri.authority().map(Authority::as_str).into_iter().chain(of_headers) {
            let known = host_of(named).is_some_and(|host| self.accepts(&host));
            if !known {
                return Err(format!(
                    "the Host {named:?} is not a name of this broker: call it by IP address or localhost, or add the \
                     name to {SETTING}"
                ));
            }
        }
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let origin = text(ORIGIN.as_str());
        let same = match text("sec-fetch-site") {
            Some(site) => matches!(site, "same-origin" | "none"),
            None => origin.is_none_or(|origin| is_origin_of(origin, text(HOST.as_str()).unwrap_or_default())),
        };
        let trusted = || origin.and_then(origin_host).is_some_and(|host| listed(&self.names.allowed, &host));
        if same || trusted() {
            return Ok(());
        }
        let page = origin.unwrap_or("unknown");
        Err(format!(
            "a web page of another origin ({page}) may not change anything here; if it is yours, add its host to {SETTING}"
        ))
    }

    fn accepts(&self, host: &str) -> bool {
        host.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.names.allowed.iter().any(|name| name == "*")
            || listed(&self.names.own, host)
            || listed(&self.names.allowed, host)
            || (!self.loopback && (!host.contains('.') || PRIVATE_ENDINGS.iter().any(|end| host.ends_with(end))))
    }
}

/// The host of `host[:port]`: lower case, an IPv6 address without brackets, a name without its last dot.
fn host_of(text: &str) -> Option<String> {
    let authority: Authority = text.parse().ok()?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// The host of `scheme://host[:port]`; none for `null`.
fn origin_host(origin: &str) -> Option<String> {
    host_of(origin.split_once("://")?.1)
}

/// Whether `origin` has the host and port of the `Host` header, whose missing port is the scheme's.
fn is_origin_of(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default = if scheme == "https" { 443 } else { 80 };
    let parts = |text: &str| {
        let authority: Authority = text.parse().ok()?;
        Some((host_of(text)?, authority.port_u16().unwrap_or(default)))
    };
    parts(authority).is_some_and(|origin| Some(origin) == parts(host))
}

/// Whether `host` is a name of the list or lies below a `.name` of it.
fn listed(names: &[String], host: &str) -> bool {
    names.iter().any(|name| name == host || (name.starts_with('.') && host.ends_with(name.as_str())))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::http::header::HeaderName;

    use super::*;

    fn guard(addr: &str, allowed: &[&str]) -> HttpGuard {
        let names = HttpNames {
            own: vec!["broker.example.com".to_owned()],
            allowed: allowed.iter().map(ToString::to_string).collect(),
        };
        HttpGuard::new(addr.parse().expect("an address"), names)
    }

    fn verdict(guard: &HttpGuard, method: &str, headers: &[(&'static str, &str)]) -> Result<(), String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header"));
        }
        guard.check(&method.parse().expect("a method"), &Uri::from_static("/v1/lanes"), &map)
    }

    fn host(guard: &HttpGuard, host: &str) -> bool {
        verdict(guard, "GET", &[("host", host)]).is_ok()
    }

    #[test]
    fn a_port_on_loopback_answers_to_addresses_localhost_and_its_own_names() {
        let guard = guard("127.0.0.1:9644", &[]);
        for good in [
            "127.0.0.1:9644",
            "127.0.0.1",
            "[::1]:9644",
            "10.0.0.7:9644",
            "localhost:9644",
            "LOCALHOST.",
            "a.localhost",
            "broker.example.com:9644",
        ] {
            assert!(host(&guard, good), "{good}");
        }
        for bad in
            ["evil.example", "127.0.0.1.evil.example:9644", "localhost.evil.example", "tidewater:9644", "", "a b"]
        {
            assert!(!host(&guard, bad), "{bad}");
        }
        assert!(verdict(&guard, "GET", &[]).is_ok(), "HTTP/1.0 probes send no Host");
        assert!(
            verdict(&guard, "GET", &[("host", "localhost"), ("host", "evil.example")]).is_err(),
            "every Host counts"
        );
        let absolute = guard.check(&Method::GET, &Uri::from_static("http://evil.example/"), &HeaderMap::new());
        assert!(absolute.is_err(), "the request line counts as well");
    }

    #[test]
    fn a_port_beyond_loopback_also_answers_to_names_that_public_dns_does_not_have() {
        let guard = guard("0.0.0.0:8181", &[]);
        for good in ["tidewater:8181", "tidewater_1:8181", "tidewater.default.svc:8181", "t.default.svc.cluster.local"]
        {
            assert!(host(&guard, good), "{good}");
        }
        assert!(!host(&guard, "evil.example:8181"));
    }

    #[test]
    fn the_setting_adds_names_all_names_below_one_or_every_name() {
        assert!(host(&guard("127.0.0.1:1", &["proxy.example"]), "Proxy.Example:80"));
        assert!(!host(&guard("127.0.0.1:1", &["proxy.example"]), "a.proxy.example"));
        assert!(host(&guard("127.0.0.1:1", &[".example"]), "a.b.example"));
        assert!(!host(&guard("127.0.0.1:1", &[".example"]), "badexample"));
        assert!(host(&guard("127.0.0.1:1", &["*"]), "anything.example"));
    }

    #[test]
    fn only_pages_of_the_same_origin_may_change_something() {
        let guard = guard("127.0.0.1:9644", &["console.example"]);
        let post = |headers: &[(&'static str, &str)]| {
            let all: Vec<_> = [("host", "127.0.0.1:9644")].into_iter().chain(headers.iter().copied()).collect();
            verdict(&guard, "POST", &all).is_ok()
        };
        assert!(post(&[]), "curl, Trino, Spark, DuckDB");
        assert!(post(&[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:9644")]));
        assert!(post(&[("sec-fetch-site", "none")]), "typed by the user");
        assert!(!post(&[("sec-fetch-site", "cross-site")]));
        assert!(!post(&[("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:3000")]), "another port");
        assert!(!post(&[("origin", "http://evil.example")]));
        assert!(!post(&[("origin", "http://127.0.0.1:3000")]));
        assert!(!post(&[("origin", "null")]), "a sandboxed frame");
        assert!(post(&[("origin", "http://127.0.0.1:9644")]));
        assert!(
            post(&[("sec-fetch-site", "cross-site"), ("origin", "https://console.example")]),
            "named in the setting"
        );
        assert!(verdict(&guard, "GET", &[("sec-fetch-site", "cross-site")]).is_ok(), "a link to a page of ours");
    }

    #[test]
    fn a_star_allows_no_page() {
        let post = [("host", "x.example"), ("origin", "http://evil.example")];
        let why = verdict(&guard("127.0.0.1:1", &["*"]), "DELETE", &post).expect_err("refused");
        assert!(why.contains("--http-allowed-hosts") && why.contains("evil.example"), "{why}");
    }
}
