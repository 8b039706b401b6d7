//! What the image says of a lane's partitions → commands in that lane. The plan is pure; `run` proposes it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use tidewater_storage::model::{LaneId, PartitionId, Term, TopicName};

use super::image::ClusterImage;
use crate::partition::command::{LaneCommand, LaneEntry};
use crate::partition::lane::DataLane;
use crate::partition::shard::PartitionShard;
use crate::shard::mesh::Reply;

/// Commands proposed at once while a lane is reconciled.
const IN_FLIGHT: usize = 64;

/// Make your lanes agree with this image.
#[derive(Debug)]
pub struct Reconcile {
    /// The newest image.
    pub image: Arc<ClusterImage>,
    /// Told when they do, with the terms in which this shard leads its lanes.
    pub reply: Reply<Vec<(LaneId, Term)>>,
}

/// A partition as a lane holds it, as far as reconciliation looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its topic.
    pub topic: TopicName,
    /// Its overrides.
    pub overrides: BTreeMap<String, String>,
}

/// Creations and changes, then drops: a renamed use of the same lane never sees both at once.
#[must_use]
pub fn plan(image: &ClusterImage, lane: LaneId, held: &BTreeMap<PartitionId, Held>) -> Vec<LaneCommand> {
    let mut commands = Vec::new();
    let mut wanted = std::collections::BTreeSet::new();
    for topic in image.topics.values() {
        for partition in topic.partitions.iter().filter(|p| p.lane == lane) {
            wanted.insert(partition.id);
            match held.get(&partition.id) {
                None => commands.push(LaneCommand::Create {
                    partition: partition.id,
                    topic: topic.name.clone(),
                    overrides: topic.overrides.clone(),
                    epoch_base: 0,
                }),
                Some(held) if held.overrides != topic.overrides => commands
                    .push(LaneCommand::Configure { partition: partition.id, overrides: topic.overrides.clone() }),
                Some(_) => {}
            }
        }
    }
    let gone = held.keys().filter(|id| !wanted.contains(id));
    commands.extend(gone.map(|id| LaneCommand::Drop { partition: *id }));
    commands
}

/// Reconciles every lane of a shard that it leads; answers the terms.
pub async fn run(shard: &PartitionShard, image: &ClusterImage) -> Vec<(LaneId, Term)> {
    let mut terms = Vec::new();
    for lane in shard.lanes() {
        let Some(term) = lane.leading() else { continue };
        reconcile_lane(&lane, image).await;
        terms.push((lane.id, term));
    }
    terms
}

async fn reconcile_lane(lane: &Rc<DataLane>, image: &ClusterImage) {
    let held = lane
        .replicas()
        .into_iter()
        .map(|r| (r.id, Held { topic: r.topic().clone(), overrides: r.overrides() }))
        .collect();
    stream::iter(plan(image, lane.id, &held))
        .for_each_concurrent(IN_FLIGHT, |command| async move {
            if let Err(error) = lane.propose(LaneEntry::Command(command.clone())).await {
                tracing::warn!(lane = %lane.id, %error, ?command, "a lane could not follow the controller; it will at the next change");
            }
        })
        .await;
}
