//! A restore from the first request to the switch.
//!
//! Owns: the sequence of the steps ([`order`](super::order)). Safe to drop at any await and to run again with the same
//! attempt.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use tidewater_storage::model::{LaneId, TimestampMs};

use super::error::RestoreError;
use super::freeze::Lanes;
use super::home;
use super::order::Attempt;
use super::plan::{Plan, plan};
use super::read::LaneRead;
use super::report::Report;
use super::root::{self, Held};
use crate::fetch::Indexes;
use crate::follow::served_home;
use crate::keys::{ClusterName, Home, Nonce};
use crate::manifest::{Catalogue, Root};
use crate::store::{self, ObjectStore};

/// Lanes read or written at once.
pub(super) const LANES_AT_ONCE: usize = 8;
/// Memory for indexes of bundles; none is read twice.
const INDEX_BYTES: u64 = 16 << 20;

/// How far a restore is. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Lanes of the source that are read, and ended if it is no survey.
    Read { done: usize, total: usize },
    /// Lanes of the new home that are written.
    Written { done: usize, total: usize },
}

/// A cluster's place in a bucket, as a restore sees it.
#[derive(Clone)]
pub struct Restore {
    pub store: Arc<dyn ObjectStore>,
    pub name: ClusterName,
    /// Go on where a lane ends before a damaged or missing bundle, or the catalogue lacks a topic.
    pub accept_damage: bool,
    pub now: TimestampMs,
    /// Random numbers.
    pub nonce: Arc<dyn Fn() -> Nonce + Send + Sync>,
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Restore({})", self.name)
    }
}

impl Restore {
    /// The root as it is.
    ///
    /// # Errors
    /// There is none of that name; what the store says.
    pub async fn root(&self) -> Result<Root, RestoreError> {
        Ok(root::read(&*self.store, &self.name).await?.0)
    }

    /// What a restore would bring back now. Writes nothing.
    ///
    /// # Errors
    /// What the store says; an object that a restore needs cannot be read.
    pub async fn survey(&self) -> Result<Report, RestoreError> {
        let source = self.served().await?;
        let lanes = self.lanes(source, None);
        let (catalogue, read) = self.read_all(&lanes).await?;
        Ok(plan(source, catalogue.as_ref(), read, self.now).report)
    }

    /// The home that a restore would go on from.
    pub(super) async fn served(&self) -> Result<Home, RestoreError> {
        Ok(served_home(&self.root().await?).map_err(super::RestoreRefusal::from)?)
    }

    /// Restores: ends the source, writes the new home, makes the switch. Returns what came back; `None` if this attempt
    /// had made the switch before.
    ///
    /// # Errors
    /// [`RestoreError`]: run it again with the same attempt, once the cause is removed.
    pub async fn run(&self, attempt: &Attempt) -> Result<Option<Report>, RestoreError> {
        store::prove(&*self.store, &self.name, (self.nonce)()).await?;
        if let Held::Switched(_) = root::raise(&*self.store, &self.name, attempt, self.now).await? {
            return Ok(None);
        }
        let plan = match attempt.cut {
            None => {
                let lanes = self.lanes(attempt.source, Some(*attempt));
                let (catalogue, read) = self.read_all(&lanes).await?;
                plan(attempt.home(), catalogue.as_ref(), read, self.now)
            }
            Some(number) => self.plan_of_cut(attempt, number).await?,
        };
        if plan.report.damaged && !self.accept_damage {
            return Err(RestoreError::Damaged(plan.report.damage()));
        }
        self.write(&plan).await?;
        root::switch(&*self.store, &self.name, attempt, self.now).await?;
        Ok(Some(plan.report))
    }

    pub(super) fn lanes(&self, home: Home, fence: Option<Attempt>) -> Lanes {
        let indexes = Indexes::new(Arc::clone(&self.store), INDEX_BYTES);
        Lanes { store: Arc::clone(&self.store), indexes, home, fence, accept_damage: self.accept_damage, now: self.now }
    }

    /// Reads every lane of the source, ends it if there is an attempt.
    async fn read_all(&self, lanes: &Lanes) -> Result<(Option<Catalogue>, Vec<LaneRead>), RestoreError> {
        self.each_lane(lanes.home, |lane| lanes.read(lane)).await
    }

    /// Does `read` with every lane that the catalogue names, then reads the catalogue again until it names no other
    /// lane.
    pub(super) async fn each_lane<T>(
        &self,
        home: Home,
        read: impl AsyncFn(LaneId) -> Result<T, RestoreError>,
    ) -> Result<(Option<Catalogue>, Vec<T>), RestoreError> {
        let mut all: BTreeMap<LaneId, T> = BTreeMap::new();
        loop {
            let catalogue = home::read_catalogue(&*self.store, home).await?;
            let named: Vec<LaneId> = catalogue.iter().flat_map(|catalogue| &catalogue.lanes).copied().collect();
            let missing: Vec<LaneId> = named.into_iter().filter(|lane| !all.contains_key(lane)).collect();
            if missing.is_empty() {
                return Ok((catalogue, all.into_values().collect()));
            }
            let (total, done) = (all.len() + missing.len(), Cell::new(all.len()));
            let reads = stream::iter(missing).map(async |lane| {
                let one = read(lane).await?;
                done.set(done.get() + 1);
                (self.progress)(Progress::Read { done: done.get(), total });
                Ok::<_, RestoreError>((lane, one))
            });
            let reads: Vec<(LaneId, T)> = reads.buffered(LANES_AT_ONCE).try_collect().await?;
            all.extend(reads);
        }
    }

    async fn write(&self, plan: &Plan) -> Result<(), RestoreError> {
        let (total, done) = (plan.lanes.len(), Cell::new(0));
        let writes = stream::iter(plan.lanes.iter().map(Ok::<_, RestoreError>));
        let write = async |seed| {
            home::write_lane(&*self.store, seed, self.now, || (self.nonce)()).await?;
            done.set(done.get() + 1);
            (self.progress)(Progress::Written { done: done.get(), total });
            Ok(())
        };
        writes.try_for_each_concurrent(LANES_AT_ONCE, write).await?;
        home::write_catalogue(&*self.store, &plan.catalogue).await
    }
}
