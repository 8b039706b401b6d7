//! The beat of a lane of several replicas: the leader's heartbeats, and when a follower's election timer runs.
//!
//! openraft would wake each of its groups every 20 ms for both, and each group would send its heartbeats at a phase of
//! its own. Here a lane looks up once in [`BEAT`], at moments that all lanes of a shard share: a shard with nothing to
//! do wakes ten times a second and sends the heartbeats of all its lanes together. openraft's election timer is on only
//! while the leader is silent; off, it could not fire, because the lease of a leader that was heard within [`QUIET`]
//! lasts longer.
//!
//! An election that failed is repeated later each time ([`pause`]): a vote counts once it is on the disk of the
//! candidate and of a voter. With a pause shorter than these two writes, each candidate would be replaced before its
//! votes arrive, for as long as the disks are slow. Affinity: shard-local.

use std::rc::Rc;
use std::time::Duration;

use openraft_rt::WatchReceiver as _;
use tidewater_storage::env::Mono;
use tidewater_storage::model::Term;

use super::Inner;
use crate::raft::runtime::scope::scoped;
use crate::raft::settings::{HEARTBEAT_MS, LEASE_MS};

/// Between two beats.
const BEAT: Duration = Duration::from_millis(HEARTBEAT_MS);
/// A leader that was heard within this time is not suspected. One beat later the timer runs, before the lease ends.
const QUIET: Duration = Duration::from_millis(LEASE_MS / 2);
/// The pause after the second failed election; doubled after each further one.
const PAUSE: Duration = Duration::from_millis(LEASE_MS);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// The elections since a leader was known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Elections {
    term: Term,
    /// Terms that began and have no leader.
    failed: u32,
    /// Until when this replica does not stand again by itself.
    rest_until: Option<Mono>,
}

impl Elections {
    /// Notes the term that this replica is in. `share`, from 0 to 1000, is drawn at random for each replica, so that
    /// two do not go on standing at the same time.
    fn see(self, term: Term, leader_is_known: bool, now: Mono, share: u32) -> Self {
        if leader_is_known {
            return Self { term, ..Self::default() };
        }
        if term == self.term {
            return self;
        }
        let failed = self.failed + 1;
        let rest_until = pause(failed).map(|pause| now + pause + pause * share / 2000);
        Self { term, failed, rest_until }
    }

    fn rests(self, now: Mono) -> bool {
        self.rest_until.is_some_and(|until| now < until)
    }
}

/// How long a replica waits for the result of the latest election, beyond openraft's own timeout.
fn pause(elections: u32) -> Option<Duration> {
    let doubled = 1_u32.checked_shl(elections.checked_sub(2)?).unwrap_or(u32::MAX);
    Some(PAUSE.saturating_mul(doubled).min(PAUSE_MAX))
}

/// Does openraft's election timer run? `heard` is the time since a request of the leader was accepted.
fn timer_runs(several: bool, leads: bool, heard: Option<Duration>, rests: bool) -> bool {
    several && !leads && !rests && heard.is_none_or(|since| since >= QUIET)
}

/// The next moment at which all lanes of a shard look up.
fn next_beat(now: Mono) -> Mono {
    let beat = u64::try_from(BEAT.as_nanos()).unwrap_or(u64::MAX);
    Mono::from_nanos((now.nanos() / beat + 1).saturating_mul(beat))
}

impl Inner {
    /// A request of the leader that arrived then was accepted.
    pub(super) fn heard(&self, at: Mono) {
        self.heard.set(self.heard.get().max(Some(at)));
    }

    /// Time since a request of the leader was accepted. ms.
    pub(super) fn heard_ms(&self) -> Option<u64> {
        let since = self.env.clock.now().since(self.heard.get()?);
        Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The term is `term`, and its leader is known or not.
    pub(super) fn saw_term(self: &Rc<Self>, term: Term, leader_is_known: bool) {
        let (before, now) = (self.elections.get(), self.env.clock.now());
        if leader_is_known || term != before.term {
            let drawn = if leader_is_known { 0 } else { self.env.rng.below(1001) };
            let share = u32::try_from(drawn).expect("at most 1000");
            self.elections.set(before.see(term, leader_is_known, now, share));
        }
        self.set_timer();
        if self.replicas.get() > 1 && !self.beats.replace(true) {
            drop(self.env.tasks.spawn("raft-beat", scoped(self.env.clone(), beat(Rc::clone(self)))));
        }
    }

    fn leads(&self) -> bool {
        self.standing.view().leads
    }

    fn set_timer(&self) {
        let now = self.env.clock.now();
        let heard = self.heard.get().map(|at| now.since(at));
        let runs = timer_runs(self.replicas.get() > 1, self.leads(), heard, self.elections.get().rests(now));
        self.raft.runtime_config().tick(runs);
    }
}

/// Beats until the group ends.
async fn beat(inner: Rc<Inner>) {
    inner.raft.runtime_config().heartbeat(false);
    loop {
        inner.env.tasks.sleep_until(next_beat(inner.env.clock.now())).await;
        if !inner.standing.is_running() || inner.metrics.borrow_watched().running_state.is_err() {
            return;
        }
        inner.set_timer();
        if inner.replicas.get() > 1 && inner.leads() {
            // An error means that the group has ended, which the watcher reports.
            let _ = inner.raft.trigger().heartbeat().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn all_lanes_beat_at_the_same_moments() {
        assert_eq!(next_beat(at(0)), at(100));
        assert_eq!(next_beat(at(99)), at(100));
        assert_eq!(next_beat(at(100)), at(200));
    }

    #[test]
    fn the_election_timer_is_on_before_a_lease_can_end() {
        let ms = Duration::from_millis;
        assert!(!timer_runs(true, false, Some(ms(0)), false), "the leader was heard");
        assert!(timer_runs(true, false, None, false), "it never was");
        assert!(timer_runs(true, false, Some(QUIET), false), "it is silent");
        assert!(QUIET + BEAT < ms(LEASE_MS), "looked at in time");
        assert!(QUIET > BEAT * 2, "one heartbeat may be late");
        assert!(!timer_runs(true, true, None, false), "it leads itself");
        assert!(!timer_runs(false, false, None, false), "it is alone");
        assert!(!timer_runs(true, false, None, true), "the last election may still succeed");
    }

    #[test]
    fn failed_elections_are_repeated_at_growing_intervals() {
        let pauses: Vec<u128> = (0..9).map(|n| pause(n).unwrap_or_default().as_millis()).collect();
        assert_eq!(pauses, [0, 0, 500, 1000, 2000, 4000, 4000, 4000, 4000]);
        assert_eq!(pause(u32::MAX), Some(PAUSE_MAX));

        let none = Elections::default();
        let first = none.see(Term(4), false, at(0), 1000);
        assert!(!first.rests(at(0)), "the first is repeated after openraft's timeout");
        assert_eq!(first.see(Term(4), false, at(50), 0), first, "nothing new");
        let second = first.see(Term(5), false, at(100), 1000);
        assert!(second.rests(at(849)) && !second.rests(at(850)));
        assert!(!first.see(Term(5), false, at(100), 0).rests(at(600)), "others stand sooner");
        let led = second.see(Term(5), true, at(200), 0);
        assert!(!led.rests(at(200)), "over");
        assert_eq!(led.see(Term(6), false, at(300), 0).failed, 1);
    }
}
