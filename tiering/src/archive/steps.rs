//! How a step fails, what a loop does next, and a series of steps that do not hold each other up.
//!
//! Owns: those types. Does not own: any step. Shard-local.

use std::time::Duration;

use super::host::ProposeError;
use super::order::StopReason;
use super::status::Ended;
use crate::bucket::BucketError;
use crate::store::StoreError;

/// What a loop does after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    For(Duration),
    /// Nothing is to be done before something happens to the lane.
    UntilChanged,
}

/// Why a step failed.
#[derive(Debug)]
pub(super) enum StepError {
    /// The archiver must end.
    End(Ended),
    /// The step is tried again later; why it failed.
    Later(String),
    /// The lane's archiving stops (R2, R6).
    Stop(StopReason),
}

impl From<ProposeError> for StepError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected { .. } => Self::Later(error.to_string()),
            ProposeError::NotLeader => Self::End(Ended::Deposed),
            ProposeError::Unknown { .. } => Self::End(Ended::Unsettled(error.to_string())),
        }
    }
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Later(error.to_string())
    }
}

impl From<BucketError> for StepError {
    fn from(error: BucketError) -> Self {
        Self::Later(error.to_string())
    }
}

/// The outcome of a series of steps: the first failure is kept, the other steps run all the same.
#[derive(Debug, Default)]
pub(super) struct StepSeries {
    did: bool,
    failed: Option<String>,
}

impl StepSeries {
    /// Notes one step's outcome (`true`: it changed something); `false` if the step failed.
    ///
    /// # Errors
    /// What ends the whole series: the archiver ends, archiving of the lane stops.
    pub(super) fn note(&mut self, done: Result<bool, StepError>) -> Result<bool, StepError> {
        match done {
            Ok(did) => {
                self.did |= did;
                Ok(true)
            }
            Err(StepError::Later(reason)) => {
                self.failed.get_or_insert(reason);
                Ok(false)
            }
            Err(end) => Err(end),
        }
    }

    /// Has any step changed something?
    pub(super) fn did(&self) -> bool {
        self.did
    }

    /// Whether any step changed something.
    ///
    /// # Errors
    /// The first failure, if there was one.
    pub(super) fn outcome(self) -> Result<bool, StepError> {
        match self.failed {
            Some(reason) => Err(StepError::Later(reason)),
            None => Ok(self.did),
        }
    }
}
