//! What is wrong with the cluster, and what to do about it. Pure.
//!
//! Owns: the judgement, and [`Health`], the document in which the admin port gives it and `tidewater cluster health`
//! reads it. A field that is missing there is an error that names it. Does not own: the facts (`facts`, `gather`).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, NodeId};

use super::facts::{BrokerFacts, ClusterFacts, LaneFacts, SupersededFacts};
use super::rebuilding::{self, Rebuilding};

/// A follower that lacks so many entries is shown as behind.
const BEHIND_ENTRIES: u64 = 10_000;
/// A follower that lacks entries and has been silent for longer is shown as behind.
const SILENT_MS: u64 = 3_000;
/// A follower that lacks more entries is not in sync.
const IN_SYNC_ENTRIES: u64 = 1000;
/// A disk with less than this part of its budget left is shown as nearly full.
const DISK_LEFT: f64 = 0.05;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Every replica is in sync.
    Healthy,
    /// All partitions serve; a further failure may stop some.
    Degraded,
    /// Some partitions have no leader.
    Unavailable,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    Leaderless,
    Superseded,
    BucketGone,
    Unreachable,
    Refused,
    Full,
    UnderReplicated,
    Behind,
    Rebuilding,
    NoCuts,
    /// Of a broker of a newer version.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub kind: ProblemKind,
    /// Brokers that it is about.
    pub brokers: Vec<i32>,
    /// Lanes that it is about.
    pub lanes: Vec<u32>,
    pub what: String,
    /// For the operator.
    pub advice: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub all: usize,
    pub leaderless: usize,
    pub under_replicated: usize,
}

/// `GET /v1/cluster/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: Standing,
    pub brokers: usize,
    pub reachable: usize,
    pub lanes: Counts,
    pub partitions: Counts,
    pub problems: Vec<Problem>,
    /// Brokers whose replicas are being rebuilt.
    pub rebuilds: Vec<Rebuilding>,
}

/// Does the lane have a leader that answers, and that a majority of its voters answers? The table of leaders keeps a
/// leader that has died until another is elected.
pub(super) fn is_led(facts: &ClusterFacts, lane: LaneId) -> bool {
    let Some(own) = of_leader(facts, lane) else { return false };
    let heard = own
        .followers
        .iter()
        .filter(|follower| own.voters.contains(&follower.node) && follower.silent_ms.is_some_and(|ms| ms <= SILENT_MS));
    (heard.count() + 1) * 2 > own.voters.len()
}

/// Brokers whose replica of a lane is in sync; `None` while it has no leader. By the leader's own answer, and by its
/// last report if it has not answered.
pub(super) fn in_sync(facts: &ClusterFacts, lane: LaneId) -> Option<Vec<NodeId>> {
    let led = facts.leaders.of(lane)?;
    let Some(own) = of_leader(facts, lane) else { return Some(led.in_sync.clone()) };
    let near = own.followers.iter().filter(|follower| {
        let votes = own.voters.contains(&follower.node);
        votes && follower.behind_entries <= IN_SYNC_ENTRIES && follower.silent_ms.is_some_and(|ms| ms <= SILENT_MS)
    });
    let mut nodes: Vec<NodeId> = near.map(|follower| NodeId(follower.node)).chain([led.node]).collect();
    nodes.sort_unstable();
    Some(nodes)
}

/// Replicas of a lane that are not in sync; `None` while it has no leader.
fn missing(facts: &ClusterFacts, lane: LaneId) -> Option<Vec<NodeId>> {
    let held = in_sync(facts, lane)?;
    Some(facts.image.replicas(lane).into_iter().filter(|node| !held.contains(node)).collect())
}

/// The lane as its leader describes it; `None` if the leader has not answered.
pub(super) fn of_leader(facts: &ClusterFacts, lane: LaneId) -> Option<&LaneFacts> {
    let leader = facts.brokers.get(&facts.leaders.of(lane)?.node)?.as_ref().ok()?;
    leader.lanes.iter().find(|of| of.lane == lane.0 && of.leads)
}

pub(in crate::admin) fn judge(facts: &ClusterFacts) -> Health {
    let mut problems = Vec::new();
    let away = brokers(facts, &mut problems);
    let lanes: Vec<LaneId> = facts.image.lanes.keys().copied().collect();
    let leaderless: Vec<LaneId> = lanes.iter().copied().filter(|lane| !is_led(facts, *lane)).collect();
    let short: BTreeMap<LaneId, Vec<NodeId>> = lanes
        .iter()
        .filter_map(|lane| Some((*lane, missing(facts, *lane)?)))
        .filter(|(_, missing)| !missing.is_empty())
        .collect();
    if !leaderless.is_empty() {
        let mut on: Vec<i32> = leaderless.iter().flat_map(|lane| facts.image.replicas(*lane)).map(|n| n.0).collect();
        on.sort_unstable();
        on.dedup();
        problems.push(Problem {
            kind: ProblemKind::Leaderless,
            lanes: numbers(&leaderless),
            what: format!("{} without a leader that a majority answers: their partitions serve nothing", lanes_in_words(leaderless.len())),
            advice: format!(
                "start the brokers that are away: a majority of the replicas on {} must run; an election takes a second",
                brokers_in_words(&on)
            ),
            brokers: on,
        });
    }
    replicas(facts, &short, &away, &mut problems);
    let rebuilds = rebuilding::of(facts);
    problems.extend(rebuilds.iter().map(rebuilt));
    problems.sort_by_key(|problem| problem.kind);
    let mut partitions = Counts::default();
    for partition in facts.image.topics.values().flat_map(|topic| &topic.partitions) {
        partitions.all += 1;
        partitions.leaderless += usize::from(leaderless.contains(&partition.lane));
        partitions.under_replicated += usize::from(short.contains_key(&partition.lane));
    }
    let status = match () {
        () if !leaderless.is_empty() => Standing::Unavailable,
        () if !problems.is_empty() => Standing::Degraded,
        () => Standing::Healthy,
    };
    Health {
        status,
        brokers: facts.image.brokers.len(),
        reachable: facts.image.brokers.len() - away.len(),
        lanes: Counts { all: lanes.len(), leaderless: leaderless.len(), under_replicated: short.len() },
        partitions,
        problems,
        rebuilds,
    }
}

fn rebuilt(rebuilding: &Rebuilding) -> Problem {
    let node = rebuilding.broker;
    let advice = match rebuilding.waits() {
        Some(why) => format!("nothing is copied now: {why}"),
        None => "wait; `tidewater cluster health --watch` shows when it is done".to_owned(),
    };
    Problem {
        kind: ProblemKind::Rebuilding,
        brokers: vec![node],
        lanes: rebuilding.lanes_left.iter().copied().collect(),
        what: format!("broker {node} is being rebuilt: {rebuilding}"),
        advice,
    }
}

/// Problems of brokers; returns those that do not answer.
fn brokers(facts: &ClusterFacts, problems: &mut Vec<Problem>) -> Vec<NodeId> {
    let mut away = Vec::new();
    for id in facts.image.brokers.keys() {
        let refused =
            facts.brokers.get(&facts.image.here).and_then(|here| here.as_ref().ok()).and_then(|here| {
                here.peers.iter().find(|peer| peer.node == id.0).and_then(|peer| peer.refused.clone())
            });
        match (facts.brokers.get(id), refused) {
            (_, Some(why)) => {
                away.push(*id);
                let advice = "see both brokers' logs; another cluster's data, a second broker with the same id, or another --cluster-secret-file";
                let what = format!("broker {} and broker {id} refuse each other: {why}", facts.image.here);
                problems.push(about(ProblemKind::Refused, *id, what, advice.to_owned()));
            }
            (Some(Ok(broker)), None) => {
                superseded(*id, broker, problems);
                bucket(*id, broker, problems);
                cuts(*id, broker, problems);
                disk(*id, broker, problems);
            }
            (answer, None) => {
                away.push(*id);
                let why = answer.and_then(|answer| answer.as_ref().err()).map_or("it was not asked", String::as_str);
                let advice = format!(
                    "start broker {id} or mend the network; if its disk is lost for good, start an empty broker with --seed and --replace {id}"
                );
                problems.push(about(
                    ProblemKind::Unreachable,
                    *id,
                    format!("broker {id} does not answer: {why}"),
                    advice,
                ));
            }
        }
    }
    away
}

fn superseded(id: NodeId, broker: &BrokerFacts, problems: &mut Vec<Problem>) {
    let Some(SupersededFacts { own, next }) = broker.superseded else { return };
    let what = format!(
        "broker {id} is superseded: the cluster was restored from its bucket and goes on in epoch {next}, the broker is of epoch \
         {own} and stores nothing any more"
    );
    let advice = format!(
        "stop broker {id} and connect its clients to the restored cluster; keep its data directory until you know that no \
         record is missing there"
    );
    problems.push(about(ProblemKind::Superseded, id, what, advice));
}

fn bucket(id: NodeId, broker: &BrokerFacts, problems: &mut Vec<Problem>) {
    let Some(why) = &broker.bucket_gone else { return };
    let what = format!("broker {id} archives nothing: {why}; the bucket was emptied or is another one");
    let advice = "put the bucket's objects back under the same URL, from the store's versions or a copy, and run tidewater \
                  verify; archiving goes on by itself, and until then what is on the disks stays";
    problems.push(about(ProblemKind::BucketGone, id, what, advice.to_owned()));
}

fn cuts(id: NodeId, broker: &BrokerFacts, problems: &mut Vec<Problem>) {
    let Some(why) = &broker.cuts_failing else { return };
    let what = format!("no cuts are made (by broker {id}): {why}");
    let advice = "a restore can go back only to the cuts that are kept already; mend the cause, tidewater verify names damage; \
                  they are made again by themselves";
    problems.push(about(ProblemKind::NoCuts, id, what, advice.to_owned()));
}

fn disk(id: NodeId, broker: &BrokerFacts, problems: &mut Vec<Problem>) {
    let left = broker.disk_admissible_bytes;
    let what = match left {
        0 => format!("the disk budget of broker {id} is used up: the partitions that it leads refuse producers"),
        left if (left as f64) < broker.disk_limit_bytes as f64 * DISK_LEFT => {
            format!("the disk of broker {id} is nearly full: {left} bytes are left for producers")
        }
        _ => return,
    };
    let advice =
        format!("free space on broker {id}, raise its --disk-bytes, or shorten local.retention.* of large topics");
    problems.push(about(ProblemKind::Full, id, what, advice));
}

fn about(kind: ProblemKind, id: NodeId, what: String, advice: String) -> Problem {
    Problem { kind, brokers: vec![id.0], lanes: Vec::new(), what, advice }
}

/// Lanes whose replicas are not all in sync, one problem for each broker that lacks some.
fn replicas(facts: &ClusterFacts, short: &BTreeMap<LaneId, Vec<NodeId>>, away: &[NodeId], problems: &mut Vec<Problem>) {
    let mut by_broker: BTreeMap<NodeId, Vec<LaneId>> = BTreeMap::new();
    for (lane, missing) in short {
        missing.iter().for_each(|node| by_broker.entry(*node).or_default().push(*lane));
    }
    for (node, lanes) in by_broker {
        let advice = match () {
            () if away.contains(&node) => format!("they catch up by themselves once broker {node} is back"),
            () if lanes.iter().all(|lane| follows(facts, node, *lane)) => format!(
                "broker {node} follows, and its answers come too late to count: its CPU, the leaders' or the network is \
                 overloaded"
            ),
            () => format!(
                "they are being caught up; if their number does not fall, see the log of broker {node} and its disk"
            ),
        };
        let what = format!("{} without an in-sync replica on broker {node}", lanes_in_words(lanes.len()));
        problems.push(Problem {
            kind: ProblemKind::UnderReplicated,
            brokers: vec![node.0],
            lanes: numbers(&lanes),
            what,
            advice,
        });
    }
    let mut behind: BTreeMap<i32, (Vec<u32>, u64)> = BTreeMap::new();
    for lane in facts.image.lanes.keys() {
        let Some(led) = of_leader(facts, *lane) else { continue };
        let is_away = |node: i32| away.iter().any(|id| id.0 == node);
        for follower in led.followers.iter().filter(|follower| !is_away(follower.node)) {
            let silent = follower.silent_ms.is_none_or(|ms| ms > SILENT_MS);
            if follower.behind_entries > BEHIND_ENTRIES || silent && follower.behind_entries > 0 {
                let (lanes, most) = behind.entry(follower.node).or_default();
                lanes.push(lane.0);
                *most = (*most).max(follower.behind_entries);
            }
        }
    }
    for (node, (lanes, most)) in behind {
        problems.push(Problem {
            kind: ProblemKind::Behind,
            brokers: vec![node],
            what: format!("broker {node} is behind in {}, by up to {most} entries", lanes_in_words(lanes.len())),
            advice: format!("its disk or its network is slower than the others'; see the metrics of broker {node}"),
            lanes,
        });
    }
}

/// Does the broker say that it hears the lane's leader and has all that the leader has?
fn follows(facts: &ClusterFacts, node: NodeId, lane: LaneId) -> bool {
    let Some(led) = of_leader(facts, lane) else { return false };
    let Some(Ok(broker)) = facts.brokers.get(&node) else { return false };
    let all = led.followers.iter().any(|follower| follower.node == node.0 && follower.behind_entries == 0);
    let hears = |own: &LaneFacts| own.term == led.term && own.heard_ms.is_some_and(|ms| ms < SILENT_MS);
    all && broker.lanes.iter().any(|own| own.lane == lane.0 && hears(own))
}

fn numbers(lanes: &[LaneId]) -> Vec<u32> {
    lanes.iter().map(|lane| lane.0).collect()
}

fn lanes_in_words(n: usize) -> String {
    if n == 1 { "1 lane".to_owned() } else { format!("{n} lanes") }
}

fn brokers_in_words(ids: &[i32]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    if ids.len() == 1 { format!("broker {}", ids.concat()) } else { format!("brokers {}", ids.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::facts::{FollowerFacts, PeerFacts};
    use super::*;
    use crate::controller::leaders::{LaneReport, LeaderReport, Leaders};
    use crate::kafka::handlers::fixture::{cluster, leaders_of};
    use crate::rebuild::{LaneRebuild, RebuildFacts};
    use tidewater_storage::model::Term;

    fn good() -> BrokerFacts {
        BrokerFacts { disk_limit_bytes: 1000, disk_admissible_bytes: 900, ..BrokerFacts::default() }
    }

    /// Lanes 0 and 1 as broker 2 leads them, with followers that answer on these brokers.
    fn led(answering: &[i32]) -> Vec<LaneFacts> {
        let follower = |node| {
            let silent_ms = answering.contains(&node).then_some(10);
            FollowerFacts { node, behind_entries: 0, silent_ms }
        };
        let lane = |lane| LaneFacts {
            lane,
            leads: true,
            voters: vec![1, 2, 3],
            followers: [1, 3].map(follower).to_vec(),
            ..LaneFacts::default()
        };
        [0, 1].map(lane).to_vec()
    }

    /// Three brokers that answer, lanes 0 and 1 led by broker 2 with all replicas in sync.
    fn healthy() -> ClusterFacts {
        let mut brokers: BTreeMap<NodeId, Result<BrokerFacts, String>> =
            [1, 2, 3].map(|n| (NodeId(n), Ok(good()))).into();
        brokers.insert(NodeId(2), Ok(BrokerFacts { lanes: led(&[1, 3]), ..good() }));
        let mut leaders = Leaders::default();
        let in_sync = [1, 2, 3].map(NodeId).to_vec();
        let lane =
            |lane| LaneReport { lane, term: Term(5), leader: Some(NodeId(2)), in_sync: in_sync.clone(), followed: 1 };
        let lanes = [LaneId::CONTROLLER, LaneId(1)].map(lane).into();
        leaders.see(&LeaderReport { from: NodeId(2), lanes, full: None });
        ClusterFacts { image: Arc::new(cluster(&[("orders", 4)])), leaders: Arc::new(leaders), brokers }
    }

    fn kinds(health: &Health) -> Vec<ProblemKind> {
        health.problems.iter().map(|problem| problem.kind).collect()
    }

    #[test]
    fn a_cluster_with_all_replicas_in_sync_is_healthy() {
        let health = judge(&healthy());
        assert_eq!((health.status, health.reachable, health.problems.len()), (Standing::Healthy, 3, 0));
        assert_eq!((health.lanes.all, health.partitions.all), (2, 4));
    }

    #[test]
    fn a_broker_that_is_away_degrades_the_cluster_and_says_what_to_do() {
        let mut facts = healthy();
        facts.leaders = Arc::new(leaders_of(2, 6)); // 2 and 3 are in sync.
        facts.brokers.insert(NodeId(1), Err("no answer in 2s".to_owned()));
        facts.brokers.insert(NodeId(2), Ok(BrokerFacts { lanes: led(&[3]), ..good() }));
        let health = judge(&facts);
        assert_eq!((health.status, health.reachable), (Standing::Degraded, 2));
        assert_eq!(kinds(&health), [ProblemKind::Unreachable, ProblemKind::UnderReplicated]);
        assert_eq!((health.lanes.under_replicated, health.partitions.under_replicated), (2, 4));
        assert!(health.problems[0].advice.contains("--replace 1"), "{health:?}");
        assert!(health.problems[1].what.contains("2 lanes without an in-sync replica on broker 1"), "{health:?}");
    }

    #[test]
    fn a_superseded_broker_an_emptied_bucket_and_cuts_that_fail_are_named_with_what_to_do() {
        let mut facts = healthy();
        let superseded = Some(SupersededFacts { own: 1, next: 2 });
        facts.brokers.insert(NodeId(1), Ok(BrokerFacts { superseded, ..good() }));
        let gone = Some("the cluster's root tidewater/root is gone from the bucket".to_owned());
        facts.brokers.insert(NodeId(3), Ok(BrokerFacts { bucket_gone: gone, ..good() }));
        let cuts_failing = Some("two clusters share a cluster id".to_owned());
        facts.brokers.insert(NodeId(2), Ok(BrokerFacts { lanes: led(&[1, 3]), cuts_failing, ..good() }));
        let health = judge(&facts);
        assert_eq!(kinds(&health), [ProblemKind::Superseded, ProblemKind::BucketGone, ProblemKind::NoCuts]);
        assert!(health.problems[2].what.contains("no cuts are made (by broker 2): two clusters"), "{health:?}");
        assert_eq!((health.status, health.reachable), (Standing::Degraded, 3));
        assert_eq!((&health.problems[0].brokers, &health.problems[1].brokers), (&vec![1], &vec![3]));
        assert!(health.problems[0].what.contains("goes on in epoch 2"), "{health:?}");
        assert!(health.problems[0].advice.contains("stop broker 1"), "{health:?}");
        assert!(health.problems[1].advice.contains("put the bucket's objects back"), "{health:?}");
    }

    #[test]
    fn the_document_is_read_as_it_was_written_and_a_missing_field_is_named() {
        let mut facts = healthy();
        let lanes = vec![LaneRebuild { lane: 1, ..LaneRebuild::default() }];
        let rebuild = Some(RebuildFacts { lanes, replicas: 1, ..RebuildFacts::default() });
        facts.brokers.insert(NodeId(3), Ok(BrokerFacts { rebuild, ..good() }));
        let health = judge(&facts);
        let mut json = serde_json::to_value(&health).expect("writes");
        let mut read: Health = serde_json::from_value(json.clone()).expect("reads");
        // Only problems need them here.
        read.rebuilds
            .iter_mut()
            .zip(&health.rebuilds)
            .for_each(|(read, sent)| read.lanes_left = sent.lanes_left.clone());
        assert_eq!(read, health);
        json["problems"][0].as_object_mut().expect("an object").remove("advice");
        let error = serde_json::from_value::<Health>(json).expect_err("a field is missing");
        assert!(error.to_string().contains("missing field `advice`"), "{error}");
    }

    #[test]
    fn lanes_without_a_leader_make_it_unavailable() {
        let health = judge(&ClusterFacts { leaders: Arc::default(), ..healthy() });
        assert_eq!((health.status, health.partitions.leaderless), (Standing::Unavailable, 4));
        assert!(health.problems[0].advice.contains("brokers 1, 2, 3"), "{health:?}");
        let mut alone = healthy();
        alone.brokers.insert(NodeId(2), Ok(BrokerFacts { lanes: led(&[]), ..good() }));
        assert_eq!(judge(&alone).status, Standing::Unavailable, "no follower answers the leader");
        let mut dead = healthy();
        dead.brokers.insert(NodeId(2), Err("no answer".to_owned()));
        assert_eq!(judge(&dead).lanes.leaderless, 2, "its leader died and no other is elected yet");
    }

    #[test]
    fn a_broker_that_is_rebuilt_says_how_far_it_is() {
        let mut facts = healthy();
        let mut lanes = led(&[1, 3]);
        lanes[1].learners = vec![3];
        facts.brokers.insert(NodeId(2), Ok(BrokerFacts { lanes, ..good() }));
        let health = judge(&facts);
        assert_eq!(kinds(&health), [ProblemKind::Rebuilding]);
        assert_eq!(health.problems[0].what, "broker 3 is being rebuilt: 0 of 1 replicas", "as its leader knows it");
        let lane = |lane, from| LaneRebuild { lane, from, ..LaneRebuild::default() };
        let own = RebuildFacts {
            replicas_done: 4,
            replicas: 6,
            copied_bytes: 1 << 20,
            bytes: 4 << 20,
            bucket_bytes: 1 << 30,
            since_ms: 2000,
            lanes: vec![lane(1, Some(2)), lane(7, None)],
        };
        facts.brokers.insert(NodeId(3), Ok(BrokerFacts { rebuild: Some(own), ..good() }));
        let health = judge(&facts);
        let expected = "broker 3 is being rebuilt: 4 of 6 replicas, 1.00 MiB of 4.00 MiB copied, 1.00 GiB stay in the \
                        bucket, about 6 s left";
        assert_eq!((health.problems[0].what.as_str(), &health.problems[0].lanes), (expected, &vec![1, 7]));
        assert_eq!((health.rebuilds.len(), health.rebuilds[0].left_ms), (1, Some(6000)));
        assert_eq!(health.status, Standing::Degraded);
    }

    #[test]
    fn a_follower_whose_answers_are_late_is_told_from_one_that_catches_up() {
        let mut facts = healthy();
        facts.brokers.insert(NodeId(2), Ok(BrokerFacts { lanes: led(&[1]), ..good() }));
        let advice = |facts: &ClusterFacts| judge(facts).problems[0].advice.clone();
        assert!(advice(&facts).contains("they are being caught up"), "{}", advice(&facts));
        let own = |lane| LaneFacts { lane, leader: Some(2), heard_ms: Some(200), ..LaneFacts::default() };
        facts.brokers.insert(NodeId(3), Ok(BrokerFacts { lanes: [0, 1].map(own).to_vec(), ..good() }));
        assert!(advice(&facts).contains("its answers come too late to count"), "{}", advice(&facts));
    }

    #[test]
    fn a_full_disk_a_slow_follower_and_a_refused_peer_are_named() {
        let mut facts = healthy();
        let follower = |node, behind_entries| FollowerFacts { node, behind_entries, silent_ms: Some(10) };
        let followers = vec![follower(1, 0), follower(3, 20_000)];
        let mut lanes = led(&[1, 3]);
        lanes[1].followers = followers;
        facts.brokers.insert(NodeId(2), Ok(BrokerFacts { lanes, disk_admissible_bytes: 0, ..good() }));
        let expected = [ProblemKind::Full, ProblemKind::UnderReplicated, ProblemKind::Behind];
        assert_eq!(kinds(&judge(&facts)), expected);
        let refused = PeerFacts { node: 3, refused: Some("wrong secret".to_owned()), ..PeerFacts::default() };
        facts.brokers.insert(NodeId(1), Ok(BrokerFacts { peers: vec![refused], ..good() }));
        assert_eq!(kinds(&judge(&facts))[..2], [ProblemKind::Refused, ProblemKind::Full]);
    }
}
