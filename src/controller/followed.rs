//! Topics of sources beside the cluster's own: which broker serves them, and the image that clients see. Pure;
//! node-wide.
//!
//! Nothing of it is in the controller's state but the sources themselves: every broker reads the roots and catalogues
//! of all sources by itself, and which broker follows a lane of a source is a function of the lane and of the brokers
//! that are there. Two brokers that see others differently may both follow a lane for a while, which harms nothing:
//! neither writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tidewater_storage::model::{Incarnation, LaneId, NodeId, PartitionId, PartitionIndex, TopicId, TopicName};

use super::image::{ClusterImage, PartitionImage, TopicImage};
use super::sources::SourceId;
use super::state::shard_of;
use crate::config::topic::TopicConfig;

/// The lane of followed partitions in an image. No lane of the cluster has this number.
pub const FOLLOWED: LaneId = LaneId(u32::MAX);

const _: () = assert!(FOLLOWED.0 > crate::limits::LANES_MAX, "no lane of the cluster has this number");

/// A lane of a source; what one broker follows as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceLane {
    pub source: SourceId,
    pub lane: LaneId,
}

/// What a broker knows of the topics of its sources.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    topics: HashMap<TopicId, FollowedTopic>,
    /// Sources whose catalogue this broker has read since its start.
    read: BTreeSet<SourceId>,
    /// Brokers that are there, this one among them.
    live: BTreeSet<NodeId>,
}

/// A topic of a source.
#[derive(Clone, Debug)]
pub struct FollowedTopic {
    pub source: SourceId,
    pub image: Arc<TopicImage>,
    /// The source's lane of each partition.
    pub lanes: Arc<[LaneId]>,
}

impl FollowedTopic {
    /// A topic as the source's catalogue has it; `partitions` are incarnation and lane, by number. `shards` is the
    /// number of this broker's shards.
    #[must_use]
    pub fn new(
        source: SourceId,
        (id, name): (TopicId, TopicName),
        overrides: BTreeMap<String, String>,
        partitions: &[(Incarnation, LaneId)],
        shards: u16,
    ) -> Self {
        let image = |(n, (incarnation, lane)): (usize, &(Incarnation, LaneId))| PartitionImage {
            id: PartitionId {
                topic: id,
                index: PartitionIndex(i32::try_from(n).unwrap_or(i32::MAX)),
                incarnation: *incarnation,
            },
            lane: FOLLOWED,
            epoch_base: 0,
            shard: shard_of(*lane, shards),
        };
        let topic = TopicImage {
            id,
            name,
            partitions: partitions.iter().enumerate().map(image).collect(),
            config: Arc::new(TopicConfig::resolve(&overrides)),
            overrides,
            revision: 0,
            copy: None,
        };
        Self { source, image: Arc::new(topic), lanes: partitions.iter().map(|(_, lane)| *lane).collect() }
    }
}

impl Followed {
    /// Of sources in the order in which they were added: of two topics with one id, the earlier source's counts.
    #[must_use]
    pub fn new(
        topics: impl IntoIterator<Item = FollowedTopic>,
        read: BTreeSet<SourceId>,
        live: BTreeSet<NodeId>,
    ) -> Self {
        let mut by_id = HashMap::new();
        for topic in topics {
            by_id.entry(topic.image.id).or_insert(topic);
        }
        Self { topics: by_id, read, live }
    }

    /// The topic, if it is a source's.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&FollowedTopic> {
        if self.topics.is_empty() { None } else { self.topics.get(&id) }
    }

    /// The broker that follows the partition's lane; `None` for a partition that is no source's.
    #[must_use]
    pub fn leader(&self, partition: PartitionId) -> Option<NodeId> {
        let topic = self.topic(partition.topic)?;
        let lane = *topic.lanes.get(usize::try_from(partition.index.0).ok()?)?;
        follower(&self.live, SourceLane { source: topic.source, lane })
    }

    /// All topics, hidden ones among them.
    pub fn all(&self) -> impl Iterator<Item = &FollowedTopic> {
        self.topics.values()
    }

    /// The topics of a source, hidden ones among them.
    pub fn topics_of(&self, source: SourceId) -> impl Iterator<Item = &TopicImage> {
        self.topics.values().filter(move |topic| topic.source == source).map(|topic| &*topic.image)
    }

    /// The lanes of a source that carry these topics, each with the broker that follows it.
    #[must_use]
    pub fn lanes_of(&self, source: SourceId) -> BTreeMap<LaneId, Option<NodeId>> {
        let topics = self.topics.values().filter(|topic| topic.source == source);
        let lanes: BTreeSet<LaneId> = topics.flat_map(|topic| topic.lanes.iter().copied()).collect();
        lanes.into_iter().map(|lane| (lane, follower(&self.live, SourceLane { source, lane }))).collect()
    }

    /// The topics of sources that clients see, by name. A topic of the cluster itself wins over a source's of the same
    /// name, and an earlier source's over a later one's.
    #[must_use]
    pub fn shown(&self, image: &ClusterImage) -> BTreeMap<&TopicName, &FollowedTopic> {
        let is_own = |topic: &TopicImage| image.topics.contains_key(&topic.name) || image.names.contains_key(&topic.id);
        let mut topics: Vec<&FollowedTopic> = self
            .topics
            .values()
            .filter(|topic| image.sources.contains_key(&topic.source) && !is_own(&topic.image))
            .collect();
        topics.sort_unstable_by_key(|topic| {
            (image.sources.get(&topic.source).map(|source| source.since), topic.image.id)
        });
        let mut shown = BTreeMap::new();
        for topic in topics {
            shown.entry(&topic.image.name).or_insert(topic);
        }
        shown
    }

    /// The image with the topics of its sources that are [`Followed::shown`].
    #[must_use]
    pub fn view(self: &Arc<Self>, image: &Arc<ClusterImage>) -> Arc<ClusterImage> {
        if image.sources.is_empty() {
            return Arc::clone(image);
        }
        let mut view = ClusterImage { followed: Arc::clone(self), ..(**image).clone() };
        for (name, topic) in self.shown(image) {
            view.names.insert(topic.image.id, name.clone());
            view.topics.insert(name.clone(), Arc::clone(&topic.image));
        }
        Arc::new(view)
    }
}

impl ClusterImage {
    /// The source's name, if the topic is followed and not the cluster's own.
    #[must_use]
    pub fn source_of(&self, topic: TopicId) -> Option<&str> {
        let source = self.followed.topic(topic)?.source;
        self.sources.get(&source).map(|source| source.spec.name.as_str())
    }

    /// Does it name every topic, also those of sources? Not after a start, before the sources' catalogues are read.
    #[must_use]
    pub fn knows_all_topics(&self) -> bool {
        self.sources.keys().all(|source| self.followed.read.contains(source))
    }
}

/// The broker that follows a lane of a source: the one with the greatest weight for it (rendezvous hashing), so that a
/// broker that comes or goes moves its own lanes and no others.
#[must_use]
pub fn follower(live: &BTreeSet<NodeId>, of: SourceLane) -> Option<NodeId> {
    let (high, low) = of.source.0.as_u64_pair();
    let lane = mixed(high ^ mixed(low ^ mixed(u64::from(of.lane.0))));
    live.iter().copied().max_by_key(|node| (mixed(lane ^ u64::from(node.0.unsigned_abs())), *node))
}

/// The output function of SplitMix64.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
pub(crate) mod tests {
    use tidewater_storage::model::ShardId;
    use uuid::Uuid;

    use super::*;
    use crate::controller::sources::{self, SourceRecord};
    use crate::kafka::handlers::fixture::image;

    pub(crate) fn source(n: u128) -> SourceId {
        SourceId(Uuid::from_u128(n))
    }

    pub(crate) fn topic(of: u128, id: u128, name: &str, lanes: &[u32]) -> FollowedTopic {
        let partitions: Vec<_> = lanes.iter().map(|lane| (Incarnation(0), LaneId(*lane))).collect();
        let name = TopicName::new(name).expect("legal");
        FollowedTopic::new(source(of), (TopicId(Uuid::from_u128(id)), name), BTreeMap::new(), &partitions, 2)
    }

    /// The image of a cluster with a topic `own` and sources 1 and 2, added in this order.
    pub(crate) fn following() -> Arc<ClusterImage> {
        let record =
            |n: u128, since| (source(n), SourceRecord { spec: sources::tests::spec(&format!("s{n}"), n), since });
        let sources = Arc::new(BTreeMap::from([record(1, 9), record(2, 5)]));
        Arc::new(ClusterImage { sources, ..image(&[("own", 1)]) })
    }

    fn nodes(ids: &[i32]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_broker_that_goes_moves_its_own_lanes_and_no_others() {
        let lanes: Vec<_> = (1..=3000).map(|lane| SourceLane { source: source(7), lane: LaneId(lane) }).collect();
        let of = |live: &[i32]| lanes.iter().map(|lane| follower(&nodes(live), *lane)).collect::<Vec<_>>();
        let (three, two) = (of(&[1, 2, 3]), of(&[1, 3]));
        for node in [1, 2, 3] {
            let led = three.iter().filter(|leader| **leader == Some(NodeId(node))).count();
            assert!((900..1100).contains(&led), "broker {node} follows {led} of 3000 lanes");
        }
        let moved = three.iter().zip(&two).filter(|(before, after)| before != after);
        assert!(moved.clone().all(|(before, _)| *before == Some(NodeId(2))), "only what broker 2 followed");
        assert_eq!(follower(&nodes(&[]), lanes[0]), None);
    }

    #[test]
    fn own_topics_win_over_followed_ones_and_earlier_sources_over_later_ones() {
        let image = following();
        let topics = [
            topic(1, 101, "own", &[1]),
            topic(1, 102, "both", &[1]),
            topic(2, 202, "both", &[3, 4]),
            topic(3, 301, "gone", &[1]),
        ];
        let followed = Arc::new(Followed::new(topics, BTreeSet::from([source(1)]), nodes(&[1])));
        let view = followed.view(&image);
        assert_eq!(view.topics.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["both", "own"]);
        let both = view.topic("both").expect("is followed");
        assert_eq!((both.id.0.as_u128(), both.partitions.len()), (202, 2), "source 2 was added first");
        assert_eq!(view.topic_by_id(both.id).map(|topic| topic.id), Some(both.id));
        assert_eq!((view.source_of(both.id), view.source_of(view.topic("own").expect("own").id)), (Some("s2"), None));
        assert_eq!(view.topic("own").map(|own| own.id), image.topic("own").map(|own| own.id));
        assert_eq!(both.partitions.iter().map(|p| p.shard).collect::<Vec<_>>(), [ShardId(0), ShardId(1)]);
        assert_eq!(view.followed.leader(both.partitions[1].id), Some(NodeId(1)));
        assert!(!view.knows_all_topics(), "source 2 was not read yet");
    }

    #[test]
    fn a_cluster_without_sources_has_one_image() {
        let image = Arc::new(image(&[("own", 1)]));
        assert!(Arc::ptr_eq(&Arc::<Followed>::default().view(&image), &image) && image.knows_all_topics());
    }
}
