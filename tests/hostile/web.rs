//! Web pages against the HTTP ports: a browser on the broker's machine sends what any page wants to `127.0.0.1`.

use serde_json::Value;

use super::support::broker::{Broker, Options, free_ports_of, http_ask};

/// Whether the answer is a refusal: status 403, and a reason in the port's own JSON that names the setting.
fn refuses(addr: &str, method: &str, path: &str, headers: &[(&str, &str)], reason: &str) {
    let (status, body) = http_ask(addr, method, path, headers).expect("an answer");
    assert_eq!(status, 403, "{method} {path} {headers:?}: {body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let why = body.pointer(reason).and_then(Value::as_str).expect("a reason");
    assert!(why.contains("--http-allowed-hosts"), "{why}");
}

fn status(addr: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    http_ask(addr, method, path, headers).expect("an answer").0
}

#[test]
fn web_pages_are_refused_and_clients_are_not() {
    let dir = tempfile::tempdir().expect("tempdir");
    let schemas = format!("127.0.0.1:{}", free_ports_of(1)[0]);
    let options = Options::new(&dir.path().join("data")).arg("--http-allowed-hosts", "console.example");
    let options = options.arg("--schema-addr", &schemas);
    let broker = Broker::start(&options);
    let admin = ("/v1/lanes/1/resume", broker.admin.as_str(), "/error");
    let catalog = ("/v1/namespaces", broker.catalog.as_str(), "/error/message");
    let registry = ("/subjects/s/versions", schemas.as_str(), "/message");
    for (path, addr, reason) in [admin, catalog, registry] {
        let local = ("Host", addr);
        // A page of another origin, by either header; one that is not in any list; one in a sandbox.
        for header in [
            ("Origin", "http://evil.example"),
            ("Origin", "http://127.0.0.1:1"),
            ("Origin", "null"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
        ] {
            refuses(addr, "POST", path, &[local, header], reason);
        }
        // DNS rebinding: for the browser the page and the port are one origin.
        let rebound = [("Host", "evil.example:9644"), ("Sec-Fetch-Site", "same-origin")];
        for (method, path) in [("GET", "/metrics"), ("GET", "/v1/config"), ("GET", "/nothing/here"), ("POST", path)] {
            refuses(addr, method, path, &rebound, reason);
        }
        // Programs, and pages of the port itself or of the setting.
        let page = [local, ("Sec-Fetch-Site", "same-site"), ("Origin", "https://console.example")];
        for headers in [&[local][..], &[("Host", "localhost")], &[("Host", "console.example")], &page] {
            assert_ne!(status(addr, "POST", path, headers), 403, "{headers:?}");
        }
    }
    for host in [broker.admin.as_str(), "localhost:9644", "10.1.2.3:9644", "[::1]:9644", "console.example"] {
        assert_eq!(status(&broker.admin, "GET", "/health/live", &[("Host", host)]), 200, "{host}");
        assert_eq!(status(&broker.catalog, "GET", "/v1/config", &[("Host", host)]), 200, "{host}");
    }
    broker.stop();
}
