//! The Kafka protocol: from the bytes of a socket to partitions, groups and the controller, and back.
//!
//! The way of a request: [`connection`] cuts frames and keeps order, [`api`] says whether it is served, [`wire::guard`]
//! checks its structure, [`dispatch`] decodes it and calls the one file of [`handlers`] that answers it,
//! [`error_code`] names what went wrong, [`outbox`] sends. Owns no state of the cluster: it asks `Router`,
//! `ControllerHandle` and the group coordinators.
//!
//! Start, per shard: [`serve`] with a [`Broker`]; on one shard also [`accept`] with the bound socket. Stop:
//! [`server::Server::stop`]. Everything but [`Arrival`] is shard-local.

use std::rc::Rc;
use std::sync::Arc;

use tidewater_storage::env::{Deadlines, Env};

use crate::admin::cluster::ClusterOperator;
use crate::config::node::NodeConfig;
use crate::controller::client::ControllerHandle;
use crate::group::GroupRouter;
use crate::net::listen::Accepted;
use crate::net::placement::Seat;
use crate::partition::router::Router;

mod answer_codes;
pub mod answer_room;
pub mod api;
pub mod at_once;
pub mod authorized;
pub mod budget;
pub mod connection;
pub mod context;
pub mod dispatch;
pub mod error_code;
pub mod handlers;
pub mod limits;
pub mod metrics;
pub mod named_twice;
pub mod naming;
pub mod outbox;
pub mod patience;
pub mod recompress;
pub mod server;
pub mod topic_ref;
pub mod view;
pub mod wire;
pub mod words;

pub use context::RequestContext;
pub use server::{Server, accept, serve};

/// What the protocol code of one shard works with. Shard-local.
#[derive(Debug)]
pub struct Broker {
    pub env: Env,
    /// The way to partitions.
    pub router: Router,
    /// The way to the controller, and the cluster's image.
    pub controller: ControllerHandle,
    /// The way to the group coordinators.
    pub groups: GroupRouter,
    /// The way to other brokers: what they say about themselves, and leaders that hand a lane over.
    pub cluster: ClusterOperator,
    pub config: Arc<NodeConfig>,
    pub fetches: handlers::fetch::FetchSessions,
    /// Deadlines of fetches and of produce requests.
    pub deadlines: Deadlines,
    /// Recompression of batches that a topic stores in another codec.
    pub recompressor: recompress::Recompressor,
    pub metrics: Rc<metrics::KafkaMetrics>,
}

/// An accepted connection on its way to its shard. A message.
#[derive(Debug)]
pub struct Arrival {
    pub accepted: Accepted,
    /// Its place in the count of connections.
    pub seat: Seat,
}
