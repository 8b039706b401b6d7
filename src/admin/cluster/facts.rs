//! What one broker says about itself to another one's operator. JSON between brokers; fields may be added, so a newer
//! or older broker is still understood.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidewater_storage::model::NodeId;

use crate::controller::image::ClusterImage;
use crate::controller::leaders::Leaders;
use crate::copies::facts::CopyFacts;
use crate::rebuild::RebuildFacts;
use crate::replica::facts::ReplicaFacts;

/// A broker at one moment. A message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BrokerFacts {
    /// Of the binary.
    pub version: String,
    /// The newest revision of the controller's state that it has.
    pub revision: u64,
    pub disk_used_bytes: u64,
    pub disk_limit_bytes: u64,
    /// Bytes that producers may still write.
    pub disk_admissible_bytes: u64,
    pub connections: u64,
    /// The replicas of lanes that it runs.
    pub lanes: Vec<LaneFacts>,
    pub peers: Vec<PeerFacts>,
    /// The sources, and the lanes of theirs that it follows.
    pub replicas: ReplicaFacts,
    /// Partitions that it copies from the bucket.
    pub copies: Vec<CopyFacts>,
    /// Its replicas that are being rebuilt; `None`: none.
    pub rebuild: Option<RebuildFacts>,
    /// The cluster was restored elsewhere; `None`: not that this broker knows of.
    pub superseded: Option<SupersededFacts>,
    /// Why its bucket's root counts as gone; `None`: it is there.
    pub bucket_gone: Option<String>,
    /// Why no cuts are made; `None`: they are, or by another broker.
    pub cuts_failing: Option<String>,
}

/// Lineage epochs: the broker's own, and the one in which the cluster goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SupersededFacts {
    pub own: u32,
    pub next: u32,
}

/// A replica of a lane. A message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneFacts {
    pub lane: u32,
    pub shard: u16,
    pub leads: bool,
    pub term: u64,
    /// The leader as this replica knows it.
    pub leader: Option<i32>,
    /// Time since a request of the leader was accepted here; `None` if there was none since the start.
    pub heard_ms: Option<u64>,
    /// Index of the last entry applied here.
    pub applied: u64,
    pub voters: Vec<i32>,
    pub learners: Vec<i32>,
    /// A change of the voters is under way.
    pub changing: bool,
    /// Of a leader: its followers.
    pub followers: Vec<FollowerFacts>,
}

/// A follower as its leader knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowerFacts {
    pub node: i32,
    /// Entries of the leader that the follower is not known to have.
    pub behind_entries: u64,
    /// Time since its last answer; `None` if it has not answered since the leader leads.
    pub silent_ms: Option<u64>,
}

/// A connection to a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerFacts {
    pub node: i32,
    pub connected: bool,
    /// For how long it has been connected or not.
    pub since_ms: u64,
    pub rtt_us: Option<u64>,
    /// Why one of the two brokers refuses the other.
    pub refused: Option<String>,
}

/// The cluster as one broker has gathered it. A message.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    pub image: Arc<ClusterImage>,
    pub leaders: Arc<Leaders>,
    /// The answer of every registered broker, or why it has not answered.
    pub brokers: BTreeMap<NodeId, Result<BrokerFacts, String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_another_version_are_understood() {
        let newer = r#"{"version":"9","lanes":[{"lane":3,"leads":true,"moon":"full"}],"tides":2}"#;
        let read: BrokerFacts = serde_json::from_str(newer).expect("reads");
        assert_eq!((read.version.as_str(), read.lanes.len(), read.lanes[0].leads), ("9", 1, true));
        let facts =
            BrokerFacts { lanes: vec![LaneFacts { lane: 1, ..LaneFacts::default() }], ..BrokerFacts::default() };
        let json = serde_json::to_vec(&facts).expect("writes");
        assert_eq!(serde_json::from_slice::<BrokerFacts>(&json).expect("reads"), facts);
    }
}
