//! `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms` (KIP-937): how far from the broker's clock a
//! producer's timestamps may lie. Pure.
//!
//! The header's greatest timestamp decides about the future. For the past a batch must be opened, since its header does
//! not name the least; that costs only topics which set the limit. A refused batch is opened to name its bad records, as
//! Kafka does, so that the client fails those and says of the others that they were in their company.

use bytes::Bytes;
use tidewater_storage::model::record::{RecordError, read};
use tidewater_storage::model::{TimestampMs, TimestampType};

use super::Refusal;
use crate::config::topic::TopicConfig;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::{RECORD_ERRORS_MAX, UNPACKED_MAX};
use crate::partition::message::CheckedBatch;

/// Are all its timestamps within the topic's limits at `now`?
///
/// # Errors
/// `INVALID_TIMESTAMP`, with the records that are not.
pub(super) fn check(batch: &CheckedBatch, config: &TopicConfig, now: TimestampMs) -> Result<(), Refusal> {
    if config.timestamp_type == TimestampType::LogAppend {
        return Ok(());
    }
    let ms = |limit: u64| i64::try_from(limit).unwrap_or(i64::MAX);
    let latest = now.0.saturating_add(ms(config.timestamp_after_max_ms));
    let earliest = now.0.saturating_sub(ms(config.timestamp_before_max_ms));
    let too_new = batch.header.max_timestamp.0 > latest;
    // Timestamps are not negative, but for -1, which is none.
    if !too_new && earliest <= 0 {
        return Ok(());
    }
    let bytes = Bytes::copy_from_slice(&batch.bytes);
    let refused = |e: RecordError| Refusal::new(ErrorCode::INVALID_RECORD, e.to_string());
    let mut errors = Vec::new();
    for (n, record) in read(&batch.header, &bytes, UNPACKED_MAX).map_err(refused)?.enumerate() {
        let at = record.map_err(refused)?.timestamp;
        if at == TimestampMs::NONE || (earliest..=latest).contains(&at.0) || errors.len() == RECORD_ERRORS_MAX {
            continue;
        }
        let why = format!(
            "Timestamp {} of message with offset {n} is out of range. The timestamp should be within [{earliest}, \
             {latest}]",
            at.0
        );
        errors.push((i32::try_from(n).unwrap_or(i32::MAX), why));
    }
    if errors.is_empty() && !too_new {
        return Ok(());
    }
    let why = "One or more records have been rejected due to invalid timestamp";
    Err(Refusal { records: errors, ..Refusal::new(ErrorCode::INVALID_TIMESTAMP, why) })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tidewater_storage::model::record::{BatchBuilder, Record};
    use tidewater_storage::model::{BatchHeader, Compression};

    use super::*;

    const NOW: TimestampMs = TimestampMs(1_000_000_000);

    fn refused(compression: Compression, times: &[i64], set: &[(&str, &str)]) -> Option<Vec<i32>> {
        let mut builder = BatchBuilder::new(compression);
        times.iter().for_each(|at| builder.push(Record::new(TimestampMs(*at), None, Some(Bytes::from_static(b"v")))));
        let bytes = BytesMut::from(&builder.build()[..]);
        let batch = CheckedBatch { header: BatchHeader::parse(&bytes).expect("parses"), bytes };
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let refusal = check(&batch, &TopicConfig::resolve(&set), NOW).err()?;
        assert_eq!(refusal.code, ErrorCode::INVALID_TIMESTAMP);
        Some(refusal.records.into_iter().map(|(n, _)| n).collect())
    }

    #[test]
    fn an_hour_ahead_is_the_default() {
        let hour = 3_600_000;
        assert_eq!(refused(Compression::None, &[0, -1, NOW.0, NOW.0 + hour], &[]), None);
        for compression in Compression::ALL {
            assert_eq!(refused(compression, &[NOW.0, NOW.0 + hour + 1, 5], &[]), Some(vec![1]));
        }
    }

    #[test]
    fn the_past_counts_when_a_topic_limits_it() {
        let set = [("message.timestamp.before.max.ms", "1000")];
        assert_eq!(refused(Compression::Lz4, &[NOW.0 - 1001, NOW.0, NOW.0 - 1000, 0, -1], &set), Some(vec![0, 3]));
        assert_eq!(refused(Compression::None, &[NOW.0 - 1000, NOW.0], &set), None);
    }

    #[test]
    fn the_brokers_own_clock_is_never_wrong() {
        assert_eq!(refused(Compression::None, &[i64::MAX], &[("message.timestamp.type", "LogAppendTime")]), None);
    }
}
