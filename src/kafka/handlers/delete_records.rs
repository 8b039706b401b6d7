//! `DeleteRecords` (21): moves the log start forward.

use futures::future::join_all;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use tidewater_storage::model::Offset;

use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::topic_ref::TopicRef;
use crate::partition::message::{OffsetSpec, Place};

/// Trims every partition named; each stands or falls by itself.
pub async fn handle(ctx: &RequestContext, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let image = ctx.image();
    let topics = request.topics.into_iter().map(|topic| {
        let name = TopicRef::Name(topic.name.as_str().to_owned());
        let image = &image;
        async move {
            let trimmed = topic.partitions.iter().map(|asked| async {
                let place = name.partition(image, asked.partition_index).map(|(_, partition)| partition.place());
                let done = match place {
                    Ok(place) => trim(ctx, place, asked.offset).await,
                    Err(error) => Err(error),
                };
                answer(asked.partition_index, done)
            });
            let partitions = join_all(trimmed).await;
            DeleteRecordsTopicResult::default().with_name(topic.name.clone()).with_partitions(partitions)
        }
    });
    DeleteRecordsResponse::default().with_topics(join_all(topics).await)
}

/// -1 is "all there is".
async fn trim(ctx: &RequestContext, place: Place, offset: i64) -> Result<Offset, ErrorCode> {
    let router = &ctx.broker.router;
    let to = match Offset::from_wire(offset) {
        Some(to) => to,
        None if offset == -1 => {
            let end = router.list_offset(place, OffsetSpec::Latest).await.map_err(|e| ErrorCode::from(&e))?;
            end.map(|end| end.offset).ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?
        }
        None => return Err(ErrorCode::OFFSET_OUT_OF_RANGE),
    };
    router.trim(place, to).await.map_err(|e| ErrorCode::from(&e))
}

fn answer(index: i32, done: Result<Offset, ErrorCode>) -> DeleteRecordsPartitionResult {
    let (low, error) = match done {
        Ok(low) => (low.to_wire(), ErrorCode::NONE),
        Err(error) => (-1, error),
    };
    DeleteRecordsPartitionResult::default()
        .with_partition_index(index)
        .with_low_watermark(low)
        .with_error_code(error.number())
}
