//! Requests with and without tokens, over HTTP.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_json::Value;
use tidewater_iceberg::catalog::ObjectStoreCatalog;
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::names::Names;
use tidewater_tiering::store::DirectoryStore;
use tokio::runtime::Builder;

use super::super::ServedCatalog;
use super::super::errors::tests::{ask_with, is_error, serve};
use super::*;

const FIXED: &str = "0123456789abcdef";

/// A catalog that wants tokens.
fn served(act: impl FnOnce(SocketAddr)) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let store = DirectoryStore::open(dir.path().to_owned(), runtime.handle().clone()).expect("opens");
    let warehouse = Warehouse::new(&format!("file://{}", dir.path().display()), "lake").expect("legal");
    let catalog = ObjectStoreCatalog::new(TableFiles::new(Arc::new(store), warehouse), Names::random(), HashMap::new());
    let router = super::super::router(Arc::new(ServedCatalog::alone(Arc::new(catalog))));
    let tokens = Tokens::parse(&format!("token ops {FIXED}\nclient spark spark%secret+000")).expect("parses");
    act(serve(&runtime, protect(router, Arc::new(tokens))));
}

fn token(answer: &(u16, String)) -> String {
    let body: Value = serde_json::from_str(&answer.1).expect("JSON");
    assert_eq!((answer.0, &body["token_type"], &body["expires_in"]), (200, &json!("bearer"), &json!(3600)));
    body["access_token"].as_str().expect("a token").to_owned()
}

#[test]
fn every_route_wants_a_token() {
    served(|address| {
        let routes = [
            ("GET", "/v1/config"),
            ("GET", "/v1/namespaces"),
            ("POST", "/v1/namespaces"),
            ("GET", "/v1/p/namespaces/n/tables/t"),
            ("POST", "/v1/p/transactions/commit"),
            ("DELETE", "/v1/namespaces/n/views/v"),
            ("GET", "/v1/nonsense"),
            ("PUT", "/v1/config"),
            ("GET", "/v1/p/oauth/tokens"),
        ];
        let wrong = ["", "Authorization: Bearer \r\n", "Authorization: Bearer 0123456789abcdeF\r\n"];
        let wrong = wrong.into_iter().chain(["Authorization: Basic 0123456789abcdef\r\n", "Authorization: x\r\n"]);
        for headers in wrong {
            for (method, path) in routes {
                let answer = ask_with(address, method, path, headers, b"{}");
                assert!(is_error(&answer, 401, "NotAuthorizedException"), "{method} {path} {headers}: {answer:?}");
            }
        }
        let headers = format!("Authorization: bearer {FIXED}\r\n");
        assert_eq!(ask_with(address, "GET", "/v1/config", &headers, b"").0, 200);
        let missing = ask_with(address, "GET", "/v1/nonsense", &headers, b"");
        assert!(is_error(&missing, 404, "NotFoundException"), "{missing:?}");
    });
}

#[test]
fn a_client_gets_a_token_for_its_secret_and_another_for_its_token() {
    served(|address| {
        let ask = |headers: &str, form: &str| ask_with(address, "POST", ROUTE, headers, form.as_bytes());
        let granted = "grant_type=client_credentials&client_id=spark&client_secret=spark%25secret%2B000&scope=catalog";
        let first = token(&ask("", granted));
        let basic = format!("Authorization: Basic {}\r\n", STANDARD.encode("spark:spark%secret+000"));
        let second = token(&ask(&basic, "grant_type=client_credentials"));
        let exchange = format!("grant_type={EXCHANGE}&subject_token={first}");
        let third = token(&ask(&format!("Authorization: Bearer {first}\r\n"), &exchange));
        for token in [first, second, third] {
            let headers = format!("Authorization: Bearer {token}\r\n");
            assert_eq!(ask_with(address, "GET", "/v1/namespaces", &headers, b"").0, 200);
        }
        for (form, code, error) in [
            ("grant_type=client_credentials&client_id=spark&client_secret=wrong", 401, "invalid_client"),
            ("grant_type=client_credentials", 401, "invalid_client"),
            (&format!("grant_type={EXCHANGE}&subject_token={FIXED}"), 401, "invalid_client"),
            ("grant_type=password&username=a&password=b", 400, "unsupported_grant_type"),
            ("%zz&&=&%", 400, "unsupported_grant_type"),
        ] {
            let answer = ask("", form);
            let body: Value = serde_json::from_str(&answer.1).expect("JSON");
            assert_eq!((answer.0, body["error"].as_str()), (code, Some(error)), "{form}: {answer:?}");
        }
    });
}
