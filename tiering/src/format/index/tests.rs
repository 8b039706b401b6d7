//! Indexes come back as they went in; hostile bytes come back as errors.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidewater_storage::model::{LaneId, LogIndex, PartitionId, ProducerEpoch, Term, TimestampMs};

use super::*;
use crate::format::{DataKind, ProducerBatch, ProducerState, read_whole};
use crate::keys::Sequence;
use crate::keys::tests::{any_home, any_name, any_partition};

fn any_time() -> impl Strategy<Value = TimestampMs> {
    any::<i64>().prop_map(TimestampMs)
}

fn any_offset() -> impl Strategy<Value = Offset> {
    (0..1u64 << 40).prop_map(Offset::new)
}

fn any_extent() -> impl Strategy<Value = Extent> {
    let run = (1..1000u64, 1..2_000_000u32, any::<u32>(), any_time()).prop_map(|(count, len, crc, max_timestamp)| {
        let offsets = OffsetRange::new(Offset::ZERO, Offset::new(count));
        Run { sum: RunSum { offsets, len, crc }, max_timestamp }
    });
    let object = option::of(any_name()).prop_map(|part| part.map_or(ExtentObject::Here, ExtentObject::Part));
    (object, 0..1u64 << 40, vec(run, 1..5)).prop_map(|(object, position, runs)| Extent { object, position, runs })
}

fn any_entry() -> impl Strategy<Value = PartitionEntry> {
    let epochs = vec((any::<i32>(), any_offset()), 0..3);
    let aborted = vec((any::<i64>(), any_offset(), any_offset()), 0..3);
    (any_partition(), any_offset(), any_offset(), any_time(), any_time(), epochs, aborted, vec(any_extent(), 0..3))
        .prop_map(|(partition, start, log_start, min_timestamp, max_timestamp, epochs, aborted, mut extents)| {
            let mut at = start;
            for run in extents.iter_mut().flat_map(|extent| &mut extent.runs) {
                run.sum.offsets = OffsetRange::new(at, at.plus(run.sum.offsets.count()));
                at = run.sum.offsets.end;
            }
            let epochs = epochs.into_iter().map(|(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start });
            let aborted = aborted.into_iter().map(|(producer, first, last)| AbortedTransaction {
                producer: ProducerId(producer),
                first,
                last,
            });
            let (epochs, aborted) = (epochs.collect(), aborted.collect());
            let offsets = OffsetRange::new(start, at);
            PartitionEntry { partition, offsets, log_start, min_timestamp, max_timestamp, epochs, aborted, extents }
        })
}

/// Producers of a partition whose batches begin at 0.
fn any_producers() -> impl Strategy<Value = Vec<ProducerState>> {
    let batch = (any::<i32>(), any::<i32>(), 1..400u64, any_time());
    let producer = (any::<i16>(), any_time(), vec(batch, 1..6));
    proptest::collection::btree_map(any::<i64>(), producer, 0..4).prop_map(|producers| {
        let producer = |(id, (epoch, seen, batches)): (i64, (i16, TimestampMs, Vec<(i32, i32, u64, TimestampMs)>))| {
            let mut at = 0;
            let batch = |(first, last, step, timestamp)| {
                let offset = Offset::new(at);
                at += step;
                ProducerBatch { first, last, offset, timestamp }
            };
            let batches = batches.into_iter().map(batch).collect();
            ProducerState { id: ProducerId(id), epoch: ProducerEpoch(epoch), seen, batches }
        };
        producers.into_iter().map(producer).collect()
    })
}

fn any_event() -> impl Strategy<Value = LaneEvent> {
    let configs = vec(("[a-z.]{1,20}", "[a-z0-9]{0,9}"), 0..3);
    prop_oneof![
        (any_partition(), "[a-zA-Z0-9_-]{1,40}", configs, any_offset(), any::<i32>()).prop_map(
            |(partition, topic, configs, start, base)| LaneEvent::Created {
                partition,
                topic: TopicName::new(&topic).expect("legal"),
                configs,
                start,
                epoch_base: LeaderEpoch(base),
            }
        ),
        any_partition().prop_map(|partition| LaneEvent::Dropped { partition }),
        (any_partition(), any_offset()).prop_map(|(partition, to)| LaneEvent::LogStartMoved { partition, to }),
        (any_partition(), any::<u32>(), any_offset()).prop_map(|(partition, to, at)| LaneEvent::Departed {
            partition,
            to: LaneId(to),
            at
        }),
        (any_partition(), any::<u32>(), any_offset()).prop_map(|(partition, from, at)| LaneEvent::Arrived {
            partition,
            from: LaneId(from),
            at
        }),
    ]
}

prop_compose! {
    fn any_index()(
        kind in prop_oneof![Just(DataKind::Bundle), Just(DataKind::Part), Just(DataKind::Segment), Just(DataKind::Gathered)],
        home in any_home(),
        (lane, sequence, term, log_index) in (any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>()),
        previous in any::<u32>(),
        written in any_time(),
        mut partitions in vec(any_entry(), 0..5),
        events in vec(any_event(), 0..4),
        seal in option::of((any::<u32>(), any::<u64>())),
        cut in option::of((any::<u64>(), option::of(any_name()))),
        producers in option::of(vec(any_producers(), 5)),
    ) -> DataIndex {
        partitions.sort_by_key(|entry: &PartitionEntry| entry.partition);
        partitions.dedup_by_key(|entry| entry.partition);
        let producers = producers.map(|of| {
            let changes = |(entry, producers): (&PartitionEntry, Vec<ProducerState>)| {
                let within = |mut producer: ProducerState| {
                    let inside = |batch: &mut ProducerBatch| {
                        batch.offset = entry.offsets.start.plus(batch.offset.get());
                        entry.offsets.contains(batch.offset)
                    };
                    producer.batches.retain_mut(inside);
                    (!producer.batches.is_empty()).then_some(producer)
                };
                let producers: Vec<_> = producers.into_iter().filter_map(within).collect();
                (!producers.is_empty()).then_some(PartitionProducers { partition: entry.partition, producers })
            };
            partitions.iter().zip(of).filter_map(changes).collect()
        });
        DataIndex {
            kind, home, lane: LaneId(lane), sequence: Sequence(sequence), term: Term(term),
            log_index: LogIndex(log_index), previous, written, partitions, events, producers,
            seal: seal.map(|(epoch, last)| Seal { next_epoch: LineageEpoch(epoch), last: Sequence(last) }),
            cut: cut.map(|(number, manifest)| CutMark { number, manifest }),
        }
    }
}

proptest! {
    #[test]
    fn an_index_comes_back(index in any_index()) {
        let bytes = encode_index(&index);
        prop_assert_eq!(decode_index(&bytes), Ok(index));
    }

    #[test]
    fn a_damaged_index_is_an_error_or_canonical(index in any_index(), at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = encode_index(&index).to_vec();
        let place = at.index(bytes.len());
        bytes[place] ^= 1 << bit;
        if let Ok(other) = decode_index(&bytes) {
            prop_assert_eq!(decode_index(&encode_index(&other)), Ok(other));
        }
        let len = cut.index(bytes.len());
        let _ = decode_index(&bytes[..len]);
    }

    #[test]
    fn noise_never_panics(bytes in vec(any::<u8>(), 0..400)) {
        let _ = decode_index(&bytes);
        let _ = read_whole(&bytes.into(), crate::format::Body::Index);
    }
}

#[test]
fn unknown_sections_are_skipped_only_when_they_may_be() {
    let index = DataIndex {
        kind: DataKind::Bundle,
        home: crate::keys::Home { cluster: Default::default(), epoch: LineageEpoch::FIRST },
        lane: LaneId(1),
        sequence: Sequence(1),
        term: Term(1),
        log_index: LogIndex(1),
        previous: 0,
        written: TimestampMs(0),
        partitions: Vec::new(),
        events: Vec::new(),
        producers: None,
        seal: None,
        cut: None,
    };
    let with = |must_know| {
        let mut out = Encoder::new();
        out.raw(&encode_index(&index));
        out.section(900, must_know, |out| out.u64(1));
        decode_index(&out.finish())
    };
    assert_eq!(with(false), Ok(index.clone()));
    assert_eq!(with(true), Err(CodecError::MustKnow { what: "index", tag: 900 }.into()));
}

#[test]
fn a_huge_count_allocates_nothing() {
    let mut out = Encoder::new();
    out.section(2, true, |out| out.var(u64::MAX >> 1));
    assert!(decode_index(&out.finish()).is_err());
    let mut reader = Decoder::new("test", &[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2]);
    assert!(reader.count(1).is_err());
    let _ = PartitionId::default();
}
