//! One shard's part: follows the lanes of sources that are this broker's and this shard's, and serves their partitions.
//!
//! Owns: which lanes the shard follows, which of their partitions it serves. Does not own: following a lane
//! (`tidewater_read_replica`), reading (`partition::read`). Shard-local.
//!
//! A partition is served once its lane has caught up with the bucket. Until then, and while another broker follows the
//! lane, readers get NOT_LEADER_OR_FOLLOWER and ask again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_read_replica::{LaneFollower, LaneParts, LaneStatus, ReplicaConfig, WaitsFor};
use tidewater_storage::env::{Clock, Env, Task};
use tidewater_storage::model::{PartitionId, ShardId, TopicName};
use tidewater_tiering::fetch::FetchConfig;
use tidewater_tiering::follow::Changes;

use super::facts::{FollowedLaneFacts, FollowedTopicFacts, ReplicaFacts, SourceFacts};
use super::published::{OpenSource, Published, Subscriber};
use crate::controller::client::{CONTROLLER_SHARD, ControllerHandle};
use crate::controller::followed::{Followed, SourceLane};
use crate::controller::sources::SourceId;
use crate::controller::state::shard_of;
use crate::limits::{SOURCE_INDEX_BYTES_MAX, SOURCE_READ_BYTES_MAX};
use crate::partition::read::followed::FollowedPartition;
use crate::partition::read::read_path::Remote;
use crate::partition::read::readable::Readable;
use crate::partition::shard::PartitionShard;

/// Between looks at lanes that have not caught up yet.
const LOOK: Duration = Duration::from_millis(100);

/// What a shard's part is started with.
pub struct ReplicaParts {
    pub env: Env,
    pub controller: ControllerHandle,
    pub partitions: Rc<PartitionShard>,
    /// The reader of this cluster's bucket, whose cache on disk the readers of sources share.
    pub remote: Remote,
    /// Shards of this broker.
    pub shards: u16,
    pub config: ReplicaConfig,
    pub published: Subscriber,
}

/// See the header. Cheap to clone.
#[derive(Clone)]
pub struct ReplicaShard {
    inner: Rc<Inner>,
}

struct Inner {
    parts: ReplicaParts,
    lanes: RefCell<BTreeMap<SourceLane, Rc<FollowedLane>>>,
    /// The reader of each source's bucket.
    remotes: RefCell<BTreeMap<SourceId, (Arc<OpenSource>, Remote)>>,
}

/// A lane that this shard follows.
struct FollowedLane {
    follower: LaneFollower,
    task: RefCell<Option<Task<()>>>,
    remote: Remote,
    partitions: Rc<PartitionShard>,
    clock: Clock,
    open: Arc<OpenSource>,
    /// The partitions of followed topics in the lane.
    wanted: RefCell<BTreeMap<PartitionId, TopicName>>,
    /// Those that are served.
    served: RefCell<BTreeMap<PartitionId, Rc<FollowedPartition>>>,
    /// Partitions of the lane that no followed topic has; each is a reason to read the catalogue once.
    strange: RefCell<BTreeSet<PartitionId>>,
    /// It has caught up with the bucket.
    is_known: Cell<bool>,
}

impl fmt::Debug for ReplicaShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplicaShard({} lanes)", self.inner.lanes.borrow().len())
    }
}

impl ReplicaShard {
    /// Follows and serves until the node stops.
    #[must_use]
    pub fn start(parts: ReplicaParts) -> Self {
        let (env, mut published) = (parts.env.clone(), parts.published.clone());
        let shard = Self { inner: Rc::new(Inner { parts, lanes: RefCell::default(), remotes: RefCell::default() }) };
        let this = shard.clone();
        drop(env.tasks.spawn("followed lanes", async move {
            loop {
                let now = Arc::clone(&published.borrow_and_update());
                this.take(&now);
                let changed = published.changed();
                let pause = async {
                    // A lane without records reports no change once it is known.
                    while !this.serve_known() {
                        this.inner.parts.env.tasks.sleep(LOOK).await;
                    }
                    std::future::pending::<()>().await;
                };
                match select(pin!(changed), pin!(pause)).await {
                    Either::Left((Ok(()), _)) | Either::Right(_) => {}
                    // The publisher ends with its shard.
                    Either::Left((Err(_), _)) => return,
                }
            }
        }));
        shard
    }

    /// Brings what is followed and served to what is published.
    fn take(&self, now: &Published) {
        let Inner { parts, lanes, .. } = &*self.inner;
        parts.controller.set_followed(Arc::clone(&now.followed));
        self.open(now);
        let wanted = self.wanted(now);
        let gone: Vec<SourceLane> = lanes.borrow().keys().filter(|lane| !wanted.contains_key(lane)).copied().collect();
        for lane in gone {
            if let Some(lane) = lanes.borrow_mut().remove(&lane) {
                lane.end();
            }
        }
        for (lane, partitions) in wanted {
            let held = lanes.borrow().get(&lane).cloned();
            let followed = match held {
                Some(held) => held,
                None => {
                    let Some(followed) = self.begin(lane) else { continue };
                    lanes.borrow_mut().insert(lane, Rc::clone(&followed));
                    followed
                }
            };
            followed.want(partitions);
        }
    }

    /// Serves the lanes that have become known. Are all?
    fn serve_known(&self) -> bool {
        let lanes: Vec<_> = self.inner.lanes.borrow().values().cloned().collect();
        lanes.iter().filter(|lane| !lane.is_known.get()).for_each(|lane| lane.serve());
        lanes.iter().all(|lane| lane.is_known.get())
    }

    /// A reader for each open source; those of sources that are gone, or whose bucket was opened again, end.
    fn open(&self, now: &Published) {
        let Inner { parts, lanes, remotes } = &*self.inner;
        let open = |id: &SourceId| now.sources.get(id).and_then(|source| source.open.as_ref());
        let is_same =
            |id: &SourceId, held: &Arc<OpenSource>| open(id).is_some_and(|open| Arc::ptr_eq(&open.store, &held.store));
        remotes.borrow_mut().retain(|id, (held, _)| is_same(id, held));
        // A lane reads the store that it was begun with.
        lanes.borrow_mut().retain(|lane, followed| {
            let stays = is_same(&lane.source, &followed.open);
            if !stays {
                followed.end();
            }
            stays
        });
        for id in now.sources.keys() {
            let Some(open) = open(id) else { continue };
            remotes.borrow_mut().entry(*id).or_insert_with(|| {
                let mut config = FetchConfig::new(PathBuf::new(), parts.remote.cache_capacity_bytes());
                config.memory_bytes = SOURCE_READ_BYTES_MAX;
                config.index_bytes = SOURCE_INDEX_BYTES_MAX;
                config.root = Some(open.name.root_key());
                (Arc::clone(open), Rc::new(parts.remote.beside(Arc::clone(&open.store), config)))
            });
        }
    }

    /// The lanes that this shard shall follow, with the partitions to serve.
    fn wanted(&self, now: &Published) -> BTreeMap<SourceLane, BTreeMap<PartitionId, TopicName>> {
        let parts = &self.inner.parts;
        let here = parts.controller.image().here;
        let mut wanted = BTreeMap::new();
        for source in now.sources.keys() {
            for (lane, broker) in now.followed.lanes_of(*source) {
                if broker == Some(here) && shard_of(lane, parts.shards) == parts.partitions.here {
                    wanted.insert(SourceLane { source: *source, lane }, BTreeMap::new());
                }
            }
        }
        add_partitions(&now.followed, &mut wanted);
        wanted
    }

    fn begin(&self, of: SourceLane) -> Option<Rc<FollowedLane>> {
        let Inner { parts, remotes, .. } = &*self.inner;
        let (open, remote) = remotes.borrow().get(&of.source).cloned()?;
        let followed = Rc::new_cyclic(|this: &std::rc::Weak<FollowedLane>| {
            let this = this.clone();
            let changed = move |changes: &Changes| {
                if let Some(lane) = this.upgrade() {
                    lane.changed(changes);
                }
            };
            let follower = LaneFollower::new(LaneParts {
                env: parts.env.clone(),
                store: Arc::clone(&open.store),
                indexes: remote.indexes(),
                name: open.name.clone(),
                home: open.home,
                lane: of.lane,
                config: parts.config.clone(),
                changed: Rc::new(changed),
            });
            FollowedLane {
                follower,
                task: RefCell::default(),
                remote: Rc::clone(&remote),
                partitions: Rc::clone(&parts.partitions),
                clock: parts.env.clock.clone(),
                open: Arc::clone(&open),
                wanted: RefCell::default(),
                served: RefCell::default(),
                strange: RefCell::default(),
                is_known: Cell::default(),
            }
        });
        let follower = followed.follower.clone();
        let task = parts.env.tasks.spawn("followed lane", async move { follower.run().await });
        followed.task.replace(Some(task));
        Some(followed)
    }

    /// What this shard says about the lanes that it follows, and shard 0 about the sources.
    #[must_use]
    pub fn facts(&self) -> ReplicaFacts {
        let Inner { parts, lanes, .. } = &*self.inner;
        let mut facts = ReplicaFacts::default();
        if parts.partitions.here == CONTROLLER_SHARD {
            let now = parts.published.borrow();
            let of = |(id, source): (&SourceId, &super::published::SourceNow)| SourceFacts {
                source: id.0,
                requests_per_hour: source.requests_per_hour.load(Ordering::Relaxed),
            };
            facts.sources = now.sources.iter().map(of).collect();
        }
        for (of, lane) in lanes.borrow().iter() {
            facts.lanes.push(lane_facts(*of, parts.partitions.here, &lane.follower.status()));
            for (id, partition) in lane.served.borrow().iter() {
                let (records, bytes) = (partition.readable().count(), partition.bytes());
                facts.add_topic(FollowedTopicFacts { topic: id.topic.0, records, bytes });
            }
        }
        facts
    }
}

/// Puts each partition of the followed topics to its lane, if the lane is wanted.
fn add_partitions(followed: &Followed, wanted: &mut BTreeMap<SourceLane, BTreeMap<PartitionId, TopicName>>) {
    if wanted.is_empty() {
        return;
    }
    for topic in followed.all() {
        for (partition, lane) in topic.image.partitions.iter().zip(topic.lanes.iter()) {
            if let Some(partitions) = wanted.get_mut(&SourceLane { source: topic.source, lane: *lane }) {
                partitions.insert(partition.id, topic.image.name.clone());
            }
        }
    }
}

fn lane_facts(of: SourceLane, shard: ShardId, status: &LaneStatus) -> FollowedLaneFacts {
    let state = match status.waits_for {
        WaitsFor::Manifest => "reading the manifest".to_owned(),
        WaitsFor::Bundle(_) => "following".to_owned(),
        WaitsFor::Switch(epoch) => format!("ended; a restore goes on in epoch {epoch}"),
    };
    FollowedLaneFacts {
        source: of.source.0,
        lane: of.lane.0,
        shard: shard.0,
        bundle: status.sequence.0,
        lag_ms: status.lag_ms,
        requests: status.requests.total(),
        state,
        reason: status.error.clone(),
    }
}

impl FollowedLane {
    /// These partitions are to be served, and no others.
    fn want(&self, partitions: BTreeMap<PartitionId, TopicName>) {
        self.strange.borrow_mut().retain(|id| !partitions.contains_key(id));
        self.wanted.replace(partitions);
        self.serve();
    }

    /// The lane has taken a manifest or a bundle.
    fn changed(&self, changes: &Changes) {
        if !self.is_known.get() {
            self.serve();
        }
        let served = self.served.borrow();
        let mut is_strange = false;
        for id in &changes.partitions {
            match served.get(id) {
                Some(partition) => {
                    partition.changed();
                    self.report_dropped(*id);
                }
                None => is_strange |= self.strange.borrow_mut().insert(*id),
            }
        }
        if is_strange {
            self.open.look_soon.notify_one();
        }
    }

    /// Reports a topic that was deleted at the source. Its records stay readable until it is no longer published.
    fn report_dropped(&self, id: PartitionId) {
        if self.follower.with_partition(id, |partition| partition.is_dropped()) == Some(true) {
            // Shard 0 may have ended the source.
            let _ = self.open.dropped.send(id.topic);
        }
    }

    /// Serves what is wanted, once the lane has caught up with the bucket.
    fn serve(&self) {
        // Before it has caught up, its ends may lie below what a reader had from here or from another broker.
        self.is_known.set(self.is_known.get() || self.follower.status().has_caught_up);
        let (wanted, mut served) = (self.wanted.borrow(), self.served.borrow_mut());
        served.retain(|id, partition| {
            let stays = wanted.get(id) == Some(&partition.topic);
            if !stays {
                self.partitions.unfollow(*id);
            }
            stays
        });
        if !self.is_known.get() {
            return;
        }
        for (id, topic) in wanted.iter().filter(|(id, _)| !served.contains_key(*id)).collect::<Vec<_>>() {
            let (remote, lane) = (Rc::clone(&self.remote), self.follower.clone());
            let clock = self.clock.clone();
            let partition = Rc::new(FollowedPartition::new(*id, topic.clone(), remote, lane, clock));
            self.partitions.follow(Rc::clone(&partition));
            served.insert(*id, partition);
            self.report_dropped(*id);
        }
    }

    fn end(&self) {
        if let Some(task) = self.task.take() {
            task.cancel();
        }
        for id in std::mem::take(&mut *self.served.borrow_mut()).into_keys() {
            self.partitions.unfollow(id);
        }
    }
}
