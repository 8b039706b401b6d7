//! Reading: a fetch of assigned partitions, records opened.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest};
use tidewater_storage::model::record::{Record, read_all};
use tidewater_storage::model::{BatchHeader, Offset};

use super::admin::topic_name;
use super::connection::Client;
use super::error::{ClientError, check};

/// What a batch may unpack to.
const UNPACKED_MAX: usize = 1 << 30;

/// What a fetch found in one partition.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Which.
    pub partition: i32,
    /// First offset that is not committed.
    pub high_watermark: u64,
    /// First offset there is.
    pub log_start: u64,
    /// Where to go on.
    pub next_offset: u64,
    /// Batches as they came, back to back; the last may be cut short.
    pub bytes: Bytes,
    /// Records from the offset asked for on.
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
        let partitions = from.iter().map(|(n, offset)| {
            FetchPartition::default()
                .with_partition(*n)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(i64::try_from(*offset).unwrap_or(i64::MAX))
                .with_partition_max_bytes(max_bytes)
        });
        let asked = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(partitions.collect());
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(max_wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(max_bytes)
            .with_session_epoch(-1)
            .with_topics(vec![asked]);
        let answer = self.call(&request).await?;
        check(|| format!("fetch from {topic}"), answer.error_code, None)?;
        let mut found = Vec::with_capacity(from.len());
        for part in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            let partition = part.partition_index;
            check(|| format!("fetch from {topic}/{partition}"), part.error_code, None)?;
            let start = from.iter().find(|(n, _)| *n == partition).map_or(0, |(_, offset)| *offset);
            let bytes = part.records.unwrap_or_default();
            let (records, next_offset) = open(topic, partition, start, bytes.clone())?;
            let wire = |offset: i64| u64::try_from(offset).unwrap_or(0);
            let (high_watermark, log_start) = (wire(part.high_watermark), wire(part.log_start_offset));
            found.push(Fetched { partition, high_watermark, log_start, next_offset, bytes, records });
        }
        Ok(found)
    }
}

/// Opens batches back to back; records before `from` are left out, control batches too, and so is a batch cut short.
pub(super) fn open(
    topic: &str,
    partition: i32,
    from: u64,
    mut bytes: Bytes,
) -> Result<(Vec<Record>, u64), ClientError> {
    let (mut records, mut next) = (Vec::new(), from);
    while let Ok(header) = BatchHeader::parse(&bytes) {
        let bad = |why: String| ClientError::Records {
            topic: topic.to_owned(),
            partition,
            offset: header.base_offset.get(),
            why,
        };
        header.verify_crc(&bytes).map_err(|e| bad(e.to_string()))?;
        if !header.is_control() {
            let read = read_all(&header, &bytes, UNPACKED_MAX).map_err(|e| bad(e.to_string()))?;
            records.extend(read.into_iter().filter(|record| record.offset >= Offset::new(from)));
        }
        next = next.max(header.next_offset().get());
        bytes.advance((header.len as usize).min(bytes.len()));
    }
    Ok((records, next))
}
