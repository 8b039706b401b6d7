//! What a handler knows about the request it answers, beside the request itself.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;

use super::Broker;
use super::budget::{Budget, Lease, Past};
use super::connection::Reply;
use super::limits::FREE_BYTES;
use super::recompress::HandOver;
use crate::controller::image::ClusterImage;
use crate::controller::leaders::Leaders;

/// The context of one request. Shard-local.
#[derive(Debug)]
pub struct RequestContext {
    pub broker: Rc<Broker>,
    /// The shard's memory for requests and responses.
    pub budget: Budget,
    pub key: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
    /// What the client calls itself; empty if it does not.
    pub client_id: String,
    pub peer: SocketAddr,
    /// The order of the connection's Produce requests.
    pub order: Rc<HandOver>,
}

impl RequestContext {
    /// The cluster as this shard knows it now, with the topics of its sources.
    #[must_use]
    pub fn image(&self) -> Arc<ClusterImage> {
        self.broker.controller.view()
    }

    /// Who leads each lane, as this shard knows it now.
    #[must_use]
    pub fn leaders(&self) -> Arc<Leaders> {
        self.broker.controller.leaders()
    }

    /// Room for what decoding makes of a request, to be held until it is answered; a small one needs none. Waits while
    /// the shard's memory is spent. Not for Produce, whose order is that of the first polls.
    pub async fn room(&self, bytes: usize) -> Lease {
        let mut lease = self.budget.empty();
        if bytes > FREE_BYTES {
            poll_fn(|cx| lease.poll_set(cx, bytes, Past::Decoding, bytes)).await;
        }
        lease
    }

    /// An answer of one frame, charged to the shard's memory unless it is small.
    #[must_use]
    pub fn reply(&self, frame: Bytes) -> Reply {
        let charged = (frame.len() > FREE_BYTES).then(|| {
            let mut lease = self.budget.empty();
            lease.set(frame.len());
            lease
        });
        Reply::Send(vec![frame], charged)
    }

    /// The client's address as Kafka shows it in groups: `/127.0.0.1`.
    #[must_use]
    pub fn client_host(&self) -> String {
        format!("/{}", self.peer.ip())
    }
}
