//! Keys print and parse back; what sorts as numbers sorts as keys.

use proptest::prelude::*;

use super::*;

pub(crate) fn any_partition() -> impl Strategy<Value = PartitionId> {
    (any::<u128>(), 0..i32::MAX, any::<u32>()).prop_map(|(topic, index, incarnation)| PartitionId {
        topic: TopicId(Uuid::from_u128(topic)),
        index: PartitionIndex(index),
        incarnation: Incarnation(incarnation),
    })
}

pub(crate) fn any_home() -> impl Strategy<Value = Home> {
    (any::<u128>(), any::<u32>())
        .prop_map(|(cluster, epoch)| Home { cluster: ClusterId(Uuid::from_u128(cluster)), epoch: LineageEpoch(epoch) })
}

pub(crate) fn any_kind() -> impl Strategy<Value = ObjectKind> {
    let lane = || any::<u32>().prop_map(LaneId);
    let sequence = || any::<u64>().prop_map(Sequence);
    let term = || any::<u64>().prop_map(Term);
    let nonce = || any::<u64>().prop_map(Nonce);
    let offset = || (0..=Offset::MAX.get()).prop_map(Offset::new);
    prop_oneof![
        Just(ObjectKind::Catalogue),
        (lane(), sequence()).prop_map(|(lane, sequence)| ObjectKind::Bundle { lane, sequence }),
        (any_partition(), lane(), sequence(), term(), nonce()).prop_map(|(partition, lane, sequence, term, nonce)| {
            ObjectKind::Part { partition, lane, sequence, term, nonce }
        }),
        (any_partition(), offset(), term(), nonce()).prop_map(|(partition, base, term, nonce)| ObjectKind::Segment {
            partition,
            base,
            term,
            nonce
        }),
        (lane(), sequence(), term(), nonce()).prop_map(|(lane, first, term, nonce)| ObjectKind::Gathered {
            lane,
            first,
            term,
            nonce
        }),
        (any_partition(), offset(), any::<u8>(), nonce())
            .prop_map(|(partition, start, level, nonce)| ObjectKind::Spill { partition, start, level, nonce }),
        lane().prop_map(|lane| ObjectKind::LaneManifest { lane }),
        (lane(), term(), nonce()).prop_map(|(lane, term, nonce)| ObjectKind::Page { lane, term, nonce }),
        any::<u64>().prop_map(|number| ObjectKind::Cut { number }),
    ]
}

pub(crate) fn any_name() -> impl Strategy<Value = ObjectName> {
    (any_home(), any_kind()).prop_map(|(home, kind)| home.name(kind))
}

proptest! {
    #[test]
    fn a_key_parses_back(name in any_name()) {
        let key = name.key();
        prop_assert_eq!(ObjectKey::new(key.as_str()), Ok(key.clone()));
        prop_assert_eq!(ObjectName::parse(&key), Some(name));
    }

    #[test]
    fn no_other_key_parses(text in "[a-z0-9/-]{1,90}", name in any_name(), cut in 1usize..200) {
        if let Ok(key) = ObjectKey::new(&text) {
            prop_assert_eq!(ObjectName::parse(&key), None);
        }
        let whole = name.key();
        let shorter = whole.as_str().get(..whole.as_str().len().saturating_sub(cut)).unwrap_or_default();
        if let Ok(key) = ObjectKey::new(shorter) {
            prop_assert!(ObjectName::parse(&key).is_none_or(|other| other != name));
        }
    }

    #[test]
    fn bundles_sort_as_their_sequences(home in any_home(), lane in any::<u32>(), a in any::<u64>(), b in any::<u64>()) {
        let key = |sequence| home.bundle(LaneId(lane), Sequence(sequence)).key();
        prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
    }
}

#[test]
fn keys_are_spelled_as_format_md_says() {
    let home = Home { cluster: ClusterId(Uuid::from_u128(0xabc)), epoch: LineageEpoch::FIRST };
    assert_eq!(
        home.bundle(LaneId(3), Sequence(17)).key().as_str(),
        "00000000-0000-0000-0000-000000000abc/0000000001/lanes/0000000003/00000000000000000017"
    );
    assert_eq!(ClusterName::new("tidewater").expect("legal").root_key().as_str(), "tidewater/root");
}

#[test]
fn bad_keys_and_names_are_refused() {
    for bad in ["", "/a", "a/", "a//b", "a/../b", ".", "a b", "a\n", "ä", "a*"] {
        assert!(ObjectKey::new(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "A", "-a", "a/b", "a b"] {
        assert!(ClusterName::new(bad).is_err(), "{bad:?}");
    }
    assert!(ObjectKey::new(&"a".repeat(KEY_BYTES_MAX + 1)).is_err());
}
