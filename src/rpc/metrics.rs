//! Counters of the connections between brokers, as a snapshot that a scrape adds up over shards. Messages.

use tidewater_storage::model::NodeId;

/// One shard's counters. Those without a unit in their name count events since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RpcCounts {
    /// Connections of this shard to each peer, by node id.
    pub peers: Vec<PeerCounts>,
    /// Connections of peers that are open now.
    pub accepted_open: u64,
    pub accepted: u64,
    /// Handshakes that this broker refused, or that failed.
    pub handshakes_refused: u64,
    /// Connections of peers that were closed for bytes that make no sense, or for stopping inside a frame.
    pub cut_off: u64,
    pub requests_received: u64,
    /// Requests that a handler refused, or that have no handler.
    pub requests_refused: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Requests whose handlers have not finished now.
    pub requests_in_work: u64,
    /// Memory of frames that are received or in work now.
    pub received_bytes_held: u64,
}

/// The counters of this shard's connections to one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    pub node: NodeId,
    /// The urgent connection is open.
    pub connected: bool,
    /// Connections made, both kinds.
    pub connects: u64,
    /// Attempts that failed or were refused.
    pub connects_failed: u64,
    /// Open connections that broke.
    pub disconnects: u64,
    pub requests: u64,
    /// Requests without an answer: timed out, dropped or lost.
    pub requests_failed: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// `sendmsg` calls that took bytes; frames per write is the measure of gathering.
    pub writes: u64,
    pub frames_sent: u64,
    /// Requests that waited for room below the cap of unanswered bytes.
    pub held_back: u64,
    /// Bytes of requests that are not answered now.
    pub in_flight_bytes: u64,
    /// Moving average of small requests in µs; 0 before the first.
    pub rtt_us: u64,
}

impl RpcCounts {
    /// Adds another shard's counters; peers are joined by node id, a peer is connected if it is on every shard.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.accepted_open, other.accepted_open),
            (&mut self.accepted, other.accepted),
            (&mut self.handshakes_refused, other.handshakes_refused),
            (&mut self.cut_off, other.cut_off),
            (&mut self.requests_received, other.requests_received),
            (&mut self.requests_refused, other.requests_refused),
            (&mut self.received_bytes, other.received_bytes),
            (&mut self.sent_bytes, other.sent_bytes),
            (&mut self.requests_in_work, other.requests_in_work),
            (&mut self.received_bytes_held, other.received_bytes_held),
        ] {
            *mine += theirs;
        }
        for theirs in &other.peers {
            match self.peers.iter_mut().find(|mine| mine.node == theirs.node) {
                Some(mine) => mine.add(theirs),
                None => self.peers.push(theirs.clone()),
            }
        }
    }
}

impl PeerCounts {
    fn add(&mut self, other: &Self) {
        self.connected &= other.connected;
        self.rtt_us = self.rtt_us.max(other.rtt_us);
        for (mine, theirs) in [
            (&mut self.connects, other.connects),
            (&mut self.connects_failed, other.connects_failed),
            (&mut self.disconnects, other.disconnects),
            (&mut self.requests, other.requests),
            (&mut self.requests_failed, other.requests_failed),
            (&mut self.sent_bytes, other.sent_bytes),
            (&mut self.received_bytes, other.received_bytes),
            (&mut self.writes, other.writes),
            (&mut self.frames_sent, other.frames_sent),
            (&mut self.held_back, other.held_back),
            (&mut self.in_flight_bytes, other.in_flight_bytes),
        ] {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_by_peer() {
        let peer =
            |node, connected, connects| PeerCounts { node: NodeId(node), connected, connects, ..PeerCounts::default() };
        let mut sum = RpcCounts { peers: vec![peer(2, true, 1)], accepted: 3, ..RpcCounts::default() };
        sum.add(&RpcCounts { peers: vec![peer(2, false, 4), peer(3, true, 1)], accepted: 1, ..RpcCounts::default() });
        assert_eq!(sum.accepted, 4);
        assert_eq!(sum.peers, [peer(2, false, 5), peer(3, true, 1)]);
    }
}
