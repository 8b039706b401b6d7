//! Which requests to the bucket may be signed. Pure: the request, the bucket and the folders that the caller may use
//! decide.
//!
//! | request | signed if |
//! |---|---|
//! | GET, HEAD of an object | it is in a folder |
//! | GET of the bucket, `list-type=2` | its `prefix` is a folder, or is in one |
//! | PUT, DELETE of an object, with `partNumber` and `uploadId` or without; POST with `uploads` or `uploadId` | it is in a folder whose table the caller may commit to |
//! | POST of the bucket, `delete` | the body is in the request and all of its keys are in such folders; the signature is bound to that body |
//!
//! Everything else is refused, as is every parameter and header that is not listed (`headers`).

use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::{Method, Request, Uri};
use tidewater_iceberg::catalog::wire::signing::SignRequest;
use tidewater_iceberg::location::Warehouse;
use tidewater_tiering::store::BucketAddress;

use super::address::{Target, plain, target};
use super::deletes;
use super::grants::Grant;
use super::headers::{Signed, signed};

/// Why a request is not signed.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

pub(super) fn refuse<T>(why: String) -> Result<T, Refusal> {
    Err(Refusal(why))
}

/// A part of a request in a message.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    let cut: String = text.chars().take(CHARS_MAX).collect();
    format!("{cut:?}{}", if cut.len() < text.len() { "…" } else { "" })
}

/// What is to be signed.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) request: Request<()>,
    /// The signature is good for the body with this SHA-256 alone.
    pub(super) sum: Option<[u8; 32]>,
    /// It deletes several objects, which only the sum says: the store has to check it.
    pub(super) several: bool,
    /// A client may use the signature again.
    pub(super) cacheable: bool,
    /// The object, the prefix, or the first of the objects, in the bucket.
    pub(super) key: String,
}

/// What a request does.
enum Action {
    Read,
    List,
    Write,
    DeleteSeveral,
}

/// Parameters that name an operation for a server that cannot tell by the rest; no store acts on them alone.
const LABEL: &str = "x-id";

fn action(method: &Method, target: &Target) -> Result<Action, Refusal> {
    let mut names: Vec<&str> = target.parameters.iter().map(|(name, _)| name.as_str()).collect();
    names.retain(|name| *name != LABEL);
    names.sort_unstable();
    let only = |allowed: &[&str]| names.iter().all(|name| allowed.contains(name));
    let found = match (method, target.key.is_some()) {
        (&Method::GET | &Method::HEAD, true) if only(&["partNumber", "versionId"]) => Some(Action::Read),
        (&Method::GET, false) if target.parameter("list-type") == Some("2") => {
            let listing =
                ["continuation-token", "delimiter", "encoding-type", "fetch-owner", "list-type", "max-keys", "prefix"];
            only(&listing).then_some(Action::List)
        }
        (&Method::PUT, true) if names.is_empty() || names == ["partNumber", "uploadId"] => Some(Action::Write),
        (&Method::POST, true) if names == ["uploads"] || names == ["uploadId"] => Some(Action::Write),
        (&Method::DELETE, true) if names.is_empty() || names == ["uploadId"] => Some(Action::Write),
        (&Method::POST, false) if names == ["delete"] => Some(Action::DeleteSeveral),
        _ => None,
    };
    found.ok_or_else(|| {
        let what = if target.key.is_some() { "an object" } else { "the bucket itself" };
        let with = if names.is_empty() {
            "without parameters".to_owned()
        } else {
            format!("with {}", shown(&names.join(", ")))
        };
        Refusal(format!("{method} of {what} {with} is not a request that table files need"))
    })
}

/// Judges a request of a caller that may use the folders of `grants`.
pub(super) fn may_sign(
    asked: &SignRequest,
    bucket: &BucketAddress,
    warehouse: &Warehouse,
    grants: &[Grant],
) -> Result<Permit, Refusal> {
    let target = target(&asked.uri, bucket)?;
    let no_method = |_| Refusal(format!("{} is no method", shown(&asked.method)));
    let method = Method::from_str(&asked.method).map_err(no_method)?;
    let action = action(&method, &target)?;
    let within = Within { bucket, warehouse, grants };
    let Signed { headers, mut sum, any_body } = signed(&asked.headers, &target.host)?;
    let key = match action {
        Action::Read => within.object(target.key.as_deref().unwrap_or_default(), false)?,
        Action::Write => within.object(target.key.as_deref().unwrap_or_default(), true)?,
        Action::List => within.prefix(target.parameter("prefix").unwrap_or_default())?,
        Action::DeleteSeveral => {
            let Some(body) = asked.body.as_deref() else {
                return refuse(
                    "a list of objects to delete is signed only if it is sent here with the request".to_owned(),
                );
            };
            let keys = deletes::keys(body)?;
            for key in &keys {
                plain(key)?;
                within.object(key, true)?;
            }
            let Some(first) = keys.into_iter().next() else { return refuse("the list of objects is empty".to_owned()) };
            let bound = <[u8; 32]>::try_from(digest(&SHA256, body.as_bytes()).as_ref()).ok();
            if any_body || sum.is_some_and(|given| Some(given) != bound) {
                return refuse("the signature for a list of objects to delete is for that list alone".to_owned());
            }
            sum = bound;
            first
        }
    };
    let mut request = Request::new(());
    let (cacheable, several) = (matches!(action, Action::Read), matches!(action, Action::DeleteSeveral));
    *request.method_mut() = method;
    *request.uri_mut() =
        Uri::from_str(&asked.uri).map_err(|error| Refusal(format!("{} is no URI: {error}", shown(&asked.uri))))?;
    *request.headers_mut() = headers;
    Ok(Permit { request, sum, several, cacheable, key })
}

/// The folders of a caller.
struct Within<'a> {
    bucket: &'a BucketAddress,
    warehouse: &'a Warehouse,
    grants: &'a [Grant],
}

impl Within<'_> {
    /// The folder that the key begins with.
    fn grant(&self, key: &str) -> Option<&Grant> {
        let key = key.strip_prefix(&self.bucket.prefix)?;
        self.grants.iter().find(|grant| grant.folder.ends_with('/') && key.starts_with(&grant.folder))
    }

    /// An object, which must be below a folder.
    fn object(&self, key: &str, writes: bool) -> Result<String, Refusal> {
        let name = key.strip_prefix(&self.bucket.prefix).unwrap_or_default();
        let grant = self.grant(key).filter(|grant| name.len() > grant.folder.len() && self.warehouse.holds_name(name));
        match grant {
            Some(grant) if grant.writes || !writes => Ok(key.to_owned()),
            Some(_) => refuse(format!("the caller may not write the table whose file {} is", shown(key))),
            None => refuse(format!("the object {} does not lie within the location of the table", shown(key))),
        }
    }

    /// The beginning of keys, which must be a folder or go on below one.
    fn prefix(&self, prefix: &str) -> Result<String, Refusal> {
        plain(prefix.strip_suffix('/').unwrap_or(prefix))?;
        match self.grant(prefix) {
            Some(_) => Ok(prefix.to_owned()),
            None => refuse(format!(
                "the prefix {} to list does not lie within the location of the table, which ends with a slash",
                shown(prefix)
            )),
        }
    }
}

#[cfg(test)]
mod tests;
