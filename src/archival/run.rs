//! Starts and ends archivers with leadership, opens the bucket, and says when retention (`retain.rs`) may delete local
//! bytes. Those that the log's own commands trim go in `Replica::trim`.
//!
//! An archiver runs only while its lane leads in one term here. When the term ends, its two loops are dropped wherever
//! they are; a PUT that is under way then lands late and harms nothing (`tiering::archive`). The next leader goes on
//! from applied state.
//!
//! [`Tier`] is node-wide; everything else here is shard-local. A bucket that does not answer at start keeps archivers
//! waiting and nothing else: the broker serves, and says so.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_storage::disposition::Disposition;
use tidewater_storage::engine::Engine;
use tidewater_storage::env::clock::wall;
use tidewater_storage::env::{Env, Task};
use tidewater_storage::model::{LaneId, Offset, Term};
use tidewater_tiering::archive::{ArchiveConfig, ArchiveStatus, Archiver, ArchiverParts, Ended};
use tidewater_tiering::bucket::{Bucket, BucketError, CatalogueKeeper, Claim, RootRefusal};
use tidewater_tiering::fetch::RemoteReader;
use tidewater_tiering::keys::{ClusterName, Home, Nonce};
use tidewater_tiering::store::{self, ObjectStore, OpenError, StoreOptions, StoreStats};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::cuts::CutStats;
use super::host::Host;
use super::peers::{self, Peers};
use super::root::RootPresence;
use crate::controller::client::{CONTROLLER_SHARD, ControllerHandle};
use crate::controller::leaders::Leaders;
use crate::limits;
use crate::partition::message::{PartitionRequest, PartitionStatus};
use crate::partition::shard::{DescribeExtra, PartitionShard};
use crate::partition::state::lane::DataLane;
use crate::partition::state::replica::Replica;
use crate::partition::superseded::{Superseded, SupersededBy};
use crate::rpc::Rpc;
use crate::shard::mesh::{Mesh, Reply};

/// Openings that find the bucket to be of another cluster before it is refused; a start waits for them.
const REFUSALS: u32 = 3;
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two tries to open the bucket.
const OPEN_BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The bucket as the whole node sees it. Node-wide, cheap to clone.
#[derive(Clone)]
pub struct Tier {
    /// The store, counted.
    pub store: Arc<dyn ObjectStore>,
    /// What every key begins with.
    pub home: Home,
    /// The cluster's name in it.
    pub name: ClusterName,
    /// The bucket's URL.
    pub url: String,
    /// Requests by kind.
    stats: Arc<StoreStats>,
    /// Whether the cluster was restored elsewhere.
    pub superseded: Superseded,
    /// Whether the root is still there, once the bucket was opened.
    pub root: RootPresence,
    /// Of the cuts made on this broker's schedule.
    pub cuts: Arc<CutStats>,
    opened: watch::Receiver<Opening>,
    /// Who leads each lane, for the side runtime. The controller's shard writes it.
    leaders: Arc<watch::Sender<Arc<Leaders>>>,
}

/// How far opening the bucket has come.
#[derive(Clone, Debug)]
pub enum Opening {
    /// Not yet; why the last try failed.
    Waiting(Option<String>),
    /// Open.
    Open(Bucket),
    /// It must not be used; why.
    Refused(String),
}

impl fmt::Debug for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tier({})", self.url)
    }
}

impl Tier {
    /// Opens the store at `url` and begins, on the side runtime, to open the cluster's place in it. `rooted` is called
    /// once the root was seen or made.
    ///
    /// # Errors
    /// The URL or the store's configuration is wrong; a store that does not answer is no error.
    pub fn open(
        url: &str,
        home: Home,
        name: ClusterName,
        confirmed: bool,
        handle: &Handle,
        rooted: impl FnOnce() + Send + 'static,
    ) -> Result<Self, OpenError> {
        let stats = Arc::new(StoreStats::default());
        let options = StoreOptions { stats: Arc::clone(&stats), ..StoreOptions::default() };
        let store = store::open(url, handle.clone(), &options)?;
        let claim = Claim { cluster: home.cluster, epoch: home.epoch, name: name.clone(), confirmed };
        let (sender, opened) = watch::channel(Opening::Waiting(None));
        let superseded = Superseded::default();
        let opening = BucketOpening { claim, url: url.to_owned(), sender, superseded: superseded.clone() };
        handle.spawn(opening.run(Arc::clone(&store), rooted));
        let (root, leaders, cuts) = (RootPresence::default(), Arc::default(), Arc::default());
        Ok(Self { store, home, name, url: url.to_owned(), stats, superseded, root, cuts, opened, leaders })
    }

    /// A tier over a store that exists already, whose bucket the caller opens and passes to the sender: for simulated
    /// worlds, which have no side runtime.
    #[must_use]
    pub fn over(store: Arc<dyn ObjectStore>, home: Home, name: ClusterName) -> (Self, watch::Sender<Opening>) {
        let (sender, opened) = watch::channel(Opening::Waiting(None));
        let (superseded, root) = (Superseded::default(), RootPresence::default());
        let (stats, leaders, cuts) = (Arc::default(), Arc::default(), Arc::default());
        (Self { store, home, name, url: String::new(), stats, superseded, root, cuts, opened, leaders }, sender)
    }

    /// Requests to the store so far.
    #[must_use]
    pub fn stats(&self) -> &StoreStats {
        &self.stats
    }

    /// Who leads each lane, as the controller's shard knows it.
    #[must_use]
    pub fn leaders(&self) -> watch::Receiver<Arc<Leaders>> {
        self.leaders.subscribe()
    }

    /// Waits until the bucket is open or refused, at most `patience`.
    pub async fn wait_opened(&self, patience: Duration) -> Opening {
        let mut opened = self.opened.clone();
        let settled = opened.wait_for(|opening| !matches!(opening, Opening::Waiting(_)));
        let _ = tokio::time::timeout(patience, settled).await;
        self.opening()
    }

    /// How far opening has come.
    #[must_use]
    pub fn opening(&self) -> Opening {
        self.opened.borrow().clone()
    }

    /// The bucket was opened, and its root is still there as far as this broker knows.
    #[must_use]
    pub fn is_there(&self) -> bool {
        matches!(&*self.opened.borrow(), Opening::Open(_)) && !self.root.is_gone()
    }
}

/// Opens the bucket, trying again while it does not answer, denies or answers damage. Runs on the side runtime.
struct BucketOpening {
    claim: Claim,
    url: String,
    /// Has the latest state.
    sender: watch::Sender<Opening>,
    superseded: Superseded,
}

impl BucketOpening {
    /// Calls `rooted` once the bucket is open.
    async fn run(self, store: Arc<dyn ObjectStore>, rooted: impl FnOnce() + Send) {
        let Self { claim, url, sender, superseded } = self;
        let mut pause = Duration::from_millis(250);
        let mut refusals = 0;
        loop {
            let now = wall();
            let nonce = Nonce(uuid::Uuid::new_v4().as_u64_pair().0);
            match Bucket::open(Arc::clone(&store), &claim, nonce, now).await {
                Ok(bucket) => {
                    rooted();
                    sender.send_replace(Opening::Open(bucket));
                    return;
                }
                Err(error) if error.disposition() != Disposition::Fatal => {
                    tracing::warn!(bucket = %url, %error, "the bucket cannot be opened now; archiving waits, everything else serves");
                    sender.send_replace(Opening::Waiting(Some(error.to_string())));
                    refusals = 0;
                }
                Err(error) if refusals + 1 < REFUSALS => {
                    tracing::warn!(bucket = %url, %error, "the bucket seems not to be this cluster's; looking again");
                    refusals += 1;
                    tokio::time::sleep(REFUSAL_PAUSE).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(bucket = %url, %error, "the bucket must not be used; nothing is archived");
                    if let BucketError::Refused(RootRefusal::Superseded { found, own, .. }) = &error {
                        superseded.note(*own, *found, "the bucket's root names it");
                    }
                    sender.send_replace(Opening::Refused(error.to_string()));
                    return;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(OPEN_BACKOFF_MAX);
        }
    }
}

/// First and longest pause before a lane's next archiver, while the lane leads and its archivers find that it does not.
const START_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// The archivers of a shard and what they share.
pub(super) struct ShardArchivers {
    pub(super) env: Env,
    pub(super) shard: Rc<PartitionShard>,
    pub(super) controller: ControllerHandle,
    pub(super) tier: Tier,
    pub(super) remote: Rc<RemoteReader>,
    pub(super) engine: Engine,
    pub(super) cadence: Cadence,
    /// The archiver of each lane that this shard leads.
    by_lane: RefCell<BTreeMap<LaneId, Archiver<Host>>>,
}

/// A lane that a task looks after, and the task.
struct Tended {
    lane: Rc<DataLane>,
    task: Task<()>,
}

/// Starts archiving and retention on a shard.
pub fn start(
    env: &Env,
    shard: &Rc<PartitionShard>,
    engine: &Engine,
    controller: &ControllerHandle,
    tier: &Tier,
    remote: &Rc<RemoteReader>,
    cut_interval: Duration,
) -> Archives {
    let cadence = Cadence { cut_interval: Some(cut_interval), ..Cadence::default() };
    start_with(env, shard, engine, controller, tier, remote, cadence)
}

/// The archivers of a shard, for metrics and operators. Shard-local.
pub struct Archives {
    shard: Rc<ShardArchivers>,
}

impl fmt::Debug for Archives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archives({})", self.shard.by_lane.borrow().len())
    }
}

impl Archives {
    /// How each lane's archiving is doing.
    #[must_use]
    pub fn status(&self) -> Vec<(LaneId, ArchiveStatus)> {
        self.shard.by_lane.borrow().iter().map(|(lane, archiver)| (*lane, archiver.status())).collect()
    }

    /// The cluster goes on elsewhere.
    #[must_use]
    pub fn superseded(&self) -> Option<SupersededBy> {
        self.shard.tier.superseded.by()
    }

    /// Why no cuts are made; see [`CutStats::failing`].
    #[must_use]
    pub fn cuts_failing(&self) -> Option<String> {
        self.shard.tier.cuts.failing()
    }

    /// Why the bucket's root counts as gone.
    #[must_use]
    pub fn root_gone(&self) -> Option<String> {
        self.shard.tier.root.gone()
    }

    /// Reads from other brokers what this one has not, and answers theirs.
    pub fn join_peers(&self, rpc: &Rpc, partitions: &Mesh<PartitionRequest>) {
        let ShardArchivers { shard, controller, .. } = &*self.shard;
        shard.set_peers(Rc::new(Peers::new(rpc.clone(), controller.clone())));
        peers::serve(rpc, controller, partitions);
    }

    /// Lets a lane of this shard archive again. Replies once the command is applied.
    pub fn resume(&self, lane: LaneId, reply: Reply<Resumed>) {
        let Some(archiver) = self.shard.by_lane.borrow().get(&lane).cloned() else {
            return reply.send(Resumed::NotHere);
        };
        self.shard.env.tasks.spawn("lane resume", async move {
            reply.send(match archiver.resume().await {
                Ok(Some(reason)) => Resumed::After(reason),
                Ok(None) => Resumed::WasNotStopped,
                Err(error) => Resumed::Failed(error.to_string()),
            });
        });
    }
}

/// The outcome of [`Archives::resume`]. A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// This shard archives no such lane.
    NotHere,
    /// It was not stopped.
    WasNotStopped,
    /// It archives again; why it had stopped.
    After(String),
    /// The lane is as it was, or the outcome is unknown; why.
    Failed(String),
}

/// Bounds and cadences of archiving and retention on a shard.
#[derive(Clone, Debug)]
pub struct Cadence {
    /// Of each lane's archiver.
    pub archive: ArchiveConfig,
    /// Time between two looks at local retention.
    pub retention_interval: Duration,
    /// Time between two cuts of the cluster; zero: none are made on a schedule, and those that there are grow old.
    /// `None`: no cuts are made or released here.
    pub cut_interval: Option<Duration>,
}

impl Default for Cadence {
    fn default() -> Self {
        let (archive, retention_interval) = (ArchiveConfig::default(), limits::RETENTION_INTERVAL);
        Self { archive, retention_interval, cut_interval: None }
    }
}

/// As [`start`], with other bounds and cadences: for simulated worlds, where an hour of grace is long.
pub fn start_with(
    env: &Env,
    shard: &Rc<PartitionShard>,
    engine: &Engine,
    controller: &ControllerHandle,
    tier: &Tier,
    remote: &Rc<RemoteReader>,
    cadence: Cadence,
) -> Archives {
    let archivers = Rc::new(ShardArchivers {
        env: env.clone(),
        shard: Rc::clone(shard),
        controller: controller.clone(),
        tier: tier.clone(),
        remote: Rc::clone(remote),
        engine: engine.clone(),
        cadence,
        by_lane: RefCell::default(),
    });
    shard.set_extra(Rc::clone(&archivers) as Rc<dyn DescribeExtra>);
    shard.set_superseded(tier.superseded.clone());
    env.tasks.spawn("archiving", Rc::clone(&archivers).archive());
    env.tasks.spawn("hold of retention", Rc::clone(&archivers).end_holds());
    if shard.here == CONTROLLER_SHARD {
        env.tasks.spawn("leaders for tables", Rc::clone(&archivers).show_leaders());
    }
    let (this, engine) = (Rc::clone(&archivers), engine.clone());
    env.tasks.spawn("retention of lanes", async move {
        let retain = |lane| this.env.tasks.spawn("retention", Rc::clone(&this).retain(lane, engine.clone()));
        this.tend_lanes(retain).await;
    });
    Archives { shard: archivers }
}

impl ShardArchivers {
    /// Waits for the bucket, then keeps an archiver on every lane this shard leads.
    async fn archive(self: Rc<Self>) {
        let mut opened = self.tier.opened.clone();
        let bucket = loop {
            match &*opened.borrow_and_update() {
                Opening::Open(bucket) => break bucket.clone(),
                Opening::Refused(_) => return,
                Opening::Waiting(_) => {}
            }
            if opened.changed().await.is_err() {
                return;
            }
        };
        let catalogue = Rc::new(CatalogueKeeper::new(bucket.clone(), self.env.clock.clone()));
        if self.shard.here == CONTROLLER_SHARD {
            self.env.tasks.spawn("root", Rc::clone(&self).watch_root(bucket.clone()));
            if let Some(interval) = self.cadence.cut_interval {
                self.env.tasks.spawn("cuts", Rc::clone(&self).make_cuts(bucket.clone(), interval));
            }
            self.env.tasks.spawn("catalogue", Rc::clone(&self).follow_topics(Rc::clone(&catalogue)));
        }
        let archive = |lane| {
            let (this, bucket, catalogue) = (Rc::clone(&self), bucket.clone(), Rc::clone(&catalogue));
            self.env.tasks.spawn("archiver", async move { this.archive_lane(lane, bucket, catalogue).await })
        };
        self.tend_lanes(archive).await;
    }

    async fn show_leaders(self: Rc<Self>) {
        loop {
            let changed = self.controller.leaders_changed();
            self.tier.leaders.send_replace(self.controller.leaders());
            changed.await;
        }
    }

    /// Keeps one task for each lane of this shard: for lanes that are there, for those that come later, and for a lane
    /// that was replaced by a rebuilt one.
    async fn tend_lanes(&self, start: impl Fn(Rc<DataLane>) -> Task<()>) {
        let mut tended: BTreeMap<LaneId, Tended> = BTreeMap::new();
        loop {
            let (led, seen) = (self.controller.leaders_changed(), self.controller.image().revision);
            let lanes: BTreeMap<LaneId, Rc<DataLane>> =
                self.shard.lanes().into_iter().map(|lane| (lane.id, lane)).collect();
            tended.retain(|id, held| {
                let stays = lanes.get(id).is_some_and(|lane| Rc::ptr_eq(lane, &held.lane));
                if !stays {
                    held.task.cancel();
                }
                stays
            });
            for (id, lane) in lanes {
                tended.entry(id).or_insert_with(|| Tended { task: start(Rc::clone(&lane)), lane });
            }
            select(pin!(led), pin!(self.controller.image_after(seen))).await;
        }
    }

    async fn archive_lane(&self, lane: Rc<DataLane>, bucket: Bucket, catalogue: Rc<CatalogueKeeper>) {
        let mut pause = START_BACKOFF.0;
        loop {
            let term = loop {
                match lane.status.leading() {
                    Some(term) => break term,
                    None => lane.status.leadership_changed().await,
                }
            };
            if self.tier.root.is_gone() {
                self.tier.root.until_found().await;
                continue;
            }
            let archiver = Archiver::new(ArchiverParts {
                env: self.env.clone(),
                host: Rc::new(Host::new(
                    Rc::clone(&lane),
                    Rc::clone(&self.shard),
                    self.controller.clone(),
                    self.engine.clone(),
                )),
                bucket: bucket.clone(),
                catalogue: Rc::clone(&catalogue),
                indexes: self.remote.indexes(),
                config: self.cadence.archive.clone(),
            });
            self.by_lane.borrow_mut().insert(lane.id, archiver.clone());
            let (term_ends, root_lost) = (pin!(until_term_ends(&lane, term)), pin!(self.tier.root.until_lost()));
            let ended = match select(pin!(archiver.run()), select(term_ends, root_lost)).await {
                Either::Left((ended, _)) => ended,
                Either::Right(_) => Ended::Deposed,
            };
            self.by_lane.borrow_mut().remove(&lane.id);
            match ended {
                Ended::Deposed if self.tier.root.is_gone() => {}
                Ended::Deposed if lane.status.leading() != Some(term) && lane.status.leading().is_some() => {}
                Ended::Deposed if lane.status.leading().is_none() => pause = START_BACKOFF.0,
                Ended::Deposed => {
                    tracing::info!(lane = %lane.id, ?pause, "an archiver found its lane led by another while it leads here; the next one starts after a pause");
                    self.env.tasks.sleep(pause).await;
                    pause = (pause * 2).min(START_BACKOFF.1);
                }
                Ended::Unsettled(reason) => {
                    tracing::warn!(lane = %lane.id, reason, "archiving of a lane starts again");
                    self.env.tasks.sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Local bytes go only behind what the bucket holds, and only while its root is there. A leader must have looked at
    /// the bucket first; a follower goes by the archived end that it has applied.
    pub(super) fn may_trim(&self, lane: &DataLane, replica: &Replica, to: Offset) -> bool {
        if !replica.config().archived {
            return to <= replica.log_start();
        }
        let looked = match lane.status.leading() {
            Some(_) => self.by_lane.borrow().get(&lane.id).is_some_and(|archiver| archiver.status().probed),
            // A lane's only replica leads soon; until then its data directory may be one put back from a backup.
            None => self.controller.image().replicas(lane.id).len() > 1,
        };
        looked && self.tier.is_there() && lane.archive().stopped.is_none() && to <= replica.manifest().archived_end
    }

    fn lane_status(&self, lane: LaneId) -> Option<ArchiveStatus> {
        self.by_lane.borrow().get(&lane).map(Archiver::status)
    }
}

/// Returns when this replica does not lead its lane in `term` any more.
async fn until_term_ends(lane: &DataLane, term: Term) {
    while lane.status.leading() == Some(term) {
        lane.status.leadership_changed().await;
    }
}

impl DescribeExtra for ShardArchivers {
    fn stands_still(&self, lane: LaneId) -> bool {
        match self.tier.opening() {
            Opening::Open(_) if self.tier.root.is_gone() => true,
            Opening::Open(_) => self.lane_status(lane).is_some_and(|a| a.stopped.is_some() || a.failing.is_some()),
            Opening::Waiting(_) | Opening::Refused(_) => true,
        }
    }

    fn describe(&self, replica: &Replica, status: &mut PartitionStatus) {
        let archiver = self.lane_status(replica.lane);
        status.archive_stopped =
            match self.tier.opening() {
                Opening::Waiting(why) => Some(why.map_or("the bucket is being opened".to_owned(), |w| {
                    format!("the bucket cannot be opened now: {w}")
                })),
                Opening::Refused(why) => Some(why),
                Opening::Open(_) => self.tier.root.gone().or_else(|| {
                    let archiver = archiver.as_ref()?;
                    let unread = || archiver.unread.get(&replica.id).cloned();
                    archiver.stopped.clone().or_else(|| archiver.failing.clone()).or_else(unread)
                }),
            };
    }
}
