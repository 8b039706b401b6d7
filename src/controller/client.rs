//! Interface for protocol handlers: the current image of this shard, and changes through the controller on shard 0.
//!
//! Shard-local and cheap to clone.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::model::{ProducerId, ShardId, TimestampMs, TopicId, TopicName};
use tokio::sync::Notify;

use super::ask::{
    Answered, Ask, AskError, ConfigOp, ControllerRequest, PeerAsk, Quorum, Registered, TopicError, TopicSpec,
};
use super::brokers::Registration;
use super::followed::Followed;
use super::image::{ClusterImage, TopicImage};
use super::leaders::{LaneReport, Leaders};
use super::sources::{SourceId, SourceSpec};
use crate::limits::CONTROLLER_PATIENCE;
use crate::shard::mesh::Mesh;

/// The shard that runs the controller.
pub const CONTROLLER_SHARD: ShardId = ShardId(0);

/// The handle of one shard.
#[derive(Clone)]
pub struct ControllerHandle {
    image: Rc<RefCell<Arc<ClusterImage>>>,
    image_set: Rc<Notify>,
    followed: Rc<RefCell<Arc<Followed>>>,
    view: Rc<RefCell<Arc<ClusterImage>>>,
    leaders: Rc<RefCell<Arc<Leaders>>>,
    leaders_set: Rc<Notify>,
    block: Rc<RefCell<(i64, u32)>>,
    patience: Duration,
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
            view: Rc::new(RefCell::new(Arc::clone(&image))),
            image: Rc::new(RefCell::new(image)),
            image_set: Rc::default(),
            followed: Rc::default(),
            leaders: Rc::default(),
            leaders_set: Rc::default(),
            block: Rc::default(),
            patience: CONTROLLER_PATIENCE,
            mesh,
        }
    }

    /// A handle whose requests wait no longer than `patience` for the controller.
    #[must_use]
    pub fn within(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
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
            self.view.replace(self.followed.borrow().view(&held));
            self.image_set.notify_waiters();
        }
    }

    /// The cluster as clients of this shard see it: the image with the topics of its sources.
    #[must_use]
    pub fn view(&self) -> Arc<ClusterImage> {
        Arc::clone(&self.view.borrow())
    }

    /// Takes what this broker knows of the topics of sources.
    pub fn set_followed(&self, followed: Arc<Followed>) {
        self.view.replace(followed.view(&self.image.borrow()));
        self.followed.replace(followed);
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

    /// Takes newer leaders; older ones are ignored.
    pub fn set_leaders(&self, leaders: Arc<Leaders>) {
        let mut held = self.leaders.borrow_mut();
        if leaders.is_since(&held) {
            *held = leaders;
            self.leaders_set.notify_waiters();
        }
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

    /// Makes a topic; resolves when its partitions serve, or soon will.
    ///
    /// # Errors
    /// Why it was not made.
    pub async fn create_topic(&self, spec: TopicSpec) -> Result<Arc<TopicImage>, TopicError> {
        // Checked here, since the controller knows no topic of a source.
        if self.refuse_followed(&spec.name).is_err() {
            return Err(TopicError::Exists(spec.name));
        }
        let name = TopicName::new(&spec.name).ok();
        let validate_only = spec.validate_only;
        let (record, revision) = match self.call(Ask::Create { spec, id: None }).await? {
            Answered::Topic { record, revision } => (record, revision),
            other => unreachable!("the controller answered a creation with {other:?}"),
        };
        let name = name.expect("a topic is not made with an illegal name");
        if !validate_only {
            self.see(revision).await;
            if let Some(topic) = self.image().topic(name.as_str()).filter(|topic| topic.id == record.id) {
                return Ok(Arc::clone(topic));
            }
        }
        let base = self.image().lineage.as_ref().map_or(0, |lineage| lineage.epoch_base);
        Ok(Arc::new(record.image(&name, self.mesh.shards(), base)))
    }

    /// Deletes a topic by name.
    ///
    /// # Errors
    /// It is unknown, or the controller is not available.
    pub async fn delete_topic(&self, name: &str) -> Result<(), TopicError> {
        self.refuse_followed(name)?;
        let name = TopicName::new(name).map_err(|_| TopicError::Unknown(name.to_owned()))?;
        self.change(Ask::Delete { name, id: None }).await
    }

    /// Deletes a topic by id: not a later one that has its name by then.
    ///
    /// # Errors
    /// It is unknown, or the controller is not available.
    pub async fn delete_topic_by_id(&self, id: TopicId) -> Result<TopicName, TopicError> {
        let name = self.view().names.get(&id).cloned().ok_or(TopicError::UnknownId(id))?;
        self.refuse_followed(name.as_str())?;
        self.change(Ask::Delete { name: name.clone(), id: Some(id) }).await?;
        Ok(name)
    }

    /// Raises a topic's number of partitions to `total`.
    ///
    /// # Errors
    /// Why not.
    pub async fn create_partitions(&self, topic: &str, total: i32, validate_only: bool) -> Result<(), TopicError> {
        self.create_partitions_on(topic, total, Vec::new(), validate_only).await
    }

    /// As [`ControllerHandle::create_partitions`], on the brokers that `assignments` names for each new partition.
    ///
    /// # Errors
    /// Why not.
    pub async fn create_partitions_on(
        &self,
        topic: &str,
        total: i32,
        assignments: Vec<Vec<i32>>,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        self.refuse_followed(topic)?;
        self.change(Ask::Partitions { topic: topic.to_owned(), total, assignments, validate_only }).await
    }

    /// Changes a topic's settings, all or none.
    ///
    /// # Errors
    /// Why not.
    pub async fn alter_configs(&self, topic: &str, ops: Vec<ConfigOp>, validate_only: bool) -> Result<(), TopicError> {
        self.refuse_followed(topic)?;
        self.change(Ask::Configs { topic: topic.to_owned(), ops, validate_only }).await
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
            match self.call(Ask::ProducerIds).await? {
                Answered::ProducerIds { first, count } => *self.block.borrow_mut() = (first.0, count),
                other => unreachable!("the controller answered a request for producer ids with {other:?}"),
            }
        }
    }

    /// Term and end of the controller's log.
    ///
    /// # Errors
    /// The controller is not available.
    pub async fn quorum(&self) -> Result<Quorum, TopicError> {
        match self.call(Ask::Quorum).await? {
            Answered::Quorum(quorum) => Ok(quorum),
            other => unreachable!("the controller answered a question about its log with {other:?}"),
        }
    }

    /// Registers a broker; the same answer however often it is asked.
    ///
    /// # Errors
    /// It may not, or the controller is not available.
    pub async fn register(&self, registration: Registration) -> Result<Registered, TopicError> {
        match self.call(Ask::Register(registration)).await? {
            Answered::Registered(registered) => Ok(registered),
            other => unreachable!("the controller answered a registration with {other:?}"),
        }
    }

    /// Raises the replication factor of every lane that has a lower one, the controller's among them. Returns how many
    /// lanes get more replicas, before they have them.
    ///
    /// # Errors
    /// There are too few brokers, or the controller is not available.
    pub async fn widen(&self, factor: u16) -> Result<usize, TopicError> {
        match self.call(Ask::Widen { factor }).await? {
            Answered::Widening { lanes, revision } => {
                self.see(revision).await;
                Ok(lanes)
            }
            other => unreachable!("the controller answered a request for replicas with {other:?}"),
        }
    }

    /// Follows another cluster's bucket; the same answer however often it is asked.
    ///
    /// # Errors
    /// It cannot be followed, or the controller is not available.
    pub async fn follow(&self, id: SourceId, spec: SourceSpec) -> Result<(), TopicError> {
        self.change(Ask::Follow { id, spec }).await
    }

    /// Follows a source no longer.
    ///
    /// # Errors
    /// The controller is not available.
    pub async fn unfollow(&self, id: SourceId) -> Result<(), TopicError> {
        self.change(Ask::Unfollow { id }).await
    }

    /// Ends the hold of retention after a restore; false if there was none at `now`, or it had ended by itself.
    ///
    /// # Errors
    /// The controller is not available.
    pub async fn end_hold(&self, now: TimestampMs) -> Result<bool, TopicError> {
        let image = self.image();
        let copies = image.topics.values().filter_map(|topic| topic.copy.as_ref());
        let held = image.lineage.as_ref().is_some_and(|lineage| lineage.holds(now))
            || copies.filter(|copy| copy.finished.is_some()).any(|copy| copy.holds(now));
        self.change(Ask::EndHold).await.map(|()| held)
    }

    /// Notes that a partition of a copy is complete.
    ///
    /// # Errors
    /// The controller is not available.
    pub async fn copied(&self, id: TopicId, partition: i32, at: TimestampMs) -> Result<(), TopicError> {
        self.change(Ask::Copied { id, partition, at }).await
    }

    /// Answers a request of another broker, as the body of an answer.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn serve_peer(&self, body: &[u8]) -> Result<Bytes, serde_json::Error> {
        let PeerAsk { ask, again } = serde_json::from_slice(body)?;
        let serve = |reply| ControllerRequest::Serve { ask, again, reply };
        let answered = self.mesh.call(CONTROLLER_SHARD, serve).await.unwrap_or(Err(AskError::NotLeader(None)));
        Ok(Bytes::from(serde_json::to_vec(&answered).expect("maps, numbers and strings serialise into memory")))
    }

    /// Takes another broker's report of its lanes.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn take_report(&self, body: &[u8]) -> Result<(), serde_json::Error> {
        let report = serde_json::from_slice(body)?;
        // A controller that has stopped needs no report.
        let _ = self.mesh.send(CONTROLLER_SHARD, ControllerRequest::Leaders(report)).await;
        Ok(())
    }

    /// # Errors
    /// The topic is a source's.
    fn refuse_followed(&self, topic: &str) -> Result<(), TopicError> {
        let view = self.view();
        match view.topic(topic).and_then(|found| view.source_of(found.id)) {
            Some(source) => Err(TopicError::Followed { topic: topic.to_owned(), source_name: source.to_owned() }),
            None => Ok(()),
        }
    }

    fn take_from_block(&self) -> Option<ProducerId> {
        let mut block = self.block.borrow_mut();
        let (next, left) = *block;
        *block = (next + 1, left.checked_sub(1)?);
        Some(ProducerId(next))
    }

    /// A request that changes something; waits until this shard's image shows the change, or soon will.
    async fn change(&self, ask: Ask) -> Result<(), TopicError> {
        match self.call(ask).await? {
            Answered::Done { revision } => {
                self.see(revision).await;
                Ok(())
            }
            other => unreachable!("the controller answered a change with {other:?}"),
        }
    }

    /// Waits until this shard's image is of `revision`. The controller of this broker ends the wait: it answers a
    /// request when its own shards have the image, or it is late.
    async fn see(&self, revision: u64) {
        let have = |reply| ControllerRequest::See { revision, reply };
        if self.image().revision < revision {
            // A controller that has stopped shows nothing more.
            let _ = self.mesh.call(CONTROLLER_SHARD, have).await;
        }
    }

    async fn call(&self, ask: Ask) -> Result<Answered, TopicError> {
        let patience = self.patience;
        let make = |reply| ControllerRequest::Ask { ask, patience, reply };
        self.mesh.call(CONTROLLER_SHARD, make).await.unwrap_or(Err(TopicError::Unavailable))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidewater_storage::env::sim::World;

    use super::*;
    use crate::controller::lineage::Lineage;
    use crate::kafka::handlers::fixture::image;

    #[test]
    fn a_hold_that_has_ended_by_itself_is_not_ended_again() {
        let world = World::new(1);
        let env = world.env();
        world.block_on(async {
            let hold_until = Some(TimestampMs(1000));
            let (restored, ends) = (TimestampMs(0), BTreeMap::new());
            let lineage = Lineage { epoch: 2, source: 1, restored, hold_until, epoch_base: 0, ends };
            let (mesh, mut inboxes) = Mesh::new(1, 8);
            let image = ClusterImage { lineage: Some(Arc::new(lineage)), ..image(&[]) };
            let controller = ControllerHandle::new(Arc::new(image), mesh);
            let inbox = inboxes.remove(0);
            let answer = async move {
                while let Some(request) = inbox.recv().await {
                    match request {
                        ControllerRequest::Ask { ask: Ask::EndHold, reply, .. } => {
                            reply.send(Ok(Answered::Done { revision: 1 }));
                        }
                        other => unreachable!("{other:?}"),
                    }
                }
            };
            let _controller = env.tasks.spawn("controller", answer);
            assert_eq!(controller.end_hold(TimestampMs(999)).await, Ok(true));
            assert_eq!(controller.end_hold(TimestampMs(1000)).await, Ok(false), "a day has passed");
        });
    }
}
