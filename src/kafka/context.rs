//! What a handler knows about the request it answers, beside the request itself.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use kafka_protocol::messages::ApiKey;

use super::Broker;
use super::budget::Budget;
use crate::controller::image::ClusterImage;

/// The context of one request. Shard-local.
#[derive(Debug)]
pub struct RequestContext {
    /// The shard's broker.
    pub broker: Rc<Broker>,
    /// The shard's memory for requests and responses.
    pub budget: Budget,
    /// The API asked.
    pub key: ApiKey,
    /// In this version.
    pub version: i16,
    /// To be echoed.
    pub correlation_id: i32,
    /// What the client calls itself; empty if it does not.
    pub client_id: String,
    /// Who asks.
    pub peer: SocketAddr,
}

impl RequestContext {
    /// The cluster as this shard knows it now.
    #[must_use]
    pub fn image(&self) -> Arc<ClusterImage> {
        self.broker.controller.image()
    }

    /// The client's address as Kafka shows it in groups: `/127.0.0.1`.
    #[must_use]
    pub fn client_host(&self) -> String {
        format!("/{}", self.peer.ip())
    }
}
