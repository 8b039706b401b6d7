//! The group coordinator of one shard: its partitions of `__consumer_offsets`, their loading, their deadlines.
//!
//! *Shard-local*, cheap to clone. Its tasks: the inbox, the deadlines (asleep until the nearest one; without groups,
//! for good), one that follows leadership, and per partition a writer that lives while there is something to write.
//!
//! A partition's groups are held for one term of its lane. When leadership ends, they are dropped, and requests that
//! wait are refused, so that their clients look for the next coordinator; when it begins, they are read from the log,
//! which holds all that any coordinator before has answered. A term that was passed over, because the lane was led
//! twice between two looks, counts as ended.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_storage::env::{Env, Mono};
use tidewater_storage::model::{LaneId, PartitionId, Term};
use tokio::sync::Semaphore;

use super::OFFSETS_TOPIC;
use super::append::{self, Work};
use super::deadlines::Deadlines;
use super::error::GroupError;
use super::group_shard::{Clocks, GroupShard};
use super::hosting::Hosting;
use super::ids::GroupId;
use super::load;
use super::message::{Ask, GroupRequest};
use super::state::GroupTimes;
use crate::controller::client::ControllerHandle;
use crate::controller::image::ClusterImage;
use crate::limits::GROUP_MEMBERS_MAX;
use crate::partition::message::PartitionAddress;
use crate::partition::router::Router;
use crate::shard::mesh::Inbox;

/// Settings of the coordinator. Node-wide.
#[derive(Clone, Copy, Debug)]
pub struct GroupSettings {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: u64,
    /// `group.min.session.timeout.ms`.
    pub session_min_ms: u64,
    /// `group.max.session.timeout.ms`.
    pub session_max_ms: u64,
    /// `group.max.size`.
    pub members_max: usize,
    /// `offsets.retention.minutes`, in ms: how long an offset outlives its group's last member.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub sweep_interval: Duration,
    /// `offset.metadata.max.bytes`.
    pub metadata_max: usize,
    /// A partition's log is cut by a snapshot once it has grown by this many bytes (and three times the state).
    pub snapshot_bytes: u64,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3000,
            session_min_ms: 6000,
            session_max_ms: 30 * 60 * 1000,
            members_max: GROUP_MEMBERS_MAX,
            offsets_retention_ms: 7 * 24 * 3600 * 1000,
            sweep_interval: Duration::from_secs(600),
            metadata_max: 4096,
            snapshot_bytes: 4 << 20,
        }
    }
}

impl GroupSettings {
    /// What the state machine needs of them.
    pub(super) fn times(&self) -> GroupTimes {
        GroupTimes {
            initial_delay: Duration::from_millis(self.initial_rebalance_delay_ms),
            session_min: Duration::from_millis(self.session_min_ms),
            session_max: Duration::from_millis(self.session_max_ms),
            members_max: self.members_max,
        }
    }
}

/// While a partition loads, requests wait this long (a small log is read by then); after that they are refused, and
/// clients retry.
const LOAD_PATIENCE: Duration = Duration::from_millis(500);
/// Requests that wait for one partition to load.
const LOAD_WAITING_MAX: usize = 1024;
/// After a failed load.
const LOAD_RETRY: Duration = Duration::from_secs(1);
/// One shard sees a new topic a moment before another shard has its partitions: until then a load tries again soon,
/// this often without a log line.
const NOT_YET_RETRY: Duration = Duration::from_millis(10);
const NOT_YET_TRIES: u32 = 300;
/// Partitions that are read at once.
const LOADS_AT_ONCE: usize = 4;
/// A coordinator that has just begun to lead waits this long for an image of the cluster that is as new as the
/// controller's. With an older one, offsets of topics that it does not know yet would look like those of deleted
/// topics.
const FRESH_PATIENCE: Duration = Duration::from_secs(3);
const FRESH_RETRY: Duration = Duration::from_millis(100);
/// Between two passes over the deadlines.
const PASS_INTERVAL: Duration = Duration::from_millis(1);

/// The coordinator of a shard.
#[derive(Clone)]
pub struct Coordinator {
    inner: Rc<Inner>,
}

struct Inner {
    env: Env,
    router: Router,
    controller: ControllerHandle,
    hosting: Rc<dyn Hosting>,
    settings: GroupSettings,
    loads: Semaphore,
    /// Terms in which this broker leads lanes of `__consumer_offsets`, as of the last look.
    terms: RefCell<BTreeMap<LaneId, Term>>,
    group_shards: RefCell<BTreeMap<PartitionId, Rc<Hosted>>>,
    deadlines: RefCell<Deadlines>,
    sweep_at: Cell<Option<Mono>>,
    image_seen: RefCell<Arc<ClusterImage>>,
    wake: flume::Sender<()>,
}

/// A partition of `__consumer_offsets`, loading or loaded.
struct Hosted {
    address: PartitionAddress,
    /// The term of the partition's lane that its groups are of.
    term: Term,
    stage: RefCell<Stage>,
    writing: Cell<bool>,
}

enum Stage {
    Loading {
        waiting: VecDeque<Ask>,
        patient: bool,
    },
    Ready(Box<GroupShard>),
    /// Its term has ended.
    Gone,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Coordinator({} partitions)", self.inner.group_shards.borrow().len())
    }
}

impl Coordinator {
    /// A coordinator on this shard; its deadlines run from now on.
    #[must_use]
    pub fn new(
        env: Env,
        router: Router,
        controller: ControllerHandle,
        hosting: Rc<dyn Hosting>,
        settings: GroupSettings,
    ) -> Self {
        let (wake, woken) = flume::bounded(1);
        let inner = Rc::new(Inner {
            image_seen: RefCell::new(controller.view()),
            env: env.clone(),
            router,
            controller,
            hosting,
            settings,
            loads: Semaphore::new(LOADS_AT_ONCE),
            terms: RefCell::default(),
            group_shards: RefCell::default(),
            deadlines: RefCell::default(),
            sweep_at: Cell::new(None),
            wake,
        });
        drop(env.tasks.spawn("group-deadlines", Rc::clone(&inner).keep_time(woken)));
        Self { inner }
    }

    /// Serves requests of other shards until the mesh closes. What this broker leads now is read on first use; what it
    /// comes to lead from now on, at once.
    pub fn serve(&self, inbox: Inbox<GroupRequest>) {
        let inner = &self.inner;
        inner.terms.replace(inner.led().into_iter().map(|(address, term)| (address.lane, term)).collect());
        drop(inner.env.tasks.spawn("group-leadership", Rc::clone(inner).follow_leadership()));
        let coordinator = self.clone();
        drop(self.inner.env.tasks.spawn("group-inbox", async move {
            while let Some(request) = inbox.recv().await {
                coordinator.ask(request);
            }
        }));
    }

    /// Takes a request; the answer goes through the reply it carries, now or later.
    pub fn ask(&self, request: GroupRequest) {
        let inner = &self.inner;
        inner.follow_image();
        let Some(term) = inner.hosting.serving(request.partition) else {
            return request.ask.refuse(GroupError::NotCoordinator);
        };
        let cell = inner.cell(request.partition, term);
        let group = request.ask.group().cloned();
        let beats = if let Ask::Heartbeat(_, beat, _) = &request.ask { Some(beat.member.clone()) } else { None };
        match &mut *cell.stage.borrow_mut() {
            Stage::Loading { waiting, patient: true } if waiting.len() < LOAD_WAITING_MAX => {
                return waiting.push_back(request.ask);
            }
            Stage::Loading { .. } => return request.ask.refuse(GroupError::Loading),
            Stage::Gone => return request.ask.refuse(GroupError::NotCoordinator),
            Stage::Ready(group_shard) => {
                group_shard.ask(inner.moment(), request.ask, &inner.controller.view());
                // A heartbeat writes nothing and moves one deadline: no need to go through the members.
                if let (Some(group), Some(member)) = (&group, &beats)
                    && group_shard.is_looked_at_in_time(group, member)
                {
                    return;
                }
            }
        }
        inner.settle(&cell, group.as_ref());
    }
}

impl Inner {
    fn moment(&self) -> Clocks {
        Clocks { now: self.env.clock.now(), wall: self.env.clock.wall() }
    }

    /// The partition's cell of that term; on first use it begins to load.
    fn cell(self: &Rc<Self>, address: PartitionAddress, term: Term) -> Rc<Hosted> {
        let held = self.group_shards.borrow().get(&address.id).cloned();
        match held {
            Some(cell) if cell.term == term => return cell,
            Some(cell) => self.unload(&cell),
            None => {}
        }
        let stage = RefCell::new(Stage::Loading { waiting: VecDeque::new(), patient: true });
        let cell = Rc::new(Hosted { address, term, stage, writing: Cell::new(false) });
        self.group_shards.borrow_mut().insert(address.id, Rc::clone(&cell));
        drop(self.env.tasks.spawn("group-load", Rc::clone(self).load(Rc::clone(&cell))));
        cell
    }

    /// The partitions of `__consumer_offsets` on this shard whose lanes this broker leads.
    fn led(&self) -> Vec<(PartitionAddress, Term)> {
        let image = self.controller.image();
        let Some(topic) = image.topic(OFFSETS_TOPIC) else { return Vec::new() };
        let here = topic.partitions.iter().filter(|partition| partition.shard == self.router.shard());
        here.filter_map(|p| Some((p.address(), self.hosting.leading(p.address())?))).collect()
    }

    /// Drops groups whose term has ended, and reads those that have come to this broker, so that their members'
    /// deadlines run and their first requests need not wait.
    async fn follow_leadership(self: Rc<Self>) {
        loop {
            self.hosting.changed().await;
            let cells = self.group_shards.borrow().values().cloned().collect::<Vec<_>>();
            cells.iter().filter(|cell| !self.is_of_now(cell)).for_each(|cell| self.unload(cell));
            let led = self.led();
            let now = led.iter().map(|(address, term)| (address.lane, *term)).collect();
            let before = self.terms.replace(now);
            for (address, term) in led.into_iter().filter(|(address, term)| before.get(&address.lane) != Some(term)) {
                drop(self.cell(address, term));
            }
        }
    }

    fn is_of_now(&self, cell: &Hosted) -> bool {
        self.hosting.leading(cell.address) == Some(cell.term)
    }

    /// Drops a partition's groups: this broker leads them no longer, or leads them again after another did.
    fn unload(&self, cell: &Rc<Hosted>) {
        let mut held = self.group_shards.borrow_mut();
        if held.get(&cell.address.id).is_some_and(|held| Rc::ptr_eq(held, cell)) {
            held.remove(&cell.address.id);
            self.deadlines.borrow_mut().forget(cell.address.id);
        }
        drop(held);
        match cell.stage.replace(Stage::Gone) {
            Stage::Loading { waiting, .. } => {
                waiting.into_iter().for_each(|ask| ask.refuse(GroupError::NotCoordinator));
            }
            Stage::Ready(group_shard) => {
                tracing::info!(partition = %cell.address.id, term = %cell.term, groups = group_shard.groups.len(), "leadership of groups has ended here; their members find the next coordinator");
                group_shard.abandon(&GroupError::NotCoordinator);
            }
            Stage::Gone => {}
        }
    }

    async fn load(self: Rc<Self>, cell: Rc<Hosted>) {
        let patience = self.env.tasks.sleep(LOAD_PATIENCE);
        let loading = Box::pin(self.read(&cell));
        let loaded = match select(loading, patience).await {
            Either::Left((loaded, _)) => loaded,
            Either::Right(((), loading)) => {
                let waiting = match &mut *cell.stage.borrow_mut() {
                    Stage::Loading { waiting, patient } => {
                        *patient = false;
                        std::mem::take(waiting)
                    }
                    Stage::Ready(_) | Stage::Gone => VecDeque::new(),
                };
                waiting.into_iter().for_each(|ask| ask.refuse(GroupError::Loading));
                loading.await
            }
        };
        match loaded {
            Some((loaded, is_fresh)) if self.is_of_now(&cell) => self.open(&cell, loaded, is_fresh),
            _ => self.unload(&cell),
        }
    }

    /// The partition's groups, and whether the image is as new as the controller's; `None` when the term has ended.
    async fn read(&self, cell: &Hosted) -> Option<(load::Loading, bool)> {
        // Before the controller's first image no topic is known, and offsets of unknown topics are written off.
        while self.controller.image().revision == 0 {
            self.env.tasks.sleep(NOT_YET_RETRY).await;
        }
        let _one = self.loads.acquire().await.expect("the semaphore is never closed");
        let (address, mut early) = (cell.address, 0);
        loop {
            if !self.is_of_now(cell) {
                return None;
            }
            let restored = load::RestoredEnds::of(&self.controller.image(), address.id);
            match load::load(&self.router, address, restored).await {
                Ok(loaded) => {
                    let patience = self.env.tasks.sleep(FRESH_PATIENCE);
                    let is_fresh = matches!(select(Box::pin(self.fresh_image()), patience).await, Either::Left(_));
                    return Some((loaded, is_fresh));
                }
                Err(error) if error.is_early() && early < NOT_YET_TRIES => {
                    early += 1;
                    self.env.tasks.sleep(NOT_YET_RETRY).await;
                }
                Err(error) => {
                    tracing::warn!(partition = %address.id, %error, "the groups of a partition cannot be loaded, their clients wait; tried again every second");
                    self.env.tasks.sleep(LOAD_RETRY).await;
                }
            }
        }
    }

    /// Resolves once this shard's image is at least as new as the controller's was at the call.
    async fn fresh_image(&self) {
        // A broker alone makes its image itself.
        if self.controller.image().brokers.len() <= 1 {
            return;
        }
        loop {
            if let Ok(quorum) = self.controller.quorum().await {
                self.controller.image_after(quorum.revision.saturating_sub(1)).await;
                return;
            }
            self.env.tasks.sleep(FRESH_RETRY).await;
        }
    }

    fn open(self: &Rc<Self>, cell: &Rc<Hosted>, loaded: load::Loading, is_fresh: bool) {
        let at = self.moment();
        let (groups, log) = loaded.finish(&self.settings, at.now, at.wall);
        let ids = groups.keys().cloned().collect::<Vec<_>>();
        let mut group_shard = Box::new(GroupShard::new(groups, self.settings, log));
        if is_fresh {
            group_shard.learn_topics(&self.controller.view());
        } else {
            drop(self.env.tasks.spawn("group-topics", Rc::clone(self).learn_late(Rc::clone(cell))));
        }
        let before = cell.stage.replace(Stage::Ready(group_shard));
        ids.iter().for_each(|id| self.settle(cell, Some(id)));
        if self.sweep_at.get().is_none() {
            self.sweep_at.set(Some(at.now + self.settings.sweep_interval));
            self.wake();
        }
        if let Stage::Loading { waiting, .. } = before {
            let coordinator = Coordinator { inner: Rc::clone(self) };
            waiting.into_iter().for_each(|ask| coordinator.ask(GroupRequest { partition: cell.address, ask }));
        }
        self.settle(cell, None);
    }

    /// The controller did not answer while the groups were read: offsets of deleted topics are written off when it
    /// does.
    async fn learn_late(self: Rc<Self>, cell: Rc<Hosted>) {
        self.fresh_image().await;
        if let Stage::Ready(group_shard) = &mut *cell.stage.borrow_mut() {
            group_shard.learn_topics(&self.controller.view());
        }
        self.settle(&cell, None);
    }

    /// After a change: queues the group's deadline and starts a writer if records are queued.
    fn settle(self: &Rc<Self>, cell: &Rc<Hosted>, group: Option<&GroupId>) {
        let Stage::Ready(group_shard) = &mut *cell.stage.borrow_mut() else { return };
        if let Some((id, slot)) = group.and_then(|id| group_shard.groups.get_mut(id).map(|slot| (id, slot))) {
            let wanted = slot.group.next_deadline();
            if self.deadlines.borrow_mut().set(cell.address.id, id, &mut slot.queued, wanted) {
                self.wake();
            }
        }
        if !group_shard.queue.is_empty() && !cell.writing.replace(true) {
            drop(self.env.tasks.spawn("group-append", Rc::clone(self).write(Rc::clone(cell))));
        }
    }

    /// Writes until nothing is left to write.
    async fn write(self: Rc<Self>, cell: Rc<Hosted>) {
        loop {
            if !self.is_of_now(&cell) {
                self.unload(&cell);
            }
            let (wall, term) = (self.env.clock.wall(), cell.term);
            let (work, end) = match &mut *cell.stage.borrow_mut() {
                Stage::Ready(group_shard) => (group_shard.next_work(wall), group_shard.log.end),
                Stage::Loading { .. } | Stage::Gone => (None, tidewater_storage::model::Offset::ZERO),
            };
            match work {
                None => break,
                Some(Work::Intents(intents, records)) => {
                    let outcome = append::append(&self.router, cell.address, term, end, records, wall).await;
                    self.finish(&cell, intents, &outcome);
                }
                Some(Work::Piece(records)) => {
                    let outcome = append::append(&self.router, cell.address, term, end, records, wall).await;
                    if let Stage::Ready(group_shard) = &mut *cell.stage.borrow_mut() {
                        match &outcome {
                            Ok(appended) => group_shard.note(appended, true),
                            Err(_) => group_shard.abandon_snapshot(),
                        }
                    }
                }
                Some(Work::Trim(to)) => {
                    if let Err(error) = self.router.trim(cell.address, to).await {
                        tracing::warn!(partition = %cell.address.id, %error, "the log of groups could not be trimmed and stays longer; tried again after the next snapshot");
                    }
                }
            }
        }
        cell.writing.set(false);
    }

    fn finish(
        self: &Rc<Self>,
        cell: &Rc<Hosted>,
        intents: Vec<append::Intent>,
        outcome: &Result<append::Appended, GroupError>,
    ) {
        let at = self.moment();
        let groups = intents.iter().map(|intent| intent.group().clone()).collect::<Vec<_>>();
        match &mut *cell.stage.borrow_mut() {
            Stage::Ready(group_shard) => {
                outcome.iter().for_each(|appended| group_shard.note(appended, false));
                intents.into_iter().for_each(|intent| group_shard.finish(at, intent, outcome));
            }
            // Written or not, the next coordinator reads it from the log.
            Stage::Loading { .. } | Stage::Gone => {
                intents.into_iter().for_each(|intent| intent.refuse(GroupError::NotCoordinator));
            }
        }
        groups.iter().for_each(|group| self.settle(cell, Some(group)));
    }

    fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    /// Sleeps until the nearest deadline or sweep, then expires what is due. There is a pause between passes, so that
    /// deadlines in the past cannot keep the shard from its other work.
    async fn keep_time(self: Rc<Self>, woken: flume::Receiver<()>) {
        let mut not_before = Mono::ZERO;
        loop {
            let next = self.deadlines.borrow().next().into_iter().chain(self.sweep_at.get()).min();
            let next = next.map(|at| at.max(not_before));
            match next {
                None => {
                    if woken.recv_async().await.is_err() {
                        return;
                    }
                }
                Some(at) => match select(self.env.tasks.sleep_until(at), woken.recv_async()).await {
                    Either::Left(_) => {
                        self.expire_due();
                        not_before = self.env.clock.now() + PASS_INTERVAL;
                    }
                    Either::Right((Ok(()), _)) => {}
                    Either::Right((Err(_), _)) => return,
                },
            }
        }
    }

    /// Each group once: its next deadline is for the next pass, even if it is due already.
    fn expire_due(self: &Rc<Self>) {
        let at = self.moment();
        let due = std::iter::from_fn(|| self.deadlines.borrow_mut().pop_due(at.now)).collect::<Vec<_>>();
        for (group_shard, group) in due {
            let Some(cell) = self.group_shards.borrow().get(&group_shard).cloned() else { continue };
            if let Stage::Ready(group_shard) = &mut *cell.stage.borrow_mut() {
                group_shard.expire(at, &group);
            }
            self.settle(&cell, Some(&group));
        }
        if self.sweep_at.get().is_some_and(|sweep_at| sweep_at <= at.now) {
            self.sweep_at.set(Some(at.now + self.settings.sweep_interval));
            self.each_group_shard(|group_shard| group_shard.sweep(at.wall));
        }
    }

    /// Topics may have been deleted since the last request.
    fn follow_image(self: &Rc<Self>) {
        let image = self.controller.view();
        if !Arc::ptr_eq(&self.image_seen.replace(Arc::clone(&image)), &image) {
            self.each_group_shard(|group_shard| group_shard.follow_topics(&image));
        }
    }

    fn each_group_shard(self: &Rc<Self>, act: impl Fn(&mut GroupShard)) {
        let cells = self.group_shards.borrow().values().cloned().collect::<Vec<_>>();
        for cell in cells {
            if let Stage::Ready(group_shard) = &mut *cell.stage.borrow_mut() {
                act(group_shard);
            }
            self.settle(&cell, None);
        }
    }
}
