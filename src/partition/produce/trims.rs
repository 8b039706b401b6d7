//! Requested trims of a lane. Queued trims go into one entry, one entry at a time, so that a request about thousands of
//! partitions takes one of the lane's proposals in flight and not one per partition.
//!
//! Owns: the queued trims. Does not own: the effect of a trim (`apply`), the checks of a request (`shard`).
//! Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use futures::channel::oneshot;
use tidewater_storage::env::Tasks;
use tidewater_storage::model::{Offset, PartitionId};

use crate::limits::{LANE_COMMANDS_MAX, LANE_TRIMS_MAX};
use crate::partition::state::command::{LaneCommand, LaneOp};
use crate::partition::state::lane::DataLane;

/// The trims of one lane.
pub(in crate::partition) struct Trims {
    lane: Rc<DataLane>,
    waiting: RefCell<VecDeque<Waiting>>,
    writing: Cell<bool>,
}

struct Waiting {
    partition: PartitionId,
    to: Offset,
    /// Receives whether it is applied.
    done: oneshot::Sender<bool>,
}

impl fmt::Debug for Trims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trims(lane {}, {} waiting)", self.lane.id, self.waiting.borrow().len())
    }
}

impl Trims {
    pub(in crate::partition) fn new(lane: Rc<DataLane>) -> Self {
        Self { lane, waiting: RefCell::default(), writing: Cell::new(false) }
    }

    /// Moves a log start; true once that is applied, false when it was not committed or too many wait.
    pub(in crate::partition) async fn trim(self: &Rc<Self>, tasks: &Tasks, partition: PartitionId, to: Offset) -> bool {
        let (done, applied) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.len() >= LANE_TRIMS_MAX {
                return false;
            }
            waiting.push_back(Waiting { partition, to, done });
        }
        if !self.writing.replace(true) {
            drop(tasks.spawn("trims", Rc::clone(self).write()));
        }
        applied.await.unwrap_or(false)
    }

    /// Proposes until the queue is empty.
    async fn write(self: Rc<Self>) {
        loop {
            let together = self.take();
            if together.is_empty() {
                break;
            }
            let trim = |waiting: &Waiting| LaneCommand::Trim { partition: waiting.partition, to: waiting.to };
            let command = LaneCommand::together(together.iter().map(trim).collect());
            let applied = self.lane.propose(LaneOp::Command(command)).await.is_ok();
            // The caller may be gone.
            for waiting in together {
                let _ = waiting.done.send(applied);
            }
        }
        self.writing.set(false);
    }

    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().min(LANE_COMMANDS_MAX);
        waiting.drain(..count).collect()
    }
}
