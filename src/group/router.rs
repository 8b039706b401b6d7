//! Sends group requests of protocol handlers to the group's coordinator. *Shard-local*, cheap to clone.

use std::fmt;

use tidewater_storage::model::ShardId;

use super::coordinator::Coordinator;
use super::error::GroupError;
use super::ids::{GroupId, partition_of};
use super::message::{
    Answer, Ask, CommitAsk, DescribedGroup, FetchAsk, FetchedOffset, GroupRequest, Heartbeat, ListedGroup,
};
use super::state::{Join, Joined, Leave, Sync, Synced};
use super::{OFFSETS_PARTITIONS, OFFSETS_TOPIC};
use crate::controller::ask::{TopicError, TopicSpec};
use crate::controller::client::ControllerHandle;
use crate::limits::GROUP_ID_BYTES_MAX;
use crate::partition::message::PartitionAddress;
use crate::shard::mesh::{Mesh, reply_pair};

/// The router of one shard.
#[derive(Clone)]
pub struct GroupRouter {
    here: ShardId,
    local: Coordinator,
    mesh: Mesh<GroupRequest>,
    controller: ControllerHandle,
}

impl fmt::Debug for GroupRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupRouter(shard {})", self.here)
    }
}

impl GroupRouter {
    /// A router on shard `here`, whose own coordinator is `local`.
    #[must_use]
    pub fn new(here: ShardId, local: Coordinator, mesh: Mesh<GroupRequest>, controller: ControllerHandle) -> Self {
        Self { here, local, mesh, controller }
    }

    /// Makes sure the group has a coordinator (creates `__consumer_offsets` on first use).
    ///
    /// # Errors
    /// The topic cannot be made now.
    pub async fn find(&self, group: &str) -> Result<(), GroupError> {
        short(group)?;
        self.partition(group, true).await.map(|_| ())
    }

    /// Joins a group; resolves when the join barrier lifts.
    ///
    /// # Errors
    /// Kafka's refusals of a join.
    pub async fn join(&self, group: GroupId, join: Join) -> Result<Joined, GroupError> {
        named(&group)?;
        self.ask(&group.clone(), true, |reply| Ask::Join(group, Box::new(join), reply)).await
    }

    /// Syncs with a group; resolves when the leader's assignments are written.
    ///
    /// # Errors
    /// Kafka's refusals of a sync.
    pub async fn sync(&self, group: GroupId, sync: Sync) -> Result<Synced, GroupError> {
        named(&group)?;
        self.ask(&group.clone(), true, |reply| Ask::Sync(group, Box::new(sync), reply)).await
    }

    /// Passes on a member's heartbeat.
    ///
    /// # Errors
    /// Kafka's answers to a heartbeat.
    pub async fn heartbeat(&self, group: GroupId, beat: Heartbeat) -> Result<(), GroupError> {
        named(&group)?;
        self.ask(&group.clone(), true, |reply| Ask::Heartbeat(group, beat, reply)).await
    }

    /// Takes members out; one answer for each.
    ///
    /// # Errors
    /// The coordinator is not available.
    pub async fn leave(&self, group: GroupId, leaves: Vec<Leave>) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        named(&group)?;
        self.ask(&group.clone(), true, |reply| Ask::Leave(group, leaves, reply)).await
    }

    /// Commits offsets; one answer for each, in order, once they are durable.
    ///
    /// # Errors
    /// The group refuses the commit as a whole.
    pub async fn commit(&self, group: GroupId, commit: CommitAsk) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        short(group.as_str())?;
        self.ask(&group.clone(), true, |reply| Ask::Commit(group, Box::new(commit), reply)).await
    }

    /// Reads committed offsets, in the order asked.
    ///
    /// # Errors
    /// The coordinator is not available.
    pub async fn fetch(&self, group: GroupId, wanted: FetchAsk) -> Result<Vec<FetchedOffset>, GroupError> {
        self.ask(&group.clone(), true, |reply| Ask::Fetch(group, wanted, reply)).await
    }

    /// Describes a group.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], or the coordinator is not available.
    pub async fn describe(&self, group: GroupId) -> Result<DescribedGroup, GroupError> {
        self.ask(&group.clone(), false, |reply| Ask::Describe(group, reply)).await
    }

    /// Deletes a group without members.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], [`GroupError::NotEmpty`], or the coordinator is not available.
    pub async fn delete(&self, group: GroupId) -> Result<(), GroupError> {
        self.ask(&group.clone(), false, |reply| Ask::Delete(group, reply)).await
    }

    /// Deletes committed offsets; one answer for each, in order.
    ///
    /// # Errors
    /// The group refuses as a whole.
    pub async fn delete_offsets(
        &self,
        group: GroupId,
        keys: Vec<(String, i32)>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.ask(&group.clone(), false, |reply| Ask::DeleteOffsets(group, keys, reply)).await
    }

    /// All groups that this broker coordinates.
    ///
    /// # Errors
    /// A coordinator is loading or not available.
    pub async fn list(&self) -> Result<Vec<ListedGroup>, GroupError> {
        let Some(topic) = self.controller.image().topic(OFFSETS_TOPIC).cloned() else { return Ok(Vec::new()) };
        let asked = topic.partitions.iter().map(|image| self.put(image.address(), Ask::List));
        let mut groups = Vec::new();
        for answer in futures::future::join_all(asked).await {
            match answer {
                // Another broker lists them.
                Err(GroupError::NotCoordinator) => {}
                answer => groups.extend(answer?),
            }
        }
        Ok(groups)
    }

    async fn ask<T: Send + 'static>(
        &self,
        group: &GroupId,
        create: bool,
        make: impl FnOnce(Answer<T>) -> Ask,
    ) -> Result<T, GroupError> {
        let partition = self.partition(group.as_str(), create).await?;
        self.put(partition, make).await
    }

    async fn put<T: Send + 'static>(
        &self,
        partition: PartitionAddress,
        make: impl FnOnce(Answer<T>) -> Ask,
    ) -> Result<T, GroupError> {
        if partition.shard == self.here {
            let (reply, answer) = reply_pair();
            self.local.ask(GroupRequest { partition, ask: make(reply) });
            return answer.await.unwrap_or(Err(GroupError::NotAvailable));
        }
        let asked = self.mesh.call(partition.shard, |reply| GroupRequest { partition, ask: make(reply) });
        asked.await.unwrap_or(Err(GroupError::NotAvailable))
    }

    /// The partition of `__consumer_offsets` that is the group's.
    async fn partition(&self, group: &str, create: bool) -> Result<PartitionAddress, GroupError> {
        let topic = match self.controller.image().topic(OFFSETS_TOPIC) {
            Some(topic) => topic.clone(),
            None if create => self.make_topic().await?,
            None => return Err(GroupError::NotFound),
        };
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        topic.partition(partition_of(group, count)).map(|image| image.address()).ok_or(GroupError::NotAvailable)
    }

    async fn make_topic(&self) -> Result<std::sync::Arc<crate::controller::image::TopicImage>, GroupError> {
        let spec = TopicSpec {
            name: OFFSETS_TOPIC.to_owned(),
            partitions: Some(OFFSETS_PARTITIONS),
            replication_factor: -1,
            assignments: Vec::new(),
            configs: Vec::new(),
            validate_only: false,
            internal: true,
            copy: None,
        };
        match self.controller.create_topic(spec).await {
            Ok(topic) => Ok(topic),
            Err(TopicError::Exists(_)) => {
                self.controller.image().topic(OFFSETS_TOPIC).cloned().ok_or(GroupError::NotAvailable)
            }
            Err(error) => {
                tracing::warn!(%error, "__consumer_offsets could not be made, groups wait; tried again with the next request");
                Err(GroupError::NotAvailable)
            }
        }
    }
}

/// A group that members join must have a name; one that only stores offsets need not (Kafka's `isValidGroupId`).
fn named(group: &GroupId) -> Result<(), GroupError> {
    if group.as_str().is_empty() { Err(GroupError::InvalidGroupId) } else { short(group.as_str()) }
}

/// A name that groups can be made under.
fn short(group: &str) -> Result<(), GroupError> {
    if group.len() > GROUP_ID_BYTES_MAX { Err(GroupError::InvalidGroupId) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let of = |len: usize| named(&GroupId::from("g".repeat(len)));
        assert_eq!((of(1), of(GROUP_ID_BYTES_MAX)), (Ok(()), Ok(())));
        assert_eq!(
            (of(0), of(GROUP_ID_BYTES_MAX + 1)),
            (Err(GroupError::InvalidGroupId), Err(GroupError::InvalidGroupId))
        );
        assert_eq!(short(""), Ok(()));
    }
}
