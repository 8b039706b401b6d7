//! Branches and tags of a table. iceberg 0.10 keeps them private; its JSON is the way to them.

use std::collections::BTreeMap;

use iceberg::spec::{SnapshotReference, TableMetadata};
use serde::Deserialize;

/// Branches and tags by name, main among them if the table has a snapshot.
pub type Refs = BTreeMap<String, SnapshotReference>;

/// Of `metadata`, at the cost of writing and reading all of it as JSON.
///
/// # Errors
/// If it cannot be written as JSON and read back: a defect of iceberg's. Nothing may expire then.
pub(super) fn of(metadata: &TableMetadata) -> iceberg::Result<Refs> {
    #[derive(Deserialize)]
    struct Part {
        #[serde(default)]
        refs: Refs,
    }
    let part: Part = serde_json::from_slice(&serde_json::to_vec(metadata)?)?;
    Ok(part.refs)
}
