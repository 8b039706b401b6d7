//! The world of a run: the broker that clients ask now and those before it, and what clients, replica and groups have
//! been shown, over all lineage epochs.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tidewater_storage::env::Env;
use tidewater_storage::model::{Offset, PartitionId};
use tidewater_tiering::keys::{Home, LineageEpoch};
use tidewater_tiering::store::Faults;

use super::archived::Archived;
use super::copies::Copies;
use super::cuts;
use super::defect::Defect;
use super::kept::Kept;
use super::plan::EpochsPlan;
use crate::history::History;
use crate::world::World;

pub(crate) struct Epochs {
    pub(crate) plan: EpochsPlan,
    pub(crate) env: Env,
    pub(crate) history: History,
    pub(crate) archived: Archived,
    pub(crate) kept: Kept,
    pub(crate) copies: Copies,
    /// Epochs that went back to a cut, or are being made so.
    pub(crate) back: RefCell<BTreeSet<LineageEpoch>>,
    /// A put may arrive later than a part of the grace that cuts count on.
    pub(crate) puts_may_be_late: Cell<bool>,
    now: RefCell<Rc<World>>,
    /// Worlds of epochs that are over.
    pub(crate) before: RefCell<Vec<Rc<World>>>,
    /// Clients ask nothing.
    pub(crate) closed: Cell<bool>,
    /// Nothing is expected of the broker that clients ask: a restore is under way.
    pub(crate) restoring: Cell<bool>,
    pub(crate) stopped: Cell<bool>,
    /// Clients that have not ended, and those that wait for an answer.
    pub(crate) running: Cell<u64>,
    busy: Cell<u64>,
    writers: Cell<u32>,
    /// Producers of which a restore has lost an acknowledged batch.
    pub(crate) cut_off: RefCell<BTreeSet<u32>>,
    pub(crate) committed: RefCell<BTreeMap<i32, Committed>>,
    /// What the replica has shown of a partition last: in which home, log start, end.
    pub(crate) shown: RefCell<BTreeMap<PartitionId, (Home, Offset, Offset)>>,
    /// Reads of the replica that brought something.
    pub(crate) replica_reads: Cell<u64>,
}

/// What the group committed for a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committed {
    pub(crate) acknowledged: u64,
    /// The last, which may be unanswered.
    pub(crate) last: u64,
    pub(crate) tried: BTreeSet<u64>,
}

/// A client waits for an answer.
pub(crate) struct Busy(Rc<Epochs>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

impl Epochs {
    pub(crate) fn new(plan: EpochsPlan) -> Rc<Self> {
        let first = World::new(plan.lives.first().expect("one life").clone());
        first.has_catalogue.set(true);
        first.has_copies.set(plan.has("copies"));
        let is_blind = plan.defect == Some(Defect::HorizonIgnoresCuts);
        first.is_blind_to_cuts.set(is_blind);
        // A broker that does not see the cuts would write the index without them.
        let by_itself = plan.has("cuts") && !is_blind && plan.defect != Some(Defect::NotedTooLate);
        first.cut_interval.set(by_itself.then_some(cuts::INTERVAL));
        Rc::new(Self {
            plan,
            env: first.clients.clone(),
            history: first.history.clone(),
            archived: Archived::default(),
            kept: Kept::default(),
            copies: Copies::default(),
            back: RefCell::default(),
            puts_may_be_late: Cell::new(false),
            now: RefCell::new(Rc::new(first)),
            before: RefCell::default(),
            closed: Cell::new(false),
            restoring: Cell::new(false),
            stopped: Cell::new(false),
            running: Cell::new(0),
            busy: Cell::new(0),
            writers: Cell::new(0),
            cut_off: RefCell::default(),
            committed: RefCell::default(),
            shown: RefCell::default(),
            replica_reads: Cell::new(0),
        })
    }

    /// Whose broker clients ask.
    pub(crate) fn now(&self) -> Rc<World> {
        Rc::clone(&self.now.borrow())
    }

    /// From now on clients ask the broker of `next`.
    pub(crate) fn go_on_in(&self, next: Rc<World>) {
        let before = self.now.replace(next);
        self.before.borrow_mut().push(before);
    }

    /// Is an epoch over because a later one went back to a cut? What it still shows is undone.
    pub(crate) fn is_undone(&self, epoch: LineageEpoch) -> bool {
        self.back.borrow().last().is_some_and(|back| *back > epoch)
    }

    /// Looks at the bucket.
    pub(crate) fn look_at_bucket(&self) {
        let objects = self.now().bucket.objects();
        self.archived.look(&objects);
        self.kept.look(self, &objects);
    }

    /// A number for a producer.
    pub(crate) fn writer(&self) -> u32 {
        self.writers.set(self.writers.get() + 1);
        self.writers.get()
    }

    /// Waits until clients may ask; they count as busy until the answer is dropped.
    pub(crate) async fn enter(self: &Rc<Self>) -> Busy {
        while self.closed.get() {
            self.sleep_ms(20).await;
        }
        self.busy.set(self.busy.get() + 1);
        Busy(Rc::clone(self))
    }

    /// Lets clients ask nothing more, and waits until all have their answers.
    pub(crate) async fn close(&self) {
        self.closed.set(true);
        while self.busy.get() > 0 {
            self.sleep_ms(20).await;
        }
    }

    pub(crate) fn below(&self, n: u64) -> u64 {
        self.env.rng.below(n)
    }

    pub(crate) async fn sleep_ms(&self, ms: u64) {
        self.env.tasks.sleep(Duration::from_millis(ms)).await;
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now().now_ms()
    }

    pub(crate) fn note(&self, what: String) {
        self.history.note(format!("{} {what}", self.now().machines.now().nanos()));
    }

    /// Does the bucket answer every request of those that have no faults of their own?
    pub(crate) fn fair_weather(&self) -> bool {
        is_mild(&self.now().bucket.faults())
    }

    /// The run is over: nothing of it stays in memory.
    pub(crate) fn dissolve(&self) {
        self.before.borrow_mut().drain(..).for_each(|world| world.end(false));
        self.now().dissolve();
    }
}

/// A bucket that is slow at worst.
pub(crate) fn mild() -> Faults {
    Faults { latency_max: Duration::from_millis(5), ..Faults::default() }
}

fn is_mild(faults: &Faults) -> bool {
    !faults.down && faults.throttled + faults.lost_answers + faults.late_writes + faults.torn + faults.corrupt == 0
}
