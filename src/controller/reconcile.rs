//! What the image says of a lane's partitions → commands in that lane. The plan is pure; [`Follower`] proposes it.
//!
//! Only topics that differ from the image followed last are looked at: an image shares what did not change with the one
//! before, so a difference is a different pointer. Shard-local.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::stream::{self, StreamExt};
use tidewater_storage::env::Env;
use tidewater_storage::model::{LaneId, PartitionId, Term};

use super::client::ControllerHandle;
use super::image::{ClusterImage, TopicImage};
use super::leaders::{LaneReport, Leaders};
use crate::limits::{LANE_COMMANDS_BYTES_MAX, LANE_COMMANDS_MAX};
use crate::partition::shard::PartitionShard;
use crate::partition::state::command::{LaneCommand, LaneOp};
use crate::partition::state::lane::DataLane;
use crate::raft::ProposeError;
use crate::shard::mesh::{Inbox, Reply};

/// Entries proposed at once while a lane is reconciled.
const IN_FLIGHT: usize = 4;

/// After a try that failed for now; twice as long each time, up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the controller of this broker sends to every shard.
#[derive(Debug)]
pub enum Reconcile {
    /// Make your lanes agree with this image, then show it to clients.
    Image {
        image: Arc<ClusterImage>,
        /// Answered when it is shown, with the lanes that this shard leads.
        reply: Reply<Vec<LaneReport>>,
    },
    /// Show clients these leaders.
    Leaders {
        leaders: Arc<Leaders>,
        /// Answered when they are shown.
        reply: Reply<()>,
    },
}

/// Called with an image before the shard's lanes are made to agree with it.
pub type Prepare = Rc<dyn Fn(Arc<ClusterImage>) -> LocalBoxFuture<'static, ()>>;

/// Follows the controller on one shard, until the node stops. Every lane of the table that is on this shard must run.
pub fn serve(env: &Env, shard: &Rc<PartitionShard>, controller: &ControllerHandle, inbox: Inbox<Reconcile>) {
    serve_with(env, shard, controller, inbox, Rc::new(|_| Box::pin(std::future::ready(()))));
}

/// As [`serve`]; `prepare` starts the lanes that an image brings to this shard.
pub fn serve_with(
    env: &Env,
    shard: &Rc<PartitionShard>,
    controller: &ControllerHandle,
    inbox: Inbox<Reconcile>,
    prepare: Prepare,
) {
    let (mut follower, controller) = (Follower::new(Rc::clone(shard)), controller.clone());
    drop(env.tasks.spawn("reconcile", async move {
        while let Some(request) = inbox.recv().await {
            match request {
                Reconcile::Image { image, reply } => {
                    prepare(Arc::clone(&image)).await;
                    let lanes = follower.follow(&image).await;
                    controller.set_image(image);
                    reply.send(lanes);
                }
                Reconcile::Leaders { leaders, reply } => {
                    controller.set_leaders(leaders);
                    reply.send(());
                }
            }
        }
    }));
}

/// A topic before and after; never the same.
pub type Change<'a> = (Option<&'a Arc<TopicImage>>, Option<&'a Arc<TopicImage>>);

/// Topics that differ between two images.
#[must_use]
pub fn changes<'a>(before: &'a ClusterImage, after: &'a ClusterImage) -> Vec<Change<'a>> {
    let gone = before.topics.iter().filter(|(name, _)| !after.topics.contains_key(*name));
    let mut changes: Vec<Change<'a>> = gone.map(|(_, topic)| (Some(topic), None)).collect();
    for (name, topic) in &after.topics {
        match before.topics.get(name) {
            Some(held) if Arc::ptr_eq(held, topic) => {}
            held => changes.push((held, Some(topic))),
        }
    }
    changes
}

/// What a lane does for these changes: creations and changes, then drops, so that a name used again never sees both at
/// once. `held` returns the overrides of a partition that the lane has.
#[must_use]
pub fn plan(
    changes: &[Change<'_>],
    lane: LaneId,
    held: impl Fn(PartitionId) -> Option<BTreeMap<String, String>>,
) -> Vec<LaneCommand> {
    let (mut commands, mut wanted) = (Vec::new(), BTreeSet::new());
    for topic in changes.iter().filter_map(|(_, after)| *after) {
        for partition in topic.partitions.iter().filter(|p| p.lane == lane) {
            wanted.insert(partition.id);
            match held(partition.id) {
                None => commands.push(LaneCommand::Create {
                    partition: partition.id,
                    topic: topic.name.clone(),
                    overrides: topic.overrides.clone(),
                    epoch_base: 0,
                    revision: 0,
                }),
                Some(overrides) if overrides != topic.overrides => commands.push(LaneCommand::Configure {
                    partition: partition.id,
                    overrides: topic.overrides.clone(),
                    revision: 0,
                }),
                Some(_) => {}
            }
        }
    }
    for topic in changes.iter().filter_map(|(before, _)| *before) {
        let here = topic.partitions.iter().filter(|p| p.lane == lane && !wanted.contains(&p.id));
        let gone = here.filter(|p| held(p.id).is_some());
        commands.extend(gone.map(|p| LaneCommand::Drop { partition: p.id, revision: 0 }));
    }
    commands
}

/// Makes the lanes of a shard follow the controller's images. Shard-local.
pub struct Follower {
    shard: Rc<PartitionShard>,
    /// The image that all lanes agree with; `None` until they did once, and after one was passed over.
    followed: Option<Arc<ClusterImage>>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Follower({:?})", self.followed.as_ref().map(|image| image.revision))
    }
}

impl Follower {
    /// Of a shard that has followed nothing yet.
    #[must_use]
    pub fn new(shard: Rc<PartitionShard>) -> Self {
        Self { shard, followed: None }
    }

    /// Reconciles every lane of the shard that it leads, and stays with one that fails for now until it agrees: what is
    /// answered is done.
    pub async fn follow(&mut self, image: &Arc<ClusterImage>) -> Vec<LaneReport> {
        let before = self.followed.take();
        let (mut led, mut all) = (Vec::new(), true);
        let here = image.here;
        for lane in self.shard.lanes() {
            match self.bring(&lane, before.as_deref(), image).await {
                Some(term) => led.push(LaneReport {
                    lane: lane.id,
                    term,
                    leader: Some(here),
                    in_sync: vec![here],
                    followed: image.revision,
                }),
                None => all = false,
            }
        }
        self.followed = all.then(|| Arc::clone(image));
        led
    }

    /// Makes a lane agree with the image, in as many tries as it takes while it leads; the term in which it does.
    async fn bring(&self, lane: &DataLane, before: Option<&ClusterImage>, image: &ClusterImage) -> Option<Term> {
        let mut pause = RETRY_FIRST;
        loop {
            let term = lane.status.leading()?;
            // What a failed try has done all the same is held by now, and no longer planned.
            let commands = match before {
                Some(before) => plan(&changes(before, image), lane.id, |id| Some(lane.replica(id)?.overrides())),
                None => plan_anew(image, lane),
            };
            let count = commands.len();
            let Err(error) = propose(lane, commands).await else { return Some(term) };
            if matches!(error, ProposeError::Shutdown | ProposeError::Fatal | ProposeError::TooLarge { .. }) {
                tracing::warn!(lane = %lane.id, %error, count, "a lane could not follow the controller; it will after a restart");
                return None;
            }
            tracing::warn!(lane = %lane.id, %error, count, ?pause, "a lane could not follow the controller; tried again after the pause");
            self.shard.env().tasks.sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

/// As if nothing were known of what the lane holds.
fn plan_anew(image: &ClusterImage, lane: &DataLane) -> Vec<LaneCommand> {
    let every: Vec<Change<'_>> = image.topics.values().map(|topic| (None, Some(topic))).collect();
    let mut commands = plan(&every, lane.id, |id| Some(lane.replica(id)?.overrides()));
    let wanted: BTreeSet<PartitionId> =
        image.topics.values().flat_map(|topic| &topic.partitions).filter(|p| p.lane == lane.id).map(|p| p.id).collect();
    let held = lane.replicas().into_iter().map(|replica| replica.id);
    commands.extend(held.filter(|id| !wanted.contains(id)).map(|partition| LaneCommand::Drop { partition, revision: 0 }));
    commands
}

/// Entries that carry these commands, in order: many to one, but no more than a lane takes in its stride.
fn entries(commands: Vec<LaneCommand>) -> Vec<LaneCommand> {
    let (mut entries, mut together, mut bytes) = (Vec::new(), Vec::new(), 0);
    for command in commands {
        let len = command.encoded_len();
        if together.len() == LANE_COMMANDS_MAX || !together.is_empty() && bytes + len > LANE_COMMANDS_BYTES_MAX {
            entries.push(LaneCommand::together(std::mem::take(&mut together)));
            bytes = 0;
        }
        bytes += len;
        together.push(command);
    }
    if !together.is_empty() {
        entries.push(LaneCommand::together(together));
    }
    entries
}

/// Proposes commands, many to an entry. What one entry meets keeps no other back.
///
/// # Errors
/// Of the first that was not committed.
async fn propose(lane: &DataLane, commands: Vec<LaneCommand>) -> Result<(), ProposeError> {
    let proposed = stream::iter(entries(commands)).map(|command| lane.propose(LaneOp::Command(command)));
    proposed.buffered(IN_FLIGHT).fold(Ok(()), |all, one| async move { all.and(one.map(drop)) }).await
}

#[cfg(test)]
mod tests {
    use tidewater_storage::env::sim::World;
    use tidewater_storage::model::PartitionIndex;

    use super::*;
    use crate::kafka::handlers::fixture::image;
    use crate::partition::fixture::Fixture;

    fn create_drop(commands: &[LaneCommand]) -> (usize, usize) {
        let creates = commands.iter().filter(|c| matches!(c, LaneCommand::Create { .. })).count();
        (creates, commands.iter().filter(|c| matches!(c, LaneCommand::Drop { .. })).count())
    }

    #[test]
    fn entries_are_bounded_in_commands_and_in_bytes() {
        let id = |n: usize| PartitionId { index: PartitionIndex(n as i32), ..PartitionId::default() };
        let commands = |count: usize, value: usize| -> Vec<LaneCommand> {
            let overrides = BTreeMap::from([("flush.ms".to_owned(), "\u{1}".repeat(value))]);
            let configure =
                |n| LaneCommand::Configure { partition: id(n), overrides: overrides.clone(), revision: 0 };
            (0..count).map(configure).collect()
        };
        let singles = |entries: Vec<LaneCommand>| -> Vec<LaneCommand> {
            let single = |entry| if let LaneCommand::Commands { commands } = entry { commands } else { vec![entry] };
            entries.into_iter().flat_map(single).collect()
        };
        for (count, value, expected) in [(0, 1, 0), (1, 1, 1), (1025, 1, 3), (40, 16 << 10, 4), (3, 2 << 20, 3)] {
            let all = commands(count, value);
            let cut = entries(all.clone());
            assert_eq!(cut.len(), expected, "{count} commands of {value} bytes");
            let small = |entry: &LaneCommand| {
                !matches!(entry, LaneCommand::Commands { .. }) || entry.encoded_len() < 2 * LANE_COMMANDS_BYTES_MAX
            };
            assert!(cut.iter().all(small), "{count} commands of {value} bytes");
            assert_eq!(singles(cut), all, "in order, none lost");
        }
    }

    #[test]
    fn only_what_differs_is_planned() {
        let before = image(&[("a", 2), ("b", 1)]);
        let mut after = before.clone();
        assert!(changes(&before, &after).is_empty());
        let other = image(&[("c", 3)]);
        after.topics.extend(other.topics.iter().map(|(name, topic)| (name.clone(), Arc::clone(topic))));
        after.topics.retain(|name, _| name.as_str() != "b");
        let changed = changes(&before, &after);
        assert_eq!(changed.len(), 2);
        let lane = before.topic("b").expect("there").partitions[0].lane;
        let lanes: BTreeSet<LaneId> =
            other.topics.values().chain(before.topics.values()).flat_map(|t| &t.partitions).map(|p| p.lane).collect();
        let carried = before.topic("b").expect("there").partitions[0].id;
        let held = |id| (id == carried).then(BTreeMap::new);
        let planned: Vec<_> = lanes.iter().map(|lane| create_drop(&plan(&changed, *lane, held))).collect();
        assert_eq!(planned.iter().map(|(creates, _)| creates).sum::<usize>(), 3);
        assert_eq!(create_drop(&plan(&changed, lane, held)).1, 1);
    }

    #[test]
    fn a_full_lane_is_waited_for() {
        let world = World::new(1);
        let env = world.env();
        world.block_on(async {
            let shard = Fixture::open(&env).await;
            let wanted = image(&[("late", 3)]);
            let ids: Vec<_> = wanted.topic("late").expect("there").partitions.iter().map(|p| p.id).collect();
            let in_flight = shard.fill();
            assert!(!shard.lane.status.has_room());
            let mut follower = Follower::new(Rc::clone(&shard.partitions));
            let led = follower.follow(&Arc::new(wanted)).await;
            assert_eq!(led.len(), 1);
            assert!(ids.iter().all(|id| shard.lane.replica(*id).is_some()), "they serve once it is answered");
            assert!(shard.lane.replica(shard.address(0).id).is_none(), "what the image has not is dropped");
            for done in in_flight {
                done.await.expect("is applied");
            }
        });
    }
}
