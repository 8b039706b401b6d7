//! Routes requests to the shards that own the partitions: what protocol handlers and coordinators call.
//!
//! Shard-local and cheap to clone. Parts for this shard are served by a direct call, all parts for another shard by one
//! message to it; the answers are in the order of the parts.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use futures::future::join_all;
use tidewater_storage::model::{LeaderEpoch, Offset, ShardId};

use super::message::{
    ActiveProducer, EpochEnd, ListedOffset, OffsetSpec, PartitionAddress, PartitionRequest, PartitionStatus,
    ProduceDone, ProduceError, ProducePart, ReadDone, ReadError, ReadPart, TrimError,
};
use super::read::watch::{Alarm, Watched};
use crate::shard::mesh::{Mesh, reply_pair};

/// Serves requests for the partitions of this shard. Implemented by [`super::shard::PartitionShard`].
pub trait Serve {
    /// Takes a request and answers it through the reply it carries, now or later.
    fn serve(&self, request: PartitionRequest);
}

/// The router of one shard.
#[derive(Clone)]
pub struct Router {
    here: ShardId,
    local: Rc<dyn Serve>,
    mesh: Mesh<PartitionRequest>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Router(shard {})", self.here)
    }
}

impl Router {
    #[must_use]
    pub fn new(here: ShardId, local: Rc<dyn Serve>, mesh: Mesh<PartitionRequest>) -> Self {
        Self { here, local, mesh }
    }

    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.here
    }

    /// Appends batches. Resolves when every one is committed and durable, or refused; same order as `parts`.
    pub async fn produce(&self, parts: Vec<ProducePart>) -> Vec<Result<ProduceDone, ProduceError>> {
        self.scatter(parts, |part| part.address, PartitionRequest::Produce, || Err(ProduceError::Unconfirmed)).await
    }

    /// Reads, hot or cold. `max_bytes` bounds the sum; the first part with data gets at least one batch.
    pub async fn read(&self, parts: Vec<ReadPart>, max_bytes: usize) -> Vec<Result<ReadDone, ReadError>> {
        self.scatter(
            parts,
            |part| part.address,
            move |parts, reply| PartitionRequest::Read { parts, max_bytes, reply },
            || Err(ReadError::Unavailable),
        )
        .await
    }

    /// Registers `alarm` at these partitions of `shard`: it rings once for each that is no longer as the reader knows
    /// it. Returns when the registrations are sent, not when the alarm rings.
    pub async fn watch(&self, shard: ShardId, watched: Vec<Watched>, alarm: &Alarm) {
        let request = PartitionRequest::Watch(watched, alarm.clone());
        if shard == self.here {
            self.local.serve(request);
        } else {
            // Partitions of a stopped shard do not move: the reader's deadline ends its wait.
            let _ = self.mesh.send(shard, request).await;
        }
    }

    /// Where leader epoch `epoch` ends; `None` when it is newer than any known. `current` is the leader's epoch as the
    /// client knows it, which must be right if given.
    ///
    /// # Errors
    /// The partition cannot be read now.
    pub async fn epoch_end(
        &self,
        address: PartitionAddress,
        current: Option<LeaderEpoch>,
        epoch: LeaderEpoch,
    ) -> Result<Option<EpochEnd>, ReadError> {
        let make = |reply| PartitionRequest::EpochEnd { address, current, epoch, reply };
        self.ask(address.shard, make).await.unwrap_or(Err(ReadError::Unavailable))
    }

    /// Finds an offset; `None` when no record matches. `current` is the leader's epoch as the client knows it, which
    /// must be right if given.
    ///
    /// # Errors
    /// The partition cannot be read now.
    pub async fn list_offset(
        &self,
        address: PartitionAddress,
        current: Option<LeaderEpoch>,
        spec: OffsetSpec,
    ) -> Result<Option<ListedOffset>, ReadError> {
        let make = |reply| PartitionRequest::ListOffset { address, current, spec, reply };
        let asked = self.ask(address.shard, make).await;
        asked.unwrap_or(Err(ReadError::Unavailable))
    }

    /// Moves the log start to `to` (never back); answers the log start that then holds.
    ///
    /// # Errors
    /// Why it did not move.
    pub async fn trim(&self, address: PartitionAddress, to: Offset) -> Result<Offset, TrimError> {
        let asked = self.ask(address.shard, |reply| PartitionRequest::Trim(address, to, reply)).await;
        asked.unwrap_or(Err(TrimError::Unavailable))
    }

    /// The state of this broker's replica, whether it leads or not; `None` when it is not here (any more).
    pub async fn describe(&self, address: PartitionAddress) -> Option<PartitionStatus> {
        self.ask(address.shard, |reply| PartitionRequest::Describe(address.id, reply)).await.flatten()
    }

    /// The partition's idempotent producers, by id.
    ///
    /// # Errors
    /// The partition is not served here now.
    pub async fn producers(&self, address: PartitionAddress) -> Result<Vec<ActiveProducer>, ReadError> {
        let asked = self.ask(address.shard, |reply| PartitionRequest::Producers(address, reply)).await;
        asked.unwrap_or(Err(ReadError::Unavailable))
    }

    /// One question to one shard; `None` when it has stopped.
    async fn ask<T: Send + 'static>(
        &self,
        shard: ShardId,
        make: impl FnOnce(crate::shard::mesh::Reply<T>) -> PartitionRequest,
    ) -> Option<T> {
        if shard == self.here {
            let (reply, answer) = reply_pair();
            self.local.serve(make(reply));
            answer.await.ok()
        } else {
            self.mesh.call(shard, make).await.ok()
        }
    }

    /// Splits parts by owning shard, asks each shard once and puts the answers back in order. A shard that has stopped
    /// leaves its parts `lost`.
    async fn scatter<P, T: Send + 'static>(
        &self,
        parts: Vec<P>,
        address: impl Fn(&P) -> PartitionAddress,
        make: impl Fn(Vec<P>, crate::shard::mesh::Reply<Vec<T>>) -> PartitionRequest,
        lost: impl Fn() -> T,
    ) -> Vec<T> {
        let total = parts.len();
        if parts.iter().all(|part| address(part).shard == self.here) {
            return self.ask_all(self.here, parts, &make, &lost).await;
        }
        let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Vec<P>)> = BTreeMap::new();
        for (n, part) in parts.into_iter().enumerate() {
            let (order, parts) = by_shard.entry(address(&part).shard).or_default();
            order.push(n);
            parts.push(part);
        }
        let (make, lost) = (&make, &lost);
        let asked = by_shard.into_iter().map(|(shard, (order, parts))| async move {
            order.into_iter().zip(self.ask_all(shard, parts, make, lost).await)
        });
        let mut answers: Vec<(usize, T)> = join_all(asked).await.into_iter().flatten().collect();
        answers.sort_unstable_by_key(|(n, _)| *n);
        assert_eq!(answers.len(), total, "every part has one answer");
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Asks one shard about its parts: one answer for each.
    async fn ask_all<P, T: Send + 'static>(
        &self,
        shard: ShardId,
        parts: Vec<P>,
        make: &impl Fn(Vec<P>, crate::shard::mesh::Reply<Vec<T>>) -> PartitionRequest,
        lost: &impl Fn() -> T,
    ) -> Vec<T> {
        let asked = parts.len();
        let answers = self.ask(shard, |reply| make(parts, reply)).await;
        let answers = answers.unwrap_or_else(|| (0..asked).map(|_| lost()).collect());
        assert_eq!(answers.len(), asked, "shard {shard} answers every part it was asked about");
        answers
    }
}
