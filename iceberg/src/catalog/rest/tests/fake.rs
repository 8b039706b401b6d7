//! A server of Iceberg's routes in front of the built-in catalog, which does to single requests what a real one does
//! once a year.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::executor::block_on;
use iceberg::{NamespaceIdent, TableIdent};
use serde_json::{Value, json};

use crate::catalog::rest::RestSettings;
use crate::catalog::rest::client::ANSWER_BYTES_MAX;
use crate::catalog::wire::{CommitTable, CommitTransaction, CreateNamespace, CreateTable, ErrorAnswer, TableAnswer};
use crate::catalog::{Catalog as _, CatalogError, Loaded, ObjectStoreCatalog};

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection is cut before the catalog has done anything.
    CutBefore,
    /// It has done it, and the connection is cut.
    CutAfter,
    /// It has done nothing and answers this status, without Iceberg's body.
    StatusBefore(u16),
    /// It has done it and answers this status, as a proxy does.
    StatusAfter(u16),
    /// A proxy sends it twice; the second answer arrives.
    Twice,
    /// It has done it and answers something that is no JSON.
    Nonsense,
    /// It has done it and answers without end.
    Giant,
}

#[derive(Default)]
pub(super) struct State {
    /// Trouble for the requests that begin so, in order.
    pub(super) troubles: Vec<(&'static str, Trouble)>,
    /// The first lines of all requests.
    seen: Vec<String>,
    /// The token that is taken; others are refused.
    pub(super) token: Option<String>,
    /// Tokens that were given out.
    pub(super) given: u32,
    /// Properties are not kept.
    pub(super) forgets: bool,
    /// Tables are put elsewhere.
    pub(super) elsewhere: bool,
}

/// A server of Iceberg's routes in front of the built-in catalog.
pub(super) struct Fake {
    url: String,
    pub(super) state: Arc<Mutex<State>>,
}

impl Fake {
    pub(super) fn start(catalog: Arc<ObjectStoreCatalog>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (catalog, state) = (Arc::clone(&catalog), Arc::clone(&shared));
                std::thread::spawn(move || serve(socket.expect("a connection"), &catalog, &state));
            }
        });
        Self { url, state }
    }

    pub(super) fn trouble(&self, begin: &'static str, trouble: Trouble) {
        self.state.lock().expect("whole").troubles.push((begin, trouble));
    }

    pub(super) fn seen(&self, begin: &str) -> usize {
        self.state.lock().expect("whole").seen.iter().filter(|line| line.starts_with(begin)).count()
    }

    pub(super) fn settings(&self) -> RestSettings {
        RestSettings { timeout: Duration::from_secs(5), ..RestSettings::new(&self.url) }
    }
}

/// One request per connection.
fn serve(socket: TcpStream, catalog: &ObjectStoreCatalog, state: &Mutex<State>) {
    let mut reader = BufReader::new(socket.try_clone().expect("a second handle"));
    let (mut first, mut length, mut token, mut known) = (String::new(), 0, None, None);
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim().split_once(':') else { break };
        match &*name.to_ascii_lowercase() {
            "content-length" => length = value.trim().parse().expect("a number"),
            "authorization" => token = Some(value.trim().to_owned()),
            "if-none-match" => known = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let request = first.trim().trim_end_matches(" HTTP/1.1").to_owned();
    let trouble = {
        let mut state = state.lock().expect("whole");
        state.seen.push(request.clone());
        let at = state.troubles.iter().position(|(begin, _)| request.starts_with(begin));
        at.map(|at| state.troubles.remove(at).1)
    };
    let act = || answer(&request, &body, (token.as_deref(), known.as_deref()), catalog, state);
    let (status, text) = match trouble {
        Some(Trouble::CutBefore) => return,
        Some(Trouble::StatusBefore(status)) => (status, "<html>no</html>".to_owned()),
        Some(Trouble::CutAfter) => {
            act();
            return;
        }
        Some(Trouble::StatusAfter(status)) => {
            act();
            (status, String::new())
        }
        Some(Trouble::Twice) => {
            act();
            act()
        }
        Some(Trouble::Nonsense) => (act().0, "<html>yes</html>".to_owned()),
        Some(Trouble::Giant) => {
            act();
            giant(socket);
            return;
        }
        None => act(),
    };
    reply(socket, status, &text);
}

fn reply(mut socket: TcpStream, status: u16, text: &str) {
    let etag = serde_json::from_str::<Value>(text).ok();
    let etag = etag.and_then(|v| v["metadata-location"].as_str().map(|at| format!("ETag: \"{at}\"\r\n")));
    let (etag, length) = (etag.unwrap_or_default(), text.len());
    let head = format!("HTTP/1.1 {status} x\r\n{etag}Connection: close\r\nContent-Length: {length}\r\n\r\n");
    // 304 and 204 have no body.
    let body = if matches!(status, 204 | 304) { "" } else { text };
    let head =
        if matches!(status, 204 | 304) { format!("HTTP/1.1 {status} x\r\nConnection: close\r\n\r\n") } else { head };
    let _ = socket.write_all(format!("{head}{body}").as_bytes());
}

/// More than any answer may have; the client hangs up.
fn giant(mut socket: TcpStream) {
    let _ = socket.write_all(b"HTTP/1.1 200 x\r\nConnection: close\r\n\r\n");
    let block = vec![b' '; 1 << 20];
    let blocks = ANSWER_BYTES_MAX / block.len() + 2;
    for _ in 0..blocks {
        if socket.write_all(&block).is_err() {
            return;
        }
    }
}

fn error(error: CatalogError) -> (u16, String) {
    let answer = ErrorAnswer::from(error);
    (answer.error.code, serde_json::to_string(&answer).expect("JSON"))
}

fn answer(
    request: &str,
    body: &[u8],
    (token, known): (Option<&str>, Option<&str>),
    catalog: &ObjectStoreCatalog,
    state: &Mutex<State>,
) -> (u16, String) {
    let (method, path) = request.split_once(' ').expect("a request");
    let path = path.split('?').next().expect("a path");
    if path == "/v1/oauth/tokens" {
        let mut state = state.lock().expect("whole");
        let form = String::from_utf8_lossy(body);
        if !form.contains("client_id=me") || !form.contains("client_secret=a%3Ab") {
            return (401, "a%3Ab is wrong".to_owned());
        }
        state.given += 1;
        state.token = Some(format!("token-{}", state.given));
        return (200, json!({ "access_token": state.token, "expires_in": 3600 }).to_string());
    }
    if let Some(wanted) = &state.lock().expect("whole").token
        && token != Some(&*format!("Bearer {wanted}"))
    {
        let answer = ErrorAnswer::new(401, "NotAuthorizedException", "who are you".to_owned());
        return (401, serde_json::to_string(&answer).expect("JSON"));
    }
    let segments: Vec<String> = path
        .trim_start_matches("/v1/")
        .split('/')
        .map(|segment| percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let done = block_on(route(method, &segments, body, known, catalog, state));
    done.unwrap_or_else(error)
}

async fn route(
    method: &str,
    segments: &[&str],
    body: &[u8],
    known: Option<&str>,
    catalog: &ObjectStoreCatalog,
    state: &Mutex<State>,
) -> Result<(u16, String), CatalogError> {
    let table = |ns: &str, name: &str| TableIdent::new(NamespaceIdent::new(ns.to_owned()), name.to_owned());
    let whole = |loaded: Loaded| -> Result<(u16, String), CatalogError> {
        let mut answer = TableAnswer::new(loaded.try_into()?, HashMap::new());
        let state = state.lock().expect("whole");
        if state.forgets {
            answer.metadata["properties"] = json!({});
        }
        if state.elsewhere {
            answer.metadata["location"] = json!("s3://other/place");
        }
        Ok((200, serde_json::to_string(&answer).expect("JSON")))
    };
    match (method, segments) {
        ("GET", ["config"]) => {
            let endpoints = crate::catalog::wire::ENDPOINTS;
            Ok((200, json!({ "defaults": {}, "overrides": {}, "endpoints": endpoints }).to_string()))
        }
        ("POST", ["namespaces"]) => {
            let asked: CreateNamespace = serde_json::from_slice(body).expect("JSON");
            catalog.create_namespace(&asked.namespace, HashMap::new()).await?;
            Ok((200, "{}".to_owned()))
        }
        ("GET", ["namespaces", ns]) => {
            catalog.load_namespace(&NamespaceIdent::new((*ns).to_owned())).await?;
            Ok((200, "{}".to_owned()))
        }
        ("DELETE", ["namespaces", ns]) => {
            catalog.drop_namespace(&NamespaceIdent::new((*ns).to_owned())).await?;
            Ok((204, String::new()))
        }
        ("GET", ["namespaces", _, "views"]) => Ok((200, "{}".to_owned())),
        ("POST", ["namespaces", ns, "tables"]) => {
            let asked: CreateTable = serde_json::from_slice(body).expect("JSON");
            whole(catalog.create(&table(ns, &asked.name.clone()), asked.into_new()?).await?)
        }
        ("GET", ["namespaces", ns, "tables", name]) => {
            let loaded = catalog.load(&table(ns, name)).await?;
            if known.is_some() && known == loaded.location.as_ref().map(|at| format!("\"{at}\"")).as_deref() {
                return Ok((304, String::new()));
            }
            whole(loaded)
        }
        ("POST", ["namespaces", ns, "tables", name]) => {
            let asked: CommitTable = serde_json::from_slice(body).expect("JSON");
            whole(catalog.commit(&table(ns, name), asked.requirements, asked.updates).await?)
        }
        ("DELETE", ["namespaces", ns, "tables", name]) => {
            catalog.drop_table(&table(ns, name), true).await?;
            Ok((204, String::new()))
        }
        ("POST", ["transactions", "commit"]) => {
            let asked: CommitTransaction = serde_json::from_slice(body).expect("JSON");
            catalog.commit_all(asked.into_commits()?).await?;
            Ok((204, String::new()))
        }
        other => panic!("{other:?} is not served"),
    }
}
