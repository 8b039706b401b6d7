//! Specs as text, and the partitions of records by them.

use bytes::Bytes;
use iceberg::spec::{FormatVersion, SortOrder, TableMetadataBuilder};
use proptest::prelude::*;
use tidewater_storage::model::record::Record;
use tidewater_storage::model::{Offset, PartitionIndex, TimestampMs, TimestampType};

use super::spec::PartitionChoice;
use super::*;

fn partitioner(text: &str) -> Partitioner {
    let choice = PartitionChoice::parse(text).expect("a spec");
    let schema = schema::table_schema().expect("schema");
    let builder = TableMetadataBuilder::new(
        schema,
        choice.to_spec().expect("legal"),
        SortOrder::unsorted_order(),
        "file:///t".into(),
        FormatVersion::V2,
        [].into(),
    );
    let metadata = builder.and_then(TableMetadataBuilder::build).expect("metadata").metadata;
    Partitioner::of_table(&metadata).expect("one of ours")
}

fn record(offset: u64, key: Option<&[u8]>) -> Record {
    let record = Record::new(TimestampMs(0), key.map(Bytes::copy_from_slice), None);
    Record { offset: Offset::new(offset), ..record }
}

fn key_of(by: &Partitioner, partition: i32, micros: i64, record: &Record) -> PartitionKey {
    by.key(&Placed { partition: PartitionIndex(partition), kind: TimestampType::Create, micros, record })
}

#[test]
fn a_spec_is_read_as_it_is_written() {
    for text in [
        "()",
        "(hour(tidewater.timestamp))",
        "(day(tidewater.timestamp), bucket(16, tidewater.key))",
        "(tidewater.partition, truncate(1000000, tidewater.offset), year(tidewater.timestamp))",
        "(truncate(16, tidewater.key), bucket(128, tidewater.key), month(tidewater.timestamp))",
        "(day(tidewater.timestamp), country, bucket(16, customer.id), truncate(3, customer.id))",
        "(month(created_at), key.größe)",
    ] {
        assert_eq!(PartitionChoice::parse(text).expect("a spec").to_string(), text);
    }
    let loose =
        PartitionChoice::parse(" ( HOUR( tidewater.timestamp ) ,identity(tidewater.partition)) ").expect("a spec");
    assert_eq!(loose.to_string(), "(hour(tidewater.timestamp), tidewater.partition)");
    assert_eq!(PartitionChoice::parse("(hour(tidewater.timestamp))"), Ok(PartitionChoice::default()));
}

#[test]
fn what_is_no_spec_is_refused_with_what_is_missing() {
    for (text, part) in [
        ("", "a list such as"),
        ("hour(tidewater.timestamp)", "a list such as"),
        ("(hour(tidewater.timestamp)", "a list such as"),
        ("(a))", "a list such as"),
        ("(,)", "\"\" is no name of a column"),
        ("(bucket(4, a b))", "is no name of a column, such as country"),
        ("(address..city)", "is no name of a column"),
        ("(bucket(200, customer))", "bucket(1 to 128, …) of customer"),
        ("(truncate(0, customer))", "width of at least 1"),
        ("(day(at), hour(at))", "two fields of the same kind of at"),
        ("(country, Country)", "two fields of the same kind of Country"),
        ("(truncate(1, at), truncate(2, at))", "two fields of the same kind of at"),
        ("(hours(tidewater.timestamp))", "is none of year(c)"),
        ("(bucket(tidewater.key))", "is none of"),
        ("(bucket(-1, tidewater.key))", "is none of"),
        ("(void(tidewater.key))", "is none of"),
        ("(tidewater.customer)", "those are tidewater.partition, tidewater.offset, tidewater.timestamp, tidewater.key"),
        ("(tidewater.headers)", "is no column"),
        ("(tidewater.key)", "bucket(1 to 128, …) or truncate(1 to 16, …) of tidewater.key"),
        ("(tidewater.timestamp)", "year, month, day or hour of tidewater.timestamp"),
        ("(tidewater.offset)", "of tidewater.offset"),
        ("(day(tidewater.offset))", "of tidewater.offset"),
        ("(bucket(129, tidewater.key))", "1 to 128"),
        ("(bucket(0, tidewater.key))", "1 to 128"),
        ("(truncate(17, tidewater.key))", "1 to 16"),
        ("(truncate(0, tidewater.offset))", "of tidewater.offset"),
        ("(truncate(4294967295, tidewater.offset))", "of tidewater.offset"),
        ("(day(tidewater.timestamp), hour(tidewater.timestamp))", "two fields of the same kind"),
        ("(bucket(2, tidewater.key), bucket(3, tidewater.key))", "two fields of the same kind"),
    ] {
        let refused = PartitionChoice::parse(text).expect_err("is no spec");
        assert!(refused.contains(part), "{text}: {refused}");
    }
}

#[test]
fn time_is_rounded_down_before_1970_too() {
    // Iceberg specification, appendix B, and its neighbours; the last two are the first and the last time of a table.
    const DAY: i64 = 24 * HOUR_US;
    for (micros, expected) in [
        (0, [0, 0, 0, 0]),
        (-1, [-1, -1, -1, -1]),
        (HOUR_US - 1, [0, 0, 0, 0]),
        (1_510_871_468_000_000, [47, 574, 17_486, 419_686]),
        (-365 * DAY, [-1, -12, -365, -8_760]),
        (-365 * DAY - 1, [-2, -13, -366, -8_761]),
        // 2000-02-29, 2000-03-01.
        (11_016 * DAY, [30, 361, 11_016, 264_384]),
        (11_017 * DAY, [30, 362, 11_017, 264_408]),
        (-62_135_596_800_000_000, [-1_969, -23_628, -719_162, -17_259_888]),
        (253_402_300_799_999_999, [8_029, 96_359, 2_932_896, 70_389_527]),
    ] {
        let found = [Transform::Year, Transform::Month, Transform::Day, Transform::Hour].map(|by| time(by, micros));
        assert_eq!(found, expected, "{micros}");
    }
}

#[test]
fn each_field_has_its_value() {
    let by = partitioner(
        "(tidewater.partition, truncate(10, tidewater.offset), day(tidewater.timestamp), truncate(2, tidewater.key), \
         bucket(16, tidewater.key))",
    );
    let values = |key| key_of(&by, 3, 86_400_000_000, &record(25, key));
    let fields = |key: PartitionValue, bucket| {
        PartitionKey::Fields(vec![
            PartitionValue::Int(3),
            PartitionValue::Long(20),
            PartitionValue::Int(1),
            key,
            bucket,
        ])
    };
    // The hash of these bytes is an example of the specification: -188683207.
    let bucket = (-188_683_207_i32 & i32::MAX) % 16;
    assert_eq!(values(Some(&[0, 1, 2, 3])), fields(PartitionValue::Binary(vec![0, 1]), PartitionValue::Int(bucket)));
    assert_eq!(values(None), fields(PartitionValue::Null, PartitionValue::Null));
    assert_eq!(key_of(&partitioner("()"), 3, 0, &record(1, None)), PartitionKey::Fields(Vec::new()));
    assert_eq!(key_of(&partitioner("(hour(tidewater.timestamp))"), 3, -1, &record(1, None)), PartitionKey::Hour(-1));
}

#[test]
fn a_key_goes_through_a_manifest_entry() {
    let by = partitioner("(tidewater.partition, truncate(9, tidewater.key), truncate(7, tidewater.offset))");
    for key in [None, Some(&b""[..]), Some(b"a key of some length")] {
        let key = key_of(&by, 3, 0, &record(25, key));
        assert_eq!(PartitionKey::of(&key.to_struct(), false), Some(key.clone()));
        assert_eq!(PartitionKey::of(&key.to_struct(), true), None);
    }
    let hour = PartitionKey::Hour(-5);
    assert_eq!(PartitionKey::of(&hour.to_struct(), true), Some(hour));
}

#[test]
fn a_folder_is_read_as_it_is_written() {
    for folder in [Folder::Hour(-3), Folder::Hour(i32::MAX), Folder::Part(0), Folder::Part(u64::MAX)] {
        assert_eq!(Folder::parse(&folder.to_string()), Some(folder));
    }
    for name in ["hour=01", "hour=", "part=1", "part=00000000000000AB", "part=+00000000000000b", "tidewater_hour=1", ""]
    {
        assert_eq!(Folder::parse(name), None, "{name}");
    }
}

const TERMS: &[&str] = &[
    "hour(tidewater.timestamp)",
    "month(tidewater.timestamp)",
    "tidewater.partition",
    "bucket(7, tidewater.key)",
    "truncate(3, tidewater.key)",
    "bucket(2, tidewater.offset)",
    "truncate(5, tidewater.partition)",
    "x",
    "(",
];

proptest! {
    #[test]
    fn no_text_is_more_than_refused(text in "\\PC{0,60}") {
        let _ = PartitionChoice::parse(&text);
    }

    #[test]
    fn what_is_read_is_a_spec_of_a_table(
        terms in prop::collection::vec(prop::sample::select(TERMS), 0..5),
        partition in 0..1000,
        offset in 0..i64::MAX as u64,
        micros in -62_135_596_800_000_000..253_402_300_799_999_999_i64,
        key in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
    ) {
        let text = format!("({})", terms.join(","));
        if let Ok(choice) = PartitionChoice::parse(&text) {
            prop_assert_eq!(PartitionChoice::parse(&choice.to_string()), Ok(choice));
            let by = partitioner(&text);
            let key = key_of(&by, partition, micros, &record(offset, key.as_deref()));
            prop_assert_eq!(PartitionKey::of(&key.to_struct(), by.is_by_hour()), Some(key));
        }
    }
}
