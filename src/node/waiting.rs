//! For what a start waits: the controller's first image, and words about it for the admin port and the log.
//! Shard-local.

use std::time::Duration;

use tidewater_storage::env::{Env, Mono};
use tidewater_storage::model::{LaneId, NodeId};

use super::lanes::Lanes;
use crate::admin::StartStage;
use crate::controller::client::ControllerHandle;
use crate::rpc::{PeerState, Rpc};

/// Between two looks at the image.
const LOOK: Duration = Duration::from_millis(1);
/// Between two looks at what is missing.
const LOOK_WHY: Duration = Duration::from_millis(200);
/// A wait that is shorter is not logged.
const SHORT: Duration = Duration::from_secs(2);
/// Between log lines with the same words.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// Waits for the controller's first image; revision 0 is the placeholder a shard starts with. The shard of the
/// controller's lane says why there is none.
pub(super) async fn first_image(
    env: &Env,
    lanes: &Lanes,
    controller: &ControllerHandle,
    rpc: &Rpc,
    stage: &StartStage,
) {
    let begun = env.clock.now();
    let (mut looked, mut said) = (None::<Mono>, Said::default());
    while controller.image().revision == 0 {
        let now = env.clock.now();
        if let Some(lane) = &lanes.controller
            && looked.is_none_or(|at| now.since(at) >= LOOK_WHY)
        {
            looked = Some(now);
            let leader = lane.status.raft().and_then(|raft| raft.leadership().leader);
            let why = why_no_image(lanes.is_rebuilding(LaneId::CONTROLLER), leader, &rpc.peers());
            if now.since(begun) >= SHORT && said.is_due(now, &why) {
                tracing::info!("not serving yet: {why}");
            }
            stage.set(why);
        }
        env.tasks.sleep(LOOK).await;
    }
}

/// Why this broker does not know the cluster's state.
fn why_no_image(rebuilding: bool, leader: Option<NodeId>, peers: &[PeerState]) -> String {
    if rebuilding {
        return "the controller's lane is being copied from its leader".to_owned();
    }
    if let Some(leader) = leader {
        return format!("the cluster's state comes from broker {leader}, which leads the controller's lane");
    }
    let away: Vec<String> = peers.iter().filter_map(PeerState::away).collect();
    if away.is_empty() {
        return "the controller's lane elects a leader".to_owned();
    }
    format!(
        "the controller's lane has no leader, and {} of {} other brokers cannot be reached: {}",
        away.len(),
        peers.len(),
        away.join("; ")
    )
}

/// Whether words are worth a line in the log: when they are new, and again now and then.
#[derive(Debug, Default)]
pub(super) struct Said {
    last: Option<(String, Mono)>,
}

impl Said {
    pub(super) fn is_due(&mut self, now: Mono, words: &str) -> bool {
        let again = self.last.as_ref().is_some_and(|(last, at)| last == words && now.since(*at) < SAID_EVERY);
        if !again {
            self.last = Some((words.to_owned(), now));
        }
        !again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: i32, why: Option<&str>) -> PeerState {
        PeerState {
            node: NodeId(node),
            address: format!("10.0.0.{node}:33145"),
            connected: why.is_none(),
            since_ms: 12_345,
            rtt: None,
            in_flight_bytes: 0,
            refused: None,
            lost: why.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn the_words_name_the_brokers_that_are_missing() {
        let peers = [peer(2, Some("Connection refused")), peer(3, None)];
        assert_eq!(
            why_no_image(false, None, &peers),
            "the controller's lane has no leader, and 1 of 2 other brokers cannot be reached: broker 2 at 10.0.0.2:33145 \
             has not answered for 12 s (Connection refused)"
        );
        assert_eq!(why_no_image(false, None, &peers[1..]), "the controller's lane elects a leader");
        assert!(why_no_image(false, Some(NodeId(3)), &peers).contains("from broker 3"));
        assert!(why_no_image(true, None, &peers).contains("copied"));
    }

    #[test]
    fn the_same_words_are_logged_now_and_then() {
        let at = |seconds| Mono::ZERO + Duration::from_secs(seconds);
        let mut said = Said::default();
        assert!(said.is_due(at(0), "a") && !said.is_due(at(29), "a") && said.is_due(at(30), "a"));
        assert!(said.is_due(at(31), "b"));
    }
}
