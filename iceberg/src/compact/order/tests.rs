//! Rows come in the order that is asked for, all of them once, and never more of them at once than there is room for.
#![allow(clippy::panic)]

use std::cmp::Ordering;
use std::collections::HashMap;

use arrow::array::{
    BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int32Array,
    Int64Array, LargeBinaryArray, ListArray, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Fields, Int32Type, Int64Type, Schema};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use proptest::prelude::*;

use super::*;

/// A value as the specification compares it.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Null,
    Whole(i128),
    Real(f64),
    Bytes(Vec<u8>),
}

const PARTITION: i32 = 1;
const OFFSET: i32 = 2;
/// The first column of values; each kind has one.
const FIRST: i32 = 10;
const KINDS: i32 = 13;

fn field(id: i32, kind: DataType) -> Field {
    let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
    Field::new(format!("c{}", id.len()), kind, true).with_metadata(id)
}

fn with_id(id: i32, array: ArrayRef) -> (Field, ArrayRef) {
    (field(id, array.data_type().clone()), array)
}

/// One of the few values that column `kind` has, so that many rows have the same.
fn value(kind: i32, pick: u8) -> Value {
    let real = [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.5, -1.5];
    let pick = usize::from(pick);
    if pick % 5 == 4 {
        return Value::Null;
    }
    match kind {
        0 => Value::Whole(i128::from(pick % 2 == 0)),
        1 | 5 => Value::Whole([i128::from(i32::MIN), i128::from(i32::MAX), -1, 0, 7][pick % 5]),
        2 | 6 | 7 | 8 => Value::Whole([i128::from(i64::MIN), i128::from(i64::MAX), -1, 0, 7][pick % 5]),
        3 | 4 => Value::Real(real[pick % 8]),
        9 | 10 | 12 => Value::Bytes([&b""[..], b"a", b"ab", b"b", &[b'z'; 70], b"abcdefgh"][pick % 6].to_vec()),
        _ => Value::Bytes(vec![[0_u8, 0x7f, 0x80, 0xff][pick % 4]; 16]),
    }
}

fn whole<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    match value {
        Value::Whole(whole) => T::try_from(*whole).ok(),
        _ => None,
    }
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Real(real) => Some(*real),
        _ => None,
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    bytes(value).map(|bytes| std::str::from_utf8(bytes).expect("text"))
}

/// The column of a kind with these values.
fn array(kind: i32, values: &[Value]) -> ArrayRef {
    match kind {
        0 => Arc::new(values.iter().map(|v| whole::<i8>(v).map(|v| v == 1)).collect::<BooleanArray>()),
        1 => Arc::new(values.iter().map(whole::<i32>).collect::<Int32Array>()),
        2 => Arc::new(values.iter().map(whole::<i64>).collect::<Int64Array>()),
        3 => Arc::new(values.iter().map(|v| real(v).map(|v| v as f32)).collect::<Float32Array>()),
        4 => Arc::new(values.iter().map(real).collect::<Float64Array>()),
        5 => Arc::new(values.iter().map(whole::<i32>).collect::<Date32Array>()),
        6 => Arc::new(values.iter().map(whole::<i64>).collect::<Time64MicrosecondArray>()),
        7 => Arc::new(values.iter().map(whole::<i64>).collect::<TimestampMicrosecondArray>().with_timezone("+00:00")),
        8 => {
            let decimals = values.iter().map(whole::<i128>).collect::<Decimal128Array>();
            Arc::new(decimals.with_precision_and_scale(38, 2).expect("legal"))
        }
        9 => Arc::new(values.iter().map(text).collect::<StringArray>()),
        10 => Arc::new(values.iter().map(bytes).collect::<LargeBinaryArray>()),
        11 => Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.iter().map(bytes), 16).expect("16 bytes"),
        ),
        _ => Arc::new(values.iter().map(text).collect::<StringArray>()),
    }
}

/// A row: partition, offset, a value of each kind. The last is a member of a struct that is null where it is.
type Row = (i32, i64, Vec<Value>);

fn batch(rows: &[Row]) -> RecordBatch {
    let mut columns = vec![
        with_id(PARTITION, Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0)))),
        with_id(OFFSET, Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)))),
    ];
    for kind in 0..KINDS {
        let values: Vec<Value> = rows.iter().map(|row| row.2[kind as usize].clone()).collect();
        let array = array(kind, &values);
        if kind + 1 < KINDS {
            columns.push(with_id(FIRST + kind, array));
            continue;
        }
        // What is below a null struct counts as null, also where the member has a value.
        let inside: Fields = vec![field(FIRST + kind, DataType::Utf8)].into();
        let filled: ArrayRef =
            Arc::new(values.iter().map(|v| text(v).or(Some("below a null"))).collect::<StringArray>());
        let nulls = values.iter().map(|v| *v != Value::Null).collect::<Vec<_>>().into();
        columns.push(with_id(99, Arc::new(StructArray::new(inside, vec![filled], Some(nulls)))));
    }
    let lists = rows.iter().map(|row| Some(vec![Some(row.0); (row.1 % 3) as usize]));
    columns.push(with_id(98, Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))));
    let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("fits")
}

fn order(fields: &[(i32, bool, bool)]) -> TableOrder {
    let field = |(kind, descending, nulls_first): &(i32, bool, bool)| OrderField {
        source: FIRST + kind,
        transform: Transform::Identity,
        options: SortOptions { descending: *descending, nulls_first: *nulls_first },
    };
    TableOrder { id: 7, fields: fields.iter().map(field).collect() }
}

/// How two values are ordered, without Arrow.
fn compare(a: &Value, b: &Value, (_, descending, nulls_first): (i32, bool, bool)) -> Ordering {
    let flip = |order: Ordering| if descending { order.reverse() } else { order };
    let (first, second) =
        if nulls_first { (Ordering::Less, Ordering::Greater) } else { (Ordering::Greater, Ordering::Less) };
    match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => first,
        (_, Value::Null) => second,
        (Value::Whole(a), Value::Whole(b)) => flip(a.cmp(b)),
        (Value::Real(a), Value::Real(b)) => flip(a.total_cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => flip(a.cmp(b)),
        other => panic!("{other:?}"),
    }
}

fn sort(order: &TableOrder, limits: SortLimits, batches: &[RecordBatch]) -> Result<Permutation, Unsorted> {
    let mut keys = Keys::new(order, [PARTITION, OFFSET], limits);
    batches.iter().try_for_each(|batch| keys.add(batch))?;
    keys.finish().sort()
}

/// The rows as they are written, and the bytes that each range had in memory.
fn written(permutation: &Permutation, batches: &[RecordBatch]) -> (Vec<RecordBatch>, Vec<usize>) {
    let (mut out, mut held) = (Vec::new(), Vec::new());
    for range in &permutation.ranges {
        let (mut gathered, mut before) = (Gathered::new(range), 0);
        for batch in batches {
            gathered.pick(batch, permutation.ranks(before, batch.num_rows())).expect("picks");
            before += batch.num_rows();
        }
        out.extend(gathered.batches().expect("joins").map(|batch| batch.expect("gathers")));
        held.push(gathered.chunks.iter().map(RecordBatch::get_array_memory_size).sum());
    }
    (out, held)
}

fn places(batches: &[RecordBatch]) -> Vec<(i32, i64)> {
    let of = |batch: &RecordBatch| {
        let partitions = batch.column(0).as_primitive::<Int32Type>().values().to_vec();
        partitions.into_iter().zip(batch.column(1).as_primitive::<Int64Type>().values().to_vec())
    };
    batches.iter().flat_map(of).collect()
}

proptest! {
    #[test]
    fn rows_come_sorted_and_each_once(
        picks in proptest::collection::vec((0..3_i32, any::<[u8; KINDS as usize]>()), 1..120),
        fields in proptest::collection::vec((0..KINDS, any::<bool>(), any::<bool>()), 1..4),
        at_once in 1_usize..30,
        range_bytes in 200_u64..20_000,
        slice_rows in 1_usize..20,
    ) {
        let row = |(at, (partition, picks)): (usize, &(i32, [u8; KINDS as usize]))| {
            // Offsets that do not ascend, as after sorting by another order.
            let offset = (at as i64 * 37) % 101 + at as i64 / 101 * 101;
            (*partition, offset, (0..KINDS).map(|kind| value(kind, picks[kind as usize])).collect::<Vec<_>>())
        };
        let rows: Vec<Row> = picks.iter().enumerate().map(row).collect();
        let batches: Vec<RecordBatch> = rows.chunks(at_once).map(batch).collect();
        let limits = SortLimits { range_bytes, slice_rows, ranges: 1000, ..SortLimits::default() };
        let permutation = sort(&order(&fields), limits, &batches).expect("fits");
        let (out, _) = written(&permutation, &batches);
        prop_assert!(out.iter().all(|batch| (1..=slice_rows).contains(&batch.num_rows())));
        let mut expected = rows.clone();
        expected.sort_by(|a, b| {
            let by = |order: Ordering, field: &(i32, bool, bool)| {
                order.then_with(|| compare(&a.2[field.0 as usize], &b.2[field.0 as usize], *field))
            };
            fields.iter().fold(Ordering::Equal, by).then((a.0, a.1).cmp(&(b.0, b.1)))
        });
        let wanted: Vec<(i32, i64)> = expected.iter().map(|row| (row.0, row.1)).collect();
        prop_assert_eq!(places(&out), wanted);
        // Whole rows, all columns.
        let all = concat_batches(&batches[0].schema(), &out).expect("joins");
        prop_assert_eq!(all, batch(&expected));
    }

    #[test]
    fn ranges_and_slices_hold_what_there_is_room_for(sizes in proptest::collection::vec(0_u32..1000, 0..300)) {
        let limits = SortLimits { range_bytes: 3000, slice_bytes: 700, slice_rows: 9, ..SortLimits::default() };
        let ranges = cut(&limits, sizes.iter().copied());
        let slices: Vec<_> = ranges.iter().flat_map(|range| range.slices.clone()).collect();
        let bytes = |ranks: &Range<u32>| -> u64 { sizes[ranks.start as usize..ranks.end as usize].iter().map(|n| u64::from(*n)).sum() };
        let mut next = 0;
        for slice in &slices {
            prop_assert_eq!(slice.start, next, "each row in one of them");
            prop_assert!(slice.len() == 1 || (bytes(slice) <= 700 && slice.len() <= 9), "{:?}", slice);
            next = slice.end;
        }
        prop_assert_eq!(next as usize, sizes.len());
        prop_assert!(ranges.iter().all(|range| range.ranks().len() == 1 || bytes(&range.ranks()) <= 3000));
    }
}

/// Rows with text of these lengths.
fn texts(lengths: &[usize]) -> RecordBatch {
    let columns = vec![
        with_id(PARTITION, Arc::new(Int32Array::from(vec![0; lengths.len()])) as ArrayRef),
        with_id(OFFSET, Arc::new(Int64Array::from_iter_values((0..).take(lengths.len())))),
        with_id(FIRST, Arc::new(Int32Array::from_iter_values((0..).map(|n| n * 7 % 5).take(lengths.len())))),
        with_id(FIRST + 1, Arc::new(StringArray::from_iter_values(lengths.iter().map(|n| "x".repeat(*n))))),
    ];
    let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("fits")
}

#[test]
fn what_is_gathered_at_once_is_bounded_by_the_sizes_in_memory() {
    let batches: Vec<RecordBatch> = (0..50).map(|n| texts(&[n * 13 % 4000, 2, n * 100, 5000, 1])).collect();
    let limits = SortLimits { range_bytes: 30_000, slice_bytes: 6_000, ranges: 1000, ..SortLimits::default() };
    let permutation = sort(&order(&[(0, false, true)]), limits, &batches).expect("fits");
    let (out, held) = written(&permutation, &batches);
    assert_eq!(out.iter().map(RecordBatch::num_rows).sum::<usize>(), 250);
    // Arrow's buffers are rounded up.
    assert!(held.len() > 10 && held.iter().all(|bytes| *bytes < 60_000), "{held:?}");
    assert!(out.iter().all(|batch| batch.num_rows() == 1 || batch.get_array_memory_size() < 20_000));
}

#[test]
fn rows_whose_keys_have_no_room_and_those_of_too_many_ranges_are_not_sorted() {
    let by_text = order(&[(1, false, true)]);
    let limits = SortLimits { key_bytes: 10_000, ..SortLimits::default() };
    assert!(sort(&by_text, limits, &[texts(&[3000; 3])]).is_ok());
    assert!(matches!(sort(&by_text, limits, &[texts(&[3, 20_000])]), Err(Unsorted::Keys(10_000))), "one value");
    assert!(matches!(sort(&by_text, limits, &vec![texts(&[0; 10]); 100]), Err(Unsorted::Keys(_))), "many rows");
    let limits = SortLimits { range_bytes: 5_000, ranges: 3, ..SortLimits::default() };
    assert!(sort(&order(&[(0, false, true)]), limits, &[texts(&[1400; 9])]).is_ok());
    assert!(matches!(sort(&by_text, limits, &[texts(&[1400; 10])]), Err(Unsorted::Ranges(3, 5_000))));
}

#[test]
fn a_transform_of_an_engines_order_is_applied_or_refused() {
    let with = |source, transform| {
        let options = SortOptions { descending: false, nulls_first: true };
        TableOrder { id: 1, fields: vec![OrderField { source, transform, options }] }
    };
    let batches = [texts(&[40, 3, 5, 4, 1, 0])];
    let truncated = sort(&with(FIRST, Transform::Truncate(2)), SortLimits::default(), &batches).expect("sorts");
    let (out, _) = written(&truncated, &batches);
    let offsets: Vec<i64> = places(&out).into_iter().map(|(_, offset)| offset).collect();
    // Of 0, 2, 4, 1, 3, 0 these are 0, 2, 4, 0, 2, 0.
    assert_eq!(offsets, [0, 3, 5, 1, 4, 2]);
    let refused = sort(&with(FIRST + 1, Transform::Day), SortLimits::default(), &batches);
    assert!(matches!(refused, Err(Unsorted::Column(_))));
    // A column that no file of the group has is null in all rows.
    let lacking = sort(&with(77, Transform::Identity), SortLimits::default(), &batches).expect("sorts");
    assert_eq!(places(&written(&lacking, &batches).0), places(&batches));
}
