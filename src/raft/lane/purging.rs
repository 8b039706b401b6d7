//! How much of a lane's log is kept behind the checkpoint, so that a replica that was away catches up from it.
//!
//! The leader keeps what a replica that answered lately lacks; a follower does not know how far the others are, and
//! keeps what was applied since the checkpoint before the last, for the case that it is elected. Neither keeps anything
//! while the shard's journal is larger than the window or under pressure. Of a lane with other replicas the last entry
//! stays: openraft can ask a replica where its log agrees only along with an entry. Affinity: shard-local.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use openraft_rt::WatchReceiver as _;
use tidewater_storage::env::Mono;
use tidewater_storage::model::{EntryId, LogIndex};

use super::{Inner, Lane};
use crate::raft::log_store::LogDevice;
use crate::raft::runtime::scope::scoped;

/// A replica that has not answered for this long is not waited for: it will be rebuilt.
const LAGGARD_MS: u64 = 10 * 60 * 1000;
/// How often it is looked whether what is kept may go.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The journal, as far as the window needs it.
trait Kept {
    fn is_short(&self, window: u64) -> bool;
}

impl<L: LogDevice> Kept for L {
    fn is_short(&self, window: u64) -> bool {
        LogDevice::is_short(self, window)
    }
}

pub(super) struct PurgeWindow {
    log: Rc<dyn Kept>,
    window: u64,
    /// The last checkpoint, and the one before: everything up to them may be purged.
    upto: Cell<Option<EntryId>>,
    before: Cell<Option<EntryId>>,
    running: Cell<bool>,
    /// Since when this replica leads without having heard of others.
    unheard: RefCell<BTreeMap<u64, Mono>>,
    holds: RefCell<Vec<Weak<Held>>>,
}

#[derive(Debug)]
struct Held {
    after: LogIndex,
    broken: Cell<bool>,
}

/// Keeps the entries after one from being purged, while it exists and the journal has room.
#[derive(Debug)]
pub struct LogHold(Rc<Held>);

impl LogHold {
    /// The journal grew beyond its window: the entries may be purged.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.broken.get()
    }
}

impl PurgeWindow {
    pub(super) fn new<L: LogDevice>(log: Rc<L>, window: u64) -> Self {
        let (upto, before, running) = (Cell::new(None), Cell::new(None), Cell::new(false));
        let (unheard, holds) = (RefCell::default(), RefCell::default());
        Self { log, window, upto, before, running, unheard, holds }
    }

    /// The lowest entry after which the log is held. Without room, breaks all holds.
    fn held(&self, short: bool) -> Option<LogIndex> {
        let mut holds = self.holds.borrow_mut();
        holds.retain(|hold| hold.strong_count() > 0);
        if short {
            holds.drain(..).filter_map(|hold| hold.upgrade()).for_each(|hold| hold.broken.set(true));
        }
        holds.iter().filter_map(|hold| Some(hold.upgrade()?.after)).min()
    }
}

impl Lane {
    /// Purges the log up to `upto`, once a durable checkpoint covers it, less what replicas may need that lag. Returns
    /// at once; the purge is done in the background. What is not applied yet is never purged.
    pub fn purge(&self, upto: EntryId) {
        let (inner, purge) = (&self.inner, &self.inner.purge);
        if purge.upto.get().is_none_or(|last| last.index < upto.index) {
            purge.before.set(purge.upto.replace(Some(upto)));
        }
        if !purge.running.replace(true) {
            let (env, inner) = (inner.env.clone(), inner.clone());
            drop(env.clone().tasks.spawn("raft-purge", scoped(env, run(inner))));
        }
    }
}

impl Lane {
    /// Keeps the entries after `after` in the log. Those that are purged already are not brought back.
    #[must_use]
    pub fn hold_log(&self, after: LogIndex) -> LogHold {
        let held = Rc::new(Held { after, broken: Cell::new(false) });
        self.inner.purge.holds.borrow_mut().push(Rc::downgrade(&held));
        LogHold(held)
    }
}

/// How far to purge now, of what a checkpoint covers up to `upto`.
#[derive(Clone, Copy, Debug)]
struct Choice {
    upto: LogIndex,
    /// The checkpoint before.
    before: Option<LogIndex>,
    last: Option<LogIndex>,
    /// Has the lane other replicas?
    shared: bool,
    leads: bool,
    /// Nothing is kept.
    short: bool,
    /// The lowest entry that a replica holds durably which answered lately; `None` if one holds none.
    slowest: Option<LogIndex>,
    /// A rebuild needs everything after it.
    held: Option<LogIndex>,
}

fn choose(choice: Choice) -> Option<LogIndex> {
    let Choice { upto, before, last, shared, leads, short, slowest, held } = choice;
    let upto = held.map_or(upto, |held| upto.min(held));
    if !shared {
        return Some(upto);
    }
    let most = upto.min(LogIndex(last?.0.checked_sub(1)?));
    match (short, leads) {
        (true, _) => Some(most),
        (false, true) => Some(most.min(slowest?)),
        (false, false) => Some(most.min(before?)),
    }
}

impl Inner {
    fn choice(&self, upto: EntryId) -> Option<Choice> {
        let applied = self.standing.applied()?;
        let metrics = self.metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let me = self.standing.me().to_u64();
        let mut slowest = Some(applied.index);
        if metrics.replication.is_none() {
            self.purge.unheard.borrow_mut().clear();
        }
        if let Some(matched) = &metrics.replication {
            let now = self.env.clock.now();
            for (id, matched) in matched.iter().filter(|(id, _)| **id != me) {
                let answer = metrics.heartbeat.as_ref().and_then(|answers| answers.get(id).copied().flatten());
                // One that has not answered a new leader yet may be about to.
                let mut unheard = self.purge.unheard.borrow_mut();
                let since = match answer {
                    Some(at) => {
                        unheard.remove(id);
                        at.into_inner().mono()
                    }
                    None => *unheard.entry(*id).or_insert(now),
                };
                if now.since(since).as_millis() <= u128::from(LAGGARD_MS) {
                    slowest = slowest.zip(matched.as_ref()).map(|(least, matched)| least.min(LogIndex(matched.index)));
                }
            }
        }
        let short = self.purge.log.is_short(self.purge.window);
        Some(Choice {
            upto: upto.index.min(applied.index),
            before: self.purge.before.get().map(|before| before.index),
            last: metrics.last_log_index.map(LogIndex),
            shared: members.nodes().any(|(id, ())| *id != me),
            leads: metrics.replication.is_some(),
            short,
            slowest,
            held: self.purge.held(short),
        })
    }
}

/// Purges up to the last request; while something is kept back, looks again. openraft needs a snapshot marker at or
/// after the entry first.
async fn run(inner: Rc<Inner>) {
    let mut data = inner.raft.data_metrics();
    let mut purged = None;
    while let Some(upto) = inner.purge.upto.get() {
        let Some(choice) = inner.choice(upto) else { break };
        if let Some(now) = choose(choice).filter(|now| purged.is_none_or(|done| done < *now)) {
            while data.borrow_and_update().snapshot.is_none_or(|at| at.index < now.0) {
                if inner.raft.trigger().snapshot().await.is_err() || data.changed().await.is_err() {
                    return;
                }
            }
            if inner.raft.trigger().purge_log(now.0).await.is_err() {
                return;
            }
            purged = Some(now);
        }
        if inner.purge.upto.get() != Some(upto) {
            continue;
        }
        let most = if choice.shared { choice.last.map_or(0, |last| last.0.saturating_sub(1)) } else { u64::MAX };
        if purged.is_some_and(|purged| purged.0 >= choice.upto.0.min(most)) || !inner.standing.is_running() {
            break;
        }
        inner.env.tasks.sleep(LOOK_AGAIN).await;
    }
    inner.purge.running.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_kept_for_whom_it_may_serve() {
        let at = |index| Some(LogIndex(index));
        let choice = Choice {
            upto: LogIndex(90),
            before: at(40),
            last: at(100),
            shared: true,
            leads: true,
            short: false,
            slowest: at(70),
            held: None,
        };
        assert_eq!(choose(Choice { held: at(60), ..choice }), at(60), "a rebuild goes on from there");
        assert_eq!(choose(choice), at(70), "the slowest that answers");
        assert_eq!(choose(Choice { slowest: None, ..choice }), None, "a new learner that holds nothing");
        assert_eq!(choose(Choice { leads: false, ..choice }), at(40), "the checkpoint before");
        assert_eq!(choose(Choice { leads: false, before: None, ..choice }), None);
        assert_eq!(choose(Choice { short: true, slowest: None, ..choice }), at(90), "no room for laggards");
        assert_eq!(choose(Choice { shared: false, slowest: None, last: at(90), ..choice }), at(90));
        assert_eq!(choose(Choice { slowest: at(90), last: at(90), ..choice }), at(89), "the last entry stays");
    }
}
