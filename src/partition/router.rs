//! Routes requests to the shards that own the partitions: what protocol handlers and coordinators call.
//!
//! Shard-local and cheap to clone. Parts for this shard are served by a direct call, the others by one message a shard;
//! answers come back in the order of the parts.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use futures::future::join_all;
use tidewater_storage::model::{LeaderEpoch, Offset, ShardId};

use super::message::{
    ActiveProducer, EpochEnd, ListedOffset, OffsetSpec, PartitionRequest, PartitionStatus, Place, ProduceDone,
    ProduceError, ProducePart, ReadDone, ReadError, ReadPart, TrimError,
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
    /// A router on shard `here`.
    #[must_use]
    pub fn new(here: ShardId, local: Rc<dyn Serve>, mesh: Mesh<PartitionRequest>) -> Self {
        Self { here, local, mesh }
    }

    /// The shard this router stands on.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.here
    }

    /// Appends batches. Resolves when every one is committed and durable, or refused; same order as `parts`.
    pub async fn produce(&self, parts: Vec<ProducePart>) -> Vec<Result<ProduceDone, ProduceError>> {
        self.scatter(parts, |part| part.place, PartitionRequest::Produce, || Err(ProduceError::Unavailable)).await
    }

    /// Reads, hot or cold. `max_bytes` bounds the sum; the first part with data gets at least one batch.
    pub async fn read(&self, parts: Vec<ReadPart>, max_bytes: usize) -> Vec<Result<ReadDone, ReadError>> {
        self.scatter(
            parts,
            |part| part.place,
            move |parts, reply| PartitionRequest::Read { parts, max_bytes, reply },
            || Err(ReadError::Unavailable),
        )
        .await
    }

    /// Has `alarm` rung, once each, when these partitions of `shard` are no longer as the reader knows them. Returns when
    /// the shard has been told, not when it rings.
    pub async fn watch(&self, shard: ShardId, watched: Vec<Watched>, alarm: &Alarm) {
        let request = PartitionRequest::Watch(watched, alarm.clone());
        if shard == self.here {
            self.local.serve(request);
        } else {
            // A shard that has stopped will not move: the reader's deadline ends its wait.
            let _ = self.mesh.send(shard, request).await;
        }
    }

    /// Where leader epoch `epoch` ends; `None` when it is newer than any known.
    ///
    /// # Errors
    /// Why it cannot be told now.
    pub async fn epoch_end(&self, place: Place, epoch: LeaderEpoch) -> Result<Option<EpochEnd>, ReadError> {
        let asked = self.ask(place.shard, |reply| PartitionRequest::EpochEnd(place.id, epoch, reply)).await;
        asked.unwrap_or(Err(ReadError::Unavailable))
    }

    /// Finds an offset; `None` when no record matches.
    ///
    /// # Errors
    /// Why it cannot be told now.
    pub async fn list_offset(&self, place: Place, spec: OffsetSpec) -> Result<Option<ListedOffset>, ReadError> {
        let asked = self.ask(place.shard, |reply| PartitionRequest::ListOffset(place.id, spec, reply)).await;
        asked.unwrap_or(Err(ReadError::Unavailable))
    }

    /// Moves the log start to `to` (never back); answers the log start that then holds.
    ///
    /// # Errors
    /// Why it did not move.
    pub async fn trim(&self, place: Place, to: Offset) -> Result<Offset, TrimError> {
        let asked = self.ask(place.shard, |reply| PartitionRequest::Trim(place.id, to, reply)).await;
        asked.unwrap_or(Err(TrimError::Unavailable))
    }

    /// The partition's state; `None` when it is not here (any more).
    pub async fn describe(&self, place: Place) -> Option<PartitionStatus> {
        self.ask(place.shard, |reply| PartitionRequest::Describe(place.id, reply)).await.flatten()
    }

    /// The partition's idempotent producers, by id; `None` when it is not served here now.
    pub async fn producers(&self, place: Place) -> Option<Vec<ActiveProducer>> {
        self.ask(place.shard, |reply| PartitionRequest::Producers(place.id, reply)).await.flatten()
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

    /// Splits parts by owning shard, asks each shard once and puts the answers back in order.
    async fn scatter<P, T: Send + 'static>(
        &self,
        parts: Vec<P>,
        place: impl Fn(&P) -> Place,
        make: impl Fn(Vec<P>, crate::shard::mesh::Reply<Vec<T>>) -> PartitionRequest,
        lost: impl Fn() -> T,
    ) -> Vec<T> {
        let total = parts.len();
        if parts.iter().all(|part| place(part).shard == self.here) {
            let answers = self.ask(self.here, |reply| make(parts, reply)).await;
            return answers.unwrap_or_else(|| (0..total).map(|_| lost()).collect());
        }
        let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Vec<P>)> = BTreeMap::new();
        for (n, part) in parts.into_iter().enumerate() {
            let (order, parts) = by_shard.entry(place(&part).shard).or_default();
            order.push(n);
            parts.push(part);
        }
        let asked = by_shard.into_iter().map(|(shard, (order, parts))| {
            let make = &make;
            async move { (order, self.ask(shard, |reply| make(parts, reply)).await) }
        });
        let mut out: Vec<T> = (0..total).map(|_| lost()).collect();
        for (order, answers) in join_all(asked).await {
            for (n, answer) in order.into_iter().zip(answers.into_iter().flatten()) {
                if let Some(slot) = out.get_mut(n) {
                    *slot = answer;
                }
            }
        }
        out
    }
}
