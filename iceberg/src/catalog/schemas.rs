//! Which schemas a commit may not remove (`remove-schemas`): those that a snapshot of the table was written with,
//! without which the snapshot cannot be read. That the current one stays is iceberg's own rule. Pure.

use iceberg::spec::TableMetadata;
use iceberg::{TableIdent, TableUpdate};

use super::CatalogError;

/// Refuses `updates` that remove schemas of snapshots which are in `after`, the metadata that they make.
pub(super) fn check_removed(
    table: &TableIdent,
    updates: &[TableUpdate],
    after: &TableMetadata,
) -> Result<(), CatalogError> {
    let removed = updates.iter().filter_map(|update| match update {
        TableUpdate::RemoveSchemas { schema_ids } => Some(schema_ids),
        _ => None,
    });
    for id in removed.flatten() {
        if let Some(snapshot) = after.snapshots().find(|snapshot| snapshot.schema_id() == Some(*id)) {
            let snapshot = snapshot.snapshot_id();
            let detail = format!(
                "schema {id} of {table} is that of snapshot {snapshot}, which the table keeps; expire the snapshot first"
            );
            return Err(CatalogError::Invalid { detail });
        }
    }
    Ok(())
}
