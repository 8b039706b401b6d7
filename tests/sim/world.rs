//! The simulated world of a run: a machine that is killed and started again, a bucket, and clients that live on.
//!
//! Node 0 is the broker, 1 the clients, 2 the bucket. Nothing but the disk and the bucket outlives the broker. Worlds
//! made with [`World::beside`] share all but the broker: it is one of another lineage epoch, on a machine of its own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::future::{Either, select};
use tidewater::config::topic::TopicConfig;
use tidewater::controller::image::{BrokerImage, ClusterImage, TopicImage};
use tidewater_storage::env::sim::{SimDisk, World as Machines};
use tidewater_storage::env::{Env, Sleep};
use tidewater_storage::model::{NodeId, Offset, ReplicaId, ReplicaIncarnation};
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
use tidewater_tiering::store::{Faults, ObjectStore, SimBucket};
use tokio::runtime::{Builder, Handle, Runtime};
use uuid::Uuid;

use crate::history::History;
use crate::node::Node;
use crate::plan::Plan;
use crate::typed::Typed;

/// The cluster's name in its bucket.
pub(crate) const NAME: &str = "sim";
const CLUSTER: Uuid = Uuid::from_u128(0x51);
/// After a fault of the disk a broker may die of it for so long.
const EXCUSED: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) machines: Rc<Machines>,
    seat: BrokerSeat,
    pub(crate) clients: Env,
    pub(crate) bucket: SimBucket,
    pub(crate) history: History,
    pub(crate) overrides: BTreeMap<String, String>,
    topic: RefCell<Option<Arc<TopicImage>>>,
    /// The controller says who leads its lane, as in production, so the bucket has a catalogue: for simulations that
    /// read one. The draws of all others stay as they were.
    pub(crate) has_catalogue: Cell<bool>,
    /// The broker's shards copy topics: for simulations in which some are forked.
    pub(crate) has_copies: Cell<bool>,
    /// The broker makes cuts this often; `None`: it makes none.
    pub(crate) cut_interval: Cell<Option<Duration>>,
    /// A defect on purpose: the broker does not see cuts that are kept.
    pub(crate) is_blind_to_cuts: Cell<bool>,
    /// Of a typed table.
    pub(crate) typed: Arc<Typed>,
    /// The broker while it serves.
    node: Rc<RefCell<Option<Rc<Node>>>>,
    lives: Cell<u64>,
    alive: Cell<bool>,
    excused_until: Cell<u64>,
    deaths: (flume::Sender<(u64, String)>, flume::Receiver<(u64, String)>),
}

/// Where the broker runs, and as whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrokerSeat {
    pub(crate) machine: u32,
    pub(crate) epoch: LineageEpoch,
    pub(crate) incarnation: ReplicaIncarnation,
}

/// What a client may see of the broker.
#[derive(Clone)]
pub(crate) struct Way(Rc<RefCell<Option<Rc<Node>>>>);

impl Way {
    /// The broker, if it serves.
    pub(crate) fn node(&self) -> Option<Rc<Node>> {
        self.0.borrow().clone()
    }
}

/// Where a broker says that it dies, in one of its lives.
#[derive(Clone)]
pub(crate) struct Obituaries {
    life: u64,
    sender: flume::Sender<(u64, String)>,
}

impl Obituaries {
    pub(crate) fn note(&self, why: String) {
        let _ = self.sender.send((self.life, why));
    }
}

/// Where production opens buckets by their URLs: nothing here does.
pub(crate) fn side() -> Handle {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime that nothing runs on"));
    RUNTIME.handle().clone()
}

/// Settings of a run's topic: segments roll and local bytes go within a run.
pub(crate) fn overrides(env: &Env) -> BTreeMap<String, String> {
    let rng = &env.rng;
    let mut pairs = vec![
        ("segment.bytes", 16_384 + rng.below(60_000)),
        ("segment.ms", 2_000 + rng.below(60_000)),
        ("local.retention.bytes", rng.below(80_000)),
        ("local.retention.ms", 500 + rng.below(60_000)),
        ("archive.lag.ms", 100 + rng.below(3_000)),
    ];
    if rng.below(4) == 0 {
        pairs.push(("retention.bytes", 30_000 + rng.below(200_000)));
    }
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect()
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let machines = Rc::new(Machines::new(plan.seed));
        let clients = machines.env_of(1);
        let bucket = SimBucket::new(&machines.env_of(2), Faults::default());
        let overrides = overrides(&clients);
        let history = History::default();
        if TopicConfig::resolve(&overrides).retention_bytes.is_some() {
            (0..plan.partitions).for_each(|n| history.with(n, |past| past.trim_asked = Offset::MAX));
        }
        if let Some(defect) = plan.defect {
            defect.spoil_disk(&machines.disk());
        }
        let seat = BrokerSeat { machine: 0, epoch: LineageEpoch::FIRST, incarnation: ReplicaIncarnation(0) };
        let typed = Arc::new(Typed::new(plan.seed));
        Self {
            plan,
            machines,
            seat,
            clients,
            bucket,
            history,
            overrides,
            topic: RefCell::default(),
            has_catalogue: Cell::new(false),
            has_copies: Cell::new(false),
            cut_interval: Cell::new(None),
            is_blind_to_cuts: Cell::new(false),
            typed,
            node: Rc::default(),
            lives: Cell::new(0),
            alive: Cell::new(false),
            excused_until: Cell::new(0),
            deaths: flume::unbounded(),
        }
    }

    /// A world of the same machines, clients, bucket and topic, whose broker has another seat and is not started.
    pub(crate) fn beside(&self, plan: Plan, seat: BrokerSeat) -> Self {
        Self {
            plan,
            machines: Rc::clone(&self.machines),
            seat,
            clients: self.clients.clone(),
            bucket: self.bucket.clone(),
            history: self.history.clone(),
            overrides: self.overrides.clone(),
            topic: self.topic.clone(),
            has_catalogue: self.has_catalogue.clone(),
            has_copies: self.has_copies.clone(),
            cut_interval: self.cut_interval.clone(),
            is_blind_to_cuts: self.is_blind_to_cuts.clone(),
            typed: Arc::clone(&self.typed),
            node: Rc::default(),
            lives: Cell::new(0),
            alive: Cell::new(false),
            excused_until: Cell::new(0),
            deaths: flume::unbounded(),
        }
    }

    pub(crate) fn home(&self) -> Home {
        Home { cluster: ClusterId(CLUSTER), epoch: self.seat.epoch }
    }

    /// The broker's replica of every lane.
    pub(crate) fn replica(&self) -> ReplicaId {
        ReplicaId { node: NodeId(0), incarnation: self.seat.incarnation }
    }

    /// The broker's machine.
    pub(crate) fn machine(&self) -> u32 {
        self.seat.machine
    }

    /// The broker's disk.
    pub(crate) fn disk(&self) -> SimDisk {
        self.machines.disk_of(self.seat.machine)
    }

    /// The bucket as the broker has it.
    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        self.bucket.store_for(self.seat.machine)
    }

    /// Is the broker's machine on?
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.get()
    }

    pub(crate) fn cluster(&self) -> Uuid {
        CLUSTER
    }

    pub(crate) fn topic_name(&self) -> &'static str {
        "orders"
    }

    /// The run's topic; known since the broker served first.
    pub(crate) fn topic(&self) -> Arc<TopicImage> {
        Arc::clone(self.topic.borrow().as_ref().expect("the broker has served"))
    }

    /// The broker has this topic; it must be the one it had before. A restored broker may have it in other lanes, if
    /// nothing of it was archived.
    pub(crate) fn topic_is(&self, image: &Arc<TopicImage>) {
        let Some(known) = self.topic.replace(Some(Arc::clone(image))) else { return };
        assert_eq!(known.id, image.id, "the topic has another id than before");
        assert_eq!(known.partitions.len(), image.partitions.len(), "the topic has other partitions than before");
        assert_eq!(known.overrides, image.overrides, "the topic has other settings than before");
    }

    /// A cluster without topics.
    pub(crate) fn image(&self) -> ClusterImage {
        ClusterImage {
            cluster: CLUSTER,
            cluster_id: "sim".into(),
            cluster_name: NAME.into(),
            here: NodeId(0),
            brokers: Arc::new([(NodeId(0), BrokerImage::plain(NodeId(0), "sim", 9092))].into()),
            lanes: Arc::default(),
            features: Arc::default(),
            sources: Arc::default(),
            followed: Arc::default(),
            lineage: None,
            topics: BTreeMap::new(),
            names: HashMap::new(),
            revision: 0,
        }
    }

    pub(crate) fn way(&self) -> Way {
        Way(Rc::clone(&self.node))
    }

    /// How often the broker was started.
    pub(crate) fn lives(&self) -> u64 {
        self.lives.get()
    }

    pub(crate) fn obituaries(&self) -> Obituaries {
        Obituaries { life: self.lives(), sender: self.deaths.0.clone() }
    }

    /// From now on, for a while, a broker may die of its disk.
    pub(crate) fn disk_may_fail(&self) {
        self.excused_until.set((self.machines.now() + EXCUSED).nanos());
    }

    /// Looks after brokers that die by themselves: they are started again, if they had a reason.
    pub(crate) fn watch_over(self: &Rc<Self>) {
        let (deaths, world) = (self.deaths.1.clone(), Rc::downgrade(self));
        drop(self.clients.tasks.spawn("supervisor", async move {
            while let Ok((life, why)) = deaths.recv_async().await {
                let Some(world) = world.upgrade() else { return };
                if !world.alive.get() || world.lives() != life {
                    continue;
                }
                let excused = world.machines.now().nanos() < world.excused_until.get();
                assert!(excused, "the broker died by itself: {why}");
                world.history.note(format!("{} dies: {why}", world.machines.now().nanos()));
                world.end(false);
                world.sleep_ms(150).await;
                world.start();
            }
        }));
    }

    /// Starts the broker, unless it runs; it serves some time later, and the machine may be killed before that.
    pub(crate) fn start(self: &Rc<Self>) {
        if self.alive.replace(true) {
            return;
        }
        self.lives.set(self.lives.get() + 1);
        let env = self.machines.env_of(self.seat.machine);
        let (world, slot, starting, obituaries) =
            (Rc::clone(self), Rc::clone(&self.node), env.clone(), self.obituaries());
        drop(env.tasks.spawn("node", async move {
            match Node::start(starting, &world).await {
                Ok(node) => {
                    world.history.note(format!("{} serves", world.machines.now().nanos()));
                    *slot.borrow_mut() = Some(node);
                }
                Err(why) => obituaries.note(format!("it does not start: {why}")),
            }
        }));
    }

    /// Ends the broker: `kill -9`, or a power cut that loses and tears what was not synced.
    pub(crate) fn end(&self, power_cut: bool) {
        self.alive.set(false);
        let node = self.node.borrow_mut().take();
        if power_cut {
            self.machines.crash_node(self.seat.machine);
        } else {
            self.machines.kill_node(self.seat.machine);
        }
        if let Some(node) = node {
            node.forget();
        }
        self.history.note(format!("{} ends, power cut {power_cut}", self.machines.now().nanos()));
    }

    /// The run is over: nothing of it stays in memory.
    pub(crate) fn dissolve(&self) {
        self.end(false);
        self.machines.dissolve();
        self.bucket.wipe();
    }

    /// Waits until the broker serves.
    pub(crate) async fn serving(&self) -> Rc<Node> {
        for _ in 0..60_000 {
            if let Some(node) = self.way().node() {
                return node;
            }
            self.sleep_ms(10).await;
        }
        panic!("the broker does not come up again within ten minutes");
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.machines.now().nanos() / 1_000_000
    }

    pub(crate) async fn sleep_ms(&self, ms: u64) {
        self.clients.tasks.sleep(Duration::from_millis(ms)).await;
    }
}

/// The answer, or `None` when it does not come in time.
pub(crate) async fn within<T>(env: &Env, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let sleep: Sleep = env.tasks.sleep(time);
    match select(std::pin::pin!(future), sleep).await {
        Either::Left((answer, _)) => Some(answer),
        Either::Right(_) => None,
    }
}
