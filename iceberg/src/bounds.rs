//! Bounds of columns whose size a client chooses: at most [`BOUND_BYTES_MAX`] bytes, or none.
//!
//! A Parquet writer that cannot shorten an upper bound (64 bytes of 0xFF and then half a megabyte) keeps the whole
//! value, and a manifest copies it. So such columns get no statistics from the Parquet writer (`write`); the key's
//! bounds are computed here, and entries that an older version wrote lose their long bounds when their manifest is
//! rewritten. The Iceberg specification allows a missing bound: readers then do not skip the file by that column.

use std::collections::HashMap;

use arrow::array::{Array, LargeBinaryArray};
use iceberg::spec::{DataFile, DataFileBuilder, DataFileBuilderError, Datum, PrimitiveLiteral};

/// Bytes of a bound at most: Iceberg's default metrics mode is `truncate(16)`.
pub const BOUND_BYTES_MAX: usize = 16;

/// The prefix of `value` as a lower bound: never above it.
#[must_use]
pub fn lower(value: &[u8]) -> &[u8] {
    value.get(..BOUND_BYTES_MAX).unwrap_or(value)
}

/// An upper bound for `value` and everything below it; `None` where no short one exists, because the prefix has only
/// bytes 0xFF.
#[must_use]
pub fn upper(value: &[u8]) -> Option<Vec<u8>> {
    let Some(prefix) = value.get(..BOUND_BYTES_MAX).filter(|prefix| prefix.len() < value.len()) else {
        return Some(value.to_vec());
    };
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut bound = prefix.get(..=last)?.to_vec();
    *bound.last_mut()? += 1;
    Some(bound)
}

/// Smallest and largest value seen in a column, shortened: never more than two bounds in memory.
#[derive(Debug, Default)]
pub struct ColumnBounds {
    least: Option<Vec<u8>>,
    /// `Some(None)`: there are values and no short upper bound.
    greatest: Option<Option<Vec<u8>>>,
}

impl ColumnBounds {
    /// Bounds of all values of `column`.
    #[must_use]
    pub fn of(column: &LargeBinaryArray) -> Self {
        let values = || (0..column.len()).filter(|at| column.is_valid(*at)).map(|at| column.value(at));
        Self { least: values().min().map(|value| lower(value).to_vec()), greatest: values().max().map(upper) }
    }

    /// The lower bound; `None` without values.
    #[must_use]
    pub fn lower(&self) -> Option<Datum> {
        self.least.clone().map(Datum::binary)
    }

    /// The upper bound; `None` without values, or where no short one exists.
    #[must_use]
    pub fn upper(&self) -> Option<Datum> {
        self.greatest.clone().flatten().map(Datum::binary)
    }
}

/// Bytes of a bound that are as many as the client liked: 0 for numbers, times and the like.
#[must_use]
pub fn bytes_of(bound: &Datum) -> usize {
    match bound.literal() {
        PrimitiveLiteral::Binary(bytes) => bytes.len(),
        PrimitiveLiteral::String(text) => text.len(),
        _ => 0,
    }
}

/// The longest bound of a file. Bytes.
#[must_use]
pub fn longest(file: &DataFile) -> usize {
    file.lower_bounds().values().chain(file.upper_bounds().values()).map(bytes_of).max().unwrap_or(0)
}

/// What `file` says of itself, as a builder to change parts of.
#[must_use]
pub fn to_builder(file: &DataFile, spec_id: i32) -> DataFileBuilder {
    let mut builder = DataFileBuilder::default();
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(file.partition().clone())
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .key_metadata(file.key_metadata().map(<[u8]>::to_vec))
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .equality_ids(file.equality_ids())
        .first_row_id(file.first_row_id())
        .partition_spec_id(spec_id)
        .referenced_data_file(file.referenced_data_file())
        .content_offset(file.content_offset())
        .content_size_in_bytes(file.content_size_in_bytes());
    if let Some(order) = file.sort_order_id() {
        builder.sort_order_id(order);
    }
    builder
}

/// `file` without bounds longer than `most` bytes.
///
/// # Errors
/// None in practice: every field is set.
pub fn without_long_bounds(file: &DataFile, spec_id: i32, most: usize) -> Result<DataFile, DataFileBuilderError> {
    if longest(file) <= most {
        return Ok(file.clone());
    }
    let short = |bounds: &HashMap<i32, Datum>| {
        bounds.iter().filter(|(_, bound)| bytes_of(bound) <= most).map(|(id, bound)| (*id, bound.clone())).collect()
    };
    let mut builder = to_builder(file, spec_id);
    builder.lower_bounds(short(file.lower_bounds())).upper_bounds(short(file.upper_bounds()));
    let file = builder.build()?;
    assert!(longest(&file) <= most, "bounds longer than {most} bytes are left");
    Ok(file)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_of_0xff_has_no_short_upper_bound() {
        assert_eq!(upper(&[0xff; 17]), None);
        assert_eq!(upper(&[0xff; 16]), Some(vec![0xff; 16]), "exact");
        assert_eq!(upper(&[&[7][..], &[0xff; 500_000]].concat()), Some(vec![8]));
    }

    #[test]
    fn a_column_of_nulls_has_no_bounds() {
        let bounds = ColumnBounds::of(&LargeBinaryArray::from(vec![None, None]));
        assert_eq!((bounds.lower(), bounds.upper()), (None, None));
    }

    proptest! {
        #[test]
        fn bounds_are_short_and_hold(values in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xff)], 0..40), 1..10)) {
            let column = LargeBinaryArray::from(values.iter().map(|v| Some(v.as_slice())).collect::<Vec<_>>());
            let bounds = ColumnBounds::of(&column);
            let low = bounds.least.expect("there are values");
            prop_assert!(low.len() <= BOUND_BYTES_MAX && values.iter().all(|value| low <= *value));
            if let Some(high) = bounds.greatest.expect("there are values") {
                prop_assert!(high.len() <= BOUND_BYTES_MAX && values.iter().all(|value| high >= *value));
            }
        }
    }
}
