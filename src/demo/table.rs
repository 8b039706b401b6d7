//! The table: wait until it has everything, then ask the catalog what it holds.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::DemoError;
use super::place::Place;
use super::progress::Phase;
use super::{Bounds, count, output, wait};
use crate::cli::admin_http;

/// What the catalog says of the table's current snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Rows.
    pub(super) rows: u64,
    /// Next offset per partition, committed with the rows.
    pub(super) offsets: BTreeMap<i32, u64>,
    /// Ranges left out.
    pub(super) skipped: Vec<String>,
}

/// Waits for the table and looks at it; `None` in a build without tables.
pub(super) async fn run(place: &Place, topic: &str, log: &Bounds) -> Result<Option<Table>, DemoError> {
    let Some(catalog) = &place.catalog else { return Ok(None) };
    let phase = Phase::begin("committing to the Iceberg table", Some(count(log)));
    let status = wait::in_table(place, topic, log, &phase).await?;
    let path = format!("/v1/namespaces/topics/tables/{topic}");
    let loaded = admin_http::get(catalog, &path).await?;
    let mut table = loaded.as_ref().and_then(snapshot).ok_or_else(|| DemoError::Silent {
        of: "the catalog",
        what: format!("rows and offsets of the table topics.{topic}"),
    })?;
    table.skipped = status.partitions.into_iter().flat_map(|p| p.table_skipped).collect();
    phase.done(&format!("{} rows in the Iceberg table topics.{topic}", output::count(table.rows)));
    Ok(Some(table))
}

/// Rows and offsets from the summary of the current snapshot of a loaded table (Iceberg REST `LoadTableResult`).
fn snapshot(loaded: &Value) -> Option<Table> {
    let metadata = loaded.get("metadata")?;
    let current = metadata.get("current-snapshot-id")?;
    let snapshots = metadata.get("snapshots")?.as_array()?;
    let summary = snapshots.iter().find(|s| s.get("snapshot-id") == Some(current))?.get("summary")?;
    let rows = summary.get("total-records")?.as_str()?.parse().ok()?;
    let offsets = serde_json::from_str(summary.get("tidewater.offsets")?.as_str()?).ok()?;
    Some(Table { rows, offsets, skipped: Vec::new() })
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
