//! Bounds of columns whose size a client chooses: at most [`BOUND_BYTES_MAX`] bytes, or none.
//!
//! A Parquet writer that cannot shorten an upper bound (64 bytes of 0xFF and then half a megabyte) keeps the whole
//! value, and a manifest copies it. So such columns get no statistics from the Parquet writer (`write`); the key's
//! bounds are computed here, and entries that an older version wrote lose their long bounds when their manifest is
//! rewritten. The Iceberg specification allows a missing bound: readers then do not skip the file by that column.

use std::collections::HashMap;

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

/// [`lower`] of text: cut between two characters.
#[must_use]
pub fn lower_text(text: &str) -> &str {
    text.get(..floor(text)).unwrap_or(text)
}

/// [`upper`] of text: the last character that has a greater one is replaced by it.
#[must_use]
pub fn upper_text(text: &str) -> Option<String> {
    if text.len() <= BOUND_BYTES_MAX {
        return Some(text.to_owned());
    }
    let mut prefix = lower_text(text).to_owned();
    while let Some(last) = prefix.pop() {
        // The code points between are those of surrogates, which text has none of.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next.filter(|next| prefix.len() + next.len_utf8() <= BOUND_BYTES_MAX) {
            prefix.push(next);
            return Some(prefix);
        }
    }
    None
}

/// Where the longest prefix of whole characters ends that a bound has room for.
fn floor(text: &str) -> usize {
    (0..=BOUND_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The bounds of values, given least and greatest first; `None` without values, or where no short one exists.
pub type Bounds = (Option<Datum>, Option<Datum>);

/// Bounds of binary values.
pub fn of_binary<'a>(values: impl Iterator<Item = &'a [u8]>) -> Bounds {
    let (least, greatest) = extremes(values);
    (least.map(|value| Datum::binary(lower(value).to_vec())), greatest.and_then(upper).map(Datum::binary))
}

/// Bounds of text.
pub fn of_text<'a>(values: impl Iterator<Item = &'a str>) -> Bounds {
    let (least, greatest) = extremes(values);
    (least.map(|text| Datum::string(lower_text(text))), greatest.and_then(upper_text).map(Datum::string))
}

fn extremes<T: Ord + Copy>(values: impl Iterator<Item = T>) -> (Option<T>, Option<T>) {
    values.fold((None, None), |(least, greatest), value| {
        (Some(least.map_or(value, |held: T| held.min(value))), Some(greatest.map_or(value, |held: T| held.max(value))))
    })
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
    fn without_values_there_are_no_bounds() {
        assert_eq!(of_binary(std::iter::empty()), (None, None));
        assert_eq!(of_text(std::iter::empty()), (None, None));
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(lower_text("0123456789abcde\u{e9}"), "0123456789abcde");
        assert_eq!(upper_text("0123456789abcde\u{e9}").as_deref(), Some("0123456789abcdf"));
        assert_eq!(upper_text(&"\u{10ffff}".repeat(5)), None, "no character is greater");
        assert_eq!(upper_text(&format!("a{}", "\u{10ffff}".repeat(5))).as_deref(), Some("b"));
        assert_eq!(upper_text(&"\u{d7ff}".repeat(6)).map(|text| text.len()), Some(15));
    }

    proptest! {
        #[test]
        fn bounds_are_short_and_hold(values in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xff)], 0..40), 1..10)) {
            let low = lower(values.iter().min().expect("there are values"));
            prop_assert!(low.len() <= BOUND_BYTES_MAX && values.iter().all(|value| low <= value.as_slice()));
            if let Some(high) = upper(values.iter().max().expect("there are values")) {
                prop_assert!(high.len() <= BOUND_BYTES_MAX && values.iter().all(|value| high >= *value));
            }
        }

        #[test]
        fn bounds_of_text_are_short_and_hold(values in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![any::<char>(), Just('\u{10ffff}'), Just('\u{7f}')], 0..20), 1..10)) {
            let values: Vec<String> = values.into_iter().map(|text| text.into_iter().collect()).collect();
            let low = lower_text(values.iter().min().expect("there are values"));
            prop_assert!(low.len() <= BOUND_BYTES_MAX && values.iter().all(|value| low <= value.as_str()));
            if let Some(high) = upper_text(values.iter().max().expect("there are values")) {
                prop_assert!(high.len() <= BOUND_BYTES_MAX && values.iter().all(|value| high >= *value));
            }
        }
    }
}
