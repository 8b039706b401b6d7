//! The controller's way to other brokers: calls that it makes, and those that a shard hands to it.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tidewater_storage::model::NodeId;

use super::client::ControllerHandle;
use crate::rpc::{Refusal, Rpc, RpcError, Service};

/// Asks other brokers. Implemented by [`Rpc`].
pub trait PeerCalls {
    fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<Bytes, RpcError>>;

    /// Brokers that can be asked now.
    fn connected(&self) -> BTreeSet<NodeId>;

    /// Is the broker connected at this address, which need not be the registered one?
    fn is_connected_at(&self, node: NodeId, address: &(String, u16)) -> bool;

    /// Resolves when [`PeerCalls::connected`] changes after this call.
    fn changed(&self) -> LocalBoxFuture<'_, ()>;
}

impl PeerCalls for Rpc {
    fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<Bytes, RpcError>> {
        let rpc = self.clone();
        Box::pin(async move { Self::call(&rpc, to, service, body, timeout).await })
    }

    fn connected(&self) -> BTreeSet<NodeId> {
        Self::connected(self)
    }

    fn is_connected_at(&self, node: NodeId, (host, port): &(String, u16)) -> bool {
        let at = format!("{host}:{port}");
        self.peers().into_iter().any(|peer| peer.node == node && peer.connected && peer.address == at)
    }

    fn changed(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(Self::changed(self))
    }
}

/// Answers the controller's calls of other brokers that arrive on this shard; `handle` is the shard's.
pub fn serve(rpc: &Rpc, handle: &ControllerHandle) {
    let unreadable = |error: serde_json::Error| Refusal(format!("the request cannot be read: {error}"));
    let controller = handle.clone();
    rpc.serve(
        Service::Controller,
        Rc::new(move |_, body| {
            let controller = controller.clone();
            Box::pin(async move { controller.serve_peer(&body).await.map_err(unreadable) })
        }),
    );
    let controller = handle.clone();
    rpc.serve(
        Service::Leaders,
        Rc::new(move |_, body| {
            let controller = controller.clone();
            Box::pin(async move { controller.take_report(&body).await.map(|()| Bytes::new()).map_err(unreadable) })
        }),
    );
}
