//! Publications hold every partition once, and rewrite only what changed.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidewater_storage::model::{LaneId, Offset, OffsetRange, PartitionId, PartitionIndex};

use super::*;
use crate::keys::Sequence;
use crate::manifest::codec::tests::home;
use crate::manifest::page::decode_page;
use crate::manifest::row::{Row, Source};
use crate::manifest::{Command, PublishedLane};

fn partition(index: i32, rows: u64, changed: u64) -> PartitionManifest {
    let id = PartitionId { index: PartitionIndex(index), ..PartitionId::default() };
    let mut manifest = PartitionManifest::new(id, Offset::ZERO, LogIndex(changed));
    for row in 0..rows {
        let offsets = OffsetRange::new(Offset::new(row), Offset::new(row + 1));
        let source = Source::Bundle(home().bundle(LaneId(1), Sequence(row)));
        manifest.rows.push(Row { offsets, bytes: 1, max_timestamp: TimestampMs(0), source });
    }
    manifest.archived_end = Offset::new(rows);
    manifest
}

struct Bucket {
    lane: LaneManifest,
    partitions: BTreeMap<PartitionId, PartitionManifest>,
    objects: BTreeMap<ObjectName, Bytes>,
    nonce: u64,
}

impl Bucket {
    /// Publishes as of `at` and answers how many pages were written.
    fn publish(&mut self, at: u64) -> usize {
        let partitions: Vec<&PartitionManifest> = self.partitions.values().collect();
        let request = PublishRequest {
            lane: &self.lane,
            partitions: &partitions,
            facts: &|_| LogFacts::default(),
            as_of: LogIndex(at),
            term: Term(1),
            now: TimestampMs(0),
        };
        let nonce = &mut self.nonce;
        let plan = plan_publish(&request, || {
            *nonce += 1;
            Nonce(*nonce)
        });
        let written = plan.pages.len();
        self.objects.extend(plan.pages);
        let read = PublishedLane::decode(&plan.manifest).expect("just written");
        let mut found = Vec::new();
        for page in &read.pages {
            found.extend(decode_page(page, &self.objects[&page.page]).expect("just written"));
        }
        assert!(
            found.iter().map(|found| &found.manifest).eq(self.partitions.values()),
            "the bucket says what the state says"
        );
        let published = Published { etag: "e".into(), ..plan.published };
        self.lane.apply(LogIndex(at + 1), &Command::Published(published)).expect("newer");
        written
    }
}

#[test]
fn only_what_changed_is_written_again() {
    let partitions = (0..400).map(|n| partition(n, 200, 1)).map(|p| (p.id, p)).collect();
    let mut bucket =
        Bucket { lane: LaneManifest::new(home(), LaneId(1)), partitions, objects: BTreeMap::new(), nonce: 0 };
    let all = bucket.publish(5);
    assert!((4..20).contains(&all), "{all} pages for 400 partitions");
    assert_eq!(bucket.publish(10), 0, "nothing changed");
    let changed = partition(7, 100, 20);
    bucket.partitions.insert(changed.id, changed);
    assert_eq!(bucket.publish(30), 1);
    let gone = *bucket.partitions.keys().nth(200).expect("there are 400");
    bucket.partitions.remove(&gone);
    assert_eq!(bucket.publish(40), 1, "a partition that went");
    let new = partition(4000, 1, 45);
    bucket.partitions.insert(new.id, new);
    assert_eq!(bucket.publish(50), 1, "a partition that came");
    assert!(!bucket.lane.pending.is_empty(), "old pages are on their way out");
    bucket.partitions.clear();
    assert_eq!(bucket.publish(60), 0);
    assert!(bucket.lane.pages.is_empty());
}
