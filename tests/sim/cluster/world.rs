//! The world of a run: machines with a disk and clocks each, the network between them, one bucket, and clients that
//! live on. Nothing but disks, bucket and what the controller's replicas know outlives a broker.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tidewater::partition::message::PartitionAddress;
use tidewater::partition::state::command::LaneOp;
use tidewater_storage::env::Env;
use tidewater_storage::env::net_sim::SimNet;
use tidewater_storage::env::sim::World;
use tidewater_storage::journal::JournalEntry;
use tidewater_storage::model::{LaneId, LeaderEpoch, Offset, PartitionId, ReplicaId, ReplicaIncarnation, Term};
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
use tidewater_tiering::store::{Faults, SimBucket};
use uuid::Uuid;

use super::broker::Broker;
use super::controllers::Decisions;
use super::images::{Images, Known};
use super::plan::{ClusterPlan, Whom};
use super::record::Record;
use super::wire::replica;
use crate::history::{History, body};

/// Machines that are no broker.
const CLIENTS: u32 = 90;
const BUCKET: u32 = 91;
/// After a fault of its disk a broker may die of it for so long.
const EXCUSED: Duration = Duration::from_secs(20);

/// A partition that clients know.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    /// The history's number for it.
    pub(crate) number: i32,
    pub(crate) address: PartitionAddress,
}

/// A machine for a broker.
#[derive(Default)]
pub(crate) struct Slot {
    broker: RefCell<Option<Rc<Broker>>>,
    lives: Cell<u64>,
    alive: Cell<bool>,
    excused_until: Cell<u64>,
    pub(crate) known: Known,
    /// With which the broker came to its disk.
    incarnation: Cell<ReplicaIncarnation>,
    /// Its power is cut when it next votes; how long it is down.
    ends_at_vote: Cell<Option<u64>>,
}

pub(crate) struct Cluster {
    pub(crate) plan: ClusterPlan,
    pub(crate) machines: World,
    pub(crate) clients: Env,
    pub(crate) bucket: SimBucket,
    pub(crate) net: SimNet<Bytes>,
    pub(crate) history: History,
    pub(crate) record: Rc<Record>,
    pub(crate) images: Images,
    pub(crate) decisions: Decisions,
    /// The greatest leader epoch that a newest leader showed, by the history's number of the partition.
    pub(crate) epochs: RefCell<BTreeMap<i32, LeaderEpoch>>,
    spots: RefCell<BTreeMap<i32, Spot>>,
    slots: BTreeMap<u32, Slot>,
    /// For a defect: offsets that a leader proposed for a batch.
    placed: RefCell<BTreeMap<(u32, PartitionId, Bytes), Offset>>,
    deaths: (flume::Sender<(u32, u64, String)>, flume::Receiver<(u32, u64, String)>),
}

/// Reports that a broker dies, in one of its lives.
#[derive(Clone)]
pub(crate) struct Obituaries {
    node: u32,
    life: u64,
    sender: flume::Sender<(u32, u64, String)>,
}

impl Obituaries {
    pub(crate) fn note(&self, why: String) {
        let _ = self.sender.send((self.node, self.life, why));
    }
}

impl Cluster {
    pub(crate) fn new(plan: ClusterPlan) -> Rc<Self> {
        let machines = World::new(plan.seed);
        let clients = machines.env_of(CLIENTS);
        let bucket = SimBucket::new(&machines.env_of(BUCKET), Faults::default());
        let net = SimNet::new(&machines);
        let slots = plan.all_nodes().map(|node| (node, Slot::default())).collect();
        Rc::new(Self {
            plan,
            machines,
            clients,
            bucket,
            net,
            history: History::default(),
            record: Rc::default(),
            images: Images::new(),
            decisions: Decisions::default(),
            epochs: RefCell::default(),
            spots: RefCell::default(),
            slots,
            placed: RefCell::default(),
            deaths: flume::unbounded(),
        })
    }

    pub(crate) fn home(&self) -> Home {
        Home { cluster: ClusterId(Uuid::from_u128(0x51)), epoch: LineageEpoch(1) }
    }

    pub(crate) fn slot(&self, node: u32) -> &Slot {
        self.slots.get(&node).expect("a broker's number")
    }

    /// The replica of every lane on this machine's disk.
    pub(crate) fn replica(&self, node: u32) -> ReplicaId {
        ReplicaId { incarnation: self.slot(node).incarnation.get(), ..replica(node) }
    }

    /// Is the broker's process there, whether it serves or not?
    pub(crate) fn is_alive(&self, node: u32) -> bool {
        self.slot(node).alive.get()
    }

    /// The broker ends, its disk is lost, and the controller takes an empty one in its place.
    pub(crate) fn replace(self: &Rc<Self>, node: u32) {
        self.end(node, true);
        self.machines.wipe_node(node);
        self.slot(node).incarnation.set(self.images.replace(self, node));
    }

    /// The broker on this machine, if it serves.
    pub(crate) fn broker(&self, node: u32) -> Option<Rc<Broker>> {
        self.slot(node).broker.borrow().clone()
    }

    pub(crate) fn serving(&self) -> Vec<(u32, Rc<Broker>)> {
        self.plan.all_nodes().filter_map(|node| Some((node, self.broker(node)?))).collect()
    }

    /// Of the brokers that believe to lead a lane, the one with the highest term.
    pub(crate) fn leader(&self, lane: LaneId) -> Option<(u32, Term, Rc<Broker>)> {
        let leading = self.serving().into_iter().filter_map(|(node, broker)| Some((node, broker.leads(lane)?, broker)));
        leading.max_by_key(|(_, term, _)| *term)
    }

    pub(crate) fn resolve(&self, whom: Whom) -> Option<u32> {
        match whom {
            Whom::Node(node) => Some(node),
            Whom::Leader(lane) => self.leader(lane).map(|(node, ..)| node),
        }
    }

    pub(crate) fn add_spot(&self, spot: Spot) {
        self.spots.borrow_mut().insert(spot.number, spot);
    }

    /// The partition is deleted: it is not looked at any more.
    pub(crate) fn forget_spot(&self, number: i32) {
        self.spots.borrow_mut().remove(&number);
        self.history.forget(number);
    }

    pub(crate) fn spots(&self) -> Vec<Spot> {
        self.spots.borrow().values().cloned().collect()
    }

    pub(crate) fn obituaries(&self, node: u32) -> Obituaries {
        Obituaries { node, life: self.slot(node).lives.get(), sender: self.deaths.0.clone() }
    }

    /// From now on, for a while, a broker may die of its disk.
    pub(crate) fn disk_may_fail(&self, node: u32) {
        self.slot(node).excused_until.set((self.machines.now() + EXCUSED).nanos());
    }

    /// Starts again the brokers that died by themselves and had a reason.
    pub(crate) fn watch_over(self: &Rc<Self>) {
        let (deaths, cluster) = (self.deaths.1.clone(), Rc::downgrade(self));
        drop(self.clients.tasks.spawn("supervisor", async move {
            while let Ok((node, life, why)) = deaths.recv_async().await {
                let Some(cluster) = cluster.upgrade() else { return };
                let slot = cluster.slot(node);
                if !slot.alive.get() || slot.lives.get() != life {
                    continue;
                }
                let excused = cluster.machines.now().nanos() < slot.excused_until.get();
                assert!(excused, "node {node} died by itself: {why}");
                cluster.note(format!("node {node} dies: {why}"));
                cluster.end(node, false);
                cluster.sleep_ms(150).await;
                cluster.start(node);
            }
        }));
    }

    /// Starts a broker, unless it runs.
    pub(crate) fn start(self: &Rc<Self>, node: u32) {
        let slot = self.slot(node);
        if slot.alive.replace(true) {
            return;
        }
        slot.lives.set(slot.lives.get() + 1);
        let (env, cluster, obituaries) = (self.machines.env_of(node), Rc::clone(self), self.obituaries(node));
        drop(env.clone().tasks.spawn("broker", async move {
            match Broker::start(env, &cluster, node).await {
                Ok(broker) => {
                    cluster.note(format!("node {node} serves"));
                    *cluster.slot(node).broker.borrow_mut() = Some(broker);
                }
                Err(why) => obituaries.note(format!("it does not start: {why}")),
            }
        }));
    }

    /// Ends a broker: `kill -9`, or a power cut that loses and tears what was not synced.
    pub(crate) fn end(&self, node: u32, power_cut: bool) {
        let slot = self.slot(node);
        slot.alive.set(false);
        let broker = slot.broker.borrow_mut().take();
        self.net.detach(node);
        if power_cut {
            self.machines.crash_node(node);
        } else {
            self.machines.kill_node(node);
        }
        if let Some(broker) = broker {
            broker.forget();
        }
        self.note(format!("node {node} ends, power cut {power_cut}"));
    }

    /// A vote of this broker has left it.
    pub(crate) fn voted(self: &Rc<Self>, node: u32) {
        if let Some(down_ms) = self.slot(node).ends_at_vote.take() {
            let cluster = Rc::clone(self);
            drop(self.clients.tasks.spawn("end at vote", async move {
                cluster.end(node, true);
                cluster.sleep_ms(down_ms).await;
                cluster.start(node);
            }));
        }
    }

    pub(crate) fn end_at_vote(&self, node: u32, down_ms: u64) {
        self.slot(node).ends_at_vote.set(Some(down_ms));
    }

    pub(crate) fn no_end_at_vote(&self) {
        self.slots.values().for_each(|slot| slot.ends_at_vote.set(None));
    }

    /// For a defect: notes at which offsets a leader proposes batches.
    pub(crate) fn placed(&self, node: u32, entries: &[JournalEntry]) {
        for entry in entries {
            // Behind Raft's own byte, which says what kind of entry it is.
            let mut payload = entry.payload.clone();
            payload.meta.advance(1);
            if let Ok(LaneOp::Batches { batches, .. }) = LaneOp::decode(&payload) {
                let mut placed = self.placed.borrow_mut();
                for batch in batches {
                    placed.insert((node, batch.partition, body(&batch.bytes)), batch.base_offset);
                }
            }
        }
    }

    /// For a defect: the offset at which this broker once proposed a batch.
    pub(crate) fn was_placed(&self, node: u32, partition: PartitionId, batch: &Bytes) -> Option<Offset> {
        self.placed.borrow().get(&(node, partition, body(batch))).copied()
    }

    pub(crate) fn note(&self, what: String) {
        self.history.note(format!("{} {what}", self.machines.now().nanos()));
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.machines.now().nanos() / 1_000_000
    }

    pub(crate) async fn sleep_ms(&self, ms: u64) {
        self.clients.tasks.sleep(Duration::from_millis(ms)).await;
    }

    /// The run is over: nothing of it stays in memory.
    pub(crate) fn dissolve(&self) {
        self.plan.all_nodes().for_each(|node| self.end(node, false));
        self.machines.dissolve();
        self.bucket.wipe();
    }
}
