//! Work on many things of which none keeps the others back, and reads that are repeated before their verdict counts.
//!
//! Owns: keeping the first failure of a series while the rest goes on ([`Tries`]); asking the store again before an
//! object is held for damaged or gone, and looking at the root before it is held for gone. Does not own: what follows from a verdict. Shard-local.

use super::{Inner, LaneHost, StepError, StopReason};
use crate::store::StoreError;

/// Reads of an object, at least [`super::ArchiveConfig::backoff`]'s first pause apart, before it is held for damaged or
/// gone: one answer may have been spoiled, cut or misdirected on its way.
pub(super) const READS: u32 = 3;

/// The outcome of a series of steps.
#[derive(Debug, Default)]
pub(super) struct Tries {
    did: bool,
    failed: Option<String>,
}

impl Tries {
    /// Notes one step's outcome; did it succeed?
    ///
    /// # Errors
    /// What ends the whole series: the archiver ends, the lane stops.
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

    /// Has any step done something?
    pub(super) fn did(&self) -> bool {
        self.did
    }

    /// Whether any step did something.
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

impl<H: LaneHost> Inner<H> {
    /// Looks until the answer does not stop the lane, at most [`READS`] times with the first and the longest pause between:
    /// only the same reason every time stops it.
    ///
    /// # Errors
    /// The reason to stop; what else the look said; [`StepError::Later`] for reasons that differ.
    pub(super) async fn unless_stopped<T>(&self, look: impl AsyncFn() -> Result<T, StepError>) -> Result<T, StepError> {
        let mut first: Option<StopReason> = None;
        for pause in [Some(self.config.backoff.0), Some(self.config.backoff.1), None] {
            let reason = match look().await {
                Err(StepError::Stop(reason)) => reason,
                settled => return settled,
            };
            let first = first.get_or_insert_with(|| reason.clone());
            if *first != reason {
                return Err(StepError::Later(format!("the bucket contradicts itself: first {first}, then {reason}")));
            }
            match pause {
                Some(pause) => {
                    tracing::warn!(lane = %self.host.lane(), %reason, ?pause, "a reason to stop the lane; looking again");
                    self.env.tasks.sleep(pause).await;
                }
                None => return Err(StepError::Stop(reason)),
            }
        }
        Err(StepError::Later("not looked at".to_owned()))
    }

    /// What the store says of an object that it does not find: nothing, as long as it does not find the root either.
    pub(super) async fn unless_away(&self, error: StoreError) -> StoreError {
        let root = self.bucket.root.name.root_key();
        match self.bucket.store.head(&root).await {
            Ok(_) => error,
            Err(StoreError::NotFound { key }) => {
                let detail = format!("{error}, and neither does the cluster's root: the bucket is away");
                StoreError::Unavailable { key, detail }
            }
            Err(unknown) => unknown,
        }
    }

    /// Reads until the answer is no verdict, at most [`READS`] times; the pauses between double.
    ///
    /// # Errors
    /// The last verdict, or the first error that is none.
    pub(super) async fn read_again<T, E>(
        &self,
        is_verdict: impl Fn(&E) -> bool,
        read: impl AsyncFn() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut pause = self.config.backoff.0;
        for _ in 1..READS {
            match read().await {
                Err(error) if is_verdict(&error) => {}
                settled => return settled,
            }
            self.env.tasks.sleep(pause).await;
            pause *= 2;
        }
        read().await
    }
}
