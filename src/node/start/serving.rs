//! The shards' threads: started, and waited for until all of them serve.

use std::thread::JoinHandle;
use std::time::Duration;

use crate::admin::StartStage;
use crate::node::error::StartError;
use crate::node::shard_main::{self, Inboxes, ShardStart};
use crate::node::status::ShardStatus;
use crate::shard::executor;

/// Starts a shard on its own thread, pinned to a core.
pub(super) fn spawn_shard(start: ShardStart, inboxes: Inboxes) -> Result<JoinHandle<()>, StartError> {
    let (here, status) = (start.seat.here, start.status.clone());
    let run = move || async move {
        if let Err(failure) = shard_main::run(start, inboxes).await {
            let _ = status.send(ShardStatus::Failed(failure));
        }
    };
    executor::spawn(here, run).map_err(|e| StartError::System { what: "a thread for a shard", why: e.to_string() })
}

/// Waits until every shard serves, without a limit, and logs every `patience` how many do.
/// `opened` is called when all have opened their directories.
pub(super) fn await_serving(
    statuses: &flume::Receiver<ShardStatus>,
    shards: u16,
    patience: Duration,
    stage: &StartStage,
    opened: impl FnOnce(),
) -> Result<(), StartError> {
    let (mut recovered, mut serving, mut waited) = (0_u16, 0_u16, Duration::ZERO);
    let mut opened = Some(opened);
    stage.set(format!("{shards} shards read their checkpoints and journals"));
    while serving < shards {
        match statuses.recv_timeout(patience) {
            Ok(ShardStatus::Serving(_)) => serving += 1,
            Ok(ShardStatus::Recovered(shard)) => {
                recovered += 1;
                tracing::debug!(%shard, "recovered");
                if recovered < shards {
                    stage.set(format!("{recovered} of {shards} shards have read their checkpoints and journals"));
                }
                if let Some(opened) = opened.take_if(|_| recovered == shards) {
                    opened();
                }
            }
            Ok(ShardStatus::Failed(failure)) => {
                return Err(StartError::Shard { shard: failure.shard.0, why: failure.why });
            }
            Err(flume::RecvTimeoutError::Timeout) => {
                waited += patience;
                tracing::warn!(
                    ?waited,
                    shards,
                    recovered,
                    serving,
                    "the start takes long: a large journal is read, or the cluster has no quorum; it continues"
                );
            }
            Err(flume::RecvTimeoutError::Disconnected) => {
                return Err(StartError::Shard {
                    shard: serving,
                    why: "it ended while starting; see the log above".into(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::ShardId;

    use super::*;
    use crate::node::status::ShardFailure;

    fn stage() -> StartStage {
        StartStage::new("starting")
    }

    #[test]
    fn a_start_that_lasts_is_waited_for() {
        let (sender, statuses) = flume::bounded(4);
        let begun = std::cell::Cell::new(false);
        let shard = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            sender.send(ShardStatus::Recovered(ShardId(0))).expect("is heard");
            std::thread::sleep(Duration::from_millis(60));
            sender.send(ShardStatus::Serving(ShardId(0))).expect("is heard");
        });
        await_serving(&statuses, 1, Duration::from_millis(10), &stage(), || begun.set(true))
            .expect("late is not never");
        assert!(begun.get(), "all have opened their directories");
        shard.join().expect("ends");
    }

    #[test]
    fn a_start_that_failed_is_not_waited_for() {
        let (sender, statuses) = flume::bounded(4);
        let why = "its journal is damaged".to_owned();
        sender.send(ShardStatus::Failed(ShardFailure { shard: ShardId(1), why })).expect("room");
        let failed = await_serving(&statuses, 2, Duration::from_secs(9), &stage(), || {}).expect_err("it failed");
        assert!(matches!(failed, StartError::Shard { shard: 1, .. }), "{failed}");
        drop(sender);
        let ended = await_serving(&statuses, 2, Duration::from_secs(9), &stage(), || {}).expect_err("it ended");
        assert!(ended.to_string().contains("ended while starting"), "{ended}");
    }
}
