//! Rebuilds the lanes of this shard that cannot catch up from their leaders' logs, and gives lanes that this shard
//! leads to others. Owns when, from whom and how often; the copying and its figures are `rebuild`'s. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tidewater_storage::engine::Engine;
use tidewater_storage::env::{Env, Mono};
use tidewater_storage::model::{LaneId, NodeId};

use super::lanes::{self, Lanes};
use super::peers::{self, PeerMessage};
use crate::controller::client::ControllerHandle;
use crate::rebuild::{CopyError, CopyOptions, RebuildCalls, RebuildProgress, RebuildSource, copy, survey};
use crate::rpc::{Rpc, Service};

/// Between two looks at the lanes.
const LOOK: Duration = Duration::from_millis(500);
/// After a copy that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// For one request, which is a chunk of 1 MiB at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Between log lines about a copy.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// Lanes that are copied to this shard at once.
const AT_ONCE: usize = 2;
/// Before a leader is asked again what a copy would take.
const SURVEY_AGAIN: Duration = Duration::from_secs(5);

/// The rebuilds of a shard.
pub(super) struct Rebuilds {
    env: Env,
    engine: Engine,
    lanes: Rc<Lanes>,
    rpc: Rpc,
    controller: ControllerHandle,
    /// Lanes that are copied to this shard now.
    under_way: RefCell<BTreeSet<LaneId>>,
    progress: Rc<RebuildProgress>,
    said: Cell<Mono>,
}

/// Requests to one broker.
struct Calls<'a> {
    rpc: &'a Rpc,
    to: NodeId,
}

impl RebuildCalls for Calls<'_> {
    fn call(&self, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let answered = self.rpc.call(self.to, Service::Rebuild, request, ANSWER_WITHIN).await;
            answered.map_err(|error| error.to_string())
        })
    }
}

impl Rebuilds {
    pub(super) fn start(
        env: &Env,
        engine: &Engine,
        lanes: &Rc<Lanes>,
        rpc: &Rpc,
        controller: &ControllerHandle,
    ) -> Rc<Self> {
        let rebuilds = Rc::new(Self {
            env: env.clone(),
            engine: engine.clone(),
            lanes: Rc::clone(lanes),
            rpc: rpc.clone(),
            controller: controller.clone(),
            under_way: RefCell::default(),
            progress: Rc::default(),
            said: Cell::new(env.clock.now()),
        });
        let this = Rc::clone(&rebuilds);
        env.tasks.spawn("rebuilds", async move {
            loop {
                this.look();
                this.say();
                this.env.tasks.sleep(LOOK).await;
            }
        });
        let this = Rc::clone(&rebuilds);
        env.tasks.spawn("rebuild forecasts", async move {
            loop {
                this.survey().await;
                this.env.tasks.sleep(LOOK).await;
            }
        });
        rebuilds
    }

    /// How far the rebuilds of this shard are.
    pub(super) fn progress(&self) -> Rc<RebuildProgress> {
        Rc::clone(&self.progress)
    }

    /// The source of this shard's lanes, for other brokers.
    pub(super) fn source(env: &Env, engine: &Engine, lanes: &Rc<Lanes>) -> Rc<RebuildSource> {
        RebuildSource::new(env, engine, Rc::clone(lanes) as _)
    }

    /// Logs how far the copies are, every now and then.
    fn say(&self) {
        let now = self.env.clock.now();
        if now.since(self.said.get()) < SAID_EVERY {
            return;
        }
        self.said.set(now);
        if let Some(facts) = self.progress.facts(now) {
            tracing::info!(
                replicas_done = facts.replicas_done,
                replicas = facts.replicas,
                copied_bytes = facts.copied_bytes,
                bytes = facts.bytes,
                bucket_bytes = facts.bucket_bytes,
                "lanes of this broker are being rebuilt"
            );
        }
    }

    /// Asks the leaders of lanes that wait for their turn what there is to copy.
    async fn survey(&self) {
        for (n, lane) in self.progress.unknown().into_iter().enumerate() {
            let Some(to) = self.leader(lane, n) else { continue };
            match survey(lane, &Calls { rpc: &self.rpc, to }).await {
                Some(expected) => self.progress.expect(lane, expected),
                None => self.env.tasks.sleep(SURVEY_AGAIN).await,
            }
        }
    }

    fn look(self: &Rc<Self>) {
        let lanes = self.lanes.to_rebuild();
        let mut under_way = self.under_way.borrow_mut();
        self.progress.set_waiting(lanes.union(&under_way), self.env.clock.now());
        for lane in lanes {
            if under_way.contains(&lane) || under_way.len() >= AT_ONCE {
                continue;
            }
            under_way.insert(lane);
            let this = Rc::clone(self);
            self.env.tasks.spawn("rebuild", async move {
                this.rebuild(lane).await;
                this.under_way.borrow_mut().remove(&lane);
            });
        }
    }

    async fn rebuild(&self, lane: LaneId) {
        let Some(me) = self.lanes.begin_rebuild(lane).await else { return };
        let progress = self.progress.of(lane);
        tracing::info!(%lane, replica = %me, "a lane of this broker is rebuilt from its leader");
        let (begun, mut said, mut tries) = (self.env.clock.now(), None, 0_usize);
        while !self.lanes.is_stopping() {
            let to = self.leader(lane, tries);
            tries += 1;
            let failed = match to {
                None => format!("no leader of lane {lane} is known"),
                Some(to) => {
                    let calls = Calls { rpc: &self.rpc, to };
                    self.progress.copies(lane, to);
                    let options = CopyOptions { lane, me, calls: &calls, progress: Rc::clone(&progress) };
                    match copy(&self.env, &self.engine, options).await {
                        Ok(copied) => match self.lanes.end_rebuild(&copied, &calls, lanes::abort).await {
                            Ok(()) => {
                                let now = self.env.clock.now();
                                self.progress.finish(lane, now);
                                let (bytes, partitions) = (progress.bytes.get().0, copied.partitions.len());
                                let (took, bucket_bytes) = (now.since(begun), progress.bucket_bytes.get());
                                tracing::info!(%lane, replica = %me, from = %to, partitions, bytes, bucket_bytes, ?took, "a lane is rebuilt");
                                return;
                            }
                            Err(error) => return self.end(lane, &error),
                        },
                        Err(CopyError::Engine(error)) => return self.end(lane, &error),
                        Err(error) => error.to_string(),
                    }
                }
            };
            self.progress.waits(lane, failed.clone());
            let now = self.env.clock.now();
            if said.is_none_or(|at| now.since(at) >= SAID_EVERY) {
                said = Some(now);
                tracing::warn!(%lane, replica = %me, error = failed, "a lane cannot be rebuilt now; tried again");
            }
            self.env.tasks.sleep(AGAIN).await;
        }
    }

    /// The lane's state is in between two, and its disk failed: a start finds it marked and begins again. While the
    /// shard stops, that is all there is to it.
    fn end(&self, lane: LaneId, error: &dyn std::fmt::Display) {
        if !self.lanes.is_stopping() {
            tracing::error!(%lane, %error, "a lane could not be rebuilt; the broker stops, start it again");
            std::process::abort();
        }
    }

    /// The broker to copy from: the lane's leader; while it is not known, every peer in turn, which names the leader in
    /// its refusal.
    fn leader(&self, lane: LaneId, tries: usize) -> Option<NodeId> {
        let here = self.lanes.node();
        let known = self.controller.leaders().of(lane).map(|leader| leader.node).filter(|node| *node != here);
        let peers = self.rpc.peers();
        known.or_else(|| Some(peers.get(tries.checked_rem(peers.len())?)?.node))
    }
}

/// Answers requests for the lanes of this broker, whichever shard they arrive on.
pub(super) fn serve(rpc: &Rpc, source: &Rc<RebuildSource>, here: &Lanes, mesh: &peers::PeerMesh) {
    let (source, mesh, here, shards) = (Rc::clone(source), mesh.clone(), here.here(), here.shards());
    rpc.serve(
        Service::Rebuild,
        Rc::new(move |_, body| {
            let (source, mesh) = (Rc::clone(&source), mesh.clone());
            Box::pin(async move {
                let shard = peers::shard_of_rebuild(&body, shards)?;
                if shard == here {
                    return source.answer(&body).await.map_err(crate::rpc::Refusal);
                }
                let asked = mesh.call(shard, |reply| PeerMessage::Rebuild { body, reply }).await;
                asked.unwrap_or_else(|_| Err("this broker is stopping".to_owned())).map_err(crate::rpc::Refusal)
            })
        }),
    );
}
