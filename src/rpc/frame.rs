//! Frames between brokers, as bytes. Pure: the simulation's transport uses the same code.
//!
//! ```text
//! length u32, of what follows · crc32c u32, of what follows it · kind u8 · request id u64 · body
//! kind 1  request to a replica: lane, to u64, from u64, request
//!      2  its answer                 3  none: why
//!      4  call: service u8, body     5  its answer      6  refused: words
//! ```
//!
//! Numbers are those of `storage::codec`. An append has all lengths first and all blobs (Kafka batches) behind them. A
//! sender writes blobs as the pieces of memory they are in; a receiver reads a frame into one buffer, and blobs are
//! slices of it. Of a batch that was verified once, the frame's checksum is joined from its own: the sender does not
//! read its bytes, the receiver reads them once and verifies the batch with that.
//!
//! Bytes come from outside: a length is compared with the cap and with what is there before it is used. What openraft
//! needs beyond that (terms, contiguous indexes) the replica checks.

use bytes::{Bytes, BytesMut};
use tidewater_storage::codec::{self, Decoder, Encoder};
use tidewater_storage::journal::{JournalEntry, Payload};
use tidewater_storage::model::batch::extend_crc;
use tidewater_storage::model::{BatchError, BatchHeader, EntryId, LaneId, ReplicaId};

use crate::raft::network::{AppendReply, PeerError, PeerReply, PeerRequest, PeerVote, TransferReply};

/// Bytes of a frame without its length. The largest entry of a lane is smaller than a journal file (64 MiB).
pub const FRAME_BYTES_MAX: usize = 65 << 20;
/// Bytes of the length field.
pub const LENGTH_LEN: usize = 4;
/// Where the bytes begin that the checksum covers.
const CHECKSUM_END: usize = 8;
/// The shortest frame without its length: checksum, kind, request id.
const FRAME_BYTES_MIN: usize = 13;
/// Blobs up to this size are copied together: a piece costs more in `sendmsg` than its copy.
const COPY_MAX: usize = 2 << 10;
/// A frame of unknown truth gets no more memory at once.
const GROW_MAX: usize = 1 << 20;

const RAFT: u8 = 1;
const RAFT_ANSWER: u8 = 2;
const RAFT_FAULT: u8 = 3;
const CALL: u8 = 4;
const CALL_ANSWER: u8 = 5;
const CALL_REFUSED: u8 = 6;

const APPEND: u8 = 0;
const VOTE: u8 = 1;
const PRE_VOTE: u8 = 2;
const REBUILD: u8 = 3;
const TRANSFER: u8 = 4;

const WHAT: &str = "frame of a broker";

/// One message on a connection.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Chosen by the side that asks; ascends on its connection. An answer has its request's.
    pub id: u64,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    Raft { lane: LaneId, to: ReplicaId, from: ReplicaId, request: PeerRequest },
    RaftAnswer(Result<PeerReply, PeerFault>),
    Call { service: u8, body: Bytes },
    Answer(Result<Bytes, String>),
}

/// Why a replica gave no answer, without the names, which the asking side has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFault {
    Unreachable,
    NotRunning,
    Nonsense,
    OtherIncarnation { found: ReplicaId },
}

impl PeerFault {
    /// What crosses the connection of an error.
    #[must_use]
    pub const fn of(error: &PeerError) -> Self {
        match error {
            PeerError::Unreachable { .. } => Self::Unreachable,
            PeerError::NotRunning { .. } => Self::NotRunning,
            PeerError::OtherIncarnation { found, .. } => Self::OtherIncarnation { found: *found },
            PeerError::Nonsense { .. } => Self::Nonsense,
        }
    }

    /// The error of a request to `replica`.
    #[must_use]
    pub const fn error(self, lane: LaneId, replica: ReplicaId) -> PeerError {
        match self {
            Self::Unreachable => PeerError::Unreachable { replica, lane },
            Self::NotRunning => PeerError::NotRunning { replica, lane },
            Self::OtherIncarnation { found } => PeerError::OtherIncarnation { lane, asked: replica, found },
            Self::Nonsense => PeerError::Nonsense { replica, lane },
        }
    }
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {len} bytes was announced; frames have {FRAME_BYTES_MIN} to {max}")]
    Length { len: u64, max: usize },
    #[error("frame checksum is {found:#010x}, the frame says {expected:#010x}")]
    Checksum { expected: u32, found: u32 },
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    #[error(transparent)]
    Fields(#[from] codec::CodecError),
    #[error("a batch that the sender verified is damaged: {0}")]
    Batch(#[from] BatchError),
}

/// The pieces of a frame, length first, to be sent one behind the other. Large blobs are shared, not copied.
///
/// # Panics
/// If the frame is larger than [`FRAME_BYTES_MAX`]: callers bound what they send.
#[must_use]
pub fn encode(frame: &Frame) -> Vec<Bytes> {
    let kind = match &frame.body {
        Body::Raft { .. } => RAFT,
        Body::RaftAnswer(Ok(_)) => RAFT_ANSWER,
        Body::RaftAnswer(Err(_)) => RAFT_FAULT,
        Body::Call { .. } => CALL,
        Body::Answer(Ok(_)) => CALL_ANSWER,
        Body::Answer(Err(_)) => CALL_REFUSED,
    };
    let mut out = Pieces::new(kind, frame.id);
    match &frame.body {
        Body::Raft { lane, to, from, request } => {
            out.head.lane(*lane);
            out.head.u64(to.to_u64());
            out.head.u64(from.to_u64());
            put_request(&mut out, request);
        }
        Body::RaftAnswer(Ok(reply)) => put_reply(&mut out.head, reply),
        Body::RaftAnswer(Err(fault)) => put_fault(&mut out.head, *fault),
        Body::Call { service, body } => {
            out.head.u8(*service);
            out.blob(body, false);
        }
        Body::Answer(Ok(body)) => out.blob(body, false),
        Body::Answer(Err(why)) => out.head.text(why),
    }
    out.finish()
}

/// An upper bound of a request's frame, before it is encoded: what counts against the cap of unanswered bytes.
#[must_use]
pub fn request_bytes(request: &PeerRequest) -> usize {
    let entry_bytes = |entry: &JournalEntry| 32 + entry.payload.len() + 4 * entry.payload.blobs.len();
    128 + match request {
        PeerRequest::Append { entries, .. } => entries.iter().map(entry_bytes).sum(),
        PeerRequest::Vote { .. }
        | PeerRequest::PreVote { .. }
        | PeerRequest::Rebuild { .. }
        | PeerRequest::Transfer { .. } => 0,
    }
}

/// Reads a frame without its length. Blobs and bodies are slices of `bytes`.
///
/// # Errors
/// What is wrong with it. The connection that it came from is of no further use.
pub fn decode(bytes: &Bytes) -> Result<Frame, FrameError> {
    let mut from = Decoder::new(WHAT, bytes);
    let expected = from.u32()?;
    let kind = from.u8()?;
    let id = from.u64()?;
    let covered = bytes.get(4..).unwrap_or_default();
    if kind != RAFT {
        check(expected, crc32c::crc32c(covered))?;
    }
    let body = match kind {
        RAFT => {
            let (lane, to, from_replica) = (from.lane()?, take_replica(&mut from)?, take_replica(&mut from)?);
            let request = take_request(&mut from, bytes, expected)?;
            Body::Raft { lane, to, from: from_replica, request }
        }
        RAFT_ANSWER => Body::RaftAnswer(Ok(take_reply(&mut from)?)),
        RAFT_FAULT => Body::RaftAnswer(Err(take_fault(&mut from)?)),
        CALL => Body::Call { service: from.u8()?, body: bytes.slice_ref(from.rest()) },
        CALL_ANSWER => Body::Answer(Ok(bytes.slice_ref(from.rest()))),
        CALL_REFUSED => Body::Answer(Err(from.text()?)),
        unknown => return Err(FrameError::Kind(unknown)),
    };
    from.end()?;
    Ok(Frame { id, body })
}

fn check(expected: u32, found: u32) -> Result<(), FrameError> {
    if expected == found { Ok(()) } else { Err(FrameError::Checksum { expected, found }) }
}

/// A frame under construction.
struct Pieces {
    /// The bytes behind the last shared blob.
    head: Encoder,
    /// The first piece, whose length and checksum are written last.
    first: Option<Vec<u8>>,
    rest: Vec<Bytes>,
    crc: u32,
    bytes: usize,
}

impl Pieces {
    fn new(kind: u8, id: u64) -> Self {
        let mut head = Encoder::with_capacity(128);
        head.u64(0);
        head.u8(kind);
        head.u64(id);
        Self { head, first: None, rest: Vec::new(), crc: 0, bytes: 0 }
    }

    fn blob(&mut self, blob: &Bytes, verified: bool) {
        if blob.len() <= COPY_MAX {
            self.head.raw(blob);
            return;
        }
        self.cut();
        self.crc = if verified { extend_crc(self.crc, blob) } else { crc32c::crc32c_append(self.crc, blob) };
        self.bytes += blob.len();
        self.rest.push(blob.clone());
    }

    /// Ends the piece that is being written.
    fn cut(&mut self) {
        let piece = std::mem::take(&mut self.head).into_vec();
        self.bytes += piece.len();
        if self.first.is_none() {
            self.crc = crc32c::crc32c(piece.get(CHECKSUM_END..).unwrap_or_default());
            self.first = Some(piece);
        } else if !piece.is_empty() {
            self.crc = crc32c::crc32c_append(self.crc, &piece);
            self.rest.push(piece.into());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.cut();
        let len = self.bytes - LENGTH_LEN;
        assert!((FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&len), "a frame of {len} bytes is written");
        let mut first = self.first.unwrap_or_default();
        first[..LENGTH_LEN].copy_from_slice(&(len as u32).to_be_bytes());
        first[LENGTH_LEN..CHECKSUM_END].copy_from_slice(&self.crc.to_be_bytes());
        let mut pieces = Vec::with_capacity(1 + self.rest.len());
        pieces.push(first.into());
        pieces.append(&mut self.rest);
        pieces
    }
}

fn put_vote(out: &mut Encoder, vote: &PeerVote) {
    out.term(vote.term);
    out.u64(vote.replica.to_u64());
    out.flag(vote.committed);
}

fn take_vote(from: &mut Decoder<'_>) -> Result<PeerVote, codec::CodecError> {
    Ok(PeerVote { term: from.term()?, replica: take_replica(from)?, committed: from.flag()? })
}

fn take_replica(from: &mut Decoder<'_>) -> Result<ReplicaId, codec::CodecError> {
    ReplicaId::from_u64(from.u64()?).ok_or_else(|| from.bad("replica"))
}

fn put_entry_id(out: &mut Encoder, id: EntryId) {
    out.term(id.term);
    out.index(id.index);
}

fn take_entry_id(from: &mut Decoder<'_>) -> Result<EntryId, codec::CodecError> {
    Ok(EntryId { term: from.term()?, index: from.index()? })
}

fn put_request(out: &mut Pieces, request: &PeerRequest) {
    let head = &mut out.head;
    match request {
        PeerRequest::Append { vote, previous, entries, committed } => {
            head.u8(APPEND);
            put_vote(head, vote);
            head.option(*previous, put_entry_id);
            head.option(*committed, put_entry_id);
            head.list(entries.iter(), |head, entry| {
                put_entry_id(head, entry.id);
                head.flag(entry.payload.verified);
                head.bytes(&entry.payload.meta);
                head.list(entry.payload.blobs.iter(), |head, blob| head.len32(blob.len()));
            });
            for entry in entries {
                entry.payload.blobs.iter().for_each(|blob| out.blob(blob, entry.payload.verified));
            }
        }
        PeerRequest::Vote { vote, last, transfer } => {
            head.u8(VOTE);
            put_vote(head, vote);
            head.option(*last, put_entry_id);
            head.flag(*transfer);
        }
        PeerRequest::PreVote { vote, last } => {
            head.u8(PRE_VOTE);
            put_vote(head, vote);
            head.option(*last, put_entry_id);
        }
        PeerRequest::Rebuild { vote, at } => {
            head.u8(REBUILD);
            put_vote(head, vote);
            put_entry_id(head, *at);
        }
        PeerRequest::Transfer { from, to, last } => {
            head.u8(TRANSFER);
            put_vote(head, from);
            head.u64(to.to_u64());
            head.option(*last, put_entry_id);
        }
    }
}

/// The rest of a request's frame. `expected` is the frame's checksum, which is known only when all blobs are.
fn take_request(from: &mut Decoder<'_>, bytes: &Bytes, expected: u32) -> Result<PeerRequest, FrameError> {
    let request = match from.u8()? {
        APPEND => return take_append(from, bytes, expected),
        VOTE => PeerRequest::Vote { vote: take_vote(from)?, last: from.option(take_entry_id)?, transfer: from.flag()? },
        PRE_VOTE => PeerRequest::PreVote { vote: take_vote(from)?, last: from.option(take_entry_id)? },
        REBUILD => PeerRequest::Rebuild { vote: take_vote(from)?, at: take_entry_id(from)? },
        TRANSFER => {
            PeerRequest::Transfer { from: take_vote(from)?, to: take_replica(from)?, last: from.option(take_entry_id)? }
        }
        _ => return Err(from.bad("request").into()),
    };
    check(expected, crc32c::crc32c(bytes.get(4..).unwrap_or_default()))?;
    Ok(request)
}

/// An entry whose blobs are still to be cut out of the frame.
struct EntryHead {
    id: EntryId,
    verified: bool,
    meta: Bytes,
    lengths: Vec<usize>,
}

fn take_append(from: &mut Decoder<'_>, bytes: &Bytes, expected: u32) -> Result<PeerRequest, FrameError> {
    let vote = take_vote(from)?;
    let previous = from.option(take_entry_id)?;
    let committed = from.option(take_entry_id)?;
    let heads = from.list(5, |from| {
        Ok(EntryHead {
            id: take_entry_id(from)?,
            verified: from.flag()?,
            meta: bytes.slice_ref(from.bytes()?),
            lengths: from.list(4, |from| Ok(from.u32()? as usize))?,
        })
    })?;
    let blobs_at = bytes.len() - from.left();
    let mut crc = crc32c::crc32c(bytes.get(4..blobs_at).unwrap_or_default());
    let mut entries = Vec::with_capacity(heads.len());
    for head in heads {
        let mut blobs = Vec::with_capacity(head.lengths.len());
        for len in head.lengths {
            let blob = bytes.slice_ref(from.raw(len)?);
            if head.verified {
                let header = BatchHeader::parse(&blob)?;
                if header.len as usize != blob.len() {
                    return Err(from.bad("batch length").into());
                }
                header.verify_crc(&blob)?;
                crc = extend_crc(crc, &blob);
            } else {
                crc = crc32c::crc32c_append(crc, &blob);
            }
            blobs.push(blob);
        }
        let payload = Payload { meta: head.meta, blobs, verified: head.verified };
        entries.push(JournalEntry { id: head.id, payload });
    }
    from.end()?;
    check(expected, crc)?;
    Ok(PeerRequest::Append { vote, previous, entries, committed })
}

fn put_fault(out: &mut Encoder, fault: PeerFault) {
    match fault {
        PeerFault::Unreachable => out.u8(0),
        PeerFault::NotRunning => out.u8(1),
        PeerFault::Nonsense => out.u8(2),
        PeerFault::OtherIncarnation { found } => {
            out.u8(3);
            out.u64(found.to_u64());
        }
    }
}

fn take_fault(from: &mut Decoder<'_>) -> Result<PeerFault, FrameError> {
    Ok(match from.u8()? {
        0 => PeerFault::Unreachable,
        1 => PeerFault::NotRunning,
        2 => PeerFault::Nonsense,
        3 => PeerFault::OtherIncarnation { found: take_replica(from)? },
        _ => return Err(from.bad("fault").into()),
    })
}

fn put_reply(out: &mut Encoder, reply: &PeerReply) {
    match reply {
        PeerReply::Append(AppendReply::Stored) => out.u8(0),
        PeerReply::Append(AppendReply::StoredUpTo(upto)) => {
            out.u8(1);
            out.option(*upto, put_entry_id);
        }
        PeerReply::Append(AppendReply::Conflict) => out.u8(2),
        PeerReply::Append(AppendReply::HigherVote(vote)) => {
            out.u8(3);
            put_vote(out, vote);
        }
        PeerReply::Vote { vote, granted, last } => {
            out.u8(4);
            put_vote(out, vote);
            out.flag(*granted);
            out.option(*last, put_entry_id);
        }
        PeerReply::Transfer(TransferReply::Accepted) => out.u8(5),
        PeerReply::Transfer(TransferReply::VoteChanged { actual }) => {
            out.u8(6);
            put_vote(out, actual);
        }
        PeerReply::Transfer(TransferReply::NotFlushed { actual }) => {
            out.u8(7);
            out.option(*actual, put_entry_id);
        }
    }
}

fn take_reply(from: &mut Decoder<'_>) -> Result<PeerReply, FrameError> {
    Ok(match from.u8()? {
        0 => PeerReply::Append(AppendReply::Stored),
        1 => PeerReply::Append(AppendReply::StoredUpTo(from.option(take_entry_id)?)),
        2 => PeerReply::Append(AppendReply::Conflict),
        3 => PeerReply::Append(AppendReply::HigherVote(take_vote(from)?)),
        4 => PeerReply::Vote { vote: take_vote(from)?, granted: from.flag()?, last: from.option(take_entry_id)? },
        5 => PeerReply::Transfer(TransferReply::Accepted),
        6 => PeerReply::Transfer(TransferReply::VoteChanged { actual: take_vote(from)? }),
        7 => PeerReply::Transfer(TransferReply::NotFlushed { actual: from.option(take_entry_id)? }),
        _ => return Err(from.bad("reply").into()),
    })
}

/// The bytes of a connection on their way to frames: small frames are gathered and copied out, so that no frame keeps
/// the memory of others; a large one is received into a buffer of its own.
#[derive(Debug)]
pub struct FrameBuffer {
    gathered: BytesMut,
    /// A frame without its length, not complete.
    large: BytesMut,
    /// The length of the frame that `large` becomes; 0 if there is none.
    large_len: usize,
    /// The longest frame that is taken, without its length. Bytes.
    max: usize,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self::up_to(FRAME_BYTES_MAX)
    }
}

/// Where the next bytes of a connection go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Into [`FrameBuffer::large`], at most so many.
    Large(usize),
    /// To [`FrameBuffer::gather`].
    Gather,
}

impl FrameBuffer {
    /// For frames of at most `max` bytes without their length.
    #[must_use]
    pub fn up_to(max: usize) -> Self {
        Self { gathered: BytesMut::new(), large: BytesMut::new(), large_len: 0, max }
    }

    /// Takes the next whole frame, without its length.
    ///
    /// # Errors
    /// A length that no frame has.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.large_len > 0 {
            if self.large.len() < self.large_len {
                return Ok(None);
            }
            debug_assert_eq!(self.large.len(), self.large_len, "no more is read than the frame has");
            self.large_len = 0;
            return Ok(Some(std::mem::take(&mut self.large).freeze()));
        }
        let Some(len) = self.gathered.first_chunk::<LENGTH_LEN>().copied() else { return Ok(None) };
        let len = u32::from_be_bytes(len) as usize;
        if !(FRAME_BYTES_MIN..=self.max).contains(&len) {
            return Err(FrameError::Length { len: len as u64, max: self.max });
        }
        let whole = LENGTH_LEN + len;
        if self.gathered.len() >= whole {
            let frame = Bytes::copy_from_slice(self.gathered.get(LENGTH_LEN..whole).unwrap_or_default());
            self.drop_gathered(whole);
            return Ok(Some(frame));
        }
        self.large = BytesMut::with_capacity(len.min(GROW_MAX));
        self.large.extend_from_slice(self.gathered.get(LENGTH_LEN..).unwrap_or_default());
        self.large_len = len;
        self.drop_gathered(self.gathered.len());
        Ok(None)
    }

    fn drop_gathered(&mut self, bytes: usize) {
        if bytes == self.gathered.len() {
            // An idle connection keeps no buffer.
            self.gathered = BytesMut::new();
        } else {
            bytes::Buf::advance(&mut self.gathered, bytes);
        }
    }

    /// Where the next bytes go. Call it after [`FrameBuffer::next_frame`] returned nothing.
    pub fn wanted(&mut self) -> Wanted {
        let missing = self.large_len.saturating_sub(self.large.len());
        if missing == 0 {
            return Wanted::Gather;
        }
        if self.large.len() == self.large.capacity() {
            self.large.reserve(missing.min(GROW_MAX.max(self.large.len())));
        }
        Wanted::Large(missing.min(self.large.capacity() - self.large.len()))
    }

    /// The buffer of the frame being received.
    pub fn large(&mut self) -> &mut BytesMut {
        &mut self.large
    }

    pub fn gather(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
    }

    /// Has it a part of a frame?
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.large_len > 0 || !self.gathered.is_empty()
    }

    /// Bytes of memory for frames that are not whole.
    #[must_use]
    pub fn held(&self) -> usize {
        self.gathered.len() + self.large.capacity()
    }

    /// The whole length of the large frame being received; 0 without one.
    #[must_use]
    pub fn announced(&self) -> usize {
        self.large_len
    }
}

#[cfg(test)]
mod tests;
