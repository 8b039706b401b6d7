//! The way of a data directory into a cluster: alone, as a founder, or by joining one that is formed.
//!
//! Owns: the messages of [`Service::Join`], the loop that asks the seeds and carries out what [`forming`] decides, what
//! a running broker answers. Every step is durable in `node.json` before the next: birth id → cluster and node id. A
//! crash between two of them repeats the first, which is answered as before.

use std::cell::RefCell;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, join_all, select};
use serde::{Deserialize, Serialize};
use tidewater_storage::env::Env;
use tidewater_storage::model::{NodeId, ReplicaIncarnation};
use tidewater_tiering::keys::LineageEpoch;
use uuid::Uuid;

use super::error::StartError;
use super::forming::{self, Belonging, Decision, FORMING_VERSION, Hello};
use super::identity::{self, Identity, KnownBroker};
use super::waiting::Said;
use crate::admin::StartStage;
use crate::controller::brokers::{BrokerAddress, Registration};
use crate::controller::command::Founder;
use crate::rpc::{Refusal, Rpc, RpcError, Service, ServiceHandler};

/// Between two rounds of asking the seeds.
const ROUND_PAUSE: Duration = Duration::from_millis(300);
/// A seed that answers later counts as silent in its round.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A registration is a write to the controller's lane.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);
/// A start of a member looks at its seeds for no longer.
const CHECKED_WITHIN: Duration = Duration::from_millis(500);

/// A request of [`Service::Join`], as JSON. A *message*.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinRequest {
    /// Answered with the [`Hello`] of the broker asked.
    Hello(Hello),
    /// Answered with [`Registered`].
    Register(Registration),
}

/// The outcome of a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registered {
    As {
        cluster: Uuid,
        node: NodeId,
        incarnation: ReplicaIncarnation,
        known: Vec<KnownBroker>,
        /// The lineage epoch of the cluster.
        #[serde(default = "first_epoch")]
        epoch: u32,
    },
    /// Not now: ask again.
    Later(String),
    /// It cannot come right by itself; what to do.
    Refused(String),
}

/// Of a cluster that was never restored, which versions before say nothing of.
fn first_epoch() -> u32 {
    LineageEpoch::FIRST.0
}

/// The hello of a broker, by its `node.json` and the settings of this start.
#[must_use]
pub fn hello(identity: &Identity, seeds: &[String], address: &BrokerAddress) -> Hello {
    let state = match (identity.is_member(), identity.formed) {
        (false, _) => Belonging::Empty,
        (true, true) => Belonging::Member { cluster: identity.cluster, node: NodeId(identity.node) },
        (true, false) => Belonging::Founder { cluster: identity.cluster, founders: identity.founders.clone() },
    };
    let seeds = if identity.seeds.is_empty() { seeds.to_vec() } else { identity.seeds.clone() };
    let (birth, cluster_name, address) = (identity.birth, identity.cluster_name.clone(), address.clone());
    Hello { birth, cluster_name, seeds, version: FORMING_VERSION, address, state }
}

/// Answers hellos only: of a broker without a cluster, which cannot register others.
fn answer_hellos(shown: Rc<RefCell<Hello>>) -> ServiceHandler {
    Rc::new(move |_, body| {
        let shown = Rc::clone(&shown);
        Box::pin(async move {
            match parse(&body)? {
                JoinRequest::Hello(_) => Ok(json(&*shown.borrow())),
                JoinRequest::Register(_) => {
                    Ok(json(&Registered::Later("this broker belongs to no cluster yet".to_owned())))
                }
            }
        })
    })
}

/// Reads a request of [`Service::Join`].
///
/// # Errors
/// It is malformed, or of a newer version.
pub fn parse(body: &Bytes) -> Result<JoinRequest, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal(format!("a request to join a cluster cannot be read ({error}): use brokers of the same version"))
    })
}

/// An answer of [`Service::Join`].
#[must_use]
pub fn json<T: Serialize>(message: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(message).expect("texts, numbers and ids serialise into memory"))
}

/// What a broker joins with.
pub(super) struct Joining {
    pub(super) identity: Identity,
    pub(super) seeds: Vec<String>,
    pub(super) registration: Registration,
}

/// Brings a data directory that belongs to no cluster into the cluster of the seeds; returns its new identity, which is
/// durable. Waits for the seeds without a limit and logs for which.
///
/// # Errors
/// The seeds refuse it, or the disk refuses; nothing was changed.
pub(super) async fn run(
    env: &Env,
    rpc: &Rpc,
    dir: &Path,
    joining: &Joining,
    stage: &StartStage,
) -> Result<Identity, StartError> {
    let me = hello(&joining.identity, &joining.seeds, &joining.registration.address);
    rpc.serve(Service::Join, answer_hellos(Rc::new(RefCell::new(me.clone()))));
    let mut said = Said::default();
    let mut say = |why: String| {
        if said.is_due(env.clock.now(), &why) {
            tracing::info!("not in a cluster yet: {why}");
        }
        stage.set(why);
    };
    loop {
        let answers = join_all(joining.seeds.iter().map(|seed| ask(rpc, &me, seed))).await;
        let identity = match forming::decide(&me, &answers) {
            Decision::Wait(why) => {
                say(why);
                env.tasks.sleep(ROUND_PAUSE).await;
                continue;
            }
            Decision::Refuse(why) => return Err(StartError::Cluster(why)),
            Decision::Found { founders } => {
                let cluster = env.rng.uuid();
                tracing::info!(%cluster, founders = founders.len(), "founding a cluster with the brokers of --seed");
                founded(joining, cluster, founders, forming::node_at(0))
            }
            Decision::Adopt { cluster, founders, node } => {
                tracing::info!(%cluster, %node, "founding a cluster with the brokers of --seed");
                founded(joining, cluster, founders, node)
            }
            Decision::Register { cluster, through } => {
                match Box::pin(register(rpc, &joining.seeds[through], &joining.registration)).await? {
                    Ok(registered) => {
                        tracing::info!(%cluster, node = %registered.1, "joining a cluster");
                        joined(joining, registered)
                    }
                    Err(why) => {
                        say(format!("joining through {}: {why}", joining.seeds[through]));
                        env.tasks.sleep(ROUND_PAUSE).await;
                        continue;
                    }
                }
            }
        };
        identity::write(dir, &identity).map_err(|error| StartError::DataDir {
            path: dir.to_owned(),
            why: format!("cannot write {}: {error}", identity::FILE),
        })?;
        return Ok(identity);
    }
}

/// What a registration gave: the cluster, the node id with its incarnation, and the other brokers.
type Joined = (Uuid, NodeId, ReplicaIncarnation, Vec<KnownBroker>, u32);

/// Looks at the seeds of a broker that is in a cluster already. Those that do not answer soon are left out.
///
/// # Errors
/// One belongs to another cluster; what to do.
pub(super) async fn check(
    env: &Env,
    rpc: &Rpc,
    identity: &Identity,
    me: &Hello,
    seeds: &[String],
) -> Result<(), String> {
    let asked = seeds.iter().map(|seed| async move {
        let late = env.tasks.sleep(CHECKED_WITHIN);
        match select(pin!(ask(rpc, me, seed)), pin!(late)).await {
            Either::Left((Ok(hello), _)) => elsewhere(identity, seed, &hello),
            Either::Left((Err(_), _)) | Either::Right(_) => None,
        }
    });
    match join_all(asked).await.into_iter().flatten().next() {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

/// Why this broker, which does not listen yet, must not start beside a seed; what to do.
fn elsewhere(identity: &Identity, seed: &str, hello: &Hello) -> Option<String> {
    if hello.birth == identity.birth {
        return Some(format!(
            "the broker at {seed} runs on a copy of this data directory, as the same node {}: stop one of them for good; an \
             empty data directory joins the cluster as a broker of its own",
            identity.node
        ));
    }
    let theirs = match hello.state {
        Belonging::Founder { cluster, .. } | Belonging::Member { cluster, .. } => cluster,
        Belonging::Empty => return None,
    };
    (theirs != identity.cluster).then(|| {
        format!(
            "its data directory belongs to cluster {} (as node {}), and the broker at {seed} to cluster {theirs}: correct \
             --seed, or choose the data directory of this cluster with --data-dir (an empty one joins it)",
            identity.cluster, identity.node
        )
    })
}

fn founded(joining: &Joining, cluster: Uuid, founders: Vec<Founder>, node: NodeId) -> Identity {
    Identity { cluster, node: node.0, founders, seeds: joining.seeds.clone(), ..joining.identity.clone() }
}

fn joined(joining: &Joining, (cluster, node, incarnation, known, epoch): Joined) -> Identity {
    let seeds = joining.seeds.clone();
    Identity {
        cluster,
        node: node.0,
        incarnation: incarnation.0,
        seeds,
        known,
        epoch,
        formed: true,
        ..joining.identity.clone()
    }
}

/// The hello of a seed, or why there is none.
pub(super) async fn ask(rpc: &Rpc, me: &Hello, seed: &str) -> Result<Hello, String> {
    let (host, port) = address(seed)?;
    let request = json(&JoinRequest::Hello(me.clone()));
    let answer = Box::pin(rpc.call_address(host, port, Service::Join, request, ANSWER_WITHIN)).await;
    let answer = answer.map_err(|error| match error {
        // The seed's address is named beside it.
        RpcError::Unreachable { why, .. } | RpcError::Refused { why, .. } => why,
        other => other.to_string(),
    })?;
    serde_json::from_slice(&answer).map_err(|error| format!("its answer cannot be read: {error}"))
}

/// Registers through a seed. The inner error is a reason to ask again.
async fn register(rpc: &Rpc, seed: &str, registration: &Registration) -> Result<Result<Joined, String>, StartError> {
    let (host, port) = match address(seed) {
        Ok(address) => address,
        Err(why) => return Ok(Err(why)),
    };
    let request = json(&JoinRequest::Register(registration.clone()));
    let answer = Box::pin(rpc.call_address(host, port, Service::Join, request, REGISTERED_WITHIN)).await;
    let answer = match answer.map_err(|e| e.to_string()) {
        Ok(answer) => answer,
        Err(why) => return Ok(Err(why)),
    };
    match serde_json::from_slice(&answer) {
        Ok(Registered::As { cluster, node, incarnation, known, epoch }) => {
            Ok(Ok((cluster, node, incarnation, known, epoch)))
        }
        Ok(Registered::Later(why)) => Ok(Err(why)),
        Ok(Registered::Refused(why)) => Err(StartError::Cluster(why)),
        Err(error) => Ok(Err(format!("its answer cannot be read: {error}"))),
    }
}

/// `host:port`, as in `--seed`.
pub(super) fn spelled((host, port): &(String, u16)) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Host and port of a seed.
fn address(seed: &str) -> Result<(&str, u16), String> {
    let parts = seed.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.ok_or_else(|| format!("{seed} is not HOST:PORT"))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::brokers::Endpoint;

    fn address() -> BrokerAddress {
        let (endpoints, rpc) = (vec![Endpoint::plain("b", 9092)], Some(("b".to_owned(), 33145)));
        BrokerAddress { endpoints, rpc, rack: None, shards: 1, level: 1 }
    }

    #[test]
    fn a_hello_shows_what_is_durable() {
        let seeds = ["a:1".to_owned(), "b:2".to_owned()];
        let fresh = Identity::unassigned(Uuid::from_u128(5), "tidewater", 1);
        let shown = hello(&fresh, &seeds, &address());
        assert_eq!((shown.birth, shown.state, shown.seeds), (fresh.birth, Belonging::Empty, seeds.to_vec()));
        let founder = Founder { node: NodeId(1), birth: fresh.birth, address: address() };
        let founded = Identity { cluster: Uuid::from_u128(9), node: 1, founders: vec![founder.clone()], ..fresh };
        let cluster = founded.cluster;
        let founders = vec![founder];
        assert_eq!(hello(&founded, &seeds, &address()).state, Belonging::Founder { cluster, founders });
        let formed = Identity { formed: true, ..founded };
        assert_eq!(hello(&formed, &seeds, &address()).state, Belonging::Member { cluster, node: NodeId(1) });
    }

    #[test]
    fn seeds_of_another_cluster_are_named() {
        let identity = Identity::newborn(Uuid::from_u128(7), "tidewater", 1);
        let theirs = Identity::newborn(Uuid::from_u128(8), "tidewater", 1);
        let why = elsewhere(&identity, "b:1", &hello(&theirs, &[], &address())).expect("is refused");
        assert!(why.contains("b:1 to cluster 00000000-0000-0000-0000-000000000008"), "{why}");
        let member = Identity { birth: Uuid::from_u128(6), ..identity.clone() };
        assert_eq!(elsewhere(&identity, "b:1", &hello(&member, &[], &address())), None);
        let why = elsewhere(&identity, "b:1", &hello(&identity, &[], &address())).expect("is refused");
        assert!(why.contains("runs on a copy of this data directory"), "{why}");
        let empty = Identity::unassigned(Uuid::from_u128(5), "tidewater", 1);
        assert_eq!(elsewhere(&identity, "b:1", &hello(&empty, &[], &address())), None);
    }

    #[test]
    fn messages_of_another_version_are_refused_in_words() {
        let why = parse(&Bytes::from_static(b"{\"leave\":{}}")).expect_err("is refused");
        assert!(why.0.contains("use brokers of the same version"), "{why}");
        let asked = JoinRequest::Hello(hello(&Identity::newborn(Uuid::from_u128(7), "a", 1), &[], &address()));
        assert_eq!(parse(&json(&asked)), Ok(asked));
    }
}
