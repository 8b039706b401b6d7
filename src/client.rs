//! A small Kafka client for the command line, the demo and the tests, over kafka-protocol and tokio's TCP.
//!
//! Owns: one connection to one broker, version negotiation, idempotent produce, fetch by assigned partition, the admin
//! calls of the command line. Does not own: consumer group membership, several brokers, retries that outlive a call.
//! Runs on any tokio runtime, never on a shard. With any program at the other end, a call ends with an answer or an
//! error and takes bounded memory ([`connection`], [`answer`], [`fetch`]).

mod admin;
mod answer;
mod connection;
mod error;
mod fetch;
mod group;
#[doc(hidden)]
pub mod outside;
mod produce;

pub use admin::{ClusterInfo, ConfigEntry, NewTopic, OffsetQuery, PartitionInfo, TopicInfo};
pub use connection::Client;
pub use error::ClientError;
pub use fetch::Fetched;
pub use group::{GroupInfo, GroupOffset, GroupSummary, MemberInfo};
pub use produce::{Produced, Producer};
