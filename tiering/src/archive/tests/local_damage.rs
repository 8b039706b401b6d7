//! A local log that does not read: only what is damaged is set aside, and only its own partition waits.

use super::*;
use crate::manifest::Quarantine;

fn range(start: u64, end: u64) -> OffsetRange {
    OffsetRange::new(Offset::new(start), Offset::new(end))
}

impl Bench {
    fn archived_end(&self, nth: usize) -> u64 {
        self.lane.with_partition(self.partitions[nth], |m| m.archived_end.get()).expect("there")
    }

    fn quarantined(&self, nth: usize) -> Vec<OffsetRange> {
        let offsets = |m: &crate::manifest::PartitionManifest| m.quarantined.iter().map(|q| q.offsets).collect();
        self.lane.with_partition(self.partitions[nth], offsets).expect("there")
    }

    fn silence(&self, nth: usize, silent: bool) {
        self.lane.logs.borrow_mut().get_mut(&self.partitions[nth]).expect("there").silent = silent;
    }

    fn propose(&self, command: Command) {
        self.world.block_on(self.lane.propose(command)).expect("is applied");
    }
}

#[test]
fn a_log_start_moved_past_the_damage_lets_the_rest_of_its_range_go() {
    let bench = Bench::new(32, Faults::default(), 1);
    let id = bench.partitions[0];
    (0..20).for_each(|_| bench.lane.append(id, 1, 100));
    bench.lane.logs.borrow_mut().get_mut(&id).expect("there").rotten = Some(Offset::new(4));
    // As versions before set aside all that waited, not the run that was bad.
    let wide = Quarantine { partition: id, offsets: range(4, 20), reason: "rotten".to_owned() };
    bench.propose(Command::Quarantined(wide));
    bench.live_for(Duration::from_secs(3), 0);
    assert_eq!((bench.archived_end(0), bench.quarantined(0)), (4, vec![range(4, 20)]));

    let trim = |to: u64| crate::manifest::Trimmed { partition: id, log_start: Offset::new(to), pages: Vec::new() };
    bench.propose(Command::Trimmed(trim(6)));
    bench.live_for(Duration::from_secs(3), 0);
    assert_eq!((bench.archived_end(0), bench.quarantined(0)), (20, Vec::new()));
    bench.all_reads_back();
}

#[test]
fn what_is_still_bad_after_a_trim_is_set_aside_again() {
    let bench = Bench::new(33, Faults::default(), 1);
    let id = bench.partitions[0];
    (0..20).for_each(|_| bench.lane.append(id, 1, 100));
    bench.lane.logs.borrow_mut().get_mut(&id).expect("there").rotten = Some(Offset::new(10));
    bench.propose(Command::Quarantined(Quarantine {
        partition: id,
        offsets: range(4, 20),
        reason: "rotten".to_owned(),
    }));
    let trim = crate::manifest::Trimmed { partition: id, log_start: Offset::new(6), pages: Vec::new() };
    bench.propose(Command::Trimmed(trim));
    bench.live_for(Duration::from_secs(3), 0);
    assert_eq!((bench.archived_end(0), bench.quarantined(0)), (10, vec![range(10, 11)]));
    bench.all_reads_back();
}

#[test]
fn a_disk_that_does_not_answer_stops_neither_other_partitions_nor_housekeeping() {
    let bench = Bench::new(34, Faults::default(), 2);
    let archiver = bench.archiver();
    let running = archiver.clone();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    bench.world.run_for(Duration::from_secs(1));
    bench.silence(0, true);
    bench.lane.append(bench.partitions[0], 1, 100);
    for _ in 0..200 {
        bench.world.run_for(Duration::from_millis(10));
        assert!(archiver.status().probed, "it is not the bucket that fails");
    }
    let status = archiver.status();
    assert!(status.unread[&bench.partitions[0]].contains("EIO"), "{status:?}");
    assert_eq!(status.failing, None);

    for _ in 0..10 {
        (0..10).for_each(|_| bench.lane.append(bench.partitions[1], 3, 200));
        bench.world.run_for(Duration::from_secs(1));
    }
    let status = archiver.status();
    assert_eq!((bench.archived_end(0), bench.archived_end(1)), (0, 300));
    assert!(status.segments > 0 && status.published > 0, "{status:?}");

    bench.silence(0, false);
    bench.world.run_for(Duration::from_secs(2));
    assert_eq!((bench.archived_end(0), archiver.status().unread.len()), (1, 0));
    assert_eq!(bench.quarantined(0), []);
    task.cancel();
    bench.all_reads_back();
}
