//! What the leader of the controller's lane looks after whenever it begins to lead and whenever brokers change: the
//! cluster is born, its level finalized, its lanes named and made, the broker's own topics as this version wants them.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::select;

use super::Controller;
use crate::controller::ask::{AskError, TopicError};
use crate::controller::brokers::Registration;
use crate::controller::command::{Command, Founder};
use crate::controller::features::{CLUSTER, CLUSTER_MAX};
use crate::controller::plan;
use crate::controller::state::{ControllerState, Verdict};
use crate::limits::CONTROLLER_PATIENCE;

/// Between tries of what failed.
const RETRY: Duration = Duration::from_millis(500);

/// The next thing to be written. Pure; `None` when all is as it shall be.
pub(super) fn next_duty(state: &ControllerState, own: &super::ControllerOptions, alone: bool) -> Option<Command> {
    let (here, birth, address) = (own.around.broker.id, own.birth, own.address.clone());
    if state.cluster.is_nil() {
        let this = || vec![Founder { node: here, birth, address: address.clone() }];
        let founders = if own.founders.is_empty() { this() } else { own.founders.clone() };
        return Some(Command::Genesis {
            cluster: own.cluster,
            founders,
            voters: own.voters.clone(),
            level: CLUSTER_MAX,
        });
    }
    let supported = state.brokers.values().map(|broker| broker.address.level).min().unwrap_or(CLUSTER_MAX);
    let level = supported.min(CLUSTER_MAX);
    if state.level(CLUSTER) < level {
        return Some(Command::Finalize { feature: CLUSTER.to_owned(), level });
    }
    if state.brokers.is_empty() {
        return Some(Command::Register { node: here, birth, address, replaces: false });
    }
    let lanes = state.lanes.lanes.len();
    if alone && lanes <= own.data_lanes as usize {
        return Some(Command::AdoptLanes { count: own.data_lanes });
    }
    if let Some(command) = plan::mend_internal(state).into_iter().next() {
        return Some(command);
    }
    // Lanes of two replicas survive nothing more than those of one: they are made when a topic asks for them.
    let is_kept = |factor: &u16| *factor != 2 || state.lanes.pool(2).next().is_some();
    plan::factors_in_use(state).into_iter().filter(is_kept).find_map(|factor| plan::make_lanes(state, factor))
}

/// After a registration that was refused or not answered.
const REGISTER_PAUSE: Duration = Duration::from_secs(3);

impl Controller {
    /// Does the duties whenever this broker begins to lead, and when they change.
    pub(super) async fn look_after(self: Rc<Self>) {
        loop {
            let led = self.lane.leadership.notified();
            let changed = self.duties.notified();
            if self.lane.status.leading().is_some() {
                if self.do_duties().await {
                    self.settled.set(true);
                    self.settled_moved.notify_waiters();
                } else {
                    self.env.tasks.sleep(RETRY).await;
                    continue;
                }
            }
            select(pin!(led), pin!(changed)).await;
        }
    }

    /// False if something could not be written now.
    async fn do_duties(&self) -> bool {
        loop {
            let alone = self.is_alone() && self.lane.state().brokers.len() <= 1;
            let next = next_duty(&self.lane.state(), &self.options, alone);
            let Some(command) = next else { return true };
            match self.propose(&command).await {
                Ok(Verdict::Stale) => {
                    tracing::error!(
                        ?command,
                        "the controller's state refuses what was planned from it; please report this"
                    );
                    return false;
                }
                Ok(_) => {}
                Err(AskError::NotLeader(_)) => return false,
                Err(AskError::Unknown | AskError::Final(_)) => {
                    tracing::warn!(?command, "the controller could not write a change; it tries again");
                    return false;
                }
            }
        }
    }

    /// Registers this broker whenever it is reached in another way than the controller knows.
    pub(super) async fn keep_registered(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            seen = self.handle.image_after(seen).await.revision;
            let own = &self.options;
            let is_known = {
                let state = self.lane.state();
                let held = state.brokers.get(&self.here());
                held.is_none_or(|held| held.birth != own.birth || held.address == own.address)
            };
            if is_known {
                continue;
            }
            let (birth, address) = (own.birth, own.address.clone());
            let registration = Registration { birth, node: Some(self.here()), replaces: None, address };
            match self.ask(crate::controller::ask::Ask::Register(registration), CONTROLLER_PATIENCE).await {
                Ok(_) => continue,
                Err(TopicError::Unavailable | TopicError::TimedOut) => {}
                Err(error) => tracing::error!(%error, "this broker's new address is refused; asked again"),
            }
            self.env.tasks.sleep(REGISTER_PAUSE).await;
            seen = seen.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{LaneId, NodeId, ReplicaId};
    use uuid::Uuid;

    use super::*;
    use crate::controller::brokers::tests::address;
    use crate::controller::image::BrokerImage;
    use crate::controller::placement;
    use crate::controller::service::ControllerOptions;
    use crate::controller::state::Surroundings;

    fn options(founders: i32, data_lanes: u32) -> ControllerOptions {
        let founder = |n| Founder { node: NodeId(n), birth: Uuid::from_u128(n as u128), address: address(n, None, 2) };
        ControllerOptions {
            around: Surroundings {
                cluster_name: "tidewater".into(),
                broker: BrokerImage::plain(NodeId(1), "broker", 9001),
                shards: 2,
            },
            cluster: Uuid::from_u128(9),
            founders: if founders == 1 { Vec::new() } else { (1..=founders).map(founder).collect() },
            voters: (1..=founders.min(3)).map(|n| ReplicaId::first(NodeId(n))).collect(),
            data_lanes,
            birth: Uuid::from_u128(1),
            address: address(1, None, 2),
            num_partitions: 1,
        }
    }

    /// The commands that are written until nothing is left to do.
    fn written(state: &mut ControllerState, own: &ControllerOptions) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(command) = next_duty(state, own, own.founders.len() <= 1 && state.brokers.len() <= 1) {
            assert_ne!(state.apply(command.clone()), Verdict::Stale, "{command:?}");
            commands.push(command);
            assert!(commands.len() < 10, "{commands:?}");
        }
        commands
    }

    #[test]
    fn a_new_broker_alone_has_a_lane_for_each_shard() {
        let mut state = ControllerState::default();
        let commands = written(&mut state, &options(1, 2));
        assert!(matches!(commands.as_slice(), [Command::Genesis { .. }, Command::AdoptLanes { count: 2 }]));
        assert_eq!(state.lanes.lanes.keys().map(|lane| lane.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(state.lanes.lanes.values().all(|lane| lane.replicas == [ReplicaId::first(NodeId(1))]));
        assert!(
            matches!(written(&mut state, &options(1, 4)).as_slice(), [Command::AdoptLanes { count: 4 }]),
            "more shards"
        );
    }

    #[test]
    fn a_cluster_of_before_the_lane_table_is_taken_over() {
        let mut state = ControllerState::default();
        state.apply(plan::genesis(Uuid::from_u128(9)));
        let commands = written(&mut state, &options(1, 3));
        let [Command::Finalize { .. }, Command::Register { .. }, Command::AdoptLanes { count: 3 }] =
            commands.as_slice()
        else {
            unreachable!("{commands:?}");
        };
        assert_eq!((state.level(CLUSTER), state.brokers.len(), state.lanes.last()), (CLUSTER_MAX, 1, LaneId(3)));
    }

    #[test]
    fn founders_begin_with_the_lanes_of_three_replicas() {
        let mut state = ControllerState::default();
        let commands = written(&mut state, &options(5, 0));
        assert!(matches!(commands.as_slice(), [Command::Genesis { .. }, Command::AddLanes { .. }]), "{commands:?}");
        assert_eq!(state.lanes.lanes[&LaneId::CONTROLLER].factor, 3);
        assert_eq!(state.lanes.pool(3).count(), 5 * 2 * crate::limits::LANES_PER_SHARD);
        assert_eq!(state.lanes.shared().count(), state.lanes.pool(3).count());
    }

    #[test]
    fn a_broker_that_joins_one_that_was_alone_gets_lanes_of_its_own() {
        let mut state = ControllerState::default();
        written(&mut state, &options(1, 2));
        let join = |n: i32| {
            let (birth, address) = (Uuid::from_u128(n as u128), address(n, None, 2));
            Command::Register { node: NodeId(n), birth, address, replaces: false }
        };
        state.apply(join(2));
        written(&mut state, &options(1, 2));
        assert_eq!((state.lanes.pool(1).count(), state.lanes.pool(2).count()), (4, 0));
        state.apply(join(3));
        written(&mut state, &options(1, 2));
        assert_eq!((state.lanes.pool(1).count(), state.lanes.pool(3).count()), (6, 24));
        assert_eq!(placement::missing_lanes(&state.lanes, &state.brokers, 3), Vec::new());
    }
}
