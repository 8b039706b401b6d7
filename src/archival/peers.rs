//! Reads of other brokers' replicas, over [`Service::Partition`]: for tables with partitions that this broker does not
//! carry, and for an archiver whose own disk lost a run.
//!
//! Owns: the requests and answers as bytes, which broker is asked, the answers to peers. Does not own: the reads
//! themselves (`partition::read::internal`). Answers hold applied records only, which are committed. Shard-local.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use tidewater_storage::model::{NodeId, OffsetRange, PartitionId};

use crate::controller::client::ControllerHandle;
use crate::partition::message::{PartitionAddress, PartitionRequest, ReadError};
use crate::partition::read::internal::{InternalRequest, PeerRead, Reach};
use crate::rpc::{Refusal, Rpc, Service};
use crate::shard::mesh::Mesh;

const WHAT: &str = "partition request";
/// A peer reads its disk or the bucket meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes asked for at a time; a batch comes whole.
const READ_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    TableBounds { id: PartitionId, of_leader: bool },
    Read { id: PartitionId, offsets: OffsetRange, max_bytes: u32 },
}

impl Ask {
    fn encode(self) -> Bytes {
        let mut out = Encoder::new();
        match self {
            Self::TableBounds { id, of_leader } => {
                out.u8(if of_leader { 3 } else { 1 });
                out.partition(id);
            }
            Self::Read { id, offsets, max_bytes } => {
                out.u8(2);
                out.partition(id);
                out.offsets(offsets);
                out.u32(max_bytes);
            }
        }
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut body = Decoder::new(WHAT, bytes);
        let ask = match body.u8()? {
            1 => Self::TableBounds { id: body.partition()?, of_leader: false },
            3 => Self::TableBounds { id: body.partition()?, of_leader: true },
            2 => Self::Read { id: body.partition()?, offsets: body.offsets()?, max_bytes: body.u32()? },
            _ => return Err(body.bad("kind of request")),
        };
        body.end()?;
        Ok(ask)
    }

    const fn id(&self) -> PartitionId {
        match self {
            Self::TableBounds { id, .. } | Self::Read { id, .. } => *id,
        }
    }
}

/// An answer: a kind, then its content.
fn encode_answer<T>(answer: Result<T, ReadError>, write: impl FnOnce(&mut Encoder, T)) -> Bytes {
    let mut out = Encoder::new();
    match answer {
        Ok(value) => {
            out.u8(0);
            write(&mut out, value);
        }
        Err(ReadError::OutOfRange { offset, valid }) => {
            out.u8(1);
            out.offset(offset);
            out.offsets(valid);
        }
        Err(ReadError::Corrupt(why)) => {
            out.u8(2);
            out.text(&why);
        }
        Err(other) => {
            out.u8(3);
            out.text(&other.to_string());
        }
    }
    out.finish()
}

/// The answer, or `None` where the peer could not answer now.
fn decode_answer<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Decoder<'_>) -> Result<T, CodecError>,
) -> Result<Option<Result<T, ReadError>>, CodecError> {
    let mut body = Decoder::new(WHAT, bytes);
    let answer = match body.u8()? {
        0 => Some(Ok(read(&mut body)?)),
        1 => Some(Err(ReadError::OutOfRange { offset: body.offset()?, valid: body.offsets()? })),
        2 => Some(Err(ReadError::Corrupt(body.text()?))),
        3 => {
            let why = body.text()?;
            tracing::debug!(why, "a peer cannot read a partition now");
            None
        }
        _ => return Err(body.bad("kind of answer")),
    };
    body.end()?;
    Ok(answer)
}

fn put_batches(out: &mut Encoder, batches: Vec<Bytes>) {
    out.list(batches.iter(), |out, piece| out.blob(piece));
}

fn take_batches(body: &mut Decoder<'_>) -> Result<Vec<Bytes>, CodecError> {
    body.list(4, |body| body.blob().map(Bytes::copy_from_slice))
}

fn take_offsets(body: &mut Decoder<'_>) -> Result<OffsetRange, CodecError> {
    body.offsets()
}

/// Reads of this shard from other brokers.
pub(super) struct Peers {
    rpc: Rpc,
    controller: ControllerHandle,
}

impl Peers {
    /// Attaches itself to nothing: see `PartitionShard::set_peers`.
    pub(super) fn new(rpc: Rpc, controller: ControllerHandle) -> Self {
        Self { rpc, controller }
    }

    /// Other brokers with a replica of the lane, its leader first.
    fn holders(&self, address: PartitionAddress) -> Vec<NodeId> {
        let (image, leaders) = (self.controller.image(), self.controller.leaders());
        let leader = leaders.of(address.lane).map(|leader| leader.node);
        let mut holders: Vec<NodeId> = leader.into_iter().chain(image.replicas(address.lane)).collect();
        holders.retain(|node| *node != image.here);
        let mut seen = Vec::new();
        holders.retain(|node| {
            !seen.contains(node) && {
                seen.push(*node);
                true
            }
        });
        holders
    }

    /// The first answer that a broker gives.
    async fn ask<T>(
        rpc: &Rpc,
        of: Vec<NodeId>,
        ask: Ask,
        read: fn(&mut Decoder<'_>) -> Result<T, CodecError>,
    ) -> Result<T, ReadError> {
        let partition = ask.id();
        for node in of {
            match rpc.call(node, Service::Partition, ask.encode(), PATIENCE).await {
                Ok(body) => match decode_answer(&body, read) {
                    Ok(Some(answer)) => return answer,
                    Ok(None) => {}
                    Err(error) => tracing::warn!(broker = node.0, %partition, %error, "a peer's answer cannot be read"),
                },
                Err(error) => tracing::debug!(broker = node.0, %partition, %error, "a peer does not answer a read"),
            }
        }
        Err(ReadError::Unavailable)
    }
}

impl PeerRead for Peers {
    fn table_bounds(
        &self,
        address: PartitionAddress,
        of_leader: bool,
    ) -> LocalBoxFuture<'static, Result<OffsetRange, ReadError>> {
        let (rpc, of) = (self.rpc.clone(), self.holders(address));
        let ask = Ask::TableBounds { id: address.id, of_leader };
        async move { Self::ask(&rpc, of, ask, take_offsets).await }.boxed_local()
    }

    fn read(
        &self,
        address: PartitionAddress,
        offsets: OffsetRange,
        max_bytes: usize,
    ) -> LocalBoxFuture<'static, Result<Vec<Bytes>, ReadError>> {
        let (rpc, of) = (self.rpc.clone(), self.holders(address));
        let max_bytes = u32::try_from(max_bytes.min(READ_BYTES_MAX)).unwrap_or(u32::MAX);
        let ask = Ask::Read { id: address.id, offsets, max_bytes };
        async move { Self::ask(&rpc, of, ask, take_batches).await }.boxed_local()
    }
}

/// Answers peers that ask this broker.
pub(super) fn serve(rpc: &Rpc, controller: &ControllerHandle, partitions: &Mesh<PartitionRequest>) {
    let (controller, partitions) = (controller.clone(), partitions.clone());
    let handler = move |_, body: Bytes| {
        let (controller, partitions) = (controller.clone(), partitions.clone());
        async move {
            let ask = Ask::decode(&body).map_err(|error| Refusal(error.to_string()))?;
            Ok(answer(&controller, &partitions, ask).await)
        }
        .boxed_local()
    };
    rpc.serve(Service::Partition, Rc::new(handler));
}

async fn answer(controller: &ControllerHandle, partitions: &Mesh<PartitionRequest>, ask: Ask) -> Bytes {
    let (id, image) = (ask.id(), controller.image());
    let named = image.topic_by_id(id.topic).and_then(|topic| topic.at(id.index)).filter(|named| named.id == id);
    let Some(address) = named.map(|named| named.address()) else {
        return encode_answer::<()>(Err(ReadError::UnknownPartition(id)), |_, ()| ());
    };
    match ask {
        Ask::TableBounds { of_leader, .. } => {
            let reach = if of_leader { Reach::HereIfLeading } else { Reach::Here };
            let request = |reply| PartitionRequest::Internal(InternalRequest::TableBounds(address, reach, reply));
            let bounds = partitions.call(address.shard, request).await.unwrap_or(Err(ReadError::Unavailable));
            encode_answer(bounds, |out, bounds| out.offsets(bounds))
        }
        Ask::Read { offsets, max_bytes, .. } => {
            let max_bytes = (max_bytes as usize).min(READ_BYTES_MAX);
            let request = |reply| {
                let read = InternalRequest::Read { address, offsets, max_bytes, reach: Reach::Here, reply };
                PartitionRequest::Internal(read)
            };
            let read = partitions.call(address.shard, request).await.unwrap_or(Err(ReadError::Unavailable));
            encode_answer(read, put_batches)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidewater_storage::model::Offset;

    use super::*;

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange::new(Offset::new(start), Offset::new(end))
    }

    #[test]
    fn requests_and_answers_come_back() {
        let id = PartitionId::default();
        let bounds = |of_leader| Ask::TableBounds { id, of_leader };
        for ask in [bounds(false), bounds(true), Ask::Read { id, offsets: range(3, 900), max_bytes: 7 }] {
            assert_eq!(Ask::decode(&ask.encode()), Ok(ask));
        }
        let out_of_range = ReadError::OutOfRange { offset: Offset::new(1), valid: range(5, 9) };
        let answers = [Ok(range(1, 2)), Err(out_of_range), Err(ReadError::Corrupt("a sum".to_owned()))];
        for answer in answers {
            let body = encode_answer(answer.clone(), |out, range| out.offsets(range));
            assert_eq!(decode_answer(&body, take_offsets), Ok(Some(answer)));
        }
        let body = encode_answer(Err(ReadError::NotLeader(None)), |out, range| out.offsets(range));
        assert_eq!(decode_answer(&body, take_offsets), Ok(None), "another broker is asked");
    }

    proptest! {
        #[test]
        fn bytes_of_a_hostile_peer_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Ask::decode(&bytes);
            let _ = decode_answer(&bytes, take_batches);
        }
    }
}
