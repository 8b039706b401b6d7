//! `DeleteAcls` (31): refused, see [`describe_acls`](super::describe_acls).

use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::{DeleteAclsRequest, DeleteAclsResponse};

use super::describe_acls::NO_AUTHORIZER;
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::message;

/// `SECURITY_DISABLED` for each.
pub async fn handle(_: &RequestContext, request: DeleteAclsRequest) -> DeleteAclsResponse {
    let refused = DeleteAclsFilterResult::default()
        .with_error_code(ErrorCode::SECURITY_DISABLED.number())
        .with_error_message(message(&NO_AUTHORIZER));
    DeleteAclsResponse::default().with_filter_results(vec![refused; request.filters.len()])
}
