//! JSON of remote signing (iceberg `open-api/rest-catalog-open-api.yaml`, and `s3-signer-open-api.yaml` of older
//! clients, which has the same members).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `/v1/config` lists where requests are signed.
pub const SIGN_ENDPOINT: &str = "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/sign";

/// Request: sign a request to the object store. The region that the client names is not needed: the bucket has one.
#[derive(Debug, Deserialize)]
pub struct SignRequest {
    pub method: String,
    pub uri: String,
    #[serde(default)]
    pub headers: BTreeMap<String, Vec<String>>,
    /// The body, where the store reads from it which objects are meant.
    pub body: Option<String>,
    /// Which kind of store; `None`: S3.
    pub provider: Option<String>,
}

/// Answer: the request to send.
#[derive(Debug, Serialize)]
pub struct SignAnswer {
    pub uri: String,
    /// To be sent beside those of the request.
    pub headers: BTreeMap<String, Vec<String>>,
}
