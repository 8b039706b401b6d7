//! The Schema Registry of this broker: the state of `_schemas`, kept where that topic's partition is led.
//!
//! One task ([`keeper`]) holds the state. It reads the partition from its start when this broker begins to lead its
//! lane, plans one command at a time on the state, writes the records with the broker's own produce path ([`log`]),
//! applies them once they are committed, and then answers. What it holds is of one term: it is dropped when that
//! ends, and nothing is written in another, so that no two brokers give one id.
//!
//! Owns: when the state is read, written and dropped. Does not own: what a command means ([`crate::schema`]), HTTP
//! ([`crate::schema_http`]). *Node-wide*; runs on the side runtime.

mod keeper;
mod log;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use crate::controller::ask::ControllerRequest;
use crate::controller::image::ClusterImage;
use crate::controller::leaders::Leaders;
use crate::limits::SCHEMA_REQUESTS_QUEUED_MAX;
use crate::partition::message::PartitionRequest;
use crate::schema::request::{Answer, Command, Query};
use crate::schema::{SchemaError, State};
use crate::shard::mesh::Mesh;
use keeper::Keeper;

/// What a registry asks other parts of the broker.
#[derive(Clone, Debug)]
pub struct RegistryMeshes {
    pub partitions: Mesh<PartitionRequest>,
    pub controller: Mesh<ControllerRequest>,
}

/// The handle of the registry. Cheap to clone.
#[derive(Clone)]
pub struct SchemaRegistry {
    state: Arc<RwLock<State>>,
    asks: mpsc::Sender<Ask>,
    handle: Handle,
}

impl fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaRegistry({} asks queued)", self.asks.max_capacity() - self.asks.capacity())
    }
}

/// A request to the keeper.
enum Ask {
    /// Answer when the state holds all that is committed.
    Current(oneshot::Sender<Result<(), SchemaError>>),
    Change(Box<Command>, oneshot::Sender<Result<Answer, SchemaError>>),
}

impl SchemaRegistry {
    /// Starts the keeper on `handle`.
    #[must_use]
    pub fn start(
        meshes: RegistryMeshes,
        images: watch::Receiver<Arc<ClusterImage>>,
        leaders: watch::Receiver<Arc<Leaders>>,
        handle: &Handle,
    ) -> Self {
        let (asks, inbox) = mpsc::channel(SCHEMA_REQUESTS_QUEUED_MAX);
        let state = Arc::new(RwLock::new(State::default()));
        handle.spawn(Keeper::new(meshes, images, leaders, Arc::clone(&state), handle.clone()).run(inbox));
        Self { state, asks, handle: handle.clone() }
    }

    /// Answers from the state, which holds every change that was answered before.
    ///
    /// # Errors
    /// The state's refusal, or this broker does not lead `_schemas`.
    pub async fn query(&self, query: Query) -> Result<Answer, SchemaError> {
        self.ask(Ask::Current).await?;
        let state = Arc::clone(&self.state);
        // Reading and comparing schemas takes a processor for as long as they are large.
        let answered = self.handle.spawn_blocking(move || read(&state).answer(&query)).await;
        answered.map_err(|error| SchemaError::Store(error.to_string()))?
    }

    /// Carries out a change; answers when it is durable and applied.
    ///
    /// # Errors
    /// It is refused, or it is not known whether it was written.
    pub async fn command(&self, command: Command) -> Result<Answer, SchemaError> {
        self.ask(|reply| Ask::Change(Box::new(command), reply)).await
    }

    async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, SchemaError>>) -> Ask,
    ) -> Result<T, SchemaError> {
        let stopped = || SchemaError::Store("the registry has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        self.asks.send(make(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// A panic while it was held changed nothing: changes are applied by a function that does not fail.
fn read(state: &RwLock<State>) -> std::sync::RwLockReadGuard<'_, State> {
    state.read().unwrap_or_else(PoisonError::into_inner)
}
