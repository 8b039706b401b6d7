//! Keeps the lanes that this shard leads as the lane table wants them: their members (`membership`) and who leads them
//! (`balance`). Owns when and how often; the decisions are pure. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_storage::env::{Env, Mono};
use tidewater_storage::model::{LaneId, LogIndex, ReplicaId, Term};

use super::balance::{self, Led};
use super::lanes::Lanes;
use super::membership::{self, Step, Wanted};
use crate::controller::client::ControllerHandle;
use crate::controller::image::ClusterImage;
use crate::raft::{Lane, LaneMembership, ReplicaProgress};

/// Between two looks at the lanes, and while a replica is on its way to become a voter.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A change of members that takes longer is looked at again; it may still be made.
const STEP_WITHIN: Duration = Duration::from_secs(15);
/// Between log lines about a lane whose members cannot be changed.
const SAID_EVERY: Duration = Duration::from_secs(30);
/// For all hand-overs at the end of the process.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// The keeper of the lanes that this shard leads.
pub struct Replicas {
    env: Env,
    lanes: Rc<Lanes>,
    controller: ControllerHandle,
    /// Lanes with a step under way.
    busy: RefCell<BTreeSet<LaneId>>,
    /// Since when this replica leads each lane, by term; a failed hand-over begins it again.
    led: RefCell<BTreeMap<LaneId, (Term, Mono)>>,
    handed_over: Cell<Option<Mono>>,
    said: RefCell<BTreeMap<LaneId, Mono>>,
    leaving: Cell<bool>,
}

/// The replicas that the image wants a lane to have; the controller's lane also has every other broker as a learner.
pub(super) fn wanted(image: &ClusterImage, lane: LaneId) -> Wanted {
    let voters: BTreeSet<ReplicaId> =
        image.lanes.get(&lane).map(|lane| lane.replicas.iter().copied().collect()).unwrap_or_default();
    if lane != LaneId::CONTROLLER || voters.is_empty() {
        return Wanted { voters, learners: BTreeSet::new() };
    }
    let brokers = image.brokers.values().filter(|broker| voters.iter().all(|voter| voter.node != broker.id));
    let learners = brokers.filter(|broker| broker.rpc.is_some());
    let learners = learners.map(|broker| ReplicaId { node: broker.id, incarnation: broker.incarnation }).collect();
    Wanted { voters, learners }
}

impl Replicas {
    /// Looks at the lanes from now on.
    pub fn start(env: &Env, lanes: &Rc<Lanes>, controller: &ControllerHandle) -> Rc<Self> {
        let keeper = Rc::new(Self {
            env: env.clone(),
            lanes: Rc::clone(lanes),
            controller: controller.clone(),
            busy: RefCell::default(),
            led: RefCell::default(),
            handed_over: Cell::new(None),
            said: RefCell::default(),
            leaving: Cell::new(false),
        });
        env.tasks.spawn("lane replicas", Rc::clone(&keeper).run());
        keeper
    }

    async fn run(self: Rc<Self>) {
        while !self.leaving.get() {
            let image = self.controller.image();
            let pause = if self.look(&image) { LOOK_AGAIN } else { LOOK };
            let (sleep, newer) = (self.env.tasks.sleep(pause), self.controller.image_after(image.revision));
            match select(std::pin::pin!(sleep), std::pin::pin!(newer)).await {
                Either::Left(_) | Either::Right(_) => {}
            }
        }
    }

    /// Starts the next step of every lane that this shard leads; true if one is on its way.
    fn look(self: &Rc<Self>, image: &ClusterImage) -> bool {
        let now = self.env.clock.now();
        let full = self.lanes.is_disk_full();
        let leaders = self.controller.leaders();
        let (mut moving, mut led, mut away) = (false, Vec::new(), None);
        for (lane, me, raft) in self.lanes.groups() {
            let leadership = raft.leadership();
            if !leadership.ready {
                self.led.borrow_mut().remove(&lane);
                continue;
            }
            let since = {
                let mut all = self.led.borrow_mut();
                let entry = all.entry(lane).or_insert((leadership.term, now));
                if entry.0 != leadership.term {
                    *entry = (leadership.term, now);
                }
                entry.1
            };
            let (held, wanted) = (raft.membership(), wanted(image, lane));
            let settled = held.voters.len() == wanted.voters.len()
                && held.learners.len() == wanted.learners.len()
                && held.voters.iter().all(|voter| wanted.voters.contains(voter))
                && held.learners.iter().all(|learner| wanted.learners.contains(learner));
            let last = raft.applied().map_or(LogIndex(0), |applied| applied.index);
            if settled && !held.joint {
                if full && away.is_none() {
                    away = balance::heir(me, &held, &raft.progress(), last, leaders.full()).map(|to| (lane, raft, to));
                    continue;
                }
                let preferred = image.lanes.get(&lane).and_then(|lane| lane.replicas.first().copied());
                let has_room = |replica: &ReplicaId| !leaders.full().contains(&replica.node);
                if let Some(preferred) = preferred.filter(|preferred| *preferred != me && has_room(preferred)) {
                    let led_ms = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
                    led.push(as_led(lane, preferred, led_ms, last, &held, &raft.progress()));
                }
                continue;
            }
            if self.busy.borrow().contains(&lane) {
                moving = true;
                continue;
            }
            if let Some(step) = membership::plan(me, &held, &wanted, last, &raft.progress()) {
                moving = true;
                self.begin(lane, raft, step);
            } else {
                moving |= !wanted.voters.is_empty();
                self.say(lane, &raft, &wanted, &held, last);
            }
        }
        if let Some((lane, raft, to)) = away {
            self.hand_over(lane, raft, to, "this broker's disk is full");
            return true;
        }
        let since = self.handed_over.get().map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX));
        if let Some((lane, to)) = balance::hand_back(image.here, &led, since)
            && let Some((_, _, raft)) = self.lanes.groups().into_iter().find(|(id, _, _)| *id == lane)
        {
            self.handed_over.set(Some(now));
            self.hand_over(lane, raft, to, "it is the preferred leader");
        }
        moving
    }

    fn begin(self: &Rc<Self>, lane: LaneId, raft: Lane, step: Step) {
        self.busy.borrow_mut().insert(lane);
        let this = Rc::clone(self);
        self.env.tasks.spawn("lane members", async move {
            let done = {
                let (made, late) = (make(&raft, &step), this.env.tasks.sleep(STEP_WITHIN));
                match select(std::pin::pin!(made), std::pin::pin!(late)).await {
                    Either::Left((made, _)) => made,
                    Either::Right(_) => Err("it takes long; it may still be made".to_owned()),
                }
            };
            match done {
                Ok(()) => tracing::info!(%lane, %step, "the lane's members have changed"),
                Err(error) if this.may_say(lane) => {
                    tracing::warn!(%lane, %step, error, "the lane's members could not be changed; tried again");
                }
                Err(_) => {}
            }
            this.busy.borrow_mut().remove(&lane);
        });
    }

    fn hand_over(self: &Rc<Self>, lane: LaneId, raft: Lane, to: ReplicaId, why: &'static str) {
        let this = Rc::clone(self);
        self.env.tasks.spawn("hand over", async move {
            match raft.transfer_leadership(to).await {
                Ok(()) => tracing::info!(%lane, %to, why, "another broker leads the lane"),
                Err(error) => {
                    tracing::info!(%lane, %to, why, %error, "the lane stays with its leader for now");
                    if let Some(led) = this.led.borrow_mut().get_mut(&lane) {
                        led.1 = this.env.clock.now();
                    }
                }
            }
        });
    }

    /// Logs why a lane does not get the replicas it shall have.
    fn say(&self, lane: LaneId, raft: &Lane, wanted: &Wanted, held: &LaneMembership, last: LogIndex) {
        if wanted.voters.is_empty() || !self.may_say(lane) {
            return;
        }
        let progress = raft.progress();
        let caught_up = |replica: &ReplicaId| {
            progress.iter().any(|found| found.replica == *replica && membership::is_caught_up(found, last))
        };
        let waits: Vec<String> = wanted
            .voters
            .iter()
            .filter(|replica| !held.is_voter(**replica) && !caught_up(replica))
            .map(ToString::to_string)
            .collect();
        let rebuild: Vec<String> = raft.needs_rebuild().iter().map(ToString::to_string).collect();
        if !waits.is_empty() {
            tracing::info!(%lane, ?waits, ?rebuild, "the lane waits for replicas to catch up");
        }
    }

    fn may_say(&self, lane: LaneId) -> bool {
        let now = self.env.clock.now();
        let mut said = self.said.borrow_mut();
        let due = said.get(&lane).is_none_or(|at| now.since(*at) >= SAID_EVERY);
        if due {
            said.insert(lane, now);
        }
        due
    }

    /// Hands every lane that this shard leads to another voter that has all of it, before the process ends: then no
    /// client waits for an election. Takes a few seconds at most.
    pub(super) async fn leave(&self) {
        self.leaving.set(true);
        let leave = async {
            for (lane, me, raft) in self.lanes.groups() {
                if !raft.leadership().ready {
                    continue;
                }
                let last = raft.applied().map_or(LogIndex(0), |applied| applied.index);
                let heir = balance::heir(me, &raft.membership(), &raft.progress(), last, &BTreeSet::new());
                let Some(heir) = heir else { continue };
                if let Err(error) = raft.transfer_leadership(heir).await {
                    tracing::debug!(%lane, %error, "the lane elects another leader");
                }
            }
        };
        let late = self.env.tasks.sleep(LEAVE_WITHIN);
        match select(std::pin::pin!(leave), std::pin::pin!(late)).await {
            Either::Left(_) => {}
            Either::Right(_) => tracing::info!("not every lane was handed over in time; the others elect a leader"),
        }
    }
}

fn as_led(
    lane: LaneId,
    preferred: ReplicaId,
    led_ms: u64,
    last: LogIndex,
    held: &LaneMembership,
    progress: &[ReplicaProgress],
) -> Led {
    let found = progress.iter().find(|found| found.replica == preferred);
    Led {
        lane,
        preferred,
        led_ms,
        last,
        matched: found.and_then(|found| found.matched).map(|matched| matched.index),
        silent_ms: found.and_then(|found| found.last_answer_ms),
        may_lead: held.is_voter(preferred) && held.committed && !held.joint,
    }
}

async fn make(raft: &Lane, step: &Step) -> Result<(), String> {
    match step {
        Step::AddLearner(replica) => raft.add_learner(*replica).await.map_err(|e| e.to_string()),
        Step::ChangeVoters(voters) => raft.change_voters(voters.clone()).await.map_err(|e| e.to_string()),
        Step::Remove(replica) => raft.remove(*replica).await.map_err(|e| e.to_string()),
        Step::Transfer(to) => raft.transfer_leadership(*to).await.map_err(|e| e.to_string()),
    }
}
