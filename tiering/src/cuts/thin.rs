//! Which cuts are kept: one a minute for an hour, one an hour for a day, one a day for a week, and the newest. Pure.

use std::collections::BTreeSet;

use tidewater_storage::model::TimestampMs;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Cuts younger than the first number are kept once in each slot of the second, all in milliseconds.
const KEPT: [(i64, i64); 3] = [(HOUR, MINUTE), (DAY, HOUR), (7 * DAY, DAY)];
/// No cut but the newest is older.
pub(super) const KEPT_MS: i64 = 7 * DAY;
/// Cuts that are kept in any case of clocks that were put back; the oldest go first.
const CUTS_MAX: usize = 256;

/// The numbers of the cuts that are released at `now`. `cuts` are numbers and times, by number.
///
/// The first cut of a slot is kept. So one that is kept now as the first of its minute is there later to be the first
/// of its hour and of its day. A cut in the future, as after a clock was put back, counts as just made.
#[must_use]
pub fn thin(cuts: &[(u64, TimestampMs)], now: TimestampMs) -> Vec<u64> {
    debug_assert!(cuts.is_sorted_by(|a, b| a.0 < b.0), "cuts are sorted by number");
    let newest = cuts.last().map(|(number, _)| *number);
    let mut taken: [BTreeSet<i64>; 3] = Default::default();
    let mut released = Vec::new();
    for (number, at) in cuts {
        // A slot is taken by its first cut, of any age: every finer slot is part of a coarser one.
        let first: Vec<bool> =
            taken.iter_mut().zip(KEPT).map(|(taken, (_, slot))| taken.insert(at.0.div_euclid(slot))).collect();
        let age = now.since_ms(*at);
        let kept = KEPT.iter().zip(first).find(|((below, _), _)| age < *below).is_some_and(|(_, first)| first);
        if !kept && Some(*number) != newest {
            released.push(*number);
        }
    }
    let kept: Vec<u64> = cuts.iter().map(|(number, _)| *number).filter(|number| !released.contains(number)).collect();
    released.extend(kept.iter().take(kept.len().saturating_sub(CUTS_MAX)));
    released
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(cuts: &mut Vec<(u64, TimestampMs)>, now: i64) {
        let released = thin(cuts, TimestampMs(now));
        cuts.retain(|(number, _)| !released.contains(number));
    }

    #[test]
    fn minutes_for_an_hour_hours_for_a_day_days_for_a_week() {
        for every in [20_000, 60_000, 61_000, 600_000] {
            let mut cuts: Vec<(u64, TimestampMs)> = Vec::new();
            let begin = 1_700_000_000_000;
            let mut now = begin;
            for number in 1.. {
                now += every;
                cuts.push((number, TimestampMs(now)));
                left(&mut cuts, now);
                if now > begin + 9 * DAY {
                    break;
                }
                // For each age a cut that is at most one slot older than asked for.
                for (age, slot) in [(0, every), (30 * MINUTE, MINUTE), (20 * HOUR, HOUR), (5 * DAY, DAY)] {
                    let wanted = now - age;
                    if wanted < begin + 2 * DAY || number % 97 != 0 {
                        continue;
                    }
                    let found = cuts.iter().rev().find(|(_, at)| at.0 <= wanted).expect("there is one");
                    assert!(wanted - found.1.0 <= 2 * slot.max(every), "{age}: {}", wanted - found.1.0);
                }
                assert!(cuts.len() <= 60 + 24 + 7 + 4, "{} cuts", cuts.len());
            }
            let oldest = cuts.first().expect("some").1.0;
            assert!((6 * DAY..=7 * DAY).contains(&(now - oldest)), "the oldest is {} ms old", now - oldest);
        }
    }

    #[test]
    fn the_newest_stays_however_old_and_a_clock_that_was_put_back_keeps_no_endless_list() {
        let mut cuts = vec![(3, TimestampMs(5)), (9, TimestampMs(70_000))];
        left(&mut cuts, 100 * DAY);
        assert_eq!(cuts, [(9, TimestampMs(70_000))]);
        let mut cuts: Vec<(u64, TimestampMs)> = (0..2_000).map(|n| (n, TimestampMs(n as i64 * MINUTE))).collect();
        left(&mut cuts, 0);
        assert_eq!((cuts.len(), cuts.last().map(|(n, _)| *n)), (CUTS_MAX, Some(1_999)));
        left(&mut cuts, i64::MAX);
        assert_eq!(cuts.len(), 1);
    }
}
