//! The table: waits until it has every record, asks the catalog for its rows and offsets, and reads its files.

use std::collections::BTreeMap;

use serde_json::Value;

#[cfg(feature = "lakehouse")]
use super::audit::rows as found;
use super::broker::DemoBroker;
use super::content::Checksum;
use super::error::DemoError;
use super::progress::Phase;
use super::write::Written;
use super::{Bounds, count, output, wait};
use crate::console::admin;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// From the summary of the current snapshot, over the catalog's port.
    pub(super) rows: u64,
    pub(super) found: Found,
    /// Next offset per partition, committed with the rows.
    pub(super) offsets: BTreeMap<i32, u64>,
    /// Ranges of offsets that the sink left out.
    pub(super) skipped: Vec<String>,
}

/// Read from the data files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) files: u64,
    /// By partition.
    pub(super) rows: BTreeMap<i32, Rows>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// Of all runs of the demo.
    pub(super) count: u64,
    /// Over the rows of this run.
    pub(super) sum: Checksum,
}

/// Waits for the table and reads it; `None` in a build without tables.
pub(super) async fn run(
    broker: &DemoBroker,
    topic: &str,
    log: &Bounds,
    written: &BTreeMap<i32, Written>,
) -> Result<Option<Table>, DemoError> {
    let Some(catalog) = &broker.catalog else { return Ok(None) };
    let phase = Phase::begin("committing to the Iceberg table", Some(count(log)));
    let status = wait::in_table(broker, topic, log, &phase).await?;
    let path = format!("/v1/namespaces/topics/tables/{topic}");
    let loaded = admin::get(catalog, &path).await?;
    let mut table = loaded.as_ref().and_then(snapshot).ok_or_else(|| DemoError::Silent {
        of: "the catalog",
        what: format!("rows and offsets of the table topics.{topic}"),
    })?;
    table.skipped = status.partitions.into_iter().flat_map(|p| p.table_skipped).collect();
    phase.done(&format!("all records committed to the Iceberg table topics.{topic}"));
    let phase = Phase::begin("reading the table's files", Some(table.rows));
    table.found = found(broker, topic, written, &phase).await?;
    let (rows, files) = (table.found.rows.values().map(|rows| rows.count).sum(), table.found.files);
    phase.done(&format!("{} rows read from {files} Parquet files of the table", output::count(rows)));
    Ok(Some(table))
}

/// Never called: a build without tables serves no catalog.
#[cfg(not(feature = "lakehouse"))]
async fn found(_: &DemoBroker, _: &str, _: &BTreeMap<i32, Written>, _: &Phase) -> Result<Found, DemoError> {
    Ok(Found::default())
}

/// Rows and offsets from the summary of the current snapshot of a loaded table (Iceberg REST `LoadTableResult`).
fn snapshot(loaded: &Value) -> Option<Table> {
    let metadata = loaded.get("metadata")?;
    let current = metadata.get("current-snapshot-id")?;
    let snapshots = metadata.get("snapshots")?.as_array()?;
    let summary = snapshots.iter().find(|s| s.get("snapshot-id") == Some(current))?.get("summary")?;
    let rows = summary.get("total-records")?.as_str()?.parse().ok()?;
    let offsets = serde_json::from_str(summary.get("tidewater.offsets")?.as_str()?).ok()?;
    Some(Table { rows, offsets, ..Table::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_snapshot_counts() {
        let loaded = serde_json::json!({ "metadata": { "current-snapshot-id": 2, "snapshots": [
            { "snapshot-id": 1, "summary": { "total-records": "1", "tidewater.offsets": "{\"0\":1}" } },
            { "snapshot-id": 2, "summary": { "total-records": "9", "tidewater.offsets": "{\"0\":4,\"1\":5}" } },
        ] } });
        let table = snapshot(&loaded).expect("a snapshot");
        assert_eq!((table.rows, table.offsets), (9, BTreeMap::from([(0, 4), (1, 5)])));
        assert_eq!(snapshot(&serde_json::json!({ "metadata": {} })), None);
    }
}
