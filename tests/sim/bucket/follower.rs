//! The replica: another machine that follows the cluster's topics in its bucket, and readers there that stay open
//! through gathering, retention, deletes and restores.
//!
//! What it shows is held against the bundles ([`super::archived`]) at every change and again and again; what it reads,
//! against what everyone else reads.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tidewater_read_replica::{
    LaneFollower, LaneParts, PartitionReader, ReplicaConfig, Source, SourceParts, SourceState, TopicPattern,
};
use tidewater_storage::env::Env;
use tidewater_storage::model::{LaneId, Offset, PartitionId};
use tidewater_tiering::fetch::{FetchConfig, RemoteError, RemoteReader};
use tidewater_tiering::follow::Changes;
use tidewater_tiering::keys::{ClusterName, LineageEpoch};
use tidewater_tiering::store::{ObjectStore, RetryPolicy, Retrying, SimSleeper};

use super::defect::Defect;
use super::epochs::{Epochs, mild};
use crate::world::NAME;

const MACHINE: u32 = 20;
/// Readers, each of which goes on where it stood.
const READERS: u32 = 2;
/// A reader starts again from somewhere else about every so many reads.
const READS: u64 = 40;

/// One life of the replica.
pub(crate) struct Follower {
    env: Env,
    epochs: Weak<Epochs>,
    store: Arc<dyn ObjectStore>,
    name: ClusterName,
    reader: RemoteReader,
    lanes: RefCell<BTreeMap<LaneId, Lane>>,
    source: RefCell<Option<Source>>,
}

/// A partition that is served.
struct Served {
    id: PartitionId,
    /// The history's number for it.
    number: i32,
    lane: LaneId,
    follower: LaneFollower,
}

struct Lane {
    follower: LaneFollower,
    /// It has caught up once, and is served from then on, as `replica::shard` does it.
    is_served: Cell<bool>,
}

/// Starts the replica; with the part `replica-dies`, it is killed now and then and starts again.
pub(crate) fn keep(epochs: &Rc<Epochs>) -> Rc<RefCell<Option<Rc<Follower>>>> {
    let slot: Rc<RefCell<Option<Rc<Follower>>>> = Rc::default();
    let (keeper, kept) = (Rc::downgrade(epochs), Rc::clone(&slot));
    if !epochs.plan.has("replica-weather") {
        epochs.now().bucket.set_faults_for(MACHINE, Some(mild()));
    }
    let dies = epochs.plan.has("replica-dies");
    drop(epochs.env.tasks.spawn("replica's keeper", async move {
        loop {
            let Some(epochs) = keeper.upgrade() else { return };
            let follower = Follower::start(&epochs).await;
            kept.replace(Some(follower));
            let life_ms = 500 + epochs.below(8_000);
            if !dies || epochs.stopped.get() {
                return;
            }
            epochs.sleep_ms(life_ms).await;
            if epochs.stopped.get() {
                return;
            }
            kept.take();
            epochs.note("the replica dies".to_owned());
            epochs.now().machines.crash_node(MACHINE);
        }
    }));
    slot
}

impl Follower {
    async fn start(epochs: &Rc<Epochs>) -> Rc<Self> {
        let world = epochs.now();
        let env = world.machines.env_of(MACHINE);
        let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
        let store = world.bucket.store_for(MACHINE);
        let store: Arc<dyn ObjectStore> = Arc::new(Retrying::new(store, policy, Arc::new(SimSleeper::new(&env))));
        let name = ClusterName::new(NAME).expect("legal");
        let mut fetch = FetchConfig::new(PathBuf::from("/replica/cache"), 256 << 10);
        (fetch.chunk_bytes, fetch.root) = (16 << 10, Some(name.root_key()));
        let reader = RemoteReader::open(env.clone(), Arc::clone(&store), fetch).await.expect("opens");
        let follower = Rc::new(Self {
            env: env.clone(),
            epochs: Rc::downgrade(epochs),
            store,
            name,
            reader,
            lanes: RefCell::default(),
            source: RefCell::default(),
        });
        let changed = Rc::downgrade(&follower);
        let source = Source::new(SourceParts {
            env: env.clone(),
            store: Arc::clone(&follower.store),
            name: follower.name.clone(),
            topics: world.topic_name().parse::<TopicPattern>().expect("legal"),
            config: config(),
            changed: Rc::new(move || {
                if let Some(follower) = changed.upgrade() {
                    follower.follow_lanes();
                }
            }),
        });
        follower.source.replace(Some(source.clone()));
        drop(env.tasks.spawn("source", async move { source.run().await }));
        let looking = Rc::clone(&follower);
        drop(env.tasks.spawn("look", async move {
            while let Some(epochs) = looking.epochs.upgrade() {
                looking.check(&epochs);
                drop(epochs);
                looking.env.tasks.sleep(Duration::from_millis(20 + looking.env.rng.below(200))).await;
            }
        }));
        for _ in 0..READERS {
            let reading = Rc::clone(&follower);
            drop(env.tasks.spawn("replica's reader", async move { reading.read_on().await }));
        }
        follower
    }

    /// Follows the lanes that the catalogue names. One that it does not name any more is followed on.
    fn follow_lanes(self: &Rc<Self>) {
        let state: Option<Rc<SourceState>> = self.source.borrow().as_ref().and_then(Source::state);
        let Some(state) = state else { return };
        for lane in &state.lanes {
            if self.lanes.borrow().contains_key(lane) {
                continue;
            }
            let changed = Rc::downgrade(self);
            let follower = LaneFollower::new(LaneParts {
                env: self.env.clone(),
                store: Arc::clone(&self.store),
                indexes: self.reader.indexes(),
                name: self.name.clone(),
                home: state.home,
                lane: *lane,
                config: config(),
                changed: Rc::new(move |_: &Changes| {
                    let follower = changed.upgrade();
                    if let Some((follower, epochs)) = follower.and_then(|f| Some((Rc::clone(&f), f.epochs.upgrade()?)))
                    {
                        follower.check(&epochs);
                    }
                }),
            });
            let running = follower.clone();
            drop(self.env.tasks.spawn("followed lane", async move { running.run().await }));
            self.lanes.borrow_mut().insert(*lane, Lane { follower, is_served: Cell::new(false) });
        }
    }

    /// What is shown now: the end of the last bundle that was followed, or the log start where that has passed it; and
    /// within an epoch nothing that moves back.
    fn check(&self, epochs: &Epochs) {
        epochs.archived.look(&epochs.now().bucket.objects());
        for Served { id, number, lane, follower } in self.served(epochs) {
            let (status, partition) = (follower.status(), follower.partition(id));
            let (start, end) = (partition.log_start(), partition.high_watermark());
            if let Some(archived) = epochs.archived.end(status.home, lane, status.sequence, id) {
                let bundle = (status.home.epoch, status.sequence);
                let archived = archived.max(start);
                assert_eq!(end, archived, "p{number}: the replica shows another end than bundle {bundle:?} has");
            }
            let asked = epochs.history.with(number, |past| past.trim_asked);
            assert!(start <= asked, "p{number}: the replica's log starts at {start}, {asked} was asked for");
            let before = epochs.shown.borrow_mut().insert(id, (status.home, start, end));
            let Some((home, before_start, before_end)) = before else { continue };
            let went_back = home != status.home && epochs.is_undone(home.epoch);
            assert!(end >= before_end || went_back, "p{number}: the replica's end fell from {before_end} to {end}");
            assert!(
                start >= before_start || home != status.home,
                "p{number}: the replica's log start fell from {before_start} to {start}"
            );
        }
    }

    /// The partitions whose lanes are served.
    fn served(&self, epochs: &Epochs) -> Vec<Served> {
        let (topic, lanes) = (epochs.now().topic(), self.lanes.borrow());
        let mut served = Vec::new();
        for partition in &topic.partitions {
            let Some(lane) = lanes.get(&partition.lane) else { continue };
            let follower = lane.follower.clone();
            lane.is_served.set(lane.is_served.get() || follower.status().has_caught_up);
            if lane.is_served.get() {
                let (id, lane) = (partition.id, partition.lane);
                served.push(Served { id, number: id.index.0, lane, follower });
            }
        }
        served
    }

    /// Reads on where it stood, sometimes from somewhere else. Nothing that the source does is an error here.
    async fn read_on(&self) {
        let below = |n: u64| self.env.rng.below(n);
        let mut open: Option<(PartitionId, Offset)> = None;
        loop {
            self.env.tasks.sleep(Duration::from_millis(1 + below(150))).await;
            let Some(epochs) = self.epochs.upgrade() else { return };
            if below(READS) == 0 {
                open = None;
            }
            let served = self.served(&epochs);
            let same = open.and_then(|(id, _)| served.iter().find(|served| served.id == id));
            let any = usize::try_from(below(served.len().max(1) as u64)).expect("few");
            let Some(Served { id, number, follower, .. }) = same.or_else(|| served.get(any)) else { continue };
            let (id, number, partition) = (*id, *number, follower.partition(*id));
            let (start, end) = (partition.log_start(), partition.high_watermark());
            let anywhere = || Offset::new(start.get() + below(end.get().saturating_sub(start.get()).max(1)));
            let from = open.filter(|(of, _)| *of == id).map_or_else(anywhere, |(_, from)| from.max(start));
            open = Some((id, from));
            if from >= end {
                continue;
            }
            let max_bytes = 1 + usize::try_from(below(30_000)).expect("small");
            let fair = epochs.fair_weather() || !epochs.plan.has("replica-weather");
            let epoch = follower.status().home.epoch;
            let read = self.read(&epochs, &partition, Some(epoch), from, max_bytes).await;
            if epochs.is_undone(epoch) {
                open = None;
                continue;
            }
            let fair = fair && (epochs.fair_weather() || !epochs.plan.has("replica-weather"));
            match read {
                Ok(Some(next)) => {
                    epochs.replica_reads.set(epochs.replica_reads.get() + 1);
                    open = Some((id, next));
                }
                Ok(None) => panic!("p{number}: the replica forgot the partition"),
                Err(RemoteError::BelowStart { .. }) if from < partition.log_start() => {}
                Err(error) => {
                    let passes = error.disposition().passes() || matches!(error, RemoteError::Missing { .. });
                    assert!(!fair && passes, "p{number}: an open reader of the replica at {from}: {error}");
                }
            }
        }
    }

    /// Reads what the replica shows of `epoch`, or of the last one (`None`): that is not undone, though an attempt that
    /// was refused may have gone back to a cut for the next.
    async fn read(
        &self,
        epochs: &Epochs,
        partition: &PartitionReader,
        epoch: Option<LineageEpoch>,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Option<Offset>, RemoteError> {
        let number = partition.id().index.0;
        let read = if epochs.plan.defect == Some(Defect::ReadOnce) {
            let Some(view) = partition.view(from) else { return Ok(None) };
            // The view may be old when the bytes are asked for.
            self.env.tasks.sleep(Duration::from_secs(15)).await;
            Some(self.reader.read_batches(view, from, Offset::MAX, max_bytes).await?)
        } else {
            partition.read_batches(&self.reader, from, max_bytes).await?
        };
        let Some(read) = read else { return Ok(None) };
        if epoch.is_some_and(|epoch| epochs.is_undone(epoch)) {
            return Ok(None);
        }
        let covered = epochs.history.observed(number, &read.batches).expect("a read has batches");
        assert!(covered.contains(from), "p{number}: the replica answered {covered} for {from}");
        Ok(Some(covered.end))
    }

    /// Once the source rests: the replica has all that it has, and no more.
    pub(crate) async fn equals_source(&self, epochs: &Epochs) {
        let world = epochs.now();
        for partition in &world.topic().partitions {
            let (id, number) = (partition.id, partition.id.index.0);
            let until = epochs.now_ms() + 120_000;
            let (reader, start, end) = loop {
                let truth = world.way().node().and_then(|node| node.replica(id));
                let truth = truth.map(|replica| (replica.manifest().log_start, replica.manifest().archived_end));
                let served = self.served(epochs).into_iter().find(|served| served.id == id);
                let partition = served.map(|served| served.follower.partition(id));
                let shown = partition.as_ref().map(|found| (found.log_start(), found.high_watermark()));
                if let (Some((start, end)), Some(partition)) = (truth.filter(|_| truth == shown), partition) {
                    break (partition, start, end);
                }
                assert!(epochs.now_ms() < until, "p{number}: the replica shows {shown:?}, the source has {truth:?}");
                epochs.sleep_ms(100).await;
            };
            let mut from = start;
            while from < end {
                // Retention goes on.
                from = from.max(reader.log_start());
                match self.read(epochs, &reader, None, from, 40_000).await {
                    Ok(Some(next)) => from = next,
                    Err(RemoteError::BelowStart { .. }) => {}
                    other => panic!("p{number}: the replica cannot read {from}: {other:?}"),
                }
            }
        }
    }
}

fn config() -> ReplicaConfig {
    ReplicaConfig {
        poll: (Duration::from_millis(100), Duration::from_millis(600)),
        manifest_interval: Duration::from_secs(3),
        root_interval: Duration::from_secs(2),
        ..ReplicaConfig::default()
    }
}

/// What the bucket answers the replica in a run whose weather is not the replica's.
pub(crate) fn fair(epochs: &Epochs) {
    epochs.now().bucket.set_faults_for(MACHINE, Some(mild()));
}
