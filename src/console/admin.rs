//! Requests to the HTTP ports: GET, POST and DELETE of JSON documents, each on a new connection.

use std::error::Error;
use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::CliError;

const TIMEOUT: Duration = Duration::from_secs(10);
/// For requests that read much of a bucket before they are answered.
pub(crate) const LONG: Duration = Duration::from_secs(300);
/// Far above the state of the largest topic.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The document at `path`; `None` when it does not exist.
pub(crate) async fn get(addr: &str, path: &str) -> Result<Option<Value>, CliError> {
    match ask(addr, Method::GET, path, None).await? {
        Ok(value) => Ok(Some(value)),
        Err((StatusCode::NOT_FOUND, _)) => Ok(None),
        Err((status, why)) => {
            Err(CliError::Admin { addr: addr.to_owned(), why: format!("status {}: {why}", status.as_u16()) })
        }
    }
}

/// For JSON output: the answer, or why there is none.
pub(crate) fn answer_or_error(answer: Result<Option<Value>, CliError>) -> (Option<Value>, Option<String>) {
    match answer {
        Ok(value) => (value, None),
        Err(error) => (None, Some(error.to_string())),
    }
}

/// Posts an empty body. A refusal is the broker's text.
pub(crate) async fn post(addr: &str, path: &str) -> Result<Value, CliError> {
    ask(addr, Method::POST, path, None).await?.map_err(|(_, why)| CliError::Refused(why))
}

/// Posts a document. A refusal is the broker's text.
pub(crate) async fn post_json(addr: &str, path: &str, document: &Value) -> Result<Value, CliError> {
    ask(addr, Method::POST, path, Some(document)).await?.map_err(|(_, why)| CliError::Refused(why))
}

/// As [`post_json`]; the broker may take as long as `timeout`.
pub(crate) async fn post_json_within(
    addr: &str,
    path: &str,
    document: &Value,
    timeout: Duration,
) -> Result<Value, CliError> {
    let answer = ask_within(addr, Method::POST, path, Some(document), timeout).await?;
    answer.map_err(|(_, why)| CliError::Refused(why))
}

/// Deletes what is at `path`; `None` when it does not exist. A refusal is the broker's text.
pub(crate) async fn delete(addr: &str, path: &str) -> Result<Option<Value>, CliError> {
    match ask(addr, Method::DELETE, path, None).await? {
        Ok(value) => Ok(Some(value)),
        Err((StatusCode::NOT_FOUND, _)) => Ok(None),
        Err((_, why)) => Err(CliError::Refused(why)),
    }
}

/// A document, or the status and reason of another answer.
pub(crate) async fn ask(
    addr: &str,
    method: Method,
    path: &str,
    document: Option<&Value>,
) -> Result<Result<Value, (StatusCode, String)>, CliError> {
    ask_within(addr, method, path, document, TIMEOUT).await
}

async fn ask_within(
    addr: &str,
    method: Method,
    path: &str,
    document: Option<&Value>,
    timeout: Duration,
) -> Result<Result<Value, (StatusCode, String)>, CliError> {
    let failed = |why: String| CliError::Admin { addr: addr.to_owned(), why };
    let broken = |error: reqwest::Error| failed(reason(&error, timeout));
    // A proxy of the environment is for the internet, not for a broker's port.
    let client = Client::builder().timeout(timeout).no_proxy().build().map_err(broken)?;
    let mut request = client.request(method, format!("http://{addr}{path}")).header("accept", "application/json");
    if let Some(document) = document {
        request = request.header("content-type", "application/json").body(document.to_string());
    }
    let mut response = request.send().await.map_err(broken)?;
    let status = response.status();
    let body = body(&mut response).await.map_err(broken)?;
    let body = body.ok_or_else(|| failed(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes")))?;
    let document = serde_json::from_slice::<Value>(&body);
    if status == StatusCode::OK {
        return document.map(Ok).map_err(|e| failed(format!("the answer is not JSON: {e}")));
    }
    let why = document.ok().and_then(|value| {
        // The admin port says `error`, the Schema Registry `message`.
        value.get("error").or_else(|| value.get("message"))?.as_str().map(ToOwned::to_owned)
    });
    Ok(Err((status, why.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned()))))
}

/// The body; `None` if it is longer than [`ANSWER_BYTES_MAX`].
async fn body(response: &mut Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return Ok(None);
        }
    }
    Ok(Some(body))
}

/// The innermost cause, such as "Connection refused (os error 111)": the outer ones name only the URL.
fn reason(error: &reqwest::Error, timeout: Duration) -> String {
    if error.is_timeout() {
        return format!("no answer within {timeout:?}");
    }
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A document of the admin port as this version knows it.
///
/// # Errors
/// It lacks a field, or has another form; the text names it.
pub(crate) fn read<T: DeserializeOwned>(addr: &str, path: &str, document: Value) -> Result<T, CliError> {
    serde_json::from_value(document).map_err(|error| {
        CliError::Refused(format!(
            "the broker at {addr} answers {path} in a form that this version does not know ({error}); use the tidewater command \
             of the broker's version"
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Serves one connection with `answer`; its address.
    fn serve(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("bound").to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.read(&mut [0; 4096]).expect("a request");
            stream.write_all(answer).expect("written");
        });
        addr
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn documents_absence_and_refusals_are_told_apart() {
        let not_json = run(get(&serve(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{\"a\""), "/v1"));
        assert!(not_json.expect_err("half a document").to_string().contains("not JSON"));
        let whole = run(get(&serve(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"a\": [1]}"), "/v1"));
        assert_eq!(whole.expect("answered"), Some(serde_json::json!({ "a": [1] })));
        let absent = run(get(&serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "/v1"));
        assert_eq!(absent.expect("answered"), None);
        let refused = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 17\r\n\r\n{\"error\":\"later\"}";
        assert_eq!(run(post(&serve(refused), "/v1")).expect_err("refused").to_string(), "later");
    }

    #[test]
    fn the_cause_is_named() {
        let closed = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").to_string();
        let why = run(get(&closed, "/v1")).expect_err("nothing listens").to_string();
        assert!(why.contains("Connection refused") && why.contains("--admin"), "{why}");
        let why = run(get(&serve(b"SSH-2.0\r\n"), "/v1")).expect_err("not HTTP").to_string();
        assert!(why.contains("invalid HTTP"), "{why}");
    }
}
