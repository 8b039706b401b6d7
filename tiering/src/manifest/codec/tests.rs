//! Manifests come back as they went in; hostile bytes come back as errors; a trickling partition stays small.

use proptest::prelude::*;
use tidewater_storage::model::{LaneId, LogIndex, PartitionId, Term};

use super::*;
use crate::keys::tests::any_name;
use crate::keys::{ClusterId, Home, LineageEpoch, Nonce};
use crate::manifest::{Command, SpillPage, decode_spill, encode_spill};

pub(crate) fn home() -> Home {
    Home { cluster: ClusterId(uuid::Uuid::from_u128(7)), epoch: LineageEpoch::FIRST }
}

fn any_source() -> impl Strategy<Value = Source> {
    let bundle = (any::<bool>(), 1..300u64)
        .prop_map(|(other, sequence)| Source::Bundle(home().bundle(LaneId(u32::from(other)), Sequence(sequence))));
    let object = (any_name(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>()).prop_map(
        |(object, start, len, offset, index_len, crc)| Source::Object {
            object,
            start,
            len,
            index: IndexRef { offset, len: index_len, crc },
        },
    );
    prop_oneof![3 => bundle, 1 => object]
}

prop_compose! {
    fn any_manifest()(
        start in 0..1u64 << 40,
        rows in proptest::collection::vec((1..1000u64, any::<u32>(), any::<i64>(), any_source()), 0..40),
        quarantined in any::<bool>(),
        changed in proptest::option::of(any::<u64>()),
    ) -> PartitionManifest {
        let mut manifest = PartitionManifest::new(PartitionId::default(), Offset::new(start), LogIndex(0));
        for (count, bytes, time, source) in rows {
            let end = manifest.archived_end.plus(count);
            let offsets = OffsetRange::new(manifest.archived_end, end);
            manifest.rows.push(Row { offsets, bytes: bytes.into(), max_timestamp: TimestampMs(time), source });
            manifest.archived_end = end;
        }
        if quarantined {
            let offsets = OffsetRange::new(Offset::new(1), Offset::new(9));
            manifest.quarantined.push(Quarantined { offsets, reason: "crc".into() });
        }
        manifest.changed = changed.map(LogIndex);
        manifest
    }
}

proptest! {
    #[test]
    fn a_partition_comes_back(manifest in any_manifest()) {
        prop_assert_eq!(PartitionManifest::decode(&manifest.encode()), Ok(manifest));
    }

    #[test]
    fn a_spill_page_comes_back(manifest in any_manifest()) {
        prop_assume!(!manifest.rows.is_empty());
        let page = SpillPage::Rows(manifest.rows);
        let (object, index) = encode_spill(manifest.id, &page);
        prop_assert_eq!(decode_spill(manifest.id, index.crc, &object), Ok(page));
        prop_assert!(decode_spill(manifest.id, index.crc ^ 1, &object).is_err());
    }

    #[test]
    fn damage_never_panics(manifest in any_manifest(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = manifest.encode().to_vec();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        let _ = PartitionManifest::decode(&bytes);
        let _ = PartitionManifest::decode(&bytes[..place]);
    }

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = PartitionManifest::decode(&bytes);
        let _ = LaneManifest::decode(&bytes);
        let _ = Command::decode(&bytes);
    }
}

#[test]
fn a_gap_in_the_rows_is_refused() {
    let mut manifest = PartitionManifest::new(PartitionId::default(), Offset::ZERO, LogIndex(0));
    for start in [0, 20] {
        let offsets = OffsetRange::new(Offset::new(start), Offset::new(start + 10));
        let source = Source::Bundle(home().bundle(LaneId(1), Sequence(1)));
        manifest.rows.push(Row { offsets, bytes: 1, max_timestamp: TimestampMs(0), source });
    }
    manifest.archived_end = Offset::new(30);
    assert!(PartitionManifest::decode(&manifest.encode()).is_err());
}

#[test]
fn a_trickling_partition_takes_few_bytes_a_bundle() {
    let mut manifest = PartitionManifest::new(PartitionId::default(), Offset::ZERO, LogIndex(0));
    for sequence in 0..256u64 {
        let offsets = OffsetRange::new(Offset::new(sequence * 10), Offset::new(sequence * 10 + 10));
        let source = Source::Bundle(home().bundle(LaneId(1), Sequence(sequence)));
        let max_timestamp = TimestampMs(1_700_000_000_000 + 10_000 * sequence as i64);
        manifest.rows.push(Row { offsets, bytes: 1500, max_timestamp, source });
    }
    manifest.archived_end = Offset::new(2560);
    let bytes = manifest.encode().len();
    assert!(bytes < 256 * 10 + 200, "{bytes}");
}

#[test]
fn a_full_partition_stays_below_its_bound() {
    let mut manifest = PartitionManifest::new(PartitionId::default(), Offset::ZERO, LogIndex(0));
    for row in 0..crate::manifest::partition::ROWS_MAX as u64 {
        let offsets = OffsetRange::new(Offset::new(row << 20), Offset::new((row + 1) << 20));
        let nonce = Nonce(row.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let kind = ObjectKind::Segment { partition: manifest.id, base: offsets.start, term: Term(3), nonce };
        let index = IndexRef { offset: 1 << 30, len: 20_000, crc: 5 };
        let source = Source::Object { object: home().name(kind), start: 0, len: 1 << 30, index };
        manifest.rows.push(Row { offsets, bytes: 1 << 30, max_timestamp: TimestampMs(1 << 40), source });
        manifest.archived_end = offsets.end;
    }
    let encoded = manifest.encode().len();
    let resident =
        manifest.rows.len() * size_of::<Row>() + crate::manifest::partition::SPILL_PAGES_MAX * size_of::<SpillRow>();
    assert!(encoded < 256 << 10 && resident < 256 << 10, "{encoded} encoded, {resident} resident");
}
