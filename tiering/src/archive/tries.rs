//! Work on many things of which none keeps the others back, and reads that are repeated before their verdict counts.
//!
//! Owns: keeping the first failure of a series while the rest goes on ([`Tries`]); asking the store again before an
//! object is held for damaged or gone. Does not own: what follows from a verdict. Shard-local.

use super::{Inner, LaneHost, StepError};

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
