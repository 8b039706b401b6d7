//! `ApiVersions` (18): the table of what is served.

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use crate::kafka::RequestContext;
use crate::kafka::api::APIS;
use crate::kafka::error_code::ErrorCode;

/// Answers with the table. Features are left empty: clients then use what needs none (no transactions v2).
pub async fn handle(ctx: &RequestContext, request: ApiVersionsRequest) -> ApiVersionsResponse {
    answer(ctx.version, &request)
}

fn answer(version: i16, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    let legal = |name: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(inner)
    };
    let named = legal(request.client_software_name.as_str()) && legal(request.client_software_version.as_str());
    if version >= 3 && !named {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::INVALID_REQUEST.number());
    }
    let keys = APIS.iter().map(|api| {
        ApiVersion::default()
            .with_api_key(api.key as i16)
            .with_min_version(api.advertised_min)
            .with_max_version(api.max)
    });
    ApiVersionsResponse::default().with_api_keys(keys.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::words::text;

    #[test]
    fn produce_is_told_from_zero() {
        let answer = answer(0, &ApiVersionsRequest::default());
        let produce = answer.api_keys.iter().find(|k| k.api_key == 0).expect("there");
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
    }

    #[test]
    fn software_names_are_checked_as_kafka_does() {
        let ask = |name: &str| {
            let request = ApiVersionsRequest::default()
                .with_client_software_name(text(name))
                .with_client_software_version(text("4.0.0"));
            answer(3, &request).error_code
        };
        assert_eq!(ask("apache-kafka-java"), 0);
        assert_eq!(ask("-bad"), ErrorCode::INVALID_REQUEST.number());
    }
}
