//! Confluent's HTTP API over the core, without a server: a request's parts in, status and body out.
//!
//! The contract: paths and query parameters ([`route`]), bodies ([`body`]), and answers with Confluent's names, codes
//! and media types ([`reply`]). A server gives a [`Request`] to [`route`] and sends what [`reply`] makes.

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

/// Media types of this API, the one first that answers have where a client does not choose.
pub const MEDIA_TYPES: [&str; 3] =
    ["application/vnd.schemaregistry.v1+json", "application/vnd.schemaregistry+json", "application/json"];
