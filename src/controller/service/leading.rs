//! Who leads each lane: reports of this broker's shards and of other brokers, merged and shown on every shard.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, select};
use tidewater_storage::model::{LaneId, NodeId, ShardId};

use super::Controller;
use crate::controller::leaders::{LaneReport, LeaderReport};
use crate::controller::reconcile::Reconcile;
use crate::limits::FOLLOWED_PATIENCE;
use crate::rpc::Service;

/// Between reports to other brokers, if nothing changes.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// How long a report to another broker is waited for.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);

/// An election begins and ends within this time after a leader was lost.
const LOST_FOR: Duration = Duration::from_secs(3);

impl Controller {
    /// Takes the report of a shard of this broker.
    pub(super) async fn take_own(&self, shard: ShardId, lanes: Vec<LaneReport>) {
        let report = LeaderReport { from: self.here(), lanes: lanes.clone(), full: None };
        self.own.borrow_mut().insert(shard, lanes);
        self.own_moved();
        self.take(&report).await;
    }

    pub(super) fn own_moved(&self) {
        self.own_changes.set(self.own_changes.get() + 1);
        self.own_moved.notify_waiters();
    }

    /// Takes a report, and shows changed leaders on every shard.
    pub(super) async fn take(&self, report: &LeaderReport) {
        if self.leaders.borrow_mut().see(report) {
            self.leaders_moved.notify_waiters();
            self.show_leaders().await;
        }
    }

    /// Shows the leaders on every shard, without those whose broker was lost a moment ago.
    async fn show_leaders(&self) {
        let leaders = self.leaders.borrow().without(&self.lost.borrow());
        // What a lane has followed is of use here alone.
        if leaders.are_shown_by(&self.handle.leaders()) {
            return;
        }
        let leaders = Arc::new(leaders);
        let asked = (0..self.shards.shards()).map(|shard| {
            let leaders = Arc::clone(&leaders);
            self.shards.call(ShardId(shard), move |reply| Reconcile::Leaders { leaders, reply })
        });
        join_all(asked).await;
    }

    /// Notices at once when the connection to a broker is lost, as long as there are others. The lanes that the broker
    /// led have no leader for the time of an election, and clients that are answered so ask again soon; those that are
    /// given the broker that is gone do so a second later. Where the connection alone was cut, the leader is shown
    /// again.
    pub(super) async fn watch_peers(self: Rc<Self>) {
        let Some(peers) = self.peers.clone() else { return };
        let (mut before, mut since) = (BTreeSet::new(), BTreeMap::new());
        loop {
            let image = self.handle.image();
            if image.brokers.len() <= 1 {
                self.handle.image_after(image.revision).await;
                continue;
            }
            let changed = peers.changed();
            let (now, connected) = (self.env.clock.now(), peers.connected());
            since.extend(before.difference(&connected).map(|node: &NodeId| (*node, now)));
            since.retain(|node, at| !connected.contains(node) && now.since(*at) < LOST_FOR);
            before = connected;
            let lost: BTreeSet<NodeId> = since.keys().copied().collect();
            if *self.lost.borrow() != lost {
                self.lost.replace(lost);
                self.show_leaders().await;
            }
            match since.values().min() {
                None => changed.await,
                Some(first) => {
                    let over = self.env.tasks.sleep(LOST_FOR.saturating_sub(now.since(*first)));
                    select(changed, pin!(over)).await;
                }
            }
        }
    }

    /// Waits until the leaders of these lanes have followed the controller to a revision, or for a while.
    pub(super) async fn until_followed(&self, lanes: &BTreeSet<LaneId>, revision: u64) {
        let followed = async {
            loop {
                let moved = self.leaders_moved.notified();
                let have = |lane: &LaneId| self.leaders.borrow().of(*lane).is_some_and(|l| l.followed >= revision);
                if lanes.iter().all(have) {
                    return;
                }
                moved.await;
            }
        };
        let pause = self.env.tasks.sleep(FOLLOWED_PATIENCE);
        select(pin!(followed), pin!(pause)).await;
    }

    /// What this broker knows of its lanes, the controller's among them, and its disk.
    fn report(&self) -> LeaderReport {
        let mut lanes: Vec<LaneReport> = self.own.borrow().values().flatten().cloned().collect();
        lanes.extend(self.of_controller());
        LeaderReport { from: self.here(), lanes, full: Some(self.lane.status.disk().is_full()) }
    }

    fn of_controller(&self) -> Option<LaneReport> {
        let (lane, here) = (LaneId::CONTROLLER, self.here());
        let known = self.lane.status.raft()?.leadership();
        Some(match self.lane.status.leading() {
            Some(term) => {
                let followed = self.lane.state().revision;
                LaneReport { lane, term, leader: Some(here), in_sync: vec![here], followed }
            }
            None => {
                let leader = known.leader.filter(|leader| *leader != here);
                LaneReport { lane, term: known.term, leader, in_sync: Vec::new(), followed: 0 }
            }
        })
    }

    /// Sends this broker's report to all others, on changes and now and then, as long as there are others.
    pub(super) async fn send_reports(self: Rc<Self>) {
        let sending: Rc<RefCell<BTreeSet<NodeId>>> = Rc::default();
        loop {
            let moved = self.own_moved.notified();
            let others: Vec<NodeId> =
                self.handle.image().brokers.keys().copied().filter(|node| *node != self.here()).collect();
            let leadership = self.lane.leadership.notified();
            let lanes = self.of_controller().into_iter().collect();
            let own = LeaderReport { lanes, ..self.report() };
            self.take(&own).await;
            if others.is_empty() {
                let image = self.handle.image().revision;
                select(pin!(self.handle.image_after(image)), pin!(leadership)).await;
                continue;
            }
            for node in others {
                if sending.borrow_mut().insert(node) {
                    let (this, sending) = (Rc::clone(&self), Rc::clone(&sending));
                    drop(self.env.tasks.spawn("leader report", async move {
                        this.send_report(node).await;
                        sending.borrow_mut().remove(&node);
                    }));
                }
            }
            let pause = self.env.tasks.sleep(REPORT_INTERVAL);
            select(select(pin!(moved), pin!(leadership)), pin!(pause)).await;
        }
    }

    /// Sends the report to a broker until it has the newest, or does not answer.
    async fn send_report(&self, to: NodeId) {
        let Some(peers) = self.peers.clone() else { return };
        loop {
            let change = self.own_changes.get();
            let body = serde_json::to_vec(&self.report()).expect("lists and numbers serialise into memory");
            let sent = peers.call(to, Service::Leaders, Bytes::from(body), REPORT_PATIENCE).await;
            // The next report says the same; a broker that is away asks nothing of it.
            if sent.is_err() || self.own_changes.get() == change {
                return;
            }
        }
    }
}
