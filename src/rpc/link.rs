//! This shard's connections to one peer, and the calls over them.
//!
//! A call queues its frame and waits for the answer; while the peer is not connected, the frame waits for the
//! connection as long as its caller does, since a vote that goes out when a peer comes back saves an election. Dropping
//! a call takes its frame back, or forgets its answer, and frees its share of the bytes that a peer may leave
//! unanswered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{Either, select};
use tidewater_storage::env::{Env, Mono, Notify};
use tidewater_storage::model::{LaneId, NodeId, ReplicaId};

use super::frame::{self, Body, FRAME_BYTES_MAX, Frame};
use super::limits::{BULK_BYTES_MAX, URGENT_BODY_MAX, URGENT_BYTES_MAX};
use super::metrics::PeerCounts;
use super::outbox::Outbox;
use super::room::{Room, Share};
use super::{PeerAddress, PeerState, Rpc, RpcError, Service, connection};
use crate::raft::network::{Calling, PeerError, PeerRequest, PeerTransport};

/// Bytes of a frame around a call's body, at most.
pub(super) const OVERHEAD: usize = 64;
/// Requests up to this size count for the round-trip time.
const SMALL: usize = 4 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// The first attempt.
    Connecting,
    Up,
    /// The last attempt failed, or the connection broke.
    Down(String),
    /// One of the two refuses the other.
    Refused(String),
}

/// Both connections of this shard to a peer.
#[derive(Debug)]
pub(super) struct PeerLinks {
    urgent: Rc<Link>,
    bulk: Rc<Link>,
}

/// One connection to a peer, made again when it breaks.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) rpc: Rpc,
    pub(super) address: RefCell<PeerAddress>,
    /// `urgent` or `bulk`, for logs.
    pub(super) name: &'static str,
    pub(super) outbox: Outbox,
    pub(super) stopped: Cell<bool>,
    /// Ends a pause between attempts.
    pub(super) kick: Notify,
    pub(super) counts: LinkCounts,
    room: Rc<Room>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    next_id: Cell<u64>,
    status: RefCell<(Status, Mono)>,
    /// Moving average in ns; 0 before the first.
    rtt: Cell<u64>,
}

#[derive(Debug, Default)]
pub(super) struct LinkCounts {
    pub(super) connects: Cell<u64>,
    pub(super) connects_failed: Cell<u64>,
    pub(super) disconnects: Cell<u64>,
    pub(super) received: Cell<u64>,
    requests: Cell<u64>,
    failed: Cell<u64>,
    held_back: Cell<u64>,
}

pub(super) fn count(cell: &Cell<u64>, by: u64) {
    cell.set(cell.get() + by);
}

#[derive(Debug)]
struct Pending {
    answer: oneshot::Sender<Result<Body, Gone>>,
    since: Mono,
    small: bool,
}

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub(super) enum Gone {
    Unsent(String),
    Lost,
    Refused(String),
}

/// A request that waits for its answer, until dropped.
struct Asked {
    link: Rc<Link>,
    id: u64,
    answered: bool,
    _share: Share,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.link.pending.borrow_mut().remove(&self.id);
        if !self.answered {
            self.link.outbox.take_back(self.id);
            count(&self.link.counts.failed, 1);
        }
    }
}

impl Link {
    pub(super) fn new(rpc: &Rpc, address: PeerAddress, name: &'static str, bytes_max: usize) -> Rc<Self> {
        let now = rpc.shard.env.clock.now();
        Rc::new(Self {
            rpc: rpc.clone(),
            address: RefCell::new(address),
            name,
            outbox: Outbox::default(),
            stopped: Cell::new(false),
            kick: Notify::default(),
            counts: LinkCounts::default(),
            room: Room::new(bytes_max),
            pending: RefCell::default(),
            next_id: Cell::new(1),
            status: RefCell::new((Status::Connecting, now)),
            rtt: Cell::new(0),
        })
    }

    pub(super) fn env(&self) -> &Env {
        &self.rpc.shard.env
    }

    fn status(&self) -> Status {
        self.status.borrow().0.clone()
    }

    /// Takes note of a change. Requests of a peer that refuses do not wait.
    pub(super) fn set_status(&self, status: Status) {
        let mut current = self.status.borrow_mut();
        let changed = std::mem::discriminant(&current.0) != std::mem::discriminant(&status);
        let since = if changed { self.env().clock.now() } else { current.1 };
        let refused = if let Status::Refused(why) = &status { Some(why.clone()) } else { None };
        *current = (status, since);
        drop(current);
        if let Some(why) = refused {
            self.outbox.clear();
            self.end_all(&Gone::Refused(why));
        }
        if changed {
            self.rpc.shard.changed.notify_waiters();
        }
    }

    /// Requests of which a byte was sent have no answer any more; the others wait for the next connection.
    pub(super) fn connection_lost(&self) {
        let lost: Vec<_> = {
            let pending = self.pending.borrow();
            pending.keys().copied().filter(|id| !self.outbox.is_unsent(*id)).collect()
        };
        for id in lost {
            let gone = self.pending.borrow_mut().remove(&id);
            if let Some(gone) = gone {
                let _ = gone.answer.send(Err(Gone::Lost));
            }
        }
    }

    fn end_all(&self, why: &Gone) {
        for pending in self.pending.take().into_values() {
            let _ = pending.answer.send(Err(why.clone()));
        }
    }

    /// Takes an answer. False: no such request was ever sent.
    pub(super) fn answered(&self, frame: Frame) -> bool {
        if frame.id >= self.next_id.get() || matches!(frame.body, Body::Raft { .. } | Body::Call { .. }) {
            return false;
        }
        // Its caller may have given up.
        let pending = self.pending.borrow_mut().remove(&frame.id);
        if let Some(pending) = pending {
            if pending.small {
                let took = self.env().clock.now().since(pending.since).as_nanos() as u64;
                let before = self.rtt.get();
                self.rtt.set(if before == 0 { took } else { before - before / 8 + took / 8 });
            }
            let _ = pending.answer.send(Ok(frame.body));
        }
        true
    }

    /// Sends a request of about `bytes` and waits for its answer.
    async fn ask(self: &Rc<Self>, bytes: usize, make: impl FnOnce(u64) -> Frame) -> Result<Body, Gone> {
        count(&self.counts.requests, 1);
        let share = match self.room.try_take(bytes) {
            Some(share) => share,
            None => {
                count(&self.counts.held_back, 1);
                self.room.take(bytes).await
            }
        };
        if self.stopped.get() {
            return Err(Gone::Unsent("this broker has no connection to it any more".into()));
        }
        if let Status::Refused(why) = self.status() {
            return Err(Gone::Refused(why));
        }
        let id = self.next_id.replace(self.next_id.get() + 1);
        let (answer, receiver) = oneshot::channel();
        let pending = Pending { answer, since: self.env().clock.now(), small: bytes < SMALL };
        self.pending.borrow_mut().insert(id, pending);
        let mut asked = Asked { link: Rc::clone(self), id, answered: false, _share: share };
        self.outbox.push(id, frame::encode(&make(id)));
        let answer = receiver.await.unwrap_or(Err(Gone::Lost));
        asked.answered = answer.is_ok();
        answer
    }

    fn stop(&self) {
        self.stopped.set(true);
        self.kick.notify();
        self.outbox.close();
        self.end_all(&Gone::Lost);
    }
}

impl PeerLinks {
    fn new(rpc: &Rpc, address: &PeerAddress) -> Self {
        let urgent = Link::new(rpc, address.clone(), "urgent", URGENT_BYTES_MAX);
        let bulk = Link::new(rpc, address.clone(), "bulk", BULK_BYTES_MAX);
        for link in [&urgent, &bulk] {
            drop(rpc.shard.env.tasks.spawn("rpc connection", connection::keep(Rc::clone(link))));
        }
        Self { urgent, bulk }
    }

    fn both(&self) -> [&Rc<Link>; 2] {
        [&self.urgent, &self.bulk]
    }

    pub(super) fn address(&self) -> PeerAddress {
        self.urgent.address.borrow().clone()
    }

    pub(super) fn stop(&self) {
        self.both().into_iter().for_each(|link| link.stop());
    }

    pub(super) fn state(&self) -> PeerState {
        let address = self.address();
        let (status, since) = self.urgent.status.borrow().clone();
        let refused = self.both().into_iter().find_map(|link| match link.status() {
            Status::Refused(why) => Some(why),
            _ => None,
        });
        PeerState {
            node: address.node,
            address: format!("{}:{}", address.host, address.port),
            connected: status == Status::Up,
            since_ms: self.urgent.env().clock.now().since(since).as_millis() as u64,
            rtt: Some(self.urgent.rtt.get()).filter(|rtt| *rtt > 0).map(Duration::from_nanos),
            in_flight_bytes: self.both().into_iter().map(|link| link.room.used() as u64).sum(),
            refused,
            lost: if let Status::Down(why) = status { Some(why) } else { None },
        }
    }

    pub(super) fn counts(&self) -> PeerCounts {
        let sum = |of: fn(&Link) -> u64| self.both().into_iter().map(|link| of(link)).sum();
        PeerCounts {
            node: self.address().node,
            connected: self.urgent.status() == Status::Up,
            connects: sum(|link| link.counts.connects.get()),
            connects_failed: sum(|link| link.counts.connects_failed.get()),
            disconnects: sum(|link| link.counts.disconnects.get()),
            requests: sum(|link| link.counts.requests.get()),
            requests_failed: sum(|link| link.counts.failed.get()),
            sent_bytes: sum(|link| link.outbox.sent().0),
            received_bytes: sum(|link| link.counts.received.get()),
            writes: sum(|link| link.outbox.sent().1),
            frames_sent: sum(|link| link.outbox.sent().2),
            held_back: sum(|link| link.counts.held_back.get()),
            in_flight_bytes: sum(|link| link.room.used() as u64),
            rtt_us: self.urgent.rtt.get() / 1000,
        }
    }
}

pub(super) fn set_peers(rpc: &Rpc, peers: Vec<PeerAddress>) {
    if rpc.shard.stopping.get() {
        return;
    }
    let me = rpc.shard.node.member().map(|member| member.node);
    let mut links = rpc.shard.links.borrow_mut();
    let mut gone = std::mem::take(&mut *links);
    for peer in peers.into_iter().filter(|peer| Some(peer.node) != me) {
        let known = gone.remove(&peer.node);
        let kept = known.filter(|known| {
            let before = known.address();
            let same = (&before.host, before.port) == (&peer.host, peer.port);
            if !same {
                known.stop();
            } else if before != peer {
                // What is known about its data directory may end a refusal.
                for link in known.both() {
                    link.address.replace(peer.clone());
                    link.kick.notify();
                }
            }
            same
        });
        links.insert(peer.node, kept.unwrap_or_else(|| PeerLinks::new(rpc, &peer)));
    }
    drop(links);
    let changed = !gone.is_empty();
    gone.into_values().for_each(|links| links.stop());
    if changed {
        rpc.shard.changed.notify_waiters();
    }
}

pub(super) async fn call(
    rpc: &Rpc,
    to: NodeId,
    kind: Service,
    body: Bytes,
    timeout: Duration,
) -> Result<Bytes, RpcError> {
    let broker = to.to_string();
    let away = |why: String| RpcError::Unreachable { broker: to.to_string(), why };
    if body.len() + OVERHEAD > FRAME_BYTES_MAX {
        return Err(RpcError::TooLarge { bytes: body.len(), max: FRAME_BYTES_MAX - OVERHEAD });
    }
    let link = match rpc.shard.links.borrow().get(&to) {
        None => return Err(away("it is not in the list of brokers".into())),
        Some(links) if kind == Service::Rebuild || body.len() > URGENT_BODY_MAX => Rc::clone(&links.bulk),
        Some(links) => Rc::clone(&links.urgent),
    };
    match link.status() {
        Status::Down(why) => return Err(away(why)),
        Status::Refused(why) => return Err(RpcError::Refused { broker, why }),
        Status::Connecting | Status::Up => {}
    }
    let deadline = rpc.shard.deadlines.until(rpc.shard.env.clock.now() + timeout);
    let ask = link.ask(OVERHEAD + body.len(), |id| Frame { id, body: Body::Call { service: kind.code(), body } });
    match select(std::pin::pin!(ask), deadline).await {
        Either::Left((answer, _)) => called(answer, broker),
        Either::Right(((), _)) => Err(RpcError::TimedOut { broker, after: timeout }),
    }
}

pub(super) fn called(answer: Result<Body, Gone>, broker: String) -> Result<Bytes, RpcError> {
    match answer {
        Ok(Body::Answer(Ok(body))) => Ok(body),
        Ok(Body::Answer(Err(why))) | Err(Gone::Refused(why)) => Err(RpcError::Refused { broker, why }),
        Ok(_) => Err(RpcError::Refused { broker, why: "it sent the answer to another kind of request".into() }),
        Err(Gone::Unsent(why)) => Err(RpcError::Unreachable { broker, why }),
        Err(Gone::Lost) => Err(RpcError::Lost { broker }),
    }
}

/// The requests of lanes.
pub(super) struct Transport {
    rpc: Rpc,
}

impl Transport {
    pub(super) fn new(rpc: &Rpc) -> Self {
        Self { rpc: rpc.clone() }
    }
}

impl PeerTransport for Transport {
    fn call(&self, lane: LaneId, to: ReplicaId, from: ReplicaId, request: PeerRequest) -> Calling {
        let link = self.rpc.shard.links.borrow().get(&to.node).map(|links| {
            let carries = matches!(&request, PeerRequest::Append { entries, .. } if !entries.is_empty());
            Rc::clone(if carries { &links.bulk } else { &links.urgent })
        });
        Box::pin(async move {
            let unreachable = || PeerError::Unreachable { replica: to, lane };
            let link = link.ok_or_else(unreachable)?;
            let bytes = frame::request_bytes(&request);
            if bytes > FRAME_BYTES_MAX {
                tracing::error!(%lane, %to, bytes, "a request to a replica is larger than a frame; it cannot be replicated");
                return Err(unreachable());
            }
            let make = |id| Frame { id, body: Body::Raft { lane, to, from, request } };
            match link.ask(bytes, make).await {
                Ok(Body::RaftAnswer(Ok(reply))) => Ok(reply),
                Ok(Body::RaftAnswer(Err(fault))) => Err(fault.error(lane, to)),
                Ok(_) => Err(PeerError::Nonsense { replica: to, lane }),
                Err(_) => Err(unreachable()),
            }
        })
    }
}
