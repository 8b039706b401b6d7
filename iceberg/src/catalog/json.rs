//! Table metadata as JSON with its lists in a fixed order: iceberg 0.10 keeps them in hash maps, whose order differs
//! from one load to the next, and clients compare.

use iceberg::spec::TableMetadata;
use serde_json::Value;

/// The lists and what orders them.
const ORDERS: [(&str, &[&str]); 4] = [
    ("snapshots", &["sequence-number", "timestamp-ms"]),
    ("schemas", &["schema-id"]),
    ("partition-specs", &["spec-id"]),
    ("sort-orders", &["order-id"]),
];

/// `metadata` as JSON.
///
/// # Errors
/// If it cannot be serialised: a defect.
pub(super) fn ordered(metadata: &TableMetadata) -> iceberg::Result<Value> {
    let mut json = serde_json::to_value(metadata)?;
    for (list, keys) in ORDERS {
        if let Some(items) = json.get_mut(list).and_then(Value::as_array_mut) {
            items.sort_by_key(|item| keys.iter().map(|key| item.get(*key).and_then(Value::as_i64)).collect::<Vec<_>>());
        }
    }
    Ok(json)
}
