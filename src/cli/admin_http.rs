//! GET and POST of the admin port's JSON: HTTP/1.0, one answer, connection closed.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::error::CliError;

const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest topic's state is far below.
const ANSWER_MAX: u64 = 64 << 20;

/// Asks for `path`; `None` when it does not exist.
pub(crate) async fn get(addr: &str, path: &str) -> Result<Option<Value>, CliError> {
    match ask(addr, "GET", path).await? {
        Ok(value) => Ok(Some(value)),
        Err((404, _)) => Ok(None),
        Err((status, why)) => Err(CliError::Admin { addr: addr.to_owned(), why: format!("status {status}: {why}") }),
    }
}

/// What was answered and what went wrong, for JSON: a missing answer says why.
pub(crate) fn told(answer: Result<Option<Value>, CliError>) -> (Option<Value>, Option<String>) {
    match answer {
        Ok(value) => (value, None),
        Err(error) => (None, Some(error.to_string())),
    }
}

/// Does what `path` means, whose refusal is the broker's own words.
pub(crate) async fn post(addr: &str, path: &str) -> Result<Value, CliError> {
    ask(addr, "POST", path).await?.map_err(|(_, why)| CliError::Refused(why))
}

/// A document, or status and reason.
async fn ask(addr: &str, method: &str, path: &str) -> Result<Result<Value, (u16, String)>, CliError> {
    let failed = |why: String| CliError::Admin { addr: addr.to_owned(), why };
    let asked = tokio::time::timeout(TIMEOUT, exchange(addr, method, path)).await;
    let answer = asked.map_err(|_| failed(format!("no answer within {TIMEOUT:?}")))?;
    let answer = answer.map_err(|e| failed(e.to_string()))?;
    let (status, body) = parse(&answer).ok_or_else(|| failed("the answer is not HTTP".to_owned()))?;
    let document = serde_json::from_slice::<Value>(body);
    if status == 200 {
        return document.map(Ok).map_err(|e| failed(format!("the answer is not JSON: {e}")));
    }
    let why = document.ok().and_then(|value| value.get("error")?.as_str().map(ToOwned::to_owned));
    Ok(Err((status, why.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned()))))
}

async fn exchange(addr: &str, method: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).await?;
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: {addr}\r\nAccept: application/json\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Status and body.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let status = head.lines().next()?.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.get(end + 4..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_split() {
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{}"), Some((200, &b"{}"[..])));
        assert_eq!(parse(b"HTTP/1.0 404 Not Found\r\n\r\n"), Some((404, &b""[..])));
        assert_eq!(parse(b"SSH-2.0"), None);
    }
}
