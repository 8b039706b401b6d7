//! What the image says of a lane's partitions → commands in that lane. The plan is pure; [`Follower`] proposes it.
//!
//! Only topics that differ from the image followed last are looked at: an image shares what did not change with the one
//! before, so a difference is a different pointer. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{LocalBoxFuture, select};
use futures::stream::{self, StreamExt};
use tidewater_storage::env::Env;
use tidewater_storage::model::{EntryId, LaneId, NodeId, PartitionId, ShardId, Term};
use tokio::sync::Notify;

use super::client::ControllerHandle;
use super::image::{ClusterImage, TopicImage};
use super::leaders::{LaneReport, Leaders};
use crate::limits::{LANE_COMMANDS_BYTES_MAX, LANE_COMMANDS_MAX};
use crate::partition::shard::PartitionShard;
use crate::partition::state::apply::Outcome;
use crate::partition::state::command::{LaneCommand, LaneOp};
use crate::partition::state::lane::DataLane;
use crate::raft::{Lane, ProposeError, ReplicaProgress};
use crate::shard::mesh::{Inbox, Reply};

/// Entries proposed at once while a lane is reconciled.
const IN_FLIGHT: usize = 4;

/// An image is shown to clients after this time also if a lane of several voters has not followed it: without a quorum
/// it cannot, and other lanes serve.
const SHOWN_AFTER: Duration = Duration::from_millis(500);

/// Between reports of a shard's lanes, if nothing happens.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A replica that has not answered for so long is not in sync, as with Kafka's `replica.lag.time.max.ms`; a shorter
/// time, since leaders hear of their followers every heartbeat.
const IN_SYNC_SILENCE: Duration = Duration::from_secs(3);

/// Entries that a replica in sync may lack: those under way to it.
const IN_SYNC_ENTRIES: u64 = 1000;

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
/// once. `held` returns the overrides of a partition that the lane has, `revision` is the image's.
#[must_use]
pub fn plan(
    changes: &[Change<'_>],
    lane: LaneId,
    revision: u64,
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
                    epoch_base: partition.epoch_base,
                    copied: topic.copy.as_ref().and_then(|copy| copy.range(partition.id.index)),
                    revision,
                }),
                Some(overrides) if overrides != topic.overrides => commands.push(LaneCommand::Configure {
                    partition: partition.id,
                    overrides: topic.overrides.clone(),
                    revision,
                }),
                Some(_) => {}
            }
        }
    }
    for topic in changes.iter().filter_map(|(before, _)| *before) {
        let here = topic.partitions.iter().filter(|p| p.lane == lane && !wanted.contains(&p.id));
        let gone = here.filter(|p| held(p.id).is_some());
        commands.extend(gone.map(|p| LaneCommand::Drop { partition: p.id, revision }));
    }
    commands
}

/// Follows the controller on one shard, until the node stops: its images and leaders, and reports of this shard's lanes
/// to it.
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
    let follower = Rc::new(Follower::new(Rc::clone(shard)));
    let (reporter, handle, here) = (Rc::clone(&follower), controller.clone(), shard.here);
    drop(env.tasks.spawn("lane reports", async move { reporter.report(here, &handle).await }));
    let controller = controller.clone();
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

/// Makes the lanes of a shard follow the controller's images, those that it leads. Shard-local.
pub struct Follower {
    shard: Rc<PartitionShard>,
    lanes: RefCell<BTreeMap<LaneId, Rc<LaneFollower>>>,
    /// The newest image.
    wanted: Rc<RefCell<Option<Arc<ClusterImage>>>>,
    /// Notified when a lane has followed an image, or does not lead any more.
    moved: Rc<Notify>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Follower({:?})", self.wanted.borrow().as_ref().map(|image| image.revision))
    }
}

impl Follower {
    /// Of a shard that has followed nothing yet.
    #[must_use]
    pub fn new(shard: Rc<PartitionShard>) -> Self {
        Self { shard, lanes: RefCell::default(), wanted: Rc::default(), moved: Rc::default() }
    }

    /// Has every lane follow the image that the shard leads now, and waits until they have: what is answered is done. A
    /// lane that failed for now is waited for. Where the lane needs other brokers, the wait has an end: the lane
    /// follows when it can.
    pub async fn follow(&self, image: &Arc<ClusterImage>) -> Vec<LaneReport> {
        let late: BTreeSet<LaneId> = self.all().iter().filter(|lane| lane.is_late()).map(|lane| lane.lane.id).collect();
        self.wanted.replace(Some(Arc::clone(image)));
        let waits: Vec<_> = self.all().into_iter().filter(|lane| !late.contains(&lane.lane.id)).collect();
        waits.iter().for_each(|lane| lane.wake.notify());
        let followed = async {
            loop {
                let moved = self.moved.notified();
                if !waits.iter().any(|lane| lane.is_late()) {
                    return;
                }
                moved.await;
            }
        };
        if waits.iter().any(|lane| lane.lane.has_several_voters()) {
            let pause = self.shard.env().tasks.sleep(SHOWN_AFTER);
            select(pin!(followed), pin!(pause)).await;
        } else {
            followed.await;
        }
        self.reports(image.here)
    }

    /// One for each lane that the shard has by now.
    fn all(&self) -> Vec<Rc<LaneFollower>> {
        let mut lanes = self.lanes.borrow_mut();
        for lane in self.shard.lanes() {
            lanes.entry(lane.id).or_insert_with(|| {
                let (wanted, moved) = (Rc::clone(&self.wanted), Rc::clone(&self.moved));
                let follower = Rc::new(LaneFollower::new(self.shard.env().clone(), lane, wanted, moved));
                drop(self.shard.env().tasks.spawn("lane follower", Rc::clone(&follower).run()));
                follower
            });
        }
        lanes.values().cloned().collect()
    }

    fn reports(&self, here: NodeId) -> Vec<LaneReport> {
        self.all().iter().filter_map(|lane| lane.report(here)).collect()
    }

    /// Reports the lanes of this shard when leadership of one has changed or a lane has followed an image later than it
    /// was shown; in a cluster of several brokers also now and then, since replicas fall behind and catch up.
    async fn report(&self, here: ShardId, controller: &ControllerHandle) {
        let leadership = Rc::new(tidewater_storage::env::Notify::default());
        self.shard.on_leadership(Rc::clone(&leadership));
        let mut last = None;
        loop {
            let moved = self.moved.notified();
            let image = controller.image();
            let reports = self.reports(image.here);
            if last.as_ref() != Some(&reports) {
                controller.report(here, reports.clone()).await;
                last = Some(reports);
            }
            let changed = async {
                select(pin!(leadership.notified()), pin!(moved)).await;
            };
            if image.brokers.len() > 1 {
                let pause = self.shard.env().tasks.sleep(REPORT_INTERVAL);
                select(pin!(changed), pin!(pause)).await;
            } else {
                changed.await;
            }
        }
    }
}

/// Makes one lane follow the images. Shard-local.
struct LaneFollower {
    env: Env,
    lane: Rc<DataLane>,
    wanted: Rc<RefCell<Option<Arc<ClusterImage>>>>,
    moved: Rc<Notify>,
    /// Wakes the task: a new image, or leadership of the lane has begun or ended.
    wake: Rc<tidewater_storage::env::Notify>,
    /// The image that the lane agrees with, in the term in which this replica made it agree.
    followed: RefCell<Option<(Term, Arc<ClusterImage>)>>,
    /// The term and revision for which it was given up, until a restart or the next image.
    given_up: Cell<Option<(Term, u64)>>,
}

impl LaneFollower {
    fn new(env: Env, lane: Rc<DataLane>, wanted: Rc<RefCell<Option<Arc<ClusterImage>>>>, moved: Rc<Notify>) -> Self {
        let wake = Rc::default();
        lane.on_leadership(Rc::clone(&wake));
        Self { env, lane, wanted, moved, wake, followed: RefCell::default(), given_up: Cell::default() }
    }

    /// The image to follow now: the replica leads, and the lane does not agree with the newest image yet.
    fn next(&self) -> Option<(Term, Arc<ClusterImage>)> {
        let (term, image) = (self.lane.status.leading()?, self.wanted.borrow().clone()?);
        let agrees = |held: &(Term, Arc<ClusterImage>)| held.0 == term && held.1.revision >= image.revision;
        let done = self.followed.borrow().as_ref().is_some_and(agrees)
            || self.given_up.get() == Some((term, image.revision))
            // Another broker has followed a newer image in this lane: this one comes too, and this lane waits for it.
            || self.lane.revision() > image.revision;
        (!done).then_some((term, image))
    }

    /// Does the lane lag behind the newest image, though it can follow it?
    fn is_late(&self) -> bool {
        self.next().is_some()
    }

    fn report(&self, here: NodeId) -> Option<LaneReport> {
        let known = self.lane.status.raft()?.leadership();
        let lane = self.lane.id;
        let Some(term) = self.lane.status.leading() else {
            let leader = known.leader.filter(|leader| *leader != here);
            return Some(LaneReport { lane, term: known.term, leader, in_sync: Vec::new(), followed: 0 });
        };
        let followed = self.followed.borrow().as_ref().filter(|held| held.0 == term).map_or(0, |held| held.1.revision);
        Some(LaneReport { lane, term, leader: Some(here), in_sync: self.in_sync(here), followed })
    }

    /// Brokers whose replica answers and is caught up, this one among them.
    fn in_sync(&self, here: NodeId) -> Vec<NodeId> {
        let applied = self.lane.status.applied().map_or(0, |id| id.index.0);
        let progress = self.lane.status.raft().map(Lane::progress).unwrap_or_default();
        let is_near = |replica: &ReplicaProgress| {
            let matched = replica.matched.map_or(0, |id| id.index.0);
            let answers = replica.last_answer_ms.is_some_and(|ms| u128::from(ms) <= IN_SYNC_SILENCE.as_millis());
            answers && matched.saturating_add(IN_SYNC_ENTRIES) >= applied
        };
        let near = progress.iter().filter(|replica| is_near(replica)).map(|replica| replica.replica.node);
        near.chain([here]).collect::<BTreeSet<_>>().into_iter().collect()
    }

    async fn run(self: Rc<Self>) {
        let (mut pause, mut seen) = (RETRY_FIRST, None);
        loop {
            let Some((term, image)) = self.next() else {
                let followed = self.followed.borrow().as_ref().map(|held| (held.0, held.1.revision));
                let now = (self.lane.status.leading(), followed, self.given_up.get(), self.lane.revision());
                if seen.replace(now) != Some(now) {
                    self.moved.notify_waiters();
                }
                pause = RETRY_FIRST;
                self.wake.notified().await;
                continue;
            };
            match self.bring(term, &image).await {
                Ok(true) => {
                    self.followed.replace(Some((term, image)));
                    pause = RETRY_FIRST;
                }
                // A newer image has been followed by another broker meanwhile.
                Ok(false) => {}
                Err(error @ (ProposeError::Shutdown | ProposeError::Fatal | ProposeError::TooLarge { .. })) => {
                    tracing::warn!(lane = %self.lane.id, %error, "a lane could not follow the controller; it will after a restart");
                    self.given_up.set(Some((term, image.revision)));
                }
                Err(error) => {
                    if self.lane.status.leading() == Some(term) {
                        tracing::warn!(lane = %self.lane.id, %error, ?pause, "a lane could not follow the controller; tried again after the pause");
                    }
                    self.env.tasks.sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Makes the lane agree with the image; false if the lane has followed a newer one. What a failed try has done all
    /// the same is held by now, and no longer planned.
    async fn bring(&self, term: Term, image: &Arc<ClusterImage>) -> Result<bool, ProposeError> {
        let before = self.followed.borrow().as_ref().filter(|held| held.0 == term).map(|held| Arc::clone(&held.1));
        let lane = &*self.lane;
        let commands = match before {
            Some(before) => {
                plan(&changes(&before, image), lane.id, image.revision, |id| Some(lane.replica(id)?.overrides()))
            }
            None => plan_anew(image, lane),
        };
        propose(lane, commands).await
    }
}

/// As if nothing were known of what the lane holds. A partition that the image lacks is gone: one that is newer than
/// the image has raised the lane's revision above the image's, and then nothing is planned.
fn plan_anew(image: &ClusterImage, lane: &DataLane) -> Vec<LaneCommand> {
    let revision = image.revision;
    let every: Vec<Change<'_>> = image.topics.values().map(|topic| (None, Some(topic))).collect();
    let mut commands = plan(&every, lane.id, revision, |id| Some(lane.replica(id)?.overrides()));
    let wanted: BTreeSet<PartitionId> =
        image.topics.values().flat_map(|topic| &topic.partitions).filter(|p| p.lane == lane.id).map(|p| p.id).collect();
    let held = lane.replicas().into_iter().map(|replica| replica.id);
    commands.extend(held.filter(|id| !wanted.contains(id)).map(|partition| LaneCommand::Drop { partition, revision }));
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

/// Proposes commands, many to an entry. What one entry meets keeps no other back. False if one was out of date.
///
/// # Errors
/// Of the first that was not committed.
async fn propose(lane: &DataLane, commands: Vec<LaneCommand>) -> Result<bool, ProposeError> {
    let proposed = stream::iter(entries(commands)).map(|command| lane.propose(LaneOp::Command(command)));
    let current =
        |one: Result<(EntryId, Outcome), ProposeError>| one.map(|(_, at)| !matches!(at, Outcome::Stale { .. }));
    proposed
        .buffered(IN_FLIGHT)
        .fold(Ok(true), |all: Result<bool, _>, one| async move { all.and_then(|all| Ok(current(one)? && all)) })
        .await
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
            let configure = |n| LaneCommand::Configure { partition: id(n), overrides: overrides.clone(), revision: 0 };
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
        let planned: Vec<_> = lanes.iter().map(|lane| create_drop(&plan(&changed, *lane, 7, held))).collect();
        assert_eq!(planned.iter().map(|(creates, _)| creates).sum::<usize>(), 3);
        assert_eq!(create_drop(&plan(&changed, lane, 7, held)).1, 1);
    }

    #[test]
    fn a_lane_that_has_followed_a_newer_image_waits_for_one() {
        let world = World::new(2);
        let env = world.env();
        world.block_on(async {
            let shard = Fixture::open(&env).await;
            let fresh = shard.address(1).id;
            let create = LaneCommand::Create {
                partition: fresh,
                topic: tidewater_storage::model::TopicName::new("orders").expect("legal"),
                overrides: BTreeMap::new(),
                epoch_base: 0,
                copied: None,
                revision: 9,
            };
            shard.lane.propose(LaneOp::Command(create)).await.expect("as its former leader");
            let follower = Follower::new(Rc::clone(&shard.partitions));
            let at = |revision| Arc::new(ClusterImage { revision, ..image(&[("late", 3)]) });
            let reports = follower.follow(&at(5)).await;
            assert_eq!(reports.iter().map(|report| report.followed).collect::<Vec<_>>(), [0]);
            assert!(shard.lane.replica(fresh).is_some(), "the older image does not have it");
            let reports = follower.follow(&at(10)).await;
            assert_eq!(reports.iter().map(|report| report.followed).collect::<Vec<_>>(), [10]);
            assert!(shard.lane.replica(fresh).is_none());
            assert_eq!((shard.lane.revision(), shard.lane.replicas().len()), (10, 3));
        });
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
            let follower = Follower::new(Rc::clone(&shard.partitions));
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
