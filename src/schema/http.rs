//! Confluent's HTTP API over the core, without a server: a request's parts in, status and body out.
//!
//! The contract: paths and query parameters ([`route`]), bodies ([`body`]), and answers with Confluent's names, codes
//! and media types ([`reply`]). A server gives a [`Request`] to [`route`] and sends what [`reply`] makes.

use bytes::Bytes;

pub mod body;
pub mod reply;
pub mod route;

/// The parts of a request that matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// In capitals.
    pub method: &'a str,
    /// As it was sent, without the query.
    pub path: &'a str,
    /// Behind the question mark.
    pub query: &'a str,
    pub content_type: Option<&'a str>,
    pub body: &'a [u8],
}

/// A [`Request`] that another broker carries out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestParts {
    pub method: String,
    pub path: String,
    pub query: String,
    pub content_type: Option<String>,
    pub body: Bytes,
}

impl RequestParts {
    #[must_use]
    pub fn of(request: &Request<'_>) -> Self {
        Self {
            method: request.method.to_owned(),
            path: request.path.to_owned(),
            query: request.query.to_owned(),
            content_type: request.content_type.map(ToOwned::to_owned),
            body: Bytes::copy_from_slice(request.body),
        }
    }

    #[must_use]
    pub fn request(&self) -> Request<'_> {
        Request {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            content_type: self.content_type.as_deref(),
            body: &self.body,
        }
    }
}

/// Media types of this API, the one first that answers have where a client does not choose.
pub const MEDIA_TYPES: [&str; 3] =
    ["application/vnd.schemaregistry.v1+json", "application/vnd.schemaregistry+json", "application/json"];
