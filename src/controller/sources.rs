//! Clusters whose buckets this one follows (sources): what the controller keeps of them, and the checks of a new one.

use serde::{Deserialize, Serialize};
use tidewater_tiering::keys::ClusterName;
use uuid::Uuid;

use super::ask::TopicError;
use super::command::Command;
use super::features::{CLUSTER, REPLICAS};
use super::state::ControllerState;
use crate::limits::SOURCES_MAX;

/// A source of this cluster. Never used again, also not for the same bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(pub Uuid);

/// What follows a source's bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// By which operators name the source.
    pub name: ClusterName,
    /// The bucket's URL, as for `--bucket`.
    pub url: String,
    /// The source's name in its bucket.
    pub cluster_name: ClusterName,
    /// The source's cluster id, as its root named it when it was followed first. Another one under the same name is not
    /// followed.
    pub cluster: Uuid,
    /// Names of the topics that are followed, comma-separated; `*` stands for any characters.
    pub topics: String,
}

/// A source as the controller keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    pub spec: SourceSpec,
    /// The controller's revision that added it. Of two sources with topics of the same name, the earlier one is shown.
    pub since: u64,
}

/// Checks a source that shall be followed, or one that is and shall follow other topics; `None` if nothing changes.
///
/// # Errors
/// Why it cannot be.
pub(super) fn follow(state: &ControllerState, id: SourceId, spec: SourceSpec) -> Result<Option<Command>, TopicError> {
    let refuse = |why: String| Err(TopicError::InvalidRequest(why));
    if state.level(CLUSTER) < REPLICAS {
        return refuse(
            "a broker of the cluster is of a version that knows no sources: update every broker first".to_owned(),
        );
    }
    if spec.cluster == state.cluster {
        return refuse(format!(
            "{} in {} is this cluster itself; a source is another cluster's bucket",
            spec.cluster_name, spec.url
        ));
    }
    for (held_id, record) in &state.sources {
        let held = &record.spec;
        if (&held.name, &held.url, &held.cluster_name, held.cluster)
            == (&spec.name, &spec.url, &spec.cluster_name, spec.cluster)
        {
            return Ok((*held != spec).then_some(Command::Follow { id: *held_id, spec }));
        }
        if held.cluster == spec.cluster {
            return refuse(format!(
                "the cluster {} is followed already, as source {} from {}; to follow other topics of it, create that \
                 source again with other --topics",
                held.cluster_name, held.name, held.url
            ));
        }
        if held.name == spec.name {
            return refuse(format!(
                "there is a source {} already, which follows {}; choose another --name",
                held.name, held.url
            ));
        }
    }
    if state.sources.len() >= SOURCES_MAX {
        return refuse(format!("the cluster follows {SOURCES_MAX} sources, which is the most it can"));
    }
    Ok(Some(Command::Follow { id, spec }))
}

/// Checks a source that shall no longer be followed; `None` if there is no such source.
pub(super) fn unfollow(state: &ControllerState, id: SourceId) -> Option<Command> {
    state.sources.contains_key(&id).then_some(Command::Unfollow { id })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::controller::state::Verdict;

    pub(crate) fn spec(name: &str, cluster: u128) -> SourceSpec {
        SourceSpec {
            name: ClusterName::new(name).expect("legal"),
            url: format!("file:///{name}"),
            cluster_name: ClusterName::new("tidewater").expect("legal"),
            cluster: Uuid::from_u128(cluster),
            topics: "*".to_owned(),
        }
    }

    fn state(level: u16) -> ControllerState {
        let mut state = ControllerState::default();
        state.cluster = Uuid::from_u128(9);
        state.features.insert(CLUSTER.to_owned(), level);
        state
    }

    const ONE: SourceId = SourceId(Uuid::from_u128(1));
    const TWO: SourceId = SourceId(Uuid::from_u128(2));

    #[test]
    fn a_source_is_added_once_and_removed_once() {
        let mut state = state(REPLICAS);
        let command = follow(&state, ONE, spec("east", 5)).expect("may be followed").expect("is new");
        assert_eq!(state.apply(command.clone()), Verdict::Done);
        assert_eq!(state.sources[&ONE].since, 1);
        assert_eq!(follow(&state, TWO, spec("east", 5)), Ok(None), "the same again");
        let wider = SourceSpec { topics: "orders*".to_owned(), ..spec("east", 5) };
        let command = follow(&state, TWO, wider.clone()).expect("may be followed").expect("other topics");
        state.apply(command);
        assert_eq!(state.sources, BTreeMap::from([(ONE, SourceRecord { spec: wider, since: 1 })]));
        let command = unfollow(&state, ONE).expect("is there");
        assert_eq!(state.apply(command.clone()), Verdict::Done);
        assert_eq!(state.apply(command), Verdict::Stale);
        assert_eq!((unfollow(&state, ONE), state.sources.len()), (None, 0));
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_the_reason() {
        let refused = |state: &ControllerState, id, spec| match follow(state, id, spec) {
            Err(TopicError::InvalidRequest(why)) => why,
            other => unreachable!("{other:?}"),
        };
        assert!(refused(&state(REPLICAS - 1), ONE, spec("east", 5)).contains("update every broker"));
        let mut state = state(REPLICAS);
        assert!(refused(&state, ONE, spec("east", 9)).contains("this cluster itself"));
        state.apply(Command::Follow { id: ONE, spec: spec("east", 5) });
        assert!(refused(&state, TWO, spec("west", 5)).contains("is followed already, as source east"));
        assert!(refused(&state, TWO, spec("east", 6)).contains("choose another --name"));
        for n in 1..SOURCES_MAX as u128 {
            let id = SourceId(Uuid::from_u128(100 + n));
            state.apply(Command::Follow { id, spec: spec(&format!("s{n}"), 100 + n) });
        }
        assert!(refused(&state, TWO, spec("west", 6)).contains("which is the most"));
    }
}
