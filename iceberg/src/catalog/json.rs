//! Metadata of tables and views as JSON with its lists in a fixed order: iceberg 0.10 keeps them in hash maps, whose order differs
//! from one load to the next, and clients compare.

use iceberg::spec::{TableMetadata, ViewMetadata};
use serde_json::Value;

/// The lists and what orders them.
const ORDERS: [(&str, &[&str]); 5] = [
    ("snapshots", &["sequence-number", "timestamp-ms"]),
    ("schemas", &["schema-id"]),
    ("partition-specs", &["spec-id"]),
    ("sort-orders", &["order-id"]),
    ("versions", &["version-id"]),
];

/// `metadata` as JSON.
///
/// # Errors
/// If it cannot be serialised: a defect.
pub(super) fn ordered(metadata: &TableMetadata) -> iceberg::Result<Value> {
    Ok(sorted(serde_json::to_value(metadata)?))
}

/// The same of a view's.
///
/// # Errors
/// If it cannot be serialised: a defect.
pub(super) fn ordered_view(metadata: &ViewMetadata) -> iceberg::Result<Value> {
    Ok(sorted(serde_json::to_value(metadata)?))
}

fn sorted(mut json: Value) -> Value {
    for (list, keys) in ORDERS {
        if let Some(items) = json.get_mut(list).and_then(Value::as_array_mut) {
            items.sort_by_key(|item| keys.iter().map(|key| item.get(*key).and_then(Value::as_i64)).collect::<Vec<_>>());
        }
    }
    json
}
