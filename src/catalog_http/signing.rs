//! Remote signing: an engine without keys of the bucket sends the catalog each request that it wants to make to the
//! bucket, and gets a signature for it.
//!
//! Owns: the two routes, the configuration that turns a client to them, what is counted and logged. Does not own: which
//! request may be signed (`judge`, a pure function; `address`, `headers` and `deletes` are its parts), the folders of
//! tables (`grants`), the signature (`tidewater_tiering::store::S3Signer`). *Node-wide*; side runtime.
//!
//! A signature is made with rights to the whole bucket, so what is not known to be harmless is refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tidewater_iceberg::catalog::wire::ErrorAnswer;
use tidewater_iceberg::catalog::wire::signing::{SignAnswer, SignRequest};
use tidewater_iceberg::catalog::{RawLoaded, TableIdent};
use tidewater_tiering::store::{S3Signer, StoreError};

use super::Catalog;
use super::answer::{Answer, Failure, LEVELS, Names, body, path_table};
use super::served::ServedCatalog;
use crate::net::sign_counts::SignCounts;
use grants::{Grant, Grants};
use judge::{Refusal, may_sign};

mod address;
mod deletes;
mod grants;
mod headers;
mod judge;

/// The header by which a client says how it wants to reach a table's files.
const DELEGATION: &str = "x-iceberg-access-delegation";
const REMOTE_SIGNING: &str = "remote-signing";
/// The provider that requests name; there is no other.
const S3: &str = "s3";
/// Written as they are in a path.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What remote signing needs beside the catalog.
#[derive(Debug)]
pub struct Signing {
    signer: S3Signer,
    grants: Grants,
    counts: Arc<SignCounts>,
}

/// Does the client ask for signatures? The header has a list, and may be there several times.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(DELEGATION).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|one| one.trim().eq_ignore_ascii_case(REMOTE_SIGNING))
}

impl Signing {
    #[must_use]
    pub fn new(signer: S3Signer, counts: Arc<SignCounts>) -> Self {
        Self { signer, grants: Grants::default(), counts }
    }

    /// What a client needs to have the requests for this table's files signed; nothing where the files are not in the
    /// warehouse, as those of followed topics. The catalog's URI is left out: clients take the one that they have.
    pub(super) fn config(
        &self,
        catalog: &ServedCatalog,
        table: &TableIdent,
        loaded: &RawLoaded,
    ) -> HashMap<String, String> {
        if let Err(error) = self.grants.remember(catalog.warehouse(), table, loaded) {
            tracing::debug!(%table, %error, "requests for the files of this table are not signed");
            return HashMap::new();
        }
        let address = self.signer.address();
        let encoded = |name: &str| utf8_percent_encode(name, UNRESERVED).to_string();
        let levels: Vec<&str> = table.namespace.iter().map(String::as_str).collect();
        let namespace = encoded(&levels.join(&LEVELS.to_string()));
        let path = format!("v1/namespaces/{namespace}/tables/{}/sign", encoded(&table.name));
        let yes = || "true".to_owned();
        let mut config = HashMap::from([
            ("s3.remote-signing-enabled".to_owned(), yes()),
            // The class of PyIceberg.
            ("s3.signer".to_owned(), "S3V4RestSigner".to_owned()),
            ("s3.signer.endpoint".to_owned(), path.clone()),
            ("signer.endpoint".to_owned(), path),
            ("s3.region".to_owned(), address.region.clone()),
            ("client.region".to_owned(), address.region.clone()),
        ]);
        if !address.aws {
            config.insert("s3.endpoint".to_owned(), address.endpoint.as_str().trim_end_matches('/').to_owned());
        }
        if address.by_path {
            config.insert("s3.path-style-access".to_owned(), yes());
        }
        config
    }

    async fn answer(&self, asked: SignRequest, grants: &[Grant], catalog: &ServedCatalog) -> Answer<Response> {
        let permit = may_sign(&asked, self.signer.address(), catalog.warehouse(), grants)?;
        let (cacheable, key) = (permit.cacheable, permit.key);
        let away = |error: StoreError| {
            let message = format!("the broker cannot sign for the bucket now: {error}; try again");
            Failure::new(ErrorAnswer::new(503, "ServiceUnavailableException", message))
        };
        if permit.several && !self.signer.checks_bodies().await.map_err(away)? {
            let why = "the store of the bucket takes another list of objects to delete than the one that is signed; \
                       delete them one by one";
            return Err(Refusal(why.to_owned()).into());
        }
        let signed = self.signer.sign(permit.request, permit.sum).await.map_err(away)?;
        tracing::debug!(method = %asked.method, key, "signed a request to the bucket");
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &signed {
            // What the signer writes is ASCII.
            headers.entry(name.to_string()).or_default().extend(value.to_str().map(ToOwned::to_owned));
        }
        let mut response = Json(SignAnswer { uri: asked.uri, headers }).into_response();
        if cacheable {
            // Java's client then uses a signature again, for half a minute.
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        }
        Ok(response)
    }

    /// Counts and logs what became of a request.
    fn noted(&self, answer: Answer<Response>) -> Answer<Response> {
        match &answer {
            Ok(_) => self.counts.signed(),
            Err(failure) if failure.code() < 500 => {
                self.counts.refused();
                tracing::debug!(code = failure.code(), why = failure.message(), "did not sign a request to the bucket");
            }
            Err(_) => self.counts.failed(),
        }
        answer
    }
}

impl From<Refusal> for Failure {
    fn from(Refusal(why): Refusal) -> Self {
        Self::new(ErrorAnswer::new(403, "ForbiddenException", format!("not signed: {why}")))
    }
}

fn offered(catalog: &Catalog) -> Answer<&Signing> {
    catalog.signing().ok_or_else(|| {
        let why = "this catalog signs no requests: its bucket is not one of S3, or its port is reached from other \
                   machines and wants no tokens (--catalog-tokens-file)";
        Refusal(why.to_owned()).into()
    })
}

fn parsed(bytes: &Bytes) -> Answer<SignRequest> {
    let asked: SignRequest = body(bytes)?;
    match asked.provider.as_deref() {
        None | Some(S3) => Ok(asked),
        Some(_) => Err(Refusal("the provider is another than s3".to_owned()).into()),
    }
}

/// `POST …/tables/{table}/sign`.
pub(super) async fn sign(catalog: Catalog, names: Names, bytes: Bytes) -> Answer<Response> {
    let signing = offered(&catalog)?;
    let one = async {
        let asked = parsed(&bytes)?;
        let grants = signing.grants.of(&catalog, &path_table(&names)?).await?;
        signing.answer(asked, &grants, &catalog).await
    };
    signing.noted(one.await)
}

/// `POST /v1/aws/s3/sign`, of clients that do not know the other path: the table is the one in whose folder the files
/// are, among those that this broker has sent such a client to.
pub(super) async fn sign_for_any(catalog: Catalog, bytes: Bytes) -> Answer<Response> {
    let signing = offered(&catalog)?;
    let one = async {
        let asked = parsed(&bytes)?;
        let mut grants = Vec::new();
        for table in signing.grants.named_in(&asked) {
            match signing.grants.of(&catalog, &table).await {
                Ok(more) => grants.extend(more),
                // Dropped or renamed since.
                Err(failure) if failure.code() == 404 => {}
                Err(failure) => return Err(failure),
            }
        }
        signing.answer(asked, &grants, &catalog).await
    };
    signing.noted(one.await)
}
