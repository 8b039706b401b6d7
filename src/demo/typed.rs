//! A typed table: orders in Avro, of two versions of a schema, become columns; a record that is no order becomes a row
//! of the table of dead letters.

use bytes::Bytes;
use serde_json::{Value, json};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::record::Record;
use tidewater_storage::model::{Compression, TimestampMs};

use super::broker::DemoBroker;
use super::content::{ITEMS, mix};
use super::error::DemoError;
use super::progress::Phase;
use super::{Bounds, bounds, count, ensure_topic, output, wait};
use crate::client::{Client, Producer};
use crate::console::admin;

pub(super) const TOPIC: &str = "demo_orders";
const SUBJECT: &str = "demo_orders-value";
const SETTINGS: [(&str, &str); 3] =
    [("archive.lag.ms", "1000"), ("iceberg.mode", "value_schema_id_prefix"), ("iceberg.target.lag.ms", "1000")];
/// With each version of the schema.
const ORDERS: u64 = 1000;

/// The table as the catalog has it.
#[derive(Debug, Default)]
struct Loaded {
    rows: u64,
    /// `name type`, without the column `tidewater`.
    columns: Vec<String>,
}

/// Writes orders and waits until they are columns; nothing in a build without tables.
pub(super) async fn run(broker: &DemoBroker) -> Result<(), DemoError> {
    let Some(catalog) = &broker.catalog else { return Ok(()) };
    let mut client = Client::connect(&broker.kafka).await?;
    let partitions = ensure_topic(&mut client, TOPIC, 1, &SETTINGS).await?;
    let phase = Phase::begin("writing Avro, two schema versions", Some(2 * ORDERS));
    write(broker, &phase).await?;
    let written = output::count(2 * ORDERS);
    phase.done(&format!(
        "{written} orders written in Avro, half of them with a field more, and one record that is none"
    ));
    let log = bounds(&mut client, TOPIC, &partitions).await?;
    let phase = Phase::begin("committing to the typed table", Some(count(&log)));
    let status = wait::in_table(broker, TOPIC, &log, &phase).await?;
    let table = load(catalog, TOPIC).await?;
    let dead = load(catalog, &format!("{TOPIC}~dlq")).await?;
    let left_out: Vec<_> = status.partitions.into_iter().flat_map(|partition| partition.table_skipped).collect();
    check(&log, &table, &dead, &left_out)?;
    let (rows, columns) = (output::count(table.rows), table.columns.join(", "));
    phase
        .done(&format!("{rows} rows in topics.{TOPIC}: {columns}; {} in topics.{TOPIC}~dlq", output::count(dead.rows)));
    Ok(())
}

/// Every record of the log is a row of one of the two tables; nothing of an earlier run is lost.
fn check(log: &Bounds, table: &Loaded, dead: &Loaded, left_out: &[String]) -> Result<(), DemoError> {
    let ever: u64 = log.values().map(|(_, end)| end).sum();
    if table.rows + dead.rows != ever || dead.rows == 0 || !left_out.is_empty() {
        return Err(DemoError::Differs(format!(
            "{TOPIC} has had {ever} records, its table has {} rows and that of dead letters {}; left out: {left_out:?}",
            table.rows, dead.rows
        )));
    }
    match table.columns.iter().any(|column| column == "coupon string") {
        true => Ok(()),
        false => Err(DemoError::Differs(format!("no column coupon in topics.{TOPIC}, only {:?}", table.columns))),
    }
}

async fn write(broker: &DemoBroker, phase: &Phase) -> Result<(), DemoError> {
    let client = Client::connect(&broker.kafka).await?;
    let mut producer = Producer::new(client, TOPIC, Compression::None).await?;
    for with_coupon in [false, true] {
        let id = register(broker, with_coupon).await?;
        let now = wall();
        let orders = (0..ORDERS).map(|n| Record::new(now, None, Some(order(n, now, with_coupon.then_some(n), id))));
        producer.send(0, orders.collect()).await?;
        phase.add(ORDERS);
    }
    producer.send(0, vec![Record::new(wall(), None, Some(Bytes::from_static(b"not an order")))]).await?;
    producer.flush().await?;
    Ok(())
}

/// Registers the schema; its id.
async fn register(broker: &DemoBroker, with_coupon: bool) -> Result<u32, DemoError> {
    let path = format!("/subjects/{SUBJECT}/versions");
    let document = json!({ "schema": schema(with_coupon).to_string() });
    let registered = admin::post_json(&broker.schemas, &path, &document).await?;
    let id = registered.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| DemoError::Silent { of: "the schema registry", what: "the id of a schema".to_owned() })
}

fn schema(with_coupon: bool) -> Value {
    let mut fields = vec![
        json!({ "name": "order_id", "type": "long" }),
        json!({ "name": "item", "type": { "type": "enum", "name": "Item", "symbols": ITEMS } }),
        json!({ "name": "quantity", "type": "int" }),
        json!({ "name": "price", "type": { "type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2 } }),
        json!({ "name": "ordered_at", "type": { "type": "long", "logicalType": "timestamp-millis" } }),
    ];
    if with_coupon {
        fields.push(json!({ "name": "coupon", "type": ["null", "string"], "default": null }));
    }
    json!({ "type": "record", "name": "Order", "fields": fields })
}

/// An order as Confluent's serializers frame it: a zero byte, the schema's id, the Avro value. Every second coupon is
/// null.
fn order(n: u64, at: TimestampMs, coupon: Option<u64>, schema_id: u32) -> Bytes {
    let random = mix(n);
    let (item, quantity, cents) = (random % ITEMS.len() as u64, (random >> 32) % 5 + 1, (random >> 40) % 20_000 + 99);
    let mut value = vec![0];
    value.extend_from_slice(&schema_id.to_be_bytes());
    for number in [n as i64, item as i64, quantity as i64] {
        put_long(&mut value, number);
    }
    put_bytes(&mut value, &(cents as i32).to_be_bytes());
    put_long(&mut value, at.0);
    match coupon {
        Some(n) if n % 2 == 0 => {
            put_long(&mut value, 1);
            put_bytes(&mut value, format!("spring-{n}").as_bytes());
        }
        Some(_) => put_long(&mut value, 0),
        None => {}
    }
    Bytes::from(value)
}

/// Avro's long: zigzag, seven bits a byte, the lowest first.
fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

async fn load(catalog: &str, table: &str) -> Result<Loaded, DemoError> {
    let path = format!("/v1/namespaces/topics/tables/{table}");
    let found = admin::get(catalog, &path).await?.as_ref().and_then(loaded);
    found.ok_or_else(|| DemoError::Silent { of: "the catalog", what: format!("rows and columns of topics.{table}") })
}

/// Rows and columns of Iceberg REST's `LoadTableResult`.
fn loaded(document: &Value) -> Option<Loaded> {
    let metadata = document.get("metadata")?;
    let is = |of: &Value, member: &str, what: &str| of.get(member) == metadata.get(what);
    let snapshots = metadata.get("snapshots")?.as_array()?;
    let snapshot = snapshots.iter().find(|snapshot| is(snapshot, "snapshot-id", "current-snapshot-id"))?;
    let rows = snapshot.get("summary")?.get("total-records")?.as_str()?.parse().ok()?;
    let schemas = metadata.get("schemas")?.as_array()?;
    let schema = schemas.iter().find(|schema| is(schema, "schema-id", "current-schema-id"))?;
    let column = |field: &Value| {
        let (name, kind) = (field.get("name")?.as_str()?, field.get("type")?);
        (name != "tidewater").then(|| format!("{name} {}", kind.as_str().unwrap_or("struct")))
    };
    Some(Loaded { rows, columns: schema.get("fields")?.as_array()?.iter().filter_map(column).collect() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn longs_are_as_avro_writes_them() {
        for (value, bytes) in [(0, &[0][..]), (-1, &[1]), (1, &[2]), (64, &[0x80, 1]), (-65, &[0x81, 1])] {
            let mut out = Vec::new();
            put_long(&mut out, value);
            assert_eq!(out, bytes, "{value}");
        }
    }

    #[test]
    fn a_table_is_read_from_its_metadata() {
        let document = json!({ "metadata": {
            "current-snapshot-id": 5, "snapshots": [{ "snapshot-id": 5, "summary": { "total-records": "7" } }],
            "current-schema-id": 1, "schemas": [
                { "schema-id": 0, "fields": [] },
                { "schema-id": 1, "fields": [
                    { "name": "tidewater", "type": { "type": "struct" } }, { "name": "order_id", "type": "long" },
                ] },
            ],
        } });
        let table = loaded(&document).expect("a table");
        assert_eq!((table.rows, table.columns), (7, vec!["order_id long".to_owned()]));
    }

    #[test]
    fn a_row_too_few_is_a_difference() {
        let of = |rows, dead: u64| {
            let table = Loaded { rows, columns: vec!["coupon string".to_owned()] };
            check(&BTreeMap::from([(0, (0, 2001))]), &table, &Loaded { rows: dead, columns: Vec::new() }, &[])
        };
        assert!(of(2000, 1).is_ok());
        assert!(of(1999, 1).is_err());
        assert!(of(2001, 0).is_err(), "the record that is no order is a dead letter");
    }
}
