//! `CreateAcls` (30): refused, see [`describe_acls`](super::describe_acls).

use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::{CreateAclsRequest, CreateAclsResponse};

use super::describe_acls::NO_AUTHORIZER;
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::message;

/// `SECURITY_DISABLED` for each.
pub async fn handle(_: &RequestContext, request: CreateAclsRequest) -> CreateAclsResponse {
    let refused = AclCreationResult::default()
        .with_error_code(ErrorCode::SECURITY_DISABLED.number())
        .with_error_message(message(&NO_AUTHORIZER));
    CreateAclsResponse::default().with_results(vec![refused; request.creations.len()])
}
