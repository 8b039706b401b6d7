//! Makes cuts of the cluster on a schedule: earlier states that a restore can go back to.
//!
//! Owns: when a cut is made, on the broker that leads the controller's lane; what is counted of them. Does not own: how
//! one is made and how long it is kept (`tiering::cuts`), cuts on demand (`admin`). Makers may race, so that it does no
//! harm if two brokers believe that they lead.
//!
//! A broker whose own disk holds the bucket keeps no cuts while that disk is nearly full: what they hold could be
//! deleted. A failure never ends the schedule, unless a restore has ended this epoch of the cluster: its cause may go
//! at any time, and until then `tidewater cluster health` names it.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_tiering::archive::ArchiveConfig;
use tidewater_tiering::bucket::Bucket;
use tidewater_tiering::cuts::{CutDone, CutError, CutMaker, Unsettled, part_of};
use tidewater_tiering::keys::{Home, Nonce};

use super::host::is_short_of_space;
use super::run::{ShardArchivers, Tier};
use crate::controller::features::{CLUSTER, CUTS};
use crate::controller::image::ClusterImage;

/// Time between two looks at the disk.
const LOOK: Duration = Duration::from_secs(10);
/// Time after which one that failed is tried again, unless the interval is shorter.
const TRY_AGAIN: Duration = Duration::from_mins(1);
/// Time between two looks for cuts that are too old, where none are made on a schedule.
const RELEASE_OLD: Duration = Duration::from_hours(1);
/// Failures in a row, of a kind that passes by itself, before it is reported as a problem of the cluster.
const FAILURES_MAX: u64 = 5;

/// Of the cuts that this broker made on its schedule. Node-wide.
#[derive(Debug, Default)]
pub struct CutStats {
    made: AtomicU64,
    failed: AtomicU64,
    kept: AtomicU64,
    /// When the newest was made, milliseconds since 1970; 0: not known.
    newest: AtomicI64,
    /// The last try, if it failed.
    failing: Mutex<Option<Failing>>,
}

#[derive(Clone, Debug)]
struct Failing {
    why: String,
    passes: bool,
    in_a_row: u64,
}

impl CutStats {
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Tries that made none although one was due.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// How many are kept; 0 on a broker that makes none.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// When the newest was made, milliseconds since 1970; 0 on a broker that makes none.
    #[must_use]
    pub fn newest_ms(&self) -> i64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Why no cuts are made, if that does not pass by itself or has lasted; `None` also on a broker that makes none.
    #[must_use]
    pub fn failing(&self) -> Option<String> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.as_ref().filter(|last| !last.passes || last.in_a_row >= FAILURES_MAX).map(|last| last.why.clone())
    }

    fn note_failing(&self, error: Option<&CutError>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failing.as_ref().map_or(0, |last| last.in_a_row);
        *failing = error.map(|error| Failing {
            why: error.to_string(),
            passes: error.disposition().passes(),
            in_a_row: before + 1,
        });
    }

    fn note(&self, done: &Result<CutDone, CutError>) {
        self.note_failing(done.as_ref().err());
        match done {
            Ok(done) => {
                self.made.fetch_add(u64::from(done.made), Ordering::Relaxed);
                self.kept.store(done.kept as u64, Ordering::Relaxed);
                self.newest.store(done.newest.as_ref().map_or(0, |cut| cut.at.0), Ordering::Relaxed);
            }
            Err(_) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn leads_no_more(&self) {
        self.note_failing(None);
        self.kept.store(0, Ordering::Relaxed);
        self.newest.store(0, Ordering::Relaxed);
    }
}

impl Tier {
    /// The time in which a cut has to be noted. Only a directory bucket is ever deleted from after the grace of a disk
    /// that is short of space.
    #[must_use]
    pub fn cut_within(&self, archive: &ArchiveConfig) -> Duration {
        let is_remote = self.url.split_once("://").is_some_and(|(scheme, _)| scheme != "file");
        let grace = archive.delete_grace;
        part_of(if is_remote { grace } else { grace.min(archive.short_of_space.0) })
    }
}

/// Does every broker of the cluster ask for cuts before it deletes?
#[must_use]
pub fn may_make_cuts(image: &ClusterImage) -> bool {
    image.features.get(CLUSTER).is_some_and(|level| *level >= CUTS)
}

/// Cuts of this home that copies of topics are taken from: they stay until the copies are complete.
#[must_use]
pub fn cuts_in_use(image: &ClusterImage, home: Home) -> BTreeSet<u64> {
    image.topics.values().filter_map(|topic| topic.copy.as_ref()?.cut_in_use(home)).collect()
}

impl ShardArchivers {
    /// Runs on the controller's shard as long as there are cuts to make. With an interval of zero none are made on
    /// schedule, and those that were made before or on demand are released when they are old.
    pub(super) async fn make_cuts(self: Rc<Self>, bucket: Bucket, interval: Duration) {
        let archive = &self.cadence.archive;
        let mut maker = CutMaker {
            in_use: BTreeSet::new(),
            store: Arc::clone(&bucket.store),
            home: bucket.home,
            indexes: self.remote.indexes(),
            within: self.tier.cut_within(archive),
            unsettled: Unsettled::default(),
        };
        let every = if interval.is_zero() { RELEASE_OLD } else { interval };
        let mut due = self.env.clock.now();
        let mut reported = None;
        loop {
            self.env.tasks.sleep(every.min(LOOK)).await;
            if !self.leads_controller() || !may_make_cuts(&self.controller.image()) {
                self.tier.cuts.leads_no_more();
                continue;
            }
            maker.in_use = cuts_in_use(&self.controller.image(), maker.home);
            let now = self.env.clock.now();
            let failure = if is_short_of_space(&self.engine) {
                match maker.release_all(self.env.clock.wall()).await {
                    Ok(0) => None,
                    Ok(released) => {
                        tracing::warn!(
                            released,
                            "the disk that holds the bucket is nearly full: its cuts are released"
                        );
                        self.tier.cuts.leads_no_more();
                        None
                    }
                    Err(error) => Some(error),
                }
            } else if now >= due {
                let clock = || (self.env.clock.wall(), self.env.clock.now().since(Mono::default()));
                let done = if interval.is_zero() {
                    maker.release_old(self.env.clock.wall()).await
                } else {
                    maker.make(Nonce(self.env.rng.next_u64()), clock).await
                };
                due = now + if done.is_ok() { every } else { every.min(TRY_AGAIN) };
                self.tier.cuts.note(&done);
                if let Ok(CutDone { newest: Some(cut), made: true, kept, .. }) = &done {
                    tracing::debug!(cut = cut.number, kept, "a cut is made");
                }
                done.err()
            } else {
                continue;
            };
            // Once for each kind of reason: what does not pass by itself would fill the log. A text may have times in
            // it.
            let kind = |error: &CutError| (std::mem::discriminant(error), error.disposition());
            match failure {
                Some(error @ CutError::Closed { .. }) => {
                    tracing::warn!(%error, "no cuts are made any more");
                    return self.tier.cuts.leads_no_more();
                }
                Some(error) if reported != Some(kind(&error)) => {
                    tracing::warn!(%error, "no cut is made now");
                    reported = Some(kind(&error));
                }
                Some(_) => {}
                None => {
                    if reported.take().is_some() {
                        tracing::info!("cuts are made again");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::LaneId;
    use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
    use tidewater_tiering::restore::RestoreError;

    use super::*;

    #[test]
    fn a_failure_is_a_problem_once_it_lasts_or_does_not_pass_and_no_more_when_its_cause_has_gone() {
        let stats = CutStats::default();
        let done = || Ok(CutDone { newest: None, made: false, kept: 0, released: 0 });
        let slow = || Err(CutError::Slow { within: Duration::from_secs(1) });
        for _ in 1..FAILURES_MAX {
            stats.note(&slow());
            assert_eq!(stats.failing(), None);
        }
        stats.note(&slow());
        assert!(stats.failing().is_some_and(|why| why.contains("took more than")));
        stats.note(&done());
        assert_eq!(stats.failing(), None);
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch(3) };
        let foreign = RestoreError::Foreign { object: home.lane_manifest(LaneId(1)), home, lane: LaneId(2) };
        stats.note(&Err(foreign.into()));
        assert!(stats.failing().is_some_and(|why| why.contains("two clusters share a cluster id")));
        stats.leads_no_more();
        assert_eq!(stats.failing(), None, "another broker makes them");
    }
}
