//! What tests of all formats share: a table that follows schemas, its rows as plain values, a random source.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};

use crate::columns::Refused;
use crate::columns::build::{Columns, Layout};
use crate::columns::evolve::{OnConflict, Plan, Table, plan};
use crate::columns::map::ColumnMap;
use crate::columns::shape::Shape;

/// A value as both sides can show it. Members that are null are not in a struct.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Int(i128),
    /// By bits, so that NaN equals itself.
    Float(u64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Cell>),
    Map(BTreeMap<String, Cell>),
    Struct(BTreeMap<String, Cell>),
}

pub(crate) fn float(value: f64) -> Cell {
    Cell::Float(if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() })
}

/// A table that follows schemas, as a committer would let it.
pub(crate) struct Follower {
    pub(crate) schema: iceberg::spec::Schema,
    last_column_id: i32,
    pub(crate) map: ColumnMap,
}

impl Follower {
    pub(crate) fn new() -> Self {
        let schema = iceberg::spec::Schema::builder().build().expect("no fields");
        Self { schema, last_column_id: 0, map: ColumnMap::default() }
    }

    pub(crate) fn plan(&self, shape: &Shape, on_conflict: OnConflict) -> Result<Plan, Refused> {
        let (schema, last_column_id, map) = (&self.schema, self.last_column_id, &self.map);
        let table = Table { schema, last_column_id, map, reserved: &[], pinned: &[], taken: &[] };
        plan(&table, shape, on_conflict)
    }

    /// Makes the changes that `shape` needs; returns the plan for its values.
    pub(crate) fn follow(&mut self, shape: &Shape, on_conflict: OnConflict) -> Plan {
        let plan = self.plan(shape, on_conflict).expect("plan");
        assert_eq!(plan.conflicts, [], "no conflict");
        self.schema = plan.schema.clone();
        self.last_column_id = plan.last_column_id;
        self.map = ColumnMap::parse(&plan.map.to_text()).expect("own text");
        plan
    }

    pub(crate) fn layout(&self) -> Arc<Layout> {
        Layout::new(&self.schema, &[]).expect("layout")
    }

    /// The rows as structs of the table's columns.
    pub(crate) fn rows(&self, columns: Columns) -> Vec<Cell> {
        let rows = columns.rows();
        let arrays = columns.finish().expect("columns");
        let fields = self.schema.as_struct().fields();
        let row = |at| {
            let cells = arrays.iter().map(|(field, array)| (fields[*field].name.clone(), cell(array, at)));
            Cell::Struct(cells.filter(|(_, cell)| *cell != Cell::Null).collect())
        };
        (0..rows).map(row).collect()
    }
}

pub(crate) fn cell(array: &ArrayRef, at: usize) -> Cell {
    if array.is_null(at) {
        return Cell::Null;
    }
    let int = |value: i64| Cell::Int(value.into());
    match array.data_type() {
        DataType::Boolean => Cell::Bool(array.as_boolean().value(at)),
        DataType::Int32 => int(array.as_primitive::<Int32Type>().value(at).into()),
        DataType::Date32 => int(array.as_primitive::<Date32Type>().value(at).into()),
        DataType::Int64 => int(array.as_primitive::<Int64Type>().value(at)),
        DataType::Time64(_) => int(array.as_primitive::<Time64MicrosecondType>().value(at)),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => int(array.as_primitive::<TimestampNanosecondType>().value(at)),
        DataType::Timestamp(..) => int(array.as_primitive::<TimestampMicrosecondType>().value(at)),
        DataType::Decimal128(..) => Cell::Int(array.as_primitive::<Decimal128Type>().value(at)),
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(at).into()),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(at)),
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(at).to_owned()),
        DataType::LargeBinary => Cell::Bytes(array.as_binary::<i64>().value(at).to_vec()),
        DataType::FixedSizeBinary(_) => Cell::Bytes(array.as_fixed_size_binary().value(at).to_vec()),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(at);
            Cell::List((0..items.len()).map(|at| cell(&items, at)).collect())
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(at);
            let (keys, items) = (entries.column(0).as_string::<i32>(), entries.column(1));
            Cell::Map((0..entries.len()).map(|at| (keys.value(at).to_owned(), cell(items, at))).collect())
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let cells = fields.iter().zip(columns).map(|(field, column)| (field.name().clone(), cell(column, at)));
            Cell::Struct(cells.filter(|(_, cell)| *cell != Cell::Null).collect())
        }
        kind => unreachable!("no column has type {kind}"),
    }
}

/// How many random cases: more by `TIDEWATER_CASES`.
pub(crate) fn cases(default: u64) -> u64 {
    std::env::var("TIDEWATER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

/// SplitMix64 from a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A few bytes changed, cut, doubled, added; some to one of `likely`.
    pub(crate) fn damage(&mut self, mut value: Vec<u8>, likely: &[u8]) -> Vec<u8> {
        for _ in 0..self.below(3) + 1 {
            let at = self.below(value.len() + 1);
            match self.below(6) {
                0 => value.truncate(at),
                1 => value.insert(at, self.next() as u8),
                2 => value.splice(at..at, value[at..].iter().copied().take(5).collect::<Vec<_>>()).for_each(drop),
                3 if at < value.len() => drop(value.remove(at)),
                4 if at < value.len() => value[at] ^= 1 << self.below(8),
                _ if at < value.len() => value[at] = likely[self.below(likely.len())],
                _ => value.push(0),
            }
        }
        value
    }
}
