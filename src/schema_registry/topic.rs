//! `_schemas`: its settings, its making with the first command, and whether there surely is none.

use std::time::Duration;

use tokio::time::timeout;

use super::SchemaRegistry;
use crate::controller::ask::{Answered, Ask, ControllerRequest, TopicError, TopicSpec};
use crate::controller::client::CONTROLLER_SHARD;
use crate::partition::message::PartitionAddress;
use crate::schema::{SCHEMAS_TOPIC, SchemaError};

/// How long a topic that was just made may take until it is led.
const LEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long the controller may take to make it.
const MAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the controller may take to say how new its state is.
const CERTAIN_PATIENCE: Duration = Duration::from_secs(3);

/// Every record stays, a schema of a megabyte fits with its characters escaped, and records are archived as soon as
/// possible, since a registration waits for that.
const SETTINGS: [(&str, &str); 4] =
    [("retention.ms", "-1"), ("retention.bytes", "-1"), ("max.message.bytes", "8388608"), ("archive.lag.ms", "100")];

impl SchemaRegistry {
    /// The partition of `_schemas`, as this broker's image has it.
    pub(super) fn address(&self) -> Option<PartitionAddress> {
        let image = self.shared.images.borrow().clone();
        Some(image.topic(SCHEMAS_TOPIC)?.partition(0)?.address())
    }

    /// As [`SchemaRegistry::address`]; where the image has none, it is first brought to the controller's state.
    ///
    /// # Errors
    /// The image has none, and the controller does not answer.
    pub(super) async fn address_for_certain(&self) -> Result<Option<PartitionAddress>, SchemaError> {
        if let Some(address) = self.address() {
            return Ok(Some(address));
        }
        let Ok(Answered::Quorum(quorum)) = self.ask_controller(Ask::Quorum, CERTAIN_PATIENCE).await? else {
            return Err(SchemaError::NoLeader);
        };
        let mut images = self.shared.images.clone();
        let shown = timeout(CERTAIN_PATIENCE, images.wait_for(|image| image.revision >= quorum.revision)).await;
        shown.map_err(|_| SchemaError::NoLeader)?.map_err(|_| SchemaError::NoLeader)?;
        Ok(self.address())
    }

    /// Makes the topic if there is none; resolves when its partition has a leader.
    ///
    /// # Errors
    /// The controller refuses or does not answer, or there is no leader in time.
    pub(super) async fn make_topic(&self) -> Result<PartitionAddress, SchemaError> {
        let configs = SETTINGS.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
        let spec = TopicSpec {
            name: SCHEMAS_TOPIC.to_owned(),
            partitions: Some(1),
            replication_factor: -1,
            assignments: Vec::new(),
            configs: configs.to_vec(),
            validate_only: false,
            internal: true,
            copy: None,
        };
        match self.ask_controller(Ask::Create { spec, id: None }, MAKE_PATIENCE).await? {
            Ok(_) | Err(TopicError::Exists(_)) => {}
            Err(error) => return Err(SchemaError::Store(format!("_schemas cannot be made: {error}"))),
        }
        let led = timeout(LEAD_PATIENCE, self.led()).await;
        led.map_err(|_| SchemaError::Timeout("_schemas was made and has no leader yet".to_owned()))?
    }

    async fn ask_controller(&self, ask: Ask, patience: Duration) -> Result<Result<Answered, TopicError>, SchemaError> {
        let ask = |reply| ControllerRequest::Ask { ask, patience, reply };
        let answered = self.shared.meshes.controller.call(CONTROLLER_SHARD, ask).await;
        answered.map_err(|error| SchemaError::Store(error.to_string()))
    }

    /// Resolves when the topic is in the image and its partition is led.
    async fn led(&self) -> Result<PartitionAddress, SchemaError> {
        let (mut images, mut leaders) = (self.shared.images.clone(), self.shared.leaders.clone());
        loop {
            images.mark_unchanged();
            leaders.mark_unchanged();
            if let Some(address) = self.address().filter(|address| self.shared.leader(*address).is_some()) {
                return Ok(address);
            }
            let changed = tokio::select! {
                changed = images.changed() => changed,
                changed = leaders.changed() => changed,
            };
            changed.map_err(|_| SchemaError::NoLeader)?;
        }
    }
}
