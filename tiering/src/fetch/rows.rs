//! Walks the rows of a view in offset order and reads the spill pages among them.
//!
//! Owns: the position of the walk. Does not own: what is done with rows. Shard-local.

use std::collections::VecDeque;

use tidewater_storage::model::{Offset, PartitionId};

use super::error::RemoteError;
use super::indexes::Indexes;
use super::locate::{ReadView, Step, unfold};
use crate::manifest::{Row, SpillRow};

/// Most levels of spill pages below a manifest; a deeper chain is damage.
const LEVELS_MAX: usize = 8;

/// A walk over one partition's rows.
pub(super) struct RowWalk {
    indexes: Indexes,
    partition: PartitionId,
    archived_end: Offset,
    steps: VecDeque<Step>,
}

impl RowWalk {
    pub(super) fn new(indexes: Indexes, view: ReadView) -> Self {
        let ReadView { partition, archived_end, steps, .. } = view;
        Self { indexes, partition, archived_end, steps: steps.into() }
    }

    pub(super) fn partition(&self) -> PartitionId {
        self.partition
    }

    pub(super) fn archived_end(&self) -> Offset {
        self.archived_end
    }

    /// The row that holds `offset`, or the first after it; `None` at the end of the view. Rows before it are dropped,
    /// the one returned stays.
    pub(super) async fn next_at(&mut self, offset: Offset) -> Result<Option<Row>, RemoteError> {
        for _ in 0..LEVELS_MAX {
            while self.steps.front().is_some_and(|step| step.offsets().end <= offset) {
                self.steps.pop_front();
            }
            match self.steps.front().copied() {
                None => return Ok(None),
                Some(Step::Row(row)) => return Ok(Some(row)),
                Some(Step::Page(page)) => self.open_page(&page, offset).await?,
            }
        }
        Err(RemoteError::Gap { partition: self.partition, offset })
    }

    async fn open_page(&mut self, page: &SpillRow, offset: Offset) -> Result<(), RemoteError> {
        let read = self.indexes.page(self.partition, page).await;
        let content = read.map_err(|error| error.for_reader(self.partition, page.page))?;
        self.steps.pop_front();
        for step in unfold(&content, offset).into_iter().rev() {
            self.steps.push_front(step);
        }
        Ok(())
    }
}
