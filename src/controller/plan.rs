//! Requests about topics → commands: pure checks against the state, with words for people.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LaneId, NodeId, TopicId, TopicName};
use uuid::Uuid;

use super::client::{ConfigChange, ConfigOp, TopicError, TopicSpec};
use super::command::Command;
use super::features;
use super::lane_table::LaneRecord;
use super::placement::{self, Planned};
use super::state::{ControllerState, TopicRecord, Verdict};
use crate::config::topic::{self, Shape};
use crate::limits::{LANES_MAX, PARTITIONS_PER_TOPIC_MAX, REPLICATION_FACTOR_MAX, TOPIC_SETTINGS_BYTES_MAX};

/// Sets of brokers that a refusal names.
const SETS_NAMED_MAX: usize = 10;

/// The settings of the broker's own topics, which clients cannot change: its log is cut by the snapshots of what keeps its
/// state there and by nothing else, and all of it stays on local disk, so that a start needs no bucket.
pub const INTERNAL_SETTINGS: [(&str, &str); 4] =
    [("retention.ms", "-1"), ("retention.bytes", "-1"), ("local.retention.ms", "-1"), ("local.retention.bytes", "-1")];

/// What a plan needs besides the state.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// `num.partitions`.
    pub num_partitions: u32,
    /// Partitions that are planned together with this one.
    pub planned: &'a Planned,
}

/// Checks a topic that shall be made.
///
/// # Errors
/// Why it cannot be.
pub fn create(
    state: &ControllerState,
    context: Context<'_>,
    spec: &TopicSpec,
    id: TopicId,
) -> Result<Command, TopicError> {
    let name = TopicName::new(&spec.name).map_err(|e| TopicError::InvalidName(format!("{:?}: {e}", spec.name)))?;
    if state.topics.contains_key(&name) {
        return Err(TopicError::Exists(spec.name.clone()));
    }
    // Only a name with one of the two characters can collide with another: thousands of topics are not looked through.
    let suspect = name.as_str().contains(['.', '_']);
    if let Some(other) = state.topics.keys().filter(|_| suspect).find(|other| collides(other.as_str(), name.as_str())) {
        return Err(TopicError::InvalidName(format!(
            "topic {name} collides with {other}: '.' and '_' are the same in metric and table names"
        )));
    }
    if name.is_internal() && !spec.internal {
        return Err(TopicError::InvalidName(format!("topic {name} is the broker's own and is made when it is needed")));
    }
    let factor = factor_of(state, spec)?;
    let mut overrides = BTreeMap::new();
    for (key, value) in &spec.configs {
        if let Some(value) = value {
            check_setting(key, value)?;
            overrides.insert(key.clone(), value.clone());
        }
    }
    if spec.internal {
        overrides.extend(internal_settings());
    }
    check_size(&BTreeMap::new(), &overrides)?;
    let lanes = if spec.assignments.is_empty() {
        let wanted = spec.partitions.unwrap_or(i32::try_from(context.num_partitions).unwrap_or(i32::MAX));
        place(state, context, factor, id, &[], in_range(wanted)?)?
    } else {
        assigned(state, context, &spec.assignments, 0, factor)?
    };
    Ok(Command::CreateTopic { name, id, lanes, overrides })
}

/// The replication factor of topics that do not name one.
#[must_use]
pub fn default_factor(state: &ControllerState) -> u16 {
    u16::try_from(state.brokers.len().clamp(1, 3)).unwrap_or(1)
}

/// The replication factor that a topic shall have.
///
/// # Errors
/// The cluster cannot give it, in Kafka's words.
pub fn factor_of(state: &ControllerState, spec: &TopicSpec) -> Result<u16, TopicError> {
    if let Some((_, first)) = spec.assignments.first() {
        return checked_assignment(state, &spec.assignments).map(|()| u16::try_from(first.len()).unwrap_or(u16::MAX));
    }
    let brokers = state.brokers.len().max(1);
    match spec.replication_factor {
        -1 => Ok(default_factor(state)),
        factor if factor <= 0 => Err(TopicError::InvalidReplicationFactor(
            "Replication factor must be larger than 0, or -1 to use the default value.".to_owned(),
        )),
        factor if factor.unsigned_abs() > REPLICATION_FACTOR_MAX => Err(TopicError::InvalidReplicationFactor(format!(
            "Replication factor {factor} is more than {REPLICATION_FACTOR_MAX}, which survives any two brokers."
        ))),
        factor if usize::from(factor.unsigned_abs()) > brokers => Err(TopicError::InvalidReplicationFactor(format!(
            "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be \
             reached because only {brokers} broker(s) are registered."
        ))),
        factor => Ok(factor.unsigned_abs()),
    }
}

fn in_range(partitions: i32) -> Result<u32, TopicError> {
    u32::try_from(partitions).ok().filter(|n| *n > 0 && partitions <= PARTITIONS_PER_TOPIC_MAX).ok_or_else(|| {
        TopicError::InvalidPartitions(format!("{partitions} partitions: use 1 to {PARTITIONS_PER_TOPIC_MAX}"))
    })
}

/// A client's own placement, as Kafka checks it: every replica on a registered broker, none twice, all partitions with
/// as many.
fn checked_assignment(state: &ControllerState, assignments: &[(i32, Vec<i32>)]) -> Result<(), TopicError> {
    let mut first = None;
    for (_, nodes) in assignments {
        let refuse = |why: String| Err(TopicError::InvalidAssignment(format!("The manual partition assignment {why}")));
        let before = *first.get_or_insert(nodes.len());
        let Some(lowest) = nodes.iter().min() else {
            return refuse("includes an empty replica list.".to_owned());
        };
        if *lowest < 0 {
            return refuse(format!("includes an invalid broker id {lowest}."));
        }
        if let Some(twice) = nodes.iter().find(|node| nodes.iter().filter(|other| other == node).count() > 1) {
            return refuse(format!("includes the broker {twice} more than once."));
        }
        if let Some(unknown) = nodes.iter().find(|node| !state.brokers.contains_key(&NodeId(**node))) {
            return refuse(format!("includes broker {unknown}, but no such broker is registered."));
        }
        if nodes.len() != before {
            return refuse(format!(
                "includes a partition with {} replica(s), but this is not consistent with previous partitions, which \
                 have {before} replica(s).",
                nodes.len()
            ));
        }
    }
    Ok(())
}

/// Lanes for a client's own placement of partitions that are numbered from `first` without holes.
fn assigned(
    state: &ControllerState,
    context: Context<'_>,
    assignments: &[(i32, Vec<i32>)],
    first: usize,
    factor: u16,
) -> Result<Vec<LaneId>, TopicError> {
    let mut by_index: Vec<&(i32, Vec<i32>)> = assignments.iter().collect();
    by_index.sort_unstable_by_key(|(index, _)| *index);
    if by_index.iter().enumerate().any(|(n, (index, _))| usize::try_from(*index) != Ok(first + n)) {
        return Err(TopicError::InvalidAssignment(format!("partitions must be numbered from {first} without holes")));
    }
    in_range(i32::try_from(assignments.len()).unwrap_or(i32::MAX))?;
    checked_assignment(state, assignments)?;
    let mut lanes = Vec::with_capacity(assignments.len());
    for (index, nodes) in by_index {
        let wanted: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        let lane = placement::assigned(&state.lanes, &wanted, |lane| load(state, context, lane));
        let lane = lane.filter(|_| nodes.len() == usize::from(factor)).ok_or_else(|| {
            let pool =
                state.lanes.pool(factor).map(|(_, record)| record.nodes().map(|node| node.0).collect::<Vec<_>>());
            let sets = pool.map(|set| format!("{set:?}")).collect::<BTreeSet<_>>();
            let sets = sets.into_iter().take(SETS_NAMED_MAX).collect::<Vec<_>>().join(" ");
            TopicError::InvalidAssignment(format!(
                "partition {index} cannot be placed on brokers {nodes:?}: partitions share lanes, and the lanes of \
                 {factor} replica(s) are on {sets}"
            ))
        })?;
        plan_more(context, &[lane]);
        lanes.push(lane);
    }
    Ok(lanes)
}

/// Partitions that a lane carries, those that are planned among them.
fn load(state: &ControllerState, context: Context<'_>, lane: LaneId) -> u32 {
    state.load_of(lane).saturating_add(context.planned.borrow().get(&lane).copied().unwrap_or(0))
}

fn plan_more(context: Context<'_>, lanes: &[LaneId]) {
    let mut planned = context.planned.borrow_mut();
    lanes.iter().for_each(|lane| *planned.entry(*lane).or_default() += 1);
}

/// Topic names that would be one in metric and table names: '.' and '_' are the same there.
pub(super) fn collides(a: &str, b: &str) -> bool {
    let folded = |c: u8| if c == b'.' { b'_' } else { c };
    a.len() == b.len() && a.bytes().map(folded).eq(b.bytes().map(folded))
}

/// Lanes for `count` more partitions of a topic.
///
/// # Errors
/// The cluster has no lanes of that factor yet.
fn place(
    state: &ControllerState,
    context: Context<'_>,
    factor: u16,
    id: TopicId,
    held: &[LaneId],
    count: u32,
) -> Result<Vec<LaneId>, TopicError> {
    let lanes = placement::choose(&state.lanes, factor, id, held, count, |lane| load(state, context, lane));
    if lanes.len() != count as usize {
        return Err(TopicError::Unavailable);
    }
    plan_more(context, &lanes);
    Ok(lanes)
}

/// The lanes that a pool lacks for the brokers there are, as a command; `None` if it lacks none.
#[must_use]
pub fn make_lanes(state: &ControllerState, factor: u16) -> Option<Command> {
    let next = (state.lanes.last().0 + 1..=LANES_MAX).map(LaneId);
    let missing = placement::missing_lanes(&state.lanes, &state.brokers, factor);
    let lanes: BTreeMap<LaneId, LaneRecord> = next.zip(missing).collect();
    (state.level(features::CLUSTER) >= features::LANE_TABLE && !lanes.is_empty()).then_some(Command::AddLanes { lanes })
}

/// The factors that the cluster uses: those of lanes, and the default.
#[must_use]
pub fn factors_in_use(state: &ControllerState) -> BTreeSet<u16> {
    state.lanes.shared().map(|(_, record)| record.factor).chain([default_factor(state)]).collect()
}

/// Raises the replication factor of every lane that has a lower one, the controller's among them.
///
/// # Errors
/// There are too few brokers, or nothing to do.
pub fn widen(state: &ControllerState, factor: u16) -> Result<Vec<Command>, TopicError> {
    let refuse = |why: String| Err(TopicError::InvalidReplicationFactor(why));
    if factor == 0 || factor > REPLICATION_FACTOR_MAX {
        return refuse(format!("a replication factor of {factor} is not possible: use 1 to {REPLICATION_FACTOR_MAX}"));
    }
    if usize::from(factor) > state.brokers.len() {
        return refuse(format!(
            "a replication factor of {factor} needs as many brokers, and {} are registered",
            state.brokers.len()
        ));
    }
    let mut wide = state.clone();
    let mut commands = Vec::new();
    for (lane, record) in state.lanes.lanes.iter().filter(|(_, record)| record.factor < factor) {
        let nodes = placement::widened(&wide.lanes, &state.brokers, record, factor).ok_or(TopicError::Unavailable)?;
        let command = Command::SetReplicas { lane: *lane, before: record.replicas.clone(), nodes };
        let verdict = wide.apply(command.clone());
        assert_eq!(verdict, Verdict::Done, "what is planned from a state can be applied to it");
        commands.push(command);
    }
    Ok(commands)
}

/// Checks more partitions for a topic.
///
/// # Errors
/// Why not.
pub fn add_partitions(
    state: &ControllerState,
    context: Context<'_>,
    topic: &str,
    total: i32,
    assignments: &[Vec<i32>],
) -> Result<Command, TopicError> {
    let (name, record) = state.topics.get_key_value(topic).ok_or_else(|| TopicError::Unknown(topic.to_owned()))?;
    if name.is_internal() {
        return Err(TopicError::InvalidRequest(format!(
            "topic {name} is the broker's own and gets no more partitions: the hash of a group's name chooses the group's partition"
        )));
    }
    let from = u32::try_from(record.lanes.len()).unwrap_or(u32::MAX);
    let total = in_range(total)?;
    if total <= from {
        return Err(TopicError::InvalidPartitions(format!(
            "topic {name} has {from} partitions; the number can only grow, and {total} is not more"
        )));
    }
    let factor = record.lanes.first().and_then(|lane| state.lanes.lanes.get(lane)).map(|lane| lane.factor);
    let (factor, count) = (factor.ok_or(TopicError::Unavailable)?, total - from);
    let lanes = if assignments.is_empty() {
        place(state, context, factor, record.id, &record.lanes, count)?
    } else if assignments.len() != count as usize {
        let why = format!("{} assignments are given for {count} new partitions", assignments.len());
        return Err(TopicError::InvalidAssignment(why));
    } else {
        let numbered = (from..total).zip(assignments);
        let numbered: Vec<(i32, Vec<i32>)> =
            numbered.map(|(n, nodes)| (i32::try_from(n).unwrap_or(i32::MAX), nodes.clone())).collect();
        assigned(state, context, &numbered, from as usize, factor)?
    };
    Ok(Command::AddPartitions { name: name.clone(), from, lanes })
}

/// Checks changes of a topic's settings, all or none.
///
/// # Errors
/// Why not.
pub fn configure(state: &ControllerState, topic: &str, ops: &[ConfigOp]) -> Result<Command, TopicError> {
    let (name, record) = state.topics.get_key_value(topic).ok_or_else(|| TopicError::Unknown(topic.to_owned()))?;
    let mut overrides = record.overrides.clone();
    for ConfigOp { key, change } in ops {
        match change {
            ConfigChange::Set(value) => {
                check_setting(key, value)?;
                overrides.insert(key.clone(), value.clone());
            }
            ConfigChange::Delete => {
                known(key)?;
                overrides.remove(key);
            }
            ConfigChange::Append(value) | ConfigChange::Subtract(value) => {
                let row = known(key)?;
                if !matches!(row.shape, Shape::List(_)) {
                    return Err(TopicError::InvalidConfig(format!("{key} is not a list: set it instead")));
                }
                let add = matches!(change, ConfigChange::Append(_));
                let list = edit_list(overrides.get(key).map_or(row.default, String::as_str), value, add);
                check_setting(key, &list)?;
                overrides.insert(key.clone(), list);
            }
        }
    }
    if name.is_internal() && overrides != record.overrides {
        return Err(TopicError::InvalidRequest(format!(
            "topic {name} is the broker's own and its settings cannot be changed: committed offsets would go with its log"
        )));
    }
    let was_on = record.overrides.get("remote.storage.enable").is_none_or(|v| v == "true");
    let is_on = overrides.get("remote.storage.enable").is_none_or(|v| v == "true");
    if was_on && !is_on {
        return Err(TopicError::InvalidConfig(
            "remote.storage.enable=false is refused: switching it off again would strand what is in the bucket; delete the topic instead".into(),
        ));
    }
    check_size(&record.overrides, &overrides)?;
    Ok(Command::Configure { name: name.clone(), overrides })
}

/// Every partition carries its topic's settings. A topic that has too many already may get fewer.
fn check_size(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Result<(), TopicError> {
    let size = |overrides: &BTreeMap<String, String>| overrides.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    let bytes = size(after);
    if bytes <= TOPIC_SETTINGS_BYTES_MAX || bytes < size(before) {
        return Ok(());
    }
    Err(TopicError::InvalidConfig(format!(
        "the topic's settings take {bytes} bytes, at most {TOPIC_SETTINGS_BYTES_MAX} are taken"
    )))
}

fn internal_settings() -> impl Iterator<Item = (String, String)> {
    INTERNAL_SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
}

/// What gives the broker's own topics the settings they must have, if an earlier version made or changed them.
#[must_use]
pub fn mend_internal(state: &ControllerState) -> Vec<Command> {
    let mend = |(name, record): (&TopicName, &TopicRecord)| {
        let overrides = internal_settings().collect::<BTreeMap<_, _>>();
        (record.overrides != overrides).then(|| Command::Configure { name: name.clone(), overrides })
    };
    state.topics.iter().filter(|(name, _)| name.is_internal()).filter_map(mend).collect()
}

fn known(key: &str) -> Result<&'static topic::Setting, TopicError> {
    topic::setting(key).ok_or_else(|| TopicError::InvalidConfig(format!("Unknown topic config name: {key}")))
}

fn check_setting(key: &str, value: &str) -> Result<(), TopicError> {
    topic::check(key, value).map_err(|e| TopicError::InvalidConfig(e.to_string()))
}

fn edit_list(held: &str, change: &str, add: bool) -> String {
    let mut words: Vec<&str> = held.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
    for word in change.split(',').map(str::trim) {
        words.retain(|held| *held != word);
        if add {
            words.push(word);
        }
    }
    words.join(",")
}

/// Checks the end of a topic, of the life of it that `id` names if it is given.
///
/// # Errors
/// There is none of that name or id, or it is the broker's own.
pub fn delete(state: &ControllerState, name: &TopicName, id: Option<TopicId>) -> Result<Command, TopicError> {
    let found = state.topics.get(name).filter(|record| id.is_none_or(|id| record.id == id));
    let unknown = || id.map_or_else(|| TopicError::Unknown(name.to_string()), TopicError::UnknownId);
    let record = found.ok_or_else(unknown)?;
    if name.is_internal() {
        return Err(TopicError::InvalidRequest(format!("topic {name} is the broker's own and cannot be deleted")));
    }
    Ok(Command::DeleteTopic { name: name.clone(), id: record.id })
}

/// The command a new cluster begins with.
#[must_use]
pub fn genesis(cluster: Uuid) -> Command {
    Command::Genesis { cluster, founders: Vec::new(), voters: Vec::new(), level: 0 }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::ReplicaId;

    use super::*;
    use crate::controller::brokers;
    use crate::controller::command::Founder;

    fn context(planned: &Planned) -> Context<'_> {
        Context { num_partitions: 3, planned }
    }

    /// A cluster of `count` brokers of one shard, with the lanes of the factors it uses.
    fn cluster(count: i32) -> ControllerState {
        let mut state = ControllerState::default();
        let founders = (1..=count).map(|n| Founder {
            node: NodeId(n),
            birth: Uuid::from_u128(n as u128),
            address: brokers::tests::address(n, None, if count == 1 { 2 } else { 1 }),
        });
        let (founders, voters) = (founders.collect(), (1..=count).map(|n| ReplicaId::first(NodeId(n))).collect());
        state.apply(Command::Genesis { cluster: Uuid::from_u128(9), founders, voters, level: features::LANE_TABLE });
        for factor in factors_in_use(&state) {
            state.apply(make_lanes(&state, factor).expect("lacks"));
        }
        state
    }

    fn create(
        state: &ControllerState,
        planned: &Planned,
        spec: &TopicSpec,
        id: TopicId,
    ) -> Result<Command, TopicError> {
        super::create(state, context(planned), spec, id)
    }

    fn add_partitions(state: &ControllerState, topic: &str, total: i32) -> Result<Command, TopicError> {
        super::add_partitions(state, context(&Planned::default()), topic, total, &[])
    }

    fn spec(name: &str) -> TopicSpec {
        TopicSpec {
            name: name.into(),
            partitions: None,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: Vec::new(),
            validate_only: false,
            internal: false,
        }
    }

    fn with_topic(name: &str) -> ControllerState {
        let mut state = cluster(1);
        let command = create(&state, &Planned::default(), &spec(name), TopicId(Uuid::from_u128(1))).expect("planned");
        state.apply(command);
        state
    }

    #[test]
    fn partitions_go_round_the_lanes() {
        let state = with_topic("orders");
        let lanes = &state.topics.values().next().expect("one").lanes;
        assert_eq!(lanes, &[LaneId(2), LaneId(1), LaneId(2)]);
    }

    #[test]
    fn bad_topics_are_refused_with_a_reason() {
        let state = with_topic("a.b");
        let id = TopicId::default();
        let refused = |spec: TopicSpec| create(&state, &Planned::default(), &spec, id).expect_err("refused");
        assert!(matches!(refused(spec("a.b")), TopicError::Exists(_)));
        assert!(matches!(refused(spec("a_b")), TopicError::InvalidName(_)));
        assert!(matches!(refused(spec("__consumer_offsets")), TopicError::InvalidName(_)));
        assert!(matches!(refused(spec("sp ace")), TopicError::InvalidName(_)));
        let many = TopicSpec { partitions: Some(0), ..spec("x") };
        assert!(matches!(refused(many), TopicError::InvalidPartitions(_)));
        let replicated = TopicSpec { replication_factor: 3, ..spec("x") };
        let words = "Unable to replicate the partition 3 time(s): The target replication factor of 3 cannot be reached \
                     because only 1 broker(s) are registered.";
        assert_eq!(refused(replicated), TopicError::InvalidReplicationFactor(words.into()));
        let elsewhere = TopicSpec { assignments: vec![(0, vec![2])], ..spec("x") };
        assert!(matches!(refused(elsewhere), TopicError::InvalidAssignment(_)));
        let compacted = TopicSpec { configs: vec![("cleanup.policy".into(), Some("compact".into()))], ..spec("x") };
        assert!(matches!(refused(compacted), TopicError::InvalidConfig(_)));
    }

    #[test]
    fn a_topic_has_the_replicas_it_asks_for() {
        let state = cluster(3);
        let factor =
            |state: &ControllerState, factor| factor_of(state, &TopicSpec { replication_factor: factor, ..spec("x") });
        assert_eq!((factor(&state, -1), factor(&state, 1), factor(&state, 3)), (Ok(3), Ok(1), Ok(3)));
        assert_eq!((factor(&cluster(1), -1), factor(&cluster(5), -1), factor(&cluster(5), 5)), (Ok(1), Ok(3), Ok(5)));
        for none in [0, -2, 4, 6] {
            assert!(matches!(factor(&state, none), Err(TopicError::InvalidReplicationFactor(_))), "{none}");
        }
        let planned = Planned::default();
        let command = create(&state, &planned, &TopicSpec { partitions: Some(6), ..spec("x") }, TopicId::default());
        let Ok(Command::CreateTopic { lanes, .. }) = command else { unreachable!("{command:?}") };
        let leaders = lanes.iter().filter_map(|lane| state.lanes.lanes[lane].preferred());
        let count = leaders.fold(BTreeMap::new(), |mut count, node| {
            *count.entry(node.0).or_insert(0) += 1;
            count
        });
        assert_eq!(count, BTreeMap::from([(1, 2), (2, 2), (3, 2)]));
        assert_eq!(planned.borrow().values().sum::<u32>(), 6);
        assert!(make_lanes(&state, 1).is_some(), "no topic has asked for one replica before");
    }

    #[test]
    fn a_clients_placement_follows_the_lanes() {
        let state = cluster(3);
        let ask = |assignments: &[&[i32]]| {
            let assignments = assignments.iter().enumerate().map(|(n, nodes)| (n as i32, nodes.to_vec())).collect();
            create(&state, &Planned::default(), &TopicSpec { assignments, ..spec("x") }, TopicId::default())
        };
        let Ok(Command::CreateTopic { lanes, .. }) = ask(&[&[2, 3, 1], &[3, 1, 2]]) else { unreachable!() };
        let led: Vec<_> = lanes.iter().map(|lane| state.lanes.lanes[lane].preferred()).collect();
        assert_eq!(led, [Some(NodeId(2)), Some(NodeId(3))]);
        for (bad, words) in [
            (&[&[1, 2][..]][..], "on brokers [1, 2]: partitions share lanes"),
            (&[&[1, 2, 9]], "includes broker 9, but no such broker is registered."),
            (&[&[1, 2, 2]], "includes the broker 2 more than once."),
            (&[&[1, 2, 3], &[1]], "includes a partition with 1 replica(s), but this is not consistent"),
            (&[&[]], "includes an empty replica list."),
            (&[&[-1, 2, 3]], "includes an invalid broker id -1."),
        ] {
            match ask(bad) {
                Err(TopicError::InvalidAssignment(why)) => assert!(why.contains(words), "{why}"),
                other => unreachable!("{bad:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn widening_keeps_the_replicas_that_are_there() {
        let mut state = cluster(1);
        assert!(widen(&state, 3).is_err(), "one broker");
        for n in 2..=3 {
            let (birth, address) = (Uuid::from_u128(n as u128), brokers::tests::address(n, None, 1));
            state.apply(Command::Register { node: NodeId(n), birth, address, replaces: false });
        }
        let commands = widen(&state, 3).expect("three brokers");
        assert_eq!(commands.len(), 3, "the controller's lane and two of topics");
        for command in commands {
            assert_eq!(state.apply(command), Verdict::Done);
        }
        for (lane, record) in &state.lanes.lanes {
            assert_eq!((record.factor, record.replicas.len(), record.initial.len()), (3, 3, 1), "{lane}");
            assert_eq!(record.replicas[0], ReplicaId::first(NodeId(1)));
            // Every broker is a learner of the controller's lane already.
            let is_new = |replica: &ReplicaId| (replica.incarnation.0 > 0) == (*lane != LaneId::CONTROLLER);
            assert!(record.replicas[1..].iter().all(is_new), "{lane}");
        }
        assert_eq!(widen(&state, 3), Ok(Vec::new()));
    }

    fn with_offsets_topic() -> ControllerState {
        let mut state = cluster(1);
        let own = TopicSpec { internal: true, ..spec("__consumer_offsets") };
        state.apply(create(&state, &Planned::default(), &own, TopicId::default()).expect("planned"));
        state
    }

    #[test]
    fn the_brokers_own_topics_stay_as_they_are() {
        let state = with_offsets_topic();
        let refused = |done: Result<Command, TopicError>| matches!(done, Err(TopicError::InvalidRequest(_)));
        assert!(refused(add_partitions(&state, "__consumer_offsets", 50)));
        let ask = |key: &str, change| configure(&state, "__consumer_offsets", &[ConfigOp { key: key.into(), change }]);
        for key in ["retention.ms", "retention.bytes", "local.retention.ms", "local.retention.bytes"] {
            assert!(refused(ask(key, ConfigChange::Set("1000".into()))), "{key}");
            assert!(refused(ask(key, ConfigChange::Delete)), "{key}");
        }
        assert!(refused(ask("max.message.bytes", ConfigChange::Set("100".into()))));
        // What changes nothing may be said again.
        assert!(ask("retention.ms", ConfigChange::Set("-1".into())).is_ok());
    }

    #[test]
    fn the_brokers_own_topics_stay_on_local_disk_also_when_a_client_made_them() {
        let mut state = with_offsets_topic();
        let name = TopicName::new("__consumer_offsets").expect("legal");
        let local = |state: &ControllerState| topic::TopicConfig::resolve(&state.topics[&name].overrides);
        assert_eq!((local(&state).local_retention_ms, local(&state).retention_ms), (None, None));
        assert!(mend_internal(&state).is_empty());
        // As earlier versions made it.
        let overrides = BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]);
        state.apply(Command::Configure { name: name.clone(), overrides });
        assert_eq!(local(&state).local_retention_ms, Some(86_400_000));
        for command in mend_internal(&state) {
            state.apply(command);
        }
        assert_eq!((local(&state).local_retention_ms, local(&state).local_retention_bytes), (None, None));
        assert!(mend_internal(&state).is_empty());
    }

    #[test]
    fn a_topic_made_anew_is_not_deleted_by_the_id_of_the_old_one() {
        let state = with_topic("orders");
        let (name, now) = (TopicName::new("orders").expect("legal"), TopicId(Uuid::from_u128(1)));
        let before = TopicId(Uuid::from_u128(7));
        assert_eq!(delete(&state, &name, Some(before)), Err(TopicError::UnknownId(before)));
        let done = Command::DeleteTopic { name: name.clone(), id: now };
        assert_eq!(delete(&state, &name, Some(now)), Ok(done.clone()));
        assert_eq!(delete(&state, &name, None), Ok(done));
    }

    #[test]
    fn partitions_only_grow() {
        let state = with_topic("orders");
        assert!(add_partitions(&state, "orders", 3).is_err());
        match add_partitions(&state, "orders", 5) {
            Ok(Command::AddPartitions { from: 3, lanes, .. }) => assert_eq!(lanes, [LaneId(1), LaneId(2)]),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn settings_of_a_topic_are_bounded_one_by_one_and_together() {
        // 16 settings that take white space around a number, near the most that one may have.
        let wide = |n: usize| (topic::SETTINGS[n].name.to_owned(), format!("{:4000}", topic::SETTINGS[n].default));
        let numbers =
            || (0..topic::SETTINGS.len()).filter(|n| matches!(topic::SETTINGS[*n].shape, Shape::Integer { .. }));
        let configs = |count| numbers().take(count).map(wide).map(|(key, value)| (key, Some(value))).collect();
        let make = |count| TopicSpec { configs: configs(count), ..spec("x") };
        let state = with_topic("orders");
        create(&state, &Planned::default(), &make(3), TopicId::default()).expect("fits");
        let refused = create(&state, &Planned::default(), &make(5), TopicId::default()).expect_err("refused");
        assert!(matches!(refused, TopicError::InvalidConfig(_)), "{refused}");
        let set = |(key, value)| ConfigOp { key, change: ConfigChange::Set(value) };
        let ops: Vec<ConfigOp> = numbers().take(5).map(wide).map(set).collect();
        assert!(matches!(configure(&state, "orders", &ops), Err(TopicError::InvalidConfig(_))));
        let text = "follower.replication.throttled.replicas".to_owned();
        let long = [set((text.clone(), "0:1,".repeat(2000)))];
        assert!(matches!(configure(&state, "orders", &long), Err(TopicError::InvalidConfig(_))));
        // One of an older version, with more than is taken now, may still get fewer.
        let mut state = state;
        let record = state.topics.values_mut().next().expect("one");
        record.overrides.extend([(text.clone(), "0:1,".repeat(5000)), ("retention.ms".into(), "5".into())]);
        let fewer = ConfigOp { key: "retention.ms".into(), change: ConfigChange::Delete };
        configure(&state, "orders", &[fewer]).expect("fewer");
        assert!(configure(&state, "orders", &[set(("retention.ms".into(), "50".into()))]).is_err());
    }

    #[test]
    fn settings_change_all_or_none() {
        let state = with_topic("orders");
        let set = |key: &str, value: &str| ConfigOp { key: key.into(), change: ConfigChange::Set(value.into()) };
        let bad = [set("retention.ms", "5"), set("retention.bytes", "many")];
        assert!(configure(&state, "orders", &bad).is_err());
        assert!(configure(&state, "orders", &[set("remote.storage.enable", "false")]).is_err());
        match configure(&state, "orders", &[set("iceberg.mode", "key_value")]) {
            Ok(Command::Configure { overrides, .. }) => assert_eq!(overrides["iceberg.mode"], "key_value"),
            other => unreachable!("{other:?}"),
        }
    }
}
