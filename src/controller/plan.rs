//! Requests about topics → commands: pure checks against the state, with words for people. Settings are in `settings`.

mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LaneId, NodeId, TopicId, TopicName};
use uuid::Uuid;

use super::ask::{TopicError, TopicSpec};
use super::command::Command;
use super::copies;
use super::features;
use super::lane_table::LaneRecord;
use super::placement::{self, Planned};
use super::state::{ControllerState, Verdict};
use crate::limits::{LANES_MAX, PARTITIONS_PER_TOPIC_MAX, REPLICATION_FACTOR_MAX};
use settings::{check_setting, check_size, check_table, internal_settings};

pub use settings::{INTERNAL_SETTINGS, configure, mend_internal};

/// Sets of brokers that a refusal names.
const SETS_NAMED_MAX: usize = 10;

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
    check_table(state, &name, &overrides)?;
    check_size(&BTreeMap::new(), &overrides)?;
    let lanes = if spec.assignments.is_empty() {
        let wanted = spec.partitions.unwrap_or(i32::try_from(context.num_partitions).unwrap_or(i32::MAX));
        place(state, context, factor, id, &[], in_range(wanted)?)?
    } else {
        assigned(state, context, &spec.assignments, 0, factor)?
    };
    let (copy, epoch_base) = match &spec.copy {
        Some((copy, base)) => {
            copies::check(state, copy)?;
            (Some(copy.clone()), *base)
        }
        None => (None, 0),
    };
    Ok(Command::CreateTopic { name, id, lanes, overrides, epoch_base, copy })
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
