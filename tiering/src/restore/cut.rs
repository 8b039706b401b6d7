//! A restore to a cut: the cuts of a cluster, what one would bring back, the plan of going back to one.
//!
//! Owns: these requests. Does not own: cuts ([`crate::cuts`]), the plan (`plan`). What the source archived after the
//! cut stays in the bucket; nothing of the new home names it.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use tidewater_storage::model::{LaneId, TimestampMs};

use super::error::RestoreError;
use super::freeze::Lanes;
use super::order::Attempt;
use super::plan::{Plan, plan};
use super::read::LaneRead;
use super::report::{CutReport, Report};
use super::run::{LANES_AT_ONCE, Progress, Restore};
use crate::cuts::{Cut, CutEntry, CutIndex, CutLaneState, close_index, read_index};
use crate::keys::{Home, ObjectKind};
use crate::manifest::Catalogue;

impl Restore {
    /// The cuts that a restore could go back to now.
    ///
    /// # Errors
    /// There is no such cluster; what the store says.
    pub async fn cuts(&self) -> Result<CutIndex, RestoreError> {
        let home = self.served().await?;
        Ok(read_index(&*self.store, home).await?.0)
    }

    /// The newest cut that was made at `at` or before; the newest of all without `at`.
    ///
    /// # Errors
    /// [`RestoreError::NoCut`]; as [`Restore::cuts`].
    pub async fn cut_at(&self, at: Option<TimestampMs>) -> Result<CutEntry, RestoreError> {
        let index = self.cuts().await?;
        let oldest = index.cuts.first().map(|cut| cut.at);
        index.find(at).cloned().ok_or(RestoreError::NoCut { home: index.home, oldest })
    }

    /// What a restore to a cut would bring back. Writes nothing. What would keep the restore from ending the source
    /// is found here as well.
    ///
    /// # Errors
    /// As [`Restore::survey`]; [`RestoreError::NoCut`] if it was released meanwhile.
    pub async fn survey_cut(&self, number: u64) -> Result<Report, RestoreError> {
        let home = self.served().await?;
        let index = read_index(&*self.store, home).await?.0;
        let cut = self.cut_in(&index, number).await?;
        let report = self.plan_to(home, &cut).await?.report;
        self.end(home, None, &cut).await?;
        Ok(report)
    }

    /// Reads the cut, which stays from then on, and ends the source.
    pub(super) async fn plan_of_cut(&self, attempt: &Attempt, number: u64) -> Result<Plan, RestoreError> {
        // First: a maker of cuts could release this one while lanes are ended.
        let index = close_index(&*self.store, attempt.source, attempt.epoch).await?;
        let cut = self.cut_in(&index, number).await?;
        let plan = self.plan_to(attempt.home(), &cut).await?;
        self.end(attempt.source, Some(*attempt), &cut).await?;
        Ok(plan)
    }

    /// Ends every lane of the source; without an attempt, the lanes are only read. What the source has lost after the
    /// cut does not count.
    async fn end(&self, source: Home, attempt: Option<Attempt>, cut: &Cut) -> Result<(), RestoreError> {
        let lanes = Lanes { accept_damage: true, ..self.lanes(source, attempt) };
        let in_cut: BTreeMap<LaneId, &CutLaneState> = cut.lanes.iter().map(|state| (state.lane, state)).collect();
        self.each_lane(source, |lane| lanes.tail(lane, in_cut.get(&lane).copied())).await?;
        Ok(())
    }

    pub(super) async fn cut_in(&self, index: &CutIndex, number: u64) -> Result<Cut, RestoreError> {
        let source = index.home;
        let oldest = index.cuts.first().map(|cut| cut.at);
        let entry = index.cuts.iter().find(|cut| cut.number == number);
        let entry = entry.ok_or(RestoreError::NoCut { home: source, oldest })?;
        let key = entry.key(source);
        let unreadable = |reason: String| RestoreError::Unreadable { key: key.clone(), reason };
        let object = self.store.get(&key, None).await?.body;
        let cut = Cut::decode(&object).map_err(|error| unreadable(error.to_string()))?;
        if (cut.home, cut.number, cut.at) != (source, number, entry.at) {
            return Err(unreadable("it is another cut than the index of cuts says".to_owned()));
        }
        Ok(cut)
    }

    async fn plan_to(&self, home: Home, cut: &Cut) -> Result<Plan, RestoreError> {
        let key = cut.home.name(ObjectKind::Cut { number: cut.number }).key();
        let catalogue = Catalogue::decode(&cut.catalogue);
        let catalogue = catalogue.map_err(|error| RestoreError::Unreadable { key, reason: error.to_string() })?;
        let (lanes, total) = (self.lanes(cut.home, None), cut.lanes.len());
        let reads = stream::iter(&cut.lanes).map(|lane| lanes.read_cut(lane));
        let mut reads = reads.buffered(LANES_AT_ONCE);
        let mut read: Vec<LaneRead> = Vec::with_capacity(total);
        while let Some(one) = reads.try_next().await? {
            read.push(one);
            (self.progress)(Progress::Read { done: read.len(), total });
        }
        let mut plan = plan(home, Some(&catalogue), read, self.now);
        plan.report.cut = Some(CutReport { number: cut.number, at: cut.at });
        Ok(plan)
    }
}
