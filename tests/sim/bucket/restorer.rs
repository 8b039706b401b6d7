//! One restore, as `node::restore` makes it: the attempt that its data directory names, the bucket's part, the shards
//! of the first broker. Its process ends at some of its awaits and is run again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::channel::oneshot;
use futures::future::{Either, select};
use tidewater::controller::state::shard_of;
use tidewater::node::identity::Identity;
use tidewater::node::restore::begun;
use tidewater::node::seed::make_shard;
use tidewater_storage::env::Env;
use tidewater_storage::model::{ReplicaIncarnation, ShardId};
use tidewater_tiering::cuts::Cut;
use tidewater_tiering::keys::{ClusterName, Home, Nonce};
use tidewater_tiering::manifest::Catalogue;
use tidewater_tiering::restore::{self, Attempt, LaneSeed, Report, Restore, RestoreError};
use tidewater_tiering::store::{ObjectStore, RetryPolicy, Retrying, SimSleeper};
use uuid::Uuid;

use super::cuts;
use super::epochs::Epochs;
use crate::lanes::seat;
use crate::node::{controller_options, engine_config};
use crate::world::{BrokerSeat, NAME, World};

/// What an operator runs on a machine.
#[derive(Clone, Debug)]
pub(crate) struct Restorer {
    pub(crate) machine: u32,
    pub(crate) take_over: bool,
    /// What it means to restore.
    pub(crate) source: Home,
    pub(crate) kills: Vec<u64>,
    /// It goes back to a cut, the one of this number among those that there are.
    pub(crate) back: Option<u64>,
}

/// What survives a crash: `node.json`, and what `--plan` has printed.
#[derive(Debug, Default)]
struct Notes {
    attempt: Option<Attempt>,
    printed: Option<Report>,
    cut: Option<Cut>,
}

/// A restored broker that is not started.
pub(crate) struct Restored {
    pub(crate) attempt: Attempt,
    pub(crate) printed: Report,
    pub(crate) report: Option<Report>,
    pub(crate) lanes: Vec<LaneSeed>,
    /// What it went back to.
    pub(crate) cut: Option<Cut>,
    pub(crate) world: World,
}

impl Restorer {
    /// Runs it to its end, over all its crashes. `Err`: it is refused.
    pub(crate) async fn run(mut self, epochs: &Rc<Epochs>) -> Result<Restored, RestoreError> {
        let (notes, machines) = (Rc::new(RefCell::new(Notes::default())), Rc::clone(&epochs.now().machines));
        loop {
            // What was made of the shards counts only once `node.json` names them.
            machines.wipe_node(self.machine);
            let env = machines.env_of(self.machine);
            let (done, outcome) = oneshot::channel();
            let (this, of, notes) = (self.clone(), Rc::clone(epochs), Rc::clone(&notes));
            drop(env.clone().tasks.spawn("restore", async move {
                let _ = done.send(this.one_life(&env, &of, &notes).await);
            }));
            let ends_at = self.kills.pop().map_or(u64::MAX, |awaits| machines.awaits_of(self.machine) + awaits);
            machines.halt_node_at(self.machine, ends_at);
            let halted = machines.node_halted(self.machine);
            let ended = match select(outcome, std::pin::pin!(halted)).await {
                Either::Left((outcome, _)) => Some(outcome.expect("it runs to its end")),
                Either::Right(((), _)) => None,
            };
            machines.halt_node_at(self.machine, u64::MAX);
            match ended {
                Some(outcome) => return outcome,
                None => epochs.note(format!("the restore on machine {} dies", self.machine)),
            }
        }
    }

    /// One process: tries again what passes.
    async fn one_life(&self, env: &Env, epochs: &Rc<Epochs>, notes: &RefCell<Notes>) -> Result<Restored, RestoreError> {
        let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
        let store = epochs.now().bucket.store_for(self.machine);
        let store: Arc<dyn ObjectStore> = Arc::new(Retrying::new(store, policy, Arc::new(SimSleeper::new(env))));
        let store = match epochs.plan.defect {
            Some(defect) => defect.spoil_restorer(env, store),
            None => store,
        };
        loop {
            match self.try_once(env, epochs, notes, &store).await {
                Err(error) if error.disposition().passes() => {
                    epochs.note(format!("machine {} tries again: {error}", self.machine));
                    env.tasks.sleep(std::time::Duration::from_millis(300)).await;
                }
                done => return done,
            }
        }
    }

    async fn try_once(
        &self,
        env: &Env,
        epochs: &Rc<Epochs>,
        notes: &RefCell<Notes>,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<Restored, RestoreError> {
        let nonces = AtomicU64::new(env.rng.next_u64());
        let restore = Restore {
            store: Arc::clone(store),
            name: ClusterName::new(NAME).expect("legal"),
            accept_damage: false,
            now: env.clock.wall(),
            nonce: Arc::new(move || Nonce(nonces.fetch_add(0x9e37_79b9, Ordering::Relaxed))),
            progress: Arc::new(|_| {}),
        };
        let known = notes.borrow().attempt;
        let attempt = match known {
            Some(attempt) => attempt,
            None => {
                let root = restore.root().await?;
                let id = Uuid::from_u64_pair(env.rng.next_u64(), env.rng.next_u64());
                let attempt = restore::begin(&root, id, self.take_over)?;
                // The cuts of another home are not those that it chooses from.
                if attempt.source != self.source {
                    let (found, source_epoch, own) = (attempt.source.epoch, self.source.epoch, attempt.epoch);
                    let late = restore::RestoreRefusal::Overtaken { name: root.name, found, source_epoch, own };
                    return Err(late.into());
                }
                let cut = self.choose(epochs);
                let printed = match &cut {
                    Some(cut) => restore.survey_cut(cut.number).await,
                    None => restore.survey().await,
                };
                let printed = printed.map_err(|error| again(error, attempt.source))?;
                let attempt = Attempt { cut: cut.as_ref().map(|cut| cut.number), ..attempt };
                if let Some(cut) = &cut {
                    epochs.note(format!("attempt {} goes back to cut {}", attempt.id, cut.number));
                    epochs.back.borrow_mut().insert(attempt.epoch);
                }
                *notes.borrow_mut() = Notes { attempt: Some(attempt), printed: Some(printed), cut };
                attempt
            }
        };
        let report = match restore.run(&attempt).await {
            // The broker released the cut before the restore kept it: nothing is ended yet, another is chosen.
            Err(RestoreError::NoCut { .. }) => {
                let cut = cuts::eligible(epochs).pop();
                let number = cut.as_ref().map(|cut| cut.number);
                epochs.note(format!("attempt {}: its cut was released, it takes {number:?}", attempt.id));
                let printed = match number {
                    Some(number) => restore.survey_cut(number).await,
                    None => restore.survey().await,
                };
                let printed = printed.map_err(|error| again(error, attempt.source))?;
                let attempt = Attempt { cut: number, ..attempt };
                *notes.borrow_mut() = Notes { attempt: Some(attempt), printed: Some(printed), cut };
                return Err(RestoreError::Busy { key: attempt.source.cuts_key() });
            }
            done => done?,
        };
        let catalogue = restore::read_catalogue(&**store, attempt.home()).await?.expect("the root names it");
        let mut lanes = Vec::new();
        for lane in &catalogue.lanes {
            lanes.push(restore::read_lane(store, attempt.home(), *lane).await?);
        }
        let world = self.make(env, epochs, &attempt, &catalogue, &lanes).await;
        let (printed, cut) = (notes.borrow().printed.clone(), notes.borrow().cut.clone());
        let printed = printed.expect("noted with the attempt");
        Ok(Restored { attempt, printed, report, lanes, cut, world })
    }

    /// The cut to go back to; `None`: none was asked for, or there is none.
    fn choose(&self, epochs: &Epochs) -> Option<Cut> {
        let mut cuts = cuts::eligible(epochs);
        let n = self.back?.checked_rem(cuts.len() as u64)?;
        Some(cuts.swap_remove(usize::try_from(n).expect("few")))
    }

    /// Makes the shards of the next broker.
    async fn make(
        &self,
        env: &Env,
        epochs: &Rc<Epochs>,
        attempt: &Attempt,
        catalogue: &Catalogue,
        lanes: &[LaneSeed],
    ) -> World {
        let before = epochs.now();
        let identity = Identity::restoring(*attempt, before.cluster(), NAME, before.plan.shards);
        let identity = Identity { node: 0, ..identity };
        let incarnation = ReplicaIncarnation(identity.incarnation);
        let life = epochs.plan.lives.get(epochs.before.borrow().len() + 1).expect("a life after each loss").clone();
        let world = before.beside(life, BrokerSeat { machine: self.machine, epoch: attempt.epoch, incarnation });
        let shards = world.plan.shards;
        let address = controller_options(&world, &world.image(), shards).address;
        let last = catalogue.lanes.iter().map(|lane| lane.0).max().unwrap_or(0);
        let lane_count = last.max(shards.into());
        let mut state = begun(&identity, attempt, catalogue, lanes, (lane_count, address), env.clock.wall());
        let mut lanes = lanes.to_vec();
        if let Some(defect) = epochs.plan.defect {
            defect.spoil_seed(&mut state, &mut lanes);
        }
        let mut by_shard: BTreeMap<ShardId, Vec<LaneSeed>> = BTreeMap::new();
        for lane in lanes {
            by_shard.entry(shard_of(lane.archive.lane, shards)).or_default().push(lane);
        }
        for here in (0..shards).map(ShardId) {
            let dir = PathBuf::from(format!("/node/shard-{here}"));
            let config = engine_config(env, world.plan.has("tight-journal"));
            let seeds = by_shard.remove(&here).unwrap_or_default();
            let made = make_shard(env, seat(&world, here), dir, config, &state, seeds).await;
            made.unwrap_or_else(|error| panic!("a shard of the restored broker cannot be made: {error}"));
        }
        world
    }
}

/// A cut that was released before the restore kept it is no reason to end: an operator chooses another.
fn again(error: RestoreError, source: Home) -> RestoreError {
    match error {
        RestoreError::NoCut { .. } => RestoreError::Busy { key: source.cuts_key() },
        error => error,
    }
}
