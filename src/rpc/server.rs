//! The accepting side: handshakes of peers, their requests, the answers.
//!
//! One task of each connection reads and starts requests, another sends answers. A request's handler is a task of its
//! own, so that a slow one holds up only its connection's share of requests in work; frames are not read while too many
//! requests or received bytes are in work. What a peer may do wrong ends its connection and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::env::Env;
use tidewater_storage::model::ShardId;
use tracing::{debug, info, warn};

use super::connection::{ReadEnd, Throttle, next_frame, within};
use super::frame::{self, Body, Frame, FrameBuffer, PeerFault};
use super::handshake::{self, Established, HandshakeError, Hello, Server};
use super::limits::{
    ANSWERS_MAX, CALL_WEIGHT, HANDSHAKE_MAX, IN_WORK_MAX, KEEPALIVE, RECEIVED_BYTES_MAX, STRANGER_BYTES_MAX,
    UNACKNOWLEDGED_MAX,
};
use super::link::count;
use super::metrics::{PeerCounts, RpcCounts};
use super::outbox::Outbox;
use super::peers::{Admission, Seat};
use super::room::{Room, Share};
use super::wire::{Wire, WireError, WireParts};
use super::{Peer, Rpc, RpcNode, Service};
use crate::net::listen::{Accepted, Listener};
use crate::net::stream::Stream;
use crate::shard::mesh::{Inbox, Mesh};

/// How long accepting pauses when the system refuses (no file handles left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer's connection on its way to its shard. A message.
#[derive(Debug)]
pub struct RpcArrival {
    stage: Stage,
    seat: Seat,
    /// The shard that it is sent to, and the way to others.
    here: ShardId,
    mesh: Mesh<RpcArrival>,
}

#[derive(Debug)]
enum Stage {
    Accepted(Accepted),
    /// Its handshake was on another shard.
    Shaken {
        wire: WireParts,
        address: SocketAddr,
        established: Box<Established>,
        admission: Option<Admission>,
    },
}

/// Accepts on the calling shard and hands connections to the shards in turn. Runs until the task is cancelled or a
/// shard has stopped.
pub async fn accept(env: Env, listener: Listener, mesh: Mesh<RpcArrival>, node: RpcNode) {
    let mut full = false;
    let mut next = 0;
    loop {
        let accepted = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept connections of brokers; raise the limit of open files (ulimit -n) if it says so");
                env.tasks.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(seat) = node.seat() else {
            if !std::mem::replace(&mut full, true) {
                warn!("too many connections on --rpc-addr; new ones are closed until others go");
            }
            drop(accepted.into_stream());
            continue;
        };
        full = false;
        let shard = ShardId(next % mesh.shards().max(1));
        next = (next + 1) % mesh.shards().max(1);
        let arrival = RpcArrival { stage: Stage::Accepted(accepted), seat, here: shard, mesh: mesh.clone() };
        if mesh.send(shard, arrival).await.is_err() {
            info!("shards have stopped; no longer accepting connections of brokers");
            return;
        }
    }
}

/// What the accepting side of one shard keeps.
#[derive(Debug)]
pub(super) struct ServerState {
    open: RefCell<BTreeMap<u64, Rc<Incoming>>>,
    next_id: Cell<u64>,
    received: Rc<Room>,
    log: Throttle,
    accepted: Cell<u64>,
    handshakes_refused: Cell<u64>,
    cut_off: Cell<u64>,
    requests: Cell<u64>,
    requests_refused: Cell<u64>,
    received_bytes: Cell<u64>,
    sent_bytes: Cell<u64>,
    in_work: Cell<u64>,
}

impl Default for ServerState {
    fn default() -> Self {
        Self {
            open: RefCell::default(),
            next_id: Cell::new(0),
            received: Room::new(RECEIVED_BYTES_MAX),
            log: Throttle::default(),
            accepted: Cell::default(),
            handshakes_refused: Cell::default(),
            cut_off: Cell::default(),
            requests: Cell::default(),
            requests_refused: Cell::default(),
            received_bytes: Cell::default(),
            sent_bytes: Cell::default(),
            in_work: Cell::default(),
        }
    }
}

/// One connection of a peer.
#[derive(Debug)]
struct Incoming {
    wire: Wire,
    outbox: Outbox,
    /// Requests whose handlers have not finished, by weight.
    in_work: Cell<usize>,
}

impl ServerState {
    pub(super) fn counts(&self, peers: Vec<PeerCounts>) -> RpcCounts {
        let open = self.open.borrow();
        let sending: u64 = open.values().map(|incoming| incoming.outbox.sent().0).sum();
        RpcCounts {
            peers,
            accepted_open: open.len() as u64,
            accepted: self.accepted.get(),
            handshakes_refused: self.handshakes_refused.get(),
            cut_off: self.cut_off.get(),
            requests_received: self.requests.get(),
            requests_refused: self.requests_refused.get(),
            received_bytes: self.received_bytes.get(),
            sent_bytes: self.sent_bytes.get() + sending,
            requests_in_work: self.in_work.get(),
            received_bytes_held: self.received.used() as u64,
        }
    }

    pub(super) fn stop(&self) {
        for incoming in self.open.borrow().values() {
            incoming.outbox.close();
            incoming.wire.close();
        }
    }
}

impl Rpc {
    /// Serves the connections that arrive in `inbox`, until every sender of it is gone or the shard stops.
    pub fn serve_connections(&self, inbox: Inbox<RpcArrival>) {
        let rpc = self.clone();
        drop(self.shard.env.tasks.spawn("rpc arrivals", async move {
            while let Some(arrival) = inbox.recv().await {
                if !rpc.shard.stopping.get() {
                    let here = rpc.clone();
                    drop(rpc.shard.env.tasks.spawn("rpc incoming", async move { take_in(&here, arrival).await }));
                }
            }
        }));
    }
}

/// One connection from its first byte to its last, or to the shard that it belongs on.
async fn take_in(rpc: &Rpc, arrival: RpcArrival) {
    let RpcArrival { stage, seat, here, mesh } = arrival;
    let ended = |error: std::io::Error| debug!(%error, "a broker's connection ended before it was served");
    let (wire, address, established, admission) = match stage {
        Stage::Accepted(accepted) => {
            let stream = match accepted.into_stream() {
                Ok(stream) => stream,
                Err(error) => return ended(error),
            };
            let address = stream.peer();
            let Some((wire, established, admission)) = receive(rpc, stream).await else { return };
            let belongs = ShardId(established.peer.shard % mesh.shards().max(1));
            if belongs != here {
                let wire = match wire.into_parts() {
                    Ok(wire) => wire,
                    Err(error) => return ended(error),
                };
                let stage = Stage::Shaken { wire, address, established: Box::new(established), admission };
                let arrival = RpcArrival { stage, seat, here: belongs, mesh: mesh.clone() };
                let _ = mesh.send(belongs, arrival).await;
                return;
            }
            (wire, address, established, admission)
        }
        Stage::Shaken { wire, address, established, admission } => match Wire::from_parts(wire) {
            Ok(wire) => (wire, address, *established, admission),
            Err(error) => return ended(error),
        },
    };
    // Each inbox lives as long as its senders.
    drop(mesh);
    serve_peer(rpc, wire, address, &established, admission).await;
    drop(seat);
}

/// Shakes hands; logs and counts why if that fails.
async fn receive(rpc: &Rpc, stream: Stream) -> Option<(Wire, Established, Option<Admission>)> {
    let server = &rpc.shard.server;
    let address = stream.peer();
    count(&server.accepted, 1);
    let shaken = async {
        stream.give_up_after(UNACKNOWLEDGED_MAX, KEEPALIVE).map_err(WireError::from)?;
        shake_hands(rpc, stream).await
    };
    let failed = match within(rpc, HANDSHAKE_MAX, Box::pin(shaken)).await {
        Some(Ok(done)) => return Some(done),
        failed => failed,
    };
    count(&server.handshakes_refused, 1);
    if server.log.is_due(rpc) {
        match failed {
            Some(Err(why)) => warn!(%address, %why, "no connection with a broker"),
            _ => warn!(%address, "no connection with a broker: it did not finish the handshake in {HANDSHAKE_MAX:?}"),
        }
    }
    None
}

/// A connection that has shaken hands, to its end.
async fn serve_peer(
    rpc: &Rpc,
    wire: Wire,
    address: SocketAddr,
    established: &Established,
    admission: Option<Admission>,
) {
    let server = &rpc.shard.server;
    let member = established.peer.member;
    let peer = Peer {
        node: member.map(|member| member.node),
        incarnation: member.map(|member| member.incarnation).unwrap_or_default(),
        birth: established.peer.birth,
        address,
    };
    debug!(%address, broker = established.peer.name(), version = established.peer.version, "a broker connected");
    let incoming = Rc::new(Incoming { wire, outbox: Outbox::default(), in_work: Cell::new(0) });
    let id = server.next_id.replace(server.next_id.get() + 1);
    server.open.borrow_mut().insert(id, Rc::clone(&incoming));
    let why = if rpc.shard.stopping.get() { ReadEnd::Closed } else { serve(rpc, &incoming, peer, admission).await };
    server.open.borrow_mut().remove(&id);
    count(&server.sent_bytes, incoming.outbox.sent().0);
    if why.is_garbage() {
        count(&server.cut_off, 1);
        if server.log.is_due(rpc) {
            warn!(%address, broker = established.peer.name(), %why, "cut off a broker's connection");
        }
    } else {
        debug!(%address, broker = established.peer.name(), %why, "a broker's connection ended");
    }
}

async fn shake_hands(rpc: &Rpc, stream: Stream) -> Result<(Wire, Established, Option<Admission>), WireError> {
    let node = &rpc.shard.node;
    let wire = Wire::server(stream, node.tls()).await?;
    let done = converse(rpc, &wire).await;
    if let Err(WireError::Handshake(error)) = &done
        && let Some(words) = handshake::answer_to(error)
    {
        let _ = wire.send(&words).await;
    }
    let (established, admission) = done?;
    Ok((wire, established, admission))
}

async fn converse(rpc: &Rpc, wire: &Wire) -> Result<(Established, Option<Admission>), WireError> {
    let node = &rpc.shard.node;
    let (kind, body) = wire.receive().await?;
    let binding = wire.binding()?;
    let known = |theirs: &Hello| is_known_directory(rpc, theirs);
    let (server, welcome) =
        Server::hello(&node.hello(None, rpc.shard.here.get()), node.secret(), &binding, kind, &body, known)?;
    wire.send(&welcome).await?;
    let (kind, body) = wire.receive().await?;
    let (established, accept) = server.proved(kind, &body)?;
    let admission = match &established.peer.member {
        Some(member) => Some(node.admit(member.node, &established.peer).map_err(HandshakeError::Unfit)?),
        None => None,
    };
    wire.send(&accept).await?;
    Ok((established, admission))
}

/// Is the peer the data directory that has its node id, as far as this broker knows? Newer incarnations it may not
/// know.
fn is_known_directory(rpc: &Rpc, theirs: &Hello) -> Result<(), String> {
    let Some(member) = &theirs.member else { return Ok(()) };
    let known = rpc.shard.links.borrow().get(&member.node).and_then(|links| links.address().birth);
    match known {
        Some((birth, incarnation)) if birth != theirs.birth && member.incarnation <= incarnation => Err(format!(
            "broker {} is the data directory with birth id {birth} (incarnation {incarnation}), and this one has birth \
             id {}: it was replaced, or is a second one with the same node id; start it with an empty data directory",
            member.node, theirs.birth
        )),
        _ => Ok(()),
    }
}

/// Serves a peer that has shaken hands; returns why it ended.
async fn serve(rpc: &Rpc, incoming: &Rc<Incoming>, peer: Peer, admission: Option<Admission>) -> ReadEnd {
    let server = &rpc.shard.server;
    let sender = {
        let incoming = Rc::clone(incoming);
        rpc.shard.env.tasks.spawn("rpc sender", async move {
            let _ = incoming.outbox.send_all(&incoming.wire).await;
            // Wakes the reader.
            incoming.outbox.close();
            incoming.wire.close();
        })
    };
    let mut frames = if peer.node.is_some() { FrameBuffer::default() } else { FrameBuffer::up_to(STRANGER_BYTES_MAX) };
    let end = loop {
        while !incoming.outbox.is_closed()
            && (incoming.in_work.get() >= IN_WORK_MAX || incoming.outbox.queued() >= ANSWERS_MAX)
        {
            incoming.outbox.moved.notified().await;
        }
        let mut replaced = false;
        let came = |n| {
            count(&server.received_bytes, n as u64);
            replaced |= admission.as_ref().is_some_and(|admission| !admission.heard());
        };
        let next = next_frame(rpc, &incoming.wire, &mut frames, Some(&server.received), came).await;
        let (frame, share) = match next {
            _ if replaced => break ReadEnd::Replaced,
            Ok(next) => next,
            Err(end) => break end,
        };
        match frame::decode(&frame) {
            Ok(frame) => {
                if let Err(end) = start(rpc, incoming, peer, frame, share) {
                    break end;
                }
            }
            Err(error) => break ReadEnd::Frame(error),
        }
        if incoming.wire.wants_flush() {
            incoming.outbox.flush();
        }
    };
    incoming.outbox.close();
    incoming.wire.close();
    sender.await;
    end
}

/// Starts the handler of a request.
fn start(rpc: &Rpc, incoming: &Rc<Incoming>, peer: Peer, frame: Frame, share: Option<Share>) -> Result<(), ReadEnd> {
    let shard = &rpc.shard;
    let server = &shard.server;
    count(&server.requests, 1);
    let id = frame.id;
    let weight = if matches!(frame.body, Body::Call { .. }) { CALL_WEIGHT } else { 1 };
    let answer: futures::future::LocalBoxFuture<'static, Body> = match frame.body {
        Body::Raft { lane, to, from, request } => {
            let here = shard.node.member().map(|member| member.node);
            let handler = shard.raft.borrow().clone();
            match handler {
                _ if peer.node != Some(from.node) || here != Some(to.node) => {
                    Box::pin(std::future::ready(Body::RaftAnswer(Err(PeerFault::Nonsense))))
                }
                None => Box::pin(std::future::ready(Body::RaftAnswer(Err(PeerFault::NotRunning)))),
                Some(handler) => {
                    let answer = handler(lane, to, from, request);
                    Box::pin(async move { Body::RaftAnswer(answer.await.map_err(|error| PeerFault::of(&error))) })
                }
            }
        }
        Body::Call { service, body } => call(rpc, peer, service, body),
        Body::RaftAnswer(_) | Body::Answer(_) => return Err(ReadEnd::Order),
    };
    incoming.in_work.set(incoming.in_work.get() + weight);
    server.in_work.set(server.in_work.get() + 1);
    let (here, incoming) = (rpc.clone(), Rc::clone(incoming));
    drop(shard.env.tasks.spawn("rpc request", async move {
        let body = answer.await;
        drop(share);
        let server = &here.shard.server;
        server.in_work.set(server.in_work.get() - 1);
        incoming.in_work.set(incoming.in_work.get() - weight);
        incoming.outbox.moved.notify();
        if matches!(body, Body::Answer(Err(_)) | Body::RaftAnswer(Err(_))) {
            count(&server.requests_refused, 1);
        }
        incoming.outbox.push(id, frame::encode(&Frame { id, body }));
    }));
    Ok(())
}

/// Calls a service's handler.
fn call(rpc: &Rpc, peer: Peer, service: u8, body: Bytes) -> futures::future::LocalBoxFuture<'static, Body> {
    let refuse = |why: String| -> futures::future::LocalBoxFuture<'static, Body> {
        Box::pin(std::future::ready(Body::Answer(Err(why))))
    };
    let Some(kind) = Service::of(service) else {
        return refuse(format!(
            "this broker's binary (version {}) does not know service {service}; it is older than the caller's",
            env!("CARGO_PKG_VERSION")
        ));
    };
    if peer.node.is_none() && kind != Service::Join {
        return refuse(format!("a broker without a cluster may only ask to join, not for {}", kind.name()));
    }
    let handler = rpc.shard.services.borrow().get(&service).cloned();
    let Some(handler) = handler else {
        return refuse(format!("this broker does not serve {} requests now; ask again", kind.name()));
    };
    let answer = handler(peer, body);
    Box::pin(async move {
        let answer = answer.await;
        debug_assert!(
            answer.as_ref().map_or(0, Bytes::len) + 64 <= frame::FRAME_BYTES_MAX,
            "an answer is larger than a frame"
        );
        match answer {
            Ok(body) if body.len() + 64 > frame::FRAME_BYTES_MAX => {
                Body::Answer(Err(format!("the answer has {} bytes, more than a frame", body.len())))
            }
            Ok(body) => Body::Answer(Ok(body)),
            Err(refusal) => Body::Answer(Err(refusal.0)),
        }
    })
}
