//! What a plan may and must not pick, for any files.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::write::DataFileName;

const LIMITS: Limits = Limits { target_bytes: 1000, min_files: 5, quiet_ms: 600_000, run_bytes: 3000, run_files: 50 };
/// Long after hour 9.
const NOW: TimestampMs = TimestampMs(20 * HOUR_MS);

fn file(id: u128, hour: i32, bytes: u64, sequence: i64) -> OurFile {
    let name = DataFileName { folder: Folder::Hour(hour), id: Uuid::from_u128(id) };
    let partition = u32::try_from(hour).expect("after 1970");
    OurFile { name, bytes, rows: bytes / 10, sequence, added: None, manifest: 0, partition }
}

fn of(files: &[OurFile]) -> Plan {
    plan(&LIMITS, files.to_vec(), &BTreeSet::new(), NOW)
}

/// The ids of each group's files.
fn ids(plan: &Plan) -> Vec<Vec<u128>> {
    plan.groups.iter().map(|group| group.files.iter().map(|file| file.name.id.as_u128()).collect()).collect()
}

#[test]
fn five_small_files_become_one_and_four_only_if_they_are_enough() {
    let small: Vec<_> = (1..=5).map(|n| file(n, 3, 100, n as i64)).collect();
    assert_eq!(ids(&of(&small)), [[1, 2, 3, 4, 5]]);
    assert_eq!(ids(&of(&small[..4])), [[0_u128; 0]; 0]);
    let half = [file(1, 3, 400, 1), file(2, 3, 400, 2)];
    assert_eq!(ids(&of(&half)), [[1, 2]], "800 bytes are a file of good size");
    assert_eq!(ids(&of(&[file(1, 3, 800, 1), file(2, 3, 100, 2)])), [[0_u128; 0]; 0], "the first is large enough");
}

#[test]
fn a_file_that_is_most_of_a_group_stays_and_its_neighbours_do_not_wait_for_it() {
    let mut files = vec![file(99, 3, 700, 1)];
    files.extend((1..=5).map(|n| file(n, 3, 10, 1 + n as i64)));
    assert_eq!(ids(&of(&files)), [[1, 2, 3, 4, 5]]);
}

#[test]
fn of_other_specs_only_new_files_wait_and_no_two_partitions_of_a_folder_mix() {
    let files = |partition: u32, added: Option<TimestampMs>| -> Vec<_> {
        let in_part = |n: u128| {
            let mut file = OurFile { added, partition, ..file(n + 10 * u128::from(partition), 0, 100, n as i64) };
            file.name.folder = Folder::Part(7);
            file
        };
        (1..=8).map(in_part).collect()
    };
    let both = |added| [files(1, added), files(2, added)].concat();
    assert_eq!(ids(&of(&both(None))), [[11, 12, 13, 14, 15, 16, 17, 18], [21, 22, 23, 24, 25, 26, 27, 28]]);
    let new = of(&both(Some(NOW.plus_ms(-599_999))));
    assert_eq!((new.groups.len(), new.waiting), (0, 16));
    let deletes = BTreeSet::from([2]);
    assert_eq!(ids(&plan(&LIMITS, both(None), &deletes, NOW)), [[11, 12, 13, 14, 15, 16, 17, 18]]);
}

#[test]
fn a_partition_whose_files_lie_in_two_folders_is_one() {
    let part = |n: u128, folder| {
        let mut file = file(n, 1, 100, n as i64);
        file.name.folder = Folder::Part(folder);
        file
    };
    let mut files: Vec<_> = (1..=6).map(|n| part(n, if n <= 3 { 5 } else { 9 })).collect();
    files.push(OurFile { partition: 2, ..part(7, 7) });
    assert_eq!(ids(&of(&files)), [[1, 2, 3, 4, 5, 6]]);
}

#[test]
fn an_hour_that_goes_on_a_new_file_and_deletes_keep_files_as_they_are() {
    let files = |hour, added: Option<TimestampMs>| -> Vec<_> {
        (1..=5).map(|n| OurFile { added, ..file(n, hour, 100, n as i64) }).collect()
    };
    let over = NOW.plus_ms(-600_000);
    for (hour, added, groups) in [(18, None, 1), (19, None, 0), (20, None, 0), (18, Some(over), 1), (18, Some(NOW), 0)]
    {
        let plan = of(&files(hour, added));
        assert_eq!(plan.groups.len(), groups, "hour {hour}, added {added:?}");
        assert_eq!(plan.waiting, if groups == 0 { 5 } else { 0 });
    }
    let deletes = BTreeSet::from([18]);
    assert!(plan(&LIMITS, files(18, None), &deletes, NOW).groups.is_empty());
    // Ten minutes after the end of hour 19.
    let later = NOW.plus_ms(600_000);
    assert_eq!(plan(&LIMITS, files(19, None), &BTreeSet::new(), later).groups.len(), 1);
}

#[test]
fn a_run_takes_the_smallest_files_first_and_says_that_there_is_more() {
    let hour = |hour: i32, bytes| (0..8).map(move |n| file((hour * 10 + n) as u128, hour, bytes, n.into()));
    let files: Vec<_> = (0..8).flat_map(|n| hour(n, if n == 5 { 20 } else { 110 })).collect();
    let plan = of(&files);
    assert_eq!(plan.groups[0].partition, 5);
    assert!(plan.more && plan.groups.len() < 8);
    assert!(plan.groups.iter().map(Group::bytes).sum::<u64>() <= LIMITS.run_bytes);
}

/// Files as they may lie in a table: of three hours, each with its own sequence number.
fn any_files() -> impl Strategy<Value = Vec<OurFile>> {
    prop::collection::vec((0..3_i32, 1..1500_u64, any::<bool>()), 0..60).prop_map(|files| {
        let of = |(n, (hour, bytes, is_new)): (usize, (i32, u64, bool))| OurFile {
            // Now and then a long run of very small ones.
            bytes: if bytes > 700 { bytes } else { bytes / 10 + 1 },
            added: (is_new && n % 7 == 0).then_some(NOW),
            ..file(n as u128, hour, bytes, (n * 7919 % 61) as i64)
        };
        files.into_iter().enumerate().map(of).collect()
    })
}

proptest! {
    #[test]
    fn rows_of_a_partition_that_goes_on_are_written_again_three_times_at_most(
        sizes in prop::collection::vec(6..=14_u64, 100..600),
    ) {
        let (mut files, mut next, mut written) = (Vec::<OurFile>::new(), 10_000, 0);
        let in_part = |id: u128, bytes: u64, sequence: i64| {
            let mut file = file(id, 0, bytes, sequence);
            file.name.folder = Folder::Part(7);
            file
        };
        for (n, bytes) in sizes.iter().enumerate() {
            files.push(in_part(n as u128, *bytes, n as i64));
            for group in of(&files).groups {
                written += group.bytes();
                files.retain(|file| !group.files.contains(file));
                files.push(in_part(next, group.bytes(), group.sequence()));
                next += 1;
            }
        }
        let total: u64 = sizes.iter().sum();
        prop_assert!(written <= total * 3, "{written} bytes for {total}");
        let small = files.iter().filter(|file| file.bytes < LIMITS.small_below()).count();
        prop_assert!(small < 20, "{small} of {} files are small", files.len());
    }

    #[test]
    fn groups_are_neighbours_of_one_hour_each_file_once(files in any_files()) {
        let plan = of(&files);
        let mut seen = BTreeSet::new();
        for group in &plan.groups {
            prop_assert!(group.files.len() >= LIMITS.min_files || group.bytes() >= LIMITS.small_below());
            prop_assert!(group.files.len() >= 2 && group.bytes() <= LIMITS.target_bytes);
            prop_assert!(group.files.iter().all(|file| file.bytes * 2 <= group.bytes()));
            prop_assert!(group.files.iter().all(|file| file.bytes < LIMITS.small_below() && file.added.is_none()));
            prop_assert!(group.files.iter().all(|file| file.partition == group.partition && seen.insert(file.name)));
            prop_assert!(group.files.is_sorted_by_key(|file| file.sequence));
            // No other file of the hour comes between its first and its last.
            let span = group.files[0].sequence..=group.sequence();
            let between = files.iter().filter(|f| f.partition == group.partition && span.contains(&f.sequence));
            prop_assert_eq!(between.count(), group.files.len());
        }
    }

    #[test]
    fn runs_come_to_an_end_and_a_row_is_not_written_often(files in any_files()) {
        let (mut files, mut next) = (files, 1000);
        for file in &mut files {
            file.added = None;
        }
        let total: u64 = files.iter().map(|file| file.bytes).sum();
        let mut written = 0;
        for run in 0.. {
            prop_assert!(run < 100, "never done");
            let plan = of(&files);
            if plan.groups.is_empty() {
                break;
            }
            for group in plan.groups {
                written += group.bytes();
                files.retain(|file| !group.files.contains(file));
                let hour = i32::try_from(group.partition).expect("an hour");
                files.push(file(next, hour, group.bytes(), group.sequence()));
                next += 1;
            }
        }
        prop_assert!(written <= total * 3, "{written} bytes for {total}");
        // What is left small has too few small neighbours.
        let mut by_hour: BTreeMap<u32, Vec<OurFile>> = BTreeMap::new();
        files.sort_by_key(|file| file.sequence);
        files.iter().for_each(|file| by_hour.entry(file.partition).or_default().push(*file));
        for hour in by_hour.values() {
            let tiny = hour.windows(5).filter(|five| five.iter().all(|file| file.bytes <= 20)).count();
            prop_assert_eq!(tiny, 0);
        }
    }
}
