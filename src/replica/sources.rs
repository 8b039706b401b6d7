//! Shard 0's part: opens the bucket of every source that the controller names, has its root and catalogue followed, and
//! publishes what is known, with the brokers that are there.
//!
//! Shard-local. Without a source it sleeps.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::select;
use tidewater_read_replica::{ReplicaConfig, Source, SourceParts, SourceState as Known, TopicPattern};
use tidewater_storage::env::{Env, Mono, Notify, Task};
use tidewater_storage::model::{NodeId, TopicId, TopicName};
use tidewater_tiering::manifest::CatalogueTopic;
use tidewater_tiering::store::{self, ObjectStore, RequestKind, StoreOptions, StoreStats};
use tokio::runtime::Handle;

use super::published::{OpenSource, Published, Publisher, SourceNow, SourceState};
use crate::controller::client::ControllerHandle;
use crate::controller::followed::{Followed, FollowedTopic};
use crate::controller::image::ClusterImage;
use crate::controller::peers::PeerCalls;
use crate::controller::sources::{SourceId, SourceSpec};
use crate::limits::SOURCE_STORE_BYTES_MAX;

/// Between looks at the brokers that are there and at what the sources report.
const LOOK: Duration = Duration::from_millis(200);

/// Between looks at a source that has no topic to follow yet.
const EMPTY_LOOK: Duration = Duration::from_secs(5);

/// After a bucket could not be opened.
const OPEN_RETRY: Duration = Duration::from_secs(5);

/// Requests are counted over this time, in samples of a minute.
const HOUR: Duration = Duration::from_secs(3600);
const SAMPLE: Duration = Duration::from_secs(60);

/// What the task is started with.
pub struct SourcesParts {
    pub env: Env,
    pub controller: ControllerHandle,
    /// Tells which brokers are there; `None` in a broker that has no port for others.
    pub peers: Option<Rc<dyn PeerCalls>>,
    /// The side runtime, which reads the buckets.
    pub side: Handle,
    /// Shards of this broker.
    pub shards: u16,
    pub config: ReplicaConfig,
    pub publisher: Publisher,
}

struct Sources {
    parts: SourcesParts,
    running: RefCell<BTreeMap<SourceId, Running>>,
    /// Notified when root or catalogue of a source have changed.
    changed: Rc<Notify>,
    last: RefCell<Last>,
}

/// What [`Followed`] was made from last.
#[derive(Default)]
struct Last {
    live: BTreeSet<NodeId>,
    known: BTreeMap<SourceId, Option<Rc<Known>>>,
    /// Topics that lanes found deleted.
    dropped: BTreeSet<TopicId>,
    followed: Arc<Followed>,
}

/// A source that the controller names.
struct Running {
    spec: SourceSpec,
    opened: Result<Opened, Unopened>,
}

struct Unopened {
    why: String,
    again: Mono,
}

/// A source whose bucket is open.
struct Opened {
    store: Arc<dyn ObjectStore>,
    stats: Arc<StoreStats>,
    source: Source,
    tasks: [Task<()>; 2],
    look_soon: Arc<tokio::sync::Notify>,
    open: RefCell<Option<Arc<OpenSource>>>,
    /// When it was looked at last because it had no topics.
    looked: Cell<Mono>,
    dropped_out: flume::Sender<TopicId>,
    dropped_in: flume::Receiver<TopicId>,
    /// Topics that lanes found deleted.
    dropped: RefCell<BTreeSet<TopicId>>,
    requests_per_hour: Arc<AtomicU64>,
    /// How many requests had been made, each minute of the last hour.
    samples: RefCell<VecDeque<(Mono, u64)>>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sources({})", self.running.borrow().len())
    }
}

/// Follows the sources until the node stops.
pub fn start(parts: SourcesParts) {
    let tasks = parts.env.tasks.clone();
    let sources =
        Rc::new(Sources { parts, running: RefCell::default(), changed: Rc::default(), last: RefCell::default() });
    drop(tasks.spawn("sources", async move { sources.run().await }));
}

impl Sources {
    async fn run(&self) {
        loop {
            let image = self.parts.controller.image();
            self.follow(&image);
            self.publish(&image);
            let next = self.parts.controller.image_after(image.revision);
            if image.sources.is_empty() {
                next.await;
                continue;
            }
            let pause = self.parts.env.tasks.sleep(LOOK);
            select(pin!(select(pin!(next), pin!(self.changed.notified()))), pin!(pause)).await;
        }
    }

    /// Opens sources that are new or were changed, and ends those that are gone.
    fn follow(&self, image: &ClusterImage) {
        let now = self.parts.env.clock.now();
        let mut running = self.running.borrow_mut();
        running.retain(|id, held| {
            let stays = image.sources.get(id).is_some_and(|record| record.spec == held.spec);
            let retries = held.opened.as_ref().is_err_and(|unopened| unopened.again.since(now).is_zero());
            if (!stays || retries)
                && let Ok(opened) = &held.opened
            {
                opened.tasks.iter().for_each(Task::cancel);
            }
            stays && !retries
        });
        for (id, record) in image.sources.iter() {
            running.entry(*id).or_insert_with(|| {
                let spec = record.spec.clone();
                let opened = self.open(&spec).map_err(|why| {
                    tracing::warn!(source = %spec.name, url = %spec.url, %why, "the source's bucket cannot be opened; tried again");
                    Unopened { why, again: now + OPEN_RETRY }
                });
                Running { spec, opened }
            });
        }
    }

    fn open(&self, spec: &SourceSpec) -> Result<Opened, String> {
        let topics: TopicPattern = spec.topics.parse().map_err(|error| format!("{error}"))?;
        let stats = Arc::new(StoreStats::default());
        let options =
            StoreOptions { stats: Arc::clone(&stats), bytes_max: SOURCE_STORE_BYTES_MAX, ..StoreOptions::default() };
        let store = store::attach(&spec.url, self.parts.side.clone(), &options).map_err(|error| error.to_string())?;
        let (env, changed) = (self.parts.env.clone(), Rc::clone(&self.changed));
        let source = Source::new(SourceParts {
            env: env.clone(),
            store: Arc::clone(&store),
            name: spec.cluster_name.clone(),
            topics,
            config: self.parts.config.clone(),
            changed: Rc::new(move || changed.notify()),
        });
        let look_soon = Arc::new(tokio::sync::Notify::new());
        let (following, looking, soon) = (source.clone(), source.clone(), Arc::clone(&look_soon));
        let tasks = [
            env.tasks.spawn("source", async move { following.run().await }),
            env.tasks.spawn("source look", async move {
                loop {
                    soon.notified().await;
                    looking.look_soon();
                }
            }),
        ];
        let (dropped_out, dropped_in) = flume::unbounded();
        Ok(Opened {
            store,
            stats,
            source,
            tasks,
            look_soon,
            open: RefCell::default(),
            looked: Cell::new(env.clock.now()),
            dropped_out,
            dropped_in,
            dropped: RefCell::default(),
            requests_per_hour: Arc::default(),
            samples: RefCell::default(),
        })
    }

    fn publish(&self, image: &ClusterImage) {
        let followed = self.followed(image);
        let now = self.parts.env.clock.now();
        let running = self.running.borrow();
        let sources = running.iter().map(|(id, running)| (*id, running.now(now))).collect();
        let next = Published { followed, sources };
        self.parts.publisher.send_if_modified(|held| {
            let is_new = !held.is_shown_by(&next);
            if is_new {
                *held = Arc::new(next);
            }
            is_new
        });
    }

    /// The topics of all sources and the brokers that are there; the same as before if nothing has changed.
    fn followed(&self, image: &ClusterImage) -> Arc<Followed> {
        let live = self.live(image);
        let running = self.running.borrow();
        let known: BTreeMap<SourceId, Option<Rc<Known>>> =
            running.iter().map(|(id, running)| (*id, running.known())).collect();
        let mut last = self.last.borrow_mut();
        let same = |(a, b): (&Option<Rc<Known>>, &Option<Rc<Known>>)| match (a, b) {
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let dropped: BTreeSet<TopicId> = running.values().flat_map(Running::dropped).collect();
        let is_same = (&last.live, &last.dropped) == (&live, &dropped)
            && last.known.keys().eq(known.keys())
            && last.known.values().zip(known.values()).all(same);
        if is_same {
            return Arc::clone(&last.followed);
        }
        let mut order: Vec<SourceId> = known.keys().copied().collect();
        order.sort_by_key(|id| image.sources.get(id).map(|record| record.since));
        let topics = order.iter().filter_map(|id| Some((*id, known.get(id)?.as_ref()?)));
        let topics =
            topics.flat_map(|(id, known)| newest(&known.topics, &dropped).into_iter().map(move |topic| (id, topic)));
        let topics = topics.map(|(id, topic)| followed_topic(id, topic, self.parts.shards));
        let read = known.iter().filter(|(_, known)| known.is_some()).map(|(id, _)| *id).collect();
        let followed = Arc::new(Followed::new(topics, read, live.clone()));
        *last = Last { live, known, dropped, followed: Arc::clone(&followed) };
        followed
    }

    /// Brokers that are registered and connected, and this one.
    fn live(&self, image: &ClusterImage) -> BTreeSet<NodeId> {
        let connected = self.parts.peers.as_ref().map(|peers| peers.connected()).unwrap_or_default();
        let others = connected.into_iter().filter(|node| image.brokers.contains_key(node));
        others.chain([image.here]).collect()
    }
}

/// The topics that are there, without a cluster's own. The catalogue names a deleted topic until its objects are gone:
/// of two with one name, the one that changed last is the topic of now.
fn newest<'a>(topics: &'a [CatalogueTopic], dropped: &BTreeSet<TopicId>) -> Vec<&'a CatalogueTopic> {
    let mut by_name: BTreeMap<&TopicName, &CatalogueTopic> = BTreeMap::new();
    for topic in topics.iter().filter(|topic| !topic.name.is_internal() && !dropped.contains(&topic.id)) {
        let held = by_name.entry(&topic.name).or_insert(topic);
        if topic.revision > held.revision {
            *held = topic;
        }
    }
    by_name.into_values().collect()
}

fn followed_topic(source: SourceId, topic: &CatalogueTopic, shards: u16) -> FollowedTopic {
    let partitions: Vec<_> = topic.partitions.iter().map(|partition| (partition.incarnation, partition.lane)).collect();
    FollowedTopic::new(source, (topic.id, topic.name.clone()), topic.configs.clone(), &partitions, shards)
}

impl Running {
    /// What its catalogue says, if it is that of the cluster that shall be followed.
    fn known(&self) -> Option<Rc<Known>> {
        let known = self.opened.as_ref().ok()?.source.state()?;
        (known.home.cluster.0 == self.spec.cluster).then_some(known)
    }

    /// Topics that lanes found deleted and that the catalogue still names.
    fn dropped(&self) -> BTreeSet<TopicId> {
        let Ok(opened) = &self.opened else { return BTreeSet::new() };
        let mut dropped = opened.dropped.borrow_mut();
        dropped.extend(opened.dropped_in.try_iter());
        let known = opened.source.state();
        let named = |id: &TopicId| known.as_ref().is_some_and(|known| known.topics.iter().any(|topic| topic.id == *id));
        dropped.retain(named);
        dropped.clone()
    }

    fn now(&self, now: Mono) -> SourceNow {
        let opened = match &self.opened {
            Ok(opened) => opened,
            Err(Unopened { why, .. }) => {
                let reason = Some(why.clone());
                return SourceNow {
                    state: SourceState::Refused,
                    reason,
                    open: None,
                    requests_per_hour: Arc::default(),
                };
            }
        };
        let (status, known) = (opened.source.status(), self.known());
        let (state, reason) = match (status.home, &known, status.error) {
            (Some(home), None, _) => {
                let why = format!(
                    "the cluster {} in {} is {} now, not {}, which was followed; delete the source if that is meant",
                    self.spec.cluster_name, self.spec.url, home.cluster, self.spec.cluster
                );
                (SourceState::Refused, Some(why))
            }
            (_, None, None) => (SourceState::Opening, None),
            (_, _, Some(why)) => (SourceState::Failing, Some(why)),
            (_, Some(_), None) => (SourceState::Following, None),
        };
        if known.as_ref().is_none_or(|known| known.topics.is_empty()) && now.since(opened.looked.get()) >= EMPTY_LOOK {
            opened.looked.set(now);
            opened.source.look_soon();
        }
        let open = known.map(|known| opened.open(&self.spec, &known));
        opened.requests_per_hour.store(opened.request_rate(now), Ordering::Relaxed);
        SourceNow { state, reason, open, requests_per_hour: Arc::clone(&opened.requests_per_hour) }
    }
}

impl Opened {
    /// The same one as long as nothing of it changes.
    fn open(&self, spec: &SourceSpec, known: &Known) -> Arc<OpenSource> {
        let mut held = self.open.borrow_mut();
        if let Some(open) = held.as_ref().filter(|open| open.home == known.home) {
            return Arc::clone(open);
        }
        let open = Arc::new(OpenSource {
            store: Arc::clone(&self.store),
            name: spec.cluster_name.clone(),
            home: known.home,
            look_soon: Arc::clone(&self.look_soon),
            dropped: self.dropped_out.clone(),
        });
        *held = Some(Arc::clone(&open));
        open
    }

    fn request_rate(&self, now: Mono) -> u64 {
        let all: u64 = RequestKind::ALL.iter().map(|kind| self.stats.requests(*kind)).sum();
        let mut samples = self.samples.borrow_mut();
        if samples.back().is_none_or(|(at, _)| now.since(*at) >= SAMPLE) {
            samples.push_back((now, all));
        }
        while samples.len() > 1 && samples.front().is_some_and(|(at, _)| now.since(*at) > HOUR) {
            samples.pop_front();
        }
        let Some((since, before)) = samples.front().copied() else { return 0 };
        let seconds = now.since(since).max(SAMPLE).as_secs();
        all.saturating_sub(before).saturating_mul(HOUR.as_secs()) / seconds
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn of_a_name_the_topic_that_changed_last_is_followed() {
        let topic = |id: u128, name: &str, revision| CatalogueTopic {
            id: TopicId(Uuid::from_u128(id)),
            name: TopicName::new(name).expect("legal"),
            configs: BTreeMap::new(),
            partitions: Vec::new(),
            revision,
            copy: None,
        };
        let topics = [
            topic(1, "orders", 3),
            topic(2, "orders", 9),
            topic(3, "users", 5),
            topic(4, "gone", 6),
            topic(5, "__consumer_offsets", 1),
        ];
        let dropped = BTreeSet::from([TopicId(Uuid::from_u128(4))]);
        let ids: Vec<u128> = newest(&topics, &dropped).iter().map(|topic| topic.id.0.as_u128()).collect();
        assert_eq!(ids, [2, 3]);
    }
}
