//! Restores and replicas that are wrong on purpose, at the seams of the simulated world: what the simulation must
//! notice.
//!
//! | defect | made by |
//! | --- | --- |
//! | seal before close | the restore's PUTs of closed manifests are answered at once and done later |
//! | no seal | its PUTs of seals are answered and never done |
//! | no clamp of group offsets | the restored controller does not know where partitions ended |
//! | seed without new stamps | what the restored lanes begin with is as of a late entry of the lost log |
//! | forgotten producers | the restored partitions know no producer |
//! | a read is not tried again | a reader of the replica goes by old rows, and does not ask for new ones |

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidewater::controller::state::ControllerState;
use tidewater_storage::env::Env;
use tidewater_storage::model::LogIndex;
use tidewater_tiering::restore::LaneSeed;
use tidewater_tiering::store::{
    ByteSource, ETag, Got, Head, Listed, ObjectKey, ObjectStore, PutDone, PutMode, StoreError,
};

use super::plan::{EpochsPlan, Old};
use super::run::run;
use crate::defects::caught;

/// Seeds within which a defect must be noticed.
const SEEDS: u64 = 60;

/// See the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    SealBeforeClose,
    NoSeal,
    NoClamp,
    OldStamps,
    ForgottenProducers,
    ReadOnce,
}

#[test]
fn every_defect_of_a_restore_is_caught() {
    let escapes = |defect: &Defect| {
        caught(&format!("{defect:?}"), SEEDS, |seed| drop(run(with_defect(*defect, seed), false))).is_none()
    };
    let escaped: Vec<_> = Defect::ALL.into_iter().filter(escapes).collect();
    assert!(escaped.is_empty(), "no check failed within {SEEDS} seeds: {escaped:?}");
}

/// The plan of a seed with what brings a defect to light.
fn with_defect(defect: Defect, seed: u64) -> EpochsPlan {
    let mut plan = EpochsPlan::of(seed, ["rival".to_owned(), "kills".to_owned()].into());
    plan.defect = Some(defect);
    for loss in &mut plan.losses {
        match defect {
            Defect::SealBeforeClose | Defect::NoSeal => (loss.old, loss.late) = (Old::Stays, false),
            Defect::NoClamp | Defect::OldStamps | Defect::ForgottenProducers | Defect::ReadOnce => {}
        }
        loss.end_hold = true;
    }
    plan
}

impl Defect {
    pub(crate) const ALL: [Self; 6] =
        [Self::SealBeforeClose, Self::NoSeal, Self::NoClamp, Self::OldStamps, Self::ForgottenProducers, Self::ReadOnce];

    /// The bucket as such a restore uses it.
    pub(crate) fn spoil_restorer(self, env: &Env, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        let (keys, later) = match self {
            Self::SealBeforeClose => ("/manifests/", Some(Duration::from_secs(40))),
            Self::NoSeal => ("/lanes/", None),
            _ => return store,
        };
        let hasty = Arc::new(Hasty { store, keys, put_off: Mutex::default() });
        let Some(later) = later else { return hasty };
        let (slow, worker) = (Arc::clone(&hasty), env.clone());
        drop(env.tasks.spawn("hasty restore", async move {
            worker.tasks.sleep(later).await;
            let put_off = std::mem::take(&mut *slow.put_off.lock().unwrap_or_else(PoisonError::into_inner));
            for (key, body, mode) in put_off {
                let _ = slow.store.put(&key, body, mode).await;
            }
        }));
        hasty
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
                let old = Some(LogIndex(400));
                for lane in lanes {
                    lane.archive.changed = old;
                    lane.partitions.iter_mut().for_each(|published| published.manifest.changed = old);
                }
            }
            Self::ForgottenProducers => {
                let partitions = lanes.iter_mut().flat_map(|lane| &mut lane.partitions);
                partitions.for_each(|published| published.facts.producers.clear());
            }
            Self::SealBeforeClose | Self::NoSeal | Self::ReadOnce => {}
        }
    }
}

/// Says that objects under some keys are there before they are.
#[derive(Debug)]
struct Hasty {
    store: Arc<dyn ObjectStore>,
    keys: &'static str,
    put_off: Mutex<Vec<(ObjectKey, Bytes, PutMode)>>,
}

#[async_trait]
impl ObjectStore for Hasty {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        // The manifests of the home that is made are put as they should be: nothing lies there.
        let is_closing = matches!(mode, PutMode::IfMatch(_)) || self.keys == "/lanes/";
        if !key.as_str().contains(self.keys) || !is_closing {
            return self.store.put(key, body, mode).await;
        }
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner).push((key.clone(), body, mode));
        Ok(PutDone { etag: ETag("soon".into()) })
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        self.store.get(key, range).await
    }

    async fn get_if_changed(&self, key: &ObjectKey, etag: &ETag) -> Result<Option<Got>, StoreError> {
        self.store.get_if_changed(key, etag).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        self.store.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        self.store.list(prefix, after, max).await
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        self.store.delete(keys).await
    }

    async fn put_large(&self, key: &ObjectKey, size: u64, source: ByteSource) -> Result<PutDone, StoreError> {
        self.store.put_large(key, size, source).await
    }
}
