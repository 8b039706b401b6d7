//! `DescribeLogDirs` responses: up to v4 the generated encoder's, v5 (KIP-1066) by hand.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::describe_log_dirs_response::{DescribeLogDirsResult, DescribeLogDirsTopic};
use kafka_protocol::messages::{ApiKey, DescribeLogDirsResponse};

use super::header::{begin_response, end_response};
use super::request::LOG_DIRS_GENERATED_MAX;
use super::response::{self, EncodeError};
use super::writer::{put_list_len, put_no_tags, put_text};

/// Writes a whole response frame. No directory is cordoned: new partitions may go to each.
///
/// # Errors
/// A field is set that the version does not have.
pub fn encode(version: i16, correlation_id: i32, answer: &DescribeLogDirsResponse) -> Result<Bytes, EncodeError> {
    if version <= LOG_DIRS_GENERATED_MAX {
        return response::encode(ApiKey::DescribeLogDirs, version, correlation_id, answer);
    }
    let mut out = begin_response(correlation_id, true, 256);
    out.put_i32(answer.throttle_time_ms);
    out.put_i16(answer.error_code);
    put_list_len(&mut out, true, answer.results.len());
    answer.results.iter().for_each(|result| put_result(&mut out, result));
    put_no_tags(&mut out, true);
    Ok(end_response(out))
}

fn put_result(out: &mut BytesMut, result: &DescribeLogDirsResult) {
    out.put_i16(result.error_code);
    put_text(out, true, result.log_dir.as_str());
    put_list_len(out, true, result.topics.len());
    result.topics.iter().for_each(|topic| put_topic(out, topic));
    out.put_i64(result.total_bytes);
    out.put_i64(result.usable_bytes);
    out.put_u8(0); // is_cordoned
    put_no_tags(out, true);
}

fn put_topic(out: &mut BytesMut, topic: &DescribeLogDirsTopic) {
    put_text(out, true, topic.name.as_str());
    put_list_len(out, true, topic.partitions.len());
    for partition in &topic.partitions {
        out.put_i32(partition.partition_index);
        out.put_i64(partition.partition_size);
        out.put_i64(partition.offset_lag);
        out.put_u8(u8::from(partition.is_future_key));
        put_no_tags(out, true);
    }
    put_no_tags(out, true);
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsPartition;

    use super::*;
    use crate::kafka::words::{text, topic_name};

    #[test]
    fn v5_is_v4_with_one_byte_more_a_directory() {
        let partition = DescribeLogDirsPartition::default().with_partition_index(2).with_partition_size(77);
        let topic = DescribeLogDirsTopic::default().with_name(topic_name("t")).with_partitions(vec![partition; 2]);
        let result = DescribeLogDirsResult::default().with_log_dir(text("/data")).with_topics(vec![topic; 2]);
        let result = result.with_total_bytes(1000).with_usable_bytes(10);
        let answer = DescribeLogDirsResponse::default().with_results(vec![result]);
        let (four, five) = (encode(4, 7, &answer).expect("writes"), encode(5, 7, &answer).expect("writes"));
        // Length, then the same bytes up to the end of the directory: cordoned, its tags, the response's tags.
        let body = |frame: &Bytes| frame.slice(4..);
        let (four, five) = (body(&four), body(&five));
        assert_eq!(five.len(), four.len() + 1);
        assert_eq!(five[..four.len() - 2], four[..four.len() - 2]);
        assert_eq!(five[four.len() - 2..], [0, 0, 0]);
    }
}
