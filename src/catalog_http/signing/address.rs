//! What a request's URI names: an object of the bucket or the bucket itself, and the parameters. Pure.
//!
//! Servers and proxies differ in what they make of unusual spellings (encoded slashes, dots between slashes, `+`, `;`,
//! names twice), so that a URI could mean one object here and another one there. So only the one spelling that clients
//! use is taken.

use percent_encoding::percent_decode_str;
use tidewater_tiering::store::BucketAddress;
use url::Url;

use super::judge::{Refusal, refuse, shown};

/// Characters of a URI at most; a key of S3 has 1,024 bytes, each three characters at most.
const URI_CHARS_MAX: usize = 8 << 10;

/// What a URI names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The key in the bucket; `None`: the bucket itself.
    pub(super) key: Option<String>,
    /// Parameters by name, each once; without `=` the value is empty.
    pub(super) parameters: Vec<(String, String)>,
    /// Host and port as the header `Host` has them.
    pub(super) host: String,
}

impl Target {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Reads `uri` as a request to the bucket.
pub(super) fn target(uri: &str, bucket: &BucketAddress) -> Result<Target, Refusal> {
    if uri.len() > URI_CHARS_MAX {
        return refuse(format!("the URI has more than {URI_CHARS_MAX} characters"));
    }
    let url = Url::parse(uri).map_err(|error| Refusal(format!("{} is no URI: {error}", shown(uri))))?;
    // The parser resolves dots and backslashes, leaves out tabs, and turns names into one case.
    if url.as_str() != uri || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return refuse(format!(
            "{} is not written in the normal form of a URI; it would be {}",
            shown(uri),
            shown(url.as_str())
        ));
    }
    let Some(path) = path_in_bucket(&url, bucket) else {
        return refuse(format!(
            "{} is not an address of this catalog's bucket {} at {}",
            shown(uri),
            bucket.bucket,
            bucket.endpoint
        ));
    };
    let key = if path.is_empty() { None } else { Some(key(path)?) };
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    Ok(Target { key, parameters: parameters(url.query().unwrap_or_default())?, host })
}

/// What follows the bucket in the path, without the slash between; `None` if the URI is of another bucket or server.
///
/// A bucket is named in the way that the server is known to read: one that does not know `bucket.host` takes the first
/// part of the path for the bucket.
fn path_in_bucket<'a>(url: &'a Url, bucket: &BucketAddress) -> Option<&'a str> {
    let endpoint = &bucket.endpoint;
    if url.scheme() != endpoint.scheme() || url.port_or_known_default() != endpoint.port_or_known_default() {
        return None;
    }
    let host = url.host_str()?;
    let path = url.path().strip_prefix(endpoint.path().trim_end_matches('/'))?.strip_prefix('/')?;
    // AWS has a second name for its oldest region, which clients still use.
    let second = (bucket.aws && bucket.region == "us-east-1").then_some("s3.amazonaws.com");
    for name in endpoint.host_str().into_iter().chain(second) {
        if bucket.by_path && host == name {
            let rest = path.strip_prefix(bucket.bucket.as_str())?;
            return if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') };
        }
        let of_bucket = host.strip_suffix(name).and_then(|rest| rest.strip_suffix('.'));
        if bucket.by_host && of_bucket == Some(bucket.bucket.as_str()) {
            return Some(path);
        }
    }
    None
}

/// The key that a path means.
fn key(path: &str) -> Result<String, Refusal> {
    let lower = path.to_ascii_lowercase();
    if lower.contains("%2f") || lower.contains("%5c") {
        return refuse(format!("the path {} has an encoded slash", shown(path)));
    }
    let key = decoded(path)?;
    plain(&key)?;
    Ok(key)
}

/// Refuses a key that a server with folders could take for another one.
pub(super) fn plain(key: &str) -> Result<(), Refusal> {
    // A value of a partition may have been encoded before it became a part of the key: once more does no harm.
    let again = percent_decode_str(key).decode_utf8_lossy();
    let dots = |segment: &str| segment == "." || segment == "..";
    if key.split('/').any(|segment| segment.is_empty() || dots(segment)) || again.split(['/', '\\']).any(dots) {
        return refuse(format!("the key {} has an empty part between slashes, or one of dots", shown(key)));
    }
    if key.chars().any(char::is_control) || key.contains('\\') {
        return refuse(format!("the key {} has a control character or a backslash", shown(key)));
    }
    Ok(())
}

fn parameters(query: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut found: Vec<(String, String)> = Vec::new();
    if query.is_empty() {
        return Ok(found);
    }
    if query.contains(['+', ';', '\\']) {
        return refuse(format!("the parameters {} have a character that stores read in two ways", shown(query)));
    }
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // An encoded name is none that is allowed.
        if name.is_empty() || name.contains('%') || found.iter().any(|(other, _)| other == name) {
            return refuse(format!("the parameters {} have an empty or encoded name, or one twice", shown(query)));
        }
        found.push((name.to_owned(), decoded(value)?));
    }
    Ok(found)
}

fn decoded(text: &str) -> Result<String, Refusal> {
    let hex = |rest: &[u8]| matches!(rest, [b'%', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    let bytes = text.as_bytes();
    let wrong = (0..bytes.len()).any(|at| bytes.get(at) == Some(&b'%') && !bytes.get(at..).is_some_and(hex));
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if !wrong && !text.contains('\0') => Ok(text.into_owned()),
        _ => refuse(format!("{} is not percent-encoded UTF-8", shown(text))),
    }
}
