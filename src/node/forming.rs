//! Forming a cluster out of the brokers of a seed list, as decisions without I/O.
//!
//! A broker that belongs to no cluster asks every address of `--seed` for its hello and gives the answers to
//! [`decide`]. The driver (`join`) makes a decision durable in `node.json` before any later hello of this broker shows
//! it.
//!
//! 1. The list is agreed: every seed answers, is empty, and has the same list. The first of the list, the chief, makes
//!    a cluster id and fixes which data directory has which position: [`Decision::Found`].
//! 2. Every other founder that sees the fixed list in any founder's answer takes its node id from it:
//!    [`Decision::Adopt`]. A broker whose birth id is not in the list takes none: it came after a disk was lost.
//! 3. The founders start the controller's lane. Once its first entry is committed, the cluster is formed, and every
//!    other broker joins through it: [`Decision::Register`].
//!
//! **Why no two clusters form from one list.** The chief founds only after every seed has answered since the chief's
//! own start, and a founder's answer shows what it has adopted. So a chief that has lost its disk finds the earlier
//! cluster at any founder that adopted it. A birth id adopts one cluster in its life; a cluster is formed by a majority
//! of its founders.

use serde::{Deserialize, Serialize};
use tidewater_storage::model::NodeId;
use uuid::Uuid;

use crate::controller::brokers::BrokerAddress;
use crate::controller::command::Founder;

#[cfg(test)]
mod tests;

/// The version of the messages of this page. Brokers of different versions form no cluster together.
pub const FORMING_VERSION: u32 = 1;

/// A broker presents itself. A *message*.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub birth: Uuid,
    pub cluster_name: String,
    /// `--seed`, in its order.
    pub seeds: Vec<String>,
    pub version: u32,
    /// How the broker is reached now.
    pub address: BrokerAddress,
    pub state: Belonging,
}

/// What a broker belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Belonging {
    Empty,
    /// A cluster that is founded but not formed. Durable at the broker that answers.
    Founder {
        cluster: Uuid,
        /// By position in the seed list.
        founders: Vec<Founder>,
    },
    /// A formed cluster.
    Member {
        cluster: Uuid,
        node: NodeId,
    },
}

/// What a broker without a cluster does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask again. The text says for what it waits.
    Wait(String),
    /// Make a cluster of these founders durable, as its first node.
    Found { founders: Vec<Founder> },
    /// Make durable that this broker is the founder `node` of a cluster.
    Adopt { cluster: Uuid, founders: Vec<Founder>, node: NodeId },
    /// Join the formed cluster through the seed at this position.
    Register { cluster: Uuid, through: usize },
    /// It cannot come right by itself. The text says what to do; nothing was changed.
    Refuse(String),
}

/// The node id of the founder at a position of the seed list.
#[must_use]
pub fn node_at(position: usize) -> NodeId {
    NodeId(i32::try_from(position).unwrap_or(i32::MAX - 1) + 1)
}

/// How many of `founders` brokers vote in the controller's lane: an odd number, except that two both do. The others
/// learn.
#[must_use]
pub fn controller_voters(founders: usize) -> usize {
    match founders {
        0..=2 => founders,
        3..=4 => 3,
        _ => 5,
    }
}

/// The next step of the broker `me`, which belongs to no cluster. `answers` holds the last hello of each seed of its
/// list since it started, its own included, or why there is none.
#[must_use]
pub fn decide(me: &Hello, answers: &[Result<Hello, String>]) -> Decision {
    assert_eq!(me.seeds.len(), answers.len(), "one answer for each seed");
    assert_eq!(me.state, Belonging::Empty, "a broker of a cluster forms no other");
    let heard = || me.seeds.iter().zip(answers).filter_map(|(seed, answer)| Some((seed, answer.as_ref().ok()?)));
    if let Some(why) = heard().find_map(|(seed, hello)| unfit(me, seed, hello)) {
        return Decision::Refuse(why);
    }
    for (position, (seed, hello)) in me.seeds.iter().zip(answers).enumerate() {
        let earlier = me.seeds.iter().zip(answers).take(position);
        if let Some((other, _)) = hello
            .as_ref()
            .ok()
            .and_then(|hello| earlier.clone().find(|(_, e)| e.as_ref().is_ok_and(|e| e.birth == hello.birth)))
        {
            return Decision::Refuse(format!(
                "the seeds {other} and {seed} are the same broker: name each broker once in --seed"
            ));
        }
    }
    if let Some((one, a, other, b)) = disagreement(me, answers) {
        return Decision::Refuse(format!(
            "the seeds {one} and {other} belong to different clusters ({a} and {b}): correct --seed, or empty the data \
             directory of the broker that should belong to the other cluster"
        ));
    }
    let formed = answers.iter().enumerate().find_map(|(position, answer)| match answer.as_ref().ok()?.state {
        Belonging::Member { cluster, .. } => Some((position, cluster)),
        Belonging::Empty | Belonging::Founder { .. } => None,
    });
    if let Some((through, cluster)) = formed {
        return Decision::Register { cluster, through };
    }
    let position = answers.iter().position(|answer| answer.as_ref().is_ok_and(|hello| hello.birth == me.birth));
    let founded = heard().find_map(|(seed, hello)| match &hello.state {
        Belonging::Founder { cluster, founders } => Some((seed, *cluster, founders)),
        Belonging::Empty | Belonging::Member { .. } => None,
    });
    if let Some((seed, cluster, founders)) = founded {
        return adopt(me, position, seed, cluster, founders);
    }
    let silent: Vec<String> = me
        .seeds
        .iter()
        .zip(answers)
        .filter_map(|(seed, answer)| Some(format!("{seed} does not answer ({})", answer.as_ref().err()?)))
        .collect();
    let of_seeds = format!("{} of {} seeds", silent.len(), me.seeds.len());
    let Some(position) = position else {
        // Why a seed does not answer may be this broker's fault: another secret, an older version.
        if !silent.is_empty() {
            let seeds = silent.join(", ");
            return Decision::Wait(format!(
                "this broker joins once a seed answers that is in a cluster; waiting for {of_seeds}: {seeds}"
            ));
        }
        return Decision::Wait(format!(
            "no seed belongs to a cluster yet, and this broker is not in --seed ({}); it joins once they have formed one",
            me.seeds.join(",")
        ));
    };
    if let Some((seed, hello)) = heard().find(|(_, hello)| hello.seeds != me.seeds) {
        return Decision::Refuse(format!(
            "the seed lists differ: here --seed {}, at {seed} --seed {}; give every broker the same list in the same order",
            me.seeds.join(","),
            if hello.seeds.is_empty() { "is not given".to_owned() } else { hello.seeds.join(",") }
        ));
    }
    if !silent.is_empty() {
        return Decision::Wait(format!("waiting for {of_seeds}: {}", silent.join(", ")));
    }
    if position == 0 {
        let founder = |(position, (_, hello)): (usize, (&String, &Hello))| Founder {
            node: node_at(position),
            birth: hello.birth,
            address: hello.address.clone(),
        };
        let founders = heard().enumerate().map(founder).collect();
        return Decision::Found { founders };
    }
    Decision::Wait(format!("waiting for {} to found the cluster", me.seeds[0]))
}

/// Why a broker that answers with this hello can be in no cluster with `me`.
fn unfit(me: &Hello, seed: &str, hello: &Hello) -> Option<String> {
    if hello.version != me.version {
        let (newer, older) = if hello.version > me.version { ("it", "this broker") } else { ("this broker", "it") };
        return Some(format!(
            "the broker at {seed} forms clusters by version {}, this one by {}: {newer} is newer, upgrade {older}",
            hello.version, me.version
        ));
    }
    (hello.cluster_name != me.cluster_name).then(|| {
        format!(
            "the broker at {seed} has --cluster-name {}, this one {}: give both the same name, or correct --seed",
            hello.cluster_name, me.cluster_name
        )
    })
}

/// Two seeds that belong to different clusters, or to one with different founders.
fn disagreement<'a>(me: &'a Hello, answers: &'a [Result<Hello, String>]) -> Option<(&'a str, Uuid, &'a str, Uuid)> {
    type Seen<'a> = (&'a str, Uuid, Option<&'a [Founder]>);
    let mut seen: Vec<Seen<'a>> = Vec::new();
    for (seed, answer) in me.seeds.iter().zip(answers) {
        let (cluster, founders) = match answer.as_ref().map(|hello| &hello.state) {
            Ok(Belonging::Founder { cluster, founders }) => (*cluster, Some(founders.as_slice())),
            Ok(Belonging::Member { cluster, .. }) => (*cluster, None),
            Ok(Belonging::Empty) | Err(_) => continue,
        };
        let differs = |(_, other, theirs): &&Seen<'a>| {
            *other != cluster || matches!((theirs, founders), (Some(theirs), Some(ours)) if *theirs != ours)
        };
        if let Some((one, other, _)) = seen.iter().find(differs) {
            return Some((one, *other, seed, cluster));
        }
        seen.push((seed, cluster, founders));
    }
    None
}

fn adopt(me: &Hello, position: Option<usize>, seed: &str, cluster: Uuid, founders: &[Founder]) -> Decision {
    match founders.iter().position(|founder| founder.birth == me.birth) {
        Some(at) if position.is_none_or(|position| position == at) => {
            Decision::Adopt { cluster, founders: founders.to_vec(), node: node_at(at) }
        }
        Some(at) => Decision::Refuse(format!(
            "the cluster {cluster} was founded with this broker at position {} of the seed list, and here --seed has it at \
             position {}: give every broker the list of {seed}",
            at + 1,
            position.unwrap_or_default() + 1,
        )),
        None => Decision::Wait(match position {
            Some(position) => format!(
                "the cluster {cluster} was founded with another data directory at this address, and is not formed yet; once \
                 it is, start this broker with --replace {} to take that broker's part",
                node_at(position)
            ),
            None => format!("the cluster {cluster} is founded and not formed yet; this broker joins once it is"),
        }),
    }
}
