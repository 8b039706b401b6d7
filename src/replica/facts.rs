//! What one broker says about the sources that it follows. JSON between brokers; fields may be added, so a newer or
//! older broker is still understood.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A broker's part in following. A message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaFacts {
    pub sources: Vec<SourceFacts>,
    /// The lanes that this broker follows.
    pub lanes: Vec<FollowedLaneFacts>,
    /// Topics with partitions in these lanes, by id.
    pub topics: Vec<FollowedTopicFacts>,
}

/// A source as one broker sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFacts {
    pub source: Uuid,
    /// Requests of this broker to the source's bucket in the last hour, or as many as that would be.
    pub requests_per_hour: u64,
}

/// A followed lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowedLaneFacts {
    pub source: Uuid,
    pub lane: u32,
    pub shard: u16,
    /// Sequence of the last bundle taken.
    pub bundle: u64,
    /// How far behind the source's bucket the lane may be; `None` before it was read.
    pub lag_ms: Option<u64>,
    /// To the source's bucket since the broker follows it, those for records left out.
    pub requests: u64,
    /// `following`, or what it waits for.
    pub state: String,
    /// Why it does not follow.
    pub reason: Option<String>,
}

/// The partitions of a topic in the lanes that a broker follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowedTopicFacts {
    /// The topic's id.
    pub topic: Uuid,
    pub records: u64,
    pub bytes: u64,
}

impl ReplicaFacts {
    /// Adds what another shard of the broker says.
    pub fn add(&mut self, other: Self) {
        for source in other.sources {
            match self.sources.iter_mut().find(|held| held.source == source.source) {
                Some(held) => held.requests_per_hour += source.requests_per_hour,
                None => self.sources.push(source),
            }
        }
        self.lanes.extend(other.lanes);
        other.topics.into_iter().for_each(|topic| self.add_topic(topic));
    }

    /// Adds partitions of a topic.
    pub fn add_topic(&mut self, topic: FollowedTopicFacts) {
        match self.topics.binary_search_by_key(&topic.topic, |held| held.topic) {
            Ok(at) => {
                if let Some(held) = self.topics.get_mut(at) {
                    held.records += topic.records;
                    held.bytes += topic.bytes;
                }
            }
            Err(at) => self.topics.insert(at, topic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_to_a_broker() {
        let (source, topic) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let shard = |lane, records| ReplicaFacts {
            sources: vec![SourceFacts { source, requests_per_hour: 10 }],
            lanes: vec![FollowedLaneFacts { source, lane, ..FollowedLaneFacts::default() }],
            topics: vec![FollowedTopicFacts { topic, records, bytes: 1 }],
        };
        let mut all = shard(1, 5);
        all.add(shard(2, 7));
        assert_eq!((all.sources.len(), all.sources[0].requests_per_hour), (1, 20));
        assert_eq!(all.lanes.iter().map(|lane| lane.lane).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(all.topics, [FollowedTopicFacts { topic, records: 12, bytes: 2 }]);
    }
}
