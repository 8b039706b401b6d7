//! Which headers of a request are covered by its signature, and which make it unsafe. Pure.
//!
//! S3 acts on every `x-amz-` header: one can copy another object into the table, make an object public or write it with
//! a lock. So those that may be there are listed. Other headers stay out of the signature, `Range` too, so that a
//! client may use one signature for several ranges.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::judge::{Refusal, refuse, shown};

/// Bytes of names and values at most.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Signed as they are.
const SIGNED: &[&str] = &[
    "content-md5",
    "content-type",
    "x-amz-checksum-algorithm",
    "x-amz-checksum-mode",
    "x-amz-checksum-type",
    "x-amz-expected-bucket-owner",
    "x-amz-mp-object-size",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-storage-class",
    "x-amz-tagging",
    // Java's client: a sum behind the body.
    "x-amz-te",
];
/// Signed as they are, with any ending.
const SIGNED_BEGINNINGS: &[&str] = &["x-amz-checksum-", "x-amz-meta-", "x-amz-server-side-encryption"];
/// The signer writes them.
const REPLACED: &[&str] = &["authorization", "x-amz-date", "x-amz-security-token"];
const SUM: &str = "x-amz-content-sha256";
const NO_SUM: &str = "UNSIGNED-PAYLOAD";

/// What is signed of the headers of a request.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) headers: HeaderMap,
    /// SHA-256 of the body, if the client binds the signature to it.
    pub(super) sum: Option<[u8; 32]>,
    /// The client has said that the signature is good for every body.
    pub(super) any_body: bool,
}

/// Judges the headers of a request to `host`.
pub(super) fn signed(given: &BTreeMap<String, Vec<String>>, host: &str) -> Result<Signed, Refusal> {
    let bytes: usize =
        given.iter().map(|(name, values)| name.len() + values.iter().map(String::len).sum::<usize>()).sum();
    if bytes > HEADER_BYTES_MAX {
        return refuse(format!("the headers have more than {HEADER_BYTES_MAX} bytes"));
    }
    let mut signed = Signed { headers: HeaderMap::new(), sum: None, any_body: false };
    for (name, values) in given {
        let name = name.to_ascii_lowercase();
        let wrong = || Refusal(format!("the header {} is not one of HTTP, or is there twice", shown(&name)));
        let legal = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let is_signed = SIGNED.contains(&name.as_str()) || SIGNED_BEGINNINGS.iter().any(|b| name.starts_with(b));
        if REPLACED.contains(&name.as_str()) || !(is_signed || name == "host" || name.starts_with("x-amz-")) {
            continue;
        }
        let [value] = &values[..] else { return Err(wrong()) };
        match name.as_str() {
            "host" if value == host => {}
            "host" => return refuse(format!("the header Host is {}, and the URI is for {host}", shown(value))),
            _ if !is_signed && name != SUM => {
                return refuse(format!("the header {} is none of those that table files need", shown(&name)));
            }
            _ => {
                if name == SUM {
                    signed.any_body = value == NO_SUM;
                    signed.sum = if signed.any_body { None } else { Some(sum(value)?) };
                }
                let value = HeaderValue::from_str(value).map_err(|_| wrong())?;
                if signed.headers.insert(legal, value).is_some() {
                    return Err(wrong());
                }
            }
        }
    }
    Ok(signed)
}

fn sum(text: &str) -> Result<[u8; 32], Refusal> {
    let digit = |at: usize| text.get(2 * at..2 * at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let mut sum = [0; 32];
    for (at, byte) in sum.iter_mut().enumerate() {
        match digit(at) {
            Some(read) if text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit()) => *byte = read,
            _ => {
                let why = format!(
                    "the header {SUM} is {}; it may be {NO_SUM} or a sum, so switch chunked bodies off in the client",
                    shown(text)
                );
                return refuse(why);
            }
        }
    }
    Ok(sum)
}
