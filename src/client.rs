//! A small Kafka client for the command line, the demo and the tests, over kafka-protocol and tokio's TCP.
//!
//! Owns: connections to the brokers of a cluster, version negotiation, idempotent produce, fetch by assigned partition,
//! the admin calls of the command line. It follows leaders and coordinators ([`cluster`]) and repeats what failed since
//! they moved. Does not own: consumer group membership, retries that outlive a call. Runs on any tokio runtime, never
//! on a shard. With any program at the other end, a call ends with an answer or an error and takes bounded memory
//! ([`connection`], [`answer`], [`fetch`]).

mod admin;
mod answer;
mod cluster;
mod connection;
mod error;
mod fetch;
mod group;
#[doc(hidden)]
pub mod outside;
mod produce;

pub use admin::{BrokerInfo, ClusterInfo, ConfigEntry, NewTopic, OffsetQuery, PartitionInfo, TopicInfo};
pub use cluster::Client;
pub use error::ClientError;
pub use fetch::Fetched;
pub use group::{GroupInfo, GroupOffset, GroupSummary, MemberInfo};
pub use produce::{Produced, Producer};
