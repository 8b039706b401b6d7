//! How long publications have stood, by the monotonic clock.
//!
//! Owns: publication times since this archiver began. Does not own: publication times by the wall clock ([`Grace::now`]
//! and `LaneManifest::publications`, which outlive the process). Shard-local. If the wall clock steps forward, objects
//! that cold reads under way still name must stay; so the grace must have passed by both clocks.

use std::collections::VecDeque;
use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_storage::model::{LogIndex, TimestampMs};

use crate::manifest::Grace;

/// Publications remembered; beyond, every second one is dropped, which only delays deletes.
const AGES_MAX: usize = 64;

/// Since when which state is published, oldest first.
#[derive(Debug)]
pub(super) struct PublicationAges(VecDeque<(LogIndex, Mono)>);

impl PublicationAges {
    /// Of an archiver that begins `now`: what was published before has stood since then, as far as it knows.
    pub(super) fn new(published: Option<LogIndex>, now: Mono) -> Self {
        Self(published.map(|as_of| (as_of, now)).into_iter().collect())
    }

    /// Notes a publication.
    pub(super) fn published(&mut self, as_of: LogIndex, now: Mono) {
        self.0.push_back((as_of, now));
        if self.0.len() > AGES_MAX {
            let last = self.0.len() - 1;
            let mut place = 0;
            self.0.retain(|_| {
                place += 1;
                place % 2 == 1 || place > last
            });
        }
    }

    /// What may be deleted at `wall` and `now` with this grace, if there are no cuts.
    pub(super) fn grace(&self, grace: Duration, wall: TimestampMs, now: Mono) -> Grace {
        let stood = self.0.iter().rev().find(|(_, since)| now.since(*since) >= grace);
        let ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        Grace { now: wall, ms, stood: stood.map(|(as_of, _)| *as_of), horizon: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stood_long_enough_counts_and_many_publications_are_thinned() {
        let at = |secs: u64| Mono::default() + Duration::from_secs(secs);
        let stood = |ages: &PublicationAges, secs| ages.grace(Duration::from_secs(10), TimestampMs(0), at(secs)).stood;
        let mut ages = PublicationAges::new(Some(LogIndex(5)), at(0));
        assert_eq!((stood(&ages, 9), stood(&ages, 10)), (None, Some(LogIndex(5))));
        (1..=200).for_each(|n| ages.published(LogIndex(5 + n), at(n)));
        assert!(ages.0.len() <= AGES_MAX);
        assert!(stood(&ages, 209).is_some_and(|as_of| as_of < LogIndex(205)));
        assert_eq!(stood(&ages, 210), Some(LogIndex(205)), "the last one is never dropped");
    }
}
