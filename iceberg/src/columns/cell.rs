//! [`Cell`]: one value of a column that still grows, by which the partition of its row is found. Pure.

use super::build::{Column, Columns, Layout, Values};

/// A value that is not null, by how its column holds it: dates and times are integers, text is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    Bool(bool),
    Int(i32),
    Long(i64),
    Decimal(i128),
    Bytes(&'a [u8]),
}

impl Columns {
    /// The last row's value in the column at `path`: the index of a top-level field of the table, and of a field of
    /// each struct below. `None` if it is null, or in a struct that is.
    ///
    /// # Panics
    /// There is no row, no column at the path, or one of a type without a [`Cell`].
    #[must_use]
    pub fn last_cell(&self, layout: &Layout, path: &[usize]) -> Option<Cell<'_>> {
        let (top, below) = path.split_first().expect("a path names a column");
        let mut column = &self.columns[layout.slot(*top).expect("the column is one of these")];
        let row = column.len() - 1;
        for at in below {
            let Values::Struct(inside) = &column.values else { unreachable!("a path goes through structs") };
            if !column.nulls.is_valid(row) {
                return None;
            }
            column = &inside[*at];
        }
        column.cell(row)
    }
}

impl Column {
    fn cell(&self, row: usize) -> Option<Cell<'_>> {
        if !self.nulls.is_valid(row) {
            return None;
        }
        Some(match &self.values {
            Values::Bool(values) => Cell::Bool(values.get_bit(row)),
            Values::I32(values) => Cell::Int(values[row]),
            Values::I64(values) => Cell::Long(values[row]),
            Values::I128(values) => Cell::Decimal(values[row]),
            Values::Fixed { size, bytes } => Cell::Bytes(&bytes[row * size..(row + 1) * size]),
            Values::Text { offsets, bytes } => {
                Cell::Bytes(&bytes[offsets[row].unsigned_abs() as usize..offsets[row + 1].unsigned_abs() as usize])
            }
            Values::Binary { offsets, bytes } => {
                Cell::Bytes(&bytes[offsets[row].unsigned_abs() as usize..offsets[row + 1].unsigned_abs() as usize])
            }
            Values::F32(_) | Values::F64(_) | Values::Struct(_) | Values::List { .. } | Values::Map { .. } => {
                unreachable!("no partition is over such a column")
            }
        })
    }
}
