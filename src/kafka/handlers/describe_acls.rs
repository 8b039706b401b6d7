//! `DescribeAcls` (29). There is no authorizer, and tools get Kafka's error for that: they list it as switched off
//! (MirrorMaker, the UIs) instead of taking the missing key for a fault.

use kafka_protocol::messages::{DescribeAclsRequest, DescribeAclsResponse};

use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::message;

/// Kafka's words.
pub(super) const NO_AUTHORIZER: &str = "No Authorizer is configured.";

/// Always `SECURITY_DISABLED`.
pub async fn handle(_: &RequestContext, _: DescribeAclsRequest) -> DescribeAclsResponse {
    DescribeAclsResponse::default()
        .with_error_code(ErrorCode::SECURITY_DISABLED.number())
        .with_error_message(message(&NO_AUTHORIZER))
}
