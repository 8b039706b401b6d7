//! Reads for the brokers themselves: tables, and archivers whose own disk is damaged. Clients never come here.
//!
//! Everything that a replica has applied is committed, so any replica may answer these; only the end of what a table
//! may take comes from the leader where a topic is not archived. What no replica of this broker can answer is asked of
//! another broker ([`PeerRead`]). Shard-local.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tidewater_storage::model::OffsetRange;

use super::read_path::{self, Remote};
use super::watch::{self, Alarm, Watched};
use crate::partition::message::{Isolation, PartitionAddress, ReadDone, ReadError, ReadPart};
use crate::partition::shard::PartitionShard;
use crate::partition::state::replica::Replica;
use crate::shard::mesh::Reply;

/// A request of this broker or of a peer. A *message*.
#[derive(Debug)]
pub enum InternalRequest {
    /// The offsets that a table may take: from the log start to the archived end, or to the last stable offset of a
    /// topic that is not archived.
    TableBounds(PartitionAddress, Reach, Reply<Result<OffsetRange, ReadError>>),
    /// Whole batches from the one that holds `offsets.start` on, about `max_bytes` of them and at least one if any is
    /// committed below `offsets.end`.
    Read {
        address: PartitionAddress,
        offsets: OffsetRange,
        max_bytes: usize,
        reach: Reach,
        reply: Reply<Result<Vec<Bytes>, ReadError>>,
    },
    /// Ring the alarm, once each, when these replicas are no longer as the reader knows them, or are not here.
    Watch(Vec<Watched>, Alarm),
}

/// Who may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This broker: the request came from a peer.
    Here,
    /// The same, if it leads.
    HereIfLeading,
    /// Any replica; a peer's, if this broker has none.
    Cluster,
    /// The leader, wherever it is.
    Leader,
}

impl Reach {
    /// Must the answer come from the leader? Another replica may lag.
    const fn needs_leader(self) -> bool {
        matches!(self, Self::HereIfLeading | Self::Leader)
    }
}

/// Asks other brokers. *Shard-local*.
pub trait PeerRead {
    /// [`InternalRequest::TableBounds`] of the first other replica that answers, the leader first, or of the leader
    /// only.
    fn table_bounds(
        &self,
        address: PartitionAddress,
        of_leader: bool,
    ) -> LocalBoxFuture<'static, Result<OffsetRange, ReadError>>;

    /// [`InternalRequest::Read`] of the first other replica that answers, the leader first.
    fn read(
        &self,
        address: PartitionAddress,
        offsets: OffsetRange,
        max_bytes: usize,
    ) -> LocalBoxFuture<'static, Result<Vec<Bytes>, ReadError>>;
}

/// Reads for a client; a run that this disk lost and the bucket does not hold comes from another replica. The end is
/// the leader's, so a client sees nothing that it could not see here.
pub(in crate::partition) async fn read_or_ask(
    replica: &Replica,
    remote: Option<&Remote>,
    peers: Option<Rc<dyn PeerRead>>,
    part: &ReadPart,
    room: &Cell<usize>,
) -> Result<ReadDone, ReadError> {
    let until = match part.isolation {
        Isolation::ReadUncommitted => replica.high_watermark(),
        Isolation::ReadCommitted => replica.last_stable_offset(),
    };
    match (read_path::read(replica, remote, part, room).await, peers) {
        (Err(ReadError::Corrupt(why)), Some(peers)) => {
            let offsets = OffsetRange::new(part.from, until.max(part.from));
            let read = peers.read(part.address, offsets, room.get().max(1)).await;
            let batches = read.ok().filter(|batches| !batches.is_empty()).ok_or(ReadError::Corrupt(why))?;
            Ok(ReadDone { batches, ..read_path::nothing(replica) })
        }
        (done, _) => done,
    }
}

impl PartitionShard {
    /// Takes a request of [`InternalRequest`].
    pub(in crate::partition) fn serve_internal(self: Rc<Self>, request: InternalRequest) {
        let tasks = self.env().tasks.clone();
        match request {
            InternalRequest::TableBounds(address, reach, reply) => {
                tasks.spawn("table bounds", async move { reply.send(self.table_bounds(address, reach).await) });
            }
            InternalRequest::Read { address, offsets, max_bytes, reach, reply } => {
                tasks.spawn("internal read", async move {
                    reply.send(self.read_internal(address, offsets, max_bytes, reach).await);
                });
            }
            InternalRequest::Watch(watched, alarm) => self.watch_replicas(&watched, &alarm),
        }
    }

    /// Never beyond the archived end, so that after a restore a table has no records that its topic lacks.
    async fn table_bounds(&self, address: PartitionAddress, reach: Reach) -> Result<OffsetRange, ReadError> {
        let here = self.lane(address.lane).and_then(|lane| Some((lane.replica(address.id)?, lane)));
        if let Some((replica, lane)) = here {
            let (leads, is_archived) = (lane.serving().is_some(), replica.config().archived);
            if is_archived && (leads || !reach.needs_leader()) {
                return Ok(OffsetRange::new(replica.log_start(), replica.manifest().archived_end));
            }
            if leads {
                return Ok(OffsetRange::new(replica.log_start(), replica.last_stable_offset()));
            }
        }
        self.peers_within(reach)?.table_bounds(address, reach.needs_leader()).await
    }

    async fn read_internal(
        &self,
        address: PartitionAddress,
        offsets: OffsetRange,
        max_bytes: usize,
        reach: Reach,
    ) -> Result<Vec<Bytes>, ReadError> {
        let replica = self.lane(address.lane).and_then(|lane| lane.replica(address.id));
        match replica.filter(|replica| offsets.start < replica.high_watermark()) {
            Some(replica) => {
                let until = offsets.end.min(replica.high_watermark());
                self.read_replica(&replica, OffsetRange::new(offsets.start, until), max_bytes).await
            }
            None => self.peers_within(reach)?.read(address, offsets, max_bytes).await,
        }
    }

    async fn read_replica(
        &self,
        replica: &Replica,
        offsets: OffsetRange,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let valid = replica.readable();
        if offsets.start < valid.start {
            return Err(ReadError::OutOfRange { offset: offsets.start, valid });
        }
        let remote = self.remote();
        let read = read_path::batches(replica, remote.as_ref(), offsets.start, offsets.end, max_bytes.max(1)).await?;
        let (batches, covered) = read;
        debug_assert!(covered.is_empty() || covered.end > offsets.start, "{covered} ends before {offsets}");
        Ok(batches)
    }

    fn peers_within(&self, reach: Reach) -> Result<Rc<dyn PeerRead>, ReadError> {
        match reach {
            Reach::Cluster | Reach::Leader => self.peers().ok_or(ReadError::NotLeader(None)),
            Reach::Here | Reach::HereIfLeading => Err(ReadError::NotLeader(None)),
        }
    }

    /// As [`PartitionShard`]'s watch for clients, of replicas that need not lead.
    fn watch_replicas(&self, watched: &[Watched], alarm: &Alarm) {
        for Watched { token, id, end, log_start } in watched {
            let is_seen = |replica: &Rc<Replica>| (replica.high_watermark(), replica.log_start()) == (*end, *log_start);
            match self.replica(*id).filter(is_seen) {
                Some(replica) => replica.waiters.register(*end, alarm, *token),
                None => watch::ring_now(alarm, *token),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use futures::FutureExt;
    use tidewater_storage::env::sim::World;
    use tidewater_storage::model::{BatchHeader, Offset, TimestampMs};

    use super::*;
    use crate::partition::fixture::Fixture;

    const RECORDS: u64 = 40;

    /// Another broker's replica: batches in order.
    struct Copy(Vec<Bytes>);

    impl PeerRead for Copy {
        fn table_bounds(
            &self,
            _: PartitionAddress,
            _: bool,
        ) -> LocalBoxFuture<'static, Result<OffsetRange, ReadError>> {
            async { Err(ReadError::Unavailable) }.boxed_local()
        }

        fn read(
            &self,
            _: PartitionAddress,
            offsets: OffsetRange,
            _: usize,
        ) -> LocalBoxFuture<'static, Result<Vec<Bytes>, ReadError>> {
            let holds = |batch: &&Bytes| {
                let header = BatchHeader::parse(batch).expect("a batch");
                header.next_offset() > offsets.start && header.base_offset < offsets.end
            };
            let first = self.0.iter().find(holds).cloned();
            async move { Ok(first.into_iter().collect()) }.boxed_local()
        }
    }

    /// Everything in partition 1, or the first error.
    async fn read_all(shard: &Fixture) -> Result<Vec<Bytes>, ReadError> {
        let (mut from, mut all) = (Offset::ZERO, Vec::new());
        while from < Offset::new(RECORDS) {
            let (address, isolation) = (shard.address(1), Isolation::ReadUncommitted);
            let part = ReadPart { address, from, max_bytes: 1, isolation, epoch: None };
            let done = shard.router.read(vec![part], 1).await.remove(0)?;
            for batch in done.batches {
                from = BatchHeader::parse(&batch).expect("a batch").next_offset();
                all.push(batch);
            }
        }
        Ok(all)
    }

    #[test]
    fn what_only_this_disk_lost_is_read_from_another_replica() {
        let world = World::new(5);
        let env = world.env();
        world.block_on(async {
            let shard = Fixture::with_bucket(&env).await;
            let overrides = BTreeMap::from([("remote.storage.enable".to_owned(), "false".to_owned())]);
            shard.create(2, overrides).await;
            let _replica = shard.in_small_segments(1);
            for n in 0..RECORDS {
                let sent = shard.router.produce(vec![shard.record(1, TimestampMs(1000 + n as i64))]).await;
                assert!(sent.iter().all(Result::is_ok));
            }
            let whole = read_all(&shard).await.expect("reads");
            env.tasks.sleep(Duration::from_secs(60)).await;
            for (path, bytes) in world.disk().files() {
                if path.extension().is_some_and(|extension| extension == "log") && !bytes.is_empty() {
                    assert!(world.disk().flip_bit(&path, 100, 3));
                }
            }
            let lost = read_all(&shard).await;
            assert!(matches!(lost, Err(ReadError::Corrupt(_))), "there is no other copy: {lost:?}");
            shard.partitions.set_peers(Rc::new(Copy(whole.clone())));
            assert_eq!(read_all(&shard).await, Ok(whole));
        });
    }
}
