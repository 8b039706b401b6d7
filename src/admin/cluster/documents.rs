//! The JSON documents of `/v1/cluster`, `/v1/cluster/brokers`, `lanes` and `partitions`: the admin port writes them,
//! and our own commands read them.
//!
//! Owns: their fields; one that is missing is an error that names it. A field may be added. Does not own: what is in
//! them (`routes`), the document of `/v1/cluster/health` (`health`). *Messages*.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::facts::FollowerFacts;
use super::rebuilding::Rebuilding;

/// `GET /v1/cluster`: the broker that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub id: String,
    pub name: String,
    pub broker: i32,
    pub bucket: String,
    /// In words.
    pub bucket_state: String,
    pub topics: usize,
    pub partitions: usize,
    pub connections: u64,
    pub disk_used_bytes: u64,
    pub disk_limit_bytes: u64,
    /// Bytes that producers may still write.
    pub disk_admissible_bytes: u64,
    /// Committed bytes that belong in the bucket and are not there yet.
    pub archive_lag_bytes: u64,
    /// Age of the oldest of them.
    pub archive_lag_ms: u64,
}

/// One broker of `GET /v1/cluster/brokers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRow {
    pub id: i32,
    /// This one answers the request.
    pub here: bool,
    pub controller: bool,
    pub kafka: String,
    /// `None` for one that has not registered.
    pub rpc: Option<String>,
    pub rack: Option<String>,
    /// It has answered.
    pub reachable: bool,
    /// Why it has not.
    pub reason: Option<String>,
    pub version: Option<String>,
    pub lanes_led: usize,
    pub replicas: usize,
    pub connections: Option<u64>,
    pub disk_used_bytes: Option<u64>,
    pub disk_limit_bytes: Option<u64>,
    pub disk_admissible_bytes: Option<u64>,
    /// From the broker that answers, of small requests.
    pub rtt_us: Option<u64>,
    /// Its replicas that are being rebuilt; `None`: none.
    pub rebuild: Option<Rebuilding>,
}

/// One lane of `GET /v1/cluster/lanes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRow {
    pub lane: u32,
    pub factor: u16,
    pub replicas: Vec<i32>,
    pub leader: Option<i32>,
    pub term: Option<u64>,
    pub in_sync: Vec<i32>,
    /// As the lane itself has them; empty if its leader has not answered.
    pub voters: Vec<i32>,
    pub learners: Vec<i32>,
    pub followers: Vec<FollowerFacts>,
    /// As each broker that answers says of its own replica. A broker that has none yet is left out.
    pub held: Vec<HeldReplica>,
}

/// What a broker says of its own replica of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldReplica {
    pub node: i32,
    /// The shard of the broker that runs it.
    pub shard: u16,
    pub term: u64,
    pub leader: Option<i32>,
    /// Time since it accepted a request of the leader; `None`: none since its start, or it leads.
    pub heard_ms: Option<u64>,
    /// Index of the last entry that it has applied.
    pub applied: u64,
}

/// One partition of `GET /v1/cluster/partitions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRow {
    pub topic: String,
    pub partition: i32,
    pub lane: u32,
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    /// The preferred leader first.
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
    pub state: PartitionState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionState {
    Leaderless,
    UnderReplicated,
    /// Another replica than the preferred one leads.
    NotPreferred,
    Healthy,
}

impl fmt::Display for PartitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leaderless => "leaderless",
            Self::UnderReplicated => "under replicated",
            Self::NotPreferred => "not preferred",
            Self::Healthy => "healthy",
        })
    }
}
