//! Restores and replicas that are wrong on purpose, at the seams of the simulated world: what the simulation must
//! notice.
//!
//! | defect | made by | what it breaks |
//! | --- | --- | --- |
//! | seal before close | PUTs of closed manifests are answered at once and done later | named objects are there |
//! | no seal | the restore's PUTs of seals are answered and never done | what a replica has shown stays |
//! | no clamp of group offsets | the restored controller knows no ends of partitions | commits are in the log |
//! | seed without new stamps | lanes begin as of a late entry of the lost log | all is archived in the end |
//! | forgotten producers | the restored partitions know no producer | no batch lies there twice |
//! | a read is not tried again | readers of the replica go by old rows and ask for no new ones | readers stay open |
//! | the horizon ignores cuts | the broker reads an index without cuts | what a kept cut reaches is there |
//! | a cut is noted too late | a maker's put of the index takes longer than the grace | the same |

use std::sync::Arc;
use std::time::Duration;

use tidewater::controller::state::ControllerState;
use tidewater_storage::env::Env;
use tidewater_storage::model::LogIndex;
use tidewater_tiering::restore::LaneSeed;
use tidewater_tiering::store::meddler::Meddler;
use tidewater_tiering::store::{ObjectKey, ObjectStore, PutMode};

use super::plan::{EpochsPlan, Old};
use super::run::run;
use crate::defects::caught;
use crate::hasty::Hasty;

/// Seeds within which a defect must be noticed: the rarest shows in one of 25.
const SEEDS: u64 = 150;

/// Later than any entry of a restored log within a run, as of a cluster that has run for weeks.
const OLD_STAMP: LogIndex = LogIndex(50_000_000);

/// See the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    SealBeforeClose,
    NoSeal,
    NoClamp,
    OldStamps,
    ForgottenProducers,
    ReadOnce,
    HorizonIgnoresCuts,
    NotedTooLate,
}

#[test]
fn every_defect_of_a_restore_is_caught() {
    let mut escaped = Vec::new();
    let only = std::env::var("TIDEWATER_DEFECT").ok();
    let is_asked = |defect: &Defect| only.as_ref().is_none_or(|name| *name == format!("{defect:?}"));
    for defect in Defect::ALL.into_iter().filter(is_asked) {
        let run = |seed| drop(run(with_defect(defect, seed), false));
        let Some(why) = caught(&format!("{defect:?}"), SEEDS, run) else {
            escaped.push(defect);
            continue;
        };
        let is_meant = defect.breaks().iter().any(|text| why.contains(text));
        assert!(is_meant, "{defect:?} is noticed by a check that is not meant for it: {why}");
    }
    assert!(escaped.is_empty(), "no check failed within {SEEDS} seeds: {escaped:?}");
}

/// The plan of a seed with what brings a defect to light.
fn with_defect(defect: Defect, seed: u64) -> EpochsPlan {
    let of_cuts = matches!(defect, Defect::HorizonIgnoresCuts | Defect::NotedTooLate);
    // Cuts hold back the deletes by which other defects show.
    let without = ["rival", "kills"].into_iter().chain((!of_cuts).then_some("cuts"));
    let mut plan = EpochsPlan::of(seed, without.map(str::to_owned).collect());
    plan.defect = Some(defect);
    for loss in &mut plan.losses {
        match defect {
            Defect::SealBeforeClose => (loss.old, loss.late, loss.idle) = (Old::Stays, false, true),
            Defect::NoSeal => (loss.old, loss.late, loss.idle) = (Old::Stays, false, false),
            Defect::HorizonIgnoresCuts | Defect::NotedTooLate => loss.late = false,
            Defect::NoClamp | Defect::OldStamps | Defect::ForgottenProducers | Defect::ReadOnce => {}
        }
        loss.end_hold = defect != Defect::SealBeforeClose;
    }
    plan
}

impl Defect {
    pub(crate) const ALL: [Self; 8] = [
        Self::SealBeforeClose,
        Self::NoSeal,
        Self::NoClamp,
        Self::OldStamps,
        Self::ForgottenProducers,
        Self::ReadOnce,
        Self::HorizonIgnoresCuts,
        Self::NotedTooLate,
    ];

    /// What the checks say that are to notice it, one of these.
    fn breaks(self) -> &'static [&'static str] {
        match self {
            Self::SealBeforeClose => &["is named and not there", "is not in the bucket"],
            Self::NoSeal => &["the replica has shown", "the replica's end fell", "has other bytes now"],
            Self::NoClamp => &["is committed, the restored partition ends at"],
            Self::OldStamps => &["never: all is archived"],
            Self::ForgottenProducers => &["and again at"],
            Self::ReadOnce => &["an open reader of the replica at"],
            Self::HorizonIgnoresCuts | Self::NotedTooLate => &["is reached by cut"],
        }
    }

    /// The bucket as such a restore uses it.
    pub(crate) fn spoil_restorer(self, env: &Env, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        match self {
            Self::SealBeforeClose => {
                // The manifests of the home that is made are put as they should be: nothing lies there.
                let closes = |key: &ObjectKey, mode: &PutMode| {
                    key.as_str().contains("/manifests/") && matches!(mode, PutMode::IfMatch(_))
                };
                let hasty = Hasty::new(store, closes);
                hasty.work(env, Duration::from_secs(40), false);
                hasty.over()
            }
            Self::NoSeal => Hasty::new(store, |key, _| key.as_str().contains("/lanes/")).over(),
            _ => store,
        }
    }

    /// What such a restore begins with.
    pub(crate) fn spoil_seed(self, state: &mut ControllerState, lanes: &mut [LaneSeed]) {
        match self {
            Self::NoClamp => {
                if let Some(lineage) = &mut state.lineage {
                    Arc::make_mut(lineage).ends.clear();
                }
            }
            Self::OldStamps => {
                for lane in lanes {
                    lane.archive.changed = Some(OLD_STAMP);
                    lane.partitions.iter_mut().for_each(|published| published.manifest.changed = Some(OLD_STAMP));
                }
            }
            Self::ForgottenProducers => {
                let partitions = lanes.iter_mut().flat_map(|lane| &mut lane.partitions);
                partitions.for_each(|published| published.facts.producers.clear());
            }
            Self::SealBeforeClose | Self::NoSeal | Self::ReadOnce | Self::HorizonIgnoresCuts | Self::NotedTooLate => {}
        }
    }
}
