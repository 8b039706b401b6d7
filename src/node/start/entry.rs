//! Which cluster a starting broker is of: the identity in its data directory, and its way into the cluster of `--seed`.
//!
//! Owns: what a start refuses because of either, how others reach this broker. Does not own: the talk with the seeds
//! ([`join`]).

use std::net::SocketAddr;

use tidewater_storage::model::{NodeId, ReplicaIncarnation, ShardId};
use uuid::Uuid;

use crate::admin::StartStage;
use crate::config::node::NodeConfig;
use crate::controller::brokers::{BrokerAddress, Endpoint, Registration};
use crate::controller::features::CLUSTER_MAX;
use crate::limits::MESH_INBOX_MAX;
use crate::net::listen::Bound;
use crate::node::cores::default_shards;
use crate::node::error::StartError;
use crate::node::identity::{DataDir, Identity};
use crate::node::join::{self, Joining};
use crate::node::on_executor::on_executor;
use crate::node::sockets;
use crate::rpc::{self, Rpc, RpcMember, RpcNode, RpcOptions};
use crate::shard::mesh::Mesh;

/// The identity of this data directory. A fresh one gets its birth id, and without `--seed` a new cluster.
pub(super) fn identify(data: &DataDir, config: &NodeConfig) -> Result<Identity, StartError> {
    let bad = |why: String| StartError::DataDir { path: data.path.clone(), why };
    let cores = std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX));
    let Some(identity) = data.identity()? else {
        let shards = config.shards.unwrap_or_else(|| default_shards(cores));
        let birth = Uuid::new_v4();
        let identity = if config.seeds.is_empty() {
            if let Some(node) = config.replace {
                return Err(bad(format!("--replace {node} needs --seed with the addresses of brokers of the cluster")));
            }
            Identity { birth, ..Identity::newborn(Uuid::new_v4(), &config.cluster_name, shards) }
        } else {
            Identity::unassigned(birth, &config.cluster_name, shards)
        };
        data.make_first(identity.shards)?;
        data.write(&identity)?;
        return Ok(identity);
    };
    if identity.cluster_name != config.cluster_name {
        return Err(bad(format!(
            "it holds the cluster {:?} and --cluster-name asks for {:?}: a cluster cannot be renamed",
            identity.cluster_name, config.cluster_name
        )));
    }
    if let Some(node) = config.replace.filter(|node| identity.is_member() && identity.node != *node) {
        return Err(bad(format!(
            "it is node {} of a cluster, and --replace {node} is for a start with an empty data directory; start it \
             without --replace, or choose another directory with --data-dir",
            identity.node
        )));
    }
    if identity.restoring.is_some() {
        return Err(bad(format!(
            "a restore that prepares it is not complete: run tidewater restore --from {} again with this --data-dir",
            config.bucket
        )));
    }
    data.check_shards(&identity)?;
    if !identity.birth.is_nil() {
        return Ok(identity);
    }
    // Written by a version that knew no other broker.
    let identity = Identity { birth: Uuid::new_v4(), ..identity };
    data.write(&identity)?;
    Ok(identity)
}

/// Brings a data directory that belongs to no cluster into that of `--seed`. Also returns the Kafka socket if its port
/// had to be known for that.
pub(super) fn enter_cluster(
    data: &DataDir,
    identity: Identity,
    config: &NodeConfig,
    stage: &StartStage,
) -> Result<(Identity, Option<Bound>), StartError> {
    if identity.is_member() {
        check_seeds(&identity, config)?;
        return Ok((identity, None));
    }
    if config.seeds.is_empty() {
        let why = "this data directory was started with --seed before and is in no cluster yet: give --seed again, or \
                   choose an empty directory for a cluster of one";
        return Err(StartError::Cluster(why.to_owned()));
    }
    if config.bucket_is_embedded {
        let why = "the brokers of a cluster share one bucket, and without --bucket each has its own: give every broker \
                   the same --bucket";
        return Err(StartError::Cluster(why.to_owned()));
    }
    // Clients are refused until there is a cluster; but a port that the system chooses has to be known to it.
    let held =
        if config.kafka_addr.port() == 0 { Some(sockets::bind("--kafka-addr", config.kafka_addr)?) } else { None };
    let kafka = held.as_ref().map_or(config.kafka_addr, Bound::addr);
    let socket = sockets::bind("--rpc-addr", config.rpc_addr)?.listen()?;
    let address = address_of(config, kafka, socket.addr(), identity.shards);
    let registration =
        Registration { birth: identity.birth, node: None, replaces: config.replace.map(NodeId), address };
    let joining = Joining { identity, seeds: config.seeds.clone(), registration };
    let (node, dir, stage) = (rpc_node(config, &joining.identity)?, data.path.clone(), stage.clone());
    let joined = on_executor(ShardId(0), move |env| async move {
        let rpc = Rpc::new(&env, &node);
        let (arrivals, inboxes) = Mesh::new(1, MESH_INBOX_MAX);
        inboxes.into_iter().for_each(|inbox| rpc.serve_connections(inbox));
        let accepting = rpc::accept(env.clone(), socket.into_listener(), arrivals, node);
        let accepting = env.tasks.spawn("accept brokers", accepting);
        let joined = Box::pin(join::run(&env, &rpc, &dir, &joining, &stage)).await;
        accepting.cancel();
        rpc.stop();
        Ok(joined)
    });
    Ok((joined?.wait()??, held))
}

/// Asks the seeds of a member whether they are in the same cluster.
fn check_seeds(identity: &Identity, config: &NodeConfig) -> Result<(), StartError> {
    if config.seeds.is_empty() {
        return Ok(());
    }
    let options = RpcOptions::load(config, identity.birth).map_err(|error| StartError::Cluster(error.to_string()))?;
    let address = address_of(config, config.kafka_addr, config.rpc_addr, identity.shards);
    let me = join::hello(identity, &config.seeds, &address);
    let (identity, seeds) = (identity.clone(), config.seeds.clone());
    let checked = on_executor(ShardId(0), move |env| async move {
        let rpc = Rpc::new(&env, &RpcNode::new(options));
        let checked = join::check(&env, &rpc, &identity, &me, &seeds).await;
        rpc.stop();
        Ok(checked)
    });
    checked?.wait()?.map_err(StartError::Cluster)
}

/// How other brokers and clients reach this broker.
pub(in crate::node) fn address_of(
    config: &NodeConfig,
    kafka: SocketAddr,
    rpc: SocketAddr,
    shards: u16,
) -> BrokerAddress {
    let (host, port) = config.advertised.clone().unwrap_or_else(|| (kafka.ip().to_string(), kafka.port()));
    let rpc = config.advertised_rpc.clone().unwrap_or_else(|| (rpc.ip().to_string(), rpc.port()));
    BrokerAddress {
        endpoints: vec![Endpoint::plain(&host, port)],
        rpc: Some(rpc),
        rack: config.rack.clone(),
        shards,
        level: CLUSTER_MAX,
    }
}

pub(super) fn rpc_node(config: &NodeConfig, identity: &Identity) -> Result<RpcNode, StartError> {
    let options = RpcOptions::load(config, identity.birth).map_err(|error| StartError::Cluster(error.to_string()))?;
    let node = RpcNode::new(options);
    if identity.is_member() {
        node.set_member(RpcMember {
            cluster: identity.cluster,
            node: NodeId(identity.node),
            incarnation: ReplicaIncarnation(identity.incarnation),
            feature: 0,
        });
    }
    Ok(node)
}
