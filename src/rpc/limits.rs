//! The hard caps and times of connections between brokers, each with its reason.

use std::time::Duration;

/// Bytes of requests that one peer has not answered, on this shard's bulk connection; further calls wait for answers. A
/// lane sends 1 MiB at a time, so eight lanes keep a peer busy. One larger request is sent alone.
pub(crate) const BULK_BYTES_MAX: usize = 8 << 20;

/// The same on the urgent connection: heartbeats of 10,000 lanes.
pub(crate) const URGENT_BYTES_MAX: usize = 1 << 20;

/// Calls with a larger body use the bulk connection, where they delay no heartbeat.
pub(crate) const URGENT_BODY_MAX: usize = 64 << 10;

/// Frames from this size on are charged to the shard's budget for received bytes.
pub(crate) const CHARGED_MIN: usize = 64 << 10;

/// Bytes of a frame of a broker that is no member of the cluster yet: it asks to join and nothing else, and may not
/// take of the budget for received bytes, which members need.
pub(crate) const STRANGER_BYTES_MAX: usize = CHARGED_MIN - 1;

/// Bytes of charged frames that are being received or whose handlers have not finished, on one shard; beyond it nothing
/// more of them is read. One larger frame is received alone. Entries of 1 MiB from some tens of lanes.
pub(crate) const RECEIVED_BYTES_MAX: usize = 32 << 20;

/// Requests of one connection whose handlers have not finished, calls of services counted [`CALL_WEIGHT`] times; beyond
/// it nothing is read from it.
pub(crate) const IN_WORK_MAX: usize = 4096;

/// The answer to a replica is small; that to a call may have a megabyte.
pub(crate) const CALL_WEIGHT: usize = 32;

/// Bytes of answers that a peer does not read; beyond it, nothing is read from its connection.
pub(crate) const ANSWERS_MAX: usize = 8 << 20;

/// Connections of peers to this broker, with those in their handshake. 2 for each shard of each peer: 64 peers of 16
/// shards fit in.
pub(crate) const ACCEPTED_MAX: usize = 2048;

/// From the first byte to the accepted proof, on both sides. A peer that is stopped answers after it.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(3);

/// For one address of a peer. SYN is sent again after a second.
pub(crate) const CONNECT_MAX: Duration = Duration::from_millis(1500);

/// For a name server.
pub(crate) const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// Threads that wait for a name server at the same time.
pub(crate) const RESOLVERS_MAX: usize = 16;

/// Between attempts to connect: doubled from the first to the second, each shortened at random by up to half.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// After a refusal, which only an operator ends.
pub(crate) const BACKOFF_REFUSED: Duration = Duration::from_secs(3);

/// A connection that was open for less than this counts as a failed attempt.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Sent bytes without acknowledgement for this long end a connection (TCP_USER_TIMEOUT). After a cut of the network TCP
/// sends again at doubling intervals; a new connection is there sooner.
pub(crate) const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);

/// TCP keepalive: a peer whose network went while nothing was under way is found in a minute.
pub(crate) const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// A part of a frame stays without its rest for this long before the connection is cut off.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(20);

/// A process of the same node id that was heard within this time keeps another one out.
pub(crate) const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Between log lines about the same peer or address.
pub(crate) const LOG_EVERY: Duration = Duration::from_secs(30);
