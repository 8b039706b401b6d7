//! Local retention of a lane: local bytes go behind what the bucket holds; total retention of topics without a bucket.
//!
//! Owns: when each partition is looked at: something happened to it (`dirty`), or its oldest local segment has reached
//! its age by the wall clock; a clock that is set counts at the next look. A lane without a time limit has no timer.
//! Every replica does so, leading or not: a follower goes by the archived end that it has applied, and leaves the
//! commands that move a log start to the leader.
//! Does not own: the decision (`tidewater_storage::log::retention`), the order of files going (the engine).
//! Shard-local.

use std::collections::BTreeSet;
use std::rc::Rc;

use tidewater_storage::engine::Engine;
use tidewater_storage::log::retention::{RetentionLimits, RetentionView, plan};
use tidewater_storage::model::{Offset, OffsetRange, PartitionId, TimestampMs};
use tidewater_storage::segment::SegmentInfo;
use tidewater_tiering::manifest::PartitionManifest;
use tidewater_tiering::retention::DueQueue;

use super::run::ShardArchivers;
use crate::partition::state::command::{LaneCommand, LaneOp};
use crate::partition::state::dirty::DirtyList;
use crate::partition::state::lane::DataLane;
use crate::partition::state::replica::Replica;

/// When a partition is looked at next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// At the next look: a segment should go and may not yet.
    Again,
    /// At this time, if nothing happens to the partition before.
    At(TimestampMs),
    /// When something happens to the partition.
    WhenChanged,
}

impl ShardArchivers {
    pub(super) async fn retain(self: Rc<Self>, lane: Rc<DataLane>, engine: Engine) {
        let (mut now_due, mut later) = (BTreeSet::new(), DueQueue::default());
        let mut led = None;
        loop {
            self.env.tasks.sleep(self.cadence.retention_interval).await;
            let leads = lane.status.leading();
            if std::mem::replace(&mut led, leads) != leads && leads.is_some() {
                // What only a leader may do was left undone.
                now_due.extend(lane.replicas().iter().map(|replica| replica.id));
            }
            take_changed(&lane, &mut now_due);
            now_due.extend(later.take(self.env.clock.wall()));
            for id in std::mem::take(&mut now_due) {
                let next = match lane.replica(id) {
                    Some(replica) => self.retain_one(&lane, &replica, &engine).await,
                    None => Next::WhenChanged,
                };
                later.set(id, None);
                match next {
                    Next::Again => drop(now_due.insert(id)),
                    Next::At(at) => later.set(id, Some(at)),
                    Next::WhenChanged => {}
                }
            }
            if now_due.is_empty() && later.is_empty() {
                lane.dirty.changed(DirtyList::Retention).await;
            }
        }
    }

    async fn retain_one(&self, lane: &DataLane, replica: &Replica, engine: &Engine) -> Next {
        let config = replica.config();
        let segments = replica.log.segments();
        let archived_end = config.archived.then(|| replica.manifest().archived_end);
        let image = self.controller.image();
        let copy = image.topic_by_id(replica.id.topic).and_then(|topic| topic.copy.as_ref());
        let is_held = copy.is_some_and(|copy| copy.holds(self.env.clock.wall()));
        let limits = RetentionLimits {
            total_ms: config.retention_ms.filter(|_| !config.archived && !is_held),
            total_bytes: config.retention_bytes.filter(|_| !config.archived && !is_held),
            local_ms: config.local_retention_ms,
            local_bytes: config.local_retention_bytes,
        };
        let now = self.env.clock.wall();
        let plan = plan(
            &RetentionView {
                segments: &segments,
                log_start: replica.log_start(),
                stable_end: replica.last_stable_offset(),
                archived_end,
                remote_only_bytes: 0,
                now,
            },
            &limits,
        );
        let leads = lane.status.leading().is_some();
        if plan.log_start > replica.log_start() && !leads {
            // The leader's command marks the partition as changed.
            return Next::WhenChanged;
        }
        if plan.log_start > replica.log_start() {
            let command = LaneCommand::Trim { partition: replica.id, to: plan.log_start };
            if let Err(error) = lane.propose(LaneOp::Command(command)).await {
                tracing::debug!(partition = %replica.id, %error, "retention will be tried again");
                return Next::Again;
            }
        }
        if plan.local_start > replica.log.bounds().start {
            let to = if config.archived {
                sparing(&replica.manifest(), &segments, plan.local_start)
            } else {
                plan.local_start
            };
            if to <= replica.log.bounds().start || !self.may_trim(lane, replica, to) {
                return Next::Again;
            }
            let before = replica.log.bounds().start;
            replica.log.trim(to);
            // A log start within a segment frees nothing yet; appends and bundles mark the partition as changed.
            if replica.log.bounds().start > before {
                engine.touch_partition(replica.id);
                return Next::Again;
            }
        }
        let age = if config.archived { limits.local_ms } else { limits.total_ms };
        next(&segments, age, now)
    }
}

/// Up to where whole segments may go so that no range goes whose copy in the bucket failed a check: the local copy may
/// be the only good one.
fn sparing(manifest: &PartitionManifest, segments: &[SegmentInfo], to: Offset) -> Offset {
    let Some(start) = segments.first().map(|segment| segment.offsets.start) else { return to };
    let Some(bad) = manifest.quarantine_in(OffsetRange::new(start, to)) else { return to };
    let whole = segments.iter().map(|segment| segment.offsets.start).filter(|start| *start <= bad.offsets.start);
    whole.max().unwrap_or(start)
}

/// When the oldest segment reaches its age. A segment that has and is still there waits for something else: a segment
/// after it, the bucket. Both mark the partition as changed.
fn next(segments: &[SegmentInfo], age: Option<u64>, now: TimestampMs) -> Next {
    let (Some(oldest), Some(age)) = (segments.first().filter(|s| s.max_timestamp.0 >= 0), age) else {
        return Next::WhenChanged;
    };
    let age = i64::try_from(age).unwrap_or(i64::MAX);
    let at = TimestampMs(oldest.max_timestamp.0.saturating_add(age).saturating_add(1));
    if at > now { Next::At(at) } else { Next::WhenChanged }
}

fn take_changed(lane: &DataLane, into: &mut BTreeSet<PartitionId>) {
    let marks = |id| lane.replica(id).map(super::host::Marked);
    lane.dirty.retain(DirtyList::Retention, marks, |id| {
        into.insert(id);
        false
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use tidewater_storage::env::sim::World;
    use tidewater_storage::model::LogIndex;
    use tidewater_tiering::manifest::Quarantined;

    use super::*;
    use crate::partition::fixture::Fixture;

    fn segment(max_timestamp: i64) -> SegmentInfo {
        SegmentInfo {
            offsets: OffsetRange::new(Offset::ZERO, Offset::new(1)),
            bytes: 1,
            max_timestamp: TimestampMs(max_timestamp),
            closed: true,
            created: TimestampMs(0),
        }
    }

    #[test]
    fn what_is_damaged_in_the_bucket_stays_here() {
        let range = |start, end| OffsetRange::new(Offset::new(start), Offset::new(end));
        let segments: Vec<SegmentInfo> =
            [range(0, 10), range(10, 20), range(20, 30)].map(|offsets| SegmentInfo { offsets, ..segment(1) }).into();
        let mut manifest = PartitionManifest::new(PartitionId::default(), Offset::ZERO, LogIndex(1));
        assert_eq!(sparing(&manifest, &segments, Offset::new(30)), Offset::new(30));
        manifest.quarantined.push(Quarantined { offsets: range(15, 18), reason: "a sum".to_owned() });
        assert_eq!(sparing(&manifest, &segments, Offset::new(30)), Offset::new(10));
        assert_eq!(sparing(&manifest, &segments, Offset::new(15)), Offset::new(15));
        assert_eq!(sparing(&manifest, &segments[1..], Offset::new(30)), Offset::new(10), "none goes");
        assert_eq!(sparing(&manifest, &segments[2..], Offset::new(30)), Offset::new(30), "it went long ago");
    }

    #[test]
    fn the_oldest_segment_says_when() {
        assert_eq!(next(&[segment(50), segment(10)], Some(100), TimestampMs(60)), Next::At(TimestampMs(151)));
        assert_eq!(next(&[segment(50)], Some(100), TimestampMs(151)), Next::WhenChanged);
        assert_eq!(next(&[segment(50)], None, TimestampMs(60)), Next::WhenChanged);
        assert_eq!(next(&[segment(-1)], Some(100), TimestampMs(60)), Next::WhenChanged);
        assert_eq!(next(&[], Some(100), TimestampMs(60)), Next::WhenChanged);
    }

    #[test]
    fn a_log_start_within_a_segment_leaves_an_idle_partition_idle() {
        let world = World::new(3);
        let env = world.env();
        world.block_on(async {
            let shard = Fixture::with_bucket(&env).await;
            let overrides = BTreeMap::from([("remote.storage.enable".to_owned(), "false".to_owned())]);
            shard.create(2, overrides).await;
            let replica = shard.in_small_segments(1);
            let parts = (0..20).map(|n| shard.record(1, TimestampMs(1000 + n))).collect();
            assert!(shard.router.produce(parts).await.iter().all(Result::is_ok));
            let second = replica.log.segments()[1].offsets.start;
            let to = second.next();
            assert_eq!(shard.router.trim(shard.address(1), to).await, Ok(to));
            env.tasks.sleep(Duration::from_secs(60)).await;
            assert_eq!(replica.log.bounds().start, second, "whole segments go");
            let before = shard.engine.counts().checkpoints;
            env.tasks.sleep(Duration::from_secs(300)).await;
            let more = shard.engine.counts().checkpoints - before;
            assert!(more <= 1, "{more} checkpoints of a partition to which nothing happens");
        });
    }
}
