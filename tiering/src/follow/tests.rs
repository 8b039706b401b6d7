//! Random histories of a simple writer, followed step by step: what is followed is what the bucket has.

mod damage;
mod reader;
mod restored;
mod writer;

use proptest::prelude::*;
use tidewater_storage::model::Offset;

use super::*;
use crate::keys::{Home, Sequence};
use reader::{Polled, Reader};
use writer::{Bucket, Writer};

/// A drawn step.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    who: u64,
    a: u64,
    b: u64,
}

fn any_step() -> impl Strategy<Value = Step> {
    (0..40u8, 0..8u64, 0..64u64, 1..12u64).prop_map(|(kind, who, a, b)| Step { kind, who, a, b })
}

/// Reads a lane to its end for a restore.
fn read_for_restore(bucket: &Bucket, home: Home) -> FollowedLane {
    let mut reader = Reader::new(home, Purpose::Restore);
    let polled = reader.poll(bucket, false);
    assert_eq!(polled, Polled::Sealed, "the lane was sealed");
    reader.lane
}

/// The writer's part of a step. `true`: a dead leader's bundle may lie where one was deleted.
fn write(writer: &mut Writer, step: Step) -> bool {
    let Step { kind, who, a, b } = step;
    let Some(partition) = writer.pick(who) else {
        writer.create();
        return false;
    };
    match kind {
        0..=9 => writer.append(partition, b, (a % 3) as i64),
        10..=17 => writer.bundle(a | 1 << who, b, a % 4 == 0),
        18 | 19 => writer.trim(partition, Offset::new(a * b / 4), a % 2 == 0),
        20..=22 => writer.replace(partition, b as usize, a % 2 == 0),
        23 => writer.spill(partition, b as usize),
        24..=26 => writer.publish(),
        27 => {
            writer.delete(a % 2 == 0);
            return a % 2 == 0;
        }
        28 => writer.create(),
        29 => writer.next_term(),
        30 if a % 3 == 0 => writer.drop_topic(partition),
        31 => writer.clean(),
        32 if a % 4 == 0 => writer.take_over(read_for_restore),
        _ => {}
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn replica_equals_bucket(steps in proptest::collection::vec(any_step(), 1..160)) {
        let mut writer = Writer::new();
        let mut reader = Reader::new(writer.home(), Purpose::Read);
        let mut strange = false;
        for step in steps {
            strange |= write(&mut writer, step);
            if step.kind < 33 {
                continue;
            }
            let polled = reader.poll(&writer.bucket, step.a % 2 == 0);
            match polled {
                Polled::NotYet => {}
                // A dead leader's bundle was taken: the chain breaks after it, until the manifest is read again.
                Polled::Stuck(FollowError::Chain { .. }) if strange => continue,
                other => prop_assert!(false, "{other:?}"),
            }
            // A reader of a home that ended learns that when it looks at the manifest.
            if !strange && reader.lane.home() == writer.home() {
                reader.equals_bucket(&writer, true);
            }
        }
        // In the end a look at a new manifest brings all.
        writer.publish();
        prop_assert_eq!(reader.poll(&writer.bucket, true), Polled::NotYet);
        prop_assert_eq!(reader.lane.last(), writer.lane.last);
        prop_assert_eq!(reader.lane.tail_entries(), 0, "a new base is all there is");
        reader.equals_bucket(&writer, !strange);
    }

    #[test]
    fn a_reader_that_begins_anywhere_sees_the_same(steps in proptest::collection::vec(any_step(), 1..120)) {
        let mut writer = Writer::new();
        for step in steps.into_iter().filter(|step| step.kind != 27) {
            write(&mut writer, step);
        }
        let mut reader = Reader::new(writer.home(), Purpose::Restore);
        prop_assert_eq!(reader.poll(&writer.bucket, false), Polled::NotYet);
        prop_assert_eq!(reader.lane.last(), writer.lane.last);
        reader.equals_bucket(&writer, true);
        writer.check_facts(&reader.lane);
    }
}
