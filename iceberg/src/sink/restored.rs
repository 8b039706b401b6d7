//! A table after its cluster was restored to an earlier state, as a cut is: what the table has beyond the restored log
//! leaves it, before anything is appended.
//!
//! Those rows are of records that the cluster does not have any more, and other records get their offsets. The log's
//! end of now does not show it: producers may have filled it up again. So the ends that the restore brought back
//! decide, once: the first append of the restored cluster, or the commit by which rows leave, marks the table with
//! [`RESTORED`]. A broker of before the restore that appends in between is met by the next turn, which looks at the
//! table as it is then.
//!
//! Owns: whether rows leave. Does not own: how (`super::rewind`).

use tidewater_storage::model::TimestampMs;

use super::rewind::{RewindAsk, RewindError, RewindTo};
use super::{Outcome, PauseReason, SinkError, TableSink};
use crate::catalog::Loaded;
use crate::commit::offsets;
use crate::plan::Offsets;

/// Table property: the lineage epoch of the last restore after which the table was appended to, or taken back.
pub(super) const RESTORED: &str = "tidewater.restored";

/// Where a restored cluster's log of a topic began to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredEnds {
    /// The lineage epoch of the restore.
    pub lineage: u32,
    /// The ends that it brought back; partitions that were made later are not in it.
    pub ends: Offsets,
}

impl RestoredEnds {
    /// The property that says that the table has nothing of before this restore that the log does not have.
    pub(super) fn mark(&self) -> (&'static str, Option<String>) {
        (RESTORED, Some(self.lineage.to_string()))
    }

    /// The partitions of which a table with the offsets `held` has more, and where they end.
    fn beyond(&self, held: &Offsets) -> Offsets {
        let shorter = self.ends.iter().filter(|(at, end)| held.get(at).is_some_and(|next| next > *end));
        shorter.map(|(at, end)| (*at, *end)).collect()
    }
}

impl TableSink {
    /// Takes the tables back to the restored log, if they are beyond it; what the turn then comes to.
    pub(super) async fn return_to_restored(
        &mut self,
        base: &Loaded,
        now: TimestampMs,
    ) -> Result<Option<Outcome>, SinkError> {
        let Some(restored) = self.config.restored.clone() else { return Ok(None) };
        let (mark, value) = restored.mark();
        if base.metadata.properties().get(mark) == value.as_ref() {
            return Ok(None);
        }
        let to = restored.beyond(&offsets::of(&self.config.table, &base.metadata)?);
        if to.is_empty() {
            return Ok(None);
        }
        let ask = RewindAsk { to: RewindTo::Offsets(to), is_plan: false, is_forced: false };
        match self.rewind_with(&ask, vec![restored.mark()], now).await {
            Ok(done) => {
                let (table, rows) = (&self.config.table, done.leaving.rows);
                tracing::info!(%table, rows, "the table had more than the restored log: those rows left it");
                Ok(Some(Outcome::Again))
            }
            Err(RewindError::Sink(error)) => Err(error),
            Err(RewindError::Refused(why)) => {
                let detail =
                    format!("the cluster was restored to before what the table has, and it cannot go back: {why}");
                Ok(Some(Outcome::Paused(PauseReason::Refused { table: self.config.table.clone(), detail })))
            }
        }
    }
}
