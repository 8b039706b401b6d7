//! `DescribeClientQuotas` (48): there are none.

use kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use crate::kafka::RequestContext;

pub async fn handle(_: &RequestContext, _: DescribeClientQuotasRequest) -> DescribeClientQuotasResponse {
    DescribeClientQuotasResponse::default().with_entries(Some(Vec::new()))
}
