//! Interface for protocol handlers: the current image of this shard, and changes through the controller on shard 0.
//!
//! Shard-local and cheap to clone.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use tidewater_storage::model::{LogIndex, ProducerId, ShardId, Term, TopicId, TopicName};
use tokio::sync::Notify;

use super::image::{ClusterImage, TopicImage};
use super::leaders::{LaneReport, Leaders};
use crate::shard::mesh::{Mesh, Reply};

/// The shard that runs the controller.
pub const CONTROLLER_SHARD: ShardId = ShardId(0);

/// A topic to be made.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    pub name: String,
    /// Partitions; `None` is `num.partitions`.
    pub partitions: Option<i32>,
    /// Replicas; -1 is the cluster's default, which is 1.
    pub replication_factor: i16,
    /// Brokers per partition, if the client places them itself.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Settings; a `None` value asks for the default.
    pub configs: Vec<(String, Option<String>)>,
    pub validate_only: bool,
    /// Made by the broker for itself.
    pub internal: bool,
}

/// One change of a topic's settings (KIP-339).
#[derive(Clone, Debug)]
pub struct ConfigOp {
    pub key: String,
    /// What to do with it.
    pub change: ConfigChange,
}

/// What to do with a setting.
#[derive(Clone, Debug)]
pub enum ConfigChange {
    Set(String),
    /// Back to the default.
    Delete,
    /// Add to a list.
    Append(String),
    /// Take from a list.
    Subtract(String),
}

/// Why a topic was not made, changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// There is one of that name.
    #[error("topic {0} already exists")]
    Exists(String),
    /// There is none of that name.
    #[error("topic {0} does not exist")]
    Unknown(String),
    /// There is none of that id.
    #[error("no topic has the id {0}")]
    UnknownId(TopicId),
    /// Not a legal name, or taken by the broker.
    #[error("{0}")]
    InvalidName(String),
    /// A number of partitions that cannot be.
    #[error("{0}")]
    InvalidPartitions(String),
    /// Other than 1 (or -1).
    #[error("replication factor {0} is not possible: there is one broker; use 1, or -1 for the default")]
    InvalidReplicationFactor(i16),
    /// A placement this broker cannot follow.
    #[error("{0}")]
    InvalidAssignment(String),
    /// A setting that is unknown, malformed or refused.
    #[error("{0}")]
    InvalidConfig(String),
    /// A request that makes no sense.
    #[error("{0}")]
    InvalidRequest(String),
    /// The controller is starting, stopping or cannot write: retry.
    #[error("the controller is not available")]
    Unavailable,
}

/// What crosses the mesh to the controller.
#[derive(Debug)]
pub enum ControllerRequest {
    Create(TopicSpec, Reply<Result<Arc<TopicImage>, TopicError>>),
    Delete {
        name: TopicName,
        /// Delete only the topic with this id; `None`: the topic of that name.
        id: Option<TopicId>,
        /// Where the answer goes.
        reply: Reply<Result<(), TopicError>>,
    },
    /// Raise the number of partitions.
    Partitions {
        topic: String,
        /// Partitions it shall have.
        total: i32,
        validate_only: bool,
        /// Where the answer goes.
        reply: Reply<Result<(), TopicError>>,
    },
    Configs {
        topic: String,
        /// Changes, all or none.
        ops: Vec<ConfigOp>,
        validate_only: bool,
        /// Where the answer goes.
        reply: Reply<Result<(), TopicError>>,
    },
    /// A block of producer ids: first and count.
    ProducerIds(Reply<Result<(ProducerId, u32), TopicError>>),
    /// Term and end of the controller's log.
    Quorum(Reply<Result<Quorum, TopicError>>),
    /// The lanes of a shard of this broker; no answer.
    Lanes(ShardId, Vec<LaneReport>),
}

/// Term and end of the controller's log. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// The term in which this broker leads it.
    pub term: Term,
    /// The index after the last entry applied.
    pub end: LogIndex,
    /// The revision of the state there.
    pub revision: u64,
}

/// The handle of one shard.
#[derive(Clone)]
pub struct ControllerHandle {
    image: Rc<RefCell<Arc<ClusterImage>>>,
    image_set: Rc<Notify>,
    leaders: Rc<RefCell<Arc<Leaders>>>,
    leaders_set: Rc<Notify>,
    block: Rc<RefCell<(i64, u32)>>,
    mesh: Mesh<ControllerRequest>,
}

impl fmt::Debug for ControllerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControllerHandle(revision {})", self.image.borrow().revision)
    }
}

impl ControllerHandle {
    /// A handle that begins with `image`.
    #[must_use]
    pub fn new(image: Arc<ClusterImage>, mesh: Mesh<ControllerRequest>) -> Self {
        Self {
            image: Rc::new(RefCell::new(image)),
            image_set: Rc::default(),
            leaders: Rc::default(),
            leaders_set: Rc::default(),
            block: Rc::default(),
            mesh,
        }
    }

    /// The cluster as this shard knows it.
    #[must_use]
    pub fn image(&self) -> Arc<ClusterImage> {
        Arc::clone(&self.image.borrow())
    }

    /// Takes a newer image; an older one is ignored.
    pub fn set_image(&self, image: Arc<ClusterImage>) {
        let mut held = self.image.borrow_mut();
        if image.revision >= held.revision {
            *held = image;
            self.image_set.notify_waiters();
        }
    }

    /// Waits until this shard's image is of a later revision than `seen`, and gives it.
    pub async fn image_after(&self, seen: u64) -> Arc<ClusterImage> {
        loop {
            let set = self.image_set.notified();
            let image = self.image();
            if image.revision > seen {
                return image;
            }
            set.await;
        }
    }

    /// Who leads each lane, as this shard knows it.
    #[must_use]
    pub fn leaders(&self) -> Arc<Leaders> {
        Arc::clone(&self.leaders.borrow())
    }

    /// Takes newer leaders.
    pub fn set_leaders(&self, leaders: Arc<Leaders>) {
        *self.leaders.borrow_mut() = leaders;
        self.leaders_set.notify_waiters();
    }

    /// Resolves at the next change of [`ControllerHandle::leaders`] after this call. To miss none, call it before the
    /// leaders are looked at.
    pub fn leaders_changed(&self) -> impl Future<Output = ()> + '_ {
        self.leaders_set.notified()
    }

    /// Reports the lanes of this shard to the controller of this broker.
    pub async fn report(&self, shard: ShardId, lanes: Vec<LaneReport>) {
        // A controller that has stopped needs no report.
        let _ = self.mesh.send(CONTROLLER_SHARD, ControllerRequest::Lanes(shard, lanes)).await;
    }

    /// Makes a topic; resolves when its partitions serve.
    ///
    /// # Errors
    /// Why it was not made.
    pub async fn create_topic(&self, spec: TopicSpec) -> Result<Arc<TopicImage>, TopicError> {
        self.call(|reply| ControllerRequest::Create(spec, reply)).await
    }

    /// Deletes a topic by name.
    ///
    /// # Errors
    /// It is unknown, or the controller is not available.
    pub async fn delete_topic(&self, name: &str) -> Result<(), TopicError> {
        let name = TopicName::new(name).map_err(|_| TopicError::Unknown(name.to_owned()))?;
        self.call(|reply| ControllerRequest::Delete { name, id: None, reply }).await
    }

    /// Deletes a topic by id: not a later one that has its name by then.
    ///
    /// # Errors
    /// It is unknown, or the controller is not available.
    pub async fn delete_topic_by_id(&self, id: TopicId) -> Result<TopicName, TopicError> {
        let name = self.image().names.get(&id).cloned().ok_or(TopicError::UnknownId(id))?;
        let meant = name.clone();
        self.call(|reply| ControllerRequest::Delete { name: meant, id: Some(id), reply }).await?;
        Ok(name)
    }

    /// Raises a topic's number of partitions to `total`.
    ///
    /// # Errors
    /// Why not.
    pub async fn create_partitions(&self, topic: &str, total: i32, validate_only: bool) -> Result<(), TopicError> {
        let topic = topic.to_owned();
        self.call(|reply| ControllerRequest::Partitions { topic, total, validate_only, reply }).await
    }

    /// Changes a topic's settings, all or none.
    ///
    /// # Errors
    /// Why not.
    pub async fn alter_configs(&self, topic: &str, ops: Vec<ConfigOp>, validate_only: bool) -> Result<(), TopicError> {
        let topic = topic.to_owned();
        self.call(|reply| ControllerRequest::Configs { topic, ops, validate_only, reply }).await
    }

    /// A producer id that was never given before, from a block this shard holds or a new one.
    ///
    /// # Errors
    /// The controller is not available.
    pub async fn producer_id(&self) -> Result<ProducerId, TopicError> {
        loop {
            if let Some(id) = self.take_from_block() {
                return Ok(id);
            }
            let (first, count) = self.call(ControllerRequest::ProducerIds).await?;
            *self.block.borrow_mut() = (first.0, count);
        }
    }

    /// Term and end of the controller's log.
    ///
    /// # Errors
    /// The controller is not available.
    pub async fn quorum(&self) -> Result<Quorum, TopicError> {
        self.call(ControllerRequest::Quorum).await
    }

    fn take_from_block(&self) -> Option<ProducerId> {
        let mut block = self.block.borrow_mut();
        let (next, left) = *block;
        *block = (next + 1, left.checked_sub(1)?);
        Some(ProducerId(next))
    }

    async fn call<T: Send + 'static>(
        &self,
        make: impl FnOnce(Reply<Result<T, TopicError>>) -> ControllerRequest,
    ) -> Result<T, TopicError> {
        self.mesh.call(CONTROLLER_SHARD, make).await.unwrap_or(Err(TopicError::Unavailable))
    }
}
