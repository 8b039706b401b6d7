//! Fetches assigned partitions and opens the records.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest};
use tidewater_storage::model::batch::BatchError;
use tidewater_storage::model::record::{Record, RecordHeader, read};
use tidewater_storage::model::{BatchHeader, Offset};

use super::admin::topic_name;
use super::cluster::{Client, moves_leader};
use super::error::{ClientError, check};

/// Memory for the records of one answer, unpacked and as structs. A batch that does not fit is fetched again; one that
/// alone is larger is an error.
const RECORDS_BYTES_MAX: usize = 512 << 20;

/// How long one of several brokers may wait for a first record.
const WAIT_OF_SEVERAL_MS: i32 = 100;

#[derive(Clone, Debug)]
pub struct Fetched {
    pub partition: i32,
    /// First offset that is not committed.
    pub high_watermark: u64,
    /// First offset of the log.
    pub log_start: u64,
    /// Of the next fetch.
    pub next_offset: u64,
    /// Batches as received; the last may be cut short.
    pub bytes: Bytes,
    /// Records from the requested offset on.
    pub records: Vec<Record>,
}

impl Client {
    /// Fetches from each partition at its offset, waiting up to `max_wait_ms` for a first record.
    ///
    /// # Errors
    /// The broker refuses one of them (an offset out of range is `OFFSET_OUT_OF_RANGE`, code 1).
    pub async fn fetch(
        &mut self,
        topic: &str,
        from: &[(i32, u64)],
        max_wait_ms: i32,
        max_bytes: i32,
    ) -> Result<Vec<Fetched>, ClientError> {
        let make = |partitions: &[i32], several: bool| {
            let asked = from.iter().filter(|(n, _)| partitions.contains(n)).map(|(n, offset)| {
                FetchPartition::default()
                    .with_partition(*n)
                    .with_current_leader_epoch(-1)
                    .with_fetch_offset(i64::try_from(*offset).unwrap_or(i64::MAX))
                    .with_partition_max_bytes(max_bytes)
            });
            let asked = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(asked.collect());
            FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                // One broker's records do not wait long for another that has none.
                .with_max_wait_ms(if several { max_wait_ms.min(WAIT_OF_SEVERAL_MS) } else { max_wait_ms })
                .with_min_bytes(1)
                .with_max_bytes(max_bytes)
                .with_session_epoch(-1)
                .with_topics(vec![asked])
        };
        let wanted: Vec<i32> = from.iter().map(|(n, _)| *n).collect();
        let mut found = Vec::with_capacity(from.len());
        let mut room = RECORDS_BYTES_MAX;
        self.at_leaders(topic, &wanted, make, |answer| {
            check(|| format!("fetch from {topic}"), answer.error_code, None)?;
            let mut again = Vec::new();
            for part in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
                let partition = part.partition_index;
                let Some((_, start)) = from.iter().find(|(n, _)| *n == partition) else { continue };
                match check(|| format!("fetch from {topic}/{partition}"), part.error_code, None) {
                    Ok(()) => {}
                    Err(error) if moves_leader(part.error_code) => {
                        again.push((partition, error));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                let bytes = part.records.unwrap_or_default();
                let (records, next_offset) = open(topic, partition, *start, bytes.clone(), &mut room)?;
                let wire = |offset: i64| u64::try_from(offset).unwrap_or(0);
                let (high_watermark, log_start) = (wire(part.high_watermark), wire(part.log_start_offset));
                found.push(Fetched { partition, high_watermark, log_start, next_offset, bytes, records });
            }
            Ok(again)
        })
        .await?;
        Ok(found)
    }
}

/// Opens batches back to back; records before `from` are left out, control batches too, and so is a batch cut short.
/// Takes what the records cost from `room` and stops before the batch that does not fit.
pub(super) fn open(
    topic: &str,
    partition: i32,
    from: u64,
    mut bytes: Bytes,
    room: &mut usize,
) -> Result<(Vec<Record>, u64), ClientError> {
    let (mut records, mut next, mut first) = (Vec::new(), from, true);
    while !bytes.is_empty() {
        let bad = |offset, why| ClientError::Records { topic: topic.to_owned(), partition, offset, why };
        let header = match BatchHeader::parse(&bytes) {
            Ok(header) => header,
            // The first batch is whole in every size (KIP-74); a part of it would be requested again without end.
            Err(BatchError::Short { .. }) if !first => break,
            Err(error) => return Err(bad(next, error.to_string())),
        };
        let bad = |why| bad(header.base_offset.get(), why);
        first = false;
        header.verify_crc(&bytes).map_err(|e| bad(e.to_string()))?;
        if !header.is_control() {
            let whole = *room == RECORDS_BYTES_MAX;
            match open_batch(&header, &bytes, *room) {
                Ok((batch, cost)) => {
                    records.extend(batch.into_iter().filter(|record| record.offset >= Offset::new(from)));
                    *room = room.saturating_sub(cost);
                }
                Err(_) if !whole => break,
                Err(why) => return Err(bad(why)),
            }
        }
        next = next.max(header.next_offset().get());
        bytes.advance((header.len as usize).min(bytes.len()));
    }
    Ok((records, next))
}

/// A batch's records and what they take in memory, which is at most `room`.
fn open_batch(header: &BatchHeader, bytes: &Bytes, room: usize) -> Result<(Vec<Record>, usize), String> {
    let batch = read(header, bytes, room).map_err(|e| e.to_string())?;
    let (mut records, mut cost) = (Vec::new(), batch.unpacked_len());
    for record in batch {
        let record = record.map_err(|e| e.to_string())?;
        cost =
            cost.saturating_add(size_of::<Record>() + record.headers.len().saturating_mul(size_of::<RecordHeader>()));
        if cost > room {
            return Err(format!("they take more than {room} bytes of memory"));
        }
        records.push(record);
    }
    Ok((records, cost))
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::record::BatchBuilder;
    use tidewater_storage::model::{Compression, TimestampMs};

    use super::*;

    fn batch(records: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        (0..records).for_each(|_| builder.push(Record::new(TimestampMs(1), None, None)));
        builder.build()
    }

    #[test]
    fn what_does_not_fit_is_left_for_the_next_fetch() {
        let two = Bytes::from([&batch(1000)[..], &batch(1000)].concat());
        let room = 1000 * (size_of::<Record>() + 20);
        let (records, next) = open("t", 0, 0, two.clone(), &mut room.clone()).expect("reads");
        assert_eq!((records.len(), next), (1000, 1000));
        let (records, _) = open("t", 0, 0, two, &mut RECORDS_BYTES_MAX.clone()).expect("reads");
        assert_eq!(records.len(), 2000);
    }

    #[test]
    fn garbage_and_a_first_batch_cut_short_are_errors() {
        for bytes in [
            Bytes::from_static(b"SSH-2.0-OpenSSH_9.6 this is not a batch at all, is it, no, it is not one."),
            batch(9).slice(..70),
        ] {
            let error = open("t", 3, 5, bytes, &mut RECORDS_BYTES_MAX.clone()).expect_err("nothing to read");
            assert!(error.to_string().starts_with("records of t/3 at offset 5 cannot be read"), "{error}");
        }
    }
}
