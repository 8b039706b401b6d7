//! What a failed requirement is called. Clients and the compatibility kit know Java's wording (`UpdateRequirement`).

use iceberg::TableRequirement;
use iceberg::spec::TableMetadata;

/// Why `requirement` does not hold for `metadata`, in Java's words.
pub(super) fn explain(requirement: &TableRequirement, metadata: &TableMetadata) -> String {
    let changed = |what: &str, expected: i64, found: i64| {
        format!("Requirement failed: {what} changed: expected id {expected} != {found}")
    };
    match requirement {
        TableRequirement::NotExist => "Requirement failed: table already exists".to_owned(),
        TableRequirement::UuidMatch { uuid } => {
            format!("Requirement failed: UUID does not match: expected {} != {uuid}", metadata.uuid())
        }
        TableRequirement::RefSnapshotIdMatch { r#ref, snapshot_id } => {
            let found = metadata.snapshot_for_ref(r#ref).map(|snapshot| snapshot.snapshot_id());
            match (snapshot_id, found) {
                (None, _) => format!("Requirement failed: branch {ref} was created concurrently"),
                (Some(expected), Some(found)) => {
                    format!("Requirement failed: branch {ref} has changed: expected id {expected} != {found}")
                }
                (Some(expected), None) => {
                    format!("Requirement failed: branch or tag {ref} is missing, expected {expected}")
                }
            }
        }
        TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id } => {
            changed("last assigned field id", (*last_assigned_field_id).into(), metadata.last_column_id().into())
        }
        TableRequirement::CurrentSchemaIdMatch { current_schema_id } => {
            changed("current schema", (*current_schema_id).into(), metadata.current_schema_id().into())
        }
        TableRequirement::LastAssignedPartitionIdMatch { last_assigned_partition_id } => {
            let expected = (*last_assigned_partition_id).into();
            changed("last assigned partition id", expected, metadata.last_partition_id().into())
        }
        TableRequirement::DefaultSpecIdMatch { default_spec_id } => {
            changed("default partition spec", (*default_spec_id).into(), metadata.default_partition_spec_id().into())
        }
        TableRequirement::DefaultSortOrderIdMatch { default_sort_order_id } => {
            changed("default sort order", *default_sort_order_id, metadata.default_sort_order_id())
        }
    }
}
