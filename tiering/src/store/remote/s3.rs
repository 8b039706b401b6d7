//! How a client of S3 is configured: by the environment, as the tools of AWS read it.

use object_store::aws::AmazonS3Builder;

use super::{no_retries, options};

/// Schemes of S3.
pub(super) const S3: &str = "s3";
pub(super) const S3A: &str = "s3a";
/// Says for S3 whether bodies are left out of the signature, instead of the transport.
const UNSIGNED_PAYLOAD: &str = "AWS_UNSIGNED_PAYLOAD";

/// Does the environment variable hold the URL of a plain endpoint?
pub(super) fn plain(name: &str) -> bool {
    std::env::var(name).is_ok_and(|url| url.starts_with("http://"))
}

pub(super) fn s3_builder(bucket: &str) -> AmazonS3Builder {
    let http = plain("AWS_ENDPOINT_URL") || plain("AWS_ENDPOINT_URL_S3") || plain("AWS_ENDPOINT");
    let client = AmazonS3Builder::from_env().with_client_options(options(http)).with_retry(no_retries());
    let client = client.with_unsigned_payload(unsigned_payload(http, std::env::var(UNSIGNED_PAYLOAD).ok()));
    client.with_bucket_name(bucket)
}

/// Does a switch of the crate say yes? In the words that it knows.
pub(super) fn yes(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on" | "y")
}

/// Are bodies left out of a request's signature? TLS protects them on their way already, and the sum over every byte
/// costs more than the rest of a PUT. `set` is the value of [`UNSIGNED_PAYLOAD`], which decides if it is there.
fn unsigned_payload(http: bool, set: Option<String>) -> bool {
    match set.as_deref() {
        Some(value) => yes(value),
        None => !http,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_signed_where_no_transport_protects_them() {
        assert!(unsigned_payload(false, None), "https");
        assert!(!unsigned_payload(true, None), "http");
        assert!(unsigned_payload(true, Some("true".to_owned())));
        assert!(!unsigned_payload(false, Some("false".to_owned())), "a bucket policy may want signed bodies");
    }
}
