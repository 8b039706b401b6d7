//! `DescribeClientQuotas` (48): nobody has one.

use kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use crate::kafka::RequestContext;

/// An empty list.
pub async fn handle(_: &RequestContext, _: DescribeClientQuotasRequest) -> DescribeClientQuotasResponse {
    DescribeClientQuotasResponse::default().with_entries(Some(Vec::new()))
}
