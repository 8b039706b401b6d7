//! `DescribeUserScramCredentials` (50): there are no users; `kafka-configs --entity-type users` asks on its way to quotas.

use kafka_protocol::messages::describe_user_scram_credentials_response::DescribeUserScramCredentialsResult;
use kafka_protocol::messages::{DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse};

use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::message;

/// Nothing, and `RESOURCE_NOT_FOUND` for each user named.
pub async fn handle(
    _: &RequestContext,
    request: DescribeUserScramCredentialsRequest,
) -> DescribeUserScramCredentialsResponse {
    let users = request.users.unwrap_or_default().into_iter().map(|user| {
        let why = format!("Attempt to describe a user credential that does not exist: {}", user.name.as_str());
        DescribeUserScramCredentialsResult::default()
            .with_user(user.name)
            .with_error_code(ErrorCode::RESOURCE_NOT_FOUND.number())
            .with_error_message(message(&why))
    });
    DescribeUserScramCredentialsResponse::default().with_results(users.collect())
}
