//! Lanes of a shard that are rebuilt: which have to be, the end of their group, its start from the copied state. And
//! what the leader's side of a copy needs to know of the lanes here.

use std::collections::BTreeSet;
use std::rc::Rc;

use tidewater_storage::model::{LaneId, Offset, PartitionId, ReplicaId};

use super::{Assignment, BadReplicaBlob, Lanes, OnDeath, recover_replica};
use crate::node::status::ShardFailure;
use crate::raft::{Lane, LaneFatal};
use crate::rebuild::{self, Copied, CopiedPartition, LaneSource, RebuildCalls};

impl Lanes {
    /// The lanes of this shard that cannot catch up from their leader's log.
    #[must_use]
    pub fn to_rebuild(&self) -> BTreeSet<LaneId> {
        let lagging = self.groups().into_iter().filter(|(_, me, raft)| {
            let leadership = raft.leadership();
            !leadership.ready && raft.needs_rebuild().contains(me)
        });
        let lagging: BTreeSet<LaneId> = lagging.map(|(lane, _, _)| lane).collect();
        lagging.into_iter().chain(self.rebuilds.borrow().keys().copied()).collect()
    }

    /// Ends the lane's group and forgets its state, to be followed by [`Lanes::end_rebuild`]. Returns the replica to be
    /// rebuilt; `None` if the lane does not run here.
    pub async fn begin_rebuild(&self, id: LaneId) -> Option<ReplicaId> {
        if let Some(assignment) = self.rebuilds.borrow().get(&id) {
            return Some(assignment.me);
        }
        let raft = self.status_of(id, |status| status.raft().cloned()).flatten()?;
        let assignment = self.running.borrow_mut().remove(&id)?;
        let me = assignment.me;
        self.rebuilds.borrow_mut().insert(id, assignment);
        raft.shutdown().await;
        // Together with the next step: no checkpoint may ask for partitions that are forgotten.
        self.engine.mark_rebuild(id);
        match &self.controller {
            Some(controller) if id == LaneId::CONTROLLER => controller.clear(),
            _ => self.partitions.lane(id)?.clear(),
        }
        Some(me)
    }

    /// Takes over a lane's copied state and starts its group.
    ///
    /// # Errors
    /// What was copied cannot be read, or the disk failed: the process must end.
    pub async fn end_rebuild(
        &self,
        copied: &Copied,
        calls: &dyn RebuildCalls,
        on_death: impl Fn(LaneFatal) + 'static,
    ) -> Result<(), ShardFailure> {
        let (here, id) = (self.seat.here, copied.lane);
        let Some(assignment) = self.rebuilds.borrow().get(&id).cloned() else { return Ok(()) };
        let assignment = Assignment { may_initialise: false, ..assignment };
        let controller = self.controller.clone().filter(|_| id == LaneId::CONTROLLER);
        let lane = self.partitions.lane(id);
        if let Some(controller) = &controller {
            controller.restore(copied.at, &copied.state).map_err(|e| ShardFailure::new(here, &e))?;
        } else if let Some(lane) = &lane {
            let replica =
                |part: &CopiedPartition| Ok((recover_replica(&self.engine, part.id, id, &part.state)?, part.as_of));
            let replicas: Result<Vec<_>, BadReplicaBlob> = copied.partitions.iter().map(replica).collect();
            let replicas = replicas.map_err(|e| ShardFailure::new(here, &e))?;
            lane.restore(copied.at, &copied.state, replicas).map_err(|e| ShardFailure::new(here, &e))?;
        }
        rebuild::settle(&self.engine, copied, calls).await.map_err(|e| ShardFailure::new(here, &e))?;
        let on_death: OnDeath = Rc::new(on_death);
        if let Some(controller) = controller {
            let membership = Some(controller.status.membership());
            self.start(&assignment, Rc::clone(&controller) as _, &controller.status, membership, on_death).await?;
        } else if let Some(lane) = lane {
            let membership = Some(lane.status.membership());
            self.start(&assignment, self.state_machine(&lane), &lane.status, membership, on_death).await?;
        }
        self.rebuilds.borrow_mut().remove(&id);
        Ok(())
    }

    /// Is the lane's state being copied from its leader?
    #[must_use]
    pub fn is_rebuilding(&self, lane: LaneId) -> bool {
        self.rebuilds.borrow().contains_key(&lane)
    }
}

impl LaneSource for Lanes {
    fn raft(&self, lane: LaneId) -> Option<Lane> {
        if !self.running.borrow().contains_key(&lane) {
            return None;
        }
        self.status_of(lane, |status| status.raft().cloned()).flatten()
    }

    fn archived_end(&self, partition: PartitionId) -> Offset {
        self.partitions.replica(partition).map_or(Offset::ZERO, |replica| replica.manifest().archived_end)
    }

    fn archived_bytes(&self, partition: PartitionId) -> u64 {
        self.partitions.replica(partition).map_or(0, |replica| replica.manifest().bytes())
    }
}
