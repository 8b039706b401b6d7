//! The messages of a rebuild: bodies of `Service::Rebuild`, pulled by the replica.
//!
//! Every request begins with its kind and the lane. The fields are those of `storage::codec`. A kind that is not known
//! is an error; the two sides of a rebuild run versions that the cluster's feature level allows.

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::{EntryId, LaneId, LogIndex, Offset, PartitionId, ReplicaId};

use super::progress::Forecast;

const OPEN: u8 = 1;
const NEXT: u8 = 2;
const READ: u8 = 3;
const SETTLE: u8 = 4;
const CLOSE: u8 = 5;
const SURVEY: u8 = 6;

const OPENED: u8 = 1;
const PARTITION: u8 = 2;
const ROUND: u8 = 3;
const GONE: u8 = 4;
const BATCHES: u8 = 5;
const MOVED: u8 = 6;
const SETTLED: u8 = 7;
const CLOSED: u8 = 8;
const SURVEYED: u8 = 9;

/// What the replica asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Begin. Refused until the leader has applied an entry after `last`.
    Open { lane: LaneId, replica: ReplicaId, last: Option<EntryId> },
    /// The next partition of this round, or `again` once more, as it is now.
    Next { lane: LaneId, session: u64, again: Option<PartitionId> },
    /// Batches of a partition, from the one that holds `from` up to `until`.
    Read { lane: LaneId, session: u64, partition: PartitionId, from: Offset, until: Offset },
    /// Fix the entry after which the log continues. The round that follows is the last.
    Settle { lane: LaneId, session: u64 },
    /// The copy is complete and durable, or given up.
    Close { lane: LaneId, session: u64 },
    /// Count what a copy would take; begins none.
    Survey { lane: LaneId },
}

/// A partition as of one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAt {
    pub id: PartitionId,
    /// The last entry of the lane that its state holds.
    pub as_of: LogIndex,
    /// What its checkpoint would hold.
    pub state: Bytes,
    pub settings: LogSettings,
    /// First offset whose bytes are copied: the archived end, or the local start.
    pub from: Offset,
    pub end: Offset,
}

/// What the leader answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Opened {
        session: u64,
        expected: Forecast,
    },
    Partition(PartitionAt),
    /// The round is over.
    Round {
        /// Partitions that changed behind it.
        changed: u64,
    },
    /// The partition was dropped after `at` was fixed, or is not the lane's: fix it again, or do without.
    Gone(PartitionId),
    /// Whole batches, back to back.
    Batches(Bytes),
    /// The bytes asked for are no longer on the leader's disk: ask for the partition once more.
    Moved(PartitionId),
    Settled {
        at: EntryId,
        /// The lane's checkpoint blob as of `at`.
        state: Bytes,
        /// Its partitions as of `at`.
        partitions: Vec<PartitionId>,
    },
    Closed,
    Surveyed(Forecast),
}

/// The lane of a request, for bringing it to its shard; `None` if the bytes are no request.
#[must_use]
pub fn lane_of(request: &[u8]) -> Option<LaneId> {
    let mut from = Decoder::new("rebuild request", request);
    from.u8().ok()?;
    from.lane().ok()
}

fn put_entry(out: &mut Encoder, id: EntryId) {
    out.term(id.term);
    out.index(id.index);
}

fn put_forecast(out: &mut Encoder, forecast: &Forecast) {
    out.var(forecast.partitions);
    out.var(forecast.bytes);
    out.var(forecast.bucket_bytes);
}

fn forecast(from: &mut Decoder<'_>) -> Result<Forecast, CodecError> {
    Ok(Forecast { partitions: from.var()?, bytes: from.var()?, bucket_bytes: from.var()? })
}

fn entry(from: &mut Decoder<'_>) -> Result<EntryId, CodecError> {
    Ok(EntryId { term: from.term()?, index: from.index()? })
}

impl Request {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        let mut head = |kind, lane: &LaneId, session: Option<u64>| {
            out.u8(kind);
            out.lane(*lane);
            session.into_iter().for_each(|session| out.u64(session));
        };
        match self {
            Self::Open { lane, .. } => head(OPEN, lane, None),
            Self::Next { lane, session, .. } => head(NEXT, lane, Some(*session)),
            Self::Read { lane, session, .. } => head(READ, lane, Some(*session)),
            Self::Settle { lane, session } => head(SETTLE, lane, Some(*session)),
            Self::Close { lane, session } => head(CLOSE, lane, Some(*session)),
            Self::Survey { lane } => head(SURVEY, lane, None),
        }
        match self {
            Self::Open { replica, last, .. } => {
                out.u64(replica.to_u64());
                out.option(*last, put_entry);
            }
            Self::Next { again, .. } => out.option(*again, Encoder::partition),
            Self::Read { partition, from, until, .. } => {
                out.partition(*partition);
                out.offset(*from);
                out.offset(*until);
            }
            Self::Settle { .. } | Self::Close { .. } | Self::Survey { .. } => {}
        }
        out.finish()
    }

    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new("rebuild request", bytes);
        let (kind, lane) = (from.u8()?, from.lane()?);
        let request = match kind {
            OPEN => {
                let replica = ReplicaId::from_u64(from.u64()?).ok_or_else(|| from.bad("replica"))?;
                Self::Open { lane, replica, last: from.option(entry)? }
            }
            NEXT => Self::Next { lane, session: from.u64()?, again: from.option(Decoder::partition)? },
            READ => Self::Read {
                lane,
                session: from.u64()?,
                partition: from.partition()?,
                from: from.offset()?,
                until: from.offset()?,
            },
            SETTLE => Self::Settle { lane, session: from.u64()? },
            CLOSE => Self::Close { lane, session: from.u64()? },
            SURVEY => Self::Survey { lane },
            _ => return Err(from.bad("kind")),
        };
        from.end()?;
        Ok(request)
    }
}

impl Reply {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        match self {
            Self::Opened { session, expected } => {
                out.u8(OPENED);
                out.u64(*session);
                put_forecast(&mut out, expected);
            }
            Self::Partition(part) => {
                assert!(part.from <= part.end, "{} is copied from {} to {}", part.id, part.from, part.end);
                out.u8(PARTITION);
                out.partition(part.id);
                out.index(part.as_of);
                out.var(part.settings.segment_bytes);
                out.var(part.settings.segment_ms);
                out.offset(part.from);
                out.offset(part.end);
                out.bytes(&part.state);
            }
            Self::Round { changed } => {
                out.u8(ROUND);
                out.var(*changed);
            }
            Self::Gone(id) => {
                out.u8(GONE);
                out.partition(*id);
            }
            Self::Batches(bytes) => {
                out.u8(BATCHES);
                out.raw(bytes);
            }
            Self::Moved(id) => {
                out.u8(MOVED);
                out.partition(*id);
            }
            Self::Settled { at, state, partitions } => {
                out.u8(SETTLED);
                put_entry(&mut out, *at);
                out.bytes(state);
                out.list(partitions.iter(), |out, id| out.partition(*id));
            }
            Self::Closed => out.u8(CLOSED),
            Self::Surveyed(expected) => {
                out.u8(SURVEYED);
                put_forecast(&mut out, expected);
            }
        }
        out.finish()
    }

    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Decoder::new("rebuild reply", bytes);
        let reply = match from.u8()? {
            OPENED => Self::Opened { session: from.u64()?, expected: forecast(&mut from)? },
            PARTITION => {
                let (id, as_of) = (from.partition()?, from.index()?);
                let settings = LogSettings { segment_bytes: from.var()?, segment_ms: from.var()? };
                let (start, end) = (from.offset()?, from.offset()?);
                if start > end {
                    return Err(from.bad("offsets of a partition"));
                }
                let state = bytes.slice_ref(from.bytes()?);
                Self::Partition(PartitionAt { id, as_of, state, settings, from: start, end })
            }
            ROUND => Self::Round { changed: from.var()? },
            GONE => Self::Gone(from.partition()?),
            BATCHES => Self::Batches(bytes.slice_ref(from.rest())),
            MOVED => Self::Moved(from.partition()?),
            SETTLED => {
                let at = entry(&mut from)?;
                let state = bytes.slice_ref(from.bytes()?);
                Self::Settled { at, state, partitions: from.list(PartitionId::ENCODED_LEN, Decoder::partition)? }
            }
            CLOSED => Self::Closed,
            SURVEYED => Self::Surveyed(forecast(&mut from)?),
            _ => return Err(from.bad("kind")),
        };
        from.end()?;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidewater_storage::model::{NodeId, ReplicaIncarnation, Term};

    use super::*;

    fn at(index: u64) -> EntryId {
        EntryId { term: Term(3), index: LogIndex(index) }
    }

    #[test]
    fn messages_round_trip() {
        let (lane, session, partition) = (LaneId(7), 9, PartitionId::default());
        let replica = ReplicaId { node: NodeId(2), incarnation: ReplicaIncarnation(5) };
        for request in [
            Request::Open { lane, replica, last: None },
            Request::Open { lane, replica, last: Some(at(4)) },
            Request::Next { lane, session, again: Some(partition) },
            Request::Read { lane, session, partition, from: Offset::new(3), until: Offset::new(8) },
            Request::Settle { lane, session },
            Request::Close { lane, session },
            Request::Survey { lane },
        ] {
            let bytes = request.encode();
            assert_eq!((Request::decode(&bytes), lane_of(&bytes)), (Ok(request), Some(lane)));
        }
        let part = PartitionAt {
            id: partition,
            as_of: LogIndex(6),
            state: Bytes::from_static(b"state"),
            settings: LogSettings { segment_bytes: 1 << 20, segment_ms: 77 },
            from: Offset::new(5),
            end: Offset::new(9),
        };
        let expected = Forecast { partitions: 3, bytes: 1 << 40, bucket_bytes: 1 << 50 };
        for reply in [
            Reply::Opened { session, expected },
            Reply::Surveyed(expected),
            Reply::Partition(part),
            Reply::Round { changed: 2 },
            Reply::Gone(partition),
            Reply::Batches(Bytes::from_static(b"batches")),
            Reply::Moved(partition),
            Reply::Settled { at: at(8), state: Bytes::from_static(b"lane"), partitions: vec![partition] },
            Reply::Closed,
        ] {
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(kind in 0u8..11, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from([&[kind][..], &rest].concat());
            let _ = (Request::decode(&bytes), Reply::decode(&bytes), lane_of(&bytes));
        }
    }
}
