//! The connection of one life of a broker to the others: the frames of `rpc::frame` over the simulated network,
//! requests with an id, answered or not.
//!
//! Owns: matching answers to requests. Notes votes that leave this broker. A late answer to an earlier life finds no
//! request: ids begin at random.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use tidewater::controller::client::ControllerHandle;
use tidewater::node::lanes::Lanes;
use tidewater::raft::network::{AppendReply, Calling, PeerError, PeerReply, PeerRequest, PeerTransport};
use tidewater::rebuild::{RebuildCalls, RebuildSource};
use tidewater::rpc::Service;
use tidewater::rpc::frame::{self, Body, Frame, FrameBuffer, PeerFault};
use tidewater_storage::env::Env;
use tidewater_storage::env::net_sim::SimNet;
use tidewater_storage::model::{LaneId, NodeId, ReplicaId};

use super::defect::Defect;
use super::world::Cluster;

const REBUILD: u8 = Service::Rebuild as u8;
const CONTROLLER: u8 = Service::Controller as u8;
const LEADERS: u8 = Service::Leaders as u8;
/// For one request of a rebuild.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// One life's connection. Shard-local.
pub(crate) struct Wire {
    node: u32,
    env: Env,
    net: SimNet<Bytes>,
    cluster: Weak<Cluster>,
    defect: Option<Defect>,
    lanes: Rc<Lanes>,
    source: Rc<RebuildSource>,
    controller: RefCell<Option<ControllerHandle>>,
    /// Calls that have arrived: a connection of brokers delivers each once, also where the network doubles messages.
    called: RefCell<BTreeSet<(u32, u64)>>,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Body>>>,
    next: Cell<u64>,
}

/// Ends the wait for an answer when the call is dropped.
struct Waiting {
    wire: Rc<Wire>,
    id: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.wire.waiting.borrow_mut().remove(&self.id);
    }
}

/// A request to a replica here.
struct Asked {
    lane: LaneId,
    to: ReplicaId,
    from: ReplicaId,
    request: PeerRequest,
}

impl Wire {
    /// Requests reach the groups of `lanes` as these start.
    pub(crate) fn start(
        cluster: &Rc<Cluster>,
        env: &Env,
        node: u32,
        lanes: &Rc<Lanes>,
        source: Rc<RebuildSource>,
    ) -> Rc<Self> {
        let wire = Rc::new(Self {
            node,
            env: env.clone(),
            net: cluster.net.clone(),
            cluster: Rc::downgrade(cluster),
            defect: cluster.plan.defect,
            lanes: Rc::clone(lanes),
            source,
            controller: RefCell::default(),
            called: RefCell::default(),
            waiting: RefCell::default(),
            next: Cell::new(env.rng.next_u64()),
        });
        let (inbox, this) = (cluster.net.attach(node), Rc::clone(&wire));
        drop(env.tasks.spawn("wire", async move {
            loop {
                let (from, bytes) = inbox.recv().await;
                Rc::clone(&this).take(from, &bytes);
            }
        }));
        wire
    }

    fn send(&self, to: u32, id: u64, body: Body) {
        let pieces = frame::encode(&Frame { id, body });
        let mut bytes = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        self.net.send(self.node, to, bytes.freeze());
    }

    fn take(self: Rc<Self>, from: u32, bytes: &[u8]) {
        let mut buffer = FrameBuffer::default();
        buffer.gather(bytes);
        let whole = buffer.next_frame().expect("a frame has a length").expect("a message is a frame");
        let frame = frame::decode(&whole).expect("frames arrive as they were sent");
        match frame.body {
            Body::Raft { lane, to, from: replica, request } => {
                let (env, asked) = (self.env.clone(), Asked { lane, to, from: replica, request });
                drop(env.tasks.spawn("wire answer", async move { self.answer(from, frame.id, asked).await }));
            }
            Body::Call { service, body } => {
                if !self.called.borrow_mut().insert((from, frame.id)) {
                    return;
                }
                let env = self.env.clone();
                drop(env.tasks.spawn("wire call", async move {
                    let answer = self.called(service, &body).await;
                    self.send(from, frame.id, Body::Answer(answer));
                }));
            }
            answer @ (Body::RaftAnswer(_) | Body::Answer(_)) => {
                let waiting = self.waiting.borrow_mut().remove(&frame.id);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(answer);
                }
            }
        }
    }

    /// From now on others reach the controller of this broker.
    pub(crate) fn set_controller(&self, handle: ControllerHandle) {
        self.controller.replace(Some(handle));
    }

    async fn called(&self, service: u8, body: &[u8]) -> Result<Bytes, String> {
        if service == REBUILD {
            return self.source.answer(body).await;
        }
        let controller = self.controller.borrow().clone().ok_or("no controller runs here yet")?;
        let answered = match service {
            CONTROLLER => controller.serve_peer(body).await,
            LEADERS => controller.take_report(body).await.map(|()| Bytes::new()),
            _ => unreachable!("no broker of a simulation calls service {service}"),
        };
        Ok(answered.expect("requests arrive as they were sent"))
    }

    /// Calls a service of another broker; `None` when this one ends before the answer.
    pub(crate) fn call(
        self: &Rc<Self>,
        to: u32,
        service: Service,
        body: Bytes,
    ) -> impl Future<Output = Option<Result<Bytes, String>>> + use<> {
        let asked = self.ask(to, Body::Call { service: service as u8, body });
        async move {
            match asked.await? {
                Body::Answer(answer) => Some(answer),
                other => unreachable!("a call is answered with {other:?}"),
            }
        }
    }

    /// Sends a request at once; gives its answer, or `None` when this broker ends before.
    fn ask(self: &Rc<Self>, to: u32, body: Body) -> impl Future<Output = Option<Body>> + use<> {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        let waiting = Waiting { wire: Rc::clone(self), id };
        self.send(to, id, body);
        async move {
            let _waiting = waiting;
            answer.await.ok()
        }
    }

    async fn answer(&self, back: u32, id: u64, asked: Asked) {
        let Asked { lane, to, from, request } = asked;
        let candidate = if let PeerRequest::Vote { vote, .. } = &request { Some(vote.replica) } else { None };
        let forgets = candidate.is_some() && self.defect == Some(Defect::VoteWithoutSync);
        if let (true, Some(cluster)) = (forgets, self.cluster.upgrade()) {
            cluster.machines.disk_of(self.node).lie(".journal");
        }
        let reply = self.lanes.handle(lane, to, from, request).await;
        let Some(cluster) = self.cluster.upgrade() else { return };
        if forgets {
            cluster.machines.disk_of(self.node).tell_the_truth();
        }
        let granted = match (candidate, &reply) {
            (Some(candidate), Ok(PeerReply::Vote { vote, granted: true, .. })) => {
                cluster.record.granted(lane, to, vote.term, candidate, cluster.now_ms());
                true
            }
            _ => false,
        };
        self.send(back, id, Body::RaftAnswer(reply.map_err(|error| PeerFault::of(&error))));
        if granted {
            cluster.voted(self.node);
        }
    }
}

/// Requests of a rebuild, all to one broker.
pub(crate) struct Calls {
    pub(crate) wire: Rc<Wire>,
    pub(crate) to: u32,
}

impl RebuildCalls for Calls {
    fn call(&self, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let asked = self.wire.ask(self.to, Body::Call { service: REBUILD, body: request });
            match crate::world::within(&self.wire.env, ANSWER_WITHIN, asked).await.flatten() {
                Some(Body::Answer(answer)) => answer,
                _ => Err("no answer in time".to_owned()),
            }
        })
    }
}

pub(crate) fn node_id(node: u32) -> NodeId {
    NodeId(i32::try_from(node).expect("small"))
}

/// The replica of every lane on the broker's first disk.
pub(crate) fn replica(node: u32) -> ReplicaId {
    ReplicaId::first(node_id(node))
}

fn machine(replica: ReplicaId) -> u32 {
    u32::try_from(replica.node.0).expect("a broker's id")
}

/// The wire as Raft uses it.
pub(crate) struct Transport(pub(crate) Rc<Wire>);

impl PeerTransport for Transport {
    fn call(&self, lane: LaneId, to: ReplicaId, from: ReplicaId, request: PeerRequest) -> Calling {
        let wire = Rc::clone(&self.0);
        let lies = wire.defect.is_some_and(|defect| defect.lies_for(&request));
        Box::pin(async move {
            if let (PeerRequest::Append { entries, .. }, Some(cluster)) = (&request, wire.cluster.upgrade())
                && wire.defect == Some(Defect::AnswerByWatermark)
            {
                cluster.placed(wire.node, entries);
            }
            let answer = wire.ask(machine(to), Body::Raft { lane, to, from, request });
            if lies {
                return Ok(PeerReply::Append(AppendReply::Stored));
            }
            match answer.await {
                Some(Body::RaftAnswer(reply)) => reply.map_err(|fault| fault.error(lane, to)),
                _ => Err(PeerError::Unreachable { replica: to, lane }),
            }
        })
    }
}
