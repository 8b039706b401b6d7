//! A restore to a cut: the cuts of a cluster, what one would bring back, the plan of going back to one.
//!
//! Owns: these requests. Does not own: cuts ([`crate::cuts`]), the plan (`plan`). What the source archived after the
//! cut stays in the bucket; nothing of the new home names it.

use futures::stream::{self, StreamExt, TryStreamExt};
use tidewater_storage::model::TimestampMs;

use super::error::RestoreError;
use super::freeze::Lanes;
use super::order::Attempt;
use super::plan::{Plan, plan};
use super::read::LaneRead;
use super::report::{CutReport, Report};
use super::run::{LANES_AT_ONCE, Progress, Restore};
use crate::cuts::{Cut, CutEntry, CutIndex, close_index, read_index};
use crate::keys::Home;
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

    /// What a restore to a cut would bring back. Writes nothing.
    ///
    /// # Errors
    /// As [`Restore::survey`]; [`RestoreError::NoCut`] if it was released meanwhile.
    pub async fn survey_cut(&self, number: u64) -> Result<Report, RestoreError> {
        let home = self.served().await?;
        let index = read_index(&*self.store, home).await?.0;
        Ok(self.read_cut(home, home, &index, number).await?.report)
    }

    /// Ends the source and reads the cut, which stays from then on.
    pub(super) async fn plan_of_cut(&self, attempt: &Attempt, number: u64) -> Result<Plan, RestoreError> {
        // What the source has lost after the cut does not count.
        let lanes = Lanes { accept_damage: true, ..self.lanes(attempt.source, Some(*attempt)) };
        self.each_lane(attempt.source, |lane| lanes.tail(lane)).await?;
        let index = close_index(&*self.store, attempt.source, attempt.epoch).await?;
        self.read_cut(attempt.source, attempt.home(), &index, number).await
    }

    async fn read_cut(&self, source: Home, home: Home, index: &CutIndex, number: u64) -> Result<Plan, RestoreError> {
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
        let catalogue = Catalogue::decode(&cut.catalogue).map_err(|error| unreadable(error.to_string()))?;
        let (lanes, total) = (self.lanes(source, None), cut.lanes.len());
        let reads = stream::iter(&cut.lanes).map(|lane| lanes.read_cut(lane));
        let mut reads = reads.buffered(LANES_AT_ONCE);
        let mut read: Vec<LaneRead> = Vec::with_capacity(total);
        while let Some(one) = reads.try_next().await? {
            read.push(one);
            (self.progress)(Progress::Read { done: read.len(), total });
        }
        let mut plan = plan(home, Some(&catalogue), read, self.now);
        plan.report.cut = Some(CutReport { number, at: cut.at });
        Ok(plan)
    }
}
