//! This broker towards others, for all of its shards: what it says about itself in a handshake, and which process of
//! each peer is connected. Node-wide.
//!
//! The lock is taken at a handshake and when a connection ends.
//!
//! Two processes with the same node id differ in the number that each draws at its start. While one of them is
//! connected and was heard lately, the other is refused: it runs on a copy of a data directory. Otherwise the newer one
//! counts, and the connections of the older one are closed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tidewater_storage::env::clock;
use tidewater_storage::model::{NodeId, ReplicaIncarnation, ShardId};
use uuid::Uuid;

use super::handshake::{Hello, MemberOf, PROTOCOLS};
use super::limits::{ACCEPTED_MAX, HEARD_WITHIN};
use super::options::{RpcOptions, Secret, Tls};

/// The highest feature level that this binary knows.
pub const FEATURE_MAX: u16 = 2;

/// This broker's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RpcMember {
    pub cluster: Uuid,
    pub node: NodeId,
    /// Of the node id: another one for each data directory that had it.
    pub incarnation: ReplicaIncarnation,
    /// Finalized in the cluster.
    pub feature: u16,
}

/// See the header. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RpcNode {
    inner: Arc<NodeState>,
}

#[derive(Debug)]
struct NodeState {
    options: RpcOptions,
    run: u64,
    member: Mutex<Option<RpcMember>>,
    processes: Mutex<BTreeMap<NodeId, Process>>,
    accepted: AtomicUsize,
}

/// The process of a peer that counts.
#[derive(Debug)]
struct Process {
    shared: Arc<ProcessState>,
    open: usize,
}

#[derive(Debug)]
struct ProcessState {
    run: u64,
    /// Wall clock, ms.
    heard: AtomicI64,
    /// 1: another process counts now.
    replaced: AtomicU64,
}

/// A connection of a peer's process, until dropped.
#[derive(Debug)]
pub(super) struct Admission {
    node: RpcNode,
    peer: NodeId,
    process: Arc<ProcessState>,
}

/// An accepted connection in the count of all, until dropped.
#[derive(Debug)]
pub(super) struct Seat {
    node: RpcNode,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that no peer can foresee.
fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).expect("the system has random numbers");
    out
}

impl RpcNode {
    /// Of a broker that is not a member of a cluster yet.
    #[must_use]
    pub fn new(options: RpcOptions) -> Self {
        let inner = NodeState {
            options,
            run: u64::from_be_bytes(random()),
            member: Mutex::default(),
            processes: Mutex::default(),
            accepted: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on handshakes say so. Connections made before stay as they are.
    pub fn set_member(&self, member: RpcMember) {
        *lock(&self.inner.member) = Some(member);
    }

    #[must_use]
    pub fn member(&self) -> Option<RpcMember> {
        *lock(&self.inner.member)
    }

    pub(super) fn secret(&self) -> Option<&Secret> {
        self.inner.options.secret.as_ref()
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.inner.options.tls.as_ref()
    }

    /// What this broker says of itself now, with a fresh nonce.
    pub(super) fn hello(&self, expects: Option<NodeId>, shard: ShardId) -> Hello {
        let member = self.member();
        Hello {
            protocols: PROTOCOLS,
            nonce: random(),
            birth: self.inner.options.birth,
            run: self.inner.run,
            member: member.map(|of| MemberOf { cluster: of.cluster, node: of.node, incarnation: of.incarnation }),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            feature: member.map_or(0, |of| of.feature),
            feature_max: FEATURE_MAX,
            expects,
            has_secret: self.secret().is_some(),
            shard: shard.0,
        }
    }

    /// Counts an accepted connection; `None` when there are too many.
    pub(super) fn seat(&self) -> Option<Seat> {
        let seat = Seat { node: self.clone() };
        (self.inner.accepted.fetch_add(1, Ordering::Relaxed) < ACCEPTED_MAX).then_some(seat)
    }

    /// Registers a connection of a member's process; the words refuse it.
    pub(super) fn admit(&self, peer: NodeId, theirs: &Hello) -> Result<Admission, String> {
        let now = clock::wall().0;
        let mut processes = lock(&self.inner.processes);
        if let Some(known) = processes.get_mut(&peer) {
            if known.shared.run == theirs.run {
                known.open += 1;
                known.shared.heard.store(now, Ordering::Relaxed);
                return Ok(Admission { node: self.clone(), peer, process: Arc::clone(&known.shared) });
            }
            let silent = now - known.shared.heard.load(Ordering::Relaxed);
            if known.open > 0 && (0..HEARD_WITHIN.as_millis() as i64).contains(&silent) {
                return Err(format!(
                    "another process is connected as broker {peer} (birth id {}) and was heard {silent} ms ago: two \
                     brokers run on copies of one data directory; stop one of them, for good",
                    theirs.birth
                ));
            }
            known.shared.replaced.store(1, Ordering::Relaxed);
        }
        let process =
            Arc::new(ProcessState { run: theirs.run, heard: AtomicI64::new(now), replaced: AtomicU64::new(0) });
        processes.insert(peer, Process { shared: Arc::clone(&process), open: 1 });
        Ok(Admission { node: self.clone(), peer, process })
    }
}

impl Admission {
    /// Bytes came from it. False: another process of the peer counts now, and this connection is to be closed.
    pub(super) fn heard(&self) -> bool {
        self.process.heard.store(clock::wall().0, Ordering::Relaxed);
        self.process.replaced.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut processes = lock(&self.node.inner.processes);
        if let Some(known) = processes.get_mut(&self.peer)
            && Arc::ptr_eq(&known.shared, &self.process)
        {
            debug_assert!(known.open > 0, "a connection is counted out once");
            known.open = known.open.saturating_sub(1);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.node.inner.accepted.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> RpcNode {
        RpcNode::new(RpcOptions::plain(Uuid::from_u128(1), None))
    }

    #[test]
    fn a_second_process_of_a_node_waits_until_the_first_is_gone() {
        let here = node();
        let hello = |run| Hello { run, ..node().hello(None, ShardId(0)) };
        let one = here.admit(NodeId(2), &hello(1)).expect("the first");
        let again = here.admit(NodeId(2), &hello(1)).expect("its other connection");
        let words = here.admit(NodeId(2), &hello(2)).expect_err("a copy");
        assert!(words.contains("two brokers run on copies of one data directory"), "{words}");
        drop(one);
        assert!(here.admit(NodeId(2), &hello(2)).is_err());
        drop(again);
        let other = here.admit(NodeId(2), &hello(2)).expect("a restart");
        // Silent for long: a machine that lost its power. The restarted process counts, the old connection does not.
        other.process.heard.store(0, Ordering::Relaxed);
        let third = here.admit(NodeId(2), &hello(3)).expect("the old one is silent");
        assert!(!other.heard() && third.heard());
        drop(other);
        assert!(here.admit(NodeId(2), &hello(4)).is_err(), "the old connection is not counted twice");
    }

    #[test]
    fn accepted_connections_are_counted() {
        let here = node();
        let seats: Vec<_> = (0..ACCEPTED_MAX).map(|_| here.seat().expect("room")).collect();
        assert!(here.seat().is_none());
        drop(seats);
        assert_eq!(here.inner.accepted.load(Ordering::Relaxed), 0);
    }
}
