//! `DescribeUserScramCredentials` (50): there are no users; `kafka-configs --entity-type users` asks on its way to
//! quotas.

use std::collections::HashSet;

use kafka_protocol::messages::describe_user_scram_credentials_response::DescribeUserScramCredentialsResult;
use kafka_protocol::messages::{DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse};

use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::named_twice::repeated;
use crate::kafka::words::message;

/// Nothing, and `RESOURCE_NOT_FOUND` for each user named, `DUPLICATE_RESOURCE` for one named more than once.
pub async fn handle(
    _: &RequestContext,
    request: DescribeUserScramCredentialsRequest,
) -> DescribeUserScramCredentialsResponse {
    let asked: Vec<_> = request.users.unwrap_or_default().into_iter().map(|user| user.name).collect();
    let (repeated, mut named) = (repeated(&asked), HashSet::new());
    let users = asked.iter().filter(|user| named.insert(*user)).map(|user| {
        let (error, why) = if repeated.contains(user) {
            let why = format!("Cannot describe SCRAM credentials for the same user twice in a single request: {user}");
            (ErrorCode::DUPLICATE_RESOURCE, why)
        } else {
            let why = format!("Attempt to describe a user credential that does not exist: {user}");
            (ErrorCode::RESOURCE_NOT_FOUND, why)
        };
        DescribeUserScramCredentialsResult::default()
            .with_user(user.clone())
            .with_error_code(error.number())
            .with_error_message(message(&why))
    });
    DescribeUserScramCredentialsResponse::default().with_results(users.collect())
}
