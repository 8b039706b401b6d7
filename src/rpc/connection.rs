//! The connecting side: makes a connection, keeps it, reads answers; a task reads, another sends (`outbox`).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use tidewater_storage::env::Mono;
use tidewater_storage::model::{NodeId, ShardId};
use tracing::{debug, info, warn};

use super::frame::{Body, FRAME_BYTES_MAX, Frame, FrameBuffer, FrameError, decode, encode};
use super::handshake::{self, Client, Established, HandshakeError};
use super::limits::{
    BACKOFF, BACKOFF_REFUSED, CHARGED_MIN, CONNECT_MAX, HANDSHAKE_MAX, KEEPALIVE, LOG_EVERY, RESOLVE_MAX, STABLE_AFTER,
    STALL_MAX, UNACKNOWLEDGED_MAX,
};
use super::link::{Gone, Link, OVERHEAD, Status, called, count};
use super::resolve::resolve;
use super::room::{Room, Share};
use super::wire::{Wire, WireError};
use super::{Rpc, RpcError, Service};
use crate::net::stream::Stream;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Failed(String),
    /// It is no member of the cluster yet, as while a cluster forms.
    #[error("{0}")]
    NotYet(String),
    /// By one of the two; an operator has to act.
    #[error("{0}")]
    Refused(String),
}

impl From<WireError> for ConnectError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Broken(error) => Self::Failed(error.to_string()),
            WireError::Handshake(error) => error.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<HandshakeError> for ConnectError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::NotYet(why) => Self::NotYet(why),
            other => Self::Refused(other.to_string()),
        }
    }
}

/// Ends `work` after `time` with `None`.
pub(super) async fn within<T>(rpc: &Rpc, time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let shard = &rpc.shard;
    let deadline = shard.deadlines.until(shard.env.clock.now() + time);
    match select(std::pin::pin!(work), deadline).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(((), _)) => None,
    }
}

/// Connects to a broker and shakes hands.
async fn connect(
    rpc: &Rpc,
    host: &str,
    port: u16,
    expects: Option<NodeId>,
) -> Result<(Wire, Established), ConnectError> {
    let failed = |why: String| ConnectError::Failed(why);
    let addresses = within(rpc, RESOLVE_MAX, resolve(host, port))
        .await
        .unwrap_or_else(|| Err(io::Error::other("the name server does not answer")))
        .map_err(|error| failed(format!("{host}: {error}")))?;
    let mut last = failed(format!("{host} has no address"));
    for address in addresses {
        match Stream::connect_within(address, CONNECT_MAX).await {
            Err(error) => last = failed(error.to_string()),
            Ok(stream) => {
                stream.give_up_after(UNACKNOWLEDGED_MAX, KEEPALIVE).map_err(|error| failed(error.to_string()))?;
                return match within(rpc, HANDSHAKE_MAX, shake_hands(rpc, stream, host, expects)).await {
                    Some(done) => done,
                    None => Err(failed(format!("it did not finish the handshake within {HANDSHAKE_MAX:?}"))),
                };
            }
        }
    }
    Err(last)
}

async fn shake_hands(
    rpc: &Rpc,
    stream: Stream,
    host: &str,
    expects: Option<NodeId>,
) -> Result<(Wire, Established), ConnectError> {
    let node = &rpc.shard.node;
    let wire = Wire::client(stream, node.tls(), host).await?;
    let fail = |error: io::Error| ConnectError::Failed(error.to_string());
    let (client, first) =
        Client::start(node.hello(expects, rpc.shard.here.get()), node.secret().cloned(), wire.binding()?);
    wire.send(&first).await.map_err(fail)?;
    let (kind, body) = wire.receive().await?;
    let (client, next) = match client.welcome(kind, &body) {
        Ok(next) => next,
        Err(error) => {
            if matches!(error, HandshakeError::Unfit(_)) {
                // The other side's operator reads it as well.
                let _ = wire.send(&handshake::refusal(&error.to_string())).await;
            }
            return Err(error.into());
        }
    };
    wire.send(&next).await.map_err(fail)?;
    let (kind, body) = wire.receive().await?;
    let established = client.accepted(kind, &body)?;
    Ok((wire, established))
}

/// Keeps the connection of a link until it is stopped.
pub(super) async fn keep(link: Rc<Link>) {
    let rpc = link.rpc.clone();
    let env = link.env().clone();
    let mut pause = BACKOFF.0;
    let mut away = AwayLog::default();
    // One of the connections to a peer speaks for all.
    let loud = link.name == "urgent" && rpc.shard.here.get() == ShardId(0);
    while !link.stopped.get() {
        let address = link.address.borrow().clone();
        let (node, name) = (address.node, link.name);
        let at = format!("{}:{}", address.host, address.port);
        match Box::pin(connect(&rpc, &address.host, address.port, Some(node))).await {
            Ok((wire, established)) => {
                count(&link.counts.connects, 1);
                link.set_status(Status::Up);
                let version = &established.peer.version;
                debug!(broker = %node, at, name, version, "connected to a broker");
                if let Some(after) = away.back(env.clock.now()) {
                    info!(broker = %node, at, ?after, "a broker answers again");
                }
                let begun = env.clock.now();
                let why = serve(&link, wire).await;
                if link.stopped.get() {
                    break;
                }
                count(&link.counts.disconnects, 1);
                link.set_status(Status::Down(why.to_string()));
                link.connection_lost();
                if loud && away.is_news(env.clock.now(), None) {
                    warn!(broker = %node, at, %why, "a broker does not answer; it is tried again until it does");
                }
                pause =
                    if env.clock.now().since(begun) >= STABLE_AFTER { BACKOFF.0 } else { (pause * 2).min(BACKOFF.1) };
            }
            Err(error) => {
                count(&link.counts.connects_failed, 1);
                let refused = matches!(error, ConnectError::Refused(_));
                let forms = matches!(error, ConnectError::NotYet(_));
                let why = error.to_string();
                if loud && !forms && away.is_news(env.clock.now(), Some(why.as_str()).filter(|_| refused)) {
                    let what =
                        if refused { "a broker refuses this one, or is refused" } else { "a broker does not answer" };
                    warn!(broker = %node, at, why, "{what}; it is tried again until it does");
                }
                link.set_status(if refused { Status::Refused(why) } else { Status::Down(why) });
                pause = if refused { BACKOFF_REFUSED } else { (pause * 2).min(BACKOFF.1) };
            }
        }
        let jitter = env.rng.below(pause.as_nanos() as u64 / 2 + 1);
        within(&rpc, pause - Duration::from_nanos(jitter), link.kick.notified()).await;
    }
}

/// Sends and receives until the connection breaks; returns why.
async fn serve(link: &Rc<Link>, wire: Wire) -> ReadEnd {
    let wire = Rc::new(wire);
    link.outbox.reopen();
    if link.stopped.get() {
        return ReadEnd::Closed;
    }
    let sender = {
        let (link, wire) = (Rc::clone(link), Rc::clone(&wire));
        link.env().tasks.clone().spawn("rpc sender", async move {
            let sent = link.outbox.send_all(&wire).await;
            // Wakes the reader.
            wire.close();
            sent
        })
    };
    let mut frames = FrameBuffer::default();
    let end = loop {
        match next_frame(&link.rpc, &wire, &mut frames, None, |n| count(&link.counts.received, n as u64)).await {
            Ok((frame, _)) => {
                let fits = decode(&frame).map(|frame| link.answered(frame));
                match fits {
                    Ok(true) => {}
                    Ok(false) => break ReadEnd::Order,
                    Err(error) => break ReadEnd::Frame(error),
                }
            }
            Err(end) => break end,
        }
        if wire.wants_flush() {
            link.outbox.flush();
        }
    };
    link.outbox.close();
    wire.close();
    match sender.await {
        Some(Err(error)) if matches!(end, ReadEnd::Closed) => ReadEnd::Broken(error),
        _ => end,
    }
}

/// Why nothing more is read from a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadEnd {
    #[error("it closed the connection")]
    Closed,
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("it sent bytes that are no frame: {0}")]
    Frame(#[from] FrameError),
    #[error("it sent a frame that nothing asked for")]
    Order,
    #[error("it stopped in the middle of a frame for {STALL_MAX:?}")]
    Stalled,
    #[error("another process of the same broker has taken its connections over")]
    Replaced,
}

impl ReadEnd {
    /// Bytes that no broker sends.
    pub(super) const fn is_garbage(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Order | Self::Stalled)
    }
}

/// The next whole frame, and its share of `room` if it is large. `came` is called with the bytes of each read. A part
/// of a frame waits for its rest for [`STALL_MAX`]; between frames there is no timer.
pub(super) async fn next_frame(
    rpc: &Rpc,
    wire: &Wire,
    frames: &mut FrameBuffer,
    room: Option<&Rc<Room>>,
    mut came: impl FnMut(usize),
) -> Result<(Bytes, Option<Share>), ReadEnd> {
    let mut share = None;
    loop {
        if let Some(frame) = frames.next_frame()? {
            return Ok((frame, share));
        }
        let announced = frames.announced();
        if let Some(room) = room
            && announced >= CHARGED_MIN
            && share.is_none()
        {
            share = Some(room.take(announced).await);
        }
        let n = match frames.is_mid_frame() {
            false => poll_fn(|cx| wire.poll_receive(cx, frames)).await?,
            true => match within(rpc, STALL_MAX, poll_fn(|cx| wire.poll_receive(cx, frames))).await {
                Some(n) => n?,
                None => return Err(ReadEnd::Stalled),
            },
        };
        match n {
            0 if frames.is_mid_frame() => return Err(ReadEnd::Broken(io::ErrorKind::UnexpectedEof.into())),
            0 => return Err(ReadEnd::Closed),
            n => came(n),
        }
    }
}

/// One call over a connection of its own.
pub(super) async fn call_once(
    rpc: &Rpc,
    host: &str,
    port: u16,
    kind: Service,
    body: Bytes,
    timeout: Duration,
) -> Result<Bytes, RpcError> {
    let broker = format!("{host}:{port}");
    if body.len() + OVERHEAD > FRAME_BYTES_MAX {
        return Err(RpcError::TooLarge { bytes: body.len(), max: FRAME_BYTES_MAX - OVERHEAD });
    }
    let timed_out = || RpcError::TimedOut { broker: broker.clone(), after: timeout };
    let once = async {
        let (wire, _) = Box::pin(connect(rpc, host, port, None)).await.map_err(|error| match error {
            ConnectError::Failed(why) | ConnectError::NotYet(why) => {
                RpcError::Unreachable { broker: broker.clone(), why }
            }
            ConnectError::Refused(why) => RpcError::Refused { broker: broker.clone(), why },
        })?;
        let lost = || RpcError::Lost { broker: broker.clone() };
        for piece in encode(&Frame { id: 1, body: Body::Call { service: kind.code(), body } }) {
            wire.send(&piece).await.map_err(|_| lost())?;
        }
        let mut frames = FrameBuffer::default();
        let (frame, _) = next_frame(rpc, &wire, &mut frames, None, |_| ()).await.map_err(|_| lost())?;
        wire.close();
        let answer = decode(&frame).map_err(|_| lost())?;
        called(if answer.id == 1 { Ok(answer.body) } else { Err(Gone::Lost) }, broker.clone())
    };
    within(rpc, timeout, once).await.unwrap_or_else(|| Err(timed_out()))
}

/// A line of log at most every [`LOG_EVERY`].
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Cell<Option<Mono>>,
}

impl Throttle {
    pub(super) fn is_due(&self, rpc: &Rpc) -> bool {
        let now = rpc.shard.env.clock.now();
        let due = self.last.get().is_none_or(|last| now.since(last) >= LOG_EVERY);
        if due {
            self.last.set(Some(now));
        }
        due
    }
}

/// What was logged about a peer that is away: one line, one more for each other reason why it is refused, and one when
/// it is back.
#[derive(Debug, Default)]
struct AwayLog {
    since: Option<Mono>,
    refusal: Option<String>,
}

impl AwayLog {
    /// The peer is away; does that take a line?
    fn is_news(&mut self, now: Mono, refusal: Option<&str>) -> bool {
        let first = self.since.is_none();
        self.since.get_or_insert(now);
        let other = refusal.is_some() && self.refusal.as_deref() != refusal;
        if other {
            self.refusal = refusal.map(ToOwned::to_owned);
        }
        first || other
    }

    /// The peer is back: for how long it was away, if a line was logged about that.
    fn back(&mut self, now: Mono) -> Option<Duration> {
        self.refusal = None;
        self.since.take().map(|since| now.since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_away_takes_one_line_and_one_when_it_is_back() {
        let at = |seconds| Mono::ZERO + Duration::from_secs(seconds);
        let mut log = AwayLog::default();
        assert_eq!(log.back(at(0)), None, "the first connection is no news");
        assert!(log.is_news(at(1), None));
        assert!(!log.is_news(at(2), None) && !log.is_news(at(600), None));
        assert!(log.is_news(at(601), Some("another cluster")) && !log.is_news(at(602), Some("another cluster")));
        assert!(log.is_news(at(603), Some("another secret")));
        assert_eq!(log.back(at(605)), Some(Duration::from_secs(604)));
        assert!(log.is_news(at(606), None));
    }
}
