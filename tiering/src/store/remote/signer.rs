//! Signatures for requests to the bucket that other programs will send.
//!
//! Owns: by which addresses the bucket of an `s3://` URL is reached, signing with the credentials that the environment
//! gives this process (the crate renews those that end), whether the server keeps to what a signature says of a body.
//! Does not own: which requests may be signed: the caller has to judge every one. *Node-wide*; used on a tokio runtime.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use http::{HeaderMap, Request};
use md5::{Digest, Md5};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use tokio::sync::OnceCell;
use url::Url;

use super::answer::store_error;
use super::s3::{S3, S3A, s3_builder, yes};
use super::{options, parts};
use crate::store::{OpenError, StoreError};

/// What the crate takes where no region is set.
const DEFAULT_REGION: &str = "us-east-1";

/// The bucket of this cluster as S3 clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketAddress {
    pub bucket: String,
    /// What the names of the store's keys begin with in the bucket: empty, or with a slash at the end.
    pub prefix: String,
    pub region: String,
    /// Of the server, without the bucket's name.
    pub endpoint: Url,
    /// The bucket's name may be in the path, `https://endpoint/bucket/key`.
    pub by_path: bool,
    /// The bucket's name may be in the host, `https://bucket.endpoint/key`.
    pub by_host: bool,
    /// The endpoint is the region's of AWS itself, which clients know.
    pub aws: bool,
}

impl BucketAddress {
    /// The address as the client of this process uses it; `None` if requests are not signed by the plain rules, or
    /// cannot be addressed otherwise than by a host that does not name the bucket.
    fn of(builder: &AmazonS3Builder, bucket: &str, prefix: String) -> Option<Self> {
        let value = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
        let is_set = |key| value(key).is_some_and(|set| yes(&set));
        if is_set(AmazonS3ConfigKey::SkipSignature) || is_set(AmazonS3ConfigKey::S3Express) {
            return None;
        }
        let region = value(AmazonS3ConfigKey::Region).unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let by_host = is_set(AmazonS3ConfigKey::VirtualHostedStyleRequest);
        let set = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
        let Some(set) = set else {
            let endpoint = Url::parse(&format!("https://s3.{region}.amazonaws.com")).ok()?;
            let bucket = bucket.to_owned();
            return Some(Self { bucket, prefix, region, endpoint, by_path: true, by_host: true, aws: true });
        };
        let mut endpoint = Url::parse(&set).ok()?;
        if by_host {
            let host = endpoint.host_str()?.strip_prefix(bucket)?.strip_prefix('.')?.to_owned();
            endpoint.set_host(Some(&host)).ok()?;
        }
        Some(Self { bucket: bucket.to_owned(), prefix, region, endpoint, by_path: !by_host, by_host, aws: false })
    }

    /// The bucket itself.
    fn url(&self) -> Option<Url> {
        let mut url = self.endpoint.clone();
        if self.by_path {
            url.path_segments_mut().ok()?.pop_if_empty().push(&self.bucket);
        } else {
            url.set_host(Some(&format!("{}.{}", self.bucket, self.endpoint.host_str()?))).ok()?;
        }
        Some(url)
    }
}

/// Signs for one bucket.
pub struct S3Signer {
    client: AmazonS3,
    address: BucketAddress,
    checks_bodies: OnceCell<bool>,
}

/// Credentials stay out of logs.
impl fmt::Debug for S3Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Signer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl S3Signer {
    /// The signer for the bucket at `url`; contacts nothing. `None`: the bucket is not one of S3, or its requests are
    /// not signed one by one (anonymous access, directory buckets of S3 Express).
    ///
    /// # Errors
    /// [`OpenError::Configuration`].
    pub fn open(url: &str) -> Result<Option<Self>, OpenError> {
        let Some((S3 | S3A, bucket, prefix)) = parts(url) else { return Ok(None) };
        Self::by(s3_builder(bucket), bucket, prefix)
            .map_err(|error| OpenError::Configuration { url: url.to_owned(), detail: error.to_string() })
    }

    fn by(builder: AmazonS3Builder, bucket: &str, prefix: String) -> object_store::Result<Option<Self>> {
        let address = BucketAddress::of(&builder, bucket, prefix);
        let client = builder.build()?;
        Ok(address.map(|address| Self { client, address, checks_bodies: OnceCell::new() }))
    }

    #[must_use]
    pub fn address(&self) -> &BucketAddress {
        &self.address
    }

    /// Signs `request`, its host and all of its headers, and gives the headers to send beside those. With `sum`, the
    /// signature is good for the body with this SHA-256 alone; without, for every body.
    ///
    /// # Errors
    /// The credentials cannot be had now.
    pub async fn sign(&self, request: Request<()>, sum: Option<[u8; 32]>) -> Result<HeaderMap, StoreError> {
        let at = request.uri().path().to_owned();
        let failed = |error: object_store::Error| store_error(&at, &error);
        let credential = self.client.credentials().get_credential().await.map_err(failed)?;
        let (parts, ()) = request.into_parts();
        let sent = parts.headers.clone();
        let mut request = HttpRequest::from_parts(parts, HttpRequestBody::empty());
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.address.region).with_sign_payload(sum.is_some());
        authorizer.try_authorize(&mut request, sum.as_ref().map(|sum| &sum[..])).map_err(failed)?;
        let mut added = std::mem::take(request.headers_mut());
        for name in sent.keys() {
            added.remove(name);
        }
        Ok(added)
    }

    /// Does the server refuse a body that is not the one whose sum is signed? S3 does, and not every other one. It is
    /// asked once, by lists of objects to delete with one that does not exist: it must take the list that was signed,
    /// and refuse another.
    ///
    /// # Errors
    /// The server or the credentials cannot be had now.
    pub async fn checks_bodies(&self) -> Result<bool, StoreError> {
        let ask = async || {
            let takes_any = self.takes_list(Some(&[0; 32])).await?;
            Ok(!takes_any && self.takes_list(None).await?)
        };
        self.checks_bodies.get_or_try_init(ask).await.copied()
    }

    /// Whether the server takes a list of objects to delete that is signed with this sum, or with its own.
    async fn takes_list(&self, sum: Option<&[u8; 32]>) -> Result<bool, StoreError> {
        let key = format!("{}no-such-object-of-tidewater", self.address.prefix);
        let failed = |error: object_store::Error| store_error(&key, &error);
        let unavailable = |detail: String| StoreError::Unavailable { key: key.clone(), detail };
        let credential = self.client.credentials().get_credential().await.map_err(failed)?;
        let body = Bytes::from(format!("<Delete><Object><Key>{key}</Key></Object></Delete>"));
        let url = self.address.url().ok_or_else(|| unavailable("the bucket has no URL".to_owned()))?;
        let request = Request::post(format!("{url}?delete"))
            .header("content-md5", STANDARD.encode(Md5::digest(&body)))
            .body(HttpRequestBody::from(body));
        let mut request = request.map_err(|error| unavailable(error.to_string()))?;
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.address.region);
        authorizer.try_authorize(&mut request, sum.map(|sum| &sum[..])).map_err(failed)?;
        let options = options(self.address.endpoint.scheme() == "http");
        let client = ReqwestConnector::default().connect(&options).map_err(failed)?;
        let answer = client.execute(request).await.map_err(|error| unavailable(error.to_string()))?;
        match answer.status() {
            status if status.is_server_error() => Err(unavailable(format!("the store answers {status}"))),
            status => Ok(status.is_success()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    fn builder() -> AmazonS3Builder {
        AmazonS3Builder::new().with_bucket_name("b").with_access_key_id("key").with_secret_access_key("secret")
    }

    fn address(builder: AmazonS3Builder) -> Option<BucketAddress> {
        S3Signer::by(builder, "b", "lake/".to_owned()).expect("configured").map(|signer| signer.address)
    }

    #[test]
    fn the_address_is_the_one_that_the_store_uses() {
        let aws = address(builder().with_region("eu-west-1")).expect("signs");
        assert_eq!(aws.endpoint.as_str(), "https://s3.eu-west-1.amazonaws.com/");
        assert!(aws.by_path && aws.by_host && aws.aws && aws.prefix == "lake/");
        let own = address(builder().with_endpoint("http://127.0.0.1:8333/").with_allow_http(true)).expect("signs");
        assert_eq!((own.endpoint.as_str(), own.region.as_str()), ("http://127.0.0.1:8333/", "us-east-1"));
        assert!(own.by_path && !own.by_host && !own.aws);
        let hosted = builder().with_virtual_hosted_style_request(true);
        let named = address(hosted.clone().with_endpoint("https://b.store.example:444")).expect("signs");
        assert_eq!(named.endpoint.as_str(), "https://store.example:444/");
        assert!(!named.by_path && named.by_host);
        assert_eq!(address(hosted.with_endpoint("https://store.example")), None, "the host does not name the bucket");
        assert_eq!(address(builder().with_skip_signature(true)), None);
        let by_name = |name: AmazonS3ConfigKey| address(builder().with_config(name, "Yes"));
        assert_eq!(by_name(AmazonS3ConfigKey::SkipSignature), None, "as the environment may have it");
    }

    #[test]
    fn a_signature_covers_host_headers_and_body_and_brings_the_token() {
        let with_token = builder().with_token("the-token").with_endpoint("https://store.example");
        let signer = S3Signer::by(with_token, "b", String::new()).expect("configured").expect("signs");
        let request = || {
            let request = Request::put("https://store.example/b/t/x").header("content-type", "a/b");
            request.header("x-amz-meta-a", "1").body(()).expect("legal")
        };
        let added = block_on(signer.sign(request(), None)).expect("signs");
        let mut names: Vec<&str> = added.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"]);
        assert_eq!(added["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
        assert_eq!(added["x-amz-security-token"], "the-token");
        let signed = added["authorization"].to_str().expect("ASCII");
        let covered =
            "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-meta-a;x-amz-security-token,";
        assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=key/") && signed.contains(covered), "{signed}");
        assert!(!signed.contains("secret"));
        let bound = block_on(signer.sign(request(), Some([7; 32]))).expect("signs");
        assert_eq!(bound["x-amz-content-sha256"], "07".repeat(32).as_str());
        assert!(!format!("{signer:?}").contains("key\""));
    }

    /// A server that takes every list of objects to delete, or only one whose sum is not all zeros, or none.
    fn server(takes: fn(bool) -> bool) -> String {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("binds");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for socket in listener.incoming().take(2) {
                let (mut socket, mut read, mut buffer) = (socket.expect("connects"), String::new(), [0; 4096]);
                while !read.contains("</Delete>") {
                    let bytes = socket.read(&mut buffer).expect("reads");
                    read.push_str(std::str::from_utf8(&buffer[..bytes]).expect("text"));
                }
                assert!(read.starts_with("POST /b?delete ") && read.contains("<Key>lake/"), "{read}");
                let status = if takes(read.contains(&"0".repeat(64))) { "200 OK" } else { "400 Bad Request" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                socket.write_all(answer.as_bytes()).expect("writes");
            }
        });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_server_is_trusted_with_sums_only_if_it_takes_the_right_one_and_no_other() {
        for (takes, trusted) in [
            ((|_| true) as fn(bool) -> bool, false),
            (|wrong| !wrong, true),
            (|_| false, false),
            (|wrong| wrong, false),
        ] {
            let builder = builder().with_endpoint(server(takes)).with_allow_http(true);
            let signer = S3Signer::by(builder, "b", "lake/".to_owned()).expect("configured").expect("signs");
            assert_eq!(signer.checks_bodies().await.expect("answers"), trusted);
            assert_eq!(signer.checks_bodies().await.expect("is known"), trusted);
        }
    }

    #[test]
    fn only_buckets_of_s3_are_signed_for() {
        for url in ["file:///b", "gs://b/lake", "az://b", "s3://", "b"] {
            assert!(S3Signer::open(url).expect("no error").is_none(), "{url}");
        }
    }
}
