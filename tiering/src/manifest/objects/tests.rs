//! Pages of objects come back as they were written, and only what changed is written again.

use proptest::collection::vec;
use proptest::prelude::*;
use tidewater_storage::model::{LaneId, LogIndex};

use super::*;
use crate::keys::tests::any_name;
use crate::manifest::codec::tests::home;
use crate::manifest::lane::{Live, Pending};

/// Publishes again and again what the lane holds then.
struct Bucket {
    lane: LaneManifest,
    objects: BTreeMap<ObjectName, Bytes>,
    nonce: u64,
}

impl Bucket {
    fn new() -> Self {
        Self { lane: LaneManifest::new(home(), LaneId(1)), objects: BTreeMap::new(), nonce: 0 }
    }

    fn live(&mut self, object: ObjectName) {
        let live = Live { size: 1000, since: LogIndex(1), parts: Vec::new(), pins: 0, spilled: 0 };
        self.lane.live.insert(object, live);
    }

    /// How many pages were written.
    fn publish(&mut self) -> usize {
        let nonce = &mut self.nonce;
        let (pages, refs) = plan_objects(&self.lane, Term(1), &mut || {
            *nonce += 1;
            Nonce(*nonce)
        });
        let written = pages.len();
        self.objects.extend(pages);
        let read: Vec<LaneObject> = refs
            .iter()
            .flat_map(|page| decode_objects(page, &self.objects[&page.page]).expect("just written"))
            .collect();
        assert_eq!(read, LaneObject::all_of(&self.lane), "the bucket says what the lane says");
        self.lane.object_pages = Some(refs);
        written
    }
}

fn bundle(sequence: u64) -> ObjectName {
    home().bundle(LaneId(1), Sequence(sequence))
}

fn gathered(first: u64) -> ObjectName {
    home().name(ObjectKind::Gathered { lane: LaneId(1), first: Sequence(first), term: Term(1), nonce: Nonce(first) })
}

#[test]
fn months_of_gathered_objects_are_not_written_again_for_each_bundle() {
    let mut bucket = Bucket::new();
    (0..3_000).for_each(|n| bucket.live(gathered(n * 360)));
    let all = bucket.publish();
    assert!((1..4).contains(&all), "{all} pages");
    assert_eq!(bucket.publish(), 0, "nothing changed");
    for round in 0..130u64 {
        // Six bundles a minute; those of an hour ago are gathered and go.
        for n in 0..6 {
            bucket.live(bundle(round * 6 + n));
        }
        if round % 60 == 59 {
            for n in 0..360 {
                let object = bundle((round - 59) * 6 + n);
                bucket.lane.live.remove(&object).expect("was there");
                bucket.lane.pending.insert(object, Pending { intended: LogIndex(1), parts: Vec::new() });
            }
            bucket.live(gathered(9_000_000 + round));
        }
        let written = bucket.publish();
        assert!(written <= 2, "{written} pages in round {round}");
    }
    let pages = bucket.lane.object_pages.as_ref().expect("published");
    let small = pages.iter().filter(|page| (page.size as usize) < PAGE_BYTES / 4).count();
    assert!(small <= 3, "{small} small ones of {} pages", pages.len());
    let bytes: u64 = pages.iter().map(|page| u64::from(page.size)).sum();
    assert!(bytes < 3_000 * 20 + 800 * 12, "{bytes} bytes");
}

proptest! {
    #[test]
    fn any_objects_come_back(
        rounds in vec(vec((any_name(), any::<Option<(u64, u32)>>(), vec(any_name(), 0..3)), 0..30), 1..4),
    ) {
        let mut bucket = Bucket::new();
        for objects in rounds {
            for (object, live, parts) in objects {
                bucket.lane.live.remove(&object);
                bucket.lane.pending.remove(&object);
                match live {
                    Some((size, spilled)) => {
                        let live = Live { size, since: LogIndex(1), parts, pins: 0, spilled };
                        bucket.lane.live.insert(object, live);
                    }
                    None => {
                        bucket.lane.pending.insert(object, Pending { intended: LogIndex(1), parts });
                    }
                }
            }
            bucket.publish();
            prop_assert_eq!(bucket.publish(), 0);
        }
    }

    #[test]
    fn noise_never_panics(bytes in vec(any::<u8>(), 0..300)) {
        let _ = take_objects(&mut Decoder::new("test", &bytes));
        let _ = take_object_page_refs(&mut Decoder::new("test", &bytes));
    }
}
