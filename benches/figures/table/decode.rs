//! What decoding alone costs: the decoders of turns over values in memory, into the columns of a table that holds them.

use std::time::Duration;

use bytes::Bytes;
use iceberg::spec::TableMetadata;
use tidewater_iceberg::columns::build::{Columns, Layout};
use tidewater_iceberg::columns::evolve::{self, OnConflict};
use tidewater_iceberg::columns::map::{self, ColumnMap};
use tidewater_iceberg::columns::protobuf::path::MessagePath;
use tidewater_iceberg::registry::SchemaSource as _;
use tidewater_iceberg::schema::system::SystemColumns;
use tidewater_iceberg::translate::value_schema::ValueSchema;

use super::values::{Kind, Registry};
use crate::{machine, topic};

/// Rows of one record batch, as in data files.
const CHUNK: usize = 16 << 10;

/// Processor time that the values of `rows` rows take.
pub fn alone(kind: Kind, metadata: &TableMetadata, rows: u64) -> Duration {
    let schema = topic::runtime().block_on(Registry::new().by_id(kind.id())).expect("answers").expect("is known");
    let schema = ValueSchema::parse(&schema, Some(MessagePath::FIRST)).expect("parses");
    let format = metadata.format_version();
    let text = metadata.properties().get(map::PROPERTY).expect("a typed table has a column map");
    let columns = ColumnMap::parse(text).expect("parses");
    let reserved = SystemColumns::of(metadata).reserved();
    let table = evolve::Table {
        schema: metadata.current_schema(),
        last_column_id: metadata.last_column_id(),
        map: &columns,
        reserved: &reserved,
        pinned: &[],
        taken: &[],
    };
    let plan = evolve::plan(&table, &schema.shape(format).expect("columns"), OnConflict::Report).expect("fits");
    assert!(plan.changes.is_empty() && plan.conflicts.is_empty(), "the table has the columns: {plan:?}");
    let layout = Layout::new(&plan.schema, &reserved).expect("Arrow has the types");
    let decoder = schema.decoder(&plan, &layout).expect("a decoder");
    let mut taken = Duration::ZERO;
    for from in (0..rows).step_by(CHUNK) {
        let values: Vec<Bytes> = (from..rows.min(from + CHUNK as u64)).map(|row| kind.payload(row)).collect();
        let cpu = machine::cpu_of_thread();
        let mut columns = Columns::new(&layout);
        for value in &values {
            decoder.push(value, &mut columns, usize::MAX).expect("a row");
        }
        drop(columns.finish().expect("arrays"));
        taken += machine::cpu_of_thread().saturating_sub(cpu);
    }
    taken
}
