//! Follows one lane of a source: asks its bucket for what [`FollowedLane::next`] names, at the right moments.
//!
//! Owns: pauses, retries, reading ahead, the change from one home to the next, waking readers. Does not own: what an
//! answer means (`tidewater_tiering::follow`). Shard-local. One task runs [`LaneFollower::run`]; all others look at
//! what it has followed so far.
//!
//! A lane that ended in its home is served to its end until the lane of the next home is known; then it is replaced at
//! once, and every partition counts as changed.

mod steps;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{Either, select};
use tidewater_storage::env::{Env, Mono, Notify};
use tidewater_storage::model::{LaneId, PartitionId};
use tidewater_tiering::fetch::Indexes;
use tidewater_tiering::follow::{Changes, FollowedLane, FollowedPartition, FollowedRoot, Next, Purpose};
use tidewater_tiering::keys::{ClusterName, Home};
use tidewater_tiering::store::ObjectStore;

use crate::config::ReplicaConfig;
use crate::partition::PartitionReader;
use crate::source::millis;
use crate::status::{LaneStatus, Requests, WaitsFor};

/// A reader that met a missing object waits this long for one more look at the lane.
const REFRESH_MAX: Duration = Duration::from_secs(10);
/// A read that failed may have begun before a base that is younger than this: longer than any read's deadline.
const REBASED_LATELY: Duration = Duration::from_secs(60);

/// What a [`LaneFollower`] is made of.
pub struct LaneParts {
    pub env: Env,
    pub store: Arc<dyn ObjectStore>,
    /// The index cache of the shard's reader over the same store.
    pub indexes: Indexes,
    /// Under which name the source lies in the bucket.
    pub name: ClusterName,
    /// The home that [`crate::Source`] says is served.
    pub home: Home,
    pub lane: LaneId,
    pub config: ReplicaConfig,
    /// Called with the partitions that may have changed, after they have.
    pub changed: Rc<dyn Fn(&Changes)>,
}

/// See the header. Cheap to clone.
#[derive(Clone)]
pub struct LaneFollower {
    inner: Rc<LaneInner>,
}

struct LaneInner {
    parts: LaneParts,
    /// What is served.
    lane: RefCell<FollowedLane>,
    /// The lane in a later home, until it is known.
    successor: RefCell<Option<FollowedLane>>,
    root: RefCell<FollowedRoot>,
    requests: Cell<Requests>,
    error: RefCell<Option<String>>,
    failures: Cell<u32>,
    /// When the bucket last had no newer bundle.
    caught_up: Cell<Option<Mono>>,
    /// Had the bucket nothing newer at least once, in the home that is served?
    has_caught_up: Cell<bool>,
    /// When the lane manifest was last looked at.
    looked: Cell<Option<Mono>>,
    /// When the lane manifest last brought a new base.
    rebased: Cell<Option<Mono>>,
    /// Looks for the next bundle in a row that found none.
    idle: Cell<u32>,
    /// Bundles to ask for side by side.
    width: Cell<usize>,
    /// The last bundle did not count; the lane manifest may be ahead of it.
    in_doubt: Cell<bool>,
    refreshes: RefCell<Vec<oneshot::Sender<()>>>,
    wake: Notify,
}

/// When the next request is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    Now,
    For(Duration),
}

impl fmt::Debug for LaneFollower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneFollower({})", self.inner.parts.lane)
    }
}

impl LaneFollower {
    #[must_use]
    pub fn new(parts: LaneParts) -> Self {
        let lane = RefCell::new(FollowedLane::new(parts.home, parts.lane, Purpose::Read));
        let root = RefCell::new(FollowedRoot::at(parts.name.clone(), parts.home));
        Self {
            inner: Rc::new(LaneInner {
                parts,
                lane,
                successor: RefCell::default(),
                root,
                requests: Cell::default(),
                error: RefCell::default(),
                failures: Cell::default(),
                caught_up: Cell::default(),
                has_caught_up: Cell::default(),
                looked: Cell::default(),
                rebased: Cell::default(),
                idle: Cell::default(),
                width: Cell::new(1),
                in_doubt: Cell::default(),
                refreshes: RefCell::default(),
                wake: Notify::default(),
            }),
        }
    }

    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.inner.parts.lane
    }

    /// A partition of the lane, whether it is known yet or not.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> PartitionReader {
        PartitionReader::new(self.clone(), id)
    }

    /// Shows a partition as of the last bundle; `None` if the lane does not know it (yet, or any more).
    pub fn with_partition<R>(&self, id: PartitionId, look: impl FnOnce(&FollowedPartition) -> R) -> Option<R> {
        self.inner.lane.borrow().partitions().get(&id).map(look)
    }

    /// Shows the lane as of the last bundle.
    pub fn with_lane<R>(&self, look: impl FnOnce(&FollowedLane) -> R) -> R {
        look(&self.inner.lane.borrow())
    }

    #[must_use]
    pub fn status(&self) -> LaneStatus {
        let (lane, clock) = (self.inner.lane.borrow(), &self.inner.parts.env.clock);
        let age = || {
            let written = lane.last_written();
            (lane.is_known()).then(|| clock.wall().since_ms(written).max(0).unsigned_abs())
        };
        let waits_for = match lane.next() {
            Next::Root(seal) => WaitsFor::Switch(seal.next_epoch),
            _ if lane.is_known() || self.inner.caught_up.get().is_some() => WaitsFor::Bundle(lane.last().next()),
            _ => WaitsFor::Manifest,
        };
        LaneStatus {
            home: lane.home(),
            lane: lane.lane(),
            sequence: lane.last(),
            written: lane.last_written(),
            lag_ms: self.inner.caught_up.get().map(|at| millis(clock.now().since(at))).or_else(age),
            has_caught_up: self.inner.has_caught_up.get(),
            partitions: lane.partitions().len(),
            tail_entries: lane.tail_entries(),
            requests: self.inner.requests.get(),
            waits_for,
            error: self.inner.error.borrow().clone(),
        }
    }

    /// Follows; does not return.
    pub async fn run(&self) {
        loop {
            match self.step().await {
                Pause::Now => self.inner.parts.env.tasks.yield_now().await,
                Pause::For(time) => {
                    let sleep = self.inner.parts.env.tasks.sleep(time);
                    select(sleep, std::pin::pin!(self.inner.wake.notified())).await;
                }
            }
        }
    }

    /// Looks at the lane manifest again, because an object that a row names is gone. `true`: rows are known that are
    /// newer than those of a read that began a moment ago; the same read is worth repeating.
    pub async fn refresh(&self) -> bool {
        let (done, wait) = oneshot::channel();
        self.inner.refreshes.borrow_mut().push(done);
        self.inner.wake.notify();
        let deadline = self.inner.parts.env.tasks.sleep(REFRESH_MAX);
        let looked = matches!(select(wait, deadline).await, Either::Left((Ok(()), _)));
        let now = self.inner.parts.env.clock.now();
        looked && self.inner.rebased.get().is_some_and(|at| now.since(at) < REBASED_LATELY)
    }
}

/// The `failures`th pause of a row of them: each is twice the one before.
pub(crate) fn backoff((first, longest): (Duration, Duration), failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
}
