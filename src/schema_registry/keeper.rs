//! The task that holds the registry's state: one ask at a time.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tidewater_storage::model::{Offset, Term};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::{Ask, RegistryMeshes, log, read};
use crate::controller::ask::{Ask as ControllerAsk, ControllerRequest, TopicError, TopicSpec};
use crate::controller::client::CONTROLLER_SHARD;
use crate::controller::image::ClusterImage;
use crate::controller::leaders::Leaders;
use crate::partition::message::PartitionAddress;
use crate::schema::request::{Answer, Command};
use crate::schema::{Plan, SCHEMAS_TOPIC, SchemaError, State};

/// How long a topic that was just made may take until it is led.
const LEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long the controller may take to make it.
const MAKE_PATIENCE: Duration = Duration::from_secs(10);

/// Settings of `_schemas`: every record stays, and a schema of a megabyte fits with its characters escaped.
const SETTINGS: [(&str, &str); 3] =
    [("retention.ms", "-1"), ("retention.bytes", "-1"), ("max.message.bytes", "8388608")];

pub(super) struct Keeper {
    meshes: RegistryMeshes,
    images: watch::Receiver<Arc<ClusterImage>>,
    leaders: watch::Receiver<Arc<Leaders>>,
    state: Arc<RwLock<State>>,
    handle: Handle,
    held: Option<Held>,
}

/// Of what the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    address: PartitionAddress,
    term: Term,
    /// First offset that is not applied.
    end: Offset,
}

impl Keeper {
    pub(super) const fn new(
        meshes: RegistryMeshes,
        images: watch::Receiver<Arc<ClusterImage>>,
        leaders: watch::Receiver<Arc<Leaders>>,
        state: Arc<RwLock<State>>,
        handle: Handle,
    ) -> Self {
        Self { meshes, images, leaders, state, handle, held: None }
    }

    pub(super) async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        while let Some(ask) = asks.recv().await {
            // A client that has gone does not wait for its answer.
            match ask {
                Ask::Current(reply) => drop(reply.send(self.current().await)),
                Ask::Change(command, reply) => drop(reply.send(self.change(*command).await)),
            }
        }
    }

    /// Without a topic there is no schema.
    async fn current(&mut self) -> Result<(), SchemaError> {
        match self.address() {
            Some(address) => self.hold(address).await.map(drop),
            None => {
                self.drop_state();
                Ok(())
            }
        }
    }

    async fn change(&mut self, command: Command) -> Result<Answer, SchemaError> {
        let address = match self.address() {
            Some(address) => address,
            None => self.make_topic().await?,
        };
        let held = self.hold(address).await?;
        let state = Arc::clone(&self.state);
        let planned = self.handle.spawn_blocking(move || read(&state).plan(&command)).await;
        let Plan { records, answer } = planned.map_err(|error| SchemaError::Store(error.to_string()))??;
        if records.is_empty() {
            return Ok(answer);
        }
        let written = log::write(&self.meshes.partitions, held.address, held.term, &records).await;
        match written {
            Ok(offsets) if offsets.start == held.end => {
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                records.into_iter().for_each(|record| state.apply(record));
                self.held = Some(Held { end: offsets.end, ..held });
                Ok(answer)
            }
            // Something else was written between: the state is read again, and this command is part of it.
            Ok(offsets) => {
                tracing::warn!(expected = %held.end, found = %offsets.start, "_schemas has a second writer; it is read again");
                self.drop_state();
                Ok(answer)
            }
            Err(error) => {
                // It may be in the log: what it holds is read again before anything is answered.
                self.drop_state();
                Err(error)
            }
        }
    }

    fn drop_state(&mut self) {
        self.held = None;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    fn address(&self) -> Option<PartitionAddress> {
        let image = Arc::clone(&self.images.borrow());
        Some(image.topic(SCHEMAS_TOPIC)?.partition(0)?.address())
    }

    /// The term in which this broker leads the partition.
    fn leading(&self, address: PartitionAddress) -> Option<Term> {
        let here = self.images.borrow().here;
        let leaders = Arc::clone(&self.leaders.borrow());
        let leader = leaders.of(address.lane)?;
        (leader.node == here && leader.term > Term(0)).then_some(leader.term)
    }

    /// The state of this term, read if it is not held.
    async fn hold(&mut self, address: PartitionAddress) -> Result<Held, SchemaError> {
        let term = self.leading(address).ok_or(SchemaError::NoLeader)?;
        if let Some(held) = self.held.filter(|held| (held.address, held.term) == (address, term)) {
            return Ok(held);
        }
        self.drop_state();
        let (state, end) = log::read(&self.meshes.partitions, address).await?;
        // A read by a leader that lost its place meanwhile may lack what the next one wrote.
        if self.leading(address) != Some(term) {
            return Err(SchemaError::NoLeader);
        }
        tracing::info!(%term, %end, "the schema registry has read _schemas");
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        let held = Held { address, term, end };
        self.held = Some(held);
        Ok(held)
    }

    async fn make_topic(&mut self) -> Result<PartitionAddress, SchemaError> {
        let configs = SETTINGS.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
        let spec = TopicSpec {
            name: SCHEMAS_TOPIC.to_owned(),
            partitions: Some(1),
            replication_factor: -1,
            assignments: Vec::new(),
            configs: configs.to_vec(),
            validate_only: false,
            internal: true,
        };
        let ask = |reply| ControllerRequest::Ask {
            ask: ControllerAsk::Create { spec, id: None },
            patience: MAKE_PATIENCE,
            reply,
        };
        match self.meshes.controller.call(CONTROLLER_SHARD, ask).await {
            Ok(Ok(_) | Err(TopicError::Exists(_))) => {}
            Ok(Err(error)) => return Err(SchemaError::Store(format!("_schemas cannot be made: {error}"))),
            Err(error) => return Err(SchemaError::Store(error.to_string())),
        }
        let led = timeout(LEAD_PATIENCE, self.led()).await;
        led.map_err(|_| SchemaError::Timeout("_schemas was made and has no leader yet".to_owned()))?
    }

    /// Resolves when the topic is in the image and this broker leads its partition.
    async fn led(&mut self) -> Result<PartitionAddress, SchemaError> {
        loop {
            if let Some(address) = self.address().filter(|address| self.leading(*address).is_some()) {
                return Ok(address);
            }
            let changed = tokio::select! {
                changed = self.images.changed() => changed,
                changed = self.leaders.changed() => changed,
            };
            changed.map_err(|_| SchemaError::NoLeader)?;
        }
    }
}
