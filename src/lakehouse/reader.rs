//! The log as a sink reads it: requests to the shards that have the partitions, for hot and cold records alike. Those
//! ask another broker where this one has no replica.

use std::collections::{BTreeMap, HashSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidewater_iceberg::read::{LogRead, LogReadError, LogReader, PartitionBounds};
use tidewater_storage::model::{BatchHeader, Offset, OffsetRange, PartitionId, PartitionIndex, ShardId, TopicId};
use tokio::sync::watch;

use crate::controller::image::{ClusterImage, PartitionImage};
use crate::partition::message::{PartitionRequest, ReadError};
use crate::partition::read::internal::{InternalRequest, Reach};
use crate::partition::read::watch::{Alarms, Watched};
use crate::shard::mesh::Mesh;

/// How long an idle sink waits for partitions whose lanes are on other brokers only: those do not notify.
const LOOK_AT_PEERS: Duration = Duration::from_secs(5);

/// Reads through the mesh. *Node-wide*.
#[derive(Clone, Debug)]
pub struct MeshReader {
    /// Where topics and their partitions' addresses are looked up.
    pub images: watch::Receiver<Arc<ClusterImage>>,
    pub partitions: Mesh<PartitionRequest>,
    /// Partitions that could not be read at the last look, so that each is logged once.
    pub away: Arc<Mutex<HashSet<PartitionId>>>,
}

fn unavailable(partition: PartitionIndex, reason: impl ToString) -> LogReadError {
    LogReadError::Unavailable { partition, reason: reason.to_string() }
}

impl MeshReader {
    fn addresses(&self, topic: TopicId) -> Result<Vec<PartitionImage>, LogReadError> {
        let image = self.images.borrow();
        image.topic_by_id(topic).map(|topic| topic.partitions.clone()).ok_or(LogReadError::NoTopic(topic))
    }

    /// Returns when a partition of the topic may have records at or past the offset that `at` names for it, at the
    /// latest after `timeout`; at once for a partition that `at` does not name and that has any. Partitions of other
    /// brokers are looked at again after [`LOOK_AT_PEERS`].
    pub async fn grown(&self, topic: TopicId, at: &BTreeMap<i32, Offset>, timeout: Duration) {
        let (Ok(addresses), Ok(bounds)) = (self.addresses(topic), self.partitions(topic).await) else { return };
        let mut of_shards: BTreeMap<ShardId, Vec<Watched>> = BTreeMap::new();
        let image = Arc::clone(&self.images.borrow());
        let mut timeout = if bounds.len() < addresses.len() { timeout.min(LOOK_AT_PEERS) } else { timeout };
        for PartitionBounds { index, offsets } in bounds {
            let Some(address) = usize::try_from(index.0).ok().and_then(|n| addresses.get(n)) else { continue };
            if offsets.end > at.get(&index.0).copied().unwrap_or(Offset::ZERO) {
                return;
            }
            if !image.replicas(address.lane).contains(&image.here) {
                timeout = timeout.min(LOOK_AT_PEERS);
                continue;
            }
            // A partition that holds more than its archive notifies at once: that is growth too.
            let watched = Watched { token: 0, id: address.id, end: offsets.end, log_start: offsets.start };
            of_shards.entry(address.shard).or_default().push(watched);
        }
        let (alarm, mut alarms) = Alarms::new();
        for (shard, watched) in of_shards {
            let watch = PartitionRequest::Internal(InternalRequest::Watch(watched, alarm.clone()));
            // A shard that has stopped does not grow.
            let _ = self.partitions.send(shard, watch).await;
        }
        let _ = tokio::time::timeout(timeout, poll_fn(|cx| alarms.poll_ring(cx))).await;
    }

    async fn bounds(&self, address: &PartitionImage, reach: Reach) -> Result<PartitionBounds, LogReadError> {
        let index = address.id.index;
        let ask = |reply| PartitionRequest::Internal(InternalRequest::TableBounds(address.address(), reach, reply));
        let asked = self.partitions.call(address.shard, ask).await;
        let offsets = asked.map_err(|e| unavailable(index, e))?.map_err(|e| unavailable(index, e))?;
        Ok(PartitionBounds { index, offsets })
    }
}

#[async_trait]
impl LogReader for MeshReader {
    async fn partitions(&self, topic: TopicId) -> Result<Vec<PartitionBounds>, LogReadError> {
        let addresses = self.addresses(topic)?;
        let asked = addresses.iter().map(|address| self.bounds(address, Reach::Cluster));
        let (mut bounds, mut failed) = (Vec::new(), None);
        for (address, answer) in addresses.iter().zip(futures::future::join_all(asked).await) {
            let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(found) => {
                    away.remove(&address.id);
                    bounds.push(found);
                }
                Err(error) => {
                    if away.insert(address.id) {
                        tracing::warn!(partition = %address.id, %error, "a table goes on without a partition that cannot be read now");
                    }
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if bounds.is_empty() => Err(error),
            _ => Ok(bounds),
        }
    }

    async fn leader_bounds(&self, topic: TopicId, partition: PartitionIndex) -> Result<PartitionBounds, LogReadError> {
        let addresses = self.addresses(topic)?;
        let address =
            usize::try_from(partition.0).ok().and_then(|n| addresses.get(n)).ok_or(LogReadError::NoTopic(topic))?;
        self.bounds(address, Reach::Leader).await
    }

    async fn read(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        range: OffsetRange,
        max_bytes: usize,
    ) -> Result<LogRead, LogReadError> {
        let addresses = self.addresses(topic)?;
        let address =
            usize::try_from(partition.0).ok().and_then(|n| addresses.get(n)).ok_or(LogReadError::NoTopic(topic))?;
        let ask = |reply| {
            let (address, reach) = (address.address(), Reach::Cluster);
            PartitionRequest::Internal(InternalRequest::Read { address, offsets: range, max_bytes, reach, reply })
        };
        let answer = self.partitions.call(address.shard, ask).await.map_err(|e| unavailable(partition, e))?;
        let batches = answer.map_err(|error| match error {
            ReadError::OutOfRange { valid, offset } if offset < valid.start => {
                LogReadError::BelowStart { partition, asked: offset, start: valid.start }
            }
            error => unavailable(partition, error),
        })?;
        let offsets = covered(&batches).unwrap_or(OffsetRange::new(range.start, range.start));
        debug_assert!(batches.is_empty() || offsets.end > range.start, "{offsets} ends before {range}");
        Ok(LogRead { batches, offsets })
    }
}

/// The offsets of whole batches back to back.
fn covered(pieces: &[bytes::Bytes]) -> Option<OffsetRange> {
    let mut covered: Option<(Offset, Offset)> = None;
    for piece in pieces {
        let mut rest = &piece[..];
        while let Ok(header) = BatchHeader::parse(rest) {
            let start = covered.map_or(header.base_offset, |(start, _)| start);
            covered = Some((start, header.next_offset()));
            rest = rest.get(header.len as usize..).unwrap_or_default();
        }
    }
    covered.map(|(start, end)| OffsetRange::new(start, end))
}
