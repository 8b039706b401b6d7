//! openraft's settings, in one place, each with its reason.
//!
//! Some of the defaults lose data in this use (a snapshot here is a marker behind our own checkpoint, several
//! replicas acknowledge before the leader's own flush): a test pins those that correctness depends on.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use tidewater_storage::model::LaneId;

/// Proposals in flight on one lane. Below the channel sizes, so that a proposal never waits to be sent.
pub const PROPOSALS_MAX: usize = 256;
/// Messages queued at the group's core, of any one kind.
const CHANNEL: u64 = 1024;
/// A leader's lease, and with it the earliest election after its last sign, must be the same on every replica: openraft
/// takes it from the longer time. Milliseconds.
pub(crate) const LEASE_MS: u64 = 500;
/// [`LEASE_MS`] as a duration.
pub const LEASE: Duration = Duration::from_millis(LEASE_MS);
/// The shortest time that the preferred leader waits after the lease has ended. Milliseconds.
const ELECTION_MS: u64 = 300;
/// Each replica after it begins to stand this much later, so that the preferred one usually wins. Milliseconds.
const ELECTION_STEP_MS: u64 = 40;
/// Ranks above this one wait as long as it does: a lane has at most five voters.
const RANK_MAX: usize = 4;
/// Between two heartbeats of a leader. Milliseconds.
pub(crate) const HEARTBEAT_MS: u64 = 100;
/// A follower that answered within this time gets no heartbeat. Milliseconds.
const HEARTBEAT_SPARED_MS: u64 = 80;
/// The answer to "do you hold my log up to here?", the stand-in for openraft's snapshots.
const REBUILD_MS: u64 = 2_000;

/// The settings of a lane's group; `rank` is the replica's place in the order of preferred leaders.
pub(crate) fn settings(lane: LaneId, rank: usize) -> Arc<Config> {
    Arc::new(Config {
        cluster_name: format!("lane-{lane}"),
        election_timeout_min: ELECTION_MS + ELECTION_STEP_MS * rank.min(RANK_MAX) as u64,
        election_timeout_max: LEASE_MS,
        heartbeat_interval: HEARTBEAT_MS,
        heartbeat_min_interval: Some(HEARTBEAT_SPARED_MS),
        install_snapshot_timeout: REBUILD_MS,
        // Only our checkpoint builds a marker, and only our purge purges: with the default of 1000 every built
        // snapshot would purge by itself, under any policy.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        // By default a restarted leader leads again in the same term, without an entry of its own; an entry that
        // followers acknowledged before its own flush could then be replaced.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        enable_pre_vote: Some(true),
        // Ticks cost a wake-up each; they are on while a follower hears nothing of its leader.
        enable_tick: false,
        api_channel_size: Some(CHANNEL),
        notification_channel_size: Some(CHANNEL),
        state_machine_channel_size: Some(CHANNEL),
        api_batch_capacity: PROPOSALS_MAX as u64,
        max_append_entries: Some(PROPOSALS_MAX as u64),
        // Six rings of this many slots are allocated per group and walked through; the statistics are not built in.
        log_stage_capacity: Some(4),
        ..Config::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_correctness_depends_on_is_set() {
        for rank in 0..9 {
            let config = Config::clone(&settings(LaneId(3), rank)).validate().expect("openraft accepts it");
            assert_eq!(config.election_timeout_max, LEASE_MS, "the lease of every replica");
        }
        let config = Config::clone(&settings(LaneId(3), 0)).validate().expect("openraft accepts it");
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.allow_log_reversion, Some(false));
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert_eq!(config.max_in_snapshot_log_to_keep, u64::MAX);
        assert_eq!(config.log_stage_capacity, Some(4));
        assert!(config.api_channel_size.is_some_and(|size| size > PROPOSALS_MAX as u64 * 2));
    }
}
