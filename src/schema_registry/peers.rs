//! The registry's way to other brokers: [`Service::Schemas`], from the side runtime over shard 0.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::env::Env;
use tidewater_storage::model::NodeId;

use super::SchemaRegistry;
use crate::rpc::{Refusal, Rpc, RpcError, Service};
use crate::shard::mesh::{Inbox, Reply};

/// A call to another broker's registry. A message.
#[derive(Debug)]
pub struct PeerCall {
    pub(super) to: NodeId,
    pub(super) body: Bytes,
    pub(super) within: Duration,
    pub(super) reply: Reply<Result<Bytes, RpcError>>,
}

/// Carries the calls of this broker's registry over this shard's connections, until the mesh closes.
pub fn carry(env: &Env, rpc: &Rpc, inbox: Inbox<PeerCall>) {
    let (tasks, rpc) = (env.tasks.clone(), rpc.clone());
    env.tasks.spawn("calls of the schema registry", async move {
        while let Some(PeerCall { to, body, within, reply }) = inbox.recv().await {
            let rpc = rpc.clone();
            tasks.spawn("call of the schema registry", async move {
                reply.send(rpc.call(to, Service::Schemas, body, within).await);
            });
        }
    });
}

/// Answers the registries of other brokers, whose calls arrive on this shard.
pub fn serve(rpc: &Rpc, registry: &SchemaRegistry) {
    let registry = registry.clone();
    rpc.serve(
        Service::Schemas,
        Rc::new(move |_, body| {
            let registry = registry.clone();
            Box::pin(async move { registry.serve_peer(body).await.map_err(Refusal) })
        }),
    );
}
