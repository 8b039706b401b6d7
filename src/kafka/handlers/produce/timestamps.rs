//! `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms` (KIP-937): how far from the broker's clock a
//! producer's timestamps may lie. Pure.
//!
//! The header's greatest timestamp decides about the future. For the past a batch must be opened, since its header does
//! not name the least; that costs only topics which set the limit. A refused batch is opened to name its bad records,
//! as Kafka does, so that the client fails those and says of the others that they were in their company; but only while
//! the request has not cost too much already ([`Opened`]), for a batch of a kilobyte may unpack to 64 MiB.

use bytes::Bytes;
use tidewater_storage::model::record::{RecordError, Records, read};
use tidewater_storage::model::{TimestampMs, TimestampType};

use super::Refusal;
use crate::config::topic::TopicConfig;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::{RECORD_ERRORS_MAX, RECORD_ERRORS_REQUEST_MAX, UNPACKED_MAX};
use crate::partition::message::CheckedBatch;

/// What the batches of one request cost that were opened.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// Records named in refusals.
    named: usize,
    /// Bytes unpacked.
    unpacked: usize,
}

impl Opened {
    /// Records that the next refusal may name.
    fn may_name(&self) -> usize {
        if self.unpacked >= UNPACKED_MAX {
            return 0;
        }
        RECORD_ERRORS_MAX.min(RECORD_ERRORS_REQUEST_MAX.saturating_sub(self.named))
    }
}

/// Are all its timestamps within the topic's limits at `now`?
///
/// # Errors
/// `INVALID_TIMESTAMP`, with the records that are not as far as they can be named.
pub(super) fn check(
    batch: &CheckedBatch,
    config: &TopicConfig,
    now: TimestampMs,
    opened: &mut Opened,
) -> Result<(), Refusal> {
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
    let may_name = opened.may_name();
    let why = "One or more records have been rejected due to invalid timestamp";
    let whole = Refusal::new(ErrorCode::INVALID_TIMESTAMP, why);
    if too_new && may_name == 0 {
        return Err(whole);
    }
    let bytes = Bytes::copy_from_slice(&batch.bytes);
    let refused = |e: RecordError| Refusal::new(ErrorCode::INVALID_RECORD, e.to_string());
    let records = read(&batch.header, &bytes, UNPACKED_MAX);
    // What does not unpack may have cost all that unpacking may cost.
    opened.unpacked += records.as_ref().map_or(UNPACKED_MAX, Records::unpacked_len);
    let (mut errors, mut bad) = (Vec::new(), too_new);
    for (n, record) in records.map_err(refused)?.enumerate() {
        let at = record.map_err(refused)?.timestamp;
        if at == TimestampMs::NONE || (earliest..=latest).contains(&at.0) {
            continue;
        }
        bad = true;
        if errors.len() < may_name {
            let why = format!(
                "Timestamp {} of message with offset {n} is out of range. The timestamp should be within [{earliest}, \
                 {latest}]",
                at.0
            );
            errors.push((i32::try_from(n).unwrap_or(i32::MAX), why));
        }
        if errors.len() >= may_name {
            break;
        }
    }
    opened.named += errors.len();
    if bad { Err(Refusal { records: errors, ..whole }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tidewater_storage::model::record::{BatchBuilder, Record};
    use tidewater_storage::model::{BatchHeader, Compression};

    use super::*;

    const NOW: TimestampMs = TimestampMs(1_000_000_000);

    fn batch(compression: Compression, times: &[i64], value: &Bytes) -> CheckedBatch {
        let mut builder = BatchBuilder::new(compression);
        times.iter().for_each(|at| builder.push(Record::new(TimestampMs(*at), None, Some(value.clone()))));
        let bytes = BytesMut::from(&builder.build()[..]);
        CheckedBatch { header: BatchHeader::parse(&bytes).expect("parses"), bytes }
    }

    fn config(set: &[(&str, &str)]) -> TopicConfig {
        TopicConfig::resolve(&set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn refused(compression: Compression, times: &[i64], set: &[(&str, &str)]) -> Option<Vec<i32>> {
        let batch = batch(compression, times, &Bytes::from_static(b"v"));
        let refusal = check(&batch, &config(set), NOW, &mut Opened::default()).err()?;
        assert_eq!(refusal.code, ErrorCode::INVALID_TIMESTAMP);
        Some(refusal.records.into_iter().map(|(n, _)| n).collect())
    }

    const PAST: [(&str, &str); 1] = [("message.timestamp.before.max.ms", "1000")];

    #[test]
    fn a_request_opens_no_more_refused_batches_once_it_has_cost_enough() {
        let config = config(&PAST);
        // Half of what may be unpacked, packed into a few KiB, and too new.
        let bomb = batch(Compression::Zstd, &[i64::MAX], &Bytes::from(vec![0; UNPACKED_MAX / 2]));
        let mut opened = Opened::default();
        for named in [1, 1, 0, 0] {
            let refusal = check(&bomb, &config, NOW, &mut opened).expect_err("too new");
            assert_eq!((refusal.code, refusal.records.len()), (ErrorCode::INVALID_TIMESTAMP, named));
        }
        assert!(opened.unpacked < UNPACKED_MAX + 1000, "{} bytes unpacked", opened.unpacked);
        // One that only its records can tell is still opened, for it may be good.
        let (small, old) = (Bytes::from_static(b"v"), [NOW.0, NOW.0 - 5000, NOW.0 - 5000]);
        check(&batch(Compression::None, &[NOW.0], &small), &config, NOW, &mut opened).expect("good");
        let refusal = check(&batch(Compression::None, &old, &small), &config, NOW, &mut opened).expect_err("old");
        assert_eq!((refusal.code, refusal.records.len()), (ErrorCode::INVALID_TIMESTAMP, 0));
    }

    #[test]
    fn a_request_names_so_many_records_and_no_more() {
        let (config, small) = (config(&[]), Bytes::from_static(b"v"));
        let too_new = batch(Compression::Lz4, &[i64::MAX; RECORD_ERRORS_MAX + 5], &small);
        let mut opened = Opened::default();
        let named = (0..12).map(|_| check(&too_new, &config, NOW, &mut opened).expect_err("too new").records.len());
        assert_eq!(named.sum::<usize>(), RECORD_ERRORS_REQUEST_MAX);
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
        assert_eq!(refused(Compression::Lz4, &[NOW.0 - 1001, NOW.0, NOW.0 - 1000, 0, -1], &PAST), Some(vec![0, 3]));
        assert_eq!(refused(Compression::None, &[NOW.0 - 1000, NOW.0], &PAST), None);
    }

    #[test]
    fn the_brokers_own_clock_is_never_wrong() {
        assert_eq!(refused(Compression::None, &[i64::MAX], &[("message.timestamp.type", "LogAppendTime")]), None);
    }
}
