//! Sources: how far behind the lanes are that this broker follows, and what following costs.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::samples::{Labels, Sheet, and, label};
use crate::admin::report::ShardReport;
use crate::controller::image::ClusterImage;
use crate::replica::facts::{FollowedLaneFacts, ReplicaFacts};

pub(super) fn fill(sheet: &mut Sheet, image: &ClusterImage, shards: &[ShardReport]) {
    let mut facts = ReplicaFacts::default();
    shards.iter().for_each(|report| facts.add(report.replicas.clone()));
    let names: BTreeMap<Uuid, String> =
        image.sources.iter().map(|(id, record)| (id.0, record.spec.name.to_string())).collect();
    let source = |id: &Uuid| names.get(id).map(|name| label("source", name.clone()));
    let lane = |lane: &FollowedLaneFacts| Some(and(source(&lane.source)?, "lane", lane.lane.to_string()));
    let rows = |read: &dyn Fn(&FollowedLaneFacts) -> Option<f64>| -> Vec<(Labels, f64)> {
        facts.lanes.iter().filter_map(|of| Some((lane(of)?, read(of)?))).collect()
    };
    sheet.gauges(
        "tidewater_replica_lag_seconds",
        "How far behind the source's bucket a followed lane may be; what the source has not archived yet is not in it",
        rows(&|lane| lane.lag_ms.map(|ms| ms as f64 / 1000.0)),
    );
    sheet.gauges(
        "tidewater_replica_failing",
        "1 while a followed lane cannot be read; tidewater replica describe shows the reason",
        rows(&|lane| Some(f64::from(u8::from(lane.reason.is_some())))),
    );
    let requests = facts.lanes.iter().filter_map(|of| Some((lane(of)?, of.requests)));
    sheet.counters(
        "tidewater_replica_requests",
        "Requests to a source's bucket that follow a lane; reads of records are not among them",
        requests.collect(),
    );
    let hourly = facts.sources.iter().filter_map(|of| Some((source(&of.source)?, of.requests_per_hour as f64)));
    sheet.gauges(
        "tidewater_replica_requests_per_hour",
        "All requests of this broker to a source's bucket in the last hour, or as many as that would be",
        hourly.collect(),
    );
}
