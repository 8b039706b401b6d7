//! Lanes with their replicas, and the connections to other brokers.

use super::samples::{Labels, Sheet, and, label};
use crate::admin::cluster::facts::LaneFacts;
use crate::admin::report::ShardReport;
use crate::rebuild::{RebuildCounts, RebuildFacts};
use crate::rpc::{PeerCounts, RpcCounts};

pub(super) fn fill(sheet: &mut Sheet, shards: &[ShardReport]) {
    lanes(sheet, shards);
    rebuilds(sheet, shards);
    let mut counts = RpcCounts::default();
    shards.iter().for_each(|report| counts.add(&report.rpc));
    peers(sheet, &counts);
    rpc(sheet, &counts);
}

fn of(lane: &LaneFacts) -> Labels {
    label("lane", lane.lane.to_string())
}

fn lanes(sheet: &mut Sheet, shards: &[ShardReport]) {
    let lanes: Vec<&LaneFacts> = shards.iter().flat_map(|report| &report.lanes).collect();
    for (name, help, read) in [
        (
            "tidewater_lane_leads",
            "1 if this broker leads the lane; lane 0 is the controller's",
            (|lane| f64::from(u8::from(lane.leads))) as fn(&LaneFacts) -> f64,
        ),
        ("tidewater_lane_term", "The lane's term; it rises with every election", |lane| lane.term as f64),
        ("tidewater_lane_applied_index", "The last entry of the lane applied on this broker", |lane| {
            lane.applied as f64
        }),
        ("tidewater_lane_voters", "Replicas of the lane that vote", |lane| lane.voters.len() as f64),
        ("tidewater_lane_learners", "Replicas of the lane that are being caught up and do not vote yet", |lane| {
            lane.learners.len() as f64
        }),
    ] {
        sheet.gauges(name, help, lanes.iter().map(|lane| (of(lane), read(lane))).collect());
    }
    let followers = || {
        lanes.iter().flat_map(|lane| {
            lane.followers.iter().map(|follower| (and(of(lane), "broker", follower.node.to_string()), follower))
        })
    };
    sheet.gauges(
        "tidewater_lane_follower_behind_entries",
        "Entries of a lane that this broker leads which a follower is not known to have",
        followers().map(|(labels, follower)| (labels, follower.behind_entries as f64)).collect(),
    );
    sheet.gauges(
        "tidewater_lane_follower_silent_seconds",
        "Time since a follower of a lane that this broker leads last answered",
        followers().filter_map(|(labels, f)| Some((labels, f.silent_ms? as f64 / 1000.0))).collect(),
    );
}

fn rebuilds(sheet: &mut Sheet, shards: &[ShardReport]) {
    let mut now = RebuildFacts::default();
    shards.iter().filter_map(|report| report.rebuild.clone()).for_each(|facts| now.add(facts));
    for (name, help, value) in [
        (
            "tidewater_rebuild_replicas_left",
            "Replicas of this broker that are being copied from their leaders, or wait for it",
            now.replicas - now.replicas_done,
        ),
        (
            "tidewater_rebuild_left_bytes",
            "Bytes of batches that are still to be copied for them, as far as the leaders have counted",
            now.bytes.saturating_sub(now.copied_bytes),
        ),
        (
            "tidewater_rebuild_bucket_bytes",
            "Bytes of batches of the replicas of this rebuild that stay in the bucket and are not copied",
            now.bucket_bytes,
        ),
    ] {
        sheet.gauge(name, help, value as f64);
    }
    let counts = |of: fn(&RebuildCounts) -> u64| shards.iter().map(|report| of(&report.rebuilt)).sum();
    sheet.counter(
        "tidewater_rebuild_replicas_done",
        "Replicas of this broker that were rebuilt from their leaders",
        counts(|counts| counts.replicas),
    );
    sheet.counter(
        "tidewater_rebuild_copied_bytes",
        "Bytes of batches copied from leaders, also for copies that began again",
        counts(|counts| counts.copied_bytes),
    );
}

fn peers(sheet: &mut Sheet, counts: &RpcCounts) {
    let of = |peer: &PeerCounts| label("broker", peer.node.to_string());
    for (name, help, read) in [
        (
            "tidewater_peer_connected",
            "1 if every shard has its connection to the broker",
            (|peer| f64::from(u8::from(peer.connected))) as fn(&PeerCounts) -> f64,
        ),
        ("tidewater_peer_in_flight_bytes", "Bytes of requests to the broker that are not answered", |peer| {
            peer.in_flight_bytes as f64
        }),
        ("tidewater_peer_round_trip_seconds", "Round trip of small requests to the broker, moving average", |peer| {
            peer.rtt_us as f64 / 1e6
        }),
    ] {
        sheet.gauges(name, help, counts.peers.iter().map(|peer| (of(peer), read(peer))).collect());
    }
    for (name, help, read) in [
        ("tidewater_peer_requests", "Requests sent to the broker", (|peer| peer.requests) as fn(&PeerCounts) -> u64),
        ("tidewater_peer_requests_failed", "Requests to the broker that got no answer", |peer| peer.requests_failed),
        ("tidewater_peer_sent_bytes", "Bytes sent to the broker", |peer| peer.sent_bytes),
        ("tidewater_peer_received_bytes", "Bytes of the broker's answers", |peer| peer.received_bytes),
        ("tidewater_peer_connects", "Connections made to the broker", |peer| peer.connects),
        ("tidewater_peer_connects_failed", "Connections to the broker that failed or were refused", |peer| {
            peer.connects_failed
        }),
        ("tidewater_peer_disconnects", "Open connections to the broker that broke", |peer| peer.disconnects),
        ("tidewater_peer_held_back", "Requests to the broker that waited for earlier ones to be answered", |peer| {
            peer.held_back
        }),
    ] {
        sheet.counters(name, help, counts.peers.iter().map(|peer| (of(peer), read(peer))).collect());
    }
}

fn rpc(sheet: &mut Sheet, counts: &RpcCounts) {
    for (name, help, value) in [
        ("tidewater_rpc_requests_received", "Requests of other brokers", counts.requests_received),
        ("tidewater_rpc_requests_refused", "Requests of other brokers that were refused", counts.requests_refused),
        (
            "tidewater_rpc_handshakes_refused",
            "Connections of brokers that were refused, or did not come about",
            counts.handshakes_refused,
        ),
        ("tidewater_rpc_cut_off", "Connections of brokers closed for bytes that make no sense", counts.cut_off),
        ("tidewater_rpc_received_bytes", "Bytes received on connections of other brokers", counts.received_bytes),
        ("tidewater_rpc_answered_bytes", "Bytes of answers to other brokers", counts.sent_bytes),
    ] {
        sheet.counter(name, help, value);
    }
    sheet.gauge(
        "tidewater_rpc_connections_open",
        "Connections of other brokers that are open",
        counts.accepted_open as f64,
    );
    sheet.gauge(
        "tidewater_rpc_requests_in_work",
        "Requests of other brokers that are being carried out",
        counts.requests_in_work as f64,
    );
}
