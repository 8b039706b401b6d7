//! Answers requests about topics: plan → propose → image → every shard reconciles → reply. One change at a time.
//!
//! Shard-local, on shard 0. A topic that was made is answered when its partitions serve.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use futures::future::join_all;
use tidewater_storage::env::Env;
use tidewater_storage::model::{NodeId, ProducerId, ShardId, TopicId};
use tokio::sync::watch;

use super::client::{ControllerHandle, ControllerRequest, TopicError, TopicSpec};
use super::command::Command;
use super::image::{ClusterImage, TopicImage};
use super::lane::ControllerLane;
use super::plan::{self, Context};
use super::reconcile::Reconcile;
use super::state::{Surroundings, Verdict};
use crate::limits;
use crate::shard::mesh::{Inbox, Mesh};

/// The controller's service.
pub struct Controller {
    env: Env,
    lane: Rc<ControllerLane>,
    around: RefCell<Surroundings>,
    num_partitions: u32,
    shards: Mesh<Reconcile>,
    handle: ControllerHandle,
    /// Where the side runtime sees an image, once every shard has followed it.
    images: Option<watch::Sender<Arc<ClusterImage>>>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Controller({:?})", self.lane)
    }
}

impl Controller {
    /// A controller over its lane. `handle` is shard 0's, so that it knows the newest image first.
    #[must_use]
    pub fn new(
        env: Env,
        lane: Rc<ControllerLane>,
        around: Surroundings,
        num_partitions: u32,
        shards: Mesh<Reconcile>,
        handle: ControllerHandle,
        images: Option<watch::Sender<Arc<ClusterImage>>>,
    ) -> Self {
        Self { env, lane, around: RefCell::new(around), num_partitions, shards, handle, images }
    }

    /// Makes every shard agree with the state as it is; call once the lanes lead.
    pub async fn settle(&self) {
        self.spread().await;
    }

    /// Serves requests, for ever.
    pub async fn run(self: Rc<Self>, inbox: Inbox<ControllerRequest>) {
        while let Some(request) = inbox.recv().await {
            self.serve(request).await;
        }
    }

    async fn serve(&self, request: ControllerRequest) {
        match request {
            ControllerRequest::Create(spec, reply) => reply.send(self.create(&spec).await),
            ControllerRequest::Delete(name, reply) => {
                let planned = plan::delete(&self.lane.state(), &name);
                reply.send(self.change(planned, false).await);
            }
            ControllerRequest::Partitions { topic, total, validate_only, reply } => {
                let planned = plan::add_partitions(&self.lane.state(), self.context(), &topic, total);
                reply.send(self.change(planned, validate_only).await);
            }
            ControllerRequest::Configs { topic, ops, validate_only, reply } => {
                let planned = plan::configure(&self.lane.state(), &topic, &ops);
                reply.send(self.change(planned, validate_only).await);
            }
            ControllerRequest::ProducerIds(reply) => reply.send(self.producer_ids().await),
        }
    }

    fn context(&self) -> Context {
        let around = self.around.borrow();
        Context { broker: NodeId(around.broker.id.0), shards: around.shards, num_partitions: self.num_partitions }
    }

    async fn create(&self, spec: &TopicSpec) -> Result<Arc<TopicImage>, TopicError> {
        let id = TopicId(self.env.rng.uuid());
        let planned = plan::create(&self.lane.state(), self.context(), spec, id)?;
        if spec.validate_only {
            let mut state = self.lane.state().clone();
            state.apply(planned);
            let image = state.image(&self.around.borrow());
            return image.topic(&spec.name).cloned().ok_or(TopicError::Unavailable);
        }
        self.change(Ok(planned), false).await?;
        self.handle.image().topic(&spec.name).cloned().ok_or(TopicError::Unavailable)
    }

    async fn change(&self, planned: Result<Command, TopicError>, validate_only: bool) -> Result<(), TopicError> {
        let command = planned?;
        if validate_only {
            return Ok(());
        }
        match self.propose(&command).await? {
            Verdict::Stale => Err(TopicError::Unavailable),
            Verdict::Done | Verdict::ProducerIds(_) => {
                self.spread().await;
                Ok(())
            }
        }
    }

    async fn producer_ids(&self) -> Result<(ProducerId, u32), TopicError> {
        let count = limits::PRODUCER_ID_BLOCK;
        match self.propose(&Command::TakeProducerIds { count }).await? {
            Verdict::ProducerIds(first) => Ok((first, count)),
            Verdict::Done | Verdict::Stale => Err(TopicError::Unavailable),
        }
    }

    async fn propose(&self, command: &Command) -> Result<Verdict, TopicError> {
        self.lane.propose(command).await.map_err(|error| {
            tracing::warn!(%error, ?command, "the controller could not commit a change");
            TopicError::Unavailable
        })
    }

    /// Sends the newest image to every shard and waits until all have followed it.
    async fn spread(&self) {
        let image = self.current();
        let asked = (0..self.shards.shards()).map(|shard| {
            let image = Arc::clone(&image);
            self.shards.call(ShardId(shard), move |reply| Reconcile { image, reply })
        });
        let terms: Vec<_> = join_all(asked).await.into_iter().flatten().flatten().collect();
        let changed = {
            let mut around = self.around.borrow_mut();
            terms
                .into_iter()
                .fold(false, |changed, (lane, term)| around.terms.insert(lane, term) != Some(term) || changed)
        };
        if changed {
            return Box::pin(self.spread()).await;
        }
        if let Some(images) = &self.images {
            images.send_replace(image);
        }
    }

    fn current(&self) -> Arc<ClusterImage> {
        Arc::new(self.lane.state().image(&self.around.borrow()))
    }
}
