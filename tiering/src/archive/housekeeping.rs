//! Everything of a lane that is not its next bundle, one step after the other.
//!
//! Owns: the order and cadence of the steps. Does not own: any step (`collect`, `segment`, `gather`, `publish`, `sweep`).
//! Shard-local. A step that fails is logged and tried again in the next round; it keeps none of the others back.

use std::time::Duration;

use tidewater_storage::env::Mono;

use super::{Ended, Inner, LaneHost, StepError};

/// When the steps that do not run in every round ran last.
#[derive(Default)]
struct Rounds {
    retention: Option<Mono>,
    sweep: Option<Mono>,
    publish: Option<Mono>,
    gather: Option<Mono>,
}

fn due(last: Option<Mono>, every: Duration, now: Mono) -> bool {
    last.is_none_or(|last| now.since(last) >= every)
}

impl<H: LaneHost> Inner<H> {
    pub(super) async fn housekeeping(&self) -> Ended {
        // The first sweep waits its interval: right after a start the lane has more urgent things to do.
        let mut rounds = Rounds { sweep: Some(self.env.clock.now()), ..Rounds::default() };
        let mut pause = self.config.backoff.0;
        loop {
            if self.host.leading().is_none() {
                return Ended::Deposed;
            }
            let stopped = self.host.with_lane(|lane| lane.stopped.is_some());
            // Before the next key was looked at, this replica may know less than the bucket.
            let ready = self.status.borrow().probed && !stopped;
            let done = if ready { self.round(&mut rounds).await } else { Ok(false) };
            let sleep = match done {
                Ok(true) => {
                    pause = self.config.backoff.0;
                    Duration::ZERO
                }
                Ok(false) => self.config.housekeeping_interval,
                Err(StepError::End(ended)) => return ended,
                Err(StepError::Stop(reason)) => match self.stop(reason).await {
                    Err(StepError::End(ended)) => return ended,
                    _ => self.config.housekeeping_interval,
                },
                Err(StepError::Later(reason)) => {
                    tracing::warn!(lane = %self.host.lane(), reason, ?pause, "housekeeping of the bucket fails, will be tried again");
                    let slept = pause;
                    pause = (pause * 2).min(self.config.backoff.1);
                    slept
                }
            };
            self.env.tasks.sleep(sleep).await;
        }
    }

    /// Runs the steps; `true` if any of them did something, so that the next round should follow at once.
    async fn round(&self, rounds: &mut Rounds) -> Result<bool, StepError> {
        let mut first_failure = None;
        let mut busy = false;
        let mut take = |done: Result<bool, StepError>| -> Result<(), StepError> {
            match done {
                Ok(did) => busy |= did,
                Err(StepError::Later(reason)) => {
                    first_failure.get_or_insert(StepError::Later(reason));
                }
                Err(end) => return Err(end),
            }
            Ok(())
        };
        take(self.drop_topics().await)?;
        if due(rounds.retention, self.config.retention_interval, self.env.clock.now()) {
            rounds.retention = Some(self.env.clock.now());
            take(self.retain().await)?;
        }
        take(self.upload_segment().await)?;
        if due(rounds.gather, self.config.publish_interval, self.env.clock.now()) {
            let gathered = self.gather().await;
            if !matches!(gathered, Ok(true)) {
                rounds.gather = Some(self.env.clock.now());
            }
            take(gathered)?;
        }
        take(self.spill().await)?;
        if self.unpublished.get() && due(rounds.publish, self.publish_interval(), self.env.clock.now()) {
            let published = self.publish().await;
            if published.is_ok() {
                rounds.publish = Some(self.env.clock.now());
            }
            take(published)?;
        }
        take(self.forget().await)?;
        take(self.delete().await)?;
        take(self.clean().await)?;
        if due(rounds.sweep, self.config.sweep_interval, self.env.clock.now()) {
            rounds.sweep = Some(self.env.clock.now());
            take(self.sweep().await)?;
        }
        first_failure.map_or(Ok(busy), Err)
    }
}
