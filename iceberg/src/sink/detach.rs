//! Giving a topic's tables up: Tidewater writes them no longer, and an engine may do with them what it likes.
//!
//! Owns: the order. What an earlier turn left open is ended first, so that no record is in neither table; then the
//! topic's table is given up, so that no dead letter comes any more; then that of dead letters. Cut off at any point,
//! the same again finishes it. Does not own: the topic's setting (root: `lakehouse`), the commit (`commit::detach`).

use iceberg::TableIdent;
use tidewater_storage::model::TimestampMs;

use super::dead_letters::PENDING;
use super::{SinkError, TableSink};
use crate::catalog::Loaded;
use crate::commit::CommitError;

/// The tables that were given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    pub table: TableIdent,
    /// That of dead letters, if the topic has one.
    pub dead_letters: Option<TableIdent>,
}

impl TableSink {
    /// Gives both tables up. A table that is gone, or was given up before, is no error.
    ///
    /// # Errors
    /// The catalog; [`CommitError::Foreign`] if the topic's table has another owner.
    pub async fn detach(&mut self, now: TimestampMs) -> Result<Detached, SinkError> {
        match self.settle(now).await {
            Ok(_) => self.committer.detach(&[PENDING], now).await?,
            Err(SinkError::Commit(CommitError::Foreign(foreign))) if foreign.is_free() => {}
            Err(SinkError::Commit(error)) if error.is_table_gone() => {}
            Err(error) => return Err(error),
        }
        let dead_letters = match self.dead.committer.detach(&[], now).await {
            Ok(()) => Some(self.dead.table.clone()),
            // Another's table under that name is none of dead letters of this topic.
            Err(CommitError::Foreign(_)) => None,
            Err(error) if error.is_table_gone() => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Detached { table: self.config.table.clone(), dead_letters })
    }

    /// Ends what an earlier turn left open: an append without an answer, and dead letters on their way. Returns the
    /// table as it is then.
    pub(super) async fn settle(&mut self, now: TimestampMs) -> Result<Loaded, SinkError> {
        if let Some((append, dead)) = self.unsettled.take() {
            match self.commit(append, 0, dead, now).await {
                // It is not in the table and never will be.
                Ok(_) | Err(SinkError::Commit(CommitError::Moved { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let base = self.committer.refresh().await?;
        self.settle_dead(&base, now).await?;
        Ok(base)
    }
}
