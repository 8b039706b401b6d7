//! What an error answer of a cloud store means.
//!
//! Owns: the way from the crate's errors, HTTP statuses and the stores' own error codes to [`StoreError`]. The crate
//! names only a few statuses; all others arrive as one kind whose text carries the status, which is read here. A test
//! against a real socket keeps that text honest.

use object_store::Error;

use crate::store::StoreError;

/// What the crate writes before the status of an answer that it has no kind for.
const STATUS_MARK: &str = "non-2xx status code: ";
/// Codes that mean: these credentials may not do this.
const DENIED: [&str; 10] = [
    "AccessDenied",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "AuthenticationFailed",
];
/// Codes of answers with a status of the client's fault (400) that the network caused: the same request may succeed.
const PASSES: [&str; 7] = [
    "BadDigest",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "XAmzContentSHA256Mismatch",
];
/// What stores say when the bucket itself does not exist.
const NO_BUCKET: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist"];

/// The error of a request for `key`.
pub(super) fn store_error(key: &str, error: &Error) -> StoreError {
    let (key, detail) = (key.to_owned(), with_sources(error));
    let says = |codes: &[&str]| codes.iter().any(|code| detail.contains(code));
    match error {
        Error::NotFound { .. } if says(&NO_BUCKET) => no_bucket(key, &detail),
        Error::NotFound { .. } => StoreError::NotFound { key },
        Error::AlreadyExists { .. } | Error::Precondition { .. } => StoreError::Taken { key },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Denied { key, detail },
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => StoreError::Refused { key, detail },
        _ => match status(&detail) {
            Some(400..=499) if says(&PASSES) => StoreError::Unavailable { key, detail },
            _ if says(&DENIED) => StoreError::Denied { key, detail },
            _ if says(&NO_BUCKET) => no_bucket(key, &detail),
            Some(401 | 402 | 403 | 407) => StoreError::Denied { key, detail },
            // Request timeout, conflict, locked, too early, too many requests.
            Some(408 | 409 | 423 | 425 | 429) => StoreError::Unavailable { key, detail },
            Some(507) => StoreError::NoSpace { key },
            // Redirects lead to another region or to a login page. 501 and 505 say that the store cannot do this at
            // all.
            Some(300..=499 | 501 | 505) => StoreError::Refused { key, detail },
            None if detail.contains("redirect without LOCATION") || detail.contains("certificate") => {
                StoreError::Refused { key, detail }
            }
            _ => StoreError::Unavailable { key, detail },
        },
    }
}

fn no_bucket(key: String, detail: &str) -> StoreError {
    StoreError::Refused { key, detail: format!("the bucket does not exist; create it or correct its URL ({detail})") }
}

fn status(detail: &str) -> Option<u16> {
    let (_, rest) = detail.split_once(STATUS_MARK)?;
    rest.get(..3)?.parse().ok()
}

/// The whole chain of sources, each part once, on one line: the crate's own text often ends before the reason.
fn with_sources(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        let part = next.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        source = next.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use bytes::Bytes;
    use object_store::aws::AmazonS3Builder;
    use object_store::{ClientOptions, RetryConfig};
    use tidewater_storage::disposition::Disposition;
    use tokio::runtime::Runtime;

    use crate::store::{ObjectKey, ObjectStore, PutMode, RemoteStore, StoreError};

    /// A server that answers each request with the next of `answers`: a status line and a body.
    fn server(answers: Vec<(&'static str, &'static str)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (stream, _) = listener.accept().expect("a client");
                let mut reader = BufReader::new(stream);
                let mut len = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).expect("a header");
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        len = value.trim().parse().expect("a number");
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                std::io::copy(&mut reader.by_ref().take(len), &mut std::io::sink()).expect("a body");
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let stream = reader.get_mut();
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("sent");
            }
        });
        url
    }

    #[test]
    fn every_status_says_whether_it_passes() {
        use Disposition::{Absent, Conflict, Refused, Retry};
        let cases = [
            ("400 Bad Request", "<Error><Code>InvalidRequest</Code></Error>", Refused),
            ("400 Bad Request", "<Error><Code>KeyTooLongError</Code></Error>", Refused),
            ("400 Bad Request", "<Error><Code>RequestTimeout</Code></Error>", Retry),
            ("400 Bad Request", "<Error><Code>ExpiredToken</Code></Error>", Refused),
            ("401 Unauthorized", "", Refused),
            ("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>", Refused),
            ("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>", Absent),
            ("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>", Refused),
            ("405 Method Not Allowed", "", Refused),
            ("408 Request Timeout", "", Retry),
            ("411 Length Required", "", Refused),
            ("412 Precondition Failed", "", Conflict),
            ("413 Payload Too Large", "", Refused),
            ("414 URI Too Long", "", Refused),
            ("429 Too Many Requests", "", Retry),
            ("500 Internal Server Error", "", Retry),
            ("501 Not Implemented", "<Error><Code>NotImplemented</Code></Error>", Refused),
            ("502 Bad Gateway", "", Retry),
            ("503 Slow Down", "<Error><Code>SlowDown</Code></Error>", Retry),
            ("504 Gateway Timeout", "", Retry),
            ("507 Insufficient Storage", "", Retry),
        ];
        let url = server(cases.iter().map(|(status, body, _)| (*status, *body)).collect());
        let client = AmazonS3Builder::new()
            .with_endpoint(url)
            .with_region("here")
            .with_bucket_name("bucket")
            .with_access_key_id("key")
            .with_secret_access_key("secret")
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .build()
            .expect("configured");
        let runtime = Runtime::new().expect("runtime");
        let store = RemoteStore::over(std::sync::Arc::new(client), "", runtime.handle().clone());
        let key = ObjectKey::new("a/key").expect("legal");
        for (status, body, expected) in cases {
            let put = store.put(&key, Bytes::from_static(b"body"), PutMode::IfAbsent);
            let error = futures::executor::block_on(put).expect_err(status);
            assert_eq!(error.disposition(), expected, "{status} {body}: {error:?}");
            let denied = matches!(error, StoreError::Denied { .. });
            let is_denial = status.starts_with("401") || status.starts_with("403") || body.contains("ExpiredToken");
            assert_eq!(denied, is_denial, "{status} {body}: {error:?}");
        }
    }
}
