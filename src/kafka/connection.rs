//! One connection on its shard: reads frames, starts requests in order, answers in order.
//!
//! One task does all of it, so that each event (bytes came, an answer is ready, the socket has room) costs one
//! wake-up. Kafka's order is kept: a request is started when those before it are answered, except that Produce requests
//! are started one behind the other without waiting; each is polled once before the next is looked at, which sends its
//! batches to their lanes, so that order per partition is the client's. Answers that are ready together go out with one
//! write.
//!
//! When a connection ends, its Produce requests are carried through: their batches wait in the lanes' queues whether
//! the client listens or not, and the memory they take stays charged until they are on disk.
//!
//! Back-pressure: nothing is read while too many requests or bytes are in work, while the peer does not take its
//! responses, or while the shard's memory is spent.

mod handle;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesOrdered;
use kafka_protocol::messages::ApiKey;
use tidewater_storage::env::Mono;

use super::api::{self, Api, Known};
use super::budget::{Budget, Lease, Past};
use super::limits::{FRAME_BYTES_MAX, FREE_BYTES, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_REQUESTS_MAX, OUTBOX_BYTES_MAX};
use super::outbox::{Outbox, Sent};
use super::recompress::HandOver;
use super::wire::frame::{FrameBuffer, FrameTooLarge, Wanted};
use super::wire::header::{self, RequestHeader};
use super::wire::reader::Malformed;
use crate::net::stream::Stream;
pub use handle::{Handle, Kill};

/// Rounds of one poll before other tasks of the shard get their turn.
const ROUNDS_MAX: usize = 32;

/// A request, whole, its header read.
#[derive(Debug)]
pub struct Request {
    pub header: RequestHeader,
    /// Its row of the table.
    pub api: Api,
    /// What follows the header.
    pub body: BytesMut,
    pub peer: SocketAddr,
    /// The order of the connection's Produce requests.
    pub order: Rc<HandOver>,
}

/// What is to be done with an answer.
#[derive(Debug)]
pub enum Reply {
    /// Send these pieces of one response frame; the memory they hold is given back when they are sent.
    Send(Vec<Bytes>, Option<Lease>),
    /// The client wants none (acks=0).
    Silent,
    /// Close the connection after what came before is sent.
    Close(CloseReason),
}

/// Answers requests. [`super::dispatch::Dispatch`] in the broker, something simple in tests.
pub trait Service {
    /// Begins to answer; what must happen in order happens in the first poll.
    fn call(&self, request: Request) -> LocalBoxFuture<'static, Reply>;
    /// The answer to an `ApiVersions` request of an unknown version.
    fn api_versions_fallback(&self, correlation_id: i32) -> Bytes;
    fn now(&self) -> Mono;
    /// Bytes received, bytes and writes sent, since the last call.
    fn moved(&self, received: usize, sent: Sent);
    /// Responses were in the socket's queue for so long until all were taken.
    fn flushed(&self, _took: Duration) {}
}

/// Why a connection was closed.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// By the peer, between requests.
    #[error("the peer closed the connection")]
    Peer,
    /// By the peer, in the middle of a request, or by the network.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// A frame longer than accepted.
    #[error(transparent)]
    Frame(#[from] FrameTooLarge),
    /// A request that makes no sense.
    #[error("api key {key} version {version}: {why}")]
    Malformed { key: i16, version: i16, why: String },
    /// A request that is not served.
    #[error("api key {key} version {version} is not served")]
    Unsupported { key: i16, version: i16 },
    /// A produce request with acks=0 failed: closing is the only way to say so.
    #[error("a produce request without acknowledgement failed: {0}")]
    Unacknowledged(String),
    /// Silent for too long.
    #[error("idle for too long")]
    Idle,
    /// A request or response stuck half way for too long.
    #[error("stalled in the middle of a request or response")]
    Stalled,
    /// Its address has too many.
    #[error("too many connections from its address")]
    TooMany,
    /// The broker stops.
    #[error("the broker is stopping")]
    Stopping,
    /// A response that could not be written: our mistake.
    #[error("{0}")]
    Internal(String),
}

impl CloseReason {
    /// What metrics call the reasons.
    pub const LABELS: [&'static str; 11] = [
        "peer",
        "broken",
        "frame_too_large",
        "malformed",
        "unsupported",
        "unacknowledged",
        "idle",
        "stalled",
        "stopping",
        "internal",
        "too_many",
    ];

    /// Its place in [`CloseReason::LABELS`].
    #[must_use]
    pub const fn place(&self) -> usize {
        match self {
            Self::Peer => 0,
            Self::Broken(_) => 1,
            Self::Frame(_) => 2,
            Self::Malformed { .. } => 3,
            Self::Unsupported { .. } => 4,
            Self::Unacknowledged(_) => 5,
            Self::Idle => 6,
            Self::Stalled => 7,
            Self::Stopping => 8,
            Self::Internal(_) => 9,
            Self::TooMany => 10,
        }
    }
}

struct Answered {
    reply: Reply,
    request: Lease,
}

type InFlight = FuturesOrdered<LocalBoxFuture<'static, Answered>>;

/// Awaits what has begun, and gives its memory back as it ends; answers are dropped. It ends when the disk answers, and
/// at once when the broker stops.
async fn carry_through(mut in_flight: InFlight, handle: &Handle) {
    handle.working.set(true);
    handle.half_way.set(false);
    handle.let_past.set(None);
    poll_fn(|cx| {
        let stopped = matches!(handle.kill.get(), Some(Kill::Stopping));
        while !stopped && let Poll::Ready(Some(_)) = in_flight.poll_next_unpin(cx) {}
        if stopped || in_flight.is_empty() {
            return Poll::Ready(());
        }
        handle.wakes(cx);
        Poll::Pending
    })
    .await;
}

/// A connection at work. Shard-local.
pub struct Connection<S> {
    stream: Stream,
    service: Rc<S>,
    handle: Rc<Handle>,
    frames: FrameBuffer,
    budget: Budget,
    received: Lease,
    /// The shard's memory is spent, so nothing is read.
    held_back: bool,
    /// Read, but not started: something before it must be answered first.
    next: Option<(Request, Lease)>,
    order: Rc<HandOver>,
    in_flight: InFlight,
    in_flight_bytes: usize,
    /// Is what is in flight something else than Produce?
    exclusive: bool,
    /// Is what is in flight not to be answered any more?
    muted: bool,
    /// May what is in flight wait long for others, and change nothing by being given up?
    idle_wait: bool,
    outbox: Outbox,
    /// Since when something waits in the outbox.
    sending: Option<Mono>,
    outgoing: Vec<Lease>,
    /// No more requests are taken.
    closing: Option<CloseReason>,
}

impl<S> std::fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({:?}, {} in flight)", self.stream, self.in_flight.len())
    }
}

impl<S: Service + 'static> Connection<S> {
    /// Of a fresh socket.
    #[must_use]
    pub fn new(stream: Stream, service: Rc<S>, budget: &Budget, handle: Rc<Handle>) -> Self {
        Self {
            stream,
            service,
            handle,
            frames: FrameBuffer::new(FRAME_BYTES_MAX),
            budget: budget.clone(),
            received: budget.empty(),
            held_back: false,
            next: None,
            order: Rc::default(),
            in_flight: FuturesOrdered::new(),
            in_flight_bytes: 0,
            exclusive: false,
            muted: false,
            idle_wait: false,
            outbox: Outbox::default(),
            sending: None,
            outgoing: Vec::new(),
            closing: None,
        }
    }

    /// Serves until it is closed, and says why it was.
    pub async fn run(mut self) -> CloseReason {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        self.give_up_waiting();
        let (in_flight, handle) = self.close();
        carry_through(in_flight, &handle).await;
        reason
    }

    /// Lets go of the socket and of all memory but that of what is in flight.
    fn close(self) -> (InFlight, Rc<Handle>) {
        (self.in_flight, self.handle)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        match self.try_poll(cx) {
            Poll::Ready(Ok(reason) | Err(reason)) => Poll::Ready(reason),
            Poll::Pending => {
                self.handle.working.set(!self.in_flight.is_empty());
                let awaited = self.in_flight.is_empty() && self.next.is_none() && self.frames.is_mid_frame();
                let starved = awaited && !self.held_back;
                self.handle.half_way.set(starved || !self.outbox.is_empty());
                let past = starved && self.received.passes();
                let since = self.handle.let_past.get().filter(|_| past);
                self.handle.let_past.set(since.or_else(|| past.then(|| self.service.now())));
                self.handle.wakes(cx);
                Poll::Pending
            }
        }
    }

    fn try_poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<CloseReason, CloseReason>> {
        match self.handle.kill.get() {
            Some(Kill::Idle) => return Poll::Ready(Err(CloseReason::Idle)),
            Some(Kill::Stalled) => return Poll::Ready(Err(CloseReason::Stalled)),
            Some(Kill::Stopping) => return Poll::Ready(Err(CloseReason::Stopping)),
            None => {}
        }
        if self.handle.stop.get() && self.closing.is_none() {
            self.closing = Some(CloseReason::Stopping);
        }
        for _ in 0..ROUNDS_MAX {
            let mut moved = self.collect_answers(cx);
            moved |= self.flush(cx)?;
            if (self.in_flight.is_empty() || self.muted)
                && self.outbox.is_empty()
                && let Some(reason) = self.closing.take()
            {
                return Poll::Ready(Ok(reason));
            }
            moved |= match self.take_requests(cx) {
                Ok(moved) => moved,
                Err(reason) => {
                    // What came before is answered, if the socket still takes it.
                    self.give_up_waiting();
                    self.closing = Some(reason);
                    true
                }
            };
            if !moved {
                return Poll::Pending;
            }
            self.handle.active.set(self.service.now());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves answers that are ready, in order, to the outbox.
    fn collect_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.outbox.bytes() < OUTBOX_BYTES_MAX && !self.muted {
            let Poll::Ready(Some(answered)) = self.in_flight.poll_next_unpin(cx) else { break };
            moved = true;
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(answered.request.bytes());
            match answered.reply {
                Reply::Send(pieces, lease) => {
                    self.outbox.push(pieces);
                    self.outgoing.extend(lease);
                }
                Reply::Silent => {}
                Reply::Close(reason) => {
                    // What was asked behind it is not answered any more.
                    self.muted = true;
                    self.next = None;
                    self.closing = Some(reason);
                }
            }
        }
        if self.in_flight.is_empty() {
            self.exclusive = false;
        }
        moved
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.outbox.is_empty() {
            return Ok(false);
        }
        let begun = *self.sending.get_or_insert_with(|| self.service.now());
        let mut sent = Sent::default();
        let flushed = self.outbox.poll_flush(&mut self.stream, cx, &mut sent);
        self.service.moved(0, sent);
        if let Poll::Ready(done) = flushed {
            done?;
            self.outgoing.clear();
            self.sending = None;
            self.service.flushed(self.service.now().since(begun));
        }
        Ok(sent.bytes > 0)
    }

    /// Starts what may be started and reads what may be read.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.closing.is_some() {
            return Ok(false);
        }
        if self.next.is_some() {
            return Ok(self.start_next());
        }
        // With the shard's memory spent, a peer that does not take its responses is asked for no more.
        if (self.received.is_spent() && !self.outbox.is_empty())
            || self.in_flight.len() >= IN_FLIGHT_REQUESTS_MAX
            || self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX
            || self.outbox.bytes() >= OUTBOX_BYTES_MAX
        {
            return Ok(false);
        }
        if let Some(frame) = self.frames.next_frame()? {
            self.accept(frame)?;
            self.start_next();
            return Ok(true);
        }
        self.read(cx)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let charged = self.frames.held().saturating_sub(FREE_BYTES);
        let whole = self.frames.whole().saturating_sub(FREE_BYTES);
        if self.received.poll_set(cx, charged, Past::Frame, whole).is_pending() {
            self.held_back = true;
            return Ok(false);
        }
        if std::mem::take(&mut self.held_back) {
            // The peer's time starts again: the broker kept it waiting.
            self.handle.active.set(self.service.now());
        }
        let came = match self.frames.wanted()? {
            Wanted::Rest(max) => self.stream.poll_append(cx, self.frames.rest(), max),
            Wanted::Gather(max) => {
                let mut scratch = self.budget.scratch(max);
                let came = self.stream.poll_read(cx, &mut scratch);
                if let Poll::Ready(Ok(n)) = came {
                    self.frames.gathered(scratch.get(..n).unwrap_or_default());
                }
                came
            }
        };
        match came {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) if self.frames.is_mid_frame() => {
                Err(CloseReason::Broken(io::ErrorKind::UnexpectedEof.into()))
            }
            Poll::Ready(Ok(0)) => {
                self.closing = Some(CloseReason::Peer);
                self.give_up_waiting();
                Ok(true)
            }
            Poll::Ready(Ok(n)) => {
                self.service.moved(n, Sent::default());
                Ok(true)
            }
            Poll::Ready(Err(e)) => Err(e.into()),
        }
    }

    /// The peer has gone: a long poll or a barrier would hold the connection, its place and its memory for an answer
    /// that is not read. What has begun to change something is carried through.
    fn give_up_waiting(&mut self) {
        if self.idle_wait {
            self.in_flight.clear();
            self.in_flight_bytes = 0;
            (self.exclusive, self.idle_wait) = (false, false);
        }
    }

    /// Reads the header of a frame and finds out what it wants.
    fn accept(&mut self, mut frame: BytesMut) -> Result<(), CloseReason> {
        let len = frame.len();
        let mut lease = self.received.take();
        lease.set(len);
        let (key, version, correlation_id) = header::peek(&frame).map_err(|e| malformed(-1, -1, &e))?;
        match api::known(key, version) {
            Known::Yes(api) => {
                let flexible = api.key.request_header_version(version) >= 2;
                let header = header::parse(&mut frame, flexible).map_err(|e| malformed(key, version, &e))?;
                let (peer, order) = (self.stream.peer(), Rc::clone(&self.order));
                self.next = Some((Request { header, api, body: frame, peer, order }, lease));
            }
            Known::ApiVersionsFallback => {
                let response = self.service.api_versions_fallback(correlation_id);
                let answered = Answered { reply: Reply::Send(vec![response], None), request: lease };
                self.in_flight_bytes += len;
                self.in_flight.push_back(Box::pin(std::future::ready(answered)));
            }
            Known::No => {
                self.closing = Some(CloseReason::Unsupported { key, version });
            }
        }
        Ok(())
    }

    /// Starts the request that waits, if its turn has come.
    fn start_next(&mut self) -> bool {
        let pipelines = |request: &Request| request.api.key == ApiKey::Produce;
        let may = match &self.next {
            Some((request, _)) => self.in_flight.is_empty() || (pipelines(request) && !self.exclusive),
            None => false,
        };
        if !may {
            return false;
        }
        let Some((request, lease)) = self.next.take() else { return false };
        self.exclusive = !pipelines(&request);
        self.idle_wait = matches!(request.api.key, ApiKey::Fetch | ApiKey::JoinGroup | ApiKey::SyncGroup);
        self.in_flight_bytes += lease.bytes();
        let call = self.service.call(request);
        self.in_flight.push_back(Box::pin(async move { Answered { reply: call.await, request: lease } }));
        true
    }
}

fn malformed(key: i16, version: i16, why: &Malformed) -> CloseReason {
    CloseReason::Malformed { key, version, why: why.to_string() }
}

/// A boxed answer that is there already.
#[must_use]
pub fn ready(reply: Reply) -> LocalBoxFuture<'static, Reply> {
    Pin::from(Box::new(std::future::ready(reply)))
}

#[cfg(test)]
mod tests;
