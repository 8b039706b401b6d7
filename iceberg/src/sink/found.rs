//! The columns of JSON that no schema describes: found in the values of each turn, before any of them is a row.
//!
//! The table decides: what was found is its property [`PROPERTY`], a JSON Schema, and moves only in the commit that
//! changes the columns. A turn looks at some of its values and may add to it. Members that are there keep their types,
//! and values that it did not look at lose nothing, since members without a column are in `rest`. So a turn that is
//! repeated, or another committer's, may look at other values. *Message*; one task.

use std::sync::Arc;

use iceberg::spec::TableMetadata;

use super::{SinkError, TableSink};
use crate::columns::json::Schema;
use crate::columns::json::infer::Inference;
use crate::commit::CommitError;
use crate::plan::PlannedRange;
use crate::translate;

/// The table property that holds what was found.
pub(super) const PROPERTY: &str = "tidewater.json.found";
/// Values that a turn looks at, at most, and their bytes.
const VALUES_MAX: usize = 2_000;
const BYTES_MAX: usize = 4 << 20;
/// A larger value is not looked at: one that is parsed may take twenty times its bytes.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Partitions that a turn looks at, at most.
const PARTITIONS_MAX: usize = 16;
/// Bytes asked of the log at once, as stored.
const READ_BYTES: usize = 1 << 20;

/// What the table's values were found to be so far.
pub(super) fn kept(metadata: &TableMetadata) -> Option<&str> {
    metadata.properties().get(PROPERTY).map(String::as_str)
}

impl TableSink {
    /// The schema of the turn's values: that of the table, and what this turn's first values add to it.
    pub(super) async fn find_columns(
        &self,
        ranges: &[PlannedRange],
        metadata: &TableMetadata,
    ) -> Result<Arc<str>, SinkError> {
        let damaged = |why: String| {
            let detail = format!("its property {PROPERTY} cannot be read: {why}; set it back, or drop the table");
            SinkError::from(CommitError::Unfit { table: self.config.table.clone(), detail })
        };
        let kept =
            kept(metadata).map(|text| Schema::parse(text, &[])).transpose().map_err(|e| damaged(e.to_string()))?;
        let mut inference = kept.as_ref().map_or_else(Inference::default, Inference::of);
        let mut left = Left { values: VALUES_MAX, bytes: BYTES_MAX };
        for range in ranges.iter().take(PARTITIONS_MAX) {
            // A partition that cannot be read now is reported where its records are taken.
            let read = self.log.read(self.config.topic_id, range.partition, range.offsets, READ_BYTES).await;
            for batches in read.into_iter().flat_map(|read| read.batches) {
                translate::look_at_values(batches, range.offsets, |value| left.take(value, &mut inference));
            }
            if left.is_empty() {
                break;
            }
        }
        let nothing = || {
            Schema::of(crate::columns::json::Node::Object(crate::columns::json::Members {
                named: Vec::new(),
                keeps_rest: true,
            }))
        };
        Ok(inference.schema().unwrap_or_else(nothing).to_text().into())
    }
}

/// What a turn may still look at.
struct Left {
    values: usize,
    bytes: usize,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.values == 0 || self.bytes == 0
    }

    /// Looks at a value; false once there is no room.
    fn take(&mut self, value: &[u8], inference: &mut Inference) -> bool {
        if self.is_empty() {
            return false;
        }
        (self.values, self.bytes) = (self.values - 1, self.bytes.saturating_sub(value.len()));
        if value.len() <= VALUE_BYTES_MAX {
            inference.observe(value);
        }
        true
    }
}
